"""Compiled shears by the method of Kaiser, Squires & Broadhurst (1995, ApJ 449, 460), as GalSim words it.

Moments under a round Gaussian are taken as coefficients of Gauss-Hermite functions (Hirata & Seljak 2003,
appendix C, with the complex conjugation that GalSim corrects); the correction for an anisotropic PSF is
that of Luppino & Kaiser (1997, ApJ 475, 20).
"""

from __future__ import annotations

__all__ = ("ksb_shear",)

import math

import numpy as np
from numba import njit

from .moments import OK, fit_round_weight

_ORDERS = 5
"""Gauss-Hermite orders 0 to 4."""
_FLUX = 2.0 * math.sqrt(math.pi)
_ROOT_2 = math.sqrt(2.0)
_ROOT_6 = math.sqrt(6.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _functions(n: int, centre: float, sigma: float) -> np.ndarray:
    """Return the normalised Gauss-Hermite functions of orders 0 to 4 at pixels 0 to n - 1, (5, n)."""
    functions = np.empty((_ORDERS, n))
    norm = 1.0 / math.sqrt(sigma * math.sqrt(math.pi))
    for i in range(n):
        u = (i - centre) / sigma
        functions[0, i] = norm * math.exp(-0.5 * u * u)
        functions[1, i] = _ROOT_2 * u * functions[0, i]
        for k in range(1, _ORDERS - 1):
            above = math.sqrt(2.0 / (k + 1.0)) * u * functions[k, i]
            functions[k + 1, i] = above - math.sqrt(k / (k + 1.0)) * functions[k - 1, i]
    return functions


@njit(cache=True, nogil=True, error_model="numpy")
def _coefficients(image: np.ndarray, x: float, y: float, sigma: float) -> np.ndarray:
    """Return the sums of an image (h, w) times Gauss-Hermite functions of orders along x and y, (5, 5)."""
    along_x, along_y = _functions(image.shape[1], x, sigma), _functions(image.shape[0], y, sigma)
    sums: np.ndarray = along_y @ image @ np.ascontiguousarray(along_x.T)
    return np.ascontiguousarray(sums.T)


@njit(cache=True, nogil=True, error_model="numpy")
def _polarisation(c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return polarisation (2) and the shear and smear polarisabilities (2, 2) of coefficients (5, 5)."""
    # From products along x and y to the polar functions of orders (2, 0), (1, 1), (4, 0), (3, 1) and (2, 2).
    c20 = np.array([c[2, 0] - c[0, 2], _ROOT_2 * c[1, 1]]) / 2.0
    c11 = (c[2, 0] + c[0, 2]) / _ROOT_2
    c40_real = 0.25 * (c[4, 0] + c[0, 4]) - 0.25 * _ROOT_6 * c[2, 2]
    c40_imaginary = 0.5 * (c[3, 1] - c[1, 3])
    c31 = np.array([c[4, 0] - c[0, 4], c[3, 1] + c[1, 3]]) / 2.0
    c22 = 0.25 * _ROOT_6 * (c[4, 0] + c[0, 4]) + 0.5 * c[2, 2]
    trace = c[0, 0] + c11
    e = _ROOT_2 * c20 / trace
    e_shear = -(_ROOT_2 * c20 + _ROOT_6 * c31) / trace
    e_smear = (_ROOT_6 * c31 - _ROOT_2 * c20) / (4.0 * trace)
    fourth = _ROOT_6 / trace * np.array([[c40_real, c40_imaginary], [c40_imaginary, -c40_real]])
    shear = (2.0 - (c[0, 0] + 2.0 * c11 + c22) / trace) * np.eye(2) - fourth
    smear = (c[0, 0] - 2.0 * c11 + c22) / (2.0 * trace) * np.eye(2) + fourth / 4.0
    for i in range(2):
        for j in range(2):
            shear[i, j] -= e[i] * e_shear[j]
            smear[i, j] -= e[i] * e_smear[j]
    return e, shear, smear


@njit(cache=True, nogil=True, error_model="numpy")
def _inverse(m: np.ndarray) -> np.ndarray:
    """Return the inverse of a matrix (2, 2); not finite if it is singular."""
    determinant = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    inverse: np.ndarray = np.array([[m[1, 1], -m[0, 1]], [-m[1, 0], m[0, 0]]]) / determinant
    return inverse


@njit(cache=True, nogil=True, error_model="numpy")
def ksb_shear(
    pixels: np.ndarray, psf: np.ndarray, start: np.ndarray, psf_start: np.ndarray, shape: np.ndarray
) -> int:
    """Estimate the shear of a galaxy; return a code.

    Parameters
    ----------
    pixels
        Galaxy, float64 (h, w), zero where masked.
    psf
        PSF image, float64 (m, n).
    start, psf_start
        First guesses: x, y (indices), sigma.
    shape
        Filled with g1, g2, sigma of the galaxy's weight (pixels), flux and resolution.
    """
    sums = np.empty(6)
    weight, psf_weight = np.zeros(4), np.zeros(4)
    weight[:3], psf_weight[:3] = start, psf_start
    code = fit_round_weight(pixels, weight, sums)
    if code == OK:
        code = fit_round_weight(psf, psf_weight, sums)
    if code != OK:
        return code
    sigma = weight[2]
    coefficients = _coefficients(pixels, weight[0], weight[1], sigma)
    e, shear, smear = _polarisation(coefficients)
    # The PSF is seen through the weight of the galaxy.
    e_psf, shear_psf, smear_psf = _polarisation(_coefficients(psf, psf_weight[0], psf_weight[1], sigma))
    inverse = _inverse(smear_psf)
    shape[:2] = _inverse(shear - smear @ shear_psf @ inverse) @ (e - smear @ (inverse @ e_psf))
    shape[2], shape[3] = sigma, _FLUX * sigma * coefficients[0, 0]
    shape[4] = 1.0 - (psf_weight[2] / sigma) ** 2
    return OK
