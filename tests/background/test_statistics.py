from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlight.background.model import cell_edges, measure_cells
from secondlight.background.statistics import clipped_statistics
from tests.background.slow import slow_clip
from tests.scenes import make_visit_image


def test_one_outlier_is_clipped() -> None:
    result = clipped_statistics(np.array([*range(1, 10), 100.0]))
    assert result.mean == pytest.approx(5.0)
    assert result.stdev == pytest.approx(2.7386128)
    assert result.n_kept == 9


def test_nothing_finite_gives_nan() -> None:
    result = clipped_statistics(np.array([np.nan, np.inf]))
    assert np.isnan(result.mean)
    assert np.isnan(result.stdev)
    assert result.n_kept == 0


def test_constant_values() -> None:
    assert clipped_statistics(np.full(7, 3.5)) == (3.5, 0.0, 7)


def test_large_offset_keeps_digits() -> None:
    values = np.random.default_rng(1).normal(size=5000)
    shifted = clipped_statistics(values + 1e8)
    assert shifted.stdev == pytest.approx(clipped_statistics(values).stdev, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=60),
    st.integers(1, 4),
    st.sampled_from([2.0, 3.0]),
)
def test_clipping_equals_its_twin(values: list[float], n_iter: int, n_sigma: float) -> None:
    result = clipped_statistics(np.array(values), n_iter=n_iter, n_sigma=n_sigma)
    expected = slow_clip(values, n_sigma, n_iter)
    np.testing.assert_allclose(result, expected, rtol=1e-7, atol=1e-6)


@given(st.integers(1, 5000), st.integers(1, 300))
def test_cells_divide_the_image(length: int, size: int) -> None:
    edges = cell_edges(length, size)
    assert edges[0] == 0
    assert edges[-1] == length
    assert len(edges) - 1 == -(-length // size)
    widths = np.diff(edges)
    assert widths.min() >= 1
    assert widths.max() - widths.min() <= 1


@pytest.mark.parametrize("statistic", ["MEANCLIP", "MEAN", "MEDIAN"])
def test_cells_equal_statistics_of_their_pixels(statistic: str) -> None:
    image = make_visit_image(width=70, height=50, x0=5, y0=9, background=20.0)
    good = np.random.default_rng(2).uniform(size=(50, 70)) > 0.2
    grid = measure_cells(image.image.array, good, image.bbox, cell_size=(32, 25), statistic=statistic)
    assert grid.values.shape == (2, 3)
    x, y = cell_edges(70, 32), cell_edges(50, 25)
    for j in range(2):
        for i in range(3):
            part = (slice(y[j], y[j + 1]), slice(x[i], x[i + 1]))
            pixels = image.image.array[part][good[part]].astype(float)
            mean, stdev, n = slow_clip(pixels, 3.0, 3)
            expected = {"MEANCLIP": mean, "MEAN": pixels.mean(), "MEDIAN": np.median(pixels)}[statistic]
            assert grid.values[j, i] == pytest.approx(expected, rel=1e-6)
            if statistic == "MEANCLIP":
                assert grid.squared_errors[j, i] == pytest.approx(stdev**2 / n, rel=1e-5)
    assert grid.x[0] == 5 + 0.5 * (x[0] + x[1]) - 0.5
    assert grid.y[1] == 9 + 0.5 * (y[1] + y[2]) - 0.5


@pytest.mark.parametrize("nan_safe", [False, True])
def test_pixels_that_are_not_finite(nan_safe: bool) -> None:
    image = make_visit_image(width=40, height=20)
    pixels = image.image.array
    pixels[3, 4] = np.nan
    good = np.ones(pixels.shape, dtype=bool)
    grid = measure_cells(pixels, good, image.bbox, cell_size=(20, 20), nan_safe=nan_safe)
    assert np.isfinite(grid.values[0, 1])
    assert np.isfinite(grid.values[0, 0]) == nan_safe
    good[:, 20:] = False
    grid = measure_cells(pixels, good, image.bbox, cell_size=(20, 20), nan_safe=nan_safe)
    assert np.isnan(grid.values[0, 1])
