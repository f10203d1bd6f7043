"""Pixels around a source: base_Variance and base_LocalBackground (spec reprocess 17.8, 17.9)."""

from __future__ import annotations

__all__ = ("LocalBackgroundConfig", "LocalBackgroundPlugin", "VarianceConfig", "VariancePlugin")

import math

import lsst.pex.config as pex_config
import numpy as np
from numba import njit

from secondlight.background.statistics import clip
from secondlight.catalog.schema import Schema
from secondlight.photometry._aperture_kernels import row_span
from secondlight.psf.evaluation import determinant_radius

from ..pixels import SourcePixels, hide, show
from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources


class VarianceConfig(MeasurementPluginConfig):
    """Configuration of `VariancePlugin`."""

    scale = pex_config.Field[float](doc="Size of the ellipse in units of the source's shape.", default=5.0)
    mask = pex_config.ListField[str](
        doc="Mask planes whose pixels are left out.", default=["DETECTED", "DETECTED_NEGATIVE", "BAD", "SAT"]
    )


@register("base_Variance")
class VariancePlugin(MeasurementPlugin):
    """Median variance of the background pixels near the source."""

    ConfigClass = VarianceConfig
    config: VarianceConfig
    order = FLUX_ORDER
    uses_centroid = True

    def declare(self, schema: Schema) -> None:
        """Add value and flags."""
        schema.add_flag(self.column("flag"), "general failure")
        schema.add(self.column("value"), np.float64, "median variance near the source", unit="ct2")
        schema.add_flag(self.column("flag_emptyFootprint"), "no pixels left to look at")

    def measure(self, sources: MeasurementSources) -> None:
        """Look at an ellipse of the shape slot about the centroid slot."""
        x, y = sources.centroids
        bad = sources.mask_image(list(self.config.mask))
        pixels = sources.pixels
        shapes = sources.shapes * self.config.scale**2
        value, empty = _median_loop(pixels.variance, bad, x - pixels.x0, y - pixels.y0, shapes)
        self.write(
            sources, value=value, flag=~np.isfinite(value) | sources.no_position, flag_emptyFootprint=empty
        )


@njit(cache=True, nogil=True)
def _median_loop(
    values: np.ndarray, bad: np.ndarray, x: np.ndarray, y: np.ndarray, shapes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return medians of the good pixels (h, w) in ellipses at array positions x, y (n), and where none is.

    A pixel that is NaN is not good; compiled medians would take it for the largest.
    ``shapes`` are moments ``[xx, yy, xy]`` (n, 3); an ellipse that is not finite is empty.
    """
    n = len(x)
    medians = np.full(n, np.nan)
    empty = np.zeros(n, np.bool_)
    height, width = values.shape
    for k in range(n):
        xx, yy, xy = shapes[k, 0], shapes[k, 1], shapes[k, 2]
        if not (math.isfinite(x[k]) and math.isfinite(y[k]) and xx * yy - xy * xy > 0.0):
            empty[k] = True
            continue
        half = math.sqrt(yy)
        found = [values[0, 0] for _ in range(0)]
        for j in range(max(0, math.ceil(y[k] - half)), min(height - 1, math.floor(y[k] + half)) + 1):
            i0, i1 = row_span(x[k], y[k], xx, yy, xy, j)
            for i in range(max(0, i0), min(width - 1, i1) + 1):
                if not (bad[j, i] or math.isnan(values[j, i])):
                    found.append(values[j, i])
        if len(found) == 0:
            empty[k] = True
        else:
            medians[k] = np.median(np.array(found))
    return medians, empty


class LocalBackgroundConfig(MeasurementPluginConfig):
    """Configuration of `LocalBackgroundPlugin`."""

    badMaskPlanes = pex_config.ListField[str](
        doc="Mask planes whose pixels are left out.", default=["BAD", "SAT", "NO_DATA"]
    )
    annulusInner = pex_config.Field[float](doc="Inner radius, in units of the PSF's sigma.", default=7.0)
    annulusOuter = pex_config.Field[float](doc="Outer radius, in units of the PSF's sigma.", default=15.0)
    bgRej = pex_config.Field[float](doc="Clipping limit, standard deviations.", default=3.0)
    bgIter = pex_config.Field[int](doc="Clipping rounds.", default=3)


@register("base_LocalBackground")
class LocalBackgroundPlugin(MeasurementPlugin):
    """Mean and scatter per pixel of what is left in an annulus about the source."""

    ConfigClass = LocalBackgroundConfig
    config: LocalBackgroundConfig
    order = FLUX_ORDER
    uses_centroid = True
    uses_psf = True

    def declare(self, schema: Schema) -> None:
        """Add value, scatter and flags."""
        schema.add(
            self.column("instFlux"), np.float64, "mean background in the annulus, per pixel", unit="ct"
        )
        schema.add(self.column("instFluxErr"), np.float64, "scatter in the annulus, per pixel", unit="ct")
        self.add_flags(
            schema,
            {
                "flag": "general failure",
                "flag_noGoodPixels": "no good pixels in the annulus",
                "flag_noPsf": "the PSF cannot be evaluated",
            },
        )

    def measure(self, sources: MeasurementSources) -> None:
        """Measure at the centroid slot."""
        c = self.config
        x, y = sources.centroids
        sigma = determinant_radius(sources.psf_shapes)
        bad = sources.mask_image(list(c.badMaskPlanes))
        known = np.isfinite(x) & np.isfinite(y) & np.isfinite(sigma)
        inner, outer = (np.where(known, r * sigma, np.nan) for r in (c.annulusInner, c.annulusOuter))
        mean, stdev = _annulus_loop(sources.pixels, bad, x, y, inner, outer, c.bgRej, c.bgIter)
        failed = ~np.isfinite(mean)
        no_psf = np.isfinite(x) & ~np.isfinite(sigma)
        self.write(
            sources,
            instFlux=mean,
            instFluxErr=stdev,
            flag=self.general_flag(sources, failed),
            flag_noGoodPixels=known & failed,
            flag_noPsf=no_psf,
        )
        sources.note_invalid_psf(no_psf)


@njit(cache=True, nogil=True)
def _annulus_loop(
    pixels: SourcePixels,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    inner: np.ndarray,
    outer: np.ndarray,
    n_sigma: float,
    n_iter: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return clipped mean and standard deviation (n) of the good pixels between circles about (x, y).

    Positions are parent pixels; a source with an outer radius that is not finite is left out.
    """
    n = len(x)
    mean = np.full(n, np.nan)
    stdev = np.full(n, np.nan)
    values = np.empty(0, np.float32)
    for k in range(n):
        if not math.isfinite(outer[k]):
            continue
        room = int((2.0 * outer[k] + 3.0) ** 2)
        if len(values) < room:
            values = np.empty(room, np.float32)
        show(pixels, k)
        found = _annulus(pixels.image, bad, x[k] - pixels.x0, y[k] - pixels.y0, inner[k], outer[k], values)
        hide(pixels, k)
        mean[k], variance, _ = clip(values[:found], n_sigma, n_iter)
        stdev[k] = math.sqrt(variance)
    return mean, stdev


@njit(cache=True, nogil=True)
def _annulus(
    image: np.ndarray, bad: np.ndarray, x: float, y: float, inner: float, outer: float, values: np.ndarray
) -> int:
    """Fill the good, finite pixels (h, w) between circles about an array position; return their number."""
    height, width = image.shape
    n = 0
    for j in range(max(0, math.ceil(y - outer)), min(height - 1, math.floor(y + outer)) + 1):
        i0, i1 = row_span(x, y, outer * outer, outer * outer, 0.0, j)
        h0, h1 = row_span(x, y, inner * inner, inner * inner, 0.0, j) if inner > 0.0 else (0, -1)
        i0, i1 = max(0, i0), min(width - 1, i1)
        if h0 > h1:
            h0, h1 = i1 + 1, i1
        for first, last in ((i0, min(h0 - 1, i1)), (max(h1 + 1, i0), i1)):
            for i in range(first, last + 1):
                # Written always and counted if wanted: a branch would cost more where the mask is ragged.
                values[n] = image[j, i]
                n += not bad[j, i] and math.isfinite(image[j, i])
    return n
