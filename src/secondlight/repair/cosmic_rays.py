"""Finding and filling cosmic rays: marks that are sharper than the PSF (spec reprocess 11.3)."""

from __future__ import annotations

__all__ = (
    "CosmicRays",
    "FindCosmicRaysConfig",
    "TooManyCosmicRays",
    "find_cosmic_rays",
    "sharpness_thresholds",
)

import dataclasses
from typing import Any

import numpy as np
from lsst.pex.config import Config, ConfigField, Field
from lsst.pipe.base import AlgorithmError
from scipy import ndimage

from ..background.task import SubtractBackgroundConfig
from . import _cosmic_ray_kernels as kernels
from .prediction import unit_sum_weights

_MARGIN = kernels.MARGIN
_EIGHT = np.ones((3, 3), dtype=bool)


class FindCosmicRaysConfig(Config):
    """What counts as a cosmic ray."""

    nCrPixelMax = Field[int](doc="Largest number of contaminated pixels.", default=1000000)
    minSigma = Field[float](
        doc="Sigmas that a pixel is above the mean of two opposite neighbours (negative: minus the counts).",
        default=6.0,
    )
    min_DN = Field[float](doc="Smallest sum of a cosmic ray above the background (counts).", default=150.0)
    cond3_fac = Field[float](doc="Sigmas of benefit of the doubt in the test against the PSF.", default=2.0)
    cond3_fac2 = Field[float](
        doc="Fraction of the PSF's ratio of neighbours to peak below which a pixel is too sharp.",
        default=0.35,
    )
    niteration = Field[int](
        doc="Largest number of passes that look for more pixels around cosmic rays.",
        default=6,
        check=lambda value: value >= 0,
    )
    keepCRs = Field[bool](doc="Leave the pixels as they are, and only set the mask plane?", default=False)
    background = ConfigField[SubtractBackgroundConfig](
        doc="Background below the sources; cells larger than the image mean the median of the image."
    )

    def setDefaults(self) -> None:
        """Use one level for the whole image."""
        super().setDefaults()
        self.background.useApprox = False
        self.background.binSize = 100000
        self.background.statisticsProperty = "MEDIAN"
        self.background.algorithm = "AKIMA_SPLINE"
        self.background.undersampleStyle = "REDUCE_INTERP_ORDER"


class TooManyCosmicRays(AlgorithmError):  # noqa: N818  (a public name of the field)
    """An image has more cosmic-ray pixels than allowed.

    Parameters
    ----------
    limit
        Largest number of pixels allowed.
    where
        Name of the image, for the message.
    """

    def __init__(self, limit: int, where: str = "the image") -> None:
        super().__init__(f"Found more than nCrPixelMax = {limit} cosmic-ray pixels in {where}.")
        self.limit = limit

    @property
    def metadata(self) -> dict[str, int]:
        """The limit, by its name in task metadata."""
        return {"maxCosmicRays": self.limit}


@dataclasses.dataclass(frozen=True)
class CosmicRays:
    """Cosmic rays of an image.

    Parameters
    ----------
    hits
        Pixels found by the first scan and kept by the cut on the sum, bool (h, w).
    mask
        All pixels of cosmic rays, bool (h, w).
    values
        New values of the pixels of ``mask`` in raster order, float32 (n), counts.
    count
        Number of cosmic rays (8-connected groups of ``mask``).
    """

    hits: np.ndarray
    mask: np.ndarray
    values: np.ndarray
    count: int


def sharpness_thresholds(kernel: np.ndarray, cond3_fac2: float) -> np.ndarray:
    """Return the smallest ratio of neighbours to peak of a true source, float64 (4).

    Parameters
    ----------
    kernel
        Centred PSF image, (h, w) with odd sides of at least 3.
    cond3_fac2
        Fraction of the PSF's own ratio.

    Returns
    -------
    thresholds
        For the directions N-S, W-E, SW-NE and NW-SE; the two diagonals share the mean of all four corners.
    """
    y, x = kernel.shape[0] // 2, kernel.shape[1] // 2
    ring = kernel[y - 1 : y + 2, x - 1 : x + 2] / kernel[y, x]
    vertical = 0.5 * (ring[0, 1] + ring[2, 1])
    horizontal = 0.5 * (ring[1, 0] + ring[1, 2])
    diagonal = 0.25 * (ring[0, 0] + ring[0, 2] + ring[2, 0] + ring[2, 2])
    return np.asarray(cond3_fac2 * np.array([vertical, horizontal, diagonal, diagonal]), dtype=np.float64)


def find_cosmic_rays(
    image: np.ndarray,
    variance: np.ndarray,
    *,
    unusable: np.ndarray,
    interpolated: np.ndarray,
    kernel: np.ndarray,
    psf_sigma: float,
    background: float,
    config: FindCosmicRaysConfig,
    where: str = "the image",
) -> CosmicRays:
    """Find cosmic rays and what to put in their place; the arguments are not changed.

    Parameters
    ----------
    image, variance
        Pixels and their variance, float32 (h, w), counts.
    unusable
        Pixels that can neither be cosmic rays nor serve to fill them, bool (h, w).
    interpolated
        Interpolated pixels; these and their neighbours are not hits of the scan, bool (h, w).
    kernel
        Centred PSF image.
    psf_sigma
        Width of the PSF, pixels; sets the weights of the fill.
    background
        Level under the sources, counts.
    config
        Thresholds.
    where
        Name of the image, for error messages.

    Raises
    ------
    TooManyCosmicRays
        Raised if there are more than ``nCrPixelMax`` pixels.
    """
    thresholds = sharpness_thresholds(kernel, config.cond3_fac2)
    blocked = unusable | _dilated(interpolated)
    original, var = _pad(image, np.nan), _pad(variance, np.nan)
    work = original.copy()
    ys, xs = kernels.scan(
        work, var, _pad(blocked, True), thresholds, background, config.minSigma, config.cond3_fac,
        config.nCrPixelMax,
    )  # fmt: skip
    if len(ys) > config.nCrPixelMax:
        raise TooManyCosmicRays(config.nCrPixelMax, where)
    rays = np.zeros(work.shape, dtype=bool)
    rays[ys, xs] = True
    work[ys, xs] = original[ys, xs]
    _drop_faint(rays, original, background, config.min_DN)
    hits = _trim(rays).copy()

    usable = ~_pad(unusable, True)
    fill = _Filler(original, var, psf_sigma, background)
    # Faint light of a ray beside its bright pixels must not leak into what it is compared with.
    fill(work, rays, usable & ~_dilated(rays))
    for _ in range(config.niteration):
        ys, xs = _neighbours(rays, usable)
        added = kernels.grow(work, var, ys, xs, thresholds, background, 0.5 * config.minSigma)
        rays[ys[added], xs[added]] = True
        if rays.sum() > config.nCrPixelMax:
            raise TooManyCosmicRays(config.nCrPixelMax, where)
        if not added.any():
            break
    fill(work, rays, usable & ~rays)
    _, count = ndimage.label(rays, structure=_EIGHT)
    return CosmicRays(hits, _trim(rays), work[rays], int(count))


class _Filler:
    """Replaces cosmic-ray pixels by what the original pixels around them predict."""

    def __init__(self, original: np.ndarray, variance: np.ndarray, sigma: float, background: float) -> None:
        self._original, self._variance, self._background = original, variance, background
        steps = np.array([-2.0, -1.0, 1.0, 2.0])
        straight, diagonal = (unit_sum_weights(f * steps, 0.0, sigma) for f in (1.0, np.sqrt(2.0)))
        self._weights = np.array([straight[2:], diagonal[2:]])

    def __call__(self, image: np.ndarray, rays: np.ndarray, usable: np.ndarray) -> None:
        """Fill marked pixels of a padded image in place, from usable ones of the original."""
        ys, xs = np.nonzero(rays)
        image[ys, xs] = kernels.fill(
            self._original, self._variance, usable, ys, xs, self._weights, self._background
        )


def _pad(array: np.ndarray, value: Any) -> np.ndarray:
    return np.pad(array, _MARGIN, constant_values=value)


def _trim(array: np.ndarray) -> np.ndarray:
    return array[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


def _dilated(mask: np.ndarray) -> np.ndarray:
    """Return a mask grown by one pixel in all eight directions."""
    rows = mask.copy()
    rows[1:] |= mask[:-1]
    rows[:-1] |= mask[1:]
    result = rows.copy()
    result[:, 1:] |= rows[:, :-1]
    result[:, :-1] |= rows[:, 1:]
    return result


def _drop_faint(rays: np.ndarray, image: np.ndarray, background: float, min_sum: float) -> None:
    """Take groups of 8-connected pixels whose sum above the background is too small out of a mask."""
    labels, n = ndimage.label(rays, structure=_EIGHT)
    sums = np.bincount(labels[rays], weights=image[rays] - background, minlength=n + 1)
    rays &= (sums >= min_sum)[labels]


def _neighbours(rays: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the usable pixels (y, x) next to marked ones, in raster order."""
    width = rays.shape[1]
    steps = np.array([dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    near = np.unique(np.flatnonzero(rays)[:, None] + steps)
    near = near[usable.ravel()[near] & ~rays.ravel()[near]]
    ys, xs = np.unravel_index(near, rays.shape)
    return ys, xs
