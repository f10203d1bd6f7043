"""Compiled moments of PSF images with the flux and the noise of their stars."""

from __future__ import annotations

__all__ = ("debiased_moments_loop", "normal_deviates")

import math

import numpy as np
from numba import njit

from ..pixels import SourcePixels
from .moment_loops import FAILED, NO_PIXELS, NO_PSF, OFF_IMAGE, VALUES, outcome_of
from .moments import find_moments

# SplitMix64 (Steele, Lea & Flood 2014): a counter and a hash that mixes its bits.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
_FACTOR_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11))
_SCALE = 2.0**-52


@njit(cache=True, nogil=True)
def _hash(value: np.uint64) -> np.uint64:
    """Return 64 well-mixed bits of 64 bits."""
    value = (value ^ (value >> _SHIFTS[0])) * _FACTOR_1
    value = (value ^ (value >> _SHIFTS[1])) * _FACTOR_2
    return value ^ (value >> _SHIFTS[2])


@njit(cache=True, nogil=True)
def normal_deviates(seed: np.uint64, values: np.ndarray) -> None:
    """Fill ``values`` (n) with normal deviates that depend on a seed alone, by Marsaglia's polar method."""
    state = _hash(seed)
    for k in range(0, values.size, 2):
        u = v = square = 0.0
        while not 0.0 < square < 1.0:
            state += _STEP
            u = float(_hash(state) >> _SHIFTS[3]) * _SCALE - 1.0
            state += _STEP
            v = float(_hash(state) >> _SHIFTS[3]) * _SCALE - 1.0
            square = u * u + v * v
        factor = math.sqrt(-2.0 * math.log(square) / square)
        values[k] = u * factor
        if k + 1 < values.size:
            values[k + 1] = v * factor


@njit(cache=True, nogil=True)
def _add_noise(
    stamp: np.ndarray,
    weight: np.ndarray,
    pixels: SourcePixels,
    bad: np.ndarray,
    x0: int,
    y0: int,
    level: float,
) -> None:
    """Turn a stamp of deviates into noise and set its weight; arguments as of `debiased_moments_loop`."""
    height, width = bad.shape
    for j in range(stamp.shape[0]):
        for i in range(stamp.shape[1]):
            jj, ii = y0 + j - pixels.y0, x0 + i - pixels.x0
            inside = 0 <= jj < height and 0 <= ii < width
            variance = level
            if math.isnan(level):
                variance = float(pixels.variance[jj, ii]) if inside else math.nan
            good = 0.0 <= variance < math.inf and not (inside and bad[jj, ii])
            weight[j, i] = good
            stamp[j, i] *= math.sqrt(variance) if good else 0.0


@njit(cache=True, nogil=True)
def debiased_moments_loop(
    images: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    sigma: np.ndarray,
    flux: np.ndarray,
    seeds: np.ndarray,
    pixels: SourcePixels,
    bad: np.ndarray,
    level: float,
    round_moments: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure n PSF images with the flux and the noise of stars.

    Parameters
    ----------
    images
        PSF images of unit sum (n, h, w).
    x0, y0
        Parent pixel of the first element of each, int (n).
    x, y, sigma
        First guesses: centres (n, indices of the stamps) and sizes (n, pixels).
    flux
        Fluxes of the stars (n).
    seeds
        Seeds of the noise, uint64 (n).
    pixels
        Pixels of the image, for its origin and the variance.
    bad
        Pixels without weight, bool, of the shape of the image; so are those whose variance is not usable.
    level
        Variance of the noise; NaN to take that of each pixel of the image.
    round_moments
        Whether the weight is kept round.

    Returns
    -------
    values
        Those of `find_moments`, (n, `VALUES`); NaN where there are none.
    outcomes
        What became of each image, int (n).
    clipped
        Whether the image reaches over the edge, bool (n).
    """
    n, height, width = images.shape
    values, outcomes = np.full((n, VALUES), np.nan), np.zeros(n, np.int64)
    clipped = np.zeros(n, np.bool_)
    stamp, weight = np.empty((height, width)), np.empty((height, width), np.bool_)
    for k in range(n):
        if not (np.isfinite(sigma[k]) and np.isfinite(images[k, 0, 0])):
            outcomes[k] = NO_PSF
            continue
        i0, j0 = x0[k] - pixels.x0, y0[k] - pixels.y0
        clipped[k] = i0 < 0 or j0 < 0 or i0 + width > bad.shape[1] or j0 + height > bad.shape[0]
        if clipped[k] and math.isnan(level):
            outcomes[k] = OFF_IMAGE
        elif not 0.0 < flux[k] < math.inf:
            outcomes[k] = FAILED
        else:
            normal_deviates(seeds[k], stamp.reshape(-1))
            _add_noise(stamp, weight, pixels, bad, x0[k], y0[k], level)
            stamp += flux[k] * images[k]
            outcomes[k] = NO_PIXELS
            if weight.any():
                code = find_moments(stamp, weight, x[k], y[k], sigma[k], round_moments, values[k])
                outcomes[k] = outcome_of(code)
    return values, outcomes, clipped
