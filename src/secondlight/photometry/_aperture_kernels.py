"""Compiled sums over apertures (spec finalize 9.2, 9.5, reprocess 9.5, 17.5); see ``tests/photometry``.

Images are (h, w); positions are array indices; moments xx, yy, xy are pixel^2.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

LANCZOS_ORDER = 5

FLAG_TRUNCATED = 1
"""The aperture leaves the image; there is no flux."""
FLAG_COEFFICIENTS = 2
"""The sinc coefficients leave the image; the flux misses their tails."""


@njit(cache=True, nogil=True)
def row_span(x: float, y: float, xx: float, yy: float, xy: float, j: int) -> tuple[int, int]:
    """Return the first and last pixel with their centre in an ellipse, in row j; first > last if none has."""
    dy = j - y
    slope = xy / yy
    rest = xx - xy * slope
    s = rest - rest / yy * dy * dy
    if not s >= 0.0:
        return 0, -1
    half = math.sqrt(s)
    return math.ceil(x + slope * dy - half), math.floor(x + slope * dy + half)


@njit(cache=True, nogil=True)
def box_fits(x: float, y: float, x_half: float, y_half: float, height: int, width: int) -> bool:
    """Whether the pixels that a box of half-sizes about (x, y) touches, halves up, lie inside the image."""
    return bool(
        math.floor(x - x_half + 0.5) >= 0
        and math.floor(y - y_half + 0.5) >= 0
        and math.floor(x + x_half + 0.5) < width
        and math.floor(y + y_half + 0.5) < height
    )


@njit(cache=True, nogil=True)
def naive_sums(
    image: np.ndarray, variance: np.ndarray, x: float, y: float, xx: float, yy: float, xy: float
) -> tuple[float, float, int]:
    """Return sums of image and variance over the pixel centres inside an ellipse, and the flags."""
    if not box_fits(x, y, math.sqrt(xx), math.sqrt(yy), image.shape[0], image.shape[1]):
        return np.nan, np.nan, FLAG_TRUNCATED
    y0, y1 = math.ceil(y - math.sqrt(yy)), math.floor(y + math.sqrt(yy))
    flux = 0.0
    noise = 0.0
    count = 0
    for j in range(y0, y1 + 1):
        i0, i1 = row_span(x, y, xx, yy, xy, j)
        if i0 > i1:
            continue
        for i in range(i0, i1 + 1):
            flux += image[j, i]
            noise += variance[j, i]
        count += i1 - i0 + 1
    if count == 0:
        return np.nan, np.nan, FLAG_TRUNCATED
    return flux, noise, 0


@njit(cache=True, nogil=True)
def lanczos_taps(offset: float, taps: np.ndarray) -> int:
    """Fill 2n taps of unit sum that shift samples by an offset in (-1, 1), and return where they start.

    ``out[i] = sum_t taps[t] in[i + start + t]``.  All samples within n pixels of ``i - offset`` take part.
    """
    n = LANCZOS_ORDER
    start = -n if offset > 0 else -n + 1
    total = 0.0
    for t in range(2 * n):
        d = start + t + offset
        if d == 0.0:
            value = 1.0
        elif abs(d) >= n:
            value = 0.0
        else:
            p = math.pi * d
            value = n * math.sin(p) * math.sin(p / n) / (p * p)
        taps[t] = value
        total += value
    for t in range(2 * n):
        taps[t] /= total
    return start


@njit(cache=True, nogil=True)
def lanczos_shift(source: np.ndarray, dx: float, dy: float, rows: np.ndarray, out: np.ndarray) -> None:
    """Shift ``source`` by (dx, dy), each in (-1, 1), into ``out``; 0 outside; all (h, w)."""
    n = LANCZOS_ORDER
    height, width = source.shape
    taps = np.empty(2 * n)
    start = lanczos_taps(dx, taps)
    rows[:] = 0.0
    for j in range(height):
        for t in range(2 * n):
            k = start + t
            for i in range(max(0, -k), min(width, width - k)):
                rows[j, i] += taps[t] * source[j, i + k]
    start = lanczos_taps(dy, taps)
    out[:] = 0.0
    for j in range(height):
        for t in range(2 * n):
            k = j + start + t
            if 0 <= k < height:
                for i in range(width):
                    out[j, i] += taps[t] * rows[k, i]


@njit(cache=True, nogil=True)
def sinc_sums(
    image: np.ndarray,
    variance: np.ndarray,
    x: float,
    y: float,
    x_radius: float,
    y_radius: float,
    coefficients: np.ndarray,
    rows: np.ndarray,
    shifted: np.ndarray,
) -> tuple[float, float, int]:
    """Return sum(c I), sum(c^2 V) with coefficients (s, s) shifted to (x, y), and the flags.

    ``x_radius``, ``y_radius`` are the half-sizes of the aperture's own box, which must lie inside the image;
    ``rows`` and ``shifted`` are scratch (s, s).
    """
    height, width = image.shape
    ix, iy = math.floor(x + 0.5), math.floor(y + 0.5)
    size = coefficients.shape[0]
    first_x, first_y = ix - size // 2, iy - size // 2
    fits = first_x >= 0 and first_y >= 0 and first_x + size <= width and first_y + size <= height
    flags = 0 if fits else FLAG_COEFFICIENTS
    if not box_fits(x, y, x_radius, y_radius, height, width):
        return np.nan, np.nan, flags | FLAG_TRUNCATED
    lanczos_shift(coefficients, x - ix, y - iy, rows, shifted)
    flux = 0.0
    noise = 0.0
    for j in range(max(0, -first_y), min(size, height - first_y)):
        for i in range(max(0, -first_x), min(size, width - first_x)):
            c = shifted[j, i]
            flux += c * image[first_y + j, first_x + i]
            noise += c * c * variance[first_y + j, first_x + i]
    return flux, noise, flags


@njit(cache=True, nogil=True)
def aperture_loop(
    image: np.ndarray,
    variance: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    radius: float,
    coefficients: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure circular apertures at positions (n): sinc if there are coefficients (s, s), naive if s is 0."""
    n = len(x)
    flux = np.full(n, np.nan)
    error = np.full(n, np.nan)
    flags = np.zeros(n, np.int64)
    rows = np.empty_like(coefficients)
    shifted = np.empty_like(coefficients)
    for k in range(n):
        if not (math.isfinite(x[k]) and math.isfinite(y[k])):
            flags[k] = FLAG_TRUNCATED
            continue
        if coefficients.size:
            f, v, flag = sinc_sums(image, variance, x[k], y[k], radius, radius, coefficients, rows, shifted)
        else:
            f, v, flag = naive_sums(image, variance, x[k], y[k], radius * radius, radius * radius, 0.0)
        flux[k], error[k], flags[k] = f, math.sqrt(v), flag
    return flux, error, flags
