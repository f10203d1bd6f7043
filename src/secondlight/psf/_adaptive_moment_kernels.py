"""Compiled core of the adaptive Gaussian moments (spec finalize 9.3, reprocess 17.2)."""

from __future__ import annotations

__all__ = (
    "MAX_ITER",
    "SHIFT",
    "UNWEIGHTED",
    "UNWEIGHTED_BAD",
    "adaptive_moments_loop",
    "measure_one",
    "weighted_sums",
)

import math

import numpy as np
from numba import njit

UNWEIGHTED_BAD = 1
UNWEIGHTED = 2
SHIFT = 4
MAX_ITER = 8

_START = 1.5
_BOX_SIGMAS = 4.0
_MAX_BOX = 1000.0
_MIN_DETERMINANT = 1.1920929e-07
PIXEL_CUT = 14.0
SUBPIXEL_CUT = 9.0
_SUBPIXEL_STEP = 0.25
_SUBPIXEL_FIRST = -0.375


@njit(cache=True, nogil=True)
def needs_subpixels(xx: float, yy: float, xy: float) -> bool:
    """Whether a weight is so narrow that pixel-centre sums are too coarse."""
    return xx < 0.25 or yy < 0.25 or xx * yy - xy * xy < 0.0625


@njit(cache=True, nogil=True)
def weight_box(shape: tuple[int, int], x: float, y: float, xx: float, yy: float) -> tuple[int, int, int, int]:
    """Return the inclusive index box ``(x0, x1, y0, y1)`` of +-4 sigma about (x, y), clipped to the image."""
    half = min(_BOX_SIGMAS * math.sqrt(max(xx, yy)), _MAX_BOX)
    x0 = max(math.floor(x - half + 0.5), 0)
    x1 = min(math.ceil(x + half - 0.5), shape[1] - 1)
    y0 = max(math.floor(y - half + 0.5), 0)
    y1 = min(math.ceil(y + half - 0.5), shape[0] - 1)
    return x0, x1, y0, y1


@njit(cache=True, nogil=True)
def _subpixel_sums(
    value: float, dx: float, dy: float, w_xx: float, w_xy: float, w_yy: float, sums: np.ndarray
) -> None:
    """Add one pixel, sampled on its 4 x 4 sub-positions with equal shares of its value, to the six sums."""
    worst = 0.0
    for sy in (_SUBPIXEL_FIRST, -_SUBPIXEL_FIRST):
        for sx in (_SUBPIXEL_FIRST, -_SUBPIXEL_FIRST):
            px, py = dx + sx, dy + sy
            worst = max(worst, w_xx * px * px + 2.0 * w_xy * px * py + w_yy * py * py)
    if worst > SUBPIXEL_CUT:
        return
    for j in range(4):
        py = dy + _SUBPIXEL_FIRST + _SUBPIXEL_STEP * j
        for i in range(4):
            px = dx + _SUBPIXEL_FIRST + _SUBPIXEL_STEP * i
            q = w_xx * px * px + 2.0 * w_xy * px * py + w_yy * py * py
            term = value * math.exp(-0.5 * q) / 16.0
            sums[0] += term
            sums[1] += term * px
            sums[2] += term * py
            sums[3] += term * px * px
            sums[4] += term * px * py
            sums[5] += term * py * py


@njit(cache=True, nogil=True)
def _row_reach(x: float, w_xx: float, slope: float, rest: float, x0: int, x1: int) -> tuple[int, int]:
    """Return the first and last pixel of a row that may be inside the weight, one to spare at each end.

    Inside is where ``w_xx dx^2 + 2 slope dx + rest`` is below the cut; a row without such pixels is empty.
    """
    if w_xx <= 0.0:
        return x0, x1
    root = slope * slope - w_xx * (rest - PIXEL_CUT)
    if root < 0.0:
        return x0, x0 - 1
    half = math.sqrt(root) / w_xx
    middle = x - slope / w_xx
    # Compared as floats: a weight may reach farther than integers do.
    first = max(float(x0), math.floor(middle - half) - 1.0)
    last = min(float(x1), math.ceil(middle + half) + 1.0)
    if last < first:
        return x0, x0 - 1
    return int(first), int(last)


@njit(cache=True, nogil=True)
def weighted_sums(
    image: np.ndarray,
    x: float,
    y: float,
    box: tuple[int, int, int, int],
    w_xx: float,
    w_xy: float,
    w_yy: float,
    subpixels: bool,
    sums: np.ndarray,
) -> None:
    """Fill ``sums`` with sum(wI), sum(wI dx), (dy), (dx dx), (dx dy), (dy dy) over an inclusive index box.

    ``image`` is (h, w); x, y are array indices; the weight is exp(-Q/2) with
    Q = w_xx dx^2 + 2 w_xy dx dy + w_yy dy^2.
    """
    x0, x1, y0, y1 = box
    sums[:] = 0.0
    if subpixels:
        for j in range(y0, y1 + 1):
            for i in range(x0, x1 + 1):
                _subpixel_sums(float(image[j, i]), i - x, j - y, w_xx, w_xy, w_yy, sums)
        return
    change = math.exp(-w_xx)
    for j in range(y0, y1 + 1):
        dy = j - y
        slope, rest = w_xy * dy, w_yy * dy * dy
        first, last = _row_reach(x, w_xx, slope, rest, x0, x1)
        if last < first:
            continue
        # Along a row the ratio of neighbouring weights changes by a constant factor: no exponential each.
        dx = first - x
        weight = math.exp(-0.5 * (w_xx * dx * dx + 2.0 * slope * dx + rest))
        ratio = math.exp(-0.5 * (w_xx * (2.0 * dx + 1.0) + 2.0 * slope))
        total = along = square = 0.0
        for i in range(first, last + 1):
            dx = i - x
            if w_xx * dx * dx + 2.0 * slope * dx + rest <= PIXEL_CUT:
                term = float(image[j, i]) * weight
                total += term
                along += term * dx
                square += term * dx * dx
            weight *= ratio
            ratio *= change
        sums[0] += total
        sums[1] += along
        sums[2] += total * dy
        sums[3] += square
        sums[4] += along * dy
        sums[5] += total * dy * dy


@njit(cache=True, nogil=True)
def _sums_usable(sums: np.ndarray) -> bool:
    return bool(sums[0] > 0 and sums[3] > 0 and sums[5] > 0)


@njit(cache=True, nogil=True)
def _iterate(
    image: np.ndarray,
    x: float,
    y: float,
    max_iter: int,
    max_shift: float,
    tol1: float,
    tol2: float,
    max_sigma: float,
    weight: np.ndarray,
    sums: np.ndarray,
    centre: np.ndarray,
) -> int:
    """Iterate to the fixed point and return the flags; the last three arrays hold the last state."""
    flags = 0
    subpixels = False
    old_e1 = old_e2 = old_xx = 1e6
    for iteration in range(max_iter):
        xx, yy, xy = weight
        det = xx * yy - xy * xy
        if not det >= _MIN_DETERMINANT:
            return flags | UNWEIGHTED
        subpixels = subpixels or needs_subpixels(xx, yy, xy)
        box = weight_box(image.shape, x, y, xx, yy)
        w_xx, w_yy, w_xy = yy / det, xx / det, -xy / det
        weighted_sums(image, x, y, box, w_xx, w_xy, w_yy, subpixels, sums)
        if not _sums_usable(sums):
            return flags | UNWEIGHTED
        centre[0], centre[1] = x + sums[1] / sums[0], y + sums[2] / sums[0]
        if abs(sums[1] / sums[0]) > max_shift or abs(sums[2] / sums[0]) > max_shift:
            flags |= SHIFT
        o_xx, o_xy, o_yy = sums[3] / sums[0], sums[4] / sums[0], sums[5] / sums[0]
        e1 = (o_xx - o_yy) / (o_xx + o_yy)
        e2 = 2.0 * o_xy / (o_xx + o_yy)
        close = abs(e1 - old_e1) < tol1 and abs(e2 - old_e2) < tol1
        if iteration > 0 and close and abs(o_xx / old_xx - 1.0) < tol2:
            return flags
        old_e1, old_e2, old_xx = e1, e2, o_xx
        o_det = o_xx * o_yy - o_xy * o_xy
        if not o_xx * o_yy > (1.0 + 1e-6) * o_xy * o_xy:
            return flags | UNWEIGHTED
        n_xx, n_yy, n_xy = o_yy / o_det - w_xx, o_xx / o_det - w_yy, -o_xy / o_det - w_xy
        n_det = n_xx * n_yy - n_xy * n_xy
        if not (n_det > 0 and n_xx > 0 and n_yy > 0):
            return flags | UNWEIGHTED
        if not max(n_xx, n_yy) <= max_sigma * max_sigma * n_det:
            return flags | UNWEIGHTED
        weight[0], weight[1], weight[2] = n_yy / n_det, n_xx / n_det, -n_xy / n_det
    return flags | MAX_ITER | UNWEIGHTED


@njit(cache=True, nogil=True)
def measure_one(
    image: np.ndarray,
    x: float,
    y: float,
    max_iter: int,
    max_shift: float,
    tol1: float,
    tol2: float,
    max_sigma: float,
    result: np.ndarray,
) -> int:
    """Measure one object; fill ``result`` (x, y, xx, yy, xy, weighted sum) and return the flags.

    x, y are array indices of the fixed centre; the returned position is that of the last weighted sums.
    Unweighted moments have no weighted sum.  A weight that would get wider than ``max_sigma`` on either axis
    is given up as a failure of the weighted moments.
    """
    weight = np.array([_START, _START, 0.0])
    sums = np.zeros(6)
    result[:] = np.nan
    if not (x >= -0.5 and y >= -0.5 and x < image.shape[1] - 0.5 and y < image.shape[0] - 0.5):
        return UNWEIGHTED_BAD
    flags = _iterate(image, x, y, max_iter, max_shift, tol1, tol2, max_sigma, weight, sums, result[:2])
    result[5] = sums[0]
    if flags & UNWEIGHTED:
        box = weight_box(image.shape, x, y, weight[0], weight[1])
        weighted_sums(image, x, y, box, 0.0, 0.0, 0.0, False, sums)
        if _sums_usable(sums):
            weight[0], weight[1], weight[2] = sums[3] / sums[0], sums[5] / sums[0], sums[4] / sums[0]
        else:
            flags = (flags & ~UNWEIGHTED) | UNWEIGHTED_BAD
            good = sums[0] > 0
            weight[0] = weight[1] = 1.0 / 12.0 if good else np.nan
            weight[2] = 0.0 if good else np.nan
        result[5] = np.nan
    result[2], result[3], result[4] = weight[0], weight[1], weight[2]
    return flags


@njit(cache=True, nogil=True)
def adaptive_moments_loop(
    images: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    max_iter: int,
    max_shift: float,
    tol1: float,
    tol2: float,
    max_sigma: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure images (n, h, w) about array positions x, y (n); return results (n, 6) and flags (n)."""
    n = images.shape[0]
    results = np.empty((n, 6))
    flags = np.zeros(n, np.int64)
    for k in range(n):
        flags[k] = measure_one(images[k], x[k], y[k], max_iter, max_shift, tol1, tol2, max_sigma, results[k])
    return results, flags
