"""Compiled centroid of spec reprocess 17.1; the slow twin is in ``tests/measurement``."""

from __future__ import annotations

__all__ = ("EDGE", "FLAT", "NEAR_EDGE", "NOT_AT_MAXIMUM", "centroid_loop")

import math

import numpy as np
from numba import njit

from ..pixels import SourcePixels, hide, show

EDGE = 1
FLAT = 2
NOT_AT_MAXIMUM = 8
NEAR_EDGE = 16

_QUARTIC = 1.33
_MAX_OFFSET = 10.0
_TINY = 1.1754944e-38
_SUM = {"reassoc", "contract", "nsz"}
"""What lets the compiler add numbers in any order, which is several times as fast; NaN stays NaN."""


@njit(cache=True, nogil=True, fastmath=_SUM)
def _add_products(kernel: np.ndarray, pixels: np.ndarray, out: np.ndarray) -> None:
    """Add the sums of products of a row of the kernel (k) and of pixels (k + 2), at three shifts, to (3)."""
    left = middle = right = 0.0
    for i in range(len(kernel)):
        left += kernel[i] * pixels[i]
        middle += kernel[i] * pixels[i + 1]
        right += kernel[i] * pixels[i + 2]
    out[0] += left
    out[1] += middle
    out[2] += right


@njit(cache=True, nogil=True)
def _bin(
    image: np.ndarray, x: int, y: int, bin_x: int, bin_y: int, weight: float, height: int, out: np.ndarray
) -> None:
    """Fill ``out[:height]`` with sums of bins times a weight; the first bin starts at pixel (x, y)."""
    width = out.shape[1]
    if bin_x == 1 and bin_y == 1:
        for j in range(height):
            row = image[y + j, x : x + width]
            for i in range(width):
                out[j, i] = row[i] * weight
        return
    line = np.empty(width * bin_x)
    cells = line.reshape((width, bin_x))
    for j in range(height):
        line[:] = 0.0
        for jj in range(y + j * bin_y, y + (j + 1) * bin_y):
            row = image[jj, x : x + width * bin_x]
            for i in range(len(line)):
                line[i] += row[i]
        for i in range(width):
            value = 0.0
            for ii in range(bin_x):
                value += cells[i, ii]
            out[j, i] = value * weight


@njit(cache=True, nogil=True)
def smoothed_block(
    image: np.ndarray,
    variance: np.ndarray,
    x: int,
    y: int,
    bin_x: int,
    bin_y: int,
    kernel: np.ndarray,
    binned: np.ndarray,
    block: np.ndarray,
) -> bool:
    """Fill ``block`` (3, 3) with the image, binned and smoothed; ``binned`` keeps binned image and variance.

    Bin (0, 0) starts at the array pixel (x, y).  ``binned`` is (2, kh + 2, kw + 2) or more.  Returns
    whether the pixels the reference algorithm looks at, two bins beyond the kernel, lie inside the image.
    """
    kh, kw = kernel.shape
    first_x, first_y = x - bin_x * (2 + kw // 2), y - bin_y * (2 + kh // 2)
    if first_x < 0 or first_y < 0:
        return False
    if first_x + bin_x * (kw + 4) > image.shape[1] or first_y + bin_y * (kh + 4) > image.shape[0]:
        return False
    share = 1.0 / (bin_x * bin_y)
    left, bottom = first_x + bin_x, first_y + bin_y
    _bin(image, left, bottom, bin_x, bin_y, share, kh + 2, binned[0, :, : kw + 2])
    _bin(variance, left, bottom, bin_x, bin_y, share * share, kh + 2, binned[1, :, : kw + 2])
    block[:] = 0.0
    for b in range(3):
        for j in range(kh):
            _add_products(kernel[j], binned[0, b + j, : kw + 2], block[b])
    return True


@njit(cache=True, nogil=True, fastmath=_SUM)
def _noise_row(
    above: np.ndarray, row: np.ndarray, below: np.ndarray, variance: np.ndarray, out: np.ndarray
) -> None:
    """Add what one row of binned pixels (w) gives to the variances, from rows of the kernel (w + 2)."""
    slope_x = curve_x = slope_y = curve_y = 0.0
    for i in range(len(variance)):
        # Kernel elements with which this pixel enters the smoothed values at, one back and one ahead.
        twice = 2.0 * row[i + 1]
        ahead_x, back_x, ahead_y, back_y = row[i], row[i + 2], above[i + 1], below[i + 1]
        by_slope_x, by_slope_y = 0.5 * (ahead_x - back_x), 0.5 * (ahead_y - back_y)
        by_curve_x, by_curve_y = twice - ahead_x - back_x, twice - ahead_y - back_y
        slope_x += by_slope_x * by_slope_x * variance[i]
        curve_x += by_curve_x * by_curve_x * variance[i]
        slope_y += by_slope_y * by_slope_y * variance[i]
        curve_y += by_curve_y * by_curve_y * variance[i]
    out[0] += slope_x
    out[1] += curve_x
    out[2] += slope_y
    out[3] += curve_y


@njit(cache=True, nogil=True)
def derivative_noise(binned_variance: np.ndarray, kernel: np.ndarray, out: np.ndarray) -> None:
    """Fill the variances of slope and curvature in x, then in y (4), through the smoothing kernel.

    Slope (f1 - f-1) / 2 and curvature 2 f0 - f1 - f-1 are sums of binned pixels (kh + 2, kw + 2) weighted by
    shifted kernels (kh, kw); each pixel brings its own variance, so the photon noise of the source is counted
    where it is.
    """
    kh, kw = kernel.shape
    padded = np.zeros((kh + 4, kw + 4))
    padded[2 : kh + 2, 2 : kw + 2] = kernel
    out[:] = 0.0
    for j in range(kh + 2):
        _noise_row(padded[j], padded[j + 1], padded[j + 2], binned_variance[j, : kw + 2], out)


@njit(cache=True, nogil=True)
def quartic_maximum(vm: float, v0: float, vp: float) -> tuple[float, bool]:
    """Return where three samples peak, with a Gaussian's quartic term, and whether that is good."""
    sp, sm = v0 - vp, v0 - vm
    d2 = sp + sm
    if d2 <= 0.0 or v0 <= 0.0:
        return 0.0, False
    centre = 0.5 * (vp - vm) / d2 * (1.0 + _QUARTIC * sp * sm / (d2 * v0))
    return centre, abs(centre) < 1.0


@njit(cache=True, nogil=True)
def axis_error(s: float, d: float, peak: float, s_var: float, d_var: float, quartic: float) -> float:
    """Return the error of one coordinate from slope s, curvature d and their variances."""
    if abs(peak) < _TINY or abs(d) < _TINY:
        return 1e3
    by_slope = 1.0 / d + quartic / (4.0 * peak) * (1.0 - 12.0 * s * s / (d * d))
    by_curvature = s / (d * d) - quartic / (4.0 * peak) * 8.0 * s * s / (d * d * d)
    total = s_var * by_slope * by_slope + d_var * by_curvature * by_curvature
    return math.sqrt(total) if total >= 0.0 else np.nan


@njit(cache=True, nogil=True)
def block_centroid(
    f: np.ndarray, binned_variance: np.ndarray, kernel: np.ndarray, sigma2: float, result: np.ndarray
) -> int:
    """Fill ``result`` (x, y, x_err, y_err, tau2_x, tau2_y, peak) from a smoothed block; return the flags.

    ``f`` is the block (3, 3), ``binned_variance`` (kh + 2, kw + 2) and ``kernel`` (kh, kw) what it came from.
    """
    sx, sy = 0.5 * (f[1, 2] - f[1, 0]), 0.5 * (f[2, 1] - f[0, 1])
    d2x, d2y = 2.0 * f[1, 1] - f[1, 0] - f[1, 2], 2.0 * f[1, 1] - f[0, 1] - f[2, 1]
    if d2x == 0.0 or d2y == 0.0:
        return FLAT
    if not (d2x > 0.0 and d2y > 0.0):
        return NOT_AT_MAXIMUM
    dx0, dy0 = sx / d2x, sy / d2y
    if abs(dx0) > _MAX_OFFSET or abs(dy0) > _MAX_OFFSET:
        return FLAT
    peak = f[1, 1] + 0.5 * (sx * dx0 + sy * dy0)
    m0x, ok0 = quartic_maximum(f[0, 0], f[0, 1], f[0, 2])
    m1x, ok1 = quartic_maximum(f[1, 0], f[1, 1], f[1, 2])
    m2x, ok2 = quartic_maximum(f[2, 0], f[2, 1], f[2, 2])
    m0y, ok3 = quartic_maximum(f[0, 0], f[1, 0], f[2, 0])
    m1y, ok4 = quartic_maximum(f[0, 1], f[1, 1], f[2, 1])
    m2y, ok5 = quartic_maximum(f[0, 2], f[1, 2], f[2, 2])
    x, y, w2x, w2y, quartic = dx0, dy0, peak / d2x, peak / d2y, 0.0
    if ok0 and ok1 and ok2 and ok3 and ok4 and ok5:
        quartic = _QUARTIC
        smx, smy = 0.5 * (m2x - m0x), 0.5 * (m2y - m0y)
        dmx, dmy = m1x - 0.5 * (m0x + m2x), m1y - 0.5 * (m0y + m2y)
        dx1 = m1x + dy0 * (smx - dy0 * dmx)
        dy1 = m1y + dx0 * (smy - dx0 * dmy)
        x = m1x + dy1 * (smx - dy1 * dmx)
        y = m1y + dx1 * (smy - dx1 * dmy)
        w2x -= 0.25 * (1.0 + 6.0 * dx0 * dx0)
        w2y -= 0.25 * (1.0 + 6.0 * dy0 * dy0)
    result[0], result[1] = x, y
    noise = np.empty(4)
    derivative_noise(binned_variance, kernel, noise)
    result[2] = axis_error(sx, d2x, peak, noise[0], noise[1], quartic)
    result[3] = axis_error(sy, d2y, peak, noise[2], noise[3], quartic)
    result[4], result[5] = max(w2x - sigma2, sigma2), max(w2y - sigma2, sigma2)
    result[6] = peak
    return 0


@njit(cache=True, nogil=True)
def _measure_one(
    image: np.ndarray,
    variance: np.ndarray,
    x: int,
    y: int,
    kernel: np.ndarray,
    small: np.ndarray,
    sigma2: float,
    sign: float,
    bin_max: int,
    peak_min: float,
    width_factor: float,
    binned: np.ndarray,
    out: np.ndarray,
) -> int:
    """Bin more and more until the object is not much wider than the bins; ``out`` gets x, y, x_err, y_err.

    Near an edge the kernel is replaced by the ``small`` one; ``binned`` has room for the pixels of either.
    """
    block = np.empty((3, 3))
    smoother = kernel
    result = np.empty(7)
    bin_x = bin_y = 1
    flags = 0
    step = 1
    while step <= bin_max:
        inside = smoothed_block(image, variance, x, y, bin_x, bin_y, smoother, binned, block)
        if not inside:
            flags |= NEAR_EDGE
            smoother = small
            inside = smoothed_block(image, variance, x, y, bin_x, bin_y, smoother, binned, block)
            if not inside:
                return flags | EDGE
        block *= sign
        bad = block_centroid(block, binned[1], smoother, sigma2, result)
        if bad:
            return flags | bad
        xc = (result[0] + 0.5) * bin_x - 0.5
        yc = (result[1] + 0.5) * bin_y - 0.5
        out[0], out[1] = xc, yc
        out[2], out[3] = result[2] * bin_x, result[3] * bin_y
        limit = width_factor * (1.0 + sigma2)
        narrow_x = result[4] * bin_x**2 < limit * bin_x**2 and xc * xc < limit * bin_x**2
        narrow_y = result[5] * bin_y**2 < limit * bin_y**2 and yc * yc < limit * bin_y**2
        if flags & NEAR_EDGE:
            break
        high = step > 1 or peak_min < 0.0 or result[6] > peak_min
        if narrow_x and narrow_y and high:
            break
        if not narrow_x:
            bin_x *= 2
        if not narrow_y:
            bin_y *= 2
        step *= 2
    return flags


@njit(cache=True, nogil=True)
def _small_kernel() -> np.ndarray:
    """Return a Gaussian of sigma 0.5 pixels on 5 x 5 pixels, of unit sum."""
    small = np.empty((5, 5))
    for j in range(5):
        for i in range(5):
            small[j, i] = math.exp(-0.5 * ((i - 2) ** 2 + (j - 2) ** 2) / 0.25)
    return small / small.sum()


@njit(cache=True, nogil=True)
def centroid_loop(
    pixels: SourcePixels,
    x: np.ndarray,
    y: np.ndarray,
    kernels: np.ndarray,
    sigma2: np.ndarray,
    sign: np.ndarray,
    bin_max: int,
    peak_min: float,
    width_factor: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure sources at integer peaks x, y (parent pixels, int64 (n)) with PSF kernels (n, h, w).

    Returns offsets from the peak and their errors (n, 4), NaN where there are none, and the flags (n).
    """
    n = len(x)
    results = np.full((n, 4), np.nan)
    flags = np.zeros(n, np.int64)
    height, width = pixels.image.shape
    small = _small_kernel()
    binned = np.empty((2, max(7, kernels.shape[1] + 2), max(7, kernels.shape[2] + 2)))
    for k in range(n):
        i, j = x[k] - pixels.x0, y[k] - pixels.y0
        if i < 0 or j < 0 or i >= width or j >= height:
            flags[k] = EDGE
            continue
        show(pixels, k)
        flags[k] = _measure_one(
            pixels.image,
            pixels.variance,
            i,
            j,
            kernels[k],
            small,
            sigma2[k],
            sign[k],
            bin_max,
            peak_min,
            width_factor,
            binned,
            results[k],
        )
        hide(pixels, k)
        if flags[k] & ~NEAR_EDGE:
            results[k] = np.nan
    return results, flags
