"""Compiled adaptive Gaussian moments of Hirata & Seljak (2003, MNRAS 343, 459), iterated as GalSim does.

The fit follows the ``hsm`` module of GalSim (BSD licence; C. Hirata, R. Mandelbaum, U. Seljak and the GalSim
developers) step for step: start, limits of each step, pixels inside the weight, convergence and failures are
the same, so that the results agree to rounding.  What differs is how sums are made: the Gaussian weight goes
from row to row by two multiplications per pixel instead of an exponential, all columns side by side.
"""

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

OK = 0
EMPTY = 1
"""No pixel has weight, or those that have are all zero."""
NOT_POSITIVE = 2
"""The moments of the weight are not positive definite."""
OUTSIDE = 3
"""The weight does not reach the image."""
RUNAWAY = 4
"""A moment or the shift of the centre became too large."""
COLLAPSED = 5
"""The weight shrank to a point."""
TOO_MANY_STEPS = 6
NOT_FINITE = 7
INVALID = 8
"""The distortion, with a round weight, is not below 1."""

RESULT_SIZE = 8

_THRESHOLD = 1e-6
_CUT = -2.0 * math.log(_THRESHOLD / 10.0)
_MAX_STEPS = 400
_MAX_CHANGE = 0.25
_MAX_MOMENT = 8000.0
_MAX_SHIFT = 15.0
_MIN_DETERMINANT = 1e-8
_MAX_GUESS = 1e9
_FARTHEST = math.ceil(_MAX_SHIFT + math.sqrt(_CUT * _MAX_MOMENT))
"""An elliptical weight never sees pixels farther than this from the first guess."""
_ROUND_REACH = 39.0
"""A round weight is zero beyond this many sigmas, as a float."""

# Within these limits the factors that carry the weight stay far from the ends of the number range.
_STEPPED_MIN_MOMENT = 0.1
_STEPPED_MAX_TILT = 0.875


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


@njit(cache=True, nogil=True)
def _row_reach(
    x: float, dy: float, w_xx: float, w_xy: float, w_yy: float, width: int
) -> tuple[int, int, bool]:
    """Return the first and last pixel of a row inside the weight, and whether the row meets it at all."""
    b = 2.0 * w_xy * dy
    d = b * b - 4.0 * w_xx * (w_yy * dy * dy - _CUT)
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
    dy = rows[0] - y
    for i in range(width):
        dx[i] = start + i - x
        weight[i] = math.exp(-0.5 * (w_xx * dx[i] * dx[i] + w_yy * dy * dy) - w_xy * dx[i] * dy)
        ratio[i] = math.exp(-0.5 * w_yy * (2.0 * dy + 1.0) - w_xy * dx[i])
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
def _limited(change: float) -> float:
    """Return a change of the weight held inside its limits; NaN stays NaN."""
    if change > _MAX_CHANGE:
        return _MAX_CHANGE
    if change < -_MAX_CHANGE:
        return -_MAX_CHANGE
    return change


@njit(cache=True, nogil=True, error_model="numpy")
def _ellipse_sums(
    pixels: np.ndarray, m: np.ndarray, columns: np.ndarray, fourth: bool, sums: np.ndarray
) -> int:
    """Fill ``sums``, with ``fourth`` all seven, for the weight ``m`` (x, y, xx, xy, yy); return a code."""
    x, y, m_xx, m_xy, m_yy = m
    det = m_xx * m_yy - m_xy * m_xy
    if not (det > 0.0 and m_xx > 0.0 and m_yy > 0.0):
        return NOT_POSITIVE
    w_xx, w_xy, w_yy = m_yy / det, -m_xy / det, m_xx / det
    reach = math.sqrt(_CUT * m_yy)
    rows = max(math.ceil(y - reach), 0), min(math.floor(y + reach), pixels.shape[0] - 1)
    if rows[0] > rows[1]:
        return OUTSIDE
    narrow = m_xx < _STEPPED_MIN_MOMENT or m_yy < _STEPPED_MIN_MOMENT
    if fourth or narrow or m_xy * m_xy > _STEPPED_MAX_TILT * m_xx * m_yy:
        inside = _direct_sums(pixels, x, y, rows, w_xx, w_xy, w_yy, sums)
    else:
        reach = math.sqrt(_CUT * m_xx)
        inside = _stepped_sums(pixels, x, y, rows, w_xx, w_xy, w_yy, reach, columns, sums)
    return OK if inside else OUTSIDE


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
    for step in range(1, _MAX_STEPS + 1):
        used[:] = m
        code = _ellipse_sums(pixels, m, columns, False, sums)
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
                change = _limited(2.0 * sums[k + 1] / (sums[0] * scale))
                m[k] += change * scale
            else:
                change = _limited(4.0 * (sums[k + 1] / sums[0] - 0.5 * m[k]) / minor)
                m[k] += change * minor
            if not abs(change) <= largest:
                largest = abs(change)
        code = _check_state(m, start[0], start[1])
        if code != OK:
            return code
        if scale < first_scale:
            largest *= first_scale / scale
        if largest <= _THRESHOLD:
            result[0] = 2.0 * sums[0]
            result[1:6] = m
            _ellipse_sums(pixels, used, columns, True, sums)
            result[6] = sums[6] / sums[0]
            result[7] = step
            return OK
    return TOO_MANY_STEPS


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
    while largest > _THRESHOLD:
        _round_sums(pixels, x, y, sigma, sums)
        dx = _limited(2.0 * sums[1] / sums[0])
        dy = _limited(2.0 * sums[2] / sums[0])
        growth = _limited(0.5 * (sums[3] + sums[5]) / sums[0])
        if math.isnan(dx + dy + growth):
            return INVALID
        largest = max(abs(dx), abs(dy), abs(growth))
        if sigma < guess:
            largest *= guess / sigma
        x += dx * sigma
        y += dy * sigma
        sigma += growth * sigma
        step += 1
        if step > _MAX_STEPS:
            return TOO_MANY_STEPS
    _round_sums(pixels, x, y, sigma, sums)
    state[0], state[1], state[2], state[3] = x, y, sigma, step
    return OK


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_round(pixels: np.ndarray, x: float, y: float, sigma: float, result: np.ndarray) -> int:
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
        code = _fit_round(pixels, x - x0, y - y0, sigma, result)
    else:
        code = fit_ellipse(pixels, np.array([x - x0, y - y0, sigma * sigma, 0.0, sigma * sigma]), result)
    result[1] += x0
    result[2] += y0
    return code
