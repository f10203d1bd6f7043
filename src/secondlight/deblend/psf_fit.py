"""Which peaks of blends are point sources, where, and how bright (spec reprocess 15.4, fitPsfs)."""

from __future__ import annotations

__all__ = ("PeakPsfs", "PointSources", "find_point_sources")

from typing import NamedTuple

import numpy as np
from lsst.images.psfs import PointSpreadFunction

from ..psf.evaluation import average_position, determinant_radius, kernel_stamps, psf_shapes, stellar_stamps
from ._psf_fit_kernels import FITTED, fit_point_sources
from .blend import Blends, Pixels
from .config import SourceDeblendConfig

_FWHM_OF_SIGMA = 2.35
_MAX_STEP = 1.0
"""How far a source is moved at a time, pixels along each axis; the fit is linear in the shift."""

_MAX_SHIFT = 0.5
"""How far in all, in FWHM (at least a pixel): the smoothing of the detection pulls near peaks together."""

_N_MOVES = 5
"""How often sources are moved to where the last fit says they are."""


class PeakPsfs(NamedTuple):
    """PSF of the peaks of blends.

    Attributes
    ----------
    images
        PSF at each peak, float64 (p, h, w); NaN if it cannot be evaluated anywhere.
    x0, y0
        Array index of the first pixel of each image, int64 (p).
    fwhm
        Full width at half maximum at each blend, pixels (n); NaN if unknown.
    """

    images: np.ndarray
    x0: np.ndarray
    y0: np.ndarray
    fwhm: np.ndarray

    @staticmethod
    def evaluate(psf: PointSpreadFunction, blends: Blends, pixels: Pixels) -> PeakPsfs:
        """Evaluate the PSF of all peaks; where that fails, the PSF of its average position stands in."""
        stamps = stellar_stamps(psf, x=blends.x + pixels.x0, y=blends.y + pixels.y0)
        images = stamps.images
        unknown = np.isnan(images[:, 0, 0])
        if unknown.any():
            x, y = average_position(psf)
            images[unknown] = kernel_stamps(psf, x=x, y=y)
        centre = blends.centres
        shapes = psf_shapes(psf, x=centre[:, 0] + pixels.x0, y=centre[:, 1] + pixels.y0)
        fwhm = _FWHM_OF_SIGMA * determinant_radius(shapes)
        return PeakPsfs(images, stamps.x0 - pixels.x0, stamps.y0 - pixels.y0, fwhm)

    def take(self, chosen: np.ndarray, blends: Blends) -> PeakPsfs:
        """Return the PSFs of some of the blends (mask)."""
        peaks = chosen[blends.blend]
        return PeakPsfs(self.images[peaks], self.x0[peaks], self.y0[peaks], self.fwhm[chosen])

    def usable(self, blends: Blends) -> np.ndarray:
        """Return which blends have a PSF of known width at all their peaks, bool (n)."""
        bad = np.isnan(self.images[:, 0, 0])
        n_bad = np.bincount(blends.blend, weights=bad, minlength=len(blends))
        return np.asarray((self.fwhm > 0) & (n_bad == 0))


class PointSources(NamedTuple):
    """What the fits say about p peaks.

    Attributes
    ----------
    is_point
        Which peaks are point sources, bool.
    flux
        Flux of the point source, counts.
    x, y
        Its position, array indices.
    images, x0, y0
        PSF image at that position, float64 (p, h, w), and the array index of its first pixel.
    """

    is_point: np.ndarray
    flux: np.ndarray
    x: np.ndarray
    y: np.ndarray
    images: np.ndarray
    x0: np.ndarray
    y0: np.ndarray


def find_point_sources(
    pixels: Pixels,
    blends: Blends,
    psfs: PeakPsfs,
    psf: PointSpreadFunction,
    config: SourceDeblendConfig,
) -> PointSources:
    """Fit a point source to every peak, at the peak and at the position that the fits ask for.

    The fits at the peaks also tell how far the sources are from the middle of their pixels.  All sources are
    moved there, so that each is fitted with its neighbours in their places, and again by what is left.

    Parameters
    ----------
    pixels, blends, psfs
        Image, blends, and the PSF at their peaks.
    psf
        Where shifted images come from; a source at which it cannot be evaluated stays at its peak.
    config
        Limits of chi^2 and of the size of stamps.
    """
    smallest = max(config.tinyFootprintSize, 2)

    def fit(images: np.ndarray, x0: np.ndarray, y0: np.ndarray) -> tuple[np.ndarray, ...]:
        status, results = fit_point_sources(
            pixels.image, pixels.variance, pixels.owner, blends.rows, blends.boxes, blends.offsets,
            blends.x, blends.y, psfs.fwhm, smallest, images, x0, y0,
        )  # fmt: skip
        return status == FITTED, *results.T

    x, y = blends.x.astype(np.float64), blends.y.astype(np.float64)
    fitted, chi2, flux, chi2_free, dx, dy = fit(psfs.images, psfs.x0, psfs.y0)
    images, x0, y0 = psfs.images, psfs.x0, psfs.y0
    new_chi2, new_flux = chi2, flux
    reach = np.maximum(_MAX_STEP, _MAX_SHIFT * psfs.fwhm[blends.blend])
    for _ in range(_N_MOVES):
        dx, dy = (np.clip(shift, -_MAX_STEP, _MAX_STEP) for shift in (dx, dy))
        near = (np.abs(x + dx - blends.x) < reach) & (np.abs(y + dy - blends.y) < reach)
        moves = fitted & near & (new_flux > 0)
        x, y = np.where(moves, x + dx, x), np.where(moves, y + dy, y)
        images, x0, y0 = _moved(psf, psfs, x, y, pixels)
        _, new_chi2, new_flux, chi2_free, dx, dy = fit(images, x0, y0)
    off_peak = (x != blends.x) | (y != blends.y)
    unshifted = fitted & (chi2 < config.psfChisq1)
    shifted = fitted & off_peak & (chi2_free < config.psfChisq2) & (new_chi2 < config.psfChisq2b)
    shifted &= ~unshifted | (new_chi2 < chi2)
    flux = np.where(shifted, new_flux, flux)
    return PointSources(
        is_point=(unshifted | shifted) & (flux > 0),
        flux=flux,
        x=np.where(shifted, x, blends.x),
        y=np.where(shifted, y, blends.y),
        images=np.where(shifted[:, None, None], images, psfs.images),
        x0=np.where(shifted, x0, psfs.x0),
        y0=np.where(shifted, y0, psfs.y0),
    )


def _moved(
    psf: PointSpreadFunction, psfs: PeakPsfs, x: np.ndarray, y: np.ndarray, pixels: Pixels
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return PSF images at new positions and their first pixels; the old ones where there are none."""
    stamps = stellar_stamps(psf, x=x + pixels.x0, y=y + pixels.y0)
    unknown = np.isnan(stamps.images[:, 0, 0])
    stamps.images[unknown] = psfs.images[unknown]
    return (
        stamps.images,
        np.where(unknown, psfs.x0, stamps.x0 - pixels.x0),
        np.where(unknown, psfs.y0, stamps.y0 - pixels.y0),
    )
