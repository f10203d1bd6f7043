"""The final pass over a visit image: apply final calibrations, detect, deblend, measure, publish in nJy."""

from __future__ import annotations

__all__ = (
    "EXTRA_PLUGINS",
    "POST_PLUGINS",
    "ReprocessVisitImageConfig",
    "ReprocessVisitImageConnections",
    "ReprocessVisitImageTask",
)

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import astropy.table
import astropy.units as u
import numpy as np
from lsst.images import BackgroundMap, Image, Mask, ObservationSummaryStats, SkyProjection, VisitImage
from lsst.images.fields import BaseField
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

from ..background.fields import combine_backgrounds, sky_level, with_unit
from ..catalog.ids import IdGenerator
from ..catalog.photo_calib import PhotoCalib
from ..catalog.provenance import record_provenance
from ..catalog.schema import Schema, minimal_source_schema
from ..catalog.source_catalog import SourceCatalog
from ..catalog.visit_image import replace_components, visit_of
from ..deblend.task import SourceDeblendTask
from ..detection.sky_objects import SkyObjectsTask
from ..detection.task import SourceDetectionTask
from ..measurement.task import SingleFrameMeasurementTask
from ..photometry.apply_ap_corr import ApplyApCorrTask
from ..photometry.calibrate import calibrate_catalog, calibrate_image
from ..photometry.catalog_calculation import CatalogCalculationTask
from ..photometry.normalized_calibration_flux import NormalizedCalibrationFluxTask
from ..photometry.primary_flags import SetPrimaryFlagsTask
from ..photometry.restore import Flattening, subtract_background, unrestorable_pixels
from ..photometry.summary_stats import ComputeExposureSummaryStatsTask
from ..repair.snap_combine import SnapCombineTask
from ..repair.task import RepairTask
from . import _reprocess_inputs as checks
from ._calib_stars import (
    OTHER_CALIB_FLAGS,
    PSF_FLAGS,
    check_calib_sources,
    flag_calib_sources,
    read_calib_sources,
)
from ._reprocess_config import (
    EXTRA_PLUGINS,
    POST_PLUGINS,
    ReprocessVisitImageConfig,
    ReprocessVisitImageConnections,
)
from ._reprocess_failure import failure_metadata, without_failure
from ._reprocess_pixels import copy_mask_planes, mark_unknown_ratio

type ReplacedPixels = Callable[[VisitImage, BackgroundMap], astropy.table.Table]
"""Lists the pixels of an image whose counts cannot be computed from it and its background."""


class ReprocessVisitImageTask(PipelineTask):
    """Produce the published image and source table of one detector from its final calibrations.

    Also runs without a repository: ``ReprocessVisitImageTask(config=config).run(exposures=[image], ...)``.

    Parameters
    ----------
    initInputs
        Unused; the task needs nothing to be constructed.
    schema
        Columns to start from, extended in place; those of `minimal_source_schema` by default.
    """

    ConfigClass: ClassVar[type[PipelineTaskConfig]] = ReprocessVisitImageConfig
    _DefaultName: ClassVar[str] = "reprocessVisitImage"
    config: ReprocessVisitImageConfig
    snap_combine: SnapCombineTask
    repair: RepairTask
    detection: SourceDetectionTask
    sky_sources: SkyObjectsTask
    deblend: SourceDeblendTask
    measurement: SingleFrameMeasurementTask
    normalized_calibration_flux: NormalizedCalibrationFluxTask
    apply_aperture_correction: ApplyApCorrTask
    catalog_calculation: CatalogCalculationTask
    set_primary_flags: SetPrimaryFlagsTask
    post_calculations: SingleFrameMeasurementTask
    compute_summary_stats: ComputeExposureSummaryStatsTask

    def __init__(
        self, *, initInputs: dict[str, Any] | None = None, schema: Schema | None = None, **kwargs: Any
    ) -> None:
        super().__init__(initInputs=initInputs, **kwargs)
        self.schema = minimal_source_schema() if schema is None else schema
        self.makeSubtask("snap_combine")
        self.makeSubtask("repair")
        # The order matters: later subtasks look for columns of earlier ones.
        for name in (
            "detection", "sky_sources", "deblend", "measurement", "normalized_calibration_flux",
            "apply_aperture_correction", "catalog_calculation", "set_primary_flags", "post_calculations",
        ):  # fmt: skip
            self.makeSubtask(name, schema=self.schema)
        self.makeSubtask("compute_summary_stats")
        self.schema.add("visit", np.int64, "visit id")
        self.schema.add("detector", np.uint16, "detector id")
        for name, doc in PSF_FLAGS.items():
            self.schema.add_flag(name, doc)
        for name in OTHER_CALIB_FLAGS:
            self.schema.add_flag(name, "never set: this pass does not fit photometry or astrometry")
        self.sources_schema = calibrate_catalog(SourceCatalog(self.schema), PhotoCalib(1.0))

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the inputs, run, and write the outputs, as far as there are any after an `AlgorithmError`.

        Raises
        ------
        lsst.pipe.base.UpstreamFailureNoWorkFound
            Raised if a final calibration of the detector is missing.
        lsst.pipe.base.AnnotatedPartialOutputsError
            Raised if the processing failed and only a part of the outputs, or none, was written.
        """
        inputs = butlerQC.get(inputRefs)
        data_id = outputRefs.exposure.dataId
        visit, detector = int(data_id["visit"]), int(data_id["detector"])
        # Both are of a whole visit, of which little is needed: one record, and a few of hundreds of columns.
        summary = checks.read_summary(inputs.pop("visit_summary"), detector)
        calibrations = checks.final_calibrations(summary, visit=visit, detector=detector)
        background = inputs.pop("background_1")
        if (extra := inputs.pop("background_2", None)) is not None:
            background = combine_backgrounds(background, extra)
        # The first snap lends the sum its metadata, so their order must not be that of the query.
        exposures = sorted(inputs.pop("exposures"), key=lambda image: image.obs_info.exposure_id or 0)
        arguments = {
            name: inputs.pop(name, None)
            for name in ("preliminary_mask", "initial_photo_calib", "background_to_photometric_ratio")
        }
        calib_sources = read_calib_sources(inputs.pop("calib_sources"))
        assert not inputs, f"inputs that nothing uses: {', '.join(inputs)}"
        names = ("exposure", "sources", "sources_footprints", "background", "replaced_pixels")
        result = Struct(**dict.fromkeys(names))
        failure: AlgorithmError | None = None
        try:
            self.run(
                exposures=exposures,
                background=background,
                calib_sources=calib_sources,
                id_generator=self.config.id_generator.apply(data_id),
                visit=visit,
                result=result,
                psf=calibrations.psf,
                wcs=calibrations.wcs,
                ap_corr=calibrations.ap_corr,
                photo_calib=calibrations.photo_calib,
                **arguments,
            )
        except AlgorithmError as error:
            failure = error
        record_provenance(self, result, inputs=inputRefs, calibration_sources=calibrations.sources)
        butlerQC.put(result, outputRefs)
        if failure is not None:
            raise AnnotatedPartialOutputsError.annotate(failure, self, log=self.log) from failure

    def run(
        self,
        *,
        exposures: VisitImage | Sequence[VisitImage],
        psf: PointSpreadFunction,
        background: BackgroundMap,
        ap_corr: Mapping[str, BaseField],
        photo_calib: PhotoCalib,
        wcs: SkyProjection[Any],
        calib_sources: astropy.table.Table,
        initial_photo_calib: PhotoCalib | None = None,
        preliminary_mask: Mask | None = None,
        id_generator: IdGenerator | None = None,
        background_to_photometric_ratio: Image | None = None,
        visit: int | None = None,
        result: Struct | None = None,
    ) -> Struct:
        """Process one detector.

        Parameters
        ----------
        exposures
            Post-ISR image in counts, or its two snaps; the pixels of a single image are changed in place.
        psf, ap_corr, photo_calib, wcs
            Final calibrations.
        background
            What to subtract, in counts; in nJy if ``remove_initial_photo_calib`` is set.
        calib_sources
            Stars with ``detector``, ``coord_ra``, ``coord_dec`` (radians unless they have another unit) and
            the flags ``calib_psf_candidate``, ``calib_psf_used`` and ``calib_psf_reserved``.
        initial_photo_calib
            Calibration that the background was fitted with; needed if ``remove_initial_photo_calib`` is set.
        preliminary_mask
            Mask to copy ``copyMaskPlanes`` from.
        id_generator
            Makes the ids of the rows, and the seeds of everything random; by default ids are 1, 2, 3...
        background_to_photometric_ratio
            Background flat over photometric flat; needed if ``do_apply_flat_background_ratio`` is set.
        visit
            Visit id; by default that of the observation info.
        result
            Receives the outputs: all of them on success; after an `AlgorithmError` image and background, if
            the background was subtracted; nothing after any other error.

        Returns
        -------
        struct
            ``exposure`` (nJy), ``sources`` (table), ``sources_footprints`` (the same as a `SourceCatalog`),
            ``background`` and, with ``do_write_replaced_pixels``, ``replaced_pixels`` (table).

        Raises
        ------
        ValueError
            Raised if an input is missing or does not fit the image, as its message says.
        OverflowError
            Raised if there are more sources than ``id_generator`` has ids.
        lsst.pipe.base.AlgorithmError
            Raised by subtasks if the image cannot be processed.
        """
        result = Struct() if result is None else result
        id_generator = id_generator or IdGenerator()
        exposure = self.snap_combine.run(exposures)
        where = checks.image_name(exposure)
        checks.check_image(where, exposure)
        bbox = exposure.bbox
        checks.check_calibrations(where, exposure, psf=psf, ap_corr=ap_corr, photo_calib=photo_calib, wcs=wcs)
        checks.check_preliminary_mask(where, preliminary_mask, bbox)
        checks.check_id_generator(where, id_generator)
        check_calib_sources(where, calib_sources)
        steps = checks.flattening(
            where,
            exposure,
            self.config,
            initial_photo_calib=initial_photo_calib,
            background_to_photometric_ratio=background_to_photometric_ratio,
        )
        ratio, initial = steps["background_to_photometric_ratio"], steps["initial_photo_calib"]
        unit = exposure.unit if initial is None else u.nJy
        checks.check_background(where, background, bbox, unit=unit)
        background = with_unit(background, unit)
        copy_mask_planes(exposure, preliminary_mask, self.config.copyMaskPlanes)
        replaced_pixels = self._subtract_background(exposure, background, steps)
        exposure = replace_components(
            exposure,
            psf=psf,
            aperture_corrections=dict(ap_corr),
            sky_projection=wcs,
            photometric_scaling=photo_calib.to_field(bbox, exposure.unit),
            summary_stats=None,
            metadata=without_failure(exposure.metadata),
        )
        sources: SourceCatalog | None = None
        try:
            detected, background = self._detect(exposure, background, ratio, id_generator)
            measured = self._measure(exposure, detected, id_generator)
            measured["visit"] = visit_of(exposure) if visit is None else visit
            measured["detector"] = exposure.detector.id
            self._match_calib_sources(exposure, measured, calib_sources)
            sources = measured
            self.post_calculations.run(sources, exposure, photo_calib=photo_calib)
            stats = self.compute_summary_stats.run(
                exposure, sources, _sky_counts(background, initial), photo_calib=photo_calib
            )
            catalog = calibrate_catalog(sources, photo_calib)
        except AlgorithmError as error:
            level = _sky_counts(background, initial)
            exposure = self._mark_failed(exposure, sources, level, photo_calib, error)
            self._publish(result, exposure, photo_calib, background, replaced_pixels)
            raise
        except OverflowError as error:
            raise OverflowError(f"{where}: {error}") from error
        # Heavy footprints keep the units that the fluxes of a deblended child can be re-measured in.
        catalog.metadata["heavy_footprint_unit"] = str(exposure.unit)
        exposure = replace_components(exposure, summary_stats=stats)
        self._publish(result, exposure, photo_calib, background, replaced_pixels, catalog)
        return result

    # Steps ------------------------------------------------------------------------------------------------

    def _subtract_background(
        self, exposure: VisitImage, background: BackgroundMap, steps: Flattening
    ) -> ReplacedPixels | None:
        """Subtract the background and flatten for sources, in place; return what lists replaced pixels."""
        ratio = steps.get("background_to_photometric_ratio")
        if ratio is not None and (n_bad := mark_unknown_ratio(exposure, ratio)):
            where = checks.image_name(exposure)
            self.log.warning("%s: %d pixels without a usable flat ratio get NO_DATA.", where, n_bad)
        replaced_pixels: ReplacedPixels | None = None
        if self.config.do_write_replaced_pixels:
            replaced_pixels = functools.partial(unrestorable_pixels, exposure.image.array.copy(), **steps)
        subtract_background(exposure, background, **steps)
        return replaced_pixels

    def _detect(
        self, exposure: VisitImage, background: BackgroundMap, ratio: Image | None, id_generator: IdGenerator
    ) -> tuple[SourceCatalog, BackgroundMap]:
        """Repair the image and detect; return the sources and all that has been subtracted."""
        self.repair.run(exposure)
        detected = self.detection.run(
            exposure,
            background=background,
            background_to_photometric_ratio=ratio,
            id_generator=id_generator,
        )
        return detected.sources, background if detected.background is None else detected.background

    def _measure(
        self, exposure: VisitImage, detected: SourceCatalog, id_generator: IdGenerator
    ) -> SourceCatalog:
        """Return what was detected, and sky sources and children, all measured."""
        seed = id_generator.catalog_id
        sources = self.sky_sources.run(exposure.mask, seed, detected, id_generator=id_generator)
        sources = self.deblend.run(exposure, sources, id_generator=id_generator)
        checks.check_ids(checks.image_name(exposure), sources["id"])
        # Without ids of its own, an image has noise that belongs to its visit and detector.
        self.measurement.run(sources, exposure, seed=seed or None)
        self.normalized_calibration_flux.run(exposure, sources)
        self.apply_aperture_correction.run(sources, exposure.aperture_corrections)
        self.catalog_calculation.run(sources)
        self.set_primary_flags.run(sources)
        return sources

    def _match_calib_sources(
        self, exposure: VisitImage, sources: SourceCatalog, calib_sources: astropy.table.Table
    ) -> None:
        """Copy the PSF flags of calibration stars to the sources they are."""
        where = checks.image_name(exposure)
        match = flag_calib_sources(
            sources,
            calib_sources,
            detector=exposure.detector.id,
            radius_arcsec=self.config.calib_match_radius,
            wcs=exposure.sky_projection,
        )
        if match.n_repeated:
            self.log.warning("%s: %d rows of calibration stars repeat a star.", where, match.n_repeated)
        if not match.n_matched:
            self.log.warning("%s: no source is one of %d calibration stars.", where, match.n_stars)
        self.log.info("Matched %d of %d calibration stars.", match.n_matched, match.n_stars)

    def _mark_failed(
        self,
        exposure: VisitImage,
        sources: SourceCatalog | None,
        level: float,
        photo_calib: PhotoCalib,
        error: AlgorithmError,
    ) -> VisitImage:
        """Return the image with the summary statistics that are known and the failure in its metadata."""
        stats: ObservationSummaryStats | None = None
        try:
            stats = self.compute_summary_stats.run(exposure, sources, level, photo_calib=photo_calib)
        except AlgorithmError as another:
            self.log.warning("%s has no summary statistics: %s", checks.image_name(exposure), another)
        metadata = dict(exposure.metadata) | failure_metadata(error)
        return replace_components(exposure, summary_stats=stats, metadata=metadata)

    def _publish(
        self,
        result: Struct,
        exposure: VisitImage,
        photo_calib: PhotoCalib,
        background: BackgroundMap,
        replaced_pixels: ReplacedPixels | None,
        catalog: SourceCatalog | None = None,
    ) -> None:
        """Fill the outputs, all together and last: what cannot be completed is not published."""
        image = calibrate_image(exposure, photo_calib)
        outputs: dict[str, Any] = {"exposure": image, "background": background}
        if replaced_pixels is not None:
            outputs["replaced_pixels"] = replaced_pixels(image, background)
        if catalog is not None:
            outputs |= {"sources": catalog.to_astropy(), "sources_footprints": catalog}
        record_provenance(self, outputs.values())
        for name, value in outputs.items():
            setattr(result, name, value)


def _sky_counts(background: BackgroundMap, initial_photo_calib: PhotoCalib | None) -> float:
    """Return the sky level in counts, also if the background is in the units of an initial calibration."""
    if initial_photo_calib is None:
        return sky_level(background)
    return sky_level(background, unit=u.nJy) / initial_photo_calib.mean
