"""Which sources get the flags of the calibration stars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import astropy.table
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsst.images import Box

from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.sky.matching import match_pairs
from secondlight.tasks._calib_stars import PSF_FLAGS, flag_calib_sources
from tests.parity.pack import load_pack
from tests.scenes import make_sky_projection

RADIUS = 0.2
ARCSEC = 1 / 3600
FLAGS = ("calib_psf_candidate", "calib_psf_used", "calib_psf_reserved")


def make_sources(
    ra: Sequence[float],
    dec: Sequence[float],
    *,
    n_child: Sequence[int] = (0,),
    sky: Sequence[bool] = (False,),
) -> SourceCatalog:
    """Return sources at positions in degrees."""
    schema = minimal_source_schema()
    schema.add("deblend_nChild", np.int32, "number of children")
    schema.add_flag("sky_source", "empty sky")
    for name in PSF_FLAGS:
        schema.add_flag(name, "flag")
    sources = SourceCatalog(schema, len(ra))
    sources["id"] = np.arange(len(ra)) + 1
    sources["coord_ra"], sources["coord_dec"] = np.radians(ra), np.radians(dec)
    sources["deblend_nChild"] = n_child
    sources["sky_source"] = sky
    return sources


def make_stars(ra: Sequence[float], dec: Sequence[float], **columns: Any) -> astropy.table.Table:
    """Return stars of detector 4 at positions in degrees, all of them candidates and used."""
    table = astropy.table.Table({"detector": np.full(len(ra), 4)})
    table["coord_ra"], table["coord_dec"] = np.radians(ra), np.radians(dec)
    for name in FLAGS:
        table[name] = np.full(len(ra), name != "calib_psf_reserved")
    for name, values in columns.items():
        table[name] = values
    return table


def flagged(sources: SourceCatalog, stars: astropy.table.Table, **options: Any) -> list[int]:
    """Return the rows that are calibration stars."""
    flag_calib_sources(sources, stars, detector=4, radius_arcsec=RADIUS, **options)
    return np.flatnonzero(sources["calib_psf_candidate"]).tolist()


def test_flags_go_to_the_right_one_of_two_close_stars() -> None:
    """Two stars half an arcsecond apart, each with its own flags."""
    sources = make_sources([10.0, 10.0], [5.0, 5.0 + 0.5 * ARCSEC])
    stars = make_stars(
        [10.0, 10.0],
        [5.0 + 0.45 * ARCSEC, 5.0 + 0.04 * ARCSEC],
        calib_psf_used=[True, False],
        calib_psf_reserved=[False, True],
    )
    assert flagged(sources, stars) == [0, 1]
    assert sources["calib_psf_used"].tolist() == [False, True]
    assert sources["calib_psf_reserved"].tolist() == [True, False]


def test_two_sources_within_the_radius_of_one_star() -> None:
    sources = make_sources([10.0, 10.0], [5.0, 5.0 + 0.15 * ARCSEC])
    assert flagged(sources, make_stars([10.0], [5.0 + 0.1 * ARCSEC])) == [1]


def test_two_stars_within_the_radius_of_one_source() -> None:
    """The nearer one counts, whatever the order."""
    for used in ([True, False], [False, True]):
        sources = make_sources([10.0], [5.0])
        stars = make_stars([10.0, 10.0], [5.0 + 0.1 * ARCSEC, 5.0 - 0.05 * ARCSEC], calib_psf_used=used)
        assert flagged(sources, stars) == [0]
        assert sources["calib_psf_used"].tolist() == [used[1]]


@pytest.mark.parametrize(("distance", "found"), [(0.19, [0]), (0.21, []), (0.5, []), (11.0, [])])
def test_the_radius_is_in_seconds_of_arc(distance: float, found: list[int]) -> None:
    """A star whose own source is missing flags no other; 11.46 arcsec are what mixed-up units would allow."""
    assert flagged(make_sources([10.0], [5.0 + distance * ARCSEC]), make_stars([10.0], [5.0])) == found
    # The same along the parallel, where it is longer in right ascension.
    ra = 10.0 + distance * ARCSEC / np.cos(np.radians(60.0))
    assert flagged(make_sources([ra], [60.0]), make_stars([10.0], [60.0])) == found


@pytest.mark.parametrize(("first", "second"), [(0.0, 360.0), (359.99998, 0.00002), (-0.00002, 0.00002)])
def test_right_ascension_begins_anew_after_a_turn(first: float, second: float) -> None:
    assert flagged(make_sources([first], [0.0]), make_stars([second], [0.0])) == [0]
    assert flagged(make_sources([first + 60 * ARCSEC], [0.0]), make_stars([second], [0.0])) == []


@pytest.mark.parametrize("pole", [-1, 1])
def test_right_ascension_means_little_near_a_pole(pole: int) -> None:
    """Positions on either side of the pole are 0.14 arcsec apart, with 180 degrees between them."""
    dec = pole * (90 - 0.07 * ARCSEC)
    assert flagged(make_sources([20.0], [dec]), make_stars([200.0], [dec])) == [0]
    farther = pole * (90 - 0.2 * ARCSEC)
    assert flagged(make_sources([20.0], [farther]), make_stars([200.0], [farther])) == []


def test_the_child_is_flagged_not_its_parent() -> None:
    """The parent sits where its brightest child does, and nearer to the star."""
    sources = make_sources([10.0] * 3, [5.0, 5.0 + 0.05 * ARCSEC, 5.001], n_child=[2, 0, 0])
    assert flagged(sources, make_stars([10.0], [5.0])) == [1]


def test_a_blend_left_whole_is_no_parent() -> None:
    assert flagged(make_sources([10.0], [5.0], n_child=[0]), make_stars([10.0], [5.0])) == [0]


def test_empty_sky_is_no_star() -> None:
    sources = make_sources([10.0, 10.0], [5.0, 5.0 + 0.1 * ARCSEC], sky=[True, False])
    assert flagged(sources, make_stars([10.0], [5.0])) == [1]


@pytest.mark.parametrize("column", ["id", "sourceId"])
def test_a_star_twice_in_the_table_flags_one_source(column: str) -> None:
    """Its first row counts, also where the second is at another source."""
    sources = make_sources([10.0, 11.0, 12.0], [5.0] * 3)
    stars = make_stars([10.0, 11.0, 12.0], [5.0] * 3, **{column: [7, 7, 8]})
    match = flag_calib_sources(sources, stars, detector=4, radius_arcsec=RADIUS)
    assert np.flatnonzero(sources["calib_psf_candidate"]).tolist() == [0, 2]
    assert match == (3, 1, 2)


def test_ids_that_are_not_known_are_not_the_same_star() -> None:
    sources = make_sources([10.0, 11.0], [5.0] * 2)
    assert flagged(sources, make_stars([10.0, 11.0], [5.0] * 2, id=[0, 0])) == [0, 1]


def test_stars_of_another_detector_do_not_count() -> None:
    sources = make_sources([10.0], [5.0])
    stars = make_stars([10.0, 11.0], [5.0, 5.0], detector=[5, 4])
    assert flag_calib_sources(sources, stars, detector=4, radius_arcsec=RADIUS) == (1, 0, 0)
    assert flag_calib_sources(sources, stars, detector=5, radius_arcsec=RADIUS) == (1, 0, 1)


@pytest.mark.parametrize("ra", [[], [np.nan, np.nan]])
def test_no_stars(ra: list[float]) -> None:
    """Flags from before are cleared."""
    sources = make_sources([10.0], [5.0])
    sources["calib_psf_used"] = True
    stars = make_stars(ra, [5.0] * len(ra))
    assert flag_calib_sources(sources, stars, detector=4, radius_arcsec=RADIUS) == (len(ra), 0, 0)
    assert not sources["calib_psf_used"].any()


def test_no_sources() -> None:
    match = flag_calib_sources(
        make_sources([], []), make_stars([10.0], [5.0]), detector=4, radius_arcsec=RADIUS
    )
    assert match == (1, 0, 0)


def test_coordinates_that_are_no_numbers_match_nothing() -> None:
    sources = make_sources([10.0, np.nan, 12.0], [5.0, 5.0, np.nan])
    stars = make_stars([10.0, 12.0, np.nan], [5.0, np.nan, 5.0])
    assert flagged(sources, stars) == [0]


def test_other_units_and_masked_values() -> None:
    sources = make_sources([10.0, 11.0, 12.0], [5.0] * 3)
    stars = make_stars([10.0, 11.0, 12.0], [5.0] * 3)
    for name in ("coord_ra", "coord_dec"):
        stars[name] = astropy.table.MaskedColumn(np.degrees(stars[name]), unit="deg")
    stars["coord_ra"].mask = [False, True, False]
    used = astropy.table.MaskedColumn([True, True, True], mask=[False, False, True])
    stars["calib_psf_used"] = used
    assert flagged(sources, stars) == [0, 2]
    assert sources["calib_psf_used"].tolist() == [True, False, False]


def test_a_new_astrometric_solution_does_not_part_stars_from_sources() -> None:
    """Positions in pixels count where the table has them; its coordinates are those of the first pass."""
    box = Box.factory[0:100, 0:100]
    projection = make_sky_projection(box, ra=10.0, dec=5.0)
    x, y = np.array([20.0, 50.0, 80.0]), np.array([30.0, 60.0, 10.0])
    sky = projection.pixel_to_sky(x=x, y=y)
    sources = make_sources(sky.ra.deg, sky.dec.deg)
    stars = make_stars(sky.ra.deg, sky.dec.deg + 0.5 * ARCSEC)
    assert flagged(sources, stars, wcs=projection) == []
    stars["coord_dec"][2] -= np.radians(0.5 * ARCSEC)
    stars["slot_Centroid_x"], stars["slot_Centroid_y"] = x, y
    stars["slot_Centroid_x"][2] = np.nan  # this one has to do with its coordinates
    assert flagged(sources, stars) == [2]
    assert flagged(sources, stars, wcs=projection) == [0, 1, 2]


positions = st.lists(
    st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)), min_size=1, max_size=8, unique=True
).map(lambda pairs: np.array(pairs).T * ARCSEC)


@given(positions, positions)
def test_one_star_one_source(source: np.ndarray, star: np.ndarray) -> None:
    """As many sources are flagged as stars matched, and each has a star within the radius."""
    sources = make_sources(10.0 + source[0], source[1])
    stars = make_stars(10.0 + star[0], star[1])
    match = flag_calib_sources(sources, stars, detector=4, radius_arcsec=RADIUS)
    rows = np.flatnonzero(sources["calib_psf_candidate"])
    assert len(rows) == match.n_matched <= min(len(sources), len(stars))
    distance = np.hypot(*(source[:, :, None] - star[:, None, :])) / ARCSEC
    assert (distance[rows].min(axis=1) <= RADIUS * (1 + 1e-6)).all()
    assert match.n_matched > 0 or distance.min() > RADIUS * (1 - 1e-6)


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "false_flags"), [("A", 9), ("B", 12)])
def test_calibration_stars_of_the_parity_packs(data_dir: Path, name: str, false_flags: int) -> None:
    """The reference flags sources that have no calibration star; we do not."""
    pack = load_pack(data_dir, name)
    sources = pack.sources.copy()
    reference = sources["calib_psf_candidate"].copy()
    stars = pack.calib_sources
    flag_calib_sources(sources, stars, detector=pack.detector, radius_arcsec=RADIUS)
    near, _, _ = match_pairs(
        *(np.degrees(sources[f"coord_{axis}"]) for axis in ("ra", "dec")),
        *(np.degrees(np.asarray(stars[f"coord_{axis}"])) for axis in ("ra", "dec")),
        RADIUS,
    )
    has_star = np.isin(np.arange(len(sources)), near)
    ours = sources["calib_psf_candidate"]
    assert (reference & ~has_star).sum() == false_flags
    assert not (ours & ~has_star).any()
    assert not (ours & (sources["deblend_nChild"] > 0)).any()
    childless = has_star & (sources["deblend_nChild"] == 0)
    assert ours.sum() > 0.95 * childless.sum()
