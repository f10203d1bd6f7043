"""Corrections of adaptive moments for the PSF by closed formulas.

Bernstein & Jarvis 2002 (AJ 123, 583; "BJ", also the last step of re-Gaussianization) and Hirata & Seljak 2003
(MNRAS 343, 459; the linear method), with the conventions of ``galsim.hsm``.  Ellipticities are distortions,
``e1 = (Mxx - Myy) / (Mxx + Myy)``, ``e2 = 2 Mxy / (Mxx + Myy)``.
"""

from __future__ import annotations

__all__ = ("composed", "corrected_bj", "corrected_linear", "distortion", "kurtosis")

import math

import numpy as np
from numba import njit

_SMALL = 1e-12
"""Squared distortions below this count as none: their share of a composition is far below rounding."""


@njit(cache=True, nogil=True)
def distortion(moments: np.ndarray) -> tuple[float, float, float]:
    """Return e1, e2 and trace of a `find_moments` result."""
    xx, xy, yy = moments[3], moments[4], moments[5]
    trace = xx + yy
    return (xx - yy) / trace, 2.0 * xy / trace, trace


@njit(cache=True, nogil=True)
def kurtosis(moments: np.ndarray) -> float:
    """Return the radial fourth moment of a `find_moments` result relative to that of a Gaussian, less one."""
    return 0.5 * float(moments[6]) - 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def composed(e1a: float, e2a: float, e1b: float, e2b: float) -> tuple[float, float]:
    """Return the distortion of a round object after shears a and then b (Bernstein & Jarvis eq. 2-13)."""
    square = e1b * e1b + e2b * e2b
    factor = 0.5 if square < _SMALL else (1.0 - math.sqrt(1.0 - square)) / square
    dot = 1.0 + e1a * e1b + e2a * e2b
    turn = factor * (e1a * e2b - e2a * e1b)
    return (e1a + e1b - e2b * turn) / dot, (e2a + e2b + e1b * turn) / dot


@njit(cache=True, nogil=True, error_model="numpy")
def _in_round_psf_frame(
    size_ratio: float, e1_psf: float, e2_psf: float, e1: float, e2: float
) -> tuple[float, float, float]:
    """Return the distortion in the frame where the PSF is round, and the ratio of areas of PSF and object.

    ``size_ratio`` is that of the traces.
    """
    area_ratio = size_ratio * math.sqrt((1.0 - e1_psf**2 - e2_psf**2) / (1.0 - e1**2 - e2**2))
    e1_round, e2_round = composed(e1, e2, -e1_psf, -e2_psf)
    return e1_round, e2_round, area_ratio


@njit(cache=True, nogil=True, error_model="numpy")
def corrected_bj(
    size_ratio: float, e1_psf: float, e2_psf: float, a4_psf: float, e1: float, e2: float, a4: float
) -> tuple[float, float]:
    """Return the distortion before the PSF, by the resolution factor of Bernstein & Jarvis 2002 (appendix C).

    Parameters
    ----------
    size_ratio
        Trace of the PSF's moments over that of the object's.
    e1_psf, e2_psf, a4_psf
        Distortion and `kurtosis` of the PSF.
    e1, e2, a4
        Those of the object as observed.
    """
    e1_round, e2_round, area_ratio = _in_round_psf_frame(size_ratio, e1_psf, e2_psf, e1, e2)
    resolution = 1.0 - area_ratio * (1.0 - a4_psf) / (1.0 + a4_psf) * (1.0 + a4) / (1.0 - a4) * math.sqrt(
        1.0 - e1_round**2 - e2_round**2
    )
    return composed(e1_round / resolution, e2_round / resolution, e1_psf, e2_psf)


@njit(cache=True, nogil=True, error_model="numpy")
def corrected_linear(
    size_ratio: float, e1_psf: float, e2_psf: float, a4_psf: float, e1: float, e2: float, a4: float
) -> tuple[float, float]:
    """Return the distortion before the PSF to first order in the kurtoses (Hirata & Seljak 2003, appendix B).

    Parameters as for `corrected_bj`.
    """
    e1_round, e2_round, area_ratio = _in_round_psf_frame(size_ratio, e1_psf, e2_psf, e1, e2)
    e = math.sqrt(e1_round**2 + e2_round**2)
    if e < _SMALL:
        # Undisturbed by any correction: it only scales the distortion.
        return composed(e1_round, e2_round, e1_psf, e2_psf)
    stretch = math.sqrt((1.0 + e) / (1.0 - e))
    # Shares of the PSF, and of the object before it, in the variances along and across.
    p, q = area_ratio / stretch, area_ratio * stretch
    a, b = 1.0 - p, 1.0 - q
    fourth_psf = 0.375 * (p * p + q * q) + 0.25 * p * q
    fourth = 0.375 * (a * a + b * b) + 0.25 * a * b
    a4_before = (a4 - fourth_psf * a4_psf) / fourth
    change_size = (2.0 * (a + b) - 1.5 * (a * a + b * b) - a * b) * a4_before
    change_size += (2.0 * (p + q) - 1.5 * (p * p + q * q) - p * q) * a4_psf
    change_shape = (a - b) * (2.0 - 1.5 * (a + b)) * a4_before + (p - q) * (2.0 - 1.5 * (p + q)) * a4_psf
    resolution = (1.0 - change_size - change_shape * e - area_ratio * math.sqrt(1.0 - e * e)) / (
        1.0 - change_size - change_shape / e
    )
    return composed(e1_round / resolution, e2_round / resolution, e1_psf, e2_psf)
