"""Candidates as Piff wants them: pixels, weights, positions (spec finalize 5.3, step 4)."""

from __future__ import annotations

__all__ = ("FittedStar", "piff_stars", "star_weights")

import dataclasses
import math
from collections.abc import Sequence

import galsim
import numpy as np
import numpy.typing as npt
import piff
from lsst.images import XY

from ._piff_wcs import PiffCoordinates
from .candidates import PsfCandidates, PsfStamps


@dataclasses.dataclass(frozen=True)
class FittedStar:
    """What a finished PSF remembers of a star: where it was and whether the fit used it.

    Parameters
    ----------
    image_pos
        Position in parent pixels.
    is_flagged
        Whether the fit rejected the star.
    is_reserve
        Whether the star was held out of the fit.
    color
        Colour that the fit used, mag; NaN if it used none.
    """

    image_pos: XY[float]
    is_flagged: bool
    is_reserve: bool
    color: float = math.nan

    @staticmethod
    def of(star: piff.Star) -> FittedStar:
        """Return the essence of a Piff star."""
        position = XY(x=float(star.image_pos.x), y=float(star.image_pos.y))
        color = float(star.data.properties.get("colorValue", math.nan))
        return FittedStar(position, bool(star.is_flagged), bool(star.is_reserve), color)


def star_weights(
    stamps: PsfStamps, *, zero_weight_planes: Sequence[str], max_snr: float
) -> tuple[np.ndarray, npt.NDArray[np.float64]]:
    """Return weights of pixels, float64 (n, size, size), and the fraction of good pixels of each star (n).

    The weight of a star is one number, the inverse of its variance without its own photon noise: a straight
    line ``variance = m * image + c`` is fitted to the good pixels and ``1 / c`` is the weight.  Where ``c``
    is not positive the median variance stands in for it.  Stars beyond ``max_snr`` weigh as if they had just
    that.

    Parameters
    ----------
    stamps
        Cut-outs of the stars.
    zero_weight_planes
        Mask planes whose pixels get no weight.
    max_snr
        Signal-to-noise ratio ``(F - N) / sqrt(F)``, ``F`` the weighted sum of squares of ``N`` good pixels,
        from which on weights no longer grow.
    """
    image = stamps.image.astype(np.float64)
    variance = stamps.variance.astype(np.float64)
    good = np.isfinite(image) & np.isfinite(variance) & (variance > 0) & ~stamps.masked(zero_weight_planes)
    count = good.sum(axis=(1, 2))
    image[~good] = 0.0
    variance[~good] = 0.0
    number = np.maximum(count, 1)
    mean_image, mean_variance = image.sum(axis=(1, 2)) / number, variance.sum(axis=(1, 2)) / number
    offset = np.where(good, image - mean_image[:, None, None], 0.0)
    spread = (offset**2).sum(axis=(1, 2))
    slope = (offset * variance).sum(axis=(1, 2)) / np.where(spread > 0, spread, np.inf)
    sky = mean_variance - slope * mean_image
    for i in np.flatnonzero((sky <= 0) & (count > 0)):
        sky[i] = np.median(variance[i][good[i]])
    weight = good / np.where(count > 0, sky, 1.0)[:, None, None]
    signal = (weight * image**2).sum(axis=(1, 2))
    snr = np.where(signal >= count, signal - count, 0.0) / np.sqrt(np.where(signal > 0, signal, 1.0))
    above = snr > max_snr
    weight[above] *= (max_snr / snr[above])[:, None, None] ** 2
    return weight, count / image[0].size if len(image) else np.zeros(0)


def piff_stars(
    candidates: PsfCandidates,
    weights: np.ndarray,
    coordinates: PiffCoordinates,
    *,
    colors: tuple[np.ndarray, str] | None = None,
) -> list[piff.Star]:
    """Return stars for a fit, in candidate order; each has its index among them as property ``starId``.

    Pixels that are not finite, which have no weight, become zero.

    Parameters
    ----------
    candidates
        Stars with stamps of the size to fit.
    weights
        Weights of the pixels, (n, size, size).
    coordinates
        Mapping of the image.
    colors
        Colour of each star in mag and what it is made of, for a PSF that depends on colour.
    """
    stamps = candidates.stamps
    # Piff multiplies pixels without weight by zero, and zero times NaN is not zero.
    images = np.where(np.isfinite(stamps.image), stamps.image, 0.0).astype(np.float64)
    result = []
    for i in range(len(candidates)):
        corner = {"xmin": int(stamps.x0[i]), "ymin": int(stamps.y0[i]), "wcs": coordinates.wcs}
        properties: dict[str, object] = {"starId": i}
        if colors is not None:
            properties |= {"colorValue": float(colors[0][i]), "colorType": colors[1]}
        data = piff.StarData(
            galsim.Image(images[i], **corner),
            galsim.PositionD(float(candidates.x[i]), float(candidates.y[i])),
            weight=galsim.Image(weights[i], **corner),
            pointing=coordinates.pointing,
            properties=properties,
        )
        result.append(piff.Star(data, None))
    return result
