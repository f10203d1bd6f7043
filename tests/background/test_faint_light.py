"""The light of undetected objects in smoothed noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage

from secondlight.background.faint_light import faint_light

_WIDTH = 2.0
_AREA = 4.0 * math.pi * _WIDTH**2


def _noise(shape: tuple[int, int], seed: int, *, sigma: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    return scipy.ndimage.gaussian_filter(noise, _WIDTH, mode="wrap") * math.sqrt(_AREA) * sigma


def _faint(shape: tuple[int, int], seed: int, *, index: float, density: float) -> np.ndarray:
    """Return point sources with N(> f) ~ f^-index, from a tenth of a sigma to 3 sigma at their peaks."""
    random = np.random.default_rng(seed)
    n = random.poisson(density * shape[0] * shape[1])
    low, high = 0.1**-index, 3.0**-index
    flux = (high + (low - high) * random.uniform(size=n)) ** (-1.0 / index)
    image = np.zeros(shape)
    np.add.at(image, (random.integers(0, shape[0], n), random.integers(0, shape[1], n)), flux)
    return scipy.ndimage.gaussian_filter(image, _WIDTH, mode="wrap") * 2.0 * math.pi * _WIDTH**2


def _estimate(pixels: np.ndarray, *, sigma: float = 1.0) -> float:
    return faint_light(pixels.ravel(), sigma=sigma, limit=4.0, index=0.8, area=_AREA)


def test_light_of_faint_sources_is_told_from_their_skewness() -> None:
    shape = (1000, 1000)
    light = _faint(shape, 1, index=0.8, density=1 / 30)
    pixels = _noise(shape, 2) + light
    pixels -= pixels.mean()
    assert light.mean() == pytest.approx(0.35, abs=0.1)
    assert _estimate(pixels) == pytest.approx(light.mean(), rel=0.35)


def test_it_scales_with_the_unit() -> None:
    pixels = _noise((600, 600), 2) + _faint((600, 600), 1, index=0.8, density=1 / 40)
    assert _estimate(37.0 * pixels, sigma=37.0) == pytest.approx(37.0 * _estimate(pixels), rel=1e-6)


def test_the_level_does_not_matter() -> None:
    pixels = _noise((600, 600), 2) + _faint((600, 600), 1, index=0.8, density=1 / 40)
    assert _estimate(pixels) > 0.05
    assert _estimate(pixels + 0.1) == pytest.approx(_estimate(pixels), rel=0.05)


def test_noise_alone_has_none_in_the_mean() -> None:
    """An estimate from noise is shrunk: half of them to zero, the rest to well below their error."""
    estimates = [_estimate(_noise((300, 300), seed, sigma=1.0 + 0.1 * (seed % 3))) for seed in range(20)]
    error = 5.4 * math.sqrt(_AREA / 300**2)
    assert np.mean(np.array(estimates) == 0.0) > 0.4
    assert np.mean(estimates) < 0.4 * error


@pytest.mark.parametrize("pixels", [np.empty(0), np.full(5, 100.0), np.array([0.3])])
def test_nothing_to_tell_it_from(pixels: np.ndarray) -> None:
    assert _estimate(pixels) == 0.0
    assert _estimate(pixels, sigma=0.0) == 0.0
    assert _estimate(pixels, sigma=math.nan) == 0.0
