"""Compiled fit of the kernel that makes a PSF Gaussian (spec finalize 8.9; Alard & Lupton 1998).

The kernel is a Gaussian times a polynomial of some total degree, a sum of products of one-dimensional
functions, and is kept as such: row k of ``columns`` and of ``lines`` (d + 1, side) are the factors along y
and x of one product.  All convolutions here are convolutions: the kernel is flipped.
"""

from __future__ import annotations

__all__ = ("GaussianizeSettings", "autocorrelation", "convolve", "fit_kernel")

import math
from typing import NamedTuple

import numpy as np
from numba import njit

_LEAST_PIVOT = 1e-14
"""Share of a diagonal element that must be left of it, or the functions are not independent."""


class GaussianizeSettings(NamedTuple):
    """Settings of the kernels, named as in the configuration."""

    degree: int
    min_sigma: float
    kernel_size: int
    scale_by_fwhm: bool
    fwhm_scaling: float
    size_min: int
    size_max: int
    auto_pad: bool
    pad_to: float
    pad_by: int


@njit(cache=True, nogil=True)
def kernel_side(sigma: float, settings: GaussianizeSettings) -> int:
    """Return the odd side of a kernel made of Gaussians of some width (sigma, pixels)."""
    side = settings.kernel_size
    if settings.scale_by_fwhm:
        side = int(min(max(settings.fwhm_scaling * sigma, 0.0), 1.0 * settings.size_max))
        side = min(max(side + 1 - side % 2, settings.size_min), settings.size_max)
    return side + 1 - side % 2


@njit(cache=True, nogil=True)
def _hermite_functions(sigma: float, degree: int, half: int) -> np.ndarray:
    """Return a Gaussian times Hermite polynomials of degree 0 to d on ``2 half + 1`` pixels."""
    functions = np.empty((degree + 1, 2 * half + 1))
    for i in range(2 * half + 1):
        u = (i - half) / sigma
        functions[0, i] = math.exp(-0.5 * u * u)
        if degree > 0:
            functions[1, i] = u * functions[0, i]
        for n in range(1, degree):
            rising = u * functions[n, i] - math.sqrt(n) * functions[n - 1, i]
            functions[n + 1, i] = rising / math.sqrt(n + 1.0)
    return functions


@njit(cache=True, nogil=True, fastmath={"contract"})
def _filter_rows(image: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    """Fill rows convolved with taps (k) where these fit, (h, w - k + 1)."""
    k, n = len(taps), out.shape[1]
    for j in range(out.shape[0]):
        source, line = image[j], out[j]
        line[:] = 0.0
        t = 0
        # Three taps at once read and write the result less often.
        while t + 3 <= k:
            c0, c1, c2 = taps[k - 1 - t], taps[k - 2 - t], taps[k - 3 - t]
            part = source[t : t + n + 2]
            for i in range(n):
                line[i] += c0 * part[i] + c1 * part[i + 1] + c2 * part[i + 2]
            t += 3
        while t < k:
            c0, part = taps[k - 1 - t], source[t : t + n]
            for i in range(n):
                line[i] += c0 * part[i]
            t += 1


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_filtered_columns(image: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    """Add columns convolved with taps (k) where these fit, (h - k + 1, w)."""
    k, n = len(taps), out.shape[1]
    for j in range(out.shape[0]):
        line = out[j]
        t = 0
        while t + 3 <= k:
            c0, c1, c2 = taps[k - 1 - t], taps[k - 2 - t], taps[k - 3 - t]
            a, b, c = image[j + t], image[j + t + 1], image[j + t + 2]
            for i in range(n):
                line[i] += c0 * a[i] + c1 * b[i] + c2 * c[i]
            t += 3
        while t < k:
            c0, a = taps[k - 1 - t], image[j + t]
            for i in range(n):
                line[i] += c0 * a[i]
            t += 1


@njit(cache=True, nogil=True)
def convolve(image: np.ndarray, columns: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Return an image (h, w) convolved with a kernel of side s where that fits, (h - s + 1, w - s + 1)."""
    side = columns.shape[1]
    out = np.zeros((image.shape[0] - side + 1, image.shape[1] - side + 1))
    rows = np.empty((image.shape[0], image.shape[1] - side + 1))
    for k in range(len(columns)):
        _filter_rows(image, lines[k], rows)
        _add_filtered_columns(rows, columns[k], out)
    return out


@njit(cache=True, nogil=True)
def _solve(matrix: np.ndarray, vector: np.ndarray) -> bool:
    """Solve a symmetric positive system (n, n) in place, by Cholesky's method; whether that worked."""
    n = len(vector)
    for i in range(n):
        diagonal = matrix[i, i]
        for j in range(i + 1):
            rest = matrix[i, j]
            for k in range(j):
                rest -= matrix[i, k] * matrix[j, k]
            if j < i:
                matrix[i, j] = rest / matrix[j, j]
            elif rest > _LEAST_PIVOT * diagonal:
                matrix[i, i] = math.sqrt(rest)
            else:
                return False
    for i in range(n):
        for k in range(i):
            vector[i] -= matrix[i, k] * vector[k]
        vector[i] /= matrix[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            vector[i] -= matrix[k, i] * vector[k]
        vector[i] /= matrix[i, i]
    return True


@njit(cache=True, nogil=True)
def _padded(stamp: np.ndarray, side: int, settings: GaussianizeSettings) -> np.ndarray:
    """Return a stamp (h, w), zeros around it, with room for the kernel; square."""
    height, width = stamp.shape
    size = max(height, width) + settings.pad_by
    if settings.auto_pad:
        size = max(height, width, math.ceil(settings.pad_to * side))
    size += 1 - size % 2
    out = np.zeros((size, size))
    y0, x0 = size // 2 - height // 2, size // 2 - width // 2
    out[y0 : y0 + height, x0 : x0 + width] = stamp
    return out


@njit(cache=True, nogil=True)
def _target(sigma: float, size: int, fit_size: int) -> np.ndarray:
    """Return the middle (m, m) of a Gaussian with unit sum over ``size`` pixels a side, raveled."""
    half, middle = size // 2, fit_size // 2
    line = np.empty(size)
    for i in range(size):
        d = (i - half) / sigma
        line[i] = math.exp(-0.5 * d * d)
    line /= line.sum()
    inner = line[half - middle : half + middle + 1]
    return np.outer(inner, inner).ravel()


@njit(cache=True, nogil=True)
def fit_kernel(
    stamp: np.ndarray, psf_sigma: float, target_sigma: float, settings: GaussianizeSettings
) -> tuple[bool, np.ndarray, np.ndarray]:
    """Fit the kernel that makes a PSF a round Gaussian.

    Parameters
    ----------
    stamp
        PSF centred on the middle pixel, unit sum (h, w).
    psf_sigma, target_sigma
        Widths of the PSF and of the Gaussian to come, pixels.

    Returns
    -------
    fitted
        Whether there is a kernel.
    columns, lines
        Its factors along y and x, (d + 1, side).  Its sum is 1.
    """
    degree = settings.degree
    sigma = max(settings.min_sigma, math.sqrt(max(target_sigma**2 - psf_sigma**2, 0.0)))
    side = kernel_side(sigma, settings)
    functions = _hermite_functions(sigma, degree, side // 2)
    image = _padded(stamp, side, settings)
    fit_size = image.shape[0] - side + 1
    n_terms = (degree + 1) * (degree + 2) // 2
    if fit_size < 1 or fit_size * fit_size < n_terms:
        return False, functions, functions
    design = np.zeros((n_terms, fit_size, fit_size))
    rows = np.empty((image.shape[0], fit_size))
    term = 0
    for k in range(degree + 1):
        _filter_rows(image, functions[k], rows)
        for j in range(degree + 1 - k):
            _add_filtered_columns(rows, functions[j], design[term])
            term += 1
    flat = design.reshape((n_terms, fit_size * fit_size))
    solution = np.dot(flat, _target(target_sigma, image.shape[0], fit_size))
    if not (math.isfinite(solution.sum()) and _solve(np.dot(flat, flat.T), solution)):
        return False, functions, functions
    coefficients = np.zeros((degree + 1, degree + 1))
    term = 0
    for k in range(degree + 1):
        for j in range(degree + 1 - k):
            coefficients[j, k] = solution[term]
            term += 1
    # The sum is made 1 by way of the plain Gaussian.
    sums = functions.sum(axis=1)
    total = np.dot(sums, np.dot(coefficients, sums))
    coefficients[0, 0] += (1.0 - total) / (sums[0] * sums[0])
    return math.isfinite(total), functions, np.dot(coefficients, functions)


@njit(cache=True, nogil=True)
def _cross_correlations(functions: np.ndarray) -> np.ndarray:
    """Return correlations of all pairs of functions (k, s) at lags ``1 - s`` to ``s - 1``, (k^2, 2s - 1)."""
    n, side = functions.shape
    out = np.zeros((n * n, 2 * side - 1))
    for a in range(n):
        for b in range(n):
            for lag in range(1 - side, side):
                total = 0.0
                for i in range(max(0, -lag), min(side, side - lag)):
                    total += functions[a, i] * functions[b, i + lag]
                out[a * n + b, lag + side - 1] = total
    return out


@njit(cache=True, nogil=True)
def autocorrelation(columns: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Return the autocorrelation of a kernel of side s, (2s - 1, 2s - 1)."""
    correlation: np.ndarray = np.dot(_cross_correlations(columns).T, _cross_correlations(lines))
    return correlation
