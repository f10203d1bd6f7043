"""First pass over one detector: background, first PSF, detection, measurement, photometric zero point."""

from __future__ import annotations

__all__ = ("CalibrateImageConfig", "CalibrateImageConnections", "CalibrateImageTask")

from collections.abc import Sequence
from typing import Any, ClassVar

import astropy.table
import numpy as np
from lsst.images import BackgroundMap, VisitImage
from lsst.images.psfs import PointSpreadFunction
from lsst.pipe.base import (
    AlgorithmError,
    AnnotatedPartialOutputsError,
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    QuantumContext,
    Struct,
)
from scipy.spatial import KDTree

from ..background.task import SubtractBackgroundTask
from ..catalog.ids import IdGenerator
from ..catalog.mask_planes import plane_name
from ..catalog.photo_calib import PhotoCalib
from ..catalog.provenance import record_provenance
from ..catalog.schema import minimal_source_schema
from ..catalog.source_catalog import SourceCatalog
from ..catalog.visit_image import replace_components, visit_of
from ..deblend.task import SourceDeblendTask
from ..detection.task import SourceDetectionTask
from ..measurement.task import SingleFrameMeasurementTask
from ..photometry.apply_ap_corr import ApplyApCorrTask
from ..photometry.calibrate import calibration_metadata
from ..photometry.catalog_calculation import CatalogCalculationTask
from ..photometry.measure_ap_corr import MeasureApCorrTask
from ..photometry.normalized_calibration_flux import NormalizedCalibrationFluxTask
from ..photometry.photometry_task import PhotometryTask
from ..photometry.primary_flags import SetPrimaryFlagsTask
from ..photometry.summary_stats import ComputeExposureSummaryStatsTask
from ..psf.measure_psf import MeasurePsfTask
from ..repair.snap_combine import SnapCombineTask
from ..repair.task import RepairTask
from ._calibrate_config import CalibrateImageConfig, CalibrateImageConnections

_PSF_FLAGS = ("calib_psf_candidate", "calib_psf_reserved", "calib_psf_used")


class CalibrateImageTask(PipelineTask):
    """Take a post-ISR image to a calibrated image and a source catalog, all from the image itself.

    Also runs without a repository: ``CalibrateImageTask(config=config).run(exposures=[image])``.

    Parameters
    ----------
    initInputs
        Unused; the task needs nothing to be constructed.
    """

    ConfigClass: ClassVar[type[PipelineTaskConfig]] = CalibrateImageConfig
    _DefaultName: ClassVar[str] = "calibrateImage"
    config: CalibrateImageConfig
    snap_combine: SnapCombineTask
    psf_subtract_background: SubtractBackgroundTask
    psf_repair: RepairTask
    psf_detection: SourceDetectionTask
    psf_deblend: SourceDeblendTask
    psf_source_measurement: SingleFrameMeasurementTask
    psf_measure_psf: MeasurePsfTask
    star_repair: RepairTask
    star_background: SubtractBackgroundTask
    star_detection: SourceDetectionTask
    star_deblend: SourceDeblendTask
    star_measurement: SingleFrameMeasurementTask
    star_normalized_calibration_flux: NormalizedCalibrationFluxTask
    measure_aperture_correction: MeasureApCorrTask
    star_apply_aperture_correction: ApplyApCorrTask
    star_catalog_calculation: CatalogCalculationTask
    star_set_primary_flags: SetPrimaryFlagsTask
    photometry: PhotometryTask
    compute_summary_stats: ComputeExposureSummaryStatsTask

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

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read inputs, run, and write the outputs; after an `AlgorithmError` there are none.

        Raises
        ------
        lsst.pipe.base.AnnotatedPartialOutputsError
            Raised if the image cannot be calibrated; the reason is in the metadata of the task.
        """
        inputs = butlerQC.get(inputRefs)
        data_id = outputRefs.exposure.dataId
        try:
            result = self.run(
                exposures=inputs["exposures"],
                survey_psf=inputs.get("survey_psf"),
                reference_catalog=inputs.get("reference_catalog"),
                id_generator=self.config.id_generator.apply(data_id),
                visit=int(data_id["visit"]),
            )
        except AlgorithmError as error:
            partial = AnnotatedPartialOutputsError.annotate(error, self, log=self.log)
            raise partial from error
        record_provenance(self, result, inputs=inputRefs)
        butlerQC.put(result, outputRefs)

    def run(
        self,
        *,
        exposures: VisitImage | Sequence[VisitImage],
        survey_psf: PointSpreadFunction | None = None,
        reference_catalog: astropy.table.Table | None = None,
        id_generator: IdGenerator | None = None,
        visit: int | None = None,
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

        Returns
        -------
        lsst.pipe.base.Struct
            ``exposure``, ``background``, ``stars``, ``initial_photo_calib``, ``mask``.

        Raises
        ------
        lsst.pipe.base.AlgorithmError
            Raised if there are too few stars for a PSF, or too few good pixels for a background.
        """
        id_generator = id_generator or IdGenerator()
        exposure = self.snap_combine.run(exposures)
        visit = visit_of(exposure) if visit is None else visit
        if survey_psf is not None and self.config.use_survey_psf:
            exposure.psf = survey_psf
        background = self.psf_subtract_background.run(exposure).background
        psf_stars, background = self._measure_psf(
            exposure, background, id_generator, extra=f"{visit}_{exposure.detector.id}"
        )
        self.star_repair.run(exposure)
        sources, background = self._find_sources(exposure, background, id_generator)
        sources["visit"] = visit
        sources["detector"] = exposure.detector.id
        self._transfer_psf_flags(psf_stars, sources)
        exposure = self._correct_apertures(exposure, sources)
        calib = self.photometry.run(exposure, sources, reference_catalog).photo_calib
        exposure = self._attach(exposure, sources, background, calib)
        result = Struct(
            exposure=exposure,
            background=background,
            stars=sources,
            initial_photo_calib=calib,
            mask=exposure.mask.copy(),
        )
        record_provenance(self, result)
        return result

    def _measure_psf(
        self, exposure: VisitImage, background: BackgroundMap, id_generator: IdGenerator, *, extra: str
    ) -> tuple[SourceCatalog, BackgroundMap]:
        """Find stars and fit the first PSF; return them with their flags, and all that was subtracted."""
        self.psf_repair.run(exposure, keep_crs=True)
        detected = self.psf_detection.run(exposure, background=background, id_generator=id_generator)
        stars = self.psf_deblend.run(exposure, detected.sources, id_generator=id_generator)
        self.psf_source_measurement.run(stars, exposure, seed=id_generator.catalog_id or None)
        self.psf_measure_psf.run(exposure, stars, extra=extra)
        return stars, detected.background

    def _find_sources(
        self, exposure: VisitImage, background: BackgroundMap, id_generator: IdGenerator
    ) -> tuple[SourceCatalog, BackgroundMap]:
        """Detect with the PSF, improve the background around what was found, detect again, measure."""
        first = self.star_detection.run(exposure, background=background, id_generator=id_generator)
        background = self.star_background.run(exposure, background=first.background).background
        detected = self.star_detection.run(exposure, background=background, id_generator=id_generator)
        self._forget_blends(exposure)
        sources = self.star_deblend.run(exposure, detected.sources, id_generator=id_generator)
        self.star_measurement.run(sources, exposure, seed=id_generator.catalog_id or None)
        return sources, detected.background

    def _forget_blends(self, exposure: VisitImage) -> None:
        """Clear what the search for PSF stars marked as blends: the footprints were others."""
        plane = plane_name(self.config.psf_deblend.notDeblendedMask or "")
        if plane in exposure.mask.schema.names:
            exposure.mask.clear(plane)

    def _transfer_psf_flags(self, psf_stars: SourceCatalog, sources: SourceCatalog) -> None:
        """Set the PSF flags of the sources that the stars of the fit became; never those of a split blend."""
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
            exposure,
            photometric_scaling=calib.to_field(exposure.bbox, exposure.unit),
            backgrounds=background,
            metadata=dict(exposure.metadata) | calibration_metadata(calib, exposure.unit),
        )
        stats = self.compute_summary_stats.run(exposure, sources, background)
        return replace_components(exposure, summary_stats=stats)
