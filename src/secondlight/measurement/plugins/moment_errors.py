"""Errors of adaptive moments, and of fluxes under a weight whose shape was measured on the same pixels.

Adaptive moments are where the weight ``w = exp(-|u|^2 / 2)``, in coordinates u that make the moments 1,
fulfils ``n_ab = sum w (u_a u_b - delta_ab / 2) I = 0``. Noise changes them by m with ``J m = -n``, and
the flux ``2 sum w I`` by its own noise and by ``S tr(m) / 2``, where ``S = sum w I``. J needs the fourth
moments of the weighted object. They are taken to be those of elliptical contours, which the kurtosis ``K
= sum w |u|^4 I / S`` gives (2 for a Gaussian): the trace of m is ``4 tr(n) / (S (3 - K))`` and what is
left of it ``n / (S (1/2 - K/8))``. Everything is then a sum of pixels, each with its own variance.

For a Gaussian on the noise of the sky this is the inverse of the Fisher matrix of spec reprocess 17.2.
"""

from __future__ import annotations

__all__ = ("moment_covariance", "size_response")

import math

import numpy as np
from numba import njit

from secondlight.psf._adaptive_moment_kernels import PIXEL_CUT, SUBPIXEL_CUT, needs_subpixels, weight_box

_SUBPIXELS = 4
_LEAST_KURTOSIS, _LARGEST_KURTOSIS = 1.0, 2.5
"""Limits of what is believed of the kurtosis of noisy objects; that of galaxies is 2.0 to 2.3."""


@njit(cache=True, nogil=True)
def bounded_kurtosis(total: float, fourth: float) -> float:
    """Return K from ``sum w I`` and ``sum w |u|^4 I``; that of a Gaussian where there is no flux."""
    if not total > 0.0:
        return 2.0
    return min(max(fourth / total, _LEAST_KURTOSIS), _LARGEST_KURTOSIS)


@njit(cache=True, nogil=True)
def size_response(total: float, fourth: float) -> float:
    """Return r: noise d changes the flux by ``2 sum w (1 + r (|u|^2 - 1)) d`` as the shape follows it.

    The arguments are ``sum w I`` and ``sum w |u|^4 I``.
    """
    return 1.0 / (3.0 - bounded_kurtosis(total, fourth))


@njit(cache=True, nogil=True)
def _noise_sums(
    image: np.ndarray,
    variance: np.ndarray,
    x: float,
    y: float,
    root: tuple[float, float, float],
    box: tuple[int, int, int, int],
    count: int,
    sums: np.ndarray,
) -> tuple[float, float]:
    """Fill ``sums`` (4, 4) with the noise of w, w (u1^2 - 1/2), w (u2^2 - 1/2) and w u1 u2 times the pixels.

    ``root`` is the lower triangle a, b, c of the Cholesky root of the moments. Pixels are sampled at
    ``count`` x ``count`` positions, each with its share of the value and noise of its own.
    Returns sum(wI) and sum(w|u|^4 I).
    """
    a, b, c = root
    x0, x1, y0, y1 = box
    cut = PIXEL_CUT if count == 1 else SUBPIXEL_CUT
    share, first = 1.0 / (count * count), 0.5 * (1.0 / count - 1.0)
    terms = np.empty(4)
    sums[:] = 0.0
    total = fourth = 0.0
    for j in range(count * y0, count * (y1 + 1)):
        dy = j // count + first + (j % count) / count - y
        for i in range(count * x0, count * (x1 + 1)):
            u1 = (i // count + first + (i % count) / count - x) / a
            u2 = (dy - b * u1) / c
            q = u1 * u1 + u2 * u2
            if q > cut:
                continue
            w = math.exp(-0.5 * q)
            terms[0], terms[1] = w, w * (u1 * u1 - 0.5)
            terms[2], terms[3] = w * (u2 * u2 - 0.5), w * u1 * u2
            value, spread = share * image[j // count, i // count], share * variance[j // count, i // count]
            total += w * value
            fourth += w * q * q * value
            for k in range(4):
                noise = terms[k] * spread
                for m in range(k + 1):
                    sums[k, m] += noise * terms[m]
    for k in range(4):
        for m in range(k):
            sums[m, k] = sums[k, m]
    return total, fourth


@njit(cache=True, nogil=True)
def moment_covariance(
    image: np.ndarray,
    variance: np.ndarray,
    x: float,
    y: float,
    moments: np.ndarray,
    covariance: np.ndarray,
) -> None:
    """Fill ``covariance`` (4, 4) of flux, xx, yy and xy; NaN where it cannot be worked out.

    Parameters
    ----------
    image, variance
        Pixels and their variances (h, w).
    x, y
        Centre of the weight, array indices.
    moments
        Adaptive moments xx, yy, xy, pixel^2.
    covariance
        Output; the units are powers of counts and pixel^2.
    """
    covariance[:] = np.nan
    xx, yy, xy = moments
    det = xx * yy - xy * xy
    if not (det > 0.0 and xx > 0.0):
        return
    a = math.sqrt(xx)
    b, c = xy / a, math.sqrt(det) / a
    noise = np.empty((4, 4))
    box = weight_box(image.shape, x, y, xx, yy)
    samples = _SUBPIXELS if needs_subpixels(xx, yy, xy) else 1
    total, fourth = _noise_sums(image, variance, x, y, (a, b, c), box, samples, noise)
    if not (total > 0.0 and noise[0, 0] > 0.0):
        return
    kurtosis = bounded_kurtosis(total, fourth)
    # Half the sum and half the difference of m11 and m22, and m12, from n11, n22 and n12.
    mean = 2.0 / (total * (3.0 - kurtosis))
    shear = 1.0 / (total * (0.5 - 0.125 * kurtosis))
    same, other = mean + 0.5 * shear, mean - 0.5 * shear
    response = np.zeros((4, 4))
    response[0, 0] = 2.0
    response[0, 1] = response[0, 2] = total * mean
    m11 = np.array([0.0, same, other, 0.0])
    m22 = np.array([0.0, other, same, 0.0])
    m12 = np.array([0.0, 0.0, 0.0, shear])
    response[1] = a * a * m11
    response[2] = b * b * m11 + 2.0 * b * c * m12 + c * c * m22
    response[3] = a * (b * m11 + c * m12)
    for k in range(4):
        for m in range(4):
            value = 0.0
            for p in range(4):
                for q in range(4):
                    value += response[k, p] * noise[p, q] * response[m, q]
            covariance[k, m] = value
