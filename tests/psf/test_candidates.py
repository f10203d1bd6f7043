"""Cut-outs of PSF stars."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lsst.images import VisitImage

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.mask_planes import plane_name
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.psf.candidates import MakePsfCandidatesTask, _neighbours, blend_footprints, cut_stamps

from ..scenes import make_visit_image

X0, Y0 = 500, 300


def make_catalog(x: list[float], y: list[float], footprints: Footprints | None = None) -> SourceCatalog:
    schema = minimal_source_schema()
    schema.add("centroid_x", float, "x", unit="pix")
    schema.add("centroid_y", float, "y", unit="pix")
    schema.add("psf_max_value", np.float32, "largest pixel", unit="ct")
    schema.add_flag("calib_psf_candidate", "candidate")
    schema.set_alias("slot_Centroid", "centroid")
    catalog = SourceCatalog(schema, len(x), footprints=footprints)
    catalog["id"] = np.arange(1, len(x) + 1)
    catalog["slot_Centroid_x"] = x
    catalog["slot_Centroid_y"] = y
    return catalog


def make_image(**kwargs: object) -> VisitImage:
    values: dict[str, object] = {"width": 80, "height": 70, "x0": X0, "y0": Y0, "add_noise": False}
    return make_visit_image(**(values | kwargs))  # type: ignore[arg-type]


def detect(image: VisitImage, pixels: np.ndarray) -> None:
    image.mask.set(plane_name("DETECTED"), pixels)


def disc(image: VisitImage, x: float, y: float, radius: float) -> np.ndarray:
    yy, xx = np.indices(image.image.array.shape)
    return (xx + X0 - x) ** 2 + (yy + Y0 - y) ** 2 <= radius**2


def test_edges() -> None:
    """A 27-pixel stamp needs 13 pixels on every side of the nearest pixel."""
    image = make_image()
    x = [X0 + 13, X0 + 12, X0 + 12.49, X0 + 12.5, X0 + 80 - 14, X0 + 80 - 13, np.nan, X0 + 40]
    catalog = make_catalog(x, [Y0 + 30.0] * 7 + [Y0 + 12.0])
    result = MakePsfCandidatesTask().run(catalog, image)
    np.testing.assert_array_equal(result.accepted, [True, False, False, True, True, False, False, False])
    np.testing.assert_array_equal(result.candidates.rows, [0, 3, 4])
    np.testing.assert_array_equal(result.candidates.stamps.x0, [X0, X0, X0 + 53])


def test_pixels_and_values() -> None:
    image = make_image(x=[X0 + 30.3], y=[Y0 + 25.6], flux=[1e4])
    catalog = make_catalog([X0 + 30.3, X0 + 50.0], [Y0 + 25.6, Y0 + 40.0])
    result = MakePsfCandidatesTask().run(catalog, image, psf_candidate_field="calib_psf_candidate")
    stamps = result.candidates.stamps
    np.testing.assert_array_equal(stamps.image[0], image.image.array[13:40, 17:44])
    np.testing.assert_array_equal(stamps.variance[0], image.variance.array[13:40, 17:44])
    assert (stamps.x0[0], stamps.y0[0]) == (X0 + 17, Y0 + 13)
    assert catalog["psf_max_value"][0] == image.image.array.max()
    assert catalog["calib_psf_candidate"].all()
    assert np.isnan(result.candidates.color_value).all()
    assert (result.candidates.color_type == "").all()
    part = result.candidates[np.array([False, True])]
    np.testing.assert_array_equal(part.id, [2])
    assert result.candidates.size == part.size == 27


def test_non_finite_pixels() -> None:
    image = make_image()
    image.image.array[30, 30] = np.inf
    image.image.array[30, 60] = np.nan
    catalog = make_catalog([X0 + 30.0, X0 + 60.0], [Y0 + 30.0, Y0 + 30.0])
    result = MakePsfCandidatesTask().run(catalog, image)
    np.testing.assert_array_equal(result.accepted, [False, True])


def test_stamps_are_copies_and_follow_a_new_size() -> None:
    image = make_image()
    detect(image, disc(image, X0 + 40, Y0 + 35, 4) | disc(image, X0 + 52, Y0 + 35, 2))
    before = image.mask.array.copy()
    candidates = MakePsfCandidatesTask().run(make_catalog([X0 + 40.0], [Y0 + 35.0]), image).candidates
    np.testing.assert_array_equal(image.mask.array, before)
    smaller = candidates.with_size(image, 25)
    assert smaller.size == 25
    expected = cut_stamps(image, x=candidates.x, y=candidates.y, size=25)
    np.testing.assert_array_equal(smaller.stamps.mask, expected.mask)
    with pytest.raises(ValueError, match="leaves the image"):
        candidates.with_size(image, 301)


def test_neighbours_are_masked() -> None:
    image = make_image()
    star, other = disc(image, X0 + 40, Y0 + 35, 4), disc(image, X0 + 49, Y0 + 40, 2)
    detect(image, star | other)
    stamps = cut_stamps(image, x=np.array([X0 + 40.2]), y=np.array([Y0 + 34.9]), size=27)
    window = (slice(35 - 13, 35 + 14), slice(40 - 13, 40 + 14))
    # The neighbour grown by the disc of radius 3, one pixel at a time.
    grown = np.zeros_like(other)
    for y, x in np.argwhere(other):
        for dy in range(-3, 4):
            half = int(np.sqrt(9 - dy * dy))
            grown[y + dy, x - half : x + half + 1] = True
    np.testing.assert_array_equal(stamps.masked(["INTRP"])[0], grown[window])
    np.testing.assert_array_equal(stamps.masked(["DETECTED"])[0], (star & ~grown)[window])


def slow_neighbours(detected: np.ndarray) -> np.ndarray:
    """Flood every detection of one stamp pixel by pixel; grow those without the central pixel."""
    size = len(detected)
    remaining = {(int(y), int(x)) for y, x in np.argwhere(detected)}
    detections = []
    while remaining:
        queue, found = [remaining.pop()], set()
        while queue:
            y, x = queue.pop()
            found.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & remaining
            remaining -= near
            queue.extend(near)
        detections.append(found)
    result = np.zeros_like(detected)
    for found in detections:
        if len(detections) > 1 and (size // 2, size // 2) not in found:
            for y, x in found:
                for dy in range(-3, 4):
                    half = int(np.sqrt(9 - dy * dy))
                    if 0 <= y + dy < size:
                        result[y + dy, max(x - half, 0) : x + half + 1] = True
    return result


@settings(max_examples=40, deadline=None)
@given(arrays(np.bool_, (3, 11, 11), elements=st.sampled_from([True, False, False, False, False, False])))
def test_neighbours_of_many_stamps_at_once(detected: np.ndarray) -> None:
    np.testing.assert_array_equal(_neighbours(detected), [slow_neighbours(each) for each in detected])


def test_lone_detection_stays_even_off_centre() -> None:
    """With one detection in the stamp there is nothing to tell apart, wherever it is."""
    image = make_image()
    detect(image, disc(image, X0 + 47, Y0 + 35, 3))
    stamps = cut_stamps(image, x=np.array([X0 + 40.0]), y=np.array([Y0 + 35.0]), size=27)
    assert not stamps.masked(["INTRP"]).any()
    assert stamps.masked(["DETECTED"]).any()


def test_diagonal_pixels_are_one_detection() -> None:
    image = make_image()
    pixels = np.zeros(image.image.array.shape, dtype=bool)
    pixels[35, 40] = pixels[36, 41] = pixels[37, 42] = True
    detect(image, pixels)
    stamps = cut_stamps(image, x=np.array([X0 + 40.0]), y=np.array([Y0 + 35.0]), size=27)
    assert not stamps.masked(["INTRP"]).any()


def test_blends_are_masked() -> None:
    """Pixels of the footprint strictly nearer to another peak than to the star's own are masked."""
    image = make_image()
    blend = disc(image, X0 + 40, Y0 + 35, 6) | disc(image, X0 + 46, Y0 + 35, 6)
    detect(image, blend)
    footprints = Footprints.from_mask(blend, x0=X0, y0=Y0)
    peaks = Peaks(*(np.array(v) for v in ([X0 + 40, X0 + 46], [Y0 + 35] * 2, [9, 5], [9, 5], [1, 2])))
    footprints = footprints.with_peaks(np.array([0, 2]), peaks)
    stamps = cut_stamps(
        image, x=np.array([X0 + 40.4]), y=np.array([Y0 + 35.0]), size=27, footprints=footprints
    )
    xx = np.indices(image.image.array.shape)[1]
    window = (slice(35 - 13, 35 + 14), slice(40 - 13, 40 + 14))
    other = blend & (xx > 43)
    np.testing.assert_array_equal(stamps.masked(["INTRP"])[0], other[window])
    np.testing.assert_array_equal(stamps.masked(["DETECTED"])[0], (blend & ~other)[window])


def test_rows_without_footprint() -> None:
    image = make_image()
    catalog = make_catalog([X0 + 30.0, X0 + 40.0], [Y0 + 30.0] * 2, Footprints.empty(2))
    result = MakePsfCandidatesTask().run(catalog, image)
    assert result.accepted.all()
    assert not result.candidates.stamps.masked(["INTRP"]).any()


def test_nothing_to_cut() -> None:
    tiny = make_image(width=10, height=10)
    result = MakePsfCandidatesTask().run(make_catalog([X0 + 5.0], [Y0 + 5.0]), tiny)
    assert len(result.candidates) == 0
    assert result.candidates.stamps.image.shape == (0, 27, 27)
    assert len(MakePsfCandidatesTask().run(make_catalog([], []), make_image()).candidates) == 0


def test_colours_come_from_the_catalog() -> None:
    image = make_image()
    catalog = make_catalog([X0 + 30.0, X0 + 40.0], [Y0 + 30.0] * 2)
    catalog.schema.add("psf_color_value", np.float32, "colour", unit="mag")
    catalog.schema.add("psf_color_type", "U10", "colour type")
    catalog["psf_color_value"][0] = 0.5
    catalog["psf_color_type"][0] = "g-i"
    candidates = MakePsfCandidatesTask().run(catalog, image).candidates
    np.testing.assert_array_equal(candidates.color_value, np.float32([0.5, np.nan]))
    assert list(candidates.color_type) == ["g-i", ""]


def test_children_stand_in_the_footprint_of_their_parent() -> None:
    both = Footprints.from_circles(np.array([20]), np.array([20]), 9)
    peaks = Peaks(np.array([17, 24]), np.array([20, 20]), np.ones(2), np.ones(2), np.arange(2))
    parent = both.with_peaks(np.array([0, 2]), peaks)
    others = Footprints.from_circles(np.array([50, 17, 24]), np.array([40, 20, 20]), 4)
    lone = Peaks(np.array([50, 17, 24]), np.array([40, 20, 20]), np.ones(3), np.ones(3), np.arange(3))
    catalog = make_catalog(
        [20.0, 50.0, 17.0, 24.0],
        [20.0, 40.0, 20.0, 20.0],
        Footprints.concatenate([parent, others.with_peaks(np.arange(4), lone)]),
    )
    catalog["parent"] = [0, 0, 1, 1]
    blends = blend_footprints(catalog, np.array([3, 1]))
    assert blends is not None
    assert blends == catalog.footprints.take([0, 1])  # type: ignore[union-attr]
    # A child whose parent is not in the catalog keeps its own footprint.
    part = blend_footprints(catalog[[1, 3]], np.array([1]))
    assert part == catalog.footprints.take([3])  # type: ignore[union-attr]
    catalog.footprints = None
    assert blend_footprints(catalog, np.array([1])) is None
