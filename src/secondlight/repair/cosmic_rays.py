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
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..background.task import SubtractBackgroundConfig
from . import _cosmic_ray_kernels as kernels
from .prediction import unit_sum_weights

_MARGIN = kernels.MARGIN


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
        Pixels that are no cosmic rays and that none is filled from, bool (h, w); all pixels that are not
        finite must be among them.
    interpolated
        Interpolated and saturated pixels: neighbours of these are not hits of the scan, bool (h, w).  Other
        unusable pixels have no meaning, so nothing is compared with them.
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
    work, var = _pad(image, np.nan), _pad(variance, np.nan)
    usable = _pad(~unusable, False)
    # Beside a dead pixel or column the sky would stand out; interpolated ones can be compared with.
    work[_pad(unusable & ~(interpolated & np.isfinite(image)), True)] = np.nan
    blocked = _dilated(_pad(interpolated, False))
    blocked |= ~usable
    ys, xs = kernels.scan(
        work, var, blocked, thresholds, background, config.minSigma, config.cond3_fac, config.nCrPixelMax
    )
    if len(ys) > config.nCrPixelMax:
        raise TooManyCosmicRays(config.nCrPixelMax, where)
    work[ys, xs] = image[ys - _MARGIN, xs - _MARGIN]
    rays = np.zeros(work.shape, dtype=bool)
    rays[ys, xs] = True
    _drop_faint(rays, work, background, config.min_DN)
    hits = _trim(rays).copy()

    weights = _fill_weights(psf_sigma)
    # Faint light of a ray beside its bright pixels must not leak into what it is compared with.
    _fill(work, var, rays, usable & ~_dilated(rays), weights, background)
    for _ in range(config.niteration):
        ys, xs = _neighbours(rays, usable)
        added = kernels.grow(work, var, ys, xs, thresholds, background, 0.5 * config.minSigma, weights)
        rays[ys[added], xs[added]] = True
        if np.count_nonzero(rays) > config.nCrPixelMax:
            raise TooManyCosmicRays(config.nCrPixelMax, where)
        if not added.any():
            break
    _fill(work, var, rays, usable & ~rays, weights, background)
    _, groups = _group(np.flatnonzero(rays), rays.shape[1])
    return CosmicRays(hits, _trim(rays), work[rays], groups)


def _fill_weights(sigma: float) -> np.ndarray:
    """Return the weights of pixels one and two steps away along rows and along diagonals, float64 (2, 2)."""
    steps = np.array([-2.0, -1.0, 1.0, 2.0])
    straight, diagonal = (unit_sum_weights(f * steps, 0.0, sigma) for f in (1.0, np.sqrt(2.0)))
    return np.array([straight[2:], diagonal[2:]])


def _fill(
    image: np.ndarray,
    variance: np.ndarray,
    rays: np.ndarray,
    usable: np.ndarray,
    weights: np.ndarray,
    background: float,
) -> None:
    """Replace marked pixels of a padded image in place by what usable pixels around them predict.

    Usable pixels are never marked, so all of them have their original values.
    """
    ys, xs = np.nonzero(rays)
    image[ys, xs] = kernels.fill(image, variance, usable, ys, xs, weights, background)


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
    pixels = np.flatnonzero(rays)
    labels, n = _group(pixels, rays.shape[1])
    sums = np.bincount(labels, weights=image.ravel()[pixels] - background, minlength=n)
    rays.ravel()[pixels] = (sums >= min_sum)[labels]


def _group(pixels: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """Return the number of each pixel's group of 8-connected pixels, int (n), and how many groups there are.

    Parameters
    ----------
    pixels
        Sorted indices of pixels in an image with an empty margin, int64 (n).
    width
        Width of that image.
    """
    n = len(pixels)
    if n == 0:
        return np.empty(0, dtype=np.int64), 0
    first, second = [], []
    for step in (1, width - 1, width, width + 1):
        where = np.minimum(np.searchsorted(pixels, pixels + step), n - 1)
        linked = np.flatnonzero(pixels[where] == pixels + step)
        first.append(linked)
        second.append(where[linked])
    rows, columns = np.concatenate(first), np.concatenate(second)
    links = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n, n))
    count, labels = connected_components(links, directed=False)
    return labels, int(count)


def _neighbours(rays: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the usable pixels (y, x) next to marked ones, in raster order."""
    width = rays.shape[1]
    steps = np.array([dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    near = np.unique(np.flatnonzero(rays)[:, None] + steps)
    near = near[usable.ravel()[near] & ~rays.ravel()[near]]
    ys, xs = np.unravel_index(near, rays.shape)
    return ys, xs
