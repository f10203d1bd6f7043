"""Blends that stay whole are marked for what they are; single sources keep their peak."""

from __future__ import annotations

import numpy as np
import pytest

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.mask_planes import mask_of
from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.deblend.limits import axis_ratios
from tests.scenes import make_visit_image

from .scene import make_task

COLUMNS = {
    "deblend_nChild": np.int32,
    "deblend_deblendedAsPsf": np.bool_,
    "deblend_psfCenter_x": np.float64,
    "deblend_psfCenter_y": np.float64,
    "deblend_psf_instFlux": np.float64,
    "deblend_tooManyPeaks": np.bool_,
    "deblend_parentTooBig": np.bool_,
    "deblend_masked": np.bool_,
    "deblend_failed": np.bool_,
    "deblend_skipped": np.bool_,
    "deblend_rampedTemplate": np.bool_,
    "deblend_patchedTemplate": np.bool_,
    "deblend_hasStrayFlux": np.bool_,
    "deblend_peak_center_x": np.int32,
    "deblend_peak_center_y": np.int32,
    "deblend_peakId": np.int32,
    "deblend_nPeaks": np.int32,
    "deblend_parentNPeaks": np.int32,
}


def make_sources(schema: Schema, n_peaks: list[int]) -> SourceCatalog:
    """Return boxes of 11 x 5 pixels below each other from (110, 60), with some peaks each."""
    rows = np.arange(len(n_peaks))
    boxes = [Footprints.from_mask(np.ones((5, 11), dtype=bool), x0=110, y0=60 + 10 * row) for row in rows]
    row = np.repeat(rows, n_peaks)
    offsets = np.concatenate([[0], np.cumsum(n_peaks)])
    index = np.arange(offsets[-1]) - offsets[row]
    value = 100.0 - index
    peaks = Peaks(111 + 2 * index, 61 + 10 * row, value, value, 1 + np.arange(offsets[-1]))
    footprints = Footprints.concatenate(boxes).with_peaks(offsets, peaks)
    sources = SourceCatalog(schema, len(n_peaks), footprints=footprints)
    sources["id"] = rows + 1
    return sources


@pytest.fixture
def exposure():
    return make_visit_image(width=80, height=100, x0=100, y0=50)


def test_columns():
    _, schema = make_task()
    found = {field.name: field.dtype for field in schema if field.name.startswith("deblend_")}
    assert found == {name: np.dtype(dtype) for name, dtype in COLUMNS.items()}


def test_singles_keep_their_peak(exposure):
    task, schema = make_task()
    before = exposure.mask.copy()
    sources = task.run(exposure, make_sources(schema, [1, 1]))
    assert sources["deblend_nPeaks"].tolist() == [1, 1]
    assert sources["deblend_nChild"].tolist() == [0, 0]
    assert sources["deblend_peak_center_x"].tolist() == [111, 111]
    assert sources["deblend_peak_center_y"].tolist() == [61, 71]
    assert sources["deblend_peakId"].tolist() == [1, 2]
    assert not any(sources[name].any() for name, dtype in COLUMNS.items() if dtype is np.bool_)
    assert np.isnan(sources["deblend_psf_instFlux"]).all()
    assert exposure.mask == before


def test_blends_left_whole_are_marked(exposure):
    task, schema = make_task(maxFootprintArea=54)
    sources = task.run(exposure, make_sources(schema, [1, 3, 1]))
    assert len(sources) == 3
    assert sources["deblend_skipped"].tolist() == [False, True, False]
    assert sources["deblend_nPeaks"].tolist() == [1, 3, 1]
    assert sources["deblend_nChild"].tolist() == [0, 0, 0]
    assert not sources["deblend_tooManyPeaks"].any()
    assert sources["deblend_parentTooBig"].tolist() == [False, True, False]
    # Middle of the box [110, 120] x [70, 74].
    assert (sources["deblend_peak_center_x"][1], sources["deblend_peak_center_y"][1]) == (115, 72)
    expected = np.zeros(exposure.bbox.shape, dtype=bool)
    expected[20:25, 10:21] = True
    np.testing.assert_array_equal(mask_of(exposure.mask, ["NOT_DEBLENDED"]), expected)


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"maxFootprintArea": 54}, "deblend_parentTooBig"),
        ({"maxFootprintSize": 10}, "deblend_parentTooBig"),
        ({"minFootprintAxisRatio": 0.5}, "deblend_parentTooBig"),
        ({"maxNumberOfPeaks": 2}, "deblend_tooManyPeaks"),
    ],
)
def test_limits(exposure, fields, flag):
    task, schema = make_task(**fields)
    sources = task.run(exposure, make_sources(schema, [1, 3, 1]))
    flags = ("deblend_parentTooBig", "deblend_tooManyPeaks", "deblend_masked")
    assert {name: sources[name][:3].tolist() for name in flags} == {
        name: [False, name == flag, False] for name in flags
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"maxFootprintArea": 55},
        {"maxFootprintSize": 11},
        {"minFootprintAxisRatio": 0.45},
        {"maxNumberOfPeaks": 3},
    ],
)
def test_at_the_limit_is_within(exposure, fields):
    task, schema = make_task(**fields)
    sources = task.run(exposure, make_sources(schema, [3]))
    assert not sources["deblend_parentTooBig"].any()
    assert not sources["deblend_tooManyPeaks"].any()


def test_axis_ratio_of_boxes():
    box = Footprints.from_mask(np.ones((5, 11), dtype=bool), x0=-3, y0=7)
    line = Footprints.from_mask(np.eye(9, dtype=bool))
    ratios = axis_ratios(Footprints.concatenate([box, line]))
    # A diagonal line of n unit squares: moments (n^2 - 1) / 6 + 1/12 along it and 1/12 across.
    np.testing.assert_allclose(ratios, [5 / 11, np.sqrt((1 / 12) / (80 / 6 + 1 / 12))])


def test_masked_fraction(exposure):
    task, schema = make_task(maskLimits={"NO_DATA": 0.25, "STREAK": 0.0})
    masked = np.zeros(exposure.bbox.shape, dtype=bool)
    masked[10:15, 10:12] = True  # 10 of 55 pixels of row 0
    masked[20:25, 10:13] = True  # 15 of 55 pixels of row 1
    exposure.mask.set("NO_DATA", masked)
    sources = task.run(exposure, make_sources(schema, [2, 2, 2]))
    assert sources["deblend_masked"][:3].tolist() == [False, True, False]
    assert sources["deblend_skipped"][1]
    assert not (sources["parent"] == sources["id"][1]).any()


def test_ci_limits(exposure):
    task, schema = make_task(useCiLimits=True, ciDeblendChildRange=[2, 3], ciNumParentsToDeblend=1)
    sources = task.run(exposure, make_sources(schema, [4, 1, 2, 3]))
    assert sources["id"][sources["parent"] == 0].tolist() == [2, 3]
    with pytest.raises(ValueError, match="none of 2 sources has 2 to 3 peaks"):
        task.run(exposure, make_sources(schema, [1, 4]))


def test_own_mask_plane(exposure):
    task, schema = make_task(notDeblendedMask="WHOLE", maxFootprintArea=54)
    task.run(exposure, make_sources(schema, [2]))
    assert mask_of(exposure.mask, ["WHOLE"]).sum() == 55
    assert not mask_of(exposure.mask, ["NOT_DEBLENDED"]).any()


def test_empty_and_missing_footprints(exposure):
    task, schema = make_task()
    assert len(task.run(exposure, SourceCatalog(schema, 0, footprints=Footprints.empty()))) == 0
    assert len(task.run(exposure, SourceCatalog(schema, 0))) == 0
    with pytest.raises(ValueError, match="2 sources without footprints"):
        task.run(exposure, SourceCatalog(schema, 2))
