"""Compiled core of base_PsfFlux: linear fits of the PSF to the pixels."""

from __future__ import annotations

__all__ = ("EDGE", "NO_PIXELS", "psf_flux_loop", "weighted_flux_loop")

import math

import numpy as np
from numba import njit

from ..pixels import SourcePixels, hide, show

EDGE = 1
NO_PIXELS = 2

_INFLATED = 2.0
"""A pixel whose variance is so many times what is expected there is an exception and keeps its own."""


@njit(cache=True, nogil=True)
def _overlap(first: int, size: int, limit: int) -> tuple[int, int]:
    """Return the first and one past the last stamp index inside an image axis of length ``limit``."""
    return max(0, -first), min(size, limit - first)


@njit(cache=True, nogil=True)
def psf_flux_loop(
    pixels: SourcePixels, stamps: np.ndarray, x0: np.ndarray, y0: np.ndarray, bad: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit stamps (n, h, w) with first parent pixels x0, y0 (n); ``bad`` is (h, w), or empty for none.

    Returns flux, error, area, chi2 (n, 4), numbers of pixels (n) and flags (n).
    """
    n, height, width = stamps.shape
    results = np.full((n, 4), np.nan)
    counts = np.zeros(n, np.int64)
    flags = np.zeros(n, np.int64)
    image, variance = pixels.image, pixels.variance
    has_bad = bad.size > 0
    for k in range(n):
        phi = stamps[k]
        if math.isnan(phi[0, 0]):
            continue
        first_x, first_y = x0[k] - pixels.x0, y0[k] - pixels.y0
        j0, j1 = _overlap(first_y, height, image.shape[0])
        i0, i1 = _overlap(first_x, width, image.shape[1])
        if j0 > 0 or i0 > 0 or j1 < height or i1 < width:
            flags[k] |= EDGE
        show(pixels, k)
        count = 0
        total = alpha = dot = noise = 0.0
        for j in range(j0, j1):
            for i in range(i0, i1):
                if has_bad and bad[first_y + j, first_x + i]:
                    continue
                m = float(phi[j, i])
                count += 1
                total += m
                alpha += m * m
                dot += m * image[first_y + j, first_x + i]
                noise += m * m * variance[first_y + j, first_x + i]
        counts[k] = count
        if count == 0 or alpha <= 0.0:
            flags[k] |= NO_PIXELS
            hide(pixels, k)
            continue
        flux = dot / alpha
        chi2 = 0.0
        for j in range(j0, j1):
            for i in range(i0, i1):
                if has_bad and bad[first_y + j, first_x + i]:
                    continue
                residual = image[first_y + j, first_x + i] - flux * float(phi[j, i])
                v = variance[first_y + j, first_x + i]
                # Compiled code raises on a division by zero, which would fail every source of the image.
                chi2 += residual * residual / v if v != 0.0 else np.inf
        hide(pixels, k)
        results[k, 0] = flux
        results[k, 1] = math.sqrt(noise) / alpha if noise >= 0.0 else np.nan
        results[k, 2], results[k, 3] = total * total / alpha, chi2
    return results, counts, flags


@njit(cache=True, nogil=True)
def _variance_line(
    phi: np.ndarray, data: np.ndarray, variance: np.ndarray, bad: np.ndarray
) -> tuple[int, float, float, float]:
    """Return the number of usable pixels and the line ``a + b phi`` through their variances, b >= 0.

    The last number is the least variance.  Usable pixels are finite, of positive finite variance, not bad.
    All arrays have the same shape, but for ``bad``, which may be empty.
    """
    count = 0
    least = np.inf
    s_m = s_mm = s_v = s_vm = 0.0
    for j in range(phi.shape[0]):
        for i in range(phi.shape[1]):
            v = float(variance[j, i])
            if (bad.size > 0 and bad[j, i]) or not (math.isfinite(data[j, i]) and 0.0 < v < np.inf):
                continue
            m = float(phi[j, i])
            count += 1
            least = min(least, v)
            s_m += m
            s_mm += m * m
            s_v += v
            s_vm += v * m
    if count == 0:
        return 0, 0.0, 0.0, 0.0
    spread = count * s_mm - s_m * s_m
    b = max((count * s_vm - s_v * s_m) / spread, 0.0) if spread > 0.0 else 0.0
    return count, (s_v - b * s_m) / count, b, least


@njit(cache=True, nogil=True)
def _weighted_flux(
    phi: np.ndarray, data: np.ndarray, variance: np.ndarray, bad: np.ndarray
) -> tuple[float, float]:
    """Return flux and error of a fit with inverse-variance weights; NaN without usable pixels."""
    count, a, b, least = _variance_line(phi, data, variance, bad)
    alpha = dot = noise = 0.0
    if count == 0:
        return np.nan, np.nan
    for j in range(phi.shape[0]):
        for i in range(phi.shape[1]):
            v = float(variance[j, i])
            if (bad.size > 0 and bad[j, i]) or not (math.isfinite(data[j, i]) and 0.0 < v < np.inf):
                continue
            m = float(phi[j, i])
            expected = max(a + b * m, least)
            weight = 1.0 / (v if v > _INFLATED * expected else expected)
            alpha += weight * m * m
            dot += weight * m * data[j, i]
            noise += weight * weight * m * m * v
    if alpha <= 0.0:
        return np.nan, np.nan
    return dot / alpha, math.sqrt(noise) / alpha


@njit(cache=True, nogil=True)
def weighted_flux_loop(
    pixels: SourcePixels, stamps: np.ndarray, x0: np.ndarray, y0: np.ndarray, bad: np.ndarray
) -> np.ndarray:
    """Fit stamps (n, h, w) with first parent pixels x0, y0 (n); ``bad`` is (h, w), or empty for none.

    Weights are inverse variances on a straight line in the PSF, so that the noise of a pixel does not decide
    its own weight, which would favour pixels that are too faint.  The error is that of these weights with the
    pixels' own variances.  Returns flux and error (n, 2).
    """
    n, height, width = stamps.shape
    results = np.full((n, 2), np.nan)
    for k in range(n):
        if math.isnan(stamps[k, 0, 0]):
            continue
        first_x, first_y = x0[k] - pixels.x0, y0[k] - pixels.y0
        j0, j1 = _overlap(first_y, height, pixels.image.shape[0])
        i0, i1 = _overlap(first_x, width, pixels.image.shape[1])
        if j1 <= j0 or i1 <= i0:
            continue
        rows, columns = slice(first_y + j0, first_y + j1), slice(first_x + i0, first_x + i1)
        cut = bad[rows, columns] if bad.size > 0 else bad
        show(pixels, k)
        results[k, 0], results[k, 1] = _weighted_flux(
            stamps[k, j0:j1, i0:i1], pixels.image[rows, columns], pixels.variance[rows, columns], cut
        )
        hide(pixels, k)
    return results
