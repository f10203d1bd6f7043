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
_MAX_SHIFT = 1.0


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
    """Fit a point source to every peak, at the peak and at the position that the fit asks for.

    Parameters
    ----------
    pixels, blends, psfs
        Image, blends, and the PSF at their peaks.
    psf
        Where shifted images come from; one that cannot be evaluated leaves the source at its peak.
    config
        Limits of chi^2 and of the size of stamps.
    """
    smallest = max(config.tinyFootprintSize, 2)

    def fit(which: np.ndarray, images: np.ndarray, x0: np.ndarray, y0: np.ndarray) -> tuple[np.ndarray, ...]:
        status, results = fit_point_sources(
            which, pixels.image, pixels.variance, pixels.owner, blends.rows, blends.boxes, blends.offsets,
            blends.blend, blends.x, blends.y, psfs.fwhm, smallest, images, x0, y0,
            psfs.images, psfs.x0, psfs.y0,
        )  # fmt: skip
        return status == FITTED, *results.T

    every = np.arange(len(blends.x))
    fitted, chi2, flux, chi2_free, dx, dy = fit(every, psfs.images, psfs.x0, psfs.y0)
    unshifted = fitted & (chi2 < config.psfChisq1)
    near = (np.abs(dx) < _MAX_SHIFT) & (np.abs(dy) < _MAX_SHIFT)
    candidates = np.flatnonzero(fitted & (chi2_free < config.psfChisq2) & near)
    x, y = blends.x.astype(np.float64), blends.y.astype(np.float64)
    images, x0, y0 = psfs.images.copy(), psfs.x0.copy(), psfs.y0.copy()
    is_point = unshifted.copy()
    if len(candidates):
        new_x, new_y = x[candidates] + dx[candidates], y[candidates] + dy[candidates]
        moved = stellar_stamps(psf, x=new_x + pixels.x0, y=new_y + pixels.y0)
        known = ~np.isnan(moved.images[:, 0, 0])
        candidates, new_x, new_y = candidates[known], new_x[known], new_y[known]
        moved_x0, moved_y0 = moved.x0[known] - pixels.x0, moved.y0[known] - pixels.y0
        refitted, new_chi2, new_flux, *_ = fit(candidates, moved.images[known], moved_x0, moved_y0)
        better = ~unshifted[candidates] | (new_chi2 < chi2[candidates])
        keep = refitted & (new_chi2 < config.psfChisq2b) & better
        rows = candidates[keep]
        is_point[rows] = True
        x[rows], y[rows], flux[rows] = new_x[keep], new_y[keep], new_flux[keep]
        images[rows], x0[rows], y0[rows] = moved.images[known][keep], moved_x0[keep], moved_y0[keep]
    return PointSources(is_point & (flux > 0), flux, x, y, images, x0, y0)
