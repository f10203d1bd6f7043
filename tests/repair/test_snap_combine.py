"""Snaps of one visit become one image."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from lsst.images import Image

from secondlight.catalog.mask_planes import mask_of
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.visit_image import replace_components
from secondlight.repair.snap_combine import SnapCombineConfig, SnapCombineTask
from tests.scenes import make_obs_info, make_visit_image


def make_snaps():
    first = make_visit_image(width=12, height=9, x0=3, y0=4, noise=3.0, seed=1)
    second = make_visit_image(width=12, height=9, x0=3, y0=4, noise=4.0, seed=2)
    return first, second


def make_task(*planes: str) -> SnapCombineTask:
    config = SnapCombineConfig()
    config.bad_mask_planes = list(planes)
    return SnapCombineTask(config=config)


def test_one_image_passes_through():
    first, _ = make_snaps()
    assert make_task().run(first) is first
    assert make_task().run([first]) is first


def test_sum():
    first, second = make_snaps()
    first.mask.set("SATURATED", np.arange(9 * 12).reshape(9, 12) == 5)
    second.mask.set("SATURATED", np.arange(9 * 12).reshape(9, 12) == 7)
    kept = first.image.array.copy()
    result = make_task().run([first, second])
    np.testing.assert_allclose(result.image.array, first.image.array + second.image.array, rtol=1e-6)
    np.testing.assert_allclose(result.variance.array, 25, rtol=1e-6)
    assert np.flatnonzero(mask_of(result.mask, ["SAT"])).tolist() == [5, 7]
    assert not mask_of(result.mask, ["EDGE", "NO_DATA"]).any()
    np.testing.assert_array_equal(first.image.array, kept)
    assert np.flatnonzero(mask_of(first.mask, ["SAT"])).tolist() == [5]
    assert result.psf == first.psf
    assert result.bbox == first.bbox


def test_bad_pixels_of_one_or_both_snaps():
    first, second = make_snaps()
    index = np.arange(9 * 12).reshape(9, 12)
    first.mask.set("BAD", (index == 0) | (index == 2))
    second.mask.set("BAD", (index == 1) | (index == 2))
    first.image.array[0, 0] = np.nan
    result = make_task("BAD").run([first, second])
    assert result.image.array[0, 0] == 2 * second.image.array[0, 0]
    assert result.image.array[0, 1] == 2 * first.image.array[0, 1]
    assert result.variance.array[0, :2].tolist() == [4 * 16, 4 * 9]
    assert np.isnan(result.image.array[0, 2])
    assert np.isnan(result.variance.array[0, 2])
    for plane in ("EDGE", "NO_DATA"):
        assert np.flatnonzero(mask_of(result.mask, [plane])).tolist() == [2]
    assert not mask_of(result.mask, ["BAD"]).any()  # bits of pixels that did not contribute are left out
    assert np.isfinite(result.image.array).sum() == 9 * 12 - 1


def test_observation_metadata():
    first, second = make_snaps()
    with make_obs_info(exposure_time=20.0).edit_copy() as later:
        later.exposure_id = 101
        later.datetime_begin = later.datetime_begin + 40 * u.s
        later.datetime_end = later.datetime_end + 40 * u.s
    second = replace_components(second, obs_info=later)
    combined = make_task().run([first, second]).obs_info
    assert combined.exposure_time.to_value(u.s) == pytest.approx(50)
    assert combined.exposure_id == 100
    start = first.obs_info.datetime_begin
    assert (combined.datetime_begin - start).to_value(u.s) == pytest.approx(20)
    assert (combined.datetime_end - start).to_value(u.s) == pytest.approx(45)
    assert first.obs_info.exposure_time.to_value(u.s) == pytest.approx(30)


@pytest.mark.parametrize("n", [0, 3])
def test_other_numbers(n: int):
    first, _ = make_snaps()
    whose = " for exposure 100 of visit 100, detector 4" if n else ""
    with pytest.raises(RuntimeError, match=rf"found {n}{whose}\.$"):
        make_task().run([first] * n)


def test_something_else():
    first, _ = make_snaps()
    with pytest.raises(TypeError, match="found str"):
        make_task().run([first, "second"])
    with pytest.raises(TypeError, match="found int"):
        make_task().run(3)


def other_filter():
    with make_obs_info().edit_copy() as info:
        info.physical_filter = "test_i"
    return replace_components(make_snaps()[1], obs_info=info)


DIFFERENT = {
    "pixels": lambda: make_visit_image(width=13, height=9, x0=3, y0=4),
    "detector": lambda: make_visit_image(width=12, height=9, x0=3, y0=4, detector=5),
    "visit": lambda: make_visit_image(width=12, height=9, x0=3, y0=4, visit=101),
    "filter": other_filter,
    "unit": lambda: in_electrons(make_snaps()[1]),
}


def in_electrons(snap):
    pixels = Image(snap.image.array, bbox=snap.bbox, unit=u.electron)
    variance = Image(snap.variance.array, bbox=snap.bbox, unit=u.electron**2)
    return replace_components(snap, image=pixels, variance=variance)


@pytest.mark.parametrize("what", DIFFERENT)
def test_snaps_that_do_not_belong_together(what: str):
    first, _ = make_snaps()
    second = DIFFERENT[what]()
    with pytest.raises(ValueError, match=rf"exposure 100 of visit 100, detector 4 and .*: the {what} of the"):
        make_task().run([first, second])


def test_psf_of_the_sum_is_that_of_the_first():
    first, _ = make_snaps()
    second = make_visit_image(width=12, height=9, x0=3, y0=4, sigma=3.0)
    assert first.psf != second.psf
    assert make_task().run([first, second]).psf == first.psf


def test_counts_of_the_sum_are_worth_less_flux():
    first, second = make_snaps()
    assert make_task().run([first, second]).photometric_scaling is None
    scaling = PhotoCalib.from_zero_point(27.0).to_field(first.bbox, first.unit)
    first, second = (replace_components(snap, photometric_scaling=scaling) for snap in (first, second))
    combined = make_task().run([first, second]).photometric_scaling
    assert combined(x=5.0, y=6.0) == pytest.approx(0.5 * scaling(x=5.0, y=6.0))
