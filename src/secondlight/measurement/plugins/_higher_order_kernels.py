"""Compiled core of the higher-order moments (spec 17.14, finalize 8.6); slow twins are in the tests.

Moments are taken in coordinates ``(u, v) = M^(-1/2) d`` in which the second moments M of the source are a
unit circle, with the symmetric root and the weight ``exp(-(u^2 + v^2) / 2)``.  The sums are made in pixels,
row by row, and transformed at the end.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from secondlight.photometry._aperture_kernels import row_span

from ..pixels import SourcePixels, hide, show

_REACH = 80.0
"""Largest u^2 + v^2; beyond it the weight is below 5e-18."""
_LEAST_DETERMINANT = 1e-30
"""Smaller second moments are none; their powers would get lost in the arithmetic."""


@njit(cache=True, nogil=True)
def _add_powers(row: np.ndarray, dx: float, term: float) -> None:
    """Add ``term * dx^m`` to element m of a row."""
    for m in range(len(row)):
        row[m] += term
        term *= dx


@njit(cache=True, nogil=True)
def _raw_moments(
    image: np.ndarray, bad: np.ndarray, x: float, y: float, xx: float, yy: float, xy: float, order: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return sums of ``w I dx^m dy^l`` over good pixels, of ``w^2 dx^m dy^l`` over bad, of w over good ones.

    The image is (h, w) and so is ``bad``, or it is empty for none.  The first two are (order + 1, order + 1),
    indexed by m and l.
    """
    height, width = image.shape
    det = xx * yy - xy * xy
    w_xx, w_yy, w_xy = yy / det, xx / det, -xy / det
    good_sums, bad_sums = np.zeros((order + 1, order + 1)), np.zeros((order + 1, order + 1))
    good_row, bad_row = np.empty(order + 1), np.empty(order + 1)
    weight = 0.0
    for j in range(height):
        dy = j - y
        i0, i1 = row_span(x, y, _REACH * xx, _REACH * yy, _REACH * xy, j)
        good_row[:] = 0.0
        bad_row[:] = 0.0
        for i in range(max(i0, 0), min(i1, width - 1) + 1):
            dx = i - x
            w = math.exp(-0.5 * (w_xx * dx * dx + w_yy * dy * dy) - w_xy * dx * dy)
            if bad.size > 0 and bad[j, i]:
                _add_powers(bad_row, dx, w * w)
            else:
                weight += w
                _add_powers(good_row, dx, w * image[j, i])
        for m in range(order + 1):
            _add_powers(good_sums[m], dy, good_row[m])
            _add_powers(bad_sums[m], dy, bad_row[m])
    return good_sums, bad_sums, weight


@njit(cache=True, nogil=True)
def _binomials(order: int) -> np.ndarray:
    """Return binomial coefficients n over k, (order + 1, order + 1)."""
    table = np.zeros((order + 1, order + 1))
    for n in range(order + 1):
        table[n, 0] = 1.0
        for k in range(1, n + 1):
            table[n, k] = table[n - 1, k - 1] + table[n - 1, k]
    return table


@njit(cache=True, nogil=True)
def _transformed(
    raw: np.ndarray, p: int, q: int, root_xx: float, root_yy: float, root_xy: float, choose: np.ndarray
) -> float:
    """Return the sum of ``u^p v^q`` from those of ``dx^m dy^l``, for (u, v) = root (dx, dy)."""
    total = 0.0
    for a in range(p + 1):
        left = choose[p, a] * root_xx**a * root_xy ** (p - a)
        for b in range(q + 1):
            right = choose[q, b] * root_xy**b * root_yy ** (q - b)
            total += left * right * raw[a + b, p + q - a - b]
    return total


@njit(cache=True, nogil=True)
def standardised_moments(
    image: np.ndarray,
    bad: np.ndarray,
    x: float,
    y: float,
    shape: np.ndarray,
    min_order: int,
    max_order: int,
    fill: bool,
    out: np.ndarray,
) -> None:
    """Fill ``out`` with the moments of orders ``min_order`` to ``max_order``: (0, n), (1, n - 1), ... (n, 0).

    Parameters
    ----------
    image
        Pixels (h, w).
    bad
        Pixels to leave out or replace (h, w), or empty for none.
    x, y
        Centre, array indices.
    shape
        Second moments xx, yy, xy, pixel^2.
    fill
        Whether bad pixels are replaced by the weight scaled to the good pixels, or taken as zero.
    out
        One element for each moment; NaN where they cannot be measured.
    """
    out[:] = np.nan
    xx, yy, xy = shape[0], shape[1], shape[2]
    det = xx * yy - xy * xy
    if not (det > _LEAST_DETERMINANT and xx > 0.0 and math.isfinite(det * x) and math.isfinite(det * y)):
        return
    raw, bad_sums, weight = _raw_moments(image, bad, x, y, xx, yy, xy, max_order)
    if fill and bad_sums[0, 0] > 0.0:
        if not weight > 0.0:
            return
        light = 0.0
        for j in range(image.shape[0]):
            for i in range(image.shape[1]):
                if not bad[j, i]:
                    light += image[j, i]
        raw += light / weight * bad_sums
    if raw[0, 0] == 0.0:
        return
    side = math.sqrt(det)
    norm = math.sqrt(det * (xx + yy + 2.0 * side))
    root_xx, root_yy, root_xy = (yy + side) / norm, (xx + side) / norm, -xy / norm
    choose = _binomials(max_order)
    k = 0
    for n in range(min_order, max_order + 1):
        for p in range(n + 1):
            out[k] = _transformed(raw, p, n - p, root_xx, root_yy, root_xy, choose) / raw[0, 0]
            k += 1


@njit(cache=True, nogil=True)
def source_loop(
    pixels: SourcePixels,
    boxes: np.ndarray,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    shapes: np.ndarray,
    min_order: int,
    max_order: int,
    fill: bool,
    moments: np.ndarray,
) -> None:
    """Fill ``moments`` (n, m) of sources over their boxes.

    ``boxes`` are inclusive ``x0, y0, x1, y1`` in parent pixels (n, 4), inside the image; ``bad`` is a mask
    image (h, w); x, y are parent positions (n), NaN for what is to be left out; shapes are (n, 3).
    """
    nothing = np.zeros((0, 0), np.bool_)
    for k in range(len(x)):
        i0, j0 = boxes[k, 0] - pixels.x0, boxes[k, 1] - pixels.y0
        i1, j1 = boxes[k, 2] - pixels.x0 + 1, boxes[k, 3] - pixels.y0 + 1
        if i1 <= i0 or j1 <= j0:
            moments[k] = np.nan
            continue
        part = bad[j0:j1, i0:i1]
        if not part.any():
            part = nothing
        show(pixels, k)
        standardised_moments(
            pixels.image[j0:j1, i0:i1],
            part,
            x[k] - boxes[k, 0],
            y[k] - boxes[k, 1],
            shapes[k],
            min_order,
            max_order,
            fill,
            moments[k],
        )
        hide(pixels, k)


@njit(cache=True, nogil=True)
def stamp_loop(
    stamps: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    shapes: np.ndarray,
    min_order: int,
    max_order: int,
    moments: np.ndarray,
) -> None:
    """Fill ``moments`` (n, m) of stamps (n, h, w) about array indices x, y (n) with shapes (n, 3)."""
    nothing = np.zeros((0, 0), np.bool_)
    for k in range(len(x)):
        standardised_moments(
            stamps[k], nothing, x[k], y[k], shapes[k], min_order, max_order, False, moments[k]
        )
