from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from lsst.images import Box

from secondlight.catalog.footprints import Footprints
from secondlight.detection.growth import grow
from secondlight.detection.smoothing import correlate_separable, gaussian_kernel, kernel_size, smooth
from secondlight.detection.threshold import (
    connected_footprints,
    find_peaks,
    pixels_above,
    pixels_above_noise,
    reaching,
    search_peaks_again,
)
from tests.detection.slow import EIGHT, slow_peaks, slow_regions, slow_smooth, stencil

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
# Few distinct values, so that plateaus and ties occur.
images = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=18), elements=st.integers(-4, 6)
)
fast = settings(max_examples=80, deadline=None)


def _first_pixels(footprints: Footprints) -> list[tuple[int, int]]:
    first = footprints.span_offsets[:-1]
    return list(zip(footprints.span_y[first].tolist(), footprints.span_x0[first].tolist(), strict=True))


def _region(footprints: Footprints, row: int, shape: tuple[int, int]) -> np.ndarray:
    return footprints.take([row]).to_mask(shape)


# Smoothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "size"), [(1.8, 13), (1.0, 7), (2.0, 15), (0.1, 1)])
def test_kernel_size(sigma: float, size: int) -> None:
    assert kernel_size(sigma, 7.0) == size
    assert gaussian_kernel(sigma, size).sum() == pytest.approx(1.0)


@fast
@given(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9), st.integers(0, 1000))
def test_correlation_equals_its_twin(half: int, extra_x: int, extra_y: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 2 * half + 1
    image = rng.normal(size=(size + extra_y, size + extra_x)).astype(np.float32)
    kernel = rng.normal(size=size)
    result = correlate_separable(image, kernel)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, slow_smooth(image, kernel), atol=1e-4)


def test_smoothed_noise() -> None:
    image = np.random.default_rng(5).normal(0, 10, size=(400, 400)).astype(np.float32)
    result = smooth(image, np.full_like(image, 100.0), gaussian_kernel(2.0, 15))
    np.testing.assert_allclose(np.sqrt(result.variance), 10 / np.sqrt(4 * np.pi * 4), rtol=2e-3)
    assert result.image.std() == pytest.approx(np.sqrt(result.variance[0, 0]), rel=0.02)
    assert result.margin == 7


def test_bad_pixel_spoils_only_its_surroundings() -> None:
    image = np.zeros((40, 50), dtype=np.float32)
    image[20, 30] = np.nan
    result = smooth(image, np.ones_like(image), gaussian_kernel(1.0, 7)).image
    expected = np.zeros_like(result, dtype=bool)
    expected[20 - 6 : 20 + 1, 30 - 6 : 30 + 1] = True
    assert np.array_equal(np.isnan(result), expected)


def test_image_smaller_than_the_kernel() -> None:
    with pytest.raises(ValueError, match="12 x 40 pixels is smaller"):
        smooth(np.zeros((40, 12)), np.ones((40, 12)), gaussian_kernel(2.0, 15))


# Threshold ------------------------------------------------------------------------------------------------


@fast
@given(masks, st.integers(-5, 5), st.integers(-5, 5))
def test_labelling_equals_scipy(mask: np.ndarray, x0: int, y0: int) -> None:
    ours = connected_footprints(mask, x0=x0, y0=y0)
    labels, n = scipy.ndimage.label(mask, structure=EIGHT)
    assert len(ours) == n
    for row in range(n):
        shape = _region(ours.shifted(dx=-x0, dy=-y0), row, mask.shape)
        assert len(np.unique(labels[shape])) == 1
        assert np.array_equal(shape, labels == labels[shape][0])


def test_rows_follow_the_surviving_labels() -> None:
    wide_run_first = np.zeros((3, 8), dtype=bool)
    wide_run_first[0, 2] = wide_run_first[0, 6] = True
    wide_run_first[1, 0:4] = True  # starts two pixels left of the run below: a label of its own, made later
    assert _first_pixels(connected_footprints(wide_run_first)) == [(0, 6), (0, 2)]


@fast
@given(images, st.sampled_from([1, -1]), st.integers(-3, 4))
def test_peaks_equal_their_twin(image: np.ndarray, sign: int, level: int) -> None:
    footprints = connected_footprints(pixels_above(image, float(level), sign))
    ours = find_peaks(footprints, image, x0=0, y0=0, sign=sign)
    for row in range(len(ours)):
        peaks = ours.peaks(row)
        found = list(zip(peaks.x.tolist(), peaks.y.tolist(), strict=True))
        assert found == slow_peaks(image, _region(ours, row, image.shape), sign)
        assert np.array_equal(peaks.value, image[peaks.y, peaks.x])


@fast
@given(images, st.integers(-9, 9), st.integers(-9, 9))
def test_shifting_the_image_shifts_the_footprints(image: np.ndarray, dx: int, dy: int) -> None:
    mask = pixels_above(image, 1.0, 1)
    here = find_peaks(connected_footprints(mask), image, x0=0, y0=0)
    there = find_peaks(connected_footprints(mask, x0=dx, y0=dy), image, x0=dx, y0=dy)
    assert there == here.shifted(dx=dx, dy=dy)


def test_thresholds_include_equality_and_exclude_bad_pixels() -> None:
    image = np.array([[5.0, 4.99, np.nan, np.inf, 50.0, -5.0]], dtype=np.float32)
    variance = np.array([[1.0, 1.0, 1.0, 1.0, 0.0, 1.0]], dtype=np.float32)
    assert pixels_above(image, 5.0, 1)[0].tolist() == [True, False, False, False, True, False]
    assert pixels_above_noise(image, variance, 5.0, 1)[0].tolist() == [True, *[False] * 5]
    assert pixels_above_noise(image, variance, 5.0, -1)[0].tolist() == [*[False] * 5, True]


@fast
@given(masks)
def test_order_of_rows_equals_its_twin(mask: np.ndarray) -> None:
    ours = connected_footprints(mask)
    assert [_region(ours, row, mask.shape).tolist() for row in range(len(ours))] == [
        region.tolist() for region in slow_regions(mask)
    ]


@fast
@given(images, st.sampled_from([1, -1]), st.floats(0.5, 3.0))
def test_thresholds_equal_their_twins(image: np.ndarray, sign: int, level: float) -> None:
    variance = np.abs(np.roll(image, 1)) - 1  # negative, zero and positive
    value = sign * image.astype(float)
    assert np.array_equal(pixels_above(image, level, sign), value >= level)
    noise = np.sqrt(np.maximum(variance, 0).astype(float))
    assert np.array_equal(
        pixels_above_noise(image, variance, level, sign), (variance > 0) & (value >= level * noise)
    )


@fast
@given(masks, masks)
def test_reaching_equals_its_twin(mask: np.ndarray, marks: np.ndarray) -> None:
    footprints = connected_footprints(mask)
    marked = np.zeros_like(mask)
    rows, columns = (min(a, b) for a, b in zip(mask.shape, marks.shape, strict=True))
    marked[:rows, :columns] = marks[:rows, :columns]
    expected = [bool((_region(footprints, k, mask.shape) & marked).any()) for k in range(len(footprints))]
    assert reaching(footprints, marked, x0=0, y0=0).tolist() == expected


def test_one_peak_for_each_flat_top() -> None:
    image = np.zeros((20, 30), dtype=np.float32)
    image[3:8, 4:11] = 5.0
    image[12:15, 4:7] = 5.0
    image[15, 7:9] = 5.0  # touches the other corner
    image[12:15, 20:25] = 5.0
    image[13, 22] = 6.0  # a flat shoulder of a peak
    footprints = find_peaks(connected_footprints(image > 0), image, x0=0, y0=0)
    found = [list(zip(p.x.tolist(), p.y.tolist(), strict=True)) for p in map(footprints.peaks, range(3))]
    assert found[0] == [(7, 5)]
    assert found[1] == [(5, 13)]
    assert found[2][0] == (22, 13)


def test_only_footprints_that_reach_a_level() -> None:
    image = np.zeros((9, 9), dtype=np.float32)
    image[2, 2:5] = 3, 6, 3
    image[6, 2:5] = 3, 4, 3
    footprints = connected_footprints(image >= 3)
    assert reaching(footprints, image >= 5, x0=0, y0=0).tolist() == [True, False]
    assert reaching(Footprints.empty(), image >= 5, x0=0, y0=0).tolist() == []


def test_searching_peaks_again() -> None:
    image = np.zeros((12, 30), dtype=np.float32)
    for x, height in ((5, 8.0), (10, 9.0), (15, 7.0)):
        ridge = height - np.abs(np.arange(30) - x)
        image[3] = np.maximum(image[3], np.where(ridge > 4, ridge, 0.0))
    image[8, 5:8] = 5.0, 6.0, 5.0
    footprints = find_peaks(connected_footprints(image > 4), image, x0=0, y0=0)
    assert np.diff(footprints.peak_offsets).tolist() == [3, 1]
    flatter = image.copy()
    flatter[3, 12:] -= 4.0
    options = {"x0": 0, "y0": 0, "sign": 1, "keep_up_to": 1}
    again = search_peaks_again(footprints, flatter, flatter > 4, **options)
    assert again.peaks(0).x.tolist() == [10, 5]
    assert again.peaks(1).x.tolist() == [6]
    nothing = search_peaks_again(footprints, flatter, np.zeros_like(flatter, dtype=bool), **options)
    assert nothing.peaks(0).x.tolist() == [10]


# Growth ---------------------------------------------------------------------------------------------------


@fast
@given(masks, st.integers(0, 5), st.booleans())
def test_growth_equals_dilation(mask: np.ndarray, radius: int, isotropic: bool) -> None:
    footprints = find_peaks(connected_footprints(mask), mask.astype(np.float32), x0=0, y0=0)
    region = Box.factory[0 : mask.shape[0], 0 : mask.shape[1]]
    grown = grow(footprints, radius, region=region, isotropic=isotropic)
    expected = scipy.ndimage.binary_dilation(mask, stencil(radius, manhattan=not isotropic))
    assert np.array_equal(grown.to_mask(mask.shape), expected)
    assert len(grown) == scipy.ndimage.label(expected, EIGHT)[1]
    single = grow(footprints, radius, region=region, isotropic=isotropic, combined=False)
    assert len(single) == len(footprints)
    for row in range(len(single)):
        one = scipy.ndimage.binary_dilation(
            _region(footprints, row, mask.shape), stencil(radius, manhattan=not isotropic)
        )
        assert np.array_equal(_region(single, row, mask.shape), one)


@fast
@given(images, st.integers(0, 5), st.sampled_from([1, -1]))
def test_growth_loses_no_peaks(image: np.ndarray, radius: int, sign: int) -> None:
    footprints = find_peaks(
        connected_footprints(pixels_above(image, 2.0, sign)), image, x0=0, y0=0, sign=sign
    )
    region = Box.factory[0 : image.shape[0], 0 : image.shape[1]]
    grown = grow(footprints, radius, region=region, sign=sign)
    before = sorted(zip(*(values.tolist() for values in footprints.all_peaks), strict=True))
    after = sorted(zip(*(values.tolist() for values in grown.all_peaks), strict=True))
    assert before == after
    for row in range(len(grown)):
        peaks = grown.peaks(row)
        inside = _region(grown, row, image.shape)
        assert inside[peaks.y, peaks.x].all()
        assert np.all(np.diff(-sign * peaks.value) >= 0)


def test_chain_of_overpainting_keeps_every_peak() -> None:
    image = np.zeros((30, 60), dtype=np.float32)
    for k, x in enumerate(range(5, 55, 3)):
        image[15 + (k % 3), x] = 10.0 + k
    footprints = find_peaks(connected_footprints(image > 0), image, x0=0, y0=0)
    grown = grow(footprints, 8, region=Box.factory[0:30, 0:60])
    assert len(grown) == 1
    assert grown.peak_value.tolist() == sorted(footprints.peak_value.tolist(), reverse=True)
