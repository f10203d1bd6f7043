"""Compiled re-Gaussianization: what a galaxy would look like behind a Gaussian PSF (Hirata & Seljak 2003).

The order of steps, the limits and the boxes are those of the ``hsm`` module of GalSim (BSD licence; C.
Hirata, R. Mandelbaum, U. Seljak and the GalSim developers), so that results agree; the sums are made
otherwise.
"""

from __future__ import annotations

__all__ = ("regaussianized",)

import math

import numpy as np
from numba import njit

from .convolution import add_convolution, fill_gaussian
from .moments import OK, OUTSIDE, fit_ellipse

_GALAXY_REACH = 3.0
"""Half-width of the box of the deconvolved Gaussian, in its sigmas (of at least a pixel)."""
_RESIDUAL_REACH = 3.6
"""Half-width of the galaxy's part in the box of the residual of the PSF, in sigmas of the galaxy."""
_MIN_AXIS = 0.25
"""Least variance of the deconvolved Gaussian along each axis, pixel^2."""


@njit(cache=True, nogil=True, error_model="numpy")
def _deconvolved(galaxy: np.ndarray, psf: np.ndarray) -> tuple[float, float, float]:
    """Return xx, xy, yy of a galaxy's moments less the PSF's, each axis held above its minimum."""
    xx, xy, yy = galaxy[3] - psf[3], galaxy[4] - psf[4], galaxy[5] - psf[5]
    angle = math.atan2(2.0 * xy, xx - yy)
    major = 0.5 * ((xx + yy) + (xx - yy) * math.cos(angle)) + xy * math.sin(angle)
    minor = max(xx + yy - major, _MIN_AXIS)
    major = max(major, _MIN_AXIS)
    mean, half = 0.5 * (major + minor), 0.5 * (major - minor)
    return mean + half * math.cos(angle), half * math.sin(angle), mean - half * math.cos(angle)


@njit(cache=True, nogil=True)
def _cut(first: int, last: int, centre: float, reach: float) -> tuple[int, int]:
    """Return a range of pixels cut to those within ``reach`` of ``centre``, rounded outwards."""
    if first < centre - reach:
        first = math.floor(centre - reach)
    if last > centre + reach:
        last = math.ceil(centre + reach)
    return first, last


@njit(cache=True, nogil=True, error_model="numpy")
def _psf_residual(
    psf: np.ndarray, moments: np.ndarray, flux: float, box: tuple[int, int, int, int]
) -> np.ndarray:
    """Return the PSF's Gaussian (its ``moments``, its flux) less the PSF, on the box ``(x0, y0, x1, y1)``."""
    x0, y0, x1, y1 = box
    xx, xy, yy = moments[3], moments[4], moments[5]
    residual = np.empty((y1 - y0 + 1, x1 - x0 + 1))
    fill_gaussian(residual, moments[1] - x0, moments[2] - y0, xx, xy, yy)
    peak = flux / (2.0 * math.pi * math.sqrt(xx * yy - xy * xy))
    for j in range(residual.shape[0]):
        for i in range(residual.shape[1]):
            residual[j, i] = peak * residual[j, i] - psf[y0 + j, x0 + i]
    return residual


@njit(cache=True, nogil=True, error_model="numpy")
def _regaussianize(
    image: np.ndarray, psf: np.ndarray, galaxy_moments: np.ndarray, psf_moments: np.ndarray, flux: float
) -> int:
    """Add to ``image`` the deconvolved Gaussian seen through the residual of the PSF; return a code."""
    xx, xy, yy = _deconvolved(galaxy_moments, psf_moments)
    x_psf, y_psf = psf_moments[1], psf_moments[2]
    x, y = galaxy_moments[1] - x_psf, galaxy_moments[2] - y_psf
    height, width = psf.shape
    reach_x, reach_y = _GALAXY_REACH * math.sqrt(max(xx, 1.0)), _GALAXY_REACH * math.sqrt(max(yy, 1.0))
    x0, x1 = _cut(1 - width, image.shape[1] - 1, x, reach_x)
    y0, y1 = _cut(1 - height, image.shape[0] - 1, y, reach_y)
    reach_x += _RESIDUAL_REACH * math.sqrt(galaxy_moments[3])
    reach_y += _RESIDUAL_REACH * math.sqrt(galaxy_moments[5])
    psf_x0, psf_x1 = _cut(0, width - 1, x_psf, reach_x)
    psf_y0, psf_y1 = _cut(0, height - 1, y_psf, reach_y)
    if x0 > x1 or y0 > y1 or psf_x0 > psf_x1 or psf_y0 > psf_y1:
        return OUTSIDE
    gaussian = np.empty((y1 - y0 + 1, x1 - x0 + 1))
    total = fill_gaussian(gaussian, x - x0, y - y0, xx, xy, yy)
    psf_flux = psf.sum()
    gaussian *= flux / (total * psf_flux)
    residual = _psf_residual(psf, psf_moments, psf_flux, (psf_x0, psf_y0, psf_x1, psf_y1))
    add_convolution(gaussian, residual, x0 + psf_x0, y0 + psf_y0, image)
    return OK


@njit(cache=True, nogil=True, error_model="numpy")
def regaussianized(
    pixels: np.ndarray, psf: np.ndarray, start: np.ndarray, psf_start: np.ndarray, moments: np.ndarray
) -> int:
    """Fit the moments of a galaxy as it would be behind a Gaussian PSF; return a code.

    Parameters
    ----------
    pixels
        Galaxy, float64 (h, w), zero where masked; it is changed.
    psf
        PSF image, float64 (m, n).
    start, psf_start
        First guesses: x, y (indices), xx, xy, yy.
    moments
        Filled, (3, ``RESULT_SIZE``), with the moments of the re-Gaussianized galaxy, of the PSF and of the
        galaxy as observed.
    """
    final, of_psf, observed = moments[0], moments[1], moments[2]
    code = fit_ellipse(psf, psf_start, of_psf)
    if code != OK:
        return code
    code = fit_ellipse(pixels, start, observed)
    if code != OK:
        return code
    code = _regaussianize(pixels, psf, observed, of_psf, flux_of_fit(observed))
    if code != OK:
        return code
    return fit_ellipse(pixels, observed[1:6].copy(), final)


@njit(cache=True, nogil=True)
def flux_of_fit(moments: np.ndarray) -> float:
    """Return the flux of the Gaussian and quartic fit to an object of these moments."""
    return float(0.5 * moments[0] * moments[6])
