"""Connections and configuration of the first pass over one detector."""

from __future__ import annotations

__all__ = ("CalibrateImageConfig", "CalibrateImageConnections")

from typing import Any

from lsst.pex.config import ConfigField, ConfigurableField, Field
from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections
from lsst.pipe.base import connectionTypes as cT

from ..background.object_masked import ObjectMaskedBackgroundTask
from ..catalog.ids import DetectorVisitIdGeneratorConfig
from ..deblend.task import SourceDeblendTask
from ..detection.task import SourceDetectionTask
from ..measurement.task import SingleFrameMeasurementTask
from ..photometry.apply_ap_corr import ApplyApCorrTask
from ..photometry.catalog_calculation import CatalogCalculationTask
from ..photometry.measure_ap_corr import MeasureApCorrTask
from ..photometry.normalized_calibration_flux import NormalizedCalibrationFluxTask
from ..photometry.photometry_task import PhotometryTask
from ..photometry.primary_flags import SetPrimaryFlagsTask
from ..photometry.summary_stats import ComputeExposureSummaryStatsTask
from ..psf.measure_psf import MeasurePsfTask
from ..repair.snap_combine import SnapCombineTask
from ..repair.task import RepairTask


class CalibrateImageConnections(
    PipelineTaskConnections, dimensions=("instrument", "visit", "detector"), defaultTemplates={}
):
    """Inputs and outputs of `CalibrateImageTask`."""

    exposures = cT.Input(
        doc="One image, or the two snaps of a visit, with the instrument's signature removed.",
        name="postISRCCD",
        storageClass="VisitImage",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
    )
    survey_psf = cT.Input(
        doc="PSF model that came with the image, to start from.",
        name="survey_psf",
        storageClass="SurveyPsf",
        dimensions=("instrument", "visit", "detector"),
        minimum=0,
        deferGraphConstraint=True,
    )
    reference_catalog = cT.PrerequisiteInput(
        doc="Reference stars with magnitudes, for the photometric zero point.",
        name="photometric_refcat",
        storageClass="ArrowAstropy",
        dimensions=(),
        minimum=0,
    )
    stars_schema = cT.InitOutput(
        doc="Schema of the source catalog.", name="src_schema", storageClass="SourceSchema"
    )
    exposure = cT.Output(
        doc="Background-subtracted image with its first calibrations, in instrumental units.",
        name="calexp",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
    )
    background = cT.Output(
        doc="Background subtracted from the image, in instrumental units.",
        name="calexpBackground",
        storageClass="BackgroundMap",
        dimensions=("instrument", "visit", "detector"),
    )
    stars = cT.Output(
        doc="Sources with footprints.",
        name="src",
        storageClass="SourceCatalogV2",
        dimensions=("instrument", "visit", "detector"),
    )
    initial_photo_calib = cT.Output(
        doc="Photometric calibration from this image alone.",
        name="initial_photoCalib_detector",
        storageClass="PhotoCalibV2",
        dimensions=("instrument", "visit", "detector"),
    )
    mask = cT.Output(
        doc="Mask of the image, for later passes that copy planes from it.",
        name="preliminary_visit_mask",
        storageClass="MaskV2",
        dimensions=("instrument", "visit", "detector"),
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is not None and not config.use_survey_psf:
            del self.survey_psf


class CalibrateImageConfig(PipelineTaskConfig, pipelineConnections=CalibrateImageConnections):
    """Configuration of `CalibrateImageTask`."""

    id_generator = ConfigField[DetectorVisitIdGeneratorConfig](doc="Makes catalog and row ids.")
    use_survey_psf = Field[bool](doc="Start from the PSF that came with the image, if any?", default=True)
    snap_combine: ConfigurableField[Any] = ConfigurableField(target=SnapCombineTask, doc="Combines snaps.")
    psf_subtract_background: ConfigurableField[Any] = ConfigurableField(
        target=ObjectMaskedBackgroundTask, doc="First background."
    )
    psf_repair: ConfigurableField[Any] = ConfigurableField(
        target=RepairTask, doc="Finds cosmic rays before the PSF fit."
    )
    psf_detection: ConfigurableField[Any] = ConfigurableField(
        target=SourceDetectionTask, doc="Detects stars for the PSF."
    )
    psf_deblend: ConfigurableField[Any] = ConfigurableField(
        target=SourceDeblendTask, doc="Splits blends before the PSF fit."
    )
    psf_source_measurement: ConfigurableField[Any] = ConfigurableField(
        target=SingleFrameMeasurementTask, doc="Measures stars for the PSF."
    )
    psf_measure_psf: ConfigurableField[Any] = ConfigurableField(
        target=MeasurePsfTask, doc="Fits the first PSF."
    )
    star_repair: ConfigurableField[Any] = ConfigurableField(
        target=RepairTask, doc="Finds and removes cosmic rays with the PSF."
    )
    star_background: ConfigurableField[Any] = ConfigurableField(
        target=ObjectMaskedBackgroundTask, doc="Background again, without cosmic rays; replaces the first."
    )
    star_detection: ConfigurableField[Any] = ConfigurableField(
        target=SourceDetectionTask, doc="Detects sources."
    )
    star_deblend: ConfigurableField[Any] = ConfigurableField(target=SourceDeblendTask, doc="Splits blends.")
    star_measurement: ConfigurableField[Any] = ConfigurableField(
        target=SingleFrameMeasurementTask, doc="Measures sources."
    )
    star_normalized_calibration_flux: ConfigurableField[Any] = ConfigurableField(
        target=NormalizedCalibrationFluxTask, doc="Makes the flux that all others are corrected to."
    )
    measure_aperture_correction: ConfigurableField[Any] = ConfigurableField(
        target=MeasureApCorrTask, doc="Measures aperture corrections."
    )
    star_apply_aperture_correction: ConfigurableField[Any] = ConfigurableField(
        target=ApplyApCorrTask, doc="Applies aperture corrections."
    )
    star_catalog_calculation: ConfigurableField[Any] = ConfigurableField(
        target=CatalogCalculationTask, doc="Computes columns from columns."
    )
    star_set_primary_flags: ConfigurableField[Any] = ConfigurableField(
        target=SetPrimaryFlagsTask, doc="Tells primary sources."
    )
    photometry: ConfigurableField[Any] = ConfigurableField(
        target=PhotometryTask, doc="Finds the photometric zero point."
    )
    compute_summary_stats: ConfigurableField[Any] = ConfigurableField(
        target=ComputeExposureSummaryStatsTask, doc="Computes summary statistics."
    )
    psf_match_radius = Field[float](
        doc="Largest distance in pixels between a PSF star and the source it became.", default=3.0
    )

    def setDefaults(self) -> None:
        """Set the defaults of the subtasks for a first pass."""
        super().setDefaults()
        for background in (self.psf_subtract_background, self.star_background):
            background.useApprox = False
            # Images of any telescope come here, also those that mark dead pixels with NaN alone.
            background.isNanSafe = True
            # For photometry the light of objects too faint to be found is sky: it is under every aperture.
            background.doFaintLight = False
        # Stars for the PSF: footprints at 10 sigma, kept if they reach 50.
        self.psf_detection.thresholdValue = 10.0
        self.psf_detection.includeThresholdMultiplier = 5.0
        self.psf_detection.reEstimateBackground = False
        self.psf_detection.doTempLocalBackground = False
        for measurement in (self.psf_source_measurement, self.star_measurement):
            measurement.plugins["base_CircularApertureFlux"].maxSincRadius = 12.0
            # Later passes choose stars by this flux over its error, with limits made for a given shape.
            measurement.plugins["base_GaussianFlux"].marginalizeShape = False
        self.star_measurement.plugins.names |= [
            "ext_shapeHSM_HsmSourceMoments", "ext_shapeHSM_HsmPsfMoments", "base_Jacobian", "base_FPPosition",
        ]  # fmt: skip
        self.star_measurement.slots.shape = "ext_shapeHSM_HsmSourceMoments"
        self.star_measurement.slots.psfShape = "ext_shapeHSM_HsmPsfMoments"
        self.psf_source_measurement.plugins.names = [
            "base_PixelFlags", "base_SdssCentroid", "base_SdssShape", "base_GaussianFlux", "base_PsfFlux",
            "base_CircularApertureFlux",
        ]  # fmt: skip
        self.psf_measure_psf.starSelector["objectSize"].signalToNoiseMin = 50.0
        self.psf_measure_psf.starSelector["objectSize"].badFlags.append("base_PixelFlags_flag_saturated")
        # The last pass fits again, with many more constraints; here a plane is enough.
        self.psf_measure_psf.psfDeterminer["piff"].spatialOrder = 1
        self.star_detection.reEstimateBackground = False
        self.star_detection.doTempLocalBackground = False
        self.measure_aperture_correction.sourceSelector["science"].doUnresolved = True
        self.star_normalized_calibration_flux.do_measure_ap_corr = True
