"""Counting statistics, bleeding, and interpolation of defects."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from secondlight.simulate.electronics import (
    _FEW,
    _poisson_of_normal,
    bleed,
    count_photons,
    interpolate_defects,
)

FULL = 100.0

_images = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    # Whole numbers fill pixels exactly; others do not.
    elements=st.one_of(st.integers(0, 300).map(float), st.floats(0, FULL), st.floats(FULL, 20 * FULL)),
)


def _bleed_slowly(charge: np.ndarray, full_well: float) -> tuple[np.ndarray, float]:
    """Walk with each half of each excess until it is used up; return the charge and what was lost."""
    charge = charge.copy()
    lost = 0.0
    for x in range(charge.shape[1]):
        column = charge[:, x]
        excess = [(y, value - full_well) for y, value in enumerate(column) if value > full_well]
        column[:] = np.minimum(column, full_well)
        for step in (1, -1):
            for start, total in excess:
                running, y = total / 2, start + step
                while running > 0 and 0 <= y < len(column):
                    taken = min(running, full_well - column[y])
                    column[y] += taken
                    running -= taken
                    y += step
                lost += running
    return charge, lost


@given(_images)
def test_bleed_agrees_with_walking_and_conserves_charge(image: np.ndarray) -> None:
    expected, lost = _bleed_slowly(image, FULL)
    before = image.sum()
    bled, saturated = bleed(image, FULL)
    assert bled is image
    assert bled.max() <= FULL
    np.testing.assert_allclose(bled, expected, rtol=1e-9, atol=1e-9)
    assert bled.sum() + lost == pytest.approx(before, rel=1e-9, abs=1e-9)
    np.testing.assert_array_equal(saturated, bled == FULL)


@given(_images)
def test_bleed_of_a_column_is_its_own(image: np.ndarray) -> None:
    together, _ = bleed(image.copy(), FULL)
    for x in range(image.shape[1]):
        alone, _ = bleed(image[:, x : x + 1].copy(), FULL)
        np.testing.assert_array_equal(together[:, x : x + 1], alone)


def test_bleed_runs_equally_far_up_and_down() -> None:
    image = np.zeros((41, 3))
    image[20, 1] = 11 * FULL
    bled, saturated = bleed(image, FULL)
    assert np.flatnonzero(saturated[:, 1]).tolist() == list(range(15, 26))
    np.testing.assert_array_equal(bled[:, 1], bled[::-1, 1])
    assert not saturated[:, [0, 2]].any()


def test_bleed_leaves_at_the_end_of_the_column() -> None:
    image = np.zeros((10, 1))
    image[1] = 11 * FULL
    bled, saturated = bleed(image, FULL)
    assert np.flatnonzero(saturated).tolist() == list(range(7))
    assert bled.sum() == pytest.approx(7 * FULL)


def test_bleed_leaves_images_without_excess_alone() -> None:
    image = np.random.default_rng(1).uniform(0, FULL, (20, 30))
    before = image.copy()
    bled, saturated = bleed(image, FULL)
    np.testing.assert_array_equal(bled, before)
    assert not saturated.any()


@pytest.mark.parametrize("full_well", [0.0, -1.0, np.nan])
def test_bleed_needs_a_full_well(full_well: float) -> None:
    with pytest.raises(ValueError, match="full well must be positive"):
        bleed(np.zeros((2, 2)), full_well)


@pytest.mark.parametrize("mean", [0.3, 8.0, 25.0, 25.5, 60.0, 1100.0, 40000.0])
def test_counts_have_the_moments_of_poisson(mean: float) -> None:
    counts = count_photons(np.full((1000, 2000), mean), np.random.default_rng(7))
    n = counts.size
    np.testing.assert_array_equal(counts, np.floor(counts))
    assert counts.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / n))
    assert counts.var() == pytest.approx(mean, abs=4 * np.sqrt((2 * mean**2 + mean) / n))
    skewness_error = np.sqrt(6 / n) * (1 + 3 / np.sqrt(mean))
    assert scipy.stats.skew(counts, axis=None) == pytest.approx(mean**-0.5, abs=4 * skewness_error)


@pytest.mark.parametrize("mean", [4.0, 25.5, 40.0, 150.0])
def test_counts_follow_poisson_number_by_number(mean: float) -> None:
    counts = count_photons(np.full((1000, 2000), mean), np.random.default_rng(3)).astype(int).ravel()
    low, high = (int(scipy.stats.poisson.ppf(p, mean)) for p in (1e-5, 1 - 1e-5))
    edges = np.arange(low, high + 1)
    found = np.bincount(np.clip(counts, low, high) - low, minlength=len(edges))
    expected = np.diff(scipy.stats.poisson.cdf(np.r_[-np.inf, edges[:-1], np.inf], mean)) * len(counts)
    assert scipy.stats.chisquare(found, expected, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("mean", [1.001 * _FEW, 100.0, 5000.0])
def test_normal_deviates_become_the_quantiles_of_poisson(mean: float) -> None:
    normal = np.linspace(-5.5, 5.5, 200_001, dtype=np.float32)[None]
    counts = np.empty(normal.shape)
    _poisson_of_normal(np.full(normal.shape, mean), normal, counts)
    cumulative = scipy.stats.norm.cdf(normal.astype(np.float64))
    missed = np.abs(counts - scipy.stats.poisson.ppf(cumulative, mean))
    weights = scipy.stats.norm.pdf(normal)
    assert missed.max() <= 1
    assert np.average(missed, weights=weights) < 2e-4
    average = np.average(counts, weights=weights)
    assert average == pytest.approx(mean, rel=1e-6, abs=1e-4)
    assert np.average((counts - average) ** 2, weights=weights) == pytest.approx(mean, rel=1e-4)


def test_counts_of_an_image_follow_each_pixel() -> None:
    expected = np.tile([0.0, 10.0, 1000.0, 90000.0], (20000, 1))
    counts = count_photons(expected, np.random.default_rng(5))
    error = np.sqrt(expected[0] / len(expected))
    assert (np.abs(counts.mean(axis=0) - expected[0]) <= 4 * error).all()
    assert abs(np.corrcoef(counts[:, 1], counts[:, 2])[0, 1]) < 0.03


@pytest.mark.parametrize("value", [-0.5, np.nan])
def test_counts_of_impossible_light_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"not be negative; the lowest is {value}"):
        count_photons(np.array([[3.0, value]]), np.random.default_rng(1))


def test_defects_are_interpolated_and_good_pixels_kept() -> None:
    counts = np.full((10, 20), 50, dtype=np.float32)
    counts[:, 10:] = 80
    variance = np.full_like(counts, 4.0)
    bad = np.zeros(counts.shape, dtype=bool)
    bad[:, 4] = bad[3, 15] = True
    expected = counts.copy()
    counts[bad] = 1e6
    interpolate_defects(counts, variance, bad)
    np.testing.assert_allclose(counts, expected, rtol=1e-5)
    assert (variance[~bad] == 4.0).all()
    assert (variance[bad] > 0).all()
    assert (variance[bad] < 8.0).all()


def test_rows_without_a_good_pixel_take_the_median() -> None:
    counts = np.full((5, 9), 50, dtype=np.float32)
    counts[2] = -1000
    variance = np.full_like(counts, 4.0)
    bad = counts < 0
    interpolate_defects(counts, variance, bad)
    np.testing.assert_array_equal(counts, 50)
    everything = np.ones_like(bad)
    counts[:] = 7
    interpolate_defects(counts, variance, everything)
    np.testing.assert_array_equal(counts, 7)
