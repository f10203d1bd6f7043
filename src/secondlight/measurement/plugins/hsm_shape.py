"""ext_shapeHSM_HsmShape*: shapes corrected for the PSF (spec reprocess 17.14, finalize 8.5).

Four methods: re-Gaussianization and the linear method (Hirata & Seljak 2003), that of Bernstein & Jarvis 2002
and that of Kaiser, Squires & Broadhurst 1995.
"""

from __future__ import annotations

__all__ = (
    "HsmShapeBjPlugin",
    "HsmShapeConfig",
    "HsmShapeKsbPlugin",
    "HsmShapeLinearPlugin",
    "HsmShapePlugin",
    "HsmShapeRegaussPlugin",
)

from typing import ClassVar

import lsst.pex.config as pex_config
import numpy as np
from numba import njit

from secondlight.catalog.schema import Schema
from secondlight.psf.evaluation import trace_radius

from ..hsm.estimate import BJ, KSB, LINEAR, OK, REGAUSS, estimate_shape
from ..hsm.moment_loops import FAILED, MEASURED, NO_PIXELS, NO_PSF, NOT_CONTAINED, good_pixels
from ..pixels import SourcePixels, hide, show
from ..plugin import SHAPE_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from .hsm import GUESS_SCALE, HSM_FLAGS

_PARENT = -1

_FLAGS = {
    "no_pixels": NO_PIXELS,
    "not_contained": NOT_CONTAINED,
    "parent_source": _PARENT,
    "galsim": FAILED,
}
"""Outcome that each specific flag stands for."""


class HsmShapeConfig(MeasurementPluginConfig):
    """Configuration of the shape plugins."""

    deblendNChild = pex_config.Field[str](
        doc="Column with the number of children; sources that have some are left out.  Empty for none.",
        default="",
    )
    badMaskPlanes = pex_config.ListField[str](
        doc="Mask planes whose pixels get no weight.", default=["BAD", "SAT"]
    )


class HsmShapePlugin(MeasurementPlugin):
    """What the four methods share: columns, and one compiled loop over the sources."""

    ConfigClass = HsmShapeConfig
    config: HsmShapeConfig
    order = SHAPE_ORDER
    uses_centroid = True
    uses_psf = True
    method: ClassVar[int]
    """Method of `estimate_shape`."""
    components: ClassVar[tuple[str, str]] = ("e1", "e2")
    """Names of the columns of the shape."""
    kind: ClassVar[str] = "distortion"
    """What the shape is, for the descriptions of the columns."""
    error_scale: ClassVar[float] = 2.0
    """Error of a component in units of that of a shear: a shear changes a distortion by twice itself."""

    def declare(self, schema: Schema) -> None:
        """Add flags, shape, its error and the resolution.

        Raises
        ------
        ValueError
            Raised if there is no column ``deblendNChild``.
        """
        children = self.config.deblendNChild
        if children and children not in schema:
            raise ValueError(
                f"{self.name}: deblendNChild is {children!r}, but there is no column of that name."
            )
        self.add_flags(schema, {f: HSM_FLAGS[f] for f in ("flag", *(f"flag_{name}" for name in _FLAGS))})
        for c in self.components:
            schema.add(self.column(c), np.float64, f"PSF-corrected {self.kind} {c}")
        schema.add(self.column("sigma"), np.float64, f"uncertainty of the {self.kind} per component")
        schema.add(self.column("resolution"), np.float64, "resolution: 0 unresolved, 1 fully resolved")

    def measure(self, sources: MeasurementSources) -> None:
        """Measure all sources.

        A source fails if its moments or those of its PSF do not converge, or if it is not larger than its
        PSF.  One of negative flux, or whose corrected shape is not finite, is measured and flagged.  A bad
        centroid is no failure: it is only the first guess.
        """
        skipped = np.zeros(len(sources), dtype=bool)
        if self.config.deblendNChild:
            skipped = np.asarray(sources.catalog[self.config.deblendNChild]) > 0
        x, y = sources.centroids
        shapes, outcomes = _measure_shapes(
            self.method,
            sources.pixels,
            sources.mask_image(list(self.config.badMaskPlanes)),
            np.ascontiguousarray(sources.bounding_boxes, dtype=np.int64),
            x,
            y,
            sources.psf_images.images,
            trace_radius(sources.psf_shapes),
            skipped,
        )
        e1, e2, error, resolution = shapes.T
        sigma = self.error_scale * error
        self.write(sources, **dict(zip(self.components, (e1, e2), strict=True)))
        self.write(sources, sigma=sigma, resolution=resolution)
        self.write(sources, **{f"flag_{name}": outcomes == outcome for name, outcome in _FLAGS.items()})
        meaningful = np.isfinite(e1) & np.isfinite(e2) & np.isfinite(resolution) & (sigma >= 0.0)
        self.write(sources, flag=~meaningful)
        sources.note_invalid_psf(outcomes == NO_PSF)


@register("ext_shapeHSM_HsmShapeRegauss")
class HsmShapeRegaussPlugin(HsmShapePlugin):
    """Distortions by re-Gaussianization (Hirata & Seljak 2003)."""

    method = REGAUSS


@register("ext_shapeHSM_HsmShapeBj")
class HsmShapeBjPlugin(HsmShapePlugin):
    """Distortions by the method of Bernstein & Jarvis 2002."""

    method = BJ


@register("ext_shapeHSM_HsmShapeLinear")
class HsmShapeLinearPlugin(HsmShapePlugin):
    """Distortions by the linear method of Hirata & Seljak 2003."""

    method = LINEAR


@register("ext_shapeHSM_HsmShapeKsb")
class HsmShapeKsbPlugin(HsmShapePlugin):
    """Shears by the method of Kaiser, Squires & Broadhurst 1995."""

    method = KSB
    components = ("g1", "g2")
    kind = "shear"
    error_scale = 1.0


@njit(cache=True, nogil=True)
def _median(values: np.ndarray, good: np.ndarray) -> float:
    """Return the median of the good values (h, w), rounded to single precision as GalSim takes it."""
    chosen = np.empty(values.size, dtype=values.dtype)
    n = 0
    for j in range(values.shape[0]):
        for i in range(values.shape[1]):
            if good[j, i]:
                chosen[n] = values[j, i]
                n += 1
    return float(np.float32(np.median(chosen[:n])))


@njit(cache=True, nogil=True)
def _measure_one(
    method: int,
    pixels: SourcePixels,
    bad: np.ndarray,
    box: np.ndarray,
    x: float,
    y: float,
    psf: np.ndarray,
    psf_sigma: float,
    row: int,
    shape: np.ndarray,
) -> int:
    """Measure one source and return the outcome.  Arguments as of `_measure_shapes`."""
    size = psf_sigma if np.isfinite(psf[0, 0]) else np.nan
    outcome, part, good = good_pixels(pixels, bad, box, x, y, size)
    if outcome != MEASURED:
        return outcome
    variance = _median(pixels.variance[part], good)
    show(pixels, row)
    image = pixels.image[part].copy()
    hide(pixels, row)
    stamp = psf.astype(np.float64)
    x, y, sigma = x - box[0], y - box[1], GUESS_SCALE * size
    code = estimate_shape(method, image, good, stamp, x, y, sigma, size, variance, shape)
    return MEASURED if code == OK else FAILED


@njit(cache=True, nogil=True)
def _measure_shapes(
    method: int,
    pixels: SourcePixels,
    bad: np.ndarray,
    boxes: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    psfs: np.ndarray,
    psf_sigmas: np.ndarray,
    skipped: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure n sources one after the other.

    Parameters
    ----------
    method
        Method of `estimate_shape`.
    pixels
        Image and own pixels of the sources.
    bad
        Pixels without weight, bool, of the shape of the image.
    boxes
        Inclusive boxes ``x0, y0, x1, y1`` of the footprints, parent pixels, int (n, 4).
    x, y
        First guesses of the centres, parent pixels (n).
    psfs, psf_sigmas
        PSF images (n, h, w) and their sizes, pixels (n); NaN where the PSF cannot be evaluated.
    skipped
        Sources that are left out, bool (n).

    Returns
    -------
    shapes
        The ``result`` of `estimate_shape`, (n, 4); NaN where there is none.
    outcomes
        What became of each source, int (n).
    """
    n = len(boxes)
    shapes, outcomes = np.full((n, 4), np.nan), np.full(n, _PARENT)
    for k in range(n):
        if not skipped[k]:
            outcomes[k] = _measure_one(
                method, pixels, bad, boxes[k], x[k], y[k], psfs[k], psf_sigmas[k], k, shapes[k]
            )
    return shapes, outcomes
