"""The final pass over a visit image: apply final calibrations, detect, deblend, measure, publish in nJy."""

from __future__ import annotations

__all__ = (
    "EXTRA_PLUGINS",
    "POST_PLUGINS",
    "ReprocessVisitImageConfig",
    "ReprocessVisitImageConnections",
    "ReprocessVisitImageTask",
)

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import astropy.table
import astropy.units as u
import numpy as np
from lsst.images import BackgroundMap, Image, Mask, SkyProjection, VisitImage
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
    UpstreamFailureNoWorkFound,
)

from ..background.fields import background_flat_context, combine_backgrounds, render_background, sky_level
from ..catalog.ids import IdGenerator
from ..catalog.mask_planes import ensure_planes, mask_of, plane_name
from ..catalog.photo_calib import PhotoCalib
from ..catalog.schema import minimal_source_schema
from ..catalog.source_catalog import SourceCatalog
from ..catalog.visit_image import replace_components, visit_of
from ..catalog.visit_summary import DetectorSummary
from ..deblend.task import SourceDeblendTask
from ..detection.sky_objects import SkyObjectsTask
from ..detection.task import SourceDetectionTask
from ..measurement.task import SingleFrameMeasurementTask
from ..photometry.apply_ap_corr import ApplyApCorrTask
from ..photometry.calibrate import calibrate_catalog, calibrate_image
from ..photometry.catalog_calculation import CatalogCalculationTask
from ..photometry.normalized_calibration_flux import NormalizedCalibrationFluxTask
from ..photometry.primary_flags import SetPrimaryFlagsTask
from ..photometry.summary_stats import ComputeExposureSummaryStatsTask
from ..repair.snap_combine import SnapCombineTask
from ..repair.task import RepairTask
from ..sky.matching import match_nearest
from ._reprocess_config import (
    EXTRA_PLUGINS,
    POST_PLUGINS,
    ReprocessVisitImageConfig,
    ReprocessVisitImageConnections,
)

_PSF_FLAGS = {
    "calib_psf_candidate": "candidate for the PSF fit",
    "calib_psf_reserved": "kept out of the PSF fit to test it",
    "calib_psf_used": "used in the PSF fit",
}
_OTHER_CALIB_FLAGS = (
    "calib_photometry_used",
    "calib_photometry_reserved",
    "calib_astrometry_used",
    "calib_astrometry_reserved",
)


class ReprocessVisitImageTask(PipelineTask):
    """Produce the published image and source table of one detector from its final calibrations.

    Also runs without a repository: ``ReprocessVisitImageTask(config=config).run(exposures=[image], ...)``.

    Parameters
    ----------
    initInputs
        Unused; the task needs nothing to be constructed.
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

    def __init__(self, *, initInputs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(initInputs=initInputs, **kwargs)
        self.schema = minimal_source_schema()
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
        for name, doc in _PSF_FLAGS.items():
            self.schema.add_flag(name, doc)
        for name in _OTHER_CALIB_FLAGS:
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
            Raised if the processing failed and only a part of the outputs was written.
        """
        inputs = butlerQC.get(inputRefs)
        data_id = outputRefs.exposure.dataId
        visit, detector = int(data_id["visit"]), int(data_id["detector"])
        record = inputs.pop("visit_summary").find(detector)
        calibrations = _final_calibrations(record, visit=visit, detector=detector)
        background = inputs.pop("background_1")
        if (extra := inputs.pop("background_2", None)) is not None:
            background = combine_backgrounds(background, extra)
        result = Struct(exposure=None, sources=None, sources_footprints=None, background=None)
        try:
            self.run(
                exposures=inputs.pop("exposures"),
                preliminary_mask=inputs.pop("preliminary_mask"),
                initial_photo_calib=inputs.pop("initial_photo_calib", None),
                psf=calibrations.psf,
                background=background,
                ap_corr=calibrations.ap_corr,
                photo_calib=calibrations.photo_calib,
                wcs=calibrations.wcs,
                calib_sources=inputs.pop("calib_sources"),
                id_generator=self.config.id_generator.apply(data_id),
                background_to_photometric_ratio=inputs.pop("background_to_photometric_ratio", None),
                visit=visit,
                result=result,
            )
        except AlgorithmError as error:
            failure = AnnotatedPartialOutputsError.annotate(error, self, log=self.log)
            butlerQC.put(_partial_outputs(result, calibrations.photo_calib, error), outputRefs)
            raise failure from error
        butlerQC.put(result, outputRefs)

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
            Receives the outputs as they become available.

        Returns
        -------
        struct
            ``exposure`` (nJy), ``sources`` (table), ``sources_footprints`` (the same as a `SourceCatalog`)
            and ``background``.

        Raises
        ------
        ValueError
            Raised if a calibration, an input that the configuration needs or a column of ``calib_sources`` is
            missing, or the image is calibrated already.
        lsst.pipe.base.AlgorithmError
            Raised by subtasks if the image cannot be processed.
        """
        result = Struct() if result is None else result
        id_generator = id_generator or IdGenerator()
        self._check_inputs(initial_photo_calib, background_to_photometric_ratio)
        exposure = self.snap_combine.run(exposures)
        _check_calibrations(_name(exposure), psf=psf, ap_corr=ap_corr, photo_calib=photo_calib, wcs=wcs)
        _check_calib_sources(_name(exposure), calib_sources)
        if exposure.unit.is_equivalent(u.nJy):
            raise ValueError(f"{_name(exposure)}: the unit is {exposure.unit}; expected an image in counts.")
        self._copy_mask_planes(exposure, preliminary_mask)
        ratio = background_to_photometric_ratio if self.config.do_apply_flat_background_ratio else None
        self._subtract_background(exposure, background, ratio, initial_photo_calib)
        exposure = replace_components(
            exposure,
            psf=psf,
            aperture_corrections=dict(ap_corr),
            sky_projection=wcs,
            photometric_scaling=photo_calib.to_field(exposure.bbox, exposure.unit),
        )
        result.exposure, result.background = exposure, background
        sources, background = self._find_sources(exposure, background, ratio, id_generator)
        result.background = background
        sources["visit"] = visit_of(exposure) if visit is None else visit
        sources["detector"] = exposure.detector.id
        self._match_calib_sources(sources, calib_sources, detector=exposure.detector.id)
        self.post_calculations.run(sources, exposure, photo_calib=photo_calib)
        level = sky_level(background)
        if self.config.remove_initial_photo_calib and initial_photo_calib is not None:
            level /= initial_photo_calib.mean
        stats = self.compute_summary_stats.run(exposure, sources, level)
        catalog = calibrate_catalog(sources, photo_calib)
        # Heavy footprints keep the units that the fluxes of a deblended child can be re-measured in.
        catalog.metadata["heavy_footprint_unit"] = str(exposure.unit)
        result.exposure = calibrate_image(replace_components(exposure, summary_stats=stats), photo_calib)
        result.sources_footprints = catalog
        result.sources = catalog.to_astropy()
        return result

    def _check_inputs(self, initial_photo_calib: PhotoCalib | None, ratio: Image | None) -> None:
        """Refuse to start without what the configuration needs."""
        if self.config.remove_initial_photo_calib and initial_photo_calib is None:
            raise ValueError("remove_initial_photo_calib is set, but no initial_photo_calib was given.")
        if self.config.do_apply_flat_background_ratio and ratio is None:
            raise ValueError(
                "do_apply_flat_background_ratio is set, but no background_to_photometric_ratio was given."
            )

    def _copy_mask_planes(self, exposure: VisitImage, preliminary_mask: Mask | None) -> None:
        """Add planes of the preliminary mask to those of the image; planes it lacks are not made."""
        if preliminary_mask is None:
            return
        known = preliminary_mask.schema.names
        planes = [plane_name(p) for p in self.config.copyMaskPlanes if plane_name(p) in known]
        mask = ensure_planes(exposure.mask, planes)
        for plane in planes:
            mask.set(plane, mask_of(preliminary_mask[exposure.bbox], [plane]))
        exposure.mask = mask

    def _subtract_background(
        self,
        exposure: VisitImage,
        background: BackgroundMap,
        ratio: Image | None,
        initial_photo_calib: PhotoCalib | None,
    ) -> None:
        """Flatten the image for sources and subtract the background, in place.

        The background belongs to the image flattened for the background, after ``initial_photo_calib`` if
        that is to be removed.  Dividing the background instead of multiplying the image is the same, and
        exact also where the calibration varies over the image.
        """
        pixels = render_background(background, exposure.bbox)
        if self.config.remove_initial_photo_calib and initial_photo_calib is not None:
            pixels = pixels / initial_photo_calib.render(exposure.bbox)
        if ratio is not None:
            factor = ratio[exposure.bbox].array
            exposure.image.array[...] /= factor
            exposure.variance.array[...] /= factor**2
        with background_flat_context(exposure, ratio is not None, ratio):
            exposure.image.array[...] -= pixels

    def _find_sources(
        self,
        exposure: VisitImage,
        background: BackgroundMap,
        ratio: Image | None,
        id_generator: IdGenerator,
    ) -> tuple[SourceCatalog, BackgroundMap]:
        """Repair, detect, deblend and measure; return the sources and all that has been subtracted."""
        self.repair.run(exposure)
        detected = self.detection.run(
            exposure,
            background=background,
            background_to_photometric_ratio=ratio,
            id_generator=id_generator,
        )
        seed = id_generator.catalog_id
        sources = self.sky_sources.run(exposure.mask, seed, detected.sources, id_generator=id_generator)
        sources = self.deblend.run(exposure, sources, id_generator=id_generator)
        # Without ids of its own, an image has noise that belongs to its visit and detector.
        self.measurement.run(sources, exposure, seed=seed or None)
        self.normalized_calibration_flux.run(exposure, sources)
        self.apply_aperture_correction.run(sources, exposure.aperture_corrections)
        self.catalog_calculation.run(sources)
        self.set_primary_flags.run(sources)
        return sources, background if detected.background is None else detected.background

    def _match_calib_sources(
        self, sources: SourceCatalog, calib_sources: astropy.table.Table, *, detector: int
    ) -> None:
        """Copy the PSF flags of calibration stars to the sources without children they are nearest to.

        A star and a source match if each is the other's nearest within ``calib_match_radius``.
        """
        stars = calib_sources[np.asarray(calib_sources["detector"]) == detector]
        candidates = np.isfinite(sources["coord_ra"]) & np.isfinite(sources["coord_dec"])
        if "deblend_nChild" in sources:
            candidates &= sources["deblend_nChild"] == 0
        (rows,) = np.nonzero(candidates)
        star_ra, star_dec = _degrees(stars, "coord_ra"), _degrees(stars, "coord_dec")
        (good,) = np.nonzero(np.isfinite(star_ra) & np.isfinite(star_dec))
        if not len(good) or not len(rows):
            self.log.warning("Detector %d: no calibration stars to find among the sources.", detector)
            return
        ra, dec = np.degrees(sources["coord_ra"][rows]), np.degrees(sources["coord_dec"][rows])
        star_ra, star_dec = star_ra[good], star_dec[good]
        radius = self.config.calib_match_radius
        nearest_row = match_nearest(star_ra, star_dec, ra, dec, radius)
        nearest_star = match_nearest(ra, dec, star_ra, star_dec, radius)
        mutual = (nearest_row >= 0) & (nearest_star[nearest_row] == np.arange(len(good)))
        self.log.info("Matched %d of %d calibration stars.", int(mutual.sum()), len(stars))
        for name in _PSF_FLAGS:
            sources[name][rows[nearest_row[mutual]]] = np.asarray(stars[name], dtype=bool)[good[mutual]]


def _name(exposure: VisitImage) -> str:
    return f"Visit {visit_of(exposure)}, detector {exposure.detector.id}"


def _check_calibrations(where: str, **calibrations: Any) -> None:
    """Refuse to start without a final calibration."""
    missing = [name for name, value in calibrations.items() if value is None]
    if missing:
        raise ValueError(f"{where}: no {', '.join(missing)} given; every final calibration is needed.")


def _check_calib_sources(where: str, table: astropy.table.Table) -> None:
    """Refuse to start with a table of stars that lacks columns."""
    missing = {"detector", "coord_ra", "coord_dec", *_PSF_FLAGS} - set(table.colnames)
    if missing:
        raise ValueError(f"{where}: calib_sources lacks the columns {', '.join(sorted(missing))}.")


def _degrees(table: astropy.table.Table, name: str) -> np.ndarray:
    """Return an angle column in degrees; radians are assumed where it has no unit."""
    column = table[name]
    return np.asarray(np.asarray(column) * (column.unit or u.rad).to(u.deg), dtype=np.float64)


class _Calibrations(NamedTuple):
    """Final calibrations of a detector, none of them missing."""

    psf: PointSpreadFunction
    wcs: SkyProjection[Any]
    ap_corr: Mapping[str, BaseField]
    photo_calib: PhotoCalib


def _final_calibrations(record: DetectorSummary | None, *, visit: int, detector: int) -> _Calibrations:
    """Return the calibrations of a detector, or say which are missing."""
    reasons = ["the visit summary has no row for it"]
    if record is not None:
        psf, wcs = record.psf, record.sky_projection
        ap_corr, photo_calib = record.aperture_corrections, record.photo_calib
        if psf is not None and wcs is not None and ap_corr is not None and photo_calib is not None:
            return _Calibrations(psf, wcs, ap_corr, photo_calib)
        needed = {
            "PSF": psf,
            "WCS": wcs,
            "aperture-correction map": ap_corr,
            "photometric calibration": photo_calib,
        }
        reasons = [f"its {name} is missing" for name, value in needed.items() if value is None]
    lines = "\n".join(f"- {reason}" for reason in reasons)
    raise UpstreamFailureNoWorkFound(f"Detector {detector} of visit {visit} cannot be processed:\n{lines}")


def _partial_outputs(result: Struct, photo_calib: PhotoCalib, error: AlgorithmError) -> Struct:
    """Return what a failed run can still publish: the image in nJy, marked as failed, and its background."""
    if result.exposure is None:
        return Struct()
    exposure = result.exposure
    if not exposure.unit.is_equivalent(u.nJy):
        exposure = calibrate_image(exposure, photo_calib)
    # Metadata of an image are plain values, so the record of the failure is spread over several keys.
    exposure.metadata["failure_type"] = type(error).__qualname__
    exposure.metadata["failure_message"] = str(error)
    for name, value in (error.metadata or {}).items():
        if isinstance(value, str | bool | int | float):
            exposure.metadata[f"failure_{name}"] = value
    return Struct(exposure=exposure, background=result.background)
