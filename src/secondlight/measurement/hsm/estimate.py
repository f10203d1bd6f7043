"""Compiled estimate of the shape of one galaxy before the PSF, by any of the four methods of GalSim."""

from __future__ import annotations

__all__ = ("BJ", "KSB", "LINEAR", "OK", "REGAUSS", "UNRESOLVED", "estimate_shape")

import math

import numpy as np
from numba import njit

from .ksb import ksb_shear
from .moments import EMPTY, OK, RESULT_SIZE, fit_ellipse, used_pixels
from .regauss import flux_of_fit, regaussianized
from .shapes import corrected_bj, corrected_linear, distortion, kurtosis

BJ, LINEAR, KSB, REGAUSS = 0, 1, 2, 3

UNRESOLVED = 9
"""The galaxy is not larger than the PSF; codes below are those of the moments."""


@njit(cache=True, nogil=True)
def _round_start(x: float, y: float, sigma: float) -> np.ndarray:
    """Return a first guess (x, y, xx, xy, yy) of a round weight."""
    return np.array([x, y, sigma * sigma, 0.0, sigma * sigma])


@njit(cache=True, nogil=True, error_model="numpy")
def _size(moments: np.ndarray) -> float:
    """Return the determinant radius of a `find_moments` result."""
    return float((moments[3] * moments[5] - moments[4] * moments[4]) ** 0.25)


@njit(cache=True, nogil=True, error_model="numpy")
def _from_moments(method: int, galaxy: np.ndarray, psf: np.ndarray, shape: np.ndarray) -> None:
    """Fill ``shape`` with e1, e2, size, flux of the galaxy and resolution, from moments (`RESULT_SIZE`)."""
    e1_psf, e2_psf, trace_psf = distortion(psf)
    e1, e2, trace = distortion(galaxy)
    ratio = trace_psf / trace
    if method == LINEAR:
        corrected = corrected_linear(ratio, e1_psf, e2_psf, kurtosis(psf), e1, e2, kurtosis(galaxy))
    else:
        # A re-Gaussianized galaxy is behind a PSF without kurtosis.
        a4_psf = 0.0 if method == REGAUSS else kurtosis(psf)
        corrected = corrected_bj(ratio, e1_psf, e2_psf, a4_psf, e1, e2, kurtosis(galaxy))
    shape[0], shape[1] = corrected
    shape[2], shape[3], shape[4] = _size(galaxy), galaxy[0], 1.0 - ratio


@njit(cache=True, nogil=True, error_model="numpy")
def _measured(
    method: int,
    pixels: np.ndarray,
    psf: np.ndarray,
    start: np.ndarray,
    psf_start: np.ndarray,
    shape: np.ndarray,
) -> int:
    """Fill ``shape`` as `_from_moments` does, from pixels without masked ones; return a code."""
    moments = np.empty((3, RESULT_SIZE))
    code = fit_ellipse(pixels, start, moments[0])
    if code != OK:
        return code
    # As in GalSim, the fit starts again from a round weight of the size found, which is kept in single
    # precision: where the fit hardly converges, the start decides.
    size = float(np.float32(_size(moments[0])))
    again = _round_start(moments[0, 1], moments[0, 2], size)
    if method == REGAUSS:
        code = regaussianized(pixels, psf, again, psf_start, moments)
        if code == OK:
            _from_moments(method, moments[0], moments[1], shape)
            shape[3] = flux_of_fit(moments[2])
        return code
    code = fit_ellipse(psf, psf_start, moments[1])
    if code != OK:
        return code
    if method == KSB:
        weight = np.array([again[0], again[1], size])
        psf_weight = np.array([moments[1, 1], moments[1, 2], _size(moments[1])])
        return ksb_shear(pixels, psf, weight, psf_weight, shape)
    code = fit_ellipse(pixels, again, moments[0])
    if code == OK:
        _from_moments(method, moments[0], moments[1], shape)
    return code


@njit(cache=True, nogil=True, error_model="numpy")
def estimate_shape(
    method: int,
    image: np.ndarray,
    good: np.ndarray,
    psf: np.ndarray,
    x: float,
    y: float,
    sigma: float,
    psf_sigma: float,
    variance: float,
    result: np.ndarray,
) -> int:
    """Estimate the shape of a galaxy before the PSF; return `OK` or the code of the failure.

    Parameters
    ----------
    method
        `BJ`, `LINEAR`, `KSB` or `REGAUSS`.
    image
        Pixels (h, w).
    good
        Pixels to be used, bool (h, w).
    psf
        PSF image, float64 (m, n), about its middle.
    x, y, sigma
        First guess of the centre (indices) and of the size of the galaxy, pixels.
    psf_sigma
        First guess of the size of the PSF, pixels.
    variance
        Variance of a pixel.
    result
        Filled with the two components of the distortion (of the shear with `KSB`), the error of the shear per
        component, and the resolution; all NaN after a failure.
    """
    result[:] = np.nan
    pixels, x0, y0 = used_pixels(image, good)
    if pixels.size == 0:
        return EMPTY
    psf_start = _round_start(0.5 * (psf.shape[1] - 1), 0.5 * (psf.shape[0] - 1), psf_sigma)
    shape = np.empty(5)
    code = _measured(method, pixels, psf, _round_start(x - x0, y - y0, sigma), psf_start, shape)
    if code != OK:
        return code
    e1, e2, size, flux, resolution = shape
    if resolution <= 0.0:
        return UNRESOLVED
    result[0], result[1] = e1, e2
    result[2] = math.sqrt(4.0 * math.pi * variance) * size / (resolution * flux)
    result[3] = resolution
    return OK
