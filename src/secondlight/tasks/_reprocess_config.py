"""Connections and configuration of the final pass over a visit image (spec reprocess 2, 3)."""

from __future__ import annotations

__all__ = ("EXTRA_PLUGINS", "POST_PLUGINS", "ReprocessVisitImageConfig", "ReprocessVisitImageConnections")

from typing import Any

from lsst.pex.config import ConfigField, ConfigurableField, Field, FieldValidationError, ListField
from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections
from lsst.pipe.base import connectionTypes as cT

from ..catalog.ids import DetectorVisitIdGeneratorConfig
from ..deblend.task import SourceDeblendTask
from ..detection.sky_objects import SkyObjectsTask
from ..detection.task import SourceDetectionTask
from ..measurement.task import SingleFrameMeasurementTask
from ..photometry.apply_ap_corr import ApplyApCorrTask
from ..photometry.catalog_calculation import CatalogCalculationTask
from ..photometry.normalized_calibration_flux import NormalizedCalibrationFluxTask
from ..photometry.primary_flags import SetPrimaryFlagsTask
from ..photometry.summary_stats import ComputeExposureSummaryStatsTask
from ..repair.snap_combine import SnapCombineTask
from ..repair.task import RepairTask

_DETECTOR = ("instrument", "visit", "detector")

EXTRA_PLUGINS = (
    "ext_shapeHSM_HsmShapeRegauss",
    "ext_shapeHSM_HsmSourceMoments",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_shapeHSM_HsmSourceMomentsRound",
    "ext_shapeHSM_HigherOrderMomentsSource",
    "ext_shapeHSM_HigherOrderMomentsPSF",
    "ext_shapeHSM_HsmPsfMomentsDebiased",
    "base_Blendedness",
    "base_Jacobian",
    "base_FPPosition",
    "ext_photometryKron_KronFlux",
)
"""Plugins measured in addition to the measurement task's own defaults."""

POST_PLUGINS = ("base_LocalPhotoCalib", "base_LocalWcs")
"""Plugins run on the finished catalog."""


class ReprocessVisitImageConnections(PipelineTaskConnections, dimensions=_DETECTOR):
    """Inputs and outputs of `ReprocessVisitImageTask`."""

    exposures = cT.Input(
        doc="Post-ISR image of the visit, or its two snaps.",
        name="postISRCCD",
        storageClass="VisitImage",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
    )
    preliminary_mask = cT.Input(
        doc="Mask of an earlier pass, to copy planes from.",
        name="preliminary_visit_mask",
        storageClass="MaskV2",
        dimensions=_DETECTOR,
    )
    visit_summary = cT.Input(
        doc="Final calibrations of every detector of the visit.",
        name="finalVisitSummary",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit"),
        deferLoad=True,
    )
    initial_photo_calib = cT.Input(
        doc="Photometric calibration that brings the image to the units of the background.",
        name="initial_photoCalib_detector",
        storageClass="PhotoCalibV2",
        dimensions=_DETECTOR,
    )
    background_1 = cT.Input(
        doc="Background to subtract.",
        name="calexpBackground",
        storageClass="BackgroundMap",
        dimensions=_DETECTOR,
    )
    background_2 = cT.Input(
        doc="Further background to subtract, fitted over the whole focal plane.",
        name="skyCorr",
        storageClass="BackgroundMap",
        dimensions=_DETECTOR,
    )
    calib_sources = cT.Input(
        doc="Stars that the PSF was made from and tested with.",
        name="finalized_src_table",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit"),
        deferLoad=True,
    )
    background_to_photometric_ratio = cT.Input(
        doc="Background flat divided by the photometric flat.",
        name="background_to_photometric_ratio",
        storageClass="ImageV2",
        dimensions=_DETECTOR,
    )
    sources_schema = cT.InitOutput(
        doc="Schema of the source catalog.", name="sources_schema", storageClass="SourceSchema"
    )
    exposure = cT.Output(
        doc="Background-subtracted image in nJy with its final calibrations.",
        name="pvi",
        storageClass="VisitImage",
        dimensions=_DETECTOR,
    )
    sources = cT.Output(
        doc="Source table with instrumental and calibrated columns.",
        name="sources_detector",
        storageClass="ArrowAstropy",
        dimensions=_DETECTOR,
    )
    sources_footprints = cT.Output(
        doc="The same sources with their footprints; heavy footprints are in instrumental units.",
        name="sources_detector_footprints",
        storageClass="SourceCatalogV2",
        dimensions=_DETECTOR,
    )
    background = cT.Output(
        doc="Background subtracted from the image, in the units of the input background (instrumental).",
        name="pvi_background",
        storageClass="BackgroundMap",
        dimensions=_DETECTOR,
    )
    replaced_pixels = cT.Output(
        doc="Post-ISR counts of the pixels that cannot be computed from image and background: those of "
        "cosmic rays, and some in bright sources.",
        name="pvi_replaced_pixels",
        storageClass="ArrowAstropy",
        dimensions=_DETECTOR,
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is None:
            return
        if not config.remove_initial_photo_calib:
            del self.initial_photo_calib
        if not config.do_use_sky_corr:
            del self.background_2
        if not config.do_write_replaced_pixels:
            del self.replaced_pixels
        if not config.do_apply_flat_background_ratio:
            del self.background_to_photometric_ratio


def _subtask(target: type, doc: str) -> ConfigurableField[Any]:
    return ConfigurableField(target=target, doc=doc)


class ReprocessVisitImageConfig(PipelineTaskConfig, pipelineConnections=ReprocessVisitImageConnections):
    """Configuration of `ReprocessVisitImageTask`."""

    id_generator = ConfigField[DetectorVisitIdGeneratorConfig](doc="Makes catalog and row ids.")
    do_use_sky_corr = Field[bool](doc="Whether to subtract background_2 too.", default=False)
    remove_initial_photo_calib = Field[bool](
        doc="Whether the background is in the units that initial_photo_calib leads to.", default=False
    )
    do_write_replaced_pixels = Field[bool](
        doc="Whether to publish the counts of pixels that were replaced, so that all can be restored.",
        default=True,
    )
    snap_combine = _subtask(SnapCombineTask, "Combines the two snaps of a visit.")
    repair = _subtask(RepairTask, "Finds cosmic rays and removes them.")
    detection = _subtask(SourceDetectionTask, "Detects sources.")
    sky_sources = _subtask(SkyObjectsTask, "Places sources on empty sky.")
    deblend = _subtask(SourceDeblendTask, "Splits blends.")
    measurement = _subtask(SingleFrameMeasurementTask, "Measures sources.")
    normalized_calibration_flux = _subtask(
        NormalizedCalibrationFluxTask, "Normalizes the flux that all others are corrected to."
    )
    apply_aperture_correction = _subtask(ApplyApCorrTask, "Applies aperture corrections.")
    set_primary_flags = _subtask(SetPrimaryFlagsTask, "Marks the rows that hold every object once.")
    catalog_calculation = _subtask(CatalogCalculationTask, "Computes columns from columns.")
    post_calculations = _subtask(
        SingleFrameMeasurementTask, "Records the local calibrations of the finished catalog."
    )
    compute_summary_stats = _subtask(ComputeExposureSummaryStatsTask, "Computes summary statistics.")
    calib_match_radius = Field[float](
        doc="Largest distance of a calibration star to its source, arcsec.",
        default=0.2,
        check=lambda radius: radius > 0,
    )
    do_apply_flat_background_ratio = Field[bool](
        doc="Whether the image was flattened for the background and is to be measured flattened for sources.",
        default=False,
    )
    copyMaskPlanes = ListField[str](doc="Planes to copy from the preliminary mask.", default=["SPIKE"])

    def setDefaults(self) -> None:
        """Detect without touching the background, and measure everything there is a plugin for."""
        super().setDefaults()
        self.detection.reEstimateBackground = False
        self.detection.doTempLocalBackground = False
        self._set_measurement_defaults()
        self.normalized_calibration_flux.do_measure_ap_corr = False
        self.post_calculations.plugins.names = list(POST_PLUGINS)
        self.post_calculations.doReplaceWithNoise = False
        for slot in self.post_calculations.slots.toDict():
            setattr(self.post_calculations.slots, slot, None)

    def _set_measurement_defaults(self) -> None:
        measurement = self.measurement
        measurement.plugins.names |= EXTRA_PLUGINS
        aperture = measurement.plugins["base_CircularApertureFlux"]
        aperture.radii = [3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0, 50.0, 70.0]
        aperture.maxSincRadius = 12.0
        measurement.slots.shape = "ext_shapeHSM_HsmSourceMoments"
        measurement.slots.psfShape = "ext_shapeHSM_HsmPsfMoments"
        measurement.plugins["ext_shapeHSM_HsmShapeRegauss"].deblendNChild = "deblend_nChild"
        measurement.plugins["base_Jacobian"].pixelScale = 0.2

    def validate(self) -> None:
        """Check that the background is re-estimated in a way that fits the rest."""
        super().validate()
        if not self.detection.reEstimateBackground:
            return
        if self.do_apply_flat_background_ratio and not self.detection.doApplyFlatBackgroundRatio:
            raise FieldValidationError(
                ReprocessVisitImageConfig.detection,
                self,
                "detection.doApplyFlatBackgroundRatio must be set when do_apply_flat_background_ratio and "
                "detection.reEstimateBackground are.",
            )
        if self.remove_initial_photo_calib:
            raise FieldValidationError(
                ReprocessVisitImageConfig.detection,
                self,
                "detection.reEstimateBackground cannot go with remove_initial_photo_calib: the input "
                "background would be in calibrated units and its update in instrumental ones.",
            )
