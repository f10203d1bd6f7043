"""Compiled sums of an image under an elliptical Gaussian weight.

The weight goes from row to row by two multiplications per pixel instead of an exponential, all columns side
by side.
"""

from __future__ import annotations

__all__ = ("CUT", "ellipse_sums")

import math

import numpy as np
from numba import njit

from .limits import NOT_POSITIVE, OK, OUTSIDE, THRESHOLD

CUT = -2.0 * math.log(THRESHOLD / 10.0)
"""Square of the elliptical radius, in sigmas, at which the weight ends."""

# Within these limits the factors that carry the weight stay far from the ends of the number range.
_STEPPED_MIN_MOMENT = 0.1
_STEPPED_MAX_TILT = 0.875


@njit(cache=True, nogil=True)
def _row_reach(
    x: float, dy: float, w_xx: float, w_xy: float, w_yy: float, width: int
) -> tuple[int, int, bool]:
    """Return the first and last pixel of a row inside the weight, and whether the row meets it at all."""
    b = 2.0 * w_xy * dy
    d = b * b - 4.0 * w_xx * (w_yy * dy * dy - CUT)
    if d < 0.0:
        return 0, -1, False
    root = math.sqrt(d)
    half = 0.5 / w_xx
    first = math.ceil(half * (-b - root) + x)
    last = math.floor(half * (-b + root) + x)
    return max(first, 0), min(last, width - 1), True


@njit(cache=True, nogil=True, error_model="numpy")
def _direct_sums(
    pixels: np.ndarray,
    x: float,
    y: float,
    rows: tuple[int, int],
    w_xx: float,
    w_xy: float,
    w_yy: float,
    sums: np.ndarray,
) -> bool:
    """Fill ``sums`` as `_stepped_sums` does, with one exponential per pixel, and the seventh: sum(wI Q^2)."""
    sums[:] = 0.0
    for j in range(rows[0], rows[1] + 1):
        dy = j - y
        first, last, inside = _row_reach(x, dy, w_xx, w_xy, w_yy, pixels.shape[1])
        if not inside:
            return False
        for i in range(first, last + 1):
            dx = i - x
            q = w_yy * dy * dy + 2.0 * w_xy * dy * dx + w_xx * dx * dx
            term = math.exp(-0.5 * q) * pixels[j, i]
            sums[0] += term
            sums[1] += term * dx
            sums[2] += term * dy
            sums[3] += term * dx * dx
            sums[4] += term * dx * dy
            sums[5] += term * dy * dy
            sums[6] += term * q * q
    return True


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _row_sums(row: np.ndarray, weight: np.ndarray, dx: np.ndarray) -> tuple[float, float, float]:
    """Return sum(wI), sum(wI dx) and sum(wI dx dx) of pixels side by side."""
    total = along = square = 0.0
    for i in range(row.size):
        term = weight[i] * row[i]
        total += term
        along += term * dx[i]
        square += term * dx[i] * dx[i]
    return total, along, square


@njit(cache=True, nogil=True, error_model="numpy")
def _next_row(weight: np.ndarray, ratio: np.ndarray, change: float) -> None:
    """Carry weights one row up."""
    for i in range(weight.size):
        weight[i] *= ratio[i]
        ratio[i] *= change


@njit(cache=True, nogil=True, error_model="numpy")
def _stepped_sums(
    pixels: np.ndarray,
    x: float,
    y: float,
    rows: tuple[int, int],
    w_xx: float,
    w_xy: float,
    w_yy: float,
    reach: float,
    columns: np.ndarray,
    sums: np.ndarray,
) -> bool:
    """Fill ``sums`` with sum(wI), sum(wI dx), (dy), (dx dx), (dx dy), (dy dy); return False without a row.

    ``pixels`` is (h, w); x, y are array indices; the weight is exp(-Q/2) with
    Q = w_xx dx^2 + 2 w_xy dx dy + w_yy dy^2 where Q <= the cut, over an inclusive range of rows.  ``reach``
    is the half-width of the weight along x, ``columns`` (3, w) is working space.
    """
    sums[:] = 0.0
    start = max(math.ceil(x - reach), 0)
    stop = min(math.floor(x + reach) + 1, pixels.shape[1])
    width = max(stop - start, 0)
    weight, ratio, dx = columns[0, :width], columns[1, :width], columns[2, :width]
    left, dy = start - x, rows[0] - y
    value = math.exp(-0.5 * (w_xx * left * left + w_yy * dy * dy) - w_xy * left * dy)
    step, step_change = math.exp(-0.5 * w_xx * (2.0 * left + 1.0) - w_xy * dy), math.exp(-w_xx)
    up, up_change = math.exp(-0.5 * w_yy * (2.0 * dy + 1.0) - w_xy * left), math.exp(-w_xy)
    for i in range(width):
        dx[i], weight[i], ratio[i] = left + i, value, up
        value *= step
        step *= step_change
        up *= up_change
    change = math.exp(-w_yy)
    for j in range(rows[0], rows[1] + 1):
        dy = j - y
        first, last, inside = _row_reach(x - start, dy, w_xx, w_xy, w_yy, width)
        if not inside:
            return False
        part = slice(first, max(last + 1, first))
        total, along, square = _row_sums(pixels[j, start:stop][part], weight[part], dx[part])
        sums[0] += total
        sums[1] += along
        sums[2] += total * dy
        sums[3] += square
        sums[4] += along * dy
        sums[5] += total * dy * dy
        _next_row(weight, ratio, change)
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def ellipse_sums(
    pixels: np.ndarray, m: np.ndarray, columns: np.ndarray, fourth: bool, sums: np.ndarray
) -> int:
    """Fill ``sums``, with ``fourth`` all seven, for the weight ``m`` (x, y, xx, xy, yy); return a code."""
    x, y, m_xx, m_xy, m_yy = m
    det = m_xx * m_yy - m_xy * m_xy
    if not (det > 0.0 and m_xx > 0.0 and m_yy > 0.0):
        return NOT_POSITIVE
    w_xx, w_xy, w_yy = m_yy / det, -m_xy / det, m_xx / det
    reach = math.sqrt(CUT * m_yy)
    rows = max(math.ceil(y - reach), 0), min(math.floor(y + reach), pixels.shape[0] - 1)
    if rows[0] > rows[1]:
        return OUTSIDE
    narrow = m_xx < _STEPPED_MIN_MOMENT or m_yy < _STEPPED_MIN_MOMENT
    if fourth or narrow or m_xy * m_xy > _STEPPED_MAX_TILT * m_xx * m_yy:
        inside = _direct_sums(pixels, x, y, rows, w_xx, w_xy, w_yy, sums)
    else:
        reach = math.sqrt(CUT * m_xx)
        inside = _stepped_sums(pixels, x, y, rows, w_xx, w_xy, w_yy, reach, columns, sums)
    return OK if inside else OUTSIDE
