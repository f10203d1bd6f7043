"""Compiled adaptive Gaussian moments of one object (Hirata & Seljak 2003), as GalSim fits them."""

from __future__ import annotations

__all__ = (
    "COLLAPSED",
    "EMPTY",
    "INVALID",
    "NOT_FINITE",
    "NOT_POSITIVE",
    "OK",
    "OUTSIDE",
    "RESULT_SIZE",
    "RUNAWAY",
    "TOO_MANY_STEPS",
    "find_moments",
    "fit_ellipse",
    "fit_round_weight",
    "used_pixels",
)

import math

import numpy as np
from numba import njit

from .gaussian_sums import CUT, ellipse_sums
from .limits import (
    COLLAPSED,
    EMPTY,
    INVALID,
    MAX_CHANGE,
    MAX_STEPS,
    NOT_FINITE,
    NOT_POSITIVE,
    OK,
    OUTSIDE,
    RESULT_SIZE,
    RUNAWAY,
    THRESHOLD,
    TOO_MANY_STEPS,
    limited,
)
from .round_moments import fit_round, fit_round_weight

_MAX_MOMENT = 8000.0
_MAX_SHIFT = 15.0
_MIN_DETERMINANT = 1e-8
_MAX_GUESS = 1e9
_FARTHEST = math.ceil(_MAX_SHIFT + math.sqrt(CUT * _MAX_MOMENT / (1.0 - MAX_CHANGE)))
"""An elliptical weight sees no pixels farther than this from the first guess, unless it fails in one step."""


@njit(cache=True, nogil=True)
def _nonzero_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """Return the inclusive index box ``(x0, y0, x1, y1)`` of the pixels that are not zero; NaN is not."""
    height, width = image.shape
    x0, y0, x1, y1 = width, height, -1, -1
    for j in range(height):
        first = 0
        while first < width and image[j, first] == 0:
            first += 1
        if first == width:
            continue
        last = width - 1
        while image[j, last] == 0:
            last -= 1
        x0, x1 = min(x0, first), max(x1, last)
        y0, y1 = min(y0, j), j
    return x0, y0, x1, y1


@njit(cache=True, nogil=True)
def used_pixels(image: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Return the smallest box of pixels in use, float64, zero without weight, and its first pixel."""
    ix0, iy0, ix1, iy1 = _nonzero_box(image)
    wx0, wy0, wx1, wy1 = _nonzero_box(weight)
    x0, y0, x1, y1 = max(ix0, wx0), max(iy0, wy0), min(ix1, wx1), min(iy1, wy1)
    pixels = np.zeros((max(y1 - y0 + 1, 0), max(x1 - x0 + 1, 0)))
    for j in range(pixels.shape[0]):
        for i in range(pixels.shape[1]):
            if weight[y0 + j, x0 + i] > 0:
                pixels[j, i] = image[y0 + j, x0 + i]
    return pixels, x0, y0


@njit(cache=True, nogil=True, error_model="numpy")
def _check_state(m: np.ndarray, start_x: float, start_y: float) -> int:
    """Return the code for the weight ``m`` (x, y, xx, xy, yy) after a step."""
    if max(abs(m[2]), abs(m[3]), abs(m[4])) > _MAX_MOMENT:
        return RUNAWAY
    if abs(m[0] - start_x) > _MAX_SHIFT or abs(m[1] - start_y) > _MAX_SHIFT:
        return RUNAWAY
    if min(m[2], m[4]) < _MIN_DETERMINANT or m[2] * m[4] - m[3] * m[3] < _MIN_DETERMINANT:
        return COLLAPSED
    for value in m:
        if math.isnan(value):
            return NOT_FINITE
    return OK


@njit(cache=True, nogil=True, error_model="numpy")
def fit_ellipse(pixels: np.ndarray, start: np.ndarray, result: np.ndarray) -> int:
    """Fit with an elliptical weight from a guess (x, y, xx, xy, yy), indices of ``pixels``; return a code.

    ``pixels`` is as from `used_pixels`, ``result`` as of `find_moments`.
    """
    m = start.copy()
    used = np.empty(5)
    sums = np.zeros(7)
    columns = np.empty((3, pixels.shape[1]))
    first_scale = 0.0
    for step in range(1, MAX_STEPS + 1):
        used[:] = m
        code = ellipse_sums(pixels, m, columns, False, sums)
        if code != OK:
            return code
        minor = 0.5 * (m[2] + m[4] - math.sqrt((m[2] - m[4]) ** 2 + 4.0 * m[3] * m[3]))
        if not minor > 0.0:
            return NOT_POSITIVE
        scale = math.sqrt(minor)
        if step == 1:
            first_scale = scale
        largest = 0.0
        for k in range(5):
            if k < 2:
                change = limited(2.0 * sums[k + 1] / (sums[0] * scale))
                m[k] += change * scale
            else:
                change = limited(4.0 * (sums[k + 1] / sums[0] - 0.5 * m[k]) / minor)
                m[k] += change * minor
            if not abs(change) <= largest:
                largest = abs(change)
        code = _check_state(m, start[0], start[1])
        if code != OK:
            return code
        if scale < first_scale:
            largest *= first_scale / scale
        if largest <= THRESHOLD:
            result[0] = 2.0 * sums[0]
            result[1:6] = m
            ellipse_sums(pixels, used, columns, True, sums)
            result[6] = sums[6] / sums[0]
            result[7] = step
            return OK
    return TOO_MANY_STEPS


@njit(cache=True, nogil=True)
def _part_in_reach(centre: float, n: int) -> tuple[int, int]:
    """Return the range of indices, of 0 to n - 1, that an elliptical weight can reach from a first guess."""
    first = min(max(math.floor(centre) - _FARTHEST, 0), n)
    return first, max(min(math.ceil(centre) + _FARTHEST + 1, n), first)


@njit(cache=True, nogil=True)
def find_moments(
    image: np.ndarray,
    weight: np.ndarray,
    x: float,
    y: float,
    sigma: float,
    round_moments: bool,
    result: np.ndarray,
) -> int:
    """Measure the adaptive moments of one object; return `OK` or the code of the failure.

    Parameters
    ----------
    image
        Pixels (h, w), float32 or float64.
    weight
        Pixels with a weight above 0 are used, bool or number (h, w).  Others are zero, whatever they hold.
    x, y
        First guess of the centre, array indices.
    sigma
        First guess of the size, pixels.
    round_moments
        Whether the weight is kept round.
    result
        Filled with the flux of the matched Gaussian (twice the weighted sum), x, y (array indices), Mxx, Mxy,
        Myy (pixel^2), the weighted mean of the fourth power of the elliptical radius (NaN for a round weight)
        and the number of steps; all NaN after a failure, but flux and centre of an `INVALID` one.
    """
    result[:] = np.nan
    if not (abs(x) < _MAX_GUESS and abs(y) < _MAX_GUESS and abs(sigma) < _MAX_GUESS):
        return NOT_FINITE
    left = bottom = 0
    if not round_moments:
        left, right = _part_in_reach(x, image.shape[1])
        bottom, top = _part_in_reach(y, image.shape[0])
        image, weight = image[bottom:top, left:right], weight[bottom:top, left:right]
    pixels, x0, y0 = used_pixels(image, weight)
    if pixels.size == 0:
        return EMPTY
    x0, y0 = x0 + left, y0 + bottom
    if round_moments:
        code = fit_round(pixels, x - x0, y - y0, sigma, result)
    else:
        code = fit_ellipse(pixels, np.array([x - x0, y - y0, sigma * sigma, 0.0, sigma * sigma]), result)
    result[1] += x0
    result[2] += y0
    return code
