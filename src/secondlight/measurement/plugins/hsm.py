"""HSM adaptive moments of sources and PSF (spec reprocess 17.14, finalize 8.4; Hirata & Seljak 2003)."""

from __future__ import annotations

__all__ = (
    "GUESS_SCALE",
    "HSM_FLAGS",
    "HsmMomentsConfig",
    "HsmMomentsPlugin",
    "HsmPsfMomentsConfig",
    "HsmPsfMomentsPlugin",
    "HsmPsfStamps",
    "HsmSourceMomentsConfig",
    "HsmSourceMomentsPlugin",
    "HsmSourceMomentsRoundPlugin",
)

from typing import NamedTuple

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.psf.evaluation import trace_radius

from ..hsm import moment_loops as loops
from ..plugin import SHAPE_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources

GUESS_SCALE = 2.5
"""First guess of a source's size in units of the PSF's."""

HSM_FLAGS = {
    "flag": "general failure",
    "flag_no_pixels": "no pixels to measure",
    "flag_not_contained": "the centre is outside the bounding box of the footprint",
    "flag_parent_source": "the source is a blend and was left out",
    "flag_galsim": "the fit failed",
    "flag_invalid_param": "the ellipticity is not below 1",
    "flag_edge": "the PSF image reaches over the edge of the image",
    "flag_no_psf": "the PSF cannot be evaluated",
}

_OUTCOMES = {
    "flag_no_pixels": loops.NO_PIXELS,
    "flag_not_contained": loops.NOT_CONTAINED,
    "flag_galsim": loops.FAILED,
    "flag_invalid_param": loops.INVALID_SHAPE,
    "flag_no_psf": loops.NO_PSF,
}


class HsmMomentsConfig(MeasurementPluginConfig):
    """Configuration shared by the moments plugins."""

    roundMoments = pex_config.Field[bool](doc="Whether the weight is kept round.", default=False)
    addFlux = pex_config.Field[bool](doc="Whether to store the flux of the matched Gaussian.", default=False)
    subtractCenter = pex_config.Field[bool](
        doc="Whether the stored centre is relative to the first guess.", default=False
    )


class HsmMomentsPlugin(MeasurementPlugin):
    """What the moments plugins share: columns and how they are filled."""

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

    def write_moments(
        self,
        sources: MeasurementSources,
        values: np.ndarray,
        outcomes: np.ndarray,
        *,
        x: np.ndarray,
        y: np.ndarray,
    ) -> None:
        """Write moments and flags.

        Parameters
        ----------
        sources
            Sources (n).
        values, outcomes
            What the loops return.
        x, y
            First guesses of the centres, in the coordinates of the values (n).
        """
        flux, x_found, y_found, xx, xy, yy = values.T[:6]
        if self.config.subtractCenter:
            x_found, y_found = x_found - x, y_found - y
        self.write(sources, x=x_found, y=y_found, xx=xx, yy=yy, xy=xy)
        if self.config.addFlux:
            self.write(sources, Flux=flux)
        self.write(sources, **{flag: outcomes == outcome for flag, outcome in _OUTCOMES.items()})
        self.write(sources, flag=self.general_flag(sources, outcomes != loops.MEASURED))
        sources.note_invalid_psf(outcomes == loops.NO_PSF)


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

    def measure(self, sources: MeasurementSources) -> None:
        """Measure each source on its own pixels."""
        x, y = sources.centroids
        values, outcomes = loops.source_moments_loop(
            sources.pixels,
            sources.mask_image(list(self.config.badMaskPlanes)),
            np.ascontiguousarray(sources.bounding_boxes, dtype=np.int64),
            x,
            y,
            GUESS_SCALE * trace_radius(sources.psf_shapes),
            self.config.roundMoments,
        )
        self.write_moments(sources, values, outcomes, x=x, y=y)


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


class HsmPsfStamps(NamedTuple):
    """PSF images to be measured.

    Attributes
    ----------
    images
        Stamps of unit sum (n, h, w); NaN where the PSF cannot be evaluated.
    x0, y0
        Parent pixel of the first element of each, int64 (n).
    x, y
        First guesses of the centres, indices of the stamps, float64 (n).
    """

    images: np.ndarray
    x0: np.ndarray
    y0: np.ndarray
    x: np.ndarray
    y: np.ndarray


@register("ext_shapeHSM_HsmPsfMoments")
class HsmPsfMomentsPlugin(HsmMomentsPlugin):
    """Adaptive moments of the PSF at the sources."""

    ConfigClass = HsmPsfMomentsConfig
    config: HsmPsfMomentsConfig

    def measure(self, sources: MeasurementSources) -> None:
        """Measure the PSF image of each source."""
        stamps = self.stamps(sources)
        values, outcomes = loops.psf_moments_loop(
            stamps.images, stamps.x, stamps.y, trace_radius(sources.psf_shapes), self.config.roundMoments
        )
        self.write_psf_moments(sources, values, outcomes, stamps)

    def stamps(self, sources: MeasurementSources) -> HsmPsfStamps:
        """Return the PSF images: kernels about their middles, or stars at the centroids."""
        images, x0, y0 = sources.psf_images
        if self.config.useSourceCentroidOffset:
            x, y = sources.centroids
            return HsmPsfStamps(images, x0, y0, x - x0, y - y0)
        _, height, width = images.shape
        x, y = np.full(len(sources), width // 2.0), np.full(len(sources), height // 2.0)
        return HsmPsfStamps(sources.psf_kernels, x0, y0, x, y)

    def write_psf_moments(
        self, sources: MeasurementSources, values: np.ndarray, outcomes: np.ndarray, stamps: HsmPsfStamps
    ) -> None:
        """Write moments that were measured in the coordinates of stamps."""
        values[:, 1] += stamps.x0
        values[:, 2] += stamps.y0
        self.write_moments(sources, values, outcomes, x=stamps.x + stamps.x0, y=stamps.y + stamps.y0)
