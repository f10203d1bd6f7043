"""First pass over one detector: background, first PSF, detection, measurement, photometric zero point."""

from __future__ import annotations

__all__ = ("CalibrateImageConfig", "CalibrateImageConnections", "CalibrateImageTask")

from typing import Any, ClassVar

import astropy.table
import numpy as np
from lsst.images import BackgroundMap, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction, PointSpreadFunction
from lsst.pex.config import ConfigField, ConfigurableField, Field
from lsst.pipe.base import (
    AlgorithmError,
    AnnotatedPartialOutputsError,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT
from scipy.spatial import KDTree

from ..background.task import SubtractBackgroundTask
from ..catalog.ids import DetectorVisitIdGeneratorConfig, IdGenerator
from ..catalog.photo_calib import PhotoCalib
from ..catalog.schema import minimal_source_schema
from ..catalog.source_catalog import SourceCatalog
from ..catalog.visit_image import replace_components
from ..deblend.task import SourceDeblendTask
from ..detection.task import SourceDetectionTask
from ..measurement.task import SingleFrameMeasurementTask
from ..photometry.apply_ap_corr import ApplyApCorrTask
from ..photometry.catalog_calculation import CatalogCalculationTask
from ..photometry.measure_ap_corr import MeasureApCorrTask
from ..photometry.normalized_calibration_flux import NormalizedCalibrationFluxTask
from ..photometry.primary_flags import SetPrimaryFlagsTask
from ..photometry.summary_stats import ComputeExposureSummaryStatsTask
from ..photometry.photometry_task import PhotometryTask
from ..psf.measure_psf import MeasurePsfTask
from ..repair.snap_combine import SnapCombineTask
from ..repair.task import RepairTask

_PSF_FLAGS = ("calib_psf_candidate", "calib_psf_reserved", "calib_psf_used")


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


class CalibrateImageConfig(PipelineTaskConfig, pipelineConnections=CalibrateImageConnections):
    """Configuration of `CalibrateImageTask`."""

    id_generator = ConfigField[DetectorVisitIdGeneratorConfig](doc="Makes catalog and row ids.")
    use_survey_psf = Field[bool](doc="Start from the PSF that came with the image, if any?", default=True)
    install_psf_fwhm = Field[float](
        doc="FWHM in pixels of the Gaussian to start from if the image has no PSF at all.", default=4.0
    )
    snap_combine = ConfigurableField(target=SnapCombineTask, doc="Combines snaps.")
    psf_subtract_background = ConfigurableField(target=SubtractBackgroundTask, doc="First background.")
    psf_repair = ConfigurableField(target=RepairTask, doc="Finds cosmic rays before the PSF fit.")
    psf_detection = ConfigurableField(target=SourceDetectionTask, doc="Detects stars for the PSF.")
    psf_deblend = ConfigurableField(target=SourceDeblendTask, doc="Splits blends before the PSF fit.")
    psf_source_measurement = ConfigurableField(
        target=SingleFrameMeasurementTask, doc="Measures stars for the PSF."
    )
    psf_measure_psf = ConfigurableField(target=MeasurePsfTask, doc="Fits the first PSF.")
    star_repair = ConfigurableField(target=RepairTask, doc="Finds and removes cosmic rays with the PSF.")
    star_background = ConfigurableField(
        target=SubtractBackgroundTask, doc="Background again, with detected sources left out."
    )
    star_detection = ConfigurableField(target=SourceDetectionTask, doc="Detects sources.")
    star_deblend = ConfigurableField(target=SourceDeblendTask, doc="Splits blends.")
    star_measurement = ConfigurableField(target=SingleFrameMeasurementTask, doc="Measures sources.")
    star_normalized_calibration_flux = ConfigurableField(
        target=NormalizedCalibrationFluxTask, doc="Makes the flux that all others are corrected to."
    )
    measure_aperture_correction = ConfigurableField(
        target=MeasureApCorrTask, doc="Measures aperture corrections."
    )
    star_apply_aperture_correction = ConfigurableField(
        target=ApplyApCorrTask, doc="Applies aperture corrections."
    )
    star_catalog_calculation = ConfigurableField(
        target=CatalogCalculationTask, doc="Computes columns from columns."
    )
    star_set_primary_flags = ConfigurableField(target=SetPrimaryFlagsTask, doc="Tells primary sources.")
    photometry = ConfigurableField(target=PhotometryTask, doc="Finds the photometric zero point.")
    compute_summary_stats = ConfigurableField(
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
        # Stars for the PSF: footprints at 10 sigma, kept if they reach 50.
        self.psf_detection.thresholdValue = 10.0
        self.psf_detection.includeThresholdMultiplier = 5.0
        self.psf_detection.reEstimateBackground = False
        self.psf_detection.doTempLocalBackground = False
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


class CalibrateImageTask(PipelineTask):
    """Take a post-ISR image to a calibrated image and a source catalog, all from the image itself.

    Also runs without a repository: ``CalibrateImageTask(config=config).run(exposures=[image])``.

    Parameters
    ----------
    initInputs
        Unused; the task needs nothing to be constructed.
    """

    ConfigClass: ClassVar[type[CalibrateImageConfig]] = CalibrateImageConfig
    _DefaultName: ClassVar[str] = "calibrateImage"
    config: CalibrateImageConfig

    def __init__(self, *, initInputs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(initInputs=initInputs, **kwargs)
        for name in ("snap_combine", "psf_subtract_background", "psf_repair"):
            self.makeSubtask(name)
        self.psf_schema = minimal_source_schema()
        for name in ("psf_detection", "psf_deblend", "psf_source_measurement", "psf_measure_psf"):
            self.makeSubtask(name, schema=self.psf_schema)
        for name in ("star_repair", "star_background"):
            self.makeSubtask(name)
        self.schema = minimal_source_schema()
        for name in (
            "star_detection", "star_deblend", "star_measurement", "star_normalized_calibration_flux",
            "measure_aperture_correction", "star_apply_aperture_correction", "star_catalog_calculation",
            "star_set_primary_flags",
        ):  # fmt: skip
            self.makeSubtask(name, schema=self.schema)
        for name in _PSF_FLAGS:
            self.schema.add_flag(name, self.psf_schema[name].doc)
        self.makeSubtask("photometry", schema=self.schema)
        self.makeSubtask("compute_summary_stats")
        self.schema.add("visit", np.int64, "visit id")
        self.schema.add("detector", np.int32, "detector id")
        self.stars_schema = SourceCatalog(self.schema)

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read inputs, run, and write what there is, also after an `AlgorithmError`."""
        inputs = butlerQC.get(inputRefs)
        id_generator = self.config.id_generator.apply(butlerQC.quantum.dataId)
        result = Struct(
            exposure=None, background=None, stars=None, initial_photo_calib=None, mask=None
        )
        try:
            self.run(
                exposures=inputs["exposures"],
                survey_psf=inputs.get("survey_psf"),
                reference_catalog=inputs.get("reference_catalog"),
                id_generator=id_generator,
                visit=butlerQC.quantum.dataId["visit"],
                result=result,
            )
        except AlgorithmError as error:
            partial = AnnotatedPartialOutputsError.annotate(error, self, log=self.log)
            raise partial from error
        butlerQC.put(result, outputRefs)

    def run(
        self,
        *,
        exposures: list[VisitImage],
        survey_psf: PointSpreadFunction | None = None,
        reference_catalog: astropy.table.Table | None = None,
        id_generator: IdGenerator | None = None,
        visit: int | None = None,
        result: Struct | None = None,
    ) -> Struct:
        """Calibrate one detector.

        Parameters
        ----------
        exposures
            One image or two snaps; the pixels of a single image are changed in place.
        survey_psf
            PSF to start from; by default the one of the image.
        reference_catalog
            Reference stars (``ra``, ``dec`` in degrees, ``mag_<band>``); without it the zero point comes from
            the image's own photometric scaling.
        id_generator
            Makes the ids of the rows; by default they are 1, 2, 3...
        visit
            Visit id; by default that of the observation info.
        result
            Receives the outputs as they become available.

        Returns
        -------
        lsst.pipe.base.Struct
            ``exposure``, ``background``, ``stars``, ``initial_photo_calib``, ``mask``.

        Raises
        ------
        lsst.pipe.base.AlgorithmError
            Raised if there are too few stars for a PSF, or too few good pixels for a background.
        """
        result = Struct() if result is None else result
        id_generator = id_generator or IdGenerator()
        exposure = self.snap_combine.run(exposures)
        if visit is None:
            visit = exposure.obs_info.visit_id
        self._install_first_psf(exposure, survey_psf)
        background = self.psf_subtract_background.run(exposure).background
        psf_stars = self._measure_psf(exposure, id_generator, extra=f"{visit}_{exposure.detector.id}")
        self.star_repair.run(exposure)
        sources, background = self._find_sources(exposure, background, id_generator)
        sources["visit"] = visit
        sources["detector"] = exposure.detector.id
        self._transfer_psf_flags(psf_stars, sources)
        exposure = self._correct_apertures(exposure, sources)
        calib = self.photometry.run(exposure, sources, reference_catalog).photo_calib
        result.exposure = self._attach(exposure, sources, background, calib)
        result.background = background
        result.stars = sources
        result.initial_photo_calib = calib
        result.mask = result.exposure.mask.copy()
        return result

    def _install_first_psf(self, exposure: VisitImage, survey_psf: PointSpreadFunction | None) -> None:
        """Attach a PSF good enough to find stars with."""
        if survey_psf is not None and self.config.use_survey_psf:
            exposure.psf = survey_psf
        elif exposure._psf is None:
            sigma = self.config.install_psf_fwhm / (2 * np.sqrt(2 * np.log(2)))
            exposure.psf = GaussianPointSpreadFunction(
                sigma, bounds=exposure.bbox, stamp_size=2 * int(np.ceil(6 * sigma)) + 1
            )

    def _measure_psf(self, exposure: VisitImage, id_generator: IdGenerator, *, extra: str) -> SourceCatalog:
        """Find stars and fit the first PSF; return them with their flags."""
        self.psf_repair.run(exposure, keep_crs=True)
        stars = self.psf_detection.run(exposure, id_generator=id_generator).sources
        stars = self.psf_deblend.run(exposure, stars, id_generator=id_generator)
        self.psf_source_measurement.run(stars, exposure, seed=id_generator.catalog_id)
        self.psf_measure_psf.run(exposure, stars, extra=extra)
        return stars

    def _find_sources(
        self, exposure: VisitImage, background: BackgroundMap, id_generator: IdGenerator
    ) -> tuple[SourceCatalog, BackgroundMap]:
        """Detect with the PSF, improve the background around what was found, detect again, measure."""
        self.star_detection.run(exposure, id_generator=id_generator)
        background = self.star_background.run(exposure, background=background).background
        detected = self.star_detection.run(exposure, background=background, id_generator=id_generator)
        sources = self.star_deblend.run(exposure, detected.sources, id_generator=id_generator)
        self.star_measurement.run(sources, exposure, seed=id_generator.catalog_id)
        return sources, detected.background

    def _transfer_psf_flags(self, psf_stars: SourceCatalog, sources: SourceCatalog) -> None:
        """Set the PSF flags of the sources that the stars of the PSF fit became (children rather than parents)."""
        rows = np.nonzero(
            (sources["deblend_nChild"] == 0)
            & np.isfinite(sources["slot_Centroid_x"] + sources["slot_Centroid_y"])
        )[0]
        stars = np.nonzero(psf_stars["calib_psf_candidate"])[0]
        if not len(rows) or not len(stars):
            return
        positions = np.column_stack([sources["slot_Centroid_x"], sources["slot_Centroid_y"]])[rows]
        wanted = np.column_stack([psf_stars["slot_Centroid_x"], psf_stars["slot_Centroid_y"]])[stars]
        distance, nearest = KDTree(positions).query(wanted, distance_upper_bound=self.config.psf_match_radius)
        found = np.isfinite(distance)
        for name in _PSF_FLAGS:
            sources[name][rows[nearest[found]]] = psf_stars[name][stars[found]]

    def _correct_apertures(self, exposure: VisitImage, sources: SourceCatalog) -> VisitImage:
        """Measure aperture corrections on the stars, apply them, and attach them to the image."""
        corrections = dict(self.star_normalized_calibration_flux.run(exposure, sources).ap_corr_map)
        corrections |= self.measure_aperture_correction.run(exposure.bbox, sources).ap_corr_map
        self.star_apply_aperture_correction.run(sources, corrections)
        self.star_catalog_calculation.run(sources)
        self.star_set_primary_flags.run(sources)
        return replace_components(exposure, aperture_corrections=corrections)

    def _attach(
        self, exposure: VisitImage, sources: SourceCatalog, background: BackgroundMap, calib: PhotoCalib
    ) -> VisitImage:
        """Return the image with its calibration, background and summary statistics."""
        exposure = replace_components(
            exposure, photometric_scaling=calib.to_field(exposure.bbox, exposure.unit), backgrounds=background
        )
        stats = self.compute_summary_stats.run(exposure, sources, background)
        return replace_components(exposure, summary_stats=stats)
