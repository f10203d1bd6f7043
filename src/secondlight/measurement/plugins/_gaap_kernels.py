"""Compiled core of the GAaP fluxes (spec finalize 8.9, 9.4; Kuijken 2008); the slow twin is in the tests.

Apertures are Gaussians given by their moments Q, ``xx, yy, xy`` (pixel^2).
"""

from __future__ import annotations

__all__ = ("gaap_loop", "gaussian_sum")

import math

import numpy as np
from numba import njit

from secondlight.photometry._aperture_kernels import LANCZOS_ORDER, lanczos_taps, row_span

from ..pixels import SourcePixels, hide, show
from ._gaap_fit_kernels import GaussianizeSettings, autocorrelation, convolve, fit_kernel

_CUT = 14.0
"""Square of the largest distance from the centre in units of the aperture's width."""
_NARROW = 0.5
"""Least moment of an aperture that is sampled well by the pixels."""
_NARROWEST = 0.7
"""The same for the square of an aperture."""
_STEP = 0.25
"""Spacing of the points at which narrower ones are sampled, pixels."""
_LEAST_DET = 1e-12


@njit(cache=True, nogil=True)
def _pixel_sum(image: np.ndarray, x: float, y: float, xx: float, yy: float, xy: float, power: float) -> float:
    """Return the sum of pixels times ``w^power``, with w the Gaussian of given moments about (x, y)."""
    height, width = image.shape
    det = xx * yy - xy * xy
    a, b, c = power * yy / det, -power * xy / det, power * xx / det
    # From one pixel to the next the weight changes by a ratio that itself changes by a constant ratio.
    step = math.exp(-a)
    reach = math.sqrt(_CUT * yy)
    total = 0.0
    for j in range(max(0, math.ceil(y - reach)), min(height - 1, math.floor(y + reach)) + 1):
        i0, i1 = row_span(x, y, _CUT * xx, _CUT * yy, _CUT * xy, j)
        i0, i1 = max(i0, 0), min(i1, width - 1)
        dx, dy = i0 - x, j - y
        weight = math.exp(-0.5 * (a * dx * dx + 2.0 * b * dx * dy + c * dy * dy))
        ratio = math.exp(-0.5 * a * (2.0 * dx + 1.0) - b * dy)
        for i in range(i0, i1 + 1):
            total += weight * image[j, i]
            weight *= ratio
            ratio *= step
    return total


@njit(cache=True, nogil=True)
def _interpolated(image: np.ndarray, x: float, y: float, x_taps: np.ndarray, y_taps: np.ndarray) -> float:
    """Return the value of an image between its pixels; 0 outside.  The taps are scratch (10), (10)."""
    ix, iy = math.floor(x + 0.5), math.floor(y + 0.5)
    fx, fy = ix - x, iy - y
    first_x = ix + lanczos_taps(fx if abs(fx) > 1e-9 else 0.0, x_taps)
    first_y = iy + lanczos_taps(fy if abs(fy) > 1e-9 else 0.0, y_taps)
    total = 0.0
    for t in range(max(0, -first_y), min(2 * LANCZOS_ORDER, image.shape[0] - first_y)):
        for s in range(max(0, -first_x), min(2 * LANCZOS_ORDER, image.shape[1] - first_x)):
            total += y_taps[t] * x_taps[s] * image[first_y + t, first_x + s]
    return total


@njit(cache=True, nogil=True)
def _fine_sum(image: np.ndarray, x: float, y: float, xx: float, yy: float, xy: float) -> float:
    """Return the integral of an image times the Gaussian of given moments, from points between pixels."""
    det = xx * yy - xy * xy
    x_half, y_half = int(math.sqrt(_CUT * xx) / _STEP), int(math.sqrt(_CUT * yy) / _STEP)
    x_taps, y_taps = np.empty(2 * LANCZOS_ORDER), np.empty(2 * LANCZOS_ORDER)
    total = weights = 0.0
    for j in range(-y_half, y_half + 1):
        dy = _STEP * j
        for i in range(-x_half, x_half + 1):
            dx = _STEP * i
            q = (yy * dx * dx - 2.0 * xy * dx * dy + xx * dy * dy) / det
            if q > _CUT:
                continue
            weight = math.exp(-0.5 * q)
            weights += weight
            total += weight * _interpolated(image, x + dx, y + dy, x_taps, y_taps)
    # However few points there are, the weights have the integral of the Gaussian.
    return 2.0 * math.pi * math.sqrt(det) * total / weights


@njit(cache=True, nogil=True)
def gaussian_sum(image: np.ndarray, x: float, y: float, xx: float, yy: float, xy: float) -> float:
    """Return the sum of an image (h, w) times the Gaussian of given moments about an array position.

    NaN for moments that are not positive.
    """
    det = xx * yy - xy * xy
    if not (det > _LEAST_DET and xx > 0.0 and yy > 0.0):
        return np.nan
    if xx < _NARROW or yy < _NARROW or det < _NARROW * _NARROW:
        return _fine_sum(image, x, y, xx, yy, xy)
    return _pixel_sum(image, x, y, xx, yy, xy, 1.0)


@njit(cache=True, nogil=True)
def _mean_variance(
    variance: np.ndarray, x: float, y: float, xx: float, yy: float, xy: float, spread: float
) -> float:
    """Return the variance of the pixels that an aperture sees, 0 for those that are not there.

    ``spread`` is the square of the width of the kernel: the pixels are weighted with the square of the
    aperture as the kernel widens it.
    """
    xx, yy = max(xx + spread, _NARROWEST), max(yy + spread, _NARROWEST)
    norm = math.pi * math.sqrt(xx * yy - xy * xy)
    return _pixel_sum(variance, x, y, xx, yy, xy, 2.0) / norm


@njit(cache=True, nogil=True)
def _cut_out(image: np.ndarray, i0: int, i1: int, j0: int, j1: int, half: int, box: np.ndarray) -> np.ndarray:
    """Return pixels i0..i1, j0..j1 with ``half`` more all round, 0 outside a box ``x0, y0, x1, y1``."""
    out = np.zeros((j1 - j0 + 1 + 2 * half, i1 - i0 + 1 + 2 * half))
    left, right = max(i0 - half, box[0]), min(i1 + half, box[2])
    for j in range(max(j0 - half, box[1]), min(j1 + half, box[3]) + 1):
        line = out[j - j0 + half]
        for i in range(left, right + 1):
            line[i - i0 + half] = image[j, i]
    return out


@njit(cache=True, nogil=True)
def _reach(moments: np.ndarray) -> tuple[float, float]:
    """Return the half-sizes of a box around all apertures (a, 3), at least some pixels."""
    x_reach = y_reach = 3.0 * LANCZOS_ORDER
    for a in range(len(moments)):
        if moments[a, 0] > 0.0 and moments[a, 1] > 0.0:
            x_reach = max(x_reach, math.sqrt(_CUT * moments[a, 0]))
            y_reach = max(y_reach, math.sqrt(_CUT * moments[a, 1]))
    return min(x_reach, 1e6), min(y_reach, 1e6)


@njit(cache=True, nogil=True)
def _measure(
    pixels: SourcePixels,
    x: float,
    y: float,
    box: np.ndarray,
    columns: np.ndarray,
    lines: np.ndarray,
    spread: float,
    moments: np.ndarray,
    flux: np.ndarray,
    noise: np.ndarray,
) -> None:
    """Fill weighted sums of the image after its convolution, and their variances (a), of one source.

    ``x, y`` and ``box`` are array indices; the image counts as 0 outside the box.
    """
    half = columns.shape[1] // 2
    x_reach, y_reach = _reach(moments)
    i0, i1 = max(box[0], math.floor(x - x_reach)), min(box[2], math.ceil(x + x_reach))
    j0, j1 = max(box[1], math.floor(y - y_reach)), min(box[3], math.ceil(y + y_reach))
    smooth = convolve(_cut_out(pixels.image, i0, i1, j0, j1, half, box), columns, lines)
    variance = pixels.variance[j0 : j1 + 1, i0 : i1 + 1]
    correlation = autocorrelation(columns, lines)
    for a in range(len(moments)):
        xx, yy, xy = moments[a]
        flux[a] = gaussian_sum(smooth, x - i0, y - j0, xx, yy, xy)
        if math.isnan(flux[a]):
            continue
        # Variance of the sum on noise of variance 1 that the kernel has correlated.
        lag = 2.0 * half
        power = gaussian_sum(correlation, lag, lag, 2.0 * xx, 2.0 * yy, 2.0 * xy)
        power *= math.pi * math.sqrt(xx * yy - xy * xy)
        noise[a] = power * _mean_variance(variance, x - i0, y - j0, xx, yy, xy, spread)


@njit(cache=True, nogil=True)
def gaap_loop(
    pixels: SourcePixels,
    x: np.ndarray,
    y: np.ndarray,
    boxes: np.ndarray,
    stamps: np.ndarray,
    psf_sigmas: np.ndarray,
    target_sigmas: np.ndarray,
    moments: np.ndarray,
    settings: GaussianizeSettings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make the PSF Gaussian and sum pixels in Gaussian apertures at parent positions (n).

    Parameters
    ----------
    boxes
        Pixels to use, inclusive parent coordinates ``x0, y0, x1, y1``, inside the image (n, 4).
    stamps
        PSF centred on the middle pixel (n, h, w).
    psf_sigmas, target_sigmas
        Widths of the PSF as it is and as it shall be, pixels (n).
    moments
        Moments of the apertures, pixel^2 (n, a, 3); NaN for those that are not measured.

    Returns
    -------
    sums, variances
        Sums weighted with the apertures and their variances (n, a); NaN if the source is not in its box.
    failed
        Whether no kernel was found, (n).
    """
    n, n_apertures = moments.shape[:2]
    sums = np.full((n, n_apertures), np.nan)
    variances = np.full((n, n_apertures), np.nan)
    failed = np.zeros(n, np.bool_)
    box = np.empty(4, np.int64)
    for k in range(n):
        if not (psf_sigmas[k] > 0.0 and math.isfinite(target_sigmas[k])):
            failed[k] = True
            continue
        x0, y0, x1, y1 = boxes[k]
        if not (x0 - 0.5 <= x[k] < x1 + 0.5 and y0 - 0.5 <= y[k] < y1 + 0.5):
            continue
        fitted, columns, lines = fit_kernel(stamps[k], psf_sigmas[k], target_sigmas[k], settings)
        if not fitted:
            failed[k] = True
            continue
        box[0], box[1] = x0 - pixels.x0, y0 - pixels.y0
        box[2], box[3] = x1 - pixels.x0, y1 - pixels.y0
        spread = target_sigmas[k] ** 2 - psf_sigmas[k] ** 2
        show(pixels, k)
        _measure(
            pixels,
            x[k] - pixels.x0,
            y[k] - pixels.y0,
            box,
            columns,
            lines,
            spread,
            moments[k],
            sums[k],
            variances[k],
        )
        hide(pixels, k)
    return sums, variances, failed
