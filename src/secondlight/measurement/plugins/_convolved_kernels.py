"""Compiled core of the convolved fluxes (spec finalize 8.8); the slow twin is in the tests.

The flux of an aperture with weights w on an image I convolved with a symmetric kernel K is
``sum w (K * I) = sum (K * w) I``: the weights are convolved instead of the image.  That costs no more, and
gives the variance ``sum (K * w)^2 V``, exact although the noise of a convolved image is correlated.
"""

from __future__ import annotations

__all__ = ("convolved_loop", "smoothed_sums")

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.lib.stride_tricks import as_strided

from secondlight.photometry._aperture_kernels import (
    FLAG_COEFFICIENTS,
    FLAG_TRUNCATED,
    Circles,
    box_fits,
    circle_scratch,
    lanczos_shift,
    row_span,
    weighted_sums,
)
from secondlight.photometry._elliptical_sinc_kernels import ellipse_coefficients

from ..pixels import SourcePixels, hide, show

_MOST_WEIGHTS = 1 << 16
"""Most pixels of an ellipse that get sinc weights; larger ones sum whole pixels."""
_COARSE = 0.8
"""Width (sigma, pixels) below which a sampled Gaussian has a wrong second moment; 1e-4 there."""
_NARROWEST = 1e-3
"""Width (sigma, pixels) of kernels that change nothing."""
_STEEPEST = 30.0
_MOST_STEPS = 20


@njit(cache=True, nogil=True)
def _fill_gaussian(steepness: float, taps: np.ndarray) -> tuple[float, float]:
    """Fill ``exp(-steepness d^2)`` scaled to unit sum, and return the second and fourth moments."""
    half = len(taps) // 2
    total = second = fourth = 0.0
    for i in range(len(taps)):
        square = (i - half) ** 2
        taps[i] = math.exp(-steepness * square)
        total += taps[i]
        second += taps[i] * square
        fourth += taps[i] * square * square
    for i in range(len(taps)):
        taps[i] /= total
    return second / total, fourth / total


@njit(cache=True, nogil=True)
def gaussian_taps(sigma: float, half: int) -> np.ndarray:
    """Return a Gaussian of unit sum on ``2 half + 1`` pixels, half and sigma > 0.

    A Gaussian much narrower than the pixels, sampled, is too narrow a kernel: it is made wider so that its
    second moment is sigma^2.
    """
    taps = np.empty(2 * half + 1)
    steepness = min(0.5 / (sigma * sigma), _STEEPEST)
    second, fourth = _fill_gaussian(steepness, taps)
    if sigma < _COARSE:
        for _ in range(_MOST_STEPS):
            ratio = second / (sigma * sigma)
            if abs(ratio - 1.0) < 1e-9:
                break
            # Newton steps in the logarithm of the moment, which is nearly linear in the steepness.
            steepness += math.log(ratio) * second / (fourth - second * second)
            second, fourth = _fill_gaussian(steepness, taps)
    return taps


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_lines(out: np.ndarray, lines: np.ndarray, taps: np.ndarray) -> None:
    """Add ``sum_t taps[t] lines[t]`` (w), ``lines`` (2k + 1, w), with symmetric taps (2k + 1) to ``out``.

    Three pairs of lines are added at once, which reads and writes ``out`` less often.
    """
    m = len(taps) // 2
    n = len(out)
    c = taps[m]
    middle = lines[m]
    for i in range(n):
        out[i] += c * middle[i]
    t = 1
    while t + 2 <= m:
        t0, t1, t2 = taps[m + t], taps[m + t + 1], taps[m + t + 2]
        a0, a1, a2 = lines[m - t], lines[m - t - 1], lines[m - t - 2]
        b0, b1, b2 = lines[m + t], lines[m + t + 1], lines[m + t + 2]
        for i in range(n):
            out[i] += t0 * (a0[i] + b0[i]) + t1 * (a1[i] + b1[i]) + t2 * (a2[i] + b2[i])
        t += 3
    while t <= m:
        t0, a0, b0 = taps[m + t], lines[m - t], lines[m + t]
        for i in range(n):
            out[i] += t0 * (a0[i] + b0[i])
        t += 1


@njit(cache=True, nogil=True)
def smooth(weights: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Return weights (h, w) convolved along both axes with ``2k + 1`` symmetric taps, (h + 2k, w + 2k)."""
    half = len(taps) // 2
    height, width = weights.shape
    # Both passes add up shifted lines: those of the first pass are windows of one line with zeros around.
    line = np.zeros(width + 4 * half)
    windows = as_strided(line, (2 * half + 1, width + 2 * half), (8, 8))
    rows = np.zeros((height + 4 * half, width + 2 * half))
    for j in range(height):
        line[2 * half : 2 * half + width] = weights[j]
        _add_lines(rows[2 * half + j], windows, taps)
    out = np.zeros((height + 2 * half, width + 2 * half))
    for j in range(height + 2 * half):
        _add_lines(out[j], rows[j : j + 2 * half + 1], taps)
    return out


@njit(cache=True, nogil=True)
def smoothed_sums(
    image: np.ndarray,
    variance: np.ndarray,
    weights: np.ndarray,
    first_x: int,
    first_y: int,
    taps: np.ndarray,
) -> tuple[float, float]:
    """Return ``sum w (K * I)`` and its variance.

    Parameters
    ----------
    image, variance
        Pixels (h, w).
    weights
        Weights of the convolved image; those beyond its edges do not count.
    first_x, first_y
        Array index of the first weight.
    taps
        ``2k + 1`` values, the kernel along each axis.  Pixels within k of the edge are not convolved.
    """
    half = len(taps) // 2
    height, width = image.shape
    n_y, n_x = weights.shape
    # Of the weights, first and last that lie where the image is convolved.
    x0, x1 = max(0, half - first_x), min(n_x, width - half - first_x)
    y0, y1 = max(0, half - first_y), min(n_y, height - half - first_y)
    if x0 == 0 and y0 == 0 and x1 == n_x and y1 == n_y:
        smoothed = smooth(weights, taps)
    else:
        inner = np.zeros_like(weights)
        if x0 < x1 and y0 < y1:
            inner[y0:y1, x0:x1] = weights[y0:y1, x0:x1]
        smoothed = smooth(inner, taps)
        smoothed[half : half + n_y, half : half + n_x] += weights - inner
    left, bottom = first_x - half, first_y - half
    i0, i1 = max(0, -left), min(n_x + 2 * half, width - left)
    flux = noise = 0.0
    for j in range(max(0, -bottom), min(n_y + 2 * half, height - bottom)):
        f, v = weighted_sums(
            smoothed[j, i0:i1],
            image[bottom + j, left + i0 : left + i1],
            variance[bottom + j, left + i0 : left + i1],
        )
        flux += f
        noise += v
    return flux, noise


@njit(cache=True, nogil=True)
def _whole_pixels(x: float, y: float, xx: float, yy: float, xy: float) -> tuple[np.ndarray, int, int]:
    """Return weights 1 where the centre of a pixel is in an ellipse, else 0, and their first pixel."""
    x0, y0 = math.floor(x - math.sqrt(xx)), math.floor(y - math.sqrt(yy))
    x1, y1 = math.ceil(x + math.sqrt(xx)), math.ceil(y + math.sqrt(yy))
    weights = np.zeros((y1 - y0 + 1, x1 - x0 + 1))
    for j in range(y0, y1 + 1):
        i0, i1 = row_span(x, y, xx, yy, xy, j)
        for i in range(max(i0, x0), min(i1, x1) + 1):
            weights[j - y0, i - x0] = 1.0
    return weights, x0, y0


@njit(cache=True, nogil=True)
def _ellipse_weights(
    x: float, y: float, xx: float, yy: float, xy: float, limit: float, table: np.ndarray
) -> tuple[np.ndarray, int, int]:
    """Return the weights of an ellipse, sinc if its minor axis is within the limit, and their first pixel."""
    t = math.sqrt((xx - yy) ** 2 + 4.0 * xy * xy)
    minor = math.sqrt(max(0.5 * (xx + yy - t), 0.0))
    if minor > limit or 4.0 * math.sqrt(xx * yy) > _MOST_WEIGHTS:
        return _whole_pixels(x, y, xx, yy, xy)
    ix, iy = math.floor(x + 0.5), math.floor(y + 0.5)
    weights = ellipse_coefficients(x - ix, y - iy, xx, yy, xy, table)
    return weights, ix - weights.shape[1] // 2, iy - weights.shape[0] // 2


@njit(cache=True, nogil=True)
def _sinc_weights(
    x: float, y: float, coefficients: np.ndarray, scratch: np.ndarray
) -> tuple[np.ndarray, int, int]:
    """Return coefficients (side * side) shifted to (x, y), in scratch, and their first pixel."""
    area = len(coefficients)
    side = round(math.sqrt(area))
    rows, shifted = scratch[0, :area].reshape((side, side)), scratch[1, :area].reshape((side, side))
    ix, iy = math.floor(x + 0.5), math.floor(y + 0.5)
    lanczos_shift(coefficients.reshape((side, side)), x - ix, y - iy, rows, shifted)
    return shifted, ix - side // 2, iy - side // 2


class Kernels(NamedTuple):
    """Kernels from the seeing of one source to several others.

    Attributes
    ----------
    halves
        Half-widths, int64 (t); 0 where the pixels are taken as they are.
    taps
        Values along either axis, of which the first ``2 half + 1`` count (t, m).
    """

    halves: np.ndarray
    taps: np.ndarray


@njit(cache=True, nogil=True)
def _set_kernels(
    seeing: float, targets: np.ndarray, scale: float, largest: int, kernels: Kernels, unconvolved: np.ndarray
) -> None:
    """Fill the kernels from a seeing to the targets (t), and whether there is none (t).

    There is none if the seeing (sigma, pixels) is wider than the target, or the kernel wider than
    ``2 largest + 1`` pixels.
    """
    for t in range(len(targets)):
        unconvolved[t] = True
        half = 0
        if targets[t] >= seeing:
            sigma = math.sqrt(targets[t] ** 2 - seeing**2)
            half = max(1, int(scale * sigma + 0.5)) if sigma > _NARROWEST else 0
            unconvolved[t] = half > largest
        if unconvolved[t] or half == 0:
            kernels.halves[t] = 0
            kernels.taps[t, 0] = 1.0
        else:
            kernels.halves[t] = half
            kernels.taps[t, : 2 * half + 1] = gaussian_taps(sigma, half)


@njit(cache=True, nogil=True)
def _measure(
    pixels: SourcePixels,
    weights: np.ndarray,
    first_x: int,
    first_y: int,
    kernels: Kernels,
    flux: np.ndarray,
    variance: np.ndarray,
) -> None:
    """Fill flux and variance (t) of weights at every seeing."""
    for t in range(len(kernels.halves)):
        taps = kernels.taps[t, : 2 * kernels.halves[t] + 1]
        flux[t], variance[t] = smoothed_sums(pixels.image, pixels.variance, weights, first_x, first_y, taps)


@njit(cache=True, nogil=True)
def _measure_circles(
    pixels: SourcePixels,
    x: float,
    y: float,
    circles: Circles,
    scratch: np.ndarray,
    kernels: Kernels,
    flux: np.ndarray,
    variance: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Fill flux and variance (t, k + m) and flags (k + m) of circles about an array position."""
    height, width = pixels.image.shape
    n_sinc = len(circles.radii)
    ix, iy = math.floor(x + 0.5), math.floor(y + 0.5)
    start = 0
    for a in range(n_sinc):
        side = circles.sides[a]
        half = side // 2
        coefficients = circles.coefficients[start : start + side * side]
        start += side * side
        if not (ix >= half and iy >= half and ix + half < width and iy + half < height):
            flags[a] = FLAG_COEFFICIENTS
        if not box_fits(x, y, circles.radii[a], circles.radii[a], height, width):
            flags[a] |= FLAG_TRUNCATED
            continue
        weights, first_x, first_y = _sinc_weights(x, y, coefficients, scratch)
        _measure(pixels, weights, first_x, first_y, kernels, flux[:, a], variance[:, a])
    for b in range(len(circles.discs)):
        a, radius = n_sinc + b, circles.discs[b]
        if not box_fits(x, y, radius, radius, height, width):
            flags[a] = FLAG_TRUNCATED
            continue
        weights, first_x, first_y = _whole_pixels(x, y, radius * radius, radius * radius, 0.0)
        _measure(pixels, weights, first_x, first_y, kernels, flux[:, a], variance[:, a])


@njit(cache=True, nogil=True)
def convolved_loop(
    pixels: SourcePixels,
    x: np.ndarray,
    y: np.ndarray,
    seeing: np.ndarray,
    ellipses: np.ndarray,
    targets: np.ndarray,
    kernel_scale: float,
    circles: Circles,
    limit: float,
    table: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measure apertures at several seeings at parent positions (n).

    Parameters
    ----------
    seeing
        Width (sigma) of the PSF, pixels (n); a row that is NaN is left out.
    ellipses
        Matrices ``[xx, yy, xy]`` of the Kron apertures, pixel^2 (n, 3); NaN for none.
    targets
        Widths (sigma) of the PSF to convolve to, pixels (t).
    kernel_scale
        Half-width of the kernels in units of their sigma.
    circles
        Circular apertures (k + m).
    limit
        Largest minor axis of a Kron aperture with sinc weights, pixels.
    table
        `secondlight.photometry._elliptical_sinc_kernels.JINC_TABLE`.

    Returns
    -------
    flux, variance
        Of the circles and, last, the Kron aperture (n, t, k + m + 1); NaN where it reaches over the edge.
    flags
        Bits `FLAG_TRUNCATED`, `FLAG_COEFFICIENTS` of the circles (n, k + m).
    unconvolved
        Whether the pixels are taken as they are, (n, t).
    """
    n, n_circles, n_targets = len(x), len(circles.radii) + len(circles.discs), len(targets)
    height, width = pixels.image.shape
    flux = np.full((n, n_targets, n_circles + 1), np.nan)
    variance = np.full((n, n_targets, n_circles + 1), np.nan)
    flags = np.zeros((n, n_circles), np.int64)
    unconvolved = np.zeros((n, n_targets), np.bool_)
    scratch = circle_scratch(circles)
    largest = (min(height, width) - 1) // 2
    widest = max(1, int(kernel_scale * targets.max() + 0.5)) if n_targets > 0 else 0
    kernels = Kernels(np.zeros(n_targets, np.int64), np.ones((n_targets, 2 * min(widest, largest) + 1)))
    for k in range(n):
        i, j = x[k] - pixels.x0, y[k] - pixels.y0
        if not (math.isfinite(i) and math.isfinite(j) and math.isfinite(seeing[k])):
            continue
        _set_kernels(seeing[k], targets, kernel_scale, largest, kernels, unconvolved[k])
        show(pixels, k)
        _measure_circles(pixels, i, j, circles, scratch, kernels, flux[k], variance[k], flags[k])
        xx, yy, xy = ellipses[k]
        if xx > 0.0 and yy > 0.0 and box_fits(i, j, math.sqrt(xx), math.sqrt(yy), height, width):
            weights, first_x, first_y = _ellipse_weights(i, j, xx, yy, xy, limit, table)
            _measure(pixels, weights, first_x, first_y, kernels, flux[k, :, -1], variance[k, :, -1])
        hide(pixels, k)
    return flux, variance, flags, unconvolved
