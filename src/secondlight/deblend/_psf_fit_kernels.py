"""Compiled least-squares fits of point sources to the peaks of blends; the slow twins are in the tests.

All positions are array indices (column x, row y); the stamp ``k`` of an array of PSF images has its first
pixel at ``(sx[k], sy[k])``.
"""

from __future__ import annotations

__all__ = ("BAD_DOF", "FITTED", "NO_VALID_PIXEL", "TINY", "UNSOLVED", "fit_point_source", "fit_point_sources")

import math

import numpy as np
from numba import njit

FITTED, TINY, NO_VALID_PIXEL, BAD_DOF = 0, 1, 2, 3

UNSOLVED = 1e30
"""Stands for the chi^2 of a fit that has no unique solution."""

_N_SHAPE_TERMS = 4
_MIN_PIVOT = 1e-12
_NEGLIGIBLE = 1e-12


@njit(cache=True, nogil=True)
def _solve(gram: np.ndarray, moment: np.ndarray, n: int) -> tuple[bool, np.ndarray]:
    """Solve the leading n normal equations, scaled to unit diagonal, by Cholesky decomposition."""
    solution = np.zeros(n)
    scale = np.empty(n)
    for i in range(n):
        if not gram[i, i] > 0:
            return False, solution
        scale[i] = 1.0 / math.sqrt(gram[i, i])
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            value = gram[i, j] * scale[i] * scale[j]
            for k in range(j):
                value -= lower[i, k] * lower[j, k]
            if i != j:
                lower[i, j] = value / lower[j, j]
            elif value > _MIN_PIVOT:
                lower[i, i] = math.sqrt(value)
            else:
                return False, solution
    for i in range(n):
        value = moment[i] * scale[i]
        for k in range(i):
            value -= lower[i, k] * solution[k]
        solution[i] = value / lower[i, i]
    for i in range(n - 1, -1, -1):
        value = solution[i]
        for k in range(i + 1, n):
            value -= lower[k, i] * solution[k]
        solution[i] = value / lower[i, i]
    for i in range(n):
        solution[i] *= scale[i]
    return True, solution


@njit(cache=True, nogil=True)
def _chi2(columns: np.ndarray, data: np.ndarray, n_terms: int, solution: np.ndarray) -> float:
    """Return the sum of squared residuals of weighted columns (n_columns, n_pixels)."""
    chi2 = 0.0
    for p in range(len(data)):
        residual = data[p]
        for i in range(n_terms):
            residual -= columns[i, p] * solution[i]
        chi2 += residual * residual
    return chi2


@njit(cache=True, nogil=True)
def _fit(
    columns: np.ndarray, gram: np.ndarray, data: np.ndarray, moment: np.ndarray, n_terms: int
) -> tuple[float, np.ndarray]:
    """Fit the first terms and return their chi^2 and coefficients."""
    if len(data) <= n_terms:
        return UNSOLVED, np.zeros(n_terms)
    solved, solution = _solve(gram, moment, n_terms)
    if not solved:
        return UNSOLVED, solution
    return _chi2(columns, data, n_terms, solution), solution


@njit(cache=True, nogil=True)
def _stamp_value(stamp: np.ndarray, i: int, j: int) -> float:
    """Return the pixel (i, j) of a stamp, 0 outside of it."""
    if 0 <= j < stamp.shape[0] and 0 <= i < stamp.shape[1]:
        return float(stamp[j, i])
    return 0.0


@njit(cache=True, nogil=True)
def _valid_pixels(
    image: np.ndarray,
    variance: np.ndarray,
    owner: np.ndarray,
    row: int,
    cx: int,
    cy: int,
    stamp_box: tuple[int, int, int, int],
    r0: float,
    r1: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return x, y and weight (1 / sigma, tapered) of the usable pixels, and the sum of the tapers."""
    x0, y0, x1, y1 = stamp_box
    size = (x1 - x0 + 1) * (y1 - y0 + 1)
    xs = np.empty(size, np.int64)
    ys = np.empty(size, np.int64)
    weight = np.empty(size)
    total = 0.0
    n = 0
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            r2 = (x - cx) ** 2 + (y - cy) ** 2
            if owner[y, x] != row or r2 > r1 * r1 or not variance[y, x] > 0:
                continue
            if not (math.isfinite(image[y, x]) and math.isfinite(variance[y, x])):
                continue
            r = math.sqrt(r2)
            ramp = 1.0 if r <= r0 else max(0.0, 1.0 - (r - r0) / (r1 - r0))
            xs[n] = x
            ys[n] = y
            weight[n] = math.sqrt(ramp / variance[y, x])
            total += ramp
            n += 1
    return xs[:n], ys[:n], weight[:n], total


@njit(cache=True, nogil=True)
def _neighbour_columns(
    columns: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    weight: np.ndarray,
    neighbours: np.ndarray,
    stamps: np.ndarray,
    sx: np.ndarray,
    sy: np.ndarray,
) -> int:
    """Append the PSF images of neighbours that reach the pixels; return the number of columns in use."""
    n = _N_SHAPE_TERMS
    own = 0.0
    for p in range(len(xs)):
        own += columns[0, p] ** 2
    for k in neighbours:
        norm = 0.0
        for p in range(len(xs)):
            columns[n, p] = weight[p] * _stamp_value(stamps[k], xs[p] - sx[k], ys[p] - sy[k])
            norm += columns[n, p] ** 2
        # A neighbour without light here would only make the equations singular.
        if norm > _NEGLIGIBLE * own:
            n += 1
    return n


@njit(cache=True, nogil=True)
def fit_point_source(
    image: np.ndarray,
    variance: np.ndarray,
    owner: np.ndarray,
    row: int,
    box: np.ndarray,
    cx: int,
    cy: int,
    fwhm: float,
    smallest: int,
    peak: int,
    neighbours: np.ndarray,
    stamps: np.ndarray,
    sx: np.ndarray,
    sy: np.ndarray,
) -> tuple[int, float, float, float, float, float]:
    """Fit a point source and its neighbours to the pixels about a peak (spec reprocess 15.4, fitPsfs).

    Parameters
    ----------
    image, variance
        Pixels (h, w).
    owner
        Row of the footprint that each pixel belongs to (h, w).
    row
        Row of the blend.
    box
        Inclusive box (x0, y0, x1, y1) of the blend.
    cx, cy
        Pixel of the peak.
    fwhm
        Full width at half maximum of the PSF, pixels.
    smallest
        A stamp with a side of this many pixels or fewer is not fitted.
    peak, neighbours
        Index of the source to be fitted, and of those that may shine on it.
    stamps, sx, sy
        PSF images of all sources, and their first pixels.

    Returns
    -------
    status, chi2, flux, chi2_free, dx, dy
        Status; chi^2 per degree of freedom and flux without shift, and chi^2 per degree of freedom and shift
        (pixels) with the derivatives of the PSF as two more terms.
    """
    r0, r1 = math.ceil(fwhm), math.ceil(1.5 * fwhm)
    own, own_x, own_y = stamps[peak], sx[peak], sy[peak]
    x0, x1 = max(cx - r1, box[0]), min(cx + r1, box[2])
    y0, y1 = max(cy - r1, box[1]), min(cy + r1, box[3])
    failed = (UNSOLVED, 0.0, UNSOLVED, 0.0, 0.0)
    if min(x1 - x0, y1 - y0) + 1 <= smallest:
        return TINY, *failed
    xs, ys, weight, total = _valid_pixels(image, variance, owner, row, cx, cy, (x0, y0, x1, y1), r0, r1)
    if not len(xs):
        return NO_VALID_PIXEL, *failed
    columns = np.empty((_N_SHAPE_TERMS + len(neighbours) + 3, len(xs)))
    data = np.empty(len(xs))
    for p in range(len(xs)):
        data[p] = weight[p] * image[ys[p], xs[p]]
        columns[0, p] = weight[p] * _stamp_value(own, xs[p] - own_x, ys[p] - own_y)
        columns[1, p] = weight[p]
        columns[2, p] = weight[p] * (xs[p] - cx)
        columns[3, p] = weight[p] * (ys[p] - cy)
    n = _neighbour_columns(columns, xs, ys, weight, neighbours, stamps, sx, sy)
    if total <= n + 2:
        return BAD_DOF, *failed
    for p in range(len(xs)):
        i, j = xs[p] - own_x, ys[p] - own_y
        columns[n, p] = 0.5 * weight[p] * (_stamp_value(own, i + 1, j) - _stamp_value(own, i - 1, j))
        columns[n + 1, p] = 0.5 * weight[p] * (_stamp_value(own, i, j + 1) - _stamp_value(own, i, j - 1))
    used = columns[: n + 2]
    gram = used @ used.T
    moment = used @ data
    chi2, solution = _fit(used, gram, data, moment, n)
    chi2_free, free = _fit(used, gram, data, moment, n + 2)
    dx = dy = np.inf
    if chi2_free < UNSOLVED and free[0] != 0:
        # P(x - d) = P(x) - d P'(x): the shift is *minus* the ratio of the coefficients.
        dx, dy = -free[n] / free[0], -free[n + 1] / free[0]
    return FITTED, chi2 / (total - n), solution[0], chi2_free / (total - n - 2), dx, dy


@njit(cache=True, nogil=True)
def fit_point_sources(
    image: np.ndarray,
    variance: np.ndarray,
    owner: np.ndarray,
    rows: np.ndarray,
    boxes: np.ndarray,
    offsets: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    fwhm: np.ndarray,
    smallest: int,
    stamps: np.ndarray,
    sx: np.ndarray,
    sy: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit point sources to all peaks.

    Parameters
    ----------
    image, variance, owner
        Pixels and the footprint row each belongs to (h, w).
    rows, boxes, offsets, fwhm
        Footprint row, box, first peak and PSF width of each blend.
    x, y
        Pixel of each peak (p).
    smallest
        A stamp with a side of this many pixels or fewer is not fitted.
    stamps, sx, sy
        PSF images of the sources at the peaks (p, size, size), wherever they are thought to be, and their
        first pixels.

    Returns
    -------
    status
        What became of each fit, int64 (p).
    results
        chi2, flux, chi2_free, dx, dy of each fit as `fit_point_source` returns them, float64 (p, 5).
    """
    status = np.empty(len(x), np.int64)
    results = np.empty((len(x), 5))
    reach = 0.5 * min(stamps.shape[1], stamps.shape[2])
    for b in range(len(rows)):
        r2 = math.ceil(1.5 * fwhm[b]) + reach
        near = np.empty(offsets[b + 1] - offsets[b], np.int64)
        for peak in range(offsets[b], offsets[b + 1]):
            n = 0
            for k in range(offsets[b], offsets[b + 1]):
                if k != peak and (x[k] - x[peak]) ** 2 + (y[k] - y[peak]) ** 2 <= r2 * r2:
                    near[n] = k
                    n += 1
            status[peak], chi2, flux, chi2_free, dx, dy = fit_point_source(
                image, variance, owner, rows[b], boxes[b], x[peak], y[peak], fwhm[b], smallest,
                peak, near[:n], stamps, sx, sy,
            )  # fmt: skip
            results[peak] = (chi2, flux, chi2_free, dx, dy)
    return status, results
