"""Compiled fit of a round Gaussian weight, in Gauss-Hermite functions (Hirata & Seljak 2003, appendix C)."""

from __future__ import annotations

__all__ = ("fit_round", "fit_round_weight")

import math

import numpy as np
from numba import njit

from .limits import INVALID, MAX_STEPS, OK, THRESHOLD, TOO_MANY_STEPS, limited

_ROUND_REACH = 39.0
"""A round weight is zero beyond this many sigmas, as a float."""


@njit(cache=True, nogil=True, error_model="numpy")
def _hermite_columns(n: int, centre: float, sigma: float, functions: np.ndarray) -> tuple[int, int]:
    """Fill (3, n) with the Gauss-Hermite functions of order 0, 1, 2 without their norm; return the range.

    They are filled at pixels ``first`` to ``stop - 1``, beyond which there is nothing left of them.
    """
    reach = _ROUND_REACH * sigma
    # Compared as floats: a weight may reach farther than integers do.
    first = int(min(max(np.ceil(centre - reach), 0.0), float(n)))
    stop = int(min(max(np.floor(centre + reach) + 1.0, 0.0), float(n)))
    for i in range(first, stop):
        u = (i - centre) / sigma
        ground = math.exp(-0.5 * u * u)
        functions[0, i] = ground
        functions[1, i] = ground * u
        functions[2, i] = ground * (2.0 * u * u - 1.0)
    return first, max(stop, first)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _row_products(
    row: np.ndarray, f0: np.ndarray, f1: np.ndarray, f2: np.ndarray
) -> tuple[float, float, float]:
    """Return the sums of a row times each of three functions (n)."""
    s0 = s1 = s2 = 0.0
    for i in range(row.size):
        s0 += row[i] * f0[i]
        s1 += row[i] * f1[i]
        s2 += row[i] * f2[i]
    return s0, s1, s2


@njit(cache=True, nogil=True, error_model="numpy")
def _round_sums(pixels: np.ndarray, x: float, y: float, sigma: float, sums: np.ndarray) -> None:
    """Fill ``sums`` with those of I times the functions of orders (x, y) = 00, 10, 01, 20, 11, 02."""
    height, width = pixels.shape
    along_x, along_y = np.empty((3, width)), np.empty((3, height))
    x_first, x_stop = _hermite_columns(width, x, sigma, along_x)
    y_first, y_stop = _hermite_columns(height, y, sigma, along_y)
    f0, f1, f2 = along_x[0, x_first:x_stop], along_x[1, x_first:x_stop], along_x[2, x_first:x_stop]
    sums[:] = 0.0
    for j in range(y_first, y_stop):
        s0, s1, s2 = _row_products(pixels[j, x_first:x_stop], f0, f1, f2)
        sums[0] += s0 * along_y[0, j]
        sums[1] += s1 * along_y[0, j]
        sums[2] += s0 * along_y[1, j]
        sums[3] += s2 * along_y[0, j]
        sums[4] += s1 * along_y[1, j]
        sums[5] += s0 * along_y[2, j]


@njit(cache=True, nogil=True, error_model="numpy")
def fit_round_weight(pixels: np.ndarray, state: np.ndarray, sums: np.ndarray) -> int:
    """Fit a round weight and fill the six sums under it; return a code.

    ``state`` holds x, y (indices of ``pixels``) and sigma: the first guess, then the fit, then the number of
    steps.
    """
    x, y, sigma = state[0], state[1], state[2]
    guess = sigma
    largest = 1.0
    step = 0
    while largest > THRESHOLD:
        _round_sums(pixels, x, y, sigma, sums)
        dx = limited(2.0 * sums[1] / sums[0])
        dy = limited(2.0 * sums[2] / sums[0])
        growth = limited(0.5 * (sums[3] + sums[5]) / sums[0])
        if math.isnan(dx + dy + growth):
            return INVALID
        largest = max(abs(dx), abs(dy), abs(growth))
        if sigma < guess:
            largest *= guess / sigma
        x += dx * sigma
        y += dy * sigma
        sigma += growth * sigma
        step += 1
        if step > MAX_STEPS:
            return TOO_MANY_STEPS
    _round_sums(pixels, x, y, sigma, sums)
    state[0], state[1], state[2], state[3] = x, y, sigma, step
    return OK


@njit(cache=True, nogil=True, error_model="numpy")
def fit_round(pixels: np.ndarray, x: float, y: float, sigma: float, result: np.ndarray) -> int:
    """Fit with a round weight; x, y are indices of ``pixels``.  The fourth moment is not measured: NaN."""
    state = np.array([x, y, sigma, 0.0])
    sums = np.empty(6)
    code = fit_round_weight(pixels, state, sums)
    if code != OK:
        return code
    sigma = state[2]
    e1, e2 = 0.5 * (sums[3] - sums[5]) / sums[0], 2.0 * sums[4] / sums[0]
    result[0], result[1], result[2] = 2.0 * sums[0], state[0], state[1]
    result[7] = state[3]
    if not e1 * e1 + e2 * e2 < 1.0:
        return INVALID
    size = sigma * sigma / math.sqrt(1.0 - e1 * e1 - e2 * e2)
    result[3], result[4], result[5] = size * (1.0 + e1), size * e2, size * (1.0 - e1)
    return OK
