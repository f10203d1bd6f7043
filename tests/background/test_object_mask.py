"""Blocks, margins and smooth cells against slow, obvious twins."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlight.background.object_mask import block_average, grow_by_size, grow_mask, smoothed_blocks
from secondlight.background.smoothing import smooth_cells
from secondlight.background.task import SubtractBackgroundConfig, SubtractBackgroundTask
from tests.background.slow import slow_block_average, slow_grow, slow_planes, slow_super_pixels
from tests.scenes import make_visit_image


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(0, 99))
def test_block_averages_equal_their_twin(height: int, width: int, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    image = random.normal(500, 10, size=(height, width)).astype(np.float32)
    image[random.uniform(size=image.shape) < 0.1] = random.choice([np.nan, np.inf])
    good = random.uniform(size=image.shape) > 0.3
    average, usable = block_average(image, good, size)
    expected, expected_usable = slow_block_average(image, good, size)
    np.testing.assert_allclose(average, expected, rtol=1e-6)
    np.testing.assert_array_equal(usable, expected_usable)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(0, 99))
def test_margins_equal_their_twin(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    reach = random.uniform(-1, 9, size=(height, width))
    reach[random.uniform(size=reach.shape) > 0.03] = -1
    np.testing.assert_array_equal(grow_mask(reach.astype(np.float32)), slow_grow(reach))


def test_large_objects_get_wide_margins() -> None:
    detected = np.zeros((120, 120), dtype=bool)
    detected[30, 30] = True
    y, x = np.indices(detected.shape)
    detected |= np.hypot(x - 80, y - 80) <= 10
    grown = grow_by_size(detected, margin=3.0, factor=1.0)
    row = np.nonzero(grown[30, :60])[0]
    assert (row[0], row[-1]) == (27, 33)  # 3 and the radius of a pixel, 0.6
    row = np.nonzero(grown[80])[0]
    assert (row[0], row[-1]) == (57, 103)  # 10 of its own, 3 and 10
    assert not grow_by_size(np.zeros((5, 5), dtype=bool), margin=3.0, factor=1.0).any()


def test_blocks_that_do_not_count_are_zero() -> None:
    residual = np.random.default_rng(5).normal(size=(40, 30)).astype(np.float32)
    usable = np.ones(residual.shape, dtype=bool)
    usable[10:14, 3:9] = False
    smoothed = smoothed_blocks(np.where(usable, residual, np.float32(np.nan)), usable, sigma=1.3)
    expected = scipy.ndimage.gaussian_filter(np.where(usable, residual, 0).astype(float), 1.3, truncate=3.5)
    np.testing.assert_allclose(smoothed, expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_smooth_cells_equal_their_twin(sigma: float) -> None:
    random = np.random.default_rng(3)
    values, weight = random.normal(100, 3, size=(9, 11)), random.uniform(0.2, 1.0, size=(9, 11))
    weight[3, 4] = weight[0, 0] = 0.0
    values[3, 4] = np.nan
    smooth = smooth_cells(values, weight, sigma=sigma)
    # The Gaussian ends at 4 sigma.
    np.testing.assert_allclose(smooth, slow_planes(values, weight, sigma), atol=0.02)


@pytest.mark.parametrize("shape", [(8, 9), (1, 9), (2, 2), (1, 1)])
@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.0])
def test_a_plane_stays_a_plane(shape: tuple[int, int], sigma: float) -> None:
    y, x = np.indices(shape)
    plane = 100 + 3.0 * x - 2.0 * y
    np.testing.assert_allclose(smooth_cells(plane, np.ones(shape), sigma=sigma), plane, atol=1e-4)


def test_cells_without_weight_are_filled_however_many_there_are() -> None:
    y, x = np.indices((20, 20))
    plane = 100 + 3.0 * x - 2.0 * y
    weight = np.zeros(plane.shape)
    weight[8:11, 8:11] = 0.5
    filled = smooth_cells(np.where(weight > 0, plane, np.nan), weight, sigma=0.0)
    np.testing.assert_array_equal(filled[weight > 0], plane[weight > 0])
    np.testing.assert_allclose(filled, plane, atol=0.1)
    weight[...] = 0.0
    weight[0, 19] = 1.0
    np.testing.assert_allclose(smooth_cells(plane, weight, sigma=1.0), plane[0, 19], rtol=1e-6)


def test_cells_without_any_weight_are_refused() -> None:
    with pytest.raises(ValueError, match="no cell"):
        smooth_cells(np.ones((2, 2)), np.zeros((2, 2)), sigma=1.0)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_super_pixel_filter_equals_its_twin(size: int) -> None:
    image = make_visit_image(width=280, height=240, background=50.0, noise=8.0)
    image.image.array[:40, :40] = np.nan
    config = SubtractBackgroundConfig()
    config.binSize, config.useApprox, config.isNanSafe = 40, False, True
    cells = SubtractBackgroundTask(config=config).fit(image)
    config.doFilterSuperPixels, config.superPixelFilterSize = True, size
    filtered = SubtractBackgroundTask(config=config).fit(image)
    assert np.isnan(cells.data[0, 0])
    np.testing.assert_allclose(filtered.data, slow_super_pixels(cells.data, size), rtol=1e-12)
