"""base_SdssShape: adaptive moments with errors, and those of the PSF (spec reprocess 17.2)."""

from __future__ import annotations

__all__ = ("SdssShapeConfig", "SdssShapePlugin")

import lsst.pex.config as pex_config
import numpy as np
from numba import njit

from secondlight.catalog.schema import Schema
from secondlight.psf._adaptive_moment_kernels import measure_one
from secondlight.psf.adaptive_moments import (
    MAX_ITER,
    MAX_SHIFT,
    MIN_SHIFT,
    SHIFT,
    UNWEIGHTED,
    UNWEIGHTED_BAD,
)

from ..pixels import SourcePixels, hide, show
from ..plugin import SHAPE_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from .moment_errors import moment_covariance

_FLAGS = {
    "flag": "general failure",
    "flag_unweightedBad": "weighted and unweighted moments failed",
    "flag_unweighted": "weighted moments failed or ran away from the footprint; these are unweighted",
    "flag_shift": "the centre moved more than maxShift",
    "flag_maxIter": "too many iterations",
    "flag_psf": "the moments of the PSF cannot be measured",
}


_WIDEST_IN_FOOTPRINTS = 2.0
_LEAST_WIDEST = 20.0
"""Widest standard deviation of a weight: longer sides of the footprint, and at least so many pixels."""


class SdssShapeConfig(MeasurementPluginConfig):
    """Configuration of `SdssShapePlugin`."""

    background = pex_config.Field[float](doc="Level subtracted from every pixel, counts.", default=0.0)
    maxIter = pex_config.Field[int](doc="Most iterations.", default=100)
    maxShift = pex_config.Field[float](
        doc="Largest shift of the weighted centre, pixels; forced into [2, 10].", default=0.0
    )
    tol1 = pex_config.Field[float](doc="Convergence of the ellipticity components.", default=1e-5)
    tol2 = pex_config.Field[float](doc="Relative convergence of the size.", default=1e-4)
    doMeasurePsf = pex_config.Field[bool](doc="Whether to measure the PSF as well.", default=True)


@register("base_SdssShape")
class SdssShapePlugin(MeasurementPlugin):
    """Adaptive moments about the centroid slot."""

    ConfigClass = SdssShapeConfig
    config: SdssShapeConfig
    order = SHAPE_ORDER
    uses_centroid = True
    uses_psf = True

    def declare(self, schema: Schema) -> None:
        """Add moments, errors, the flux of the matched Gaussian and its covariances, and PSF moments."""
        for c in ("xx", "yy", "xy"):
            schema.add(self.column(c), np.float64, f"adaptive moment {c}", unit="pix2")
        for c in ("xx", "yy", "xy"):
            schema.add(self.column(f"{c}Err"), np.float32, f"1-sigma uncertainty of {c}", unit="pix2")
        for c in "xy":
            schema.add(self.column(c), np.float64, f"{c} of the weighted centre", unit="pix")
        self.add_flux(schema, "flux of the matched Gaussian")
        if self.config.doMeasurePsf:
            for c in ("xx", "yy", "xy"):
                doc = f"adaptive moment {c} of the PSF at the source"
                schema.add(self.column(f"psf_{c}"), np.float64, doc, unit="pix2")
        for c in ("xx", "yy", "xy"):
            schema.add(
                self.column(f"instFlux_{c}_Cov"),
                np.float32,
                f"covariance of instFlux and {c}",
                unit="ct pix2",
            )
        self.add_flags(
            schema, {k: v for k, v in _FLAGS.items() if k != "flag_psf" or self.config.doMeasurePsf}
        )

    def measure(self, sources: MeasurementSources) -> None:
        """Measure at the centroid slot."""
        c = self.config
        x, y = sources.centroids
        max_shift = min(max(c.maxShift, MIN_SHIFT), MAX_SHIFT)
        moments, covariance, bits = _shape_loop(
            _less_background(sources.pixels, c.background),
            x,
            y,
            c.maxIter,
            max_shift,
            c.tol1,
            c.tol2,
            _widest(sources.bounding_boxes),
        )
        xx, yy, xy, flux = moments[:, 2], moments[:, 3], moments[:, 4], 2.0 * moments[:, 5]
        with np.errstate(invalid="ignore"):
            errors = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        # A bad centroid alone is no failure here: the moments are those about the position used.
        failed = (bits & (UNWEIGHTED | UNWEIGHTED_BAD | SHIFT)) != 0
        self.write(
            sources,
            xx=xx,
            yy=yy,
            xy=xy,
            xxErr=errors[:, 1],
            yyErr=errors[:, 2],
            xyErr=errors[:, 3],
            x=moments[:, 0],
            y=moments[:, 1],
            instFlux=flux,
            instFluxErr=errors[:, 0],
            instFlux_xx_Cov=covariance[:, 0, 1],
            instFlux_yy_Cov=covariance[:, 0, 2],
            instFlux_xy_Cov=covariance[:, 0, 3],
            flag=failed,
            flag_unweightedBad=bits & UNWEIGHTED_BAD,
            flag_unweighted=bits & UNWEIGHTED,
            flag_shift=bits & SHIFT,
            flag_maxIter=bits & MAX_ITER,
        )
        if c.doMeasurePsf:
            psf = sources.psf_shapes
            bad_psf = np.isnan(psf[:, 0])
            self.write(sources, psf_xx=psf[:, 0], psf_yy=psf[:, 1], psf_xy=psf[:, 2], flag_psf=bad_psf)
            sources.note_invalid_psf(bad_psf & np.isfinite(x))


def _less_background(pixels: SourcePixels, level: float) -> SourcePixels:
    """Return pixels with a constant taken off."""
    if level == 0.0:
        return pixels
    constant = np.float32(level)
    return pixels._replace(
        image=pixels.image - constant, own=pixels.own - constant, replaced=pixels.replaced - constant
    )


def _widest(boxes: np.ndarray) -> np.ndarray:
    """Return the standard deviation beyond which a weight has run away, pixels (n), from footprint boxes.

    The moments of a source that was seen at all converge well within its footprint.  Where they do not,
    because of a neighbour's wings or of what is left of the sky, the weight takes in more and more of the
    image, at a cost that grows with its area.  A source without a footprint has no limit.
    """
    size = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) + 1.0
    return np.where(size > 0, np.maximum(_WIDEST_IN_FOOTPRINTS * size, _LEAST_WIDEST), np.inf)


@njit(cache=True, nogil=True)
def _shape_loop(
    pixels: SourcePixels,
    x: np.ndarray,
    y: np.ndarray,
    max_iter: int,
    max_shift: float,
    tol1: float,
    tol2: float,
    max_sigma: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure moments (n, 6) in parent pixels, covariances of flux, xx, yy, xy (n, 4, 4) and flags (n)."""
    n = len(x)
    moments = np.full((n, 6), np.nan)
    covariance = np.full((n, 4, 4), np.nan)
    flags = np.zeros(n, np.int64)
    for k in range(n):
        i, j = x[k] - pixels.x0, y[k] - pixels.y0
        show(pixels, k)
        flags[k] = measure_one(pixels.image, i, j, max_iter, max_shift, tol1, tol2, max_sigma[k], moments[k])
        if not flags[k] & (UNWEIGHTED | UNWEIGHTED_BAD):
            moment_covariance(pixels.image, pixels.variance, i, j, moments[k, 2:5], covariance[k])
        hide(pixels, k)
        moments[k, 0] += pixels.x0
        moments[k, 1] += pixels.y0
    return moments, covariance, flags
