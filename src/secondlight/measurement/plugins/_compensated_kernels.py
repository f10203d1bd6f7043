"""Compiled loops of the compensated fluxes; slow twins are in ``tests/measurement/test_compensated_flux.py``.

Positions are parent pixels (n); a source whose position is NaN is left out and gives NaN.  Everything about
the others must lie inside the image.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ..pixels import SourcePixels, hide, show


@njit(cache=True, nogil=True)
def _tophat(
    pixels: SourcePixels, x: float, y: float, disc: float, inner: float, outer: float
) -> tuple[float, float]:
    """Return flux and variance of the pixels within ``disc``, less the mean of those between two radii.

    The radii are squared, the position an array index.  A pixel in both has the difference of both weights.
    """
    flux = disc_variance = both_variance = 0.0
    ring = ring_variance = 0.0
    n_disc = n_ring = 0
    reach = math.sqrt(max(disc, outer))
    for j in range(math.ceil(y - reach), math.floor(y + reach) + 1):
        dy = j - y
        for i in range(math.ceil(x - reach), math.floor(x + reach) + 1):
            square = (i - x) * (i - x) + dy * dy
            value, variance = pixels.image[j, i], pixels.variance[j, i]
            in_ring = inner < square <= outer
            if square <= disc:
                n_disc += 1
                flux += value
                disc_variance += variance
                if in_ring:
                    both_variance += variance
            if in_ring:
                n_ring += 1
                ring += value
                ring_variance += variance
    if n_disc == 0 or n_ring == 0:
        return np.nan, np.nan
    weight = n_disc / n_ring
    noise = disc_variance + weight * weight * ring_variance - 2.0 * weight * both_variance
    return flux - n_disc * (ring / n_ring), noise


@njit(cache=True, nogil=True)
def tophat_loop(
    pixels: SourcePixels, x: np.ndarray, y: np.ndarray, radius: float, inner: float, outer: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return fluxes and variances (n) within a radius, compensated by an annulus; all radii in pixels."""
    n = len(x)
    flux = np.full(n, np.nan)
    variance = np.full(n, np.nan)
    for k in range(n):
        if math.isnan(x[k]) or math.isnan(y[k]):
            continue
        show(pixels, k)
        flux[k], variance[k] = _tophat(
            pixels, x[k] - pixels.x0, y[k] - pixels.y0, radius * radius, inner * inner, outer * outer
        )
        hide(pixels, k)
    return flux, variance


@njit(cache=True, nogil=True)
def _profile(offset: float, half: int, sigma: float, out: np.ndarray) -> float:
    """Fill a Gaussian of peak 1, ``offset`` from the middle of ``2 half + 1`` pixels, and return its sum."""
    total = 0.0
    for i in range(2 * half + 1):
        d = (i - half - offset) / sigma
        out[i] = math.exp(-0.5 * d * d)
        total += out[i]
    return total


@njit(cache=True, nogil=True)
def gaussian_loop(
    pixels: SourcePixels, x: np.ndarray, y: np.ndarray, sigma: float, t: float, half: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return fluxes and variances (n) under a Gaussian less one t times wider.

    The weights are ``g1 - (sum g1 / sum g2) g2`` over ``2 half + 1`` pixels squared about the nearest pixel.
    The ratio would be ``1 / t**2`` if the box had no end.  The flux is right for a Gaussian like ``g1``,
    of which ``g1`` sees 1 / 2 and ``g2`` sees ``t**2 / (1 + t**2)``; NaN if the weights see nothing of it.
    """
    n = len(x)
    flux = np.full(n, np.nan)
    variance = np.full(n, np.nan)
    size = 2 * half + 1
    x1, y1, x2, y2 = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    for k in range(n):
        if math.isnan(x[k]) or math.isnan(y[k]):
            continue
        i0, j0 = math.floor(x[k] + 0.5), math.floor(y[k] + 0.5)
        narrow = _profile(x[k] - i0, half, sigma, x1) * _profile(y[k] - j0, half, sigma, y1)
        wide = _profile(x[k] - i0, half, sigma * t, x2) * _profile(y[k] - j0, half, sigma * t, y2)
        ratio = narrow / wide
        seen = 0.5 - ratio * t * t / (1.0 + t * t)
        if not seen > 0.0:
            continue
        i0 -= pixels.x0 + half
        j0 -= pixels.y0 + half
        total = noise = 0.0
        show(pixels, k)
        # Counted from the value in the middle, a constant is gone before it is summed.
        zero = np.float64(pixels.image[j0 + half, i0 + half])
        for j in range(size):
            a, b = y1[j], ratio * y2[j]
            for i in range(size):
                w = a * x1[i] - b * x2[i]
                total += w * (pixels.image[j0 + j, i0 + i] - zero)
                noise += w * w * pixels.variance[j0 + j, i0 + i]
        hide(pixels, k)
        flux[k], variance[k] = total / seen, noise / (seen * seen)
    return flux, variance


@njit(cache=True, nogil=True)
def mask_bits_loop(mask: np.ndarray, x: np.ndarray, y: np.ndarray, half: int, n_bytes: int) -> np.ndarray:
    """Return the OR of the first bytes of a mask, uint8 (h, w, b), in boxes about array indices (n).

    The result is uint8 (n, 4), 0 beyond ``n_bytes`` and for a position that is NaN.
    """
    bits = np.zeros((len(x), 4), np.uint8)
    for k in range(len(x)):
        if math.isnan(x[k]) or math.isnan(y[k]):
            continue
        i0, j0 = math.floor(x[k] + 0.5) - half, math.floor(y[k] + 0.5) - half
        for b in range(n_bytes):
            union = np.uint8(0)
            for j in range(j0, j0 + 2 * half + 1):
                for i in range(i0, i0 + 2 * half + 1):
                    union |= mask[j, i, b]
            bits[k, b] = union
    return bits
