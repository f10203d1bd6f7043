"""What all peers need from an image, and what is judged in the same way for all of them."""

from __future__ import annotations

__all__ = (
    "APERTURE_RADII",
    "BACKGROUND_CELL",
    "DEBLEND_CONTRAST",
    "DEBLEND_LEVELS",
    "MIN_AREA",
    "Exposure",
    "PeerUnavailable",
    "aperture_name",
    "filtered_threshold",
    "gaussian_kernel",
    "leaves_image",
    "nanojansky_per_count",
    "sky_positions",
    "sound_centers",
)

import dataclasses
import math
from functools import cached_property
from typing import Self

import numpy as np
from lsst.images import VisitImage

from secondlight.catalog.mask_planes import mask_of
from secondlight.catalog.photo_calib import AB_FLUX_NJY
from secondlight.catalog.visit_image import visit_of

APERTURE_RADII = (3, 6, 9, 12, 17, 25, 35, 50)
"""Radii of the circular apertures, pixels; those of secondlight's own tables."""

BACKGROUND_CELL = 128
_DETECTION_SNR = 5.0
MIN_AREA = 3
DEBLEND_LEVELS = 32
DEBLEND_CONTRAST = 0.005
"""Settings that the peers share: side of the background cells in pixels, signal-to-noise ratio of the matched
filter, pixels above it, and the deblending that both programs have as their default."""

_KERNEL_REACH = 0.875
"""Half-width of the detection kernel in units of the FWHM: 7 x 7 pixels for a seeing of 4."""

_SIGMA_PER_FWHM = 1.0 / (2.0 * math.sqrt(2.0 * math.log(2.0)))


class PeerUnavailable(RuntimeError):  # noqa: N818 - a state, not a mistake
    """A peer is not installed here; the message says what is missing and how to get it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Exposure:
    """An image as plain arrays, with what its header says about the detector.

    Parameters
    ----------
    image
        The image, counts.
    counts, variance
        Pixels and their variance, native float32 (h, w).
    lost
        Pixels without information (h, w): no light, or a defect that was not interpolated over.
    suspect
        Pixels that a star's centre must not fall on (h, w): also saturated and interpolated ones.
    gain
        Electrons per count.
    saturation
        Level of a full pixel, counts.
    fwhm
        Seeing, pixels.
    """

    image: VisitImage
    counts: np.ndarray
    variance: np.ndarray
    lost: np.ndarray
    suspect: np.ndarray
    gain: float
    saturation: float
    fwhm: float

    @classmethod
    def of(cls, image: VisitImage, *, seeing_pixels: float | None) -> Self:
        """Read an image; without a seeing that of the image's own PSF, which must be Gaussian, is taken.

        Raises
        ------
        ValueError
            Raised if the metadata have no positive ``GAIN`` and ``SATURATION``, or there is no seeing; names
            visit and detector.
        """
        gain, saturation = (_level(image, name) for name in ("GAIN", "SATURATION"))
        if seeing_pixels is None:
            sigma = getattr(image.psf, "sigma", None)
            if sigma is None:
                found = type(image.psf).__name__
                raise ValueError(f"{name_of(image)}: expected a seeing or a Gaussian PSF, found {found}.")
            seeing_pixels = float(sigma) / _SIGMA_PER_FWHM
        interpolated = mask_of(image.mask, ["INTRP"], missing_ok=True)
        bad = mask_of(image.mask, ["BAD"], missing_ok=True)
        empty = mask_of(image.mask, ["NO_DATA"], missing_ok=True)
        counts = np.ascontiguousarray(image.image.array, dtype=np.float32)
        lost = empty | (bad & ~interpolated) | ~np.isfinite(counts)
        return cls(
            image=image,
            counts=counts,
            variance=np.ascontiguousarray(image.variance.array, dtype=np.float32),
            lost=lost,
            suspect=lost | interpolated | mask_of(image.mask, ["SAT"], missing_ok=True),
            gain=gain,
            saturation=saturation,
            fwhm=float(seeing_pixels),
        )

    @property
    def visit(self) -> int:
        """Id of the visit."""
        return visit_of(self.image)

    @property
    def name(self) -> str:
        """Visit and detector, for messages."""
        return name_of(self.image)

    @cached_property
    def sky_variance(self) -> np.ndarray:
        """Variance without the photon noise of the sources, float32 (h, w).

        Detection must not see larger noise where the sources are, and Source Extractor adds their own noise
        itself.
        """
        excess = self.counts - _cell_medians(self.counts, self.lost)
        sky = self.variance - excess / np.float32(self.gain)
        typical = np.median(sky[~self.lost]) if not self.lost.all() else np.float32(1.0)
        # Where counts are no longer proportional to photons (defects, rays) the difference means nothing.
        return np.where((sky > 0.5 * typical) & (sky < 2.0 * typical), sky, typical).astype(np.float32)


def name_of(image: VisitImage) -> str:
    """Return visit and detector of an image, for messages."""
    return f"Visit {visit_of(image)}, detector {image.detector.id}"


def _level(image: VisitImage, name: str) -> float:
    """Return a positive number of the metadata of an image."""
    value = image.metadata.get(name)
    if not isinstance(value, int | float) or not value > 0:
        raise ValueError(
            f"{name_of(image)}: expected a positive number {name} in the metadata, found {value!r}."
        )
    return float(value)


def _cell_medians(counts: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Return an image of the medians in cells, float32 (h, w)."""
    result = np.zeros_like(counts)
    rows, columns = (np.arange(0, n, BACKGROUND_CELL) for n in counts.shape)
    for y in rows:
        for x in columns:
            cell = np.s_[y : y + BACKGROUND_CELL, x : x + BACKGROUND_CELL]
            values = counts[cell][~lost[cell]]
            if values.size:
                result[cell] = np.median(values)
    return result


def gaussian_kernel(fwhm: float) -> np.ndarray:
    """Return a Gaussian of unit sum on pixels, float64 (n, n)."""
    reach = max(1, math.floor(_KERNEL_REACH * fwhm))
    profile = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (fwhm * _SIGMA_PER_FWHM)) ** 2)
    kernel = np.outer(profile, profile)
    return np.asarray(kernel / kernel.sum())


def filtered_threshold(kernel: np.ndarray) -> float:
    """Return the threshold of detection, in units of the noise of a pixel before the filter.

    A kernel of unit sum makes uncorrelated noise smaller by the root of its sum of squares.
    """
    return float(_DETECTION_SNR * np.sqrt((kernel**2).sum()))


def aperture_name(radius: int) -> str:
    """Return the name of the flux in a circular aperture."""
    return f"aperture_{radius}"


def nanojansky_per_count(zero_point: float) -> float:
    """Return the flux of one count, nJy, from its AB magnitude."""
    return float(AB_FLUX_NJY * 10 ** (-0.4 * zero_point))


def sound_centers(exposure: Exposure, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return where none of the 3 x 3 pixels around positions is suspect (n).

    Positions count from the first pixel of the image.
    """
    height, width = exposure.suspect.shape
    # Positions that wandered off the image are not sound either.
    i, j = np.floor(np.stack([x, y]) + 0.5).astype(np.int64)
    inside = (i >= 1) & (i < width - 1) & (j >= 1) & (j < height - 1)
    i, j = np.where(inside, i, 1), np.where(inside, j, 1)
    suspect = np.zeros(len(x), dtype=np.bool_)
    for dj in (-1, 0, 1):
        for di in (-1, 0, 1):
            suspect |= exposure.suspect[j + dj, i + di]
    return np.asarray(inside & ~suspect)


def leaves_image(exposure: Exposure, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return where a circle around positions, counted from the first pixel, is not all on the image (n)."""
    height, width = exposure.counts.shape
    nearest = np.min([x, y, width - 1 - x, height - 1 - y], axis=0) + 0.5
    return np.asarray(nearest < radius)


def sky_positions(image: VisitImage, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return right ascensions and declinations, degrees (n), by the image's own projection."""
    sky = image.sky_projection.pixel_to_sky(x=x, y=y)
    return sky.ra.deg, sky.dec.deg
