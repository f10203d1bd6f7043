"""Compiled sums over apertures (spec finalize 9.2, 9.5, reprocess 9.5, 17.5); see ``tests/photometry``.

Images are (h, w); positions are array indices; moments xx, yy, xy are pixel^2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

LANCZOS_ORDER = 5

FLAG_TRUNCATED = 1
"""The aperture leaves the image; there is no flux."""
FLAG_COEFFICIENTS = 2
"""The sinc coefficients leave the image; the flux misses their tails."""

_SUM = {"reassoc", "contract", "nsz"}
"""What lets the compiler add pixels in any order, which is several times as fast; NaN stays NaN."""


class Circles(NamedTuple):
    """Circular apertures about one position; results have the sinc apertures first, then the discs.

    Attributes
    ----------
    radii
        Radii of the sinc apertures (k), pixels.
    sides
        Sides of their coefficient images, int64 (k).
    coefficients
        Coefficient images one after the other, float64 (sum of sides squared).
    discs
        Radii of the apertures that sum whole pixels, ascending (m), pixels.
    """

    radii: np.ndarray
    sides: np.ndarray
    coefficients: np.ndarray
    discs: np.ndarray


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


@njit(cache=True, nogil=True, fastmath=_SUM)
def _add_pixels(image: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """Return the sums of two stretches of pixels (k), (k), in double precision."""
    flux = 0.0
    noise = 0.0
    for i in range(len(image)):
        flux += np.float64(image[i])
        noise += np.float64(variance[i])
    return flux, noise


@njit(cache=True, nogil=True)
def disc_sums(
    image: np.ndarray,
    variance: np.ndarray,
    x: float,
    y: float,
    radii: np.ndarray,
    flux: np.ndarray,
    noise: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Fill sums of image and variance over the pixel centres inside discs of ascending radii, all (m).

    Every pixel is read once: a row is cut into the stretches between one disc and the next smaller one, and
    the rings are added up at the end.
    """
    height, width = image.shape
    fits = 0
    while fits < len(radii) and box_fits(x, y, radii[fits], radii[fits], height, width):
        fits += 1
    flux[:fits] = 0.0
    noise[:fits] = 0.0
    flux[fits:] = np.nan
    noise[fits:] = np.nan
    flags[:fits] = 0
    flags[fits:] = FLAG_TRUNCATED
    if fits == 0:
        return
    reach = radii[fits - 1]
    count = np.zeros(fits, np.int64)
    for j in range(math.ceil(y - reach), math.floor(y + reach) + 1):
        # The hole that smaller discs have left of this row, empty at first, grows outwards.
        left, right = 0, -1
        for k in range(fits):
            square = radii[k] * radii[k]
            i0, i1 = row_span(x, y, square, square, 0.0, j)
            if i0 > i1:
                continue
            if left > right:
                left, right = i0, i0 - 1
            for first, last in ((i0, left), (right + 1, i1 + 1)):
                f, v = _add_pixels(image[j, first:last], variance[j, first:last])
                flux[k] += f
                noise[k] += v
            count[k] += i1 - i0 + 1
            left, right = i0, i1
    for k in range(1, fits):
        flux[k] += flux[k - 1]
        noise[k] += noise[k - 1]
    for k in range(fits):
        if count[k] == 0:
            flux[k] = noise[k] = np.nan
            flags[k] = FLAG_TRUNCATED


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


@njit(cache=True, nogil=True, fastmath={"contract"})
def _filter_row(source: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    """Fill ``out[i] = sum_t taps[t] source[i + t]`` (w) with ten taps; written out so that it vectorises."""
    t0, t1, t2, t3, t4 = taps[0], taps[1], taps[2], taps[3], taps[4]
    t5, t6, t7, t8, t9 = taps[5], taps[6], taps[7], taps[8], taps[9]
    s = source
    for i in range(len(out)):
        out[i] = (t0 * s[i] + t1 * s[i + 1] + t2 * s[i + 2] + t3 * s[i + 3] + t4 * s[i + 4]) + (
            t5 * s[i + 5] + t6 * s[i + 6] + t7 * s[i + 7] + t8 * s[i + 8] + t9 * s[i + 9]
        )


@njit(cache=True, nogil=True, fastmath={"contract"})
def _filter_columns(source: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    """Fill ``out[i] = sum_t taps[t] source[t, i]`` (w) with ten taps and rows (10, w)."""
    t0, t1, t2, t3, t4 = taps[0], taps[1], taps[2], taps[3], taps[4]
    t5, t6, t7, t8, t9 = taps[5], taps[6], taps[7], taps[8], taps[9]
    s = source
    for i in range(len(out)):
        out[i] = (t0 * s[0, i] + t1 * s[1, i] + t2 * s[2, i] + t3 * s[3, i] + t4 * s[4, i]) + (
            t5 * s[5, i] + t6 * s[6, i] + t7 * s[7, i] + t8 * s[8, i] + t9 * s[9, i]
        )


@njit(cache=True, nogil=True)
def lanczos_shift(source: np.ndarray, dx: float, dy: float, rows: np.ndarray, out: np.ndarray) -> None:
    """Shift ``source`` by (dx, dy), each in (-1, 1), into ``out``; 0 outside; all (h, w)."""
    n = LANCZOS_ORDER
    height, width = source.shape
    taps = np.empty(2 * n)
    start = lanczos_taps(dx, taps) + n
    line = np.zeros(width + 2 * n)
    for j in range(height):
        line[n : n + width] = source[j]
        _filter_row(line[start : start + width + 2 * n - 1], taps, rows[j])
    start = lanczos_taps(dy, taps)
    for j in range(height):
        first = j + start
        if first >= 0 and first + 2 * n <= height:
            _filter_columns(rows[first : first + 2 * n], taps, out[j])
            continue
        out[j] = 0.0
        for t in range(max(0, -first), min(2 * n, height - first)):
            for i in range(width):
                out[j, i] += taps[t] * rows[first + t, i]


@njit(cache=True, nogil=True, fastmath=_SUM)
def weighted_sums(c: np.ndarray, image: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """Return sum(c I) and sum(c^2 V) of three stretches (k)."""
    flux = 0.0
    noise = 0.0
    for i in range(len(c)):
        flux += c[i] * image[i]
        noise += c[i] * c[i] * variance[i]
    return flux, noise


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
    left, right = max(0, -first_x), min(size, width - first_x)
    for j in range(max(0, -first_y), min(size, height - first_y)):
        row = first_y + j
        f, v = weighted_sums(
            shifted[j, left:right],
            image[row, first_x + left : first_x + right],
            variance[row, first_x + left : first_x + right],
        )
        flux += f
        noise += v
    return flux, noise, flags


@njit(cache=True, nogil=True)
def circle_scratch(circles: Circles) -> np.ndarray:
    """Return room for two coefficient images of the largest side (2, side * side)."""
    side = 0
    for s in circles.sides:
        side = max(side, s)
    return np.empty((2, side * side))


@njit(cache=True, nogil=True)
def circle_sums(
    image: np.ndarray,
    variance: np.ndarray,
    x: float,
    y: float,
    circles: Circles,
    scratch: np.ndarray,
    flux: np.ndarray,
    noise: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Fill flux, its variance and flags, all (k + m), of circles about one array position.

    ``scratch`` comes from `circle_scratch`.  A position that is not finite gives NaN.
    """
    k = len(circles.radii)
    if not (math.isfinite(x) and math.isfinite(y)):
        flux[:] = np.nan
        noise[:] = np.nan
        flags[:] = FLAG_TRUNCATED
        return
    start = 0
    for a in range(k):
        side, radius = circles.sides[a], circles.radii[a]
        area = side * side
        flux[a], noise[a], flags[a] = sinc_sums(
            image,
            variance,
            x,
            y,
            radius,
            radius,
            circles.coefficients[start : start + area].reshape((side, side)),
            scratch[0, :area].reshape((side, side)),
            scratch[1, :area].reshape((side, side)),
        )
        start += area
    disc_sums(image, variance, x, y, circles.discs, flux[k:], noise[k:], flags[k:])


@njit(cache=True, nogil=True)
def circle_loop(
    image: np.ndarray, variance: np.ndarray, x: np.ndarray, y: np.ndarray, circles: Circles
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flux, its variance and flags (n, k + m) at array positions (n)."""
    shape = len(x), len(circles.radii) + len(circles.discs)
    flux, noise = np.empty(shape), np.empty(shape)
    flags = np.zeros(shape, np.int64)
    scratch = circle_scratch(circles)
    for k in range(len(x)):
        circle_sums(image, variance, x[k], y[k], circles, scratch, flux[k], noise[k], flags[k])
    return flux, noise, flags
