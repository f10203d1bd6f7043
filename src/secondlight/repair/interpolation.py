"""Interpolation over defects along rows or columns (spec reprocess 11.4)."""

from __future__ import annotations

__all__ = ("InterpImageConfig", "InterpImageTask", "ModelPsfConfig", "interpolate_rows")

import math
from typing import Any

import numpy as np
from lsst.images import VisitImage
from lsst.pex.config import ChoiceField, Config, ConfigField, Field
from lsst.pipe.base import Task
from numba import njit

from ..catalog.footprints import Footprints
from ..catalog.mask_planes import ensure_planes, mask_of, plane_name
from .prediction import unit_sum_weights

_EDGE_REACH = 6
"""How far, in pixels, a defect at the image edge is extrapolated before the fallback value takes over."""

_BAD = ("BAD", "SAT", "INTRP", "NO_DATA")


class ModelPsfConfig(Config):
    """The PSF assumed where none is given."""

    defaultFwhm = Field[float](
        doc="Full width at half maximum of the PSF (pixels).", default=3.0, check=lambda value: value > 0
    )


class InterpImageConfig(Config):
    """How defects are interpolated."""

    modelPsf = ConfigField[ModelPsfConfig](doc="The PSF assumed where none is given.")
    useFallbackValueAtEdge = Field[bool](
        doc="Use the fallback value in defects at the image edge, far from good pixels?", default=True
    )
    fallbackUserValue = Field[float](doc="Fallback value of type USER.", default=0.0)
    fallbackValueType = ChoiceField[str](
        doc="What the fallback value is.",
        allowed={
            "MEAN": "Mean of the good pixels.",
            "MEDIAN": "Median of the good pixels.",
            "USER": "fallbackUserValue.",
            "MEANCLIP": "Mean of the good pixels after clipping at 3 sigma.",
        },
        default="MEDIAN",
    )
    negativeFallbackAllowed = Field[bool](doc="May the fallback value be negative?", default=False)
    transpose = Field[bool](doc="Interpolate along columns instead of rows?", default=False)


class InterpImageTask(Task):
    """Replace the pixels of defects by what the good pixels on both sides predict.

    Parameters
    ----------
    **kwargs
        Passed to `lsst.pipe.base.Task`.
    """

    ConfigClass = InterpImageConfig
    _DefaultName = "interpImage"
    config: InterpImageConfig

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def run(
        self, exposure: VisitImage, defects: Footprints | np.ndarray, *, psf_sigma: float | None = None
    ) -> None:
        """Replace defects and pixels that are not finite in place, and set the plane INTRP over them.

        Parameters
        ----------
        exposure
            Image to repair.
        defects
            Footprints in parent coordinates, or a boolean image of the shape of the exposure.
        psf_sigma
            Width of the PSF, pixels; `None` for the one of ``modelPsf``.

        Raises
        ------
        ValueError
            Raised if a boolean image of another shape is given.
        """
        shape = exposure.bbox.shape
        bad = (
            defects.to_mask(shape, x0=exposure.bbox.x.start, y0=exposure.bbox.y.start)
            if isinstance(defects, Footprints)
            else np.asarray(defects, dtype=bool)
        )
        if bad.shape != shape:
            raise ValueError(f"The image of defects has shape {bad.shape}, the exposure {tuple(shape)}.")
        bad = bad | ~np.isfinite(exposure.image.array)
        if psf_sigma is None:
            psf_sigma = self.config.modelPsf.defaultFwhm / math.sqrt(8 * math.log(2))
        fallback = self._fallback(exposure, bad)
        image, variance = exposure.image.array, exposure.variance.array
        arrays = (image.T, variance.T, bad.T) if self.config.transpose else (image, variance, bad)
        interpolate_rows(*arrays, psf_sigma, self.config.useFallbackValueAtEdge, *fallback)
        mask = ensure_planes(exposure.mask, ["INTRP"])
        mask.set(plane_name("INTRP"), bad)
        exposure.mask = mask

    def _fallback(self, exposure: VisitImage, defects: np.ndarray) -> tuple[float, float]:
        """Return value and variance of pixels that nothing predicts."""
        image, variance = exposure.image.array, exposure.variance.array
        good = ~(defects | mask_of(exposure.mask, _BAD, missing_ok=True))
        good &= np.isfinite(image) & np.isfinite(variance)
        if not good.any():
            return self.config.fallbackUserValue, math.nan
        match self.config.fallbackValueType:
            case "USER":
                value = self.config.fallbackUserValue
            case "MEAN":
                value = float(image[good].mean(dtype=np.float64))
            case "MEDIAN":
                value = float(np.median(image[good]))
            case _:
                value = _clipped_mean(image[good])
        if not self.config.negativeFallbackAllowed:
            value = max(value, 0.0)
        return value, float(np.median(variance[good]))


def _clipped_mean(values: np.ndarray) -> float:
    """Return the mean after three rounds of clipping at 3 sigma (spec reprocess 9.3)."""
    q1, centre, q3 = np.percentile(values, [25, 50, 75])
    half_width = 3 * 0.741301109252802 * (q3 - q1)
    for _ in range(3):
        kept = values[np.abs(values - centre) <= half_width]
        if len(kept) < 2:
            break
        centre = kept.mean(dtype=np.float64)
        half_width = 3 * kept.std(ddof=1, dtype=np.float64)
    return float(centre)


@njit(cache=True, nogil=True)
def interpolate_rows(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    sigma: float,
    fallback_at_edge: bool,
    fallback: float,
    fallback_variance: float,
) -> None:
    """Interpolate over bad pixels along the rows of an image, in place.

    Each run of bad pixels is predicted from up to two adjacent good pixels on either side, with the weights
    of `unit_sum_weights`; far inside a wide run these tend to a constant by themselves.

    Parameters
    ----------
    image, variance
        Pixels and variance, float32 (h, w).
    bad
        Pixels to replace, bool (h, w).
    sigma
        Width of the PSF, pixels.
    fallback_at_edge
        Whether pixels of a run at the image edge that are more than 6 pixels from the next good pixel take
        the fallback value.
    fallback, fallback_variance
        Value and variance of pixels that nothing predicts.
    """
    height, width = image.shape
    for y in range(height):
        start = 0
        while start < width:
            if not bad[y, start]:
                start += 1
                continue
            stop = start
            while stop < width and bad[y, stop]:
                stop += 1
            known = _known_beside(bad[y], start, stop)
            at_edge = start == 0 or stop == width
            for x in range(start, stop):
                gap = np.abs(known - x).min() if len(known) else width
                if len(known) == 0 or (fallback_at_edge and at_edge and gap > _EDGE_REACH):
                    image[y, x], variance[y, x] = fallback, fallback_variance
                    continue
                weights = unit_sum_weights(known.astype(np.float64), float(x), sigma)
                value, var = 0.0, 0.0
                for i in range(len(known)):
                    value += weights[i] * image[y, known[i]]
                    var += weights[i] ** 2 * variance[y, known[i]]
                image[y, x], variance[y, x] = value, var
            start = stop


@njit(cache=True, nogil=True)
def _known_beside(bad: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return up to two good pixels directly before ``start`` and directly from ``stop`` on."""
    known = np.empty(4, dtype=np.int64)
    n = 0
    if start >= 2 and not bad[start - 2]:
        known[n] = start - 2
        n += 1
    if start >= 1:
        known[n] = start - 1
        n += 1
    if stop < len(bad):
        known[n] = stop
        n += 1
    if stop + 1 < len(bad) and not bad[stop + 1]:
        known[n] = stop + 1
        n += 1
    return known[:n]
