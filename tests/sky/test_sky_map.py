from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lsst.images import Box
from lsst.images.serialization import read_archive, write_archive
from lsst.sphgeom import Angle, Circle, LonLat, UnitVector3d

from secondlight.sky.sky_map import RingsSkyMap, RingsSkyMapConfig
from secondlight.sky.tract import TractGrid


def make_map(**kwargs: object) -> RingsSkyMap:
    return RingsSkyMap(RingsSkyMapConfig(**kwargs))


HSC = make_map(numRings=120, pixelScale=0.168, tractOverlap=1 / 60)
DC2 = make_map(numRings=120, pixelScale=0.2, tractOverlap=1 / 60)
SMALL = make_map(
    numRings=3, pixelScale=36.0, patchInnerDimensions=[1000, 800], raStart=10.0, tractOverlap=4.0
)


def slow_tract(sky_map: RingsSkyMap, ra: float, dec: float) -> int:
    """The published rule, for one position."""
    n_rings, size = sky_map.config.numRings, math.pi / (sky_map.config.numRings + 1)
    first = 0.5 * size - 0.5 * math.pi
    counts = []
    for ring in range(n_rings):
        low = first + ring * size
        counts.append(int(2 * math.pi * math.cos(min(abs(low), abs(low + size))) / size) + 1)
    if math.radians(dec) < first:
        return 0
    ring = int((math.radians(dec) - first) / size)
    if ring >= n_rings:
        return sum(counts) + 1
    turn = math.radians(ra - sky_map.config.raStart) % (2 * math.pi)
    return 1 + sum(counts[:ring]) + int(turn / (2 * math.pi / counts[ring]) + 0.5) % counts[ring]


def test_known_tracts_of_public_surveys() -> None:
    assert len(HSC) == 18938
    assert HSC.find_tract(150.116, 2.2).id == 9813
    assert HSC.n_patches == (9, 9)
    cosmos = HSC[9813]
    assert (cosmos.ra, cosmos.dec) == pytest.approx((150.2479, 2.2314), abs=1e-4)
    assert cosmos.wcs.wcs.crpix.tolist() == [18000.0, 18000.0]
    assert cosmos.bbox == Box.factory[0:36000, 0:36000]
    assert DC2.n_patches == (7, 7)
    tract = DC2[3828]
    assert (tract.ra, tract.dec) == pytest.approx((56.65, -36.446), abs=1e-3)


def test_polar_caps_are_first_and_last() -> None:
    assert SMALL.find_tract(123.0, -90.0).id == 0
    assert SMALL.find_tract(123.0, 90.0).id == len(SMALL) - 1
    assert (SMALL[0].dec, SMALL[len(SMALL) - 1].dec) == (-90.0, 90.0)
    assert SMALL[1].ra == pytest.approx(10.0)
    for wrong in (-1, len(SMALL)):
        with pytest.raises(IndexError, match="tracts 0"):
            SMALL[wrong]


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 360), st.floats(-90, 90), st.sampled_from([HSC, SMALL, make_map(numRings=1)]))
def test_tract_lookup_follows_the_rule_and_its_region(ra: float, dec: float, sky_map: RingsSkyMap) -> None:
    tract = sky_map.find_tract(ra, dec)
    assert tract.id == slow_tract(sky_map, ra, dec)
    assert sky_map.find_tract_ids(np.array([ra]), np.array([dec])).tolist() == [tract.id]
    inside = tract.inner_region.dilatedBy(Angle.fromDegrees(1e-9))
    assert inside.contains(UnitVector3d(LonLat.fromDegrees(ra, dec)))


@pytest.mark.parametrize("sky_map", [SMALL, make_map(numRings=1), make_map(numRings=17, raStart=-33.0)])
def test_every_centre_is_in_its_own_tract(sky_map: RingsSkyMap) -> None:
    tracts = [sky_map[i] for i in range(len(sky_map))]
    found = sky_map.find_tract_ids([t.ra for t in tracts], [t.dec for t in tracts])
    np.testing.assert_array_equal(found, np.arange(len(sky_map)))
    for tract in tracts[:: max(1, len(tracts) // 20)]:
        assert tract.inner_contains(np.array([tract.ra]), np.array([tract.dec])).all()
        assert tract.outer_contains(np.array([tract.ra]), np.array([tract.dec])).all()


def test_inner_regions_tile_the_sky() -> None:
    rng = np.random.default_rng(8)
    ra, dec = rng.uniform(0, 360, 2000), np.degrees(np.arcsin(rng.uniform(-1, 1, 2000)))
    inside = np.array([SMALL[i].inner_contains(ra, dec) for i in range(len(SMALL))])
    np.testing.assert_array_equal(inside.sum(axis=0), 1)
    np.testing.assert_array_equal(inside.argmax(axis=0), SMALL.find_tract_ids(ra, dec))
    outside = np.array([SMALL[i].outer_contains(ra, dec) for i in range(len(SMALL))])
    assert np.all(outside[inside])
    assert outside.sum() > inside.sum()


def test_positions_that_are_not_numbers() -> None:
    ra, dec = np.array([np.nan, 1.0, 1.0]), np.array([1.0, np.inf, 1.0])
    assert SMALL.find_tract_ids(ra, dec).tolist()[:2] == [-1, -1]
    tract = SMALL.find_tract(1.0, 1.0)
    for contains in (tract.inner_contains, tract.outer_contains):
        assert contains(ra, dec).tolist() == [False, False, True]
    assert tract.find_patch_ids(ra, dec)[0] == -1
    with pytest.raises(ValueError, match="No tract at RA nan"):
        SMALL.find_tract(np.nan, 0.0)


def test_projection_is_upright_with_east_on_the_left() -> None:
    wcs = DC2[3828].wcs
    x, y = wcs.wcs_world2pix(DC2[3828].ra + np.array([0, 0.01, 0]), DC2[3828].dec + np.array([0, 0, 0.01]), 0)
    np.testing.assert_allclose([x[0], y[0]], [13999.0, 13999.0], atol=1e-6)
    assert x[1] < x[0] - 100
    assert y[2] == pytest.approx(y[0] + 180.0, abs=1e-3)
    assert x[2] == pytest.approx(x[0], abs=1e-6)


@pytest.mark.parametrize("rotation", [0.0, 30.0, 45.0, 90.0, 200.0])
def test_rotation_turns_the_y_axis_to_the_east_and_keeps_the_tract_covered(rotation: float) -> None:
    config = {"numRings": 17, "pixelScale": 2.0, "tractOverlap": 0.5, "patchInnerDimensions": [50, 50]}
    tract, upright = make_map(rotation=rotation, **config)[100], make_map(**config)[100]
    x0, y0 = tract.wcs.wcs_world2pix(tract.ra, tract.dec, 0)
    ra, dec = tract.wcs.wcs_pix2world(x0, y0 + 100, 0)
    angle = np.degrees(np.arctan2((ra - tract.ra) * np.cos(np.radians(tract.dec)), dec - tract.dec)) % 360
    assert angle == pytest.approx(rotation, abs=0.05)
    reach = np.degrees(np.tan(np.radians(90 / 18 + 0.5))) * 3600 / 2.0 - 1
    x = upright.grid.tangent_pixel[0] + reach * np.array([-1, 1, 1, -1, 0])
    y = upright.grid.tangent_pixel[1] + reach * np.array([-1, -1, 1, 1, 1])
    assert tract.outer_contains(*upright.wcs.wcs_pix2world(x, y, 0)).all()


def test_patches_tile_the_tract() -> None:
    tract = SMALL[7]
    (n_x, n_y), covered = tract.grid.n_patches, np.zeros(tract.bbox.shape, dtype=np.int8)
    patches = list(tract.patches())
    assert [p.id for p in patches] == list(range(n_x * n_y))
    for patch in patches:
        assert patch.id == patch.y * n_x + patch.x
        inner, outer = patch.inner_bbox, patch.outer_bbox
        covered[inner.y.start : inner.y.stop, inner.x.start : inner.x.stop] += 1
        assert (inner.x.size, inner.y.size) == (1000, 800)
        assert outer.x.start == max(inner.x.start - 100, 0)
        assert outer.y.stop == min(inner.y.stop + 100, tract.bbox.y.stop)
    assert (covered == 1).all()
    assert tract.patch(n_x) == patches[n_x]
    with pytest.raises(IndexError, match="Tract 7 has patches"):
        tract.patch(n_x * n_y)


def test_patch_regions_hold_their_pixels() -> None:
    tract = SMALL[7]
    patch = tract.patch(tract.grid.n_patches[0] + 1)
    inner, outer = patch.inner_bbox, patch.outer_bbox
    x = np.array([inner.x.start, outer.x.start, outer.x.start - 1.0])
    y = np.full(3, (inner.y.start + inner.y.stop) / 2)
    ra, dec = tract.wcs.wcs_pix2world(x, y, 0)
    assert patch.inner_polygon.contains(np.radians(ra), np.radians(dec)).tolist() == [True, False, False]
    assert patch.outer_polygon.contains(np.radians(ra), np.radians(dec)).tolist() == [True, True, False]
    assert tract.find_patch_ids(ra, dec).tolist() == [patch.id, patch.id - 1, patch.id - 1]


def test_grid_covers_the_square_with_whole_patches() -> None:
    grid = TractGrid.covering(
        half_size=0.5, pixel_scale=10.0, rotation=0.0, patch_inner=(100, 150), patch_border=5
    )
    # tan(0.5 deg) is 180.0046 pixels of 10 arcsec: pixels -180..180 hold it, so 361 pixels are needed.
    assert grid.n_patches == (4, 3)
    assert grid.bbox == Box.factory[0:450, 0:400]
    assert grid.tangent_pixel == (180 + 19, 180 + 44)


def test_sky_projection_agrees_with_the_wcs() -> None:
    tract = DC2[3828]
    projection = tract.sky_projection("DC2")
    assert projection.pixel_frame.tract == 3828
    x, y = np.array([0.0, 12345.6]), np.array([27999.0, 4.5])
    sky = projection.pixel_to_sky(x=x, y=y)
    ra, dec = tract.wcs.wcs_pix2world(x, y, 0)
    np.testing.assert_allclose(sky.ra.deg, ra, atol=1e-10)
    np.testing.assert_allclose(sky.dec.deg, dec, atol=1e-10)


def test_equality_is_that_of_the_parameters() -> None:
    assert make_map(numRings=3) == make_map(numRings=3)
    assert hash(make_map(numRings=3)) == hash(make_map(numRings=3))
    assert make_map(numRings=3) != make_map(numRings=3, raStart=1.0)
    assert make_map(numRings=3).sha1 != make_map(numRings=3, patchBorder=1).sha1
    assert make_map(numRings=3) != "rings"


def test_later_changes_of_the_config_have_no_effect() -> None:
    config = RingsSkyMapConfig(numRings=3)
    sky_map = RingsSkyMap(config)
    config.numRings = 5
    assert sky_map == make_map(numRings=3)


def test_stored_form_gives_the_same_map(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    write_archive(SMALL, str(path))
    assert read_archive(str(path), RingsSkyMap) == SMALL


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"numRings": 0},
        {"numRings": 3, "pixelScale": 0.0},
        {"numRings": 3, "patchInnerDimensions": [4000]},
        {"numRings": 1, "tractOverlap": 60.0},
    ],
)
def test_impossible_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"numRings|pixelScale|patchInnerDimensions|tractOverlap"):
        make_map(**wrong)


@pytest.mark.parametrize(
    ("ra", "dec"), [(351.65, 0.1), (0.01, -0.7), (123.0, 88.9), (200.0, -89.9), (77.0, 45.0)]
)
@pytest.mark.parametrize("radius", [0.05, 2.0])
def test_overlapping_tracts_are_those_whose_polygon_meets_the_region(
    ra: float, dec: float, radius: float
) -> None:
    sky_map = RingsSkyMap(RingsSkyMapConfig(numRings=20, tractOverlap=0.5))
    region = Circle(UnitVector3d(LonLat.fromDegrees(ra, dec)), Angle.fromDegrees(radius))
    expected = [i for i in range(len(sky_map)) if sky_map[i].outer_polygon.overlaps(region) is not False]
    assert sky_map.find_overlapping([region]) == expected
    assert sky_map.find_tract(ra, dec).id in expected
