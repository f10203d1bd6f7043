"""What a perfect measurement would give, from the objects' own light without noise."""

from __future__ import annotations

__all__ = ("enclosed_fractions", "psf_stamps", "true_psf_fluxes")

import math
from collections.abc import Sequence

import numpy as np
import scipy.fft
from lsst.images.psfs import PointSpreadFunction

from secondlight.photometry.apertures import aperture_fluxes, psf_aperture_flux
from secondlight.psf.evaluation import kernel_stamps
from secondlight.simulate.render import Light, draw_stamps, stamp_origin

from .catalogs import PsfStamps, Truth

_BATCH = 200
_MARGIN = 16
_SMALLEST_STAMP = 64
_MAX_SINC_RADIUS = 12.0
"""Apertures up to this radius are integrated over the band-limited light, larger ones are sums of pixels."""


def psf_stamps(psf: PsfStamps | PointSpreadFunction, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return centred stamps of a model of the PSF (n, h, w) with unit sum, NaN where there is none."""
    if isinstance(psf, PointSpreadFunction):
        return kernel_stamps(psf, x=x, y=y)
    return np.asarray(psf(x, y))


def enclosed_fractions(truth: Truth, rows: np.ndarray, radii: Sequence[float]) -> np.ndarray:
    """Return the fraction of objects' light in circles about their true positions (n, number of radii).

    It is the aperture flux of the noiseless image of each object on its sub-pixel position; without such
    images, that of the true PSF for stars, and NaN for galaxies.
    """
    result = np.full((len(rows), len(radii)), np.nan)
    if truth.light is not None:
        for start in range(0, len(rows), _BATCH):
            part = slice(start, start + _BATCH)
            result[part] = _fractions_of_stamps(truth.light[rows[part]], radii)
        return result
    stars = truth["is_star"][rows].astype(bool)
    if truth.psf is not None and stars.any():
        kernels = psf_stamps(truth.psf, truth["x"][rows][stars], truth["y"][rows][stars])
        result[stars] = np.column_stack([psf_aperture_flux(kernels, radius) for radius in radii])
    return result


def _fractions_of_stamps(light: Light, radii: Sequence[float]) -> np.ndarray:
    """Draw objects once and measure them in all apertures; what a stamp cannot hold wraps around."""
    size = 2 * scipy.fft.next_fast_len(max(_SMALLEST_STAMP // 2, math.ceil(max(radii)) + _MARGIN))
    stamps = draw_stamps(light, size)
    x0, y0 = stamp_origin(light, size)
    result = np.empty((len(light), len(radii)))
    for k, stamp in enumerate(stamps):
        x, y = light.x[k] - x0[k], light.y[k] - y0[k]
        for j, radius in enumerate(radii):
            sums = aperture_fluxes(stamp, stamp, x=x, y=y, radius=radius, max_sinc_radius=_MAX_SINC_RADIUS)
            result[k, j] = sums.flux[0] / light.flux[k]
    return result


def true_psf_fluxes(model: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the flux that fitting a model PSF with equal weights gives for true stars of unit flux (n).

    Parameters
    ----------
    model, true
        Centred stamps (n, h, w), each of its own odd sides.
    """
    true = _cut(true, model.shape)
    return np.asarray(np.einsum("nij,nij->n", model, true) / np.einsum("nij,nij->n", model, model))


def _cut(stamps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return stamps cut, or filled up with zeros, to the sides of others."""
    result = np.zeros((len(stamps), *shape[1:]))
    height, width = stamps.shape[1:]
    y, x = min(height, shape[1]) // 2, min(width, shape[2]) // 2
    inner = np.s_[:, shape[1] // 2 - y : shape[1] // 2 + y + 1, shape[2] // 2 - x : shape[2] // 2 + x + 1]
    result[inner] = stamps[:, height // 2 - y : height // 2 + y + 1, width // 2 - x : width // 2 + x + 1]
    return result
