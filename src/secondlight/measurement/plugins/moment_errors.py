"""Errors of adaptive moments (spec reprocess 17.2)."""

from __future__ import annotations

__all__ = ("moment_errors",)

import numpy as np


def moment_errors(
    xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, flux: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return errors of (flux, xx, yy, xy) and covariances of flux with (xx, yy, xy); (n, 4) and (n, 3).

    The Fisher matrix of amplitude and moments of a Gaussian on white noise (spec reprocess 17.2), inverted.
    Rows that are not finite, or have no positive variance, give NaN.
    """
    n = len(xx)
    errors, covariance = np.full((n, 4), np.nan), np.full((n, 3), np.nan)
    det = xx * yy - xy**2
    usable = np.isfinite(flux) & (flux != 0) & np.isfinite(det) & (det > 0) & (variance > 0)
    a_xx, a_yy, a_xy, det = xx[usable], yy[usable], xy[usable], det[usable]
    to_flux = 2.0 * np.pi * np.sqrt(det)
    amplitude = flux[usable] / to_flux
    f = np.pi * np.sqrt(det) / variance[usable]
    g = 3.0 * f * amplitude**2 / (16.0 * det**2)
    fisher = np.empty((len(f), 4, 4))
    fisher[:, 0, 0] = f
    fisher[:, 0, 1] = fisher[:, 1, 0] = f * amplitude * a_yy / (4.0 * det)
    fisher[:, 0, 2] = fisher[:, 2, 0] = f * amplitude * a_xx / (4.0 * det)
    fisher[:, 0, 3] = fisher[:, 3, 0] = -f * amplitude * 2.0 * a_xy / (4.0 * det)
    fisher[:, 1, 1] = g * a_yy**2
    fisher[:, 2, 2] = g * a_xx**2
    fisher[:, 3, 3] = 4.0 * g * (a_xy**2 + det / 3.0)
    fisher[:, 1, 2] = fisher[:, 2, 1] = fisher[:, 3, 3] / 4.0
    fisher[:, 1, 3] = fisher[:, 3, 1] = -2.0 * g * a_yy * a_xy
    fisher[:, 2, 3] = fisher[:, 3, 2] = -2.0 * g * a_xx * a_xy
    inverse = _inverse_or_nan(fisher)
    scale = np.column_stack([to_flux, np.ones((len(f), 3))])
    with np.errstate(invalid="ignore"):
        errors[usable] = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2)) * scale
    covariance[usable] = inverse[:, 0, 1:] * to_flux[:, None]
    return errors, covariance


def _inverse_or_nan(matrices: np.ndarray) -> np.ndarray:
    """Return inverses (n, 4, 4), through matrices of unit diagonal; a singular matrix gives NaN."""
    scale = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    outer = scale[:, :, None] * scale[:, None, :]
    scaled = matrices / outer
    singular = np.abs(np.linalg.det(scaled)) < 1e-14
    scaled[singular] = np.eye(4)
    inverse = np.linalg.inv(scaled) / outer
    inverse[singular] = np.nan
    return np.asarray(inverse)
