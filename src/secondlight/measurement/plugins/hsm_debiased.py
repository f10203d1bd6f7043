"""ext_shapeHSM_HsmPsfMomentsDebiased: PSF moments with the noise bias of a star's (spec reprocess 17.14)."""

from __future__ import annotations

__all__ = ("HsmPsfMomentsDebiasedConfig", "HsmPsfMomentsDebiasedPlugin")

import math

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.psf.evaluation import trace_radius

from ..hsm.debiased import debiased_moments_loop
from ..plugin import FLUX_ORDER, FatalMeasurementError, register
from ..sources import MeasurementSources
from .hsm import HsmPsfMomentsConfig, HsmPsfMomentsPlugin

_LEVEL_KEY = "BGMEAN"


class HsmPsfMomentsDebiasedConfig(HsmPsfMomentsConfig):
    """Configuration of `HsmPsfMomentsDebiasedPlugin`."""

    noiseSource = pex_config.ChoiceField[str](
        doc="What sets the level of the noise.",
        allowed={
            "variance": "The variance of each pixel.",
            "meta": f"The variance in the image's metadata key {_LEVEL_KEY}.",
        },
        default="variance",
        optional=False,
    )
    seedOffset = pex_config.Field[int](
        doc="Added to the id of each source to seed its noise: another offset, other noise.", default=0
    )
    badMaskPlanes = pex_config.ListField[str](
        doc="Mask planes whose pixels get no weight.", default=["BAD", "SAT"]
    )

    def setDefaults(self) -> None:
        """Draw the PSF where the source is."""
        super().setDefaults()
        self.useSourceCentroidOffset = True


@register("ext_shapeHSM_HsmPsfMomentsDebiased")
class HsmPsfMomentsDebiasedPlugin(HsmPsfMomentsPlugin):
    """Adaptive moments of the PSF with the flux and the noise of the sources.

    Noise biases the moments of a star; these moments of its PSF have the same bias, so that the two can be
    compared.  The noise of a source depends on its id and on ``seedOffset`` alone.
    """

    ConfigClass = HsmPsfMomentsDebiasedConfig
    config: HsmPsfMomentsDebiasedConfig
    order = FLUX_ORDER + 0.1

    def declare(self, schema: Schema) -> None:
        """Add flags, centre and moments, and the alias ``slot_PsfShapeDebiased``.

        Raises
        ------
        ValueError
            Raised if there is no PSF flux in the slot.
        """
        super().declare(schema)
        schema.set_alias("slot_PsfShapeDebiased", self.name)
        if "slot_PsfFlux_instFlux" not in schema:
            raise ValueError(
                f"{self.name} needs slot_PsfFlux, which neither the slots nor the schema define."
            )

    def measure(self, sources: MeasurementSources) -> None:
        """Measure the PSF image of each source with its noise.

        A source whose PSF image reaches over the edge of the image has ``flag_edge``, and is measured only if
        the noise does not come from the variance of the image.  One without a positive flux has
        ``flag_galsim``.
        """
        stamps = self.stamps(sources)
        ids = np.asarray(sources.catalog["id"], dtype=np.int64)
        values, outcomes, clipped = debiased_moments_loop(
            *stamps,
            trace_radius(sources.psf_shapes),
            np.array(sources.catalog["slot_PsfFlux_instFlux"], dtype=np.float64),
            (ids + self.config.seedOffset).astype(np.uint64),
            sources.pixels,
            sources.mask_image(list(self.config.badMaskPlanes)),
            self._level(sources),
            self.config.roundMoments,
        )
        self.write_psf_moments(sources, values, outcomes, stamps)
        self.write(sources, flag_edge=clipped)

    def _level(self, sources: MeasurementSources) -> float:
        """Return the variance of the noise; NaN if it is that of each pixel."""
        if self.config.noiseSource == "variance":
            return math.nan
        exposure = sources.exposure
        value = exposure.metadata.get(_LEVEL_KEY)
        try:
            level = float(str(value))
        except ValueError:
            level = math.nan
        if not 0.0 <= level < math.inf:
            info = exposure.obs_info
            raise FatalMeasurementError(
                f"{self.name} takes its noise from the metadata key {_LEVEL_KEY} of visit {info.visit_id}, "
                f"detector {info.detector_num}; a variance was expected there, found {value!r}."
            )
        return level
