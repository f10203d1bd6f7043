"""HSM adaptive moments through GalSim (spec reprocess 17.14, finalize 8.4; Hirata & Seljak 2003)."""

from __future__ import annotations

__all__ = (
    "GUESS_SCALE",
    "HSM_FLAGS",
    "PRECISION",
    "Failure",
    "HsmFailureError",
    "HsmPsfMomentsPlugin",
    "HsmSourceMomentsPlugin",
    "HsmSourceMomentsRoundPlugin",
    "psf_size",
    "source_stamp",
)

import enum
import math

import galsim
import galsim.hsm
import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.psf.evaluation import trace_radius

from ..pixels import hide, show
from ..plugin import SHAPE_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources

GUESS_SCALE = 2.5
"""First guess of a source's size in units of the PSF's."""
PRECISION = 1e-6
"""Accuracy asked of the fits, pixels."""

HSM_FLAGS = {
    "flag": "general failure",
    "flag_no_pixels": "no pixels to measure",
    "flag_not_contained": "the centre is outside the bounding box of the footprint",
    "flag_parent_source": "the source is a blend and was left out",
    "flag_galsim": "GalSim failed",
    "flag_invalid_param": "GalSim returned an ellipticity above 1",
    "flag_edge": "the PSF image reaches over the edge of the image",
    "flag_no_psf": "the PSF cannot be evaluated",
}


class Failure(enum.StrEnum):
    """Reason of a failure, by the suffix of its flag."""

    NO_PIXELS = "no_pixels"
    NOT_CONTAINED = "not_contained"
    PARENT = "parent_source"
    GALSIM = "galsim"
    INVALID = "invalid_param"
    NO_PSF = "no_psf"


class HsmFailureError(Exception):
    """A source cannot be measured."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.value)
        self.failure = failure


def adaptive_moments_hsm(
    image: np.ndarray,
    weight: np.ndarray | None,
    *,
    x0: int,
    y0: int,
    x: float,
    y: float,
    sigma: float,
    round_moments: bool = False,
) -> tuple[float, float, float, float, float, float]:
    """Return x, y, xx, yy, xy, flux of an image whose first pixel is (x0, y0), by ``galsim.hsm``.

    Raises
    ------
    HsmFailureError
        Raised if GalSim fails or returns an ellipticity above 1.
    """
    try:
        result = galsim.hsm.FindAdaptiveMom(
            galsim.Image(np.ascontiguousarray(image), xmin=x0, ymin=y0),
            weight=None if weight is None else galsim.Image(weight, xmin=x0, ymin=y0),
            guess_sig=sigma,
            precision=PRECISION,
            guess_centroid=galsim.PositionD(x, y),
            strict=True,
            check=False,
            round_moments=round_moments,
        )
    except galsim.GalSimError:
        raise HsmFailureError(Failure.GALSIM) from None
    e1, e2 = result.observed_e1, result.observed_e2
    if not e1**2 + e2**2 < 1.0:
        raise HsmFailureError(Failure.INVALID)
    size = result.moments_sigma**2 / math.sqrt(1.0 - e1**2 - e2**2)
    centre = result.moments_centroid
    return (
        centre.x,
        centre.y,
        size * (1.0 + e1),
        size * (1.0 - e1),
        size * e2,
        result.moments_amp,
    )


class HsmMomentsConfig(MeasurementPluginConfig):
    """Configuration shared by the moments plugins."""

    roundMoments = pex_config.Field[bool](doc="Whether the weight is kept round.", default=False)
    addFlux = pex_config.Field[bool](doc="Whether to store the flux of the matched Gaussian.", default=False)
    subtractCenter = pex_config.Field[bool](
        doc="Whether the stored centre is relative to the first guess.", default=False
    )


class HsmMomentsPlugin(MeasurementPlugin):
    """What the moments plugins share: columns, and a loop in which each source may fail on its own."""

    config: HsmMomentsConfig
    order = SHAPE_ORDER
    uses_centroid = True
    uses_psf = True

    def declare(self, schema: Schema) -> None:
        """Add flags, centre and moments."""
        self.add_flags(schema, HSM_FLAGS)
        for axis in "xy":
            schema.add(self.column(axis), np.float64, f"{axis} of the weighted centre", unit="pix")
        for c in ("xx", "yy", "xy"):
            schema.add(self.column(c), np.float64, f"adaptive moment {c}", unit="pix2")
        if self.config.addFlux:
            schema.add(self.column("Flux"), np.float64, "flux of the matched Gaussian", unit="ct")

    def measure_one(self, sources: MeasurementSources, row: int) -> tuple[float, ...]:
        """Return centre, moments and flux of one source.

        Raises
        ------
        HsmFailureError
            Raised if it cannot be measured.
        """
        raise NotImplementedError

    def measure(self, sources: MeasurementSources) -> None:
        """Measure one source after the other."""
        values = np.full((len(sources), 6), np.nan)
        failures = np.full(len(sources), "", dtype=object)
        for row in range(len(sources)):
            try:
                values[row] = self.measure_one(sources, row)
            except HsmFailureError as error:
                failures[row] = error.failure.value
        names = ("x", "y", "xx", "yy", "xy") + (("Flux",) if self.config.addFlux else ())
        self.write(sources, **dict(zip(names, values.T, strict=False)))
        self.write_failures(sources, failures)

    def write_failures(self, sources: MeasurementSources, failures: np.ndarray) -> None:
        """Set the general flag and that of each failure (n), '' for none."""
        for failure in set(failures.tolist()) - {""}:
            if self.column(f"flag_{failure}") in sources.catalog:
                sources.catalog[self.column(f"flag_{failure}")] = failures == failure
        sources.catalog[self.column("flag")] = self.general_flag(sources, failures != "")
        sources.note_invalid_psf(failures == Failure.NO_PSF.value)


class HsmSourceMomentsConfig(HsmMomentsConfig):
    """Configuration of `HsmSourceMomentsPlugin`."""

    badMaskPlanes = pex_config.ListField[str](
        doc="Mask planes whose pixels get no weight.", default=["BAD", "SAT"]
    )


@register("ext_shapeHSM_HsmSourceMoments")
class HsmSourceMomentsPlugin(HsmMomentsPlugin):
    """Adaptive moments of the sources, over the bounding boxes of their footprints."""

    ConfigClass = HsmSourceMomentsConfig
    config: HsmSourceMomentsConfig

    def measure_one(self, sources: MeasurementSources, row: int) -> tuple[float, ...]:
        """Measure one source on its own pixels."""
        x, y = (float(c[row]) for c in sources.centroids)
        image, weight, x0, y0 = source_stamp(sources, row, list(self.config.badMaskPlanes))
        sigma = GUESS_SCALE * psf_size(sources, row)
        values = adaptive_moments_hsm(
            image, weight, x0=x0, y0=y0, x=x, y=y, sigma=sigma, round_moments=self.config.roundMoments
        )
        if self.config.subtractCenter:
            return (values[0] - x, values[1] - y, *values[2:])
        return values


class HsmSourceMomentsRoundConfig(HsmSourceMomentsConfig):
    """Configuration of `HsmSourceMomentsRoundPlugin`."""

    def setDefaults(self) -> None:
        """Keep the weight round."""
        super().setDefaults()
        self.roundMoments = True

    def validate(self) -> None:
        """Check that the weight is round."""
        super().validate()
        if not self.roundMoments:
            raise pex_config.FieldValidationError(
                type(self).roundMoments, self, "Must be True in this plugin."
            )


@register("ext_shapeHSM_HsmSourceMomentsRound")
class HsmSourceMomentsRoundPlugin(HsmSourceMomentsPlugin):
    """Adaptive moments of the sources with a round weight."""

    ConfigClass = HsmSourceMomentsRoundConfig

    def declare(self, schema: Schema) -> None:
        """Add columns and the alias ``slot_ShapeRound``."""
        super().declare(schema)
        schema.set_alias("slot_ShapeRound", self.name)


class HsmPsfMomentsConfig(HsmMomentsConfig):
    """Configuration of `HsmPsfMomentsPlugin`."""

    useSourceCentroidOffset = pex_config.Field[bool](
        doc="Whether the PSF is drawn at the sub-pixel position of the source.", default=False
    )

    def setDefaults(self) -> None:
        """Store the centre relative to the guess."""
        super().setDefaults()
        self.subtractCenter = True


@register("ext_shapeHSM_HsmPsfMoments")
class HsmPsfMomentsPlugin(HsmMomentsPlugin):
    """Adaptive moments of the PSF at the sources."""

    ConfigClass = HsmPsfMomentsConfig
    config: HsmPsfMomentsConfig

    def measure_one(self, sources: MeasurementSources, row: int) -> tuple[float, ...]:
        """Measure the PSF of one source."""
        sigma = psf_size(sources, row)
        stars = sources.psf_images
        x0, y0 = int(stars.x0[row]), int(stars.y0[row])
        if self.config.useSourceCentroidOffset:
            image = stars.images[row]
            x, y = (float(c[row]) for c in sources.centroids)
        else:
            image = sources.psf_kernels[row]
            x, y = x0 + image.shape[1] // 2, y0 + image.shape[0] // 2
        values = adaptive_moments_hsm(
            image, None, x0=x0, y0=y0, x=x, y=y, sigma=sigma, round_moments=self.config.roundMoments
        )
        if self.config.subtractCenter:
            return (values[0] - x, values[1] - y, *values[2:])
        return values


def psf_size(sources: MeasurementSources, row: int) -> float:
    """Return the trace radius of the PSF at a source.

    Raises
    ------
    HsmFailureError
        Raised if the PSF cannot be evaluated.
    """
    size = float(trace_radius(sources.psf_shapes[row]))
    if not math.isfinite(size):
        raise HsmFailureError(Failure.NO_PSF)
    return size


def source_stamp(
    sources: MeasurementSources, row: int, bad_planes: list[str]
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return pixels and weight (0 or 1) in the footprint's bounding box as the source sees them, and x0, y0.

    Raises
    ------
    HsmFailureError
        Raised if there are no good pixels, or the centre is outside the box.
    """
    boxes = sources.bounding_boxes
    x0, y0, x1, y1 = (int(v) for v in boxes[row])
    if x1 < x0 or y1 < y0:
        raise HsmFailureError(Failure.NO_PIXELS)
    xi, yi = (int(c[row]) for c in sources.nearest_pixels)
    if not (x0 <= xi <= x1 and y0 <= yi <= y1):
        raise HsmFailureError(Failure.NOT_CONTAINED)
    p = sources.pixels
    part = np.s_[y0 - p.y0 : y1 - p.y0 + 1, x0 - p.x0 : x1 - p.x0 + 1]
    show(p, row)
    image = p.image[part].copy()
    hide(p, row)
    weight = (~sources.mask_image(bad_planes)[part]).astype(np.int32)
    if not weight.any():
        raise HsmFailureError(Failure.NO_PIXELS)
    return image, weight, x0, y0
