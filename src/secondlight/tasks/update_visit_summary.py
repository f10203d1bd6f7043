"""Puts the final calibrations of a visit into its summary (spec reprocess 23.3, finalize 13)."""

from __future__ import annotations

__all__ = ("UpdateVisitSummaryConfig", "UpdateVisitSummaryConnections", "UpdateVisitSummaryTask")

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from astropy.table import Table
from lsst.daf.butler import DeferredDatasetHandle
from lsst.images import BackgroundMap, ObservationSummaryStats, SkyProjection, VisitImage
from lsst.pipe.base import (
    InMemoryDatasetHandle,
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    QuantumContext,
    Struct,
)

from ..background.fields import combine_backgrounds, render_background
from ..catalog.photo_calib import PhotoCalib
from ..catalog.visit_summary import DetectorSummary, VisitSummary
from ..photometry.sky_statistics import box_corners
from ..photometry.summary_stats import ComputeExposureSummaryStatsTask
from ..sky.matching import unit_vectors
from ..sky.sky_map import RingsSkyMap
from . import _update_visit_summary_checks as checks
from ._calibration_overrides import CalibrationOverrides, healpix_centers, tract_centers
from ._update_visit_summary_config import UpdateVisitSummaryConfig, UpdateVisitSummaryConnections

type Handle = DeferredDatasetHandle | InMemoryDatasetHandle
type Summaries = Mapping[int, VisitSummary | Handle]
type Backgrounds = Mapping[int, BackgroundMap | Handle]

_PIECES = {
    "psf": "PSF",
    "aperture_corrections": "aperture corrections",
    "sky_projection": "sky projection",
    "photo_calib": "photometric calibration",
}


class UpdateVisitSummaryTask(PipelineTask):
    """Replace calibrations of a visit summary by the final ones.

    What is missing for a detector becomes `None` in its record, so that later tasks skip the detector.
    """

    ConfigClass: ClassVar[type[PipelineTaskConfig]] = UpdateVisitSummaryConfig
    _DefaultName: ClassVar[str] = "updateVisitSummary"
    config: UpdateVisitSummaryConfig
    compute_summary_stats: ComputeExposureSummaryStatsTask

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.makeSubtask("compute_summary_stats")

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the inputs, run, and write the final summary.

        Raises
        ------
        ValueError
            Raised if there are tracts of several sky maps.
        """
        inputs = butlerQC.get(inputRefs)
        if "sky_map" in inputs:
            names = sorted(str(ref.dataId["skymap"]) for ref in inputRefs.sky_map)
            if len(names) != 1:
                raise ValueError(
                    f"Expected calibrations by the tracts of one sky map, found those of {names}; choose one "
                    "in the data query, like skymap = 'name'."
                )
            inputs["sky_map"] = inputs["sky_map"][0]
        for name, key in self._keys().items():
            if name in inputs:
                inputs[name] = {int(handle.dataId[key]): handle for handle in inputs[name]}
        butlerQC.put(self.run(**inputs), outputRefs)

    def _keys(self) -> dict[str, str]:
        """Return the dimension that tells the datasets of an input apart."""
        detectors = ("input_exposures", "background_originals", "background_overrides")
        keys = dict.fromkeys(detectors, "detector")
        for kind in ("wcs", "photo_calib"):
            keys[f"{kind}_overrides_tract"] = "tract"
            keys[f"{kind}_overrides_healpix"] = getattr(self.config, f"{kind}_provider")
        return keys

    def run(
        self,
        *,
        input_summary: VisitSummary,
        psf_overrides: VisitSummary,
        ap_corr_overrides: VisitSummary,
        psf_star_catalog: Table,
        input_exposures: Mapping[int, VisitImage | Handle] | None = None,
        wcs_overrides_global: VisitSummary | None = None,
        wcs_overrides_tract: Summaries | None = None,
        wcs_overrides_healpix: Summaries | None = None,
        photo_calib_overrides_global: VisitSummary | None = None,
        photo_calib_overrides_tract: Summaries | None = None,
        photo_calib_overrides_healpix: Summaries | None = None,
        sky_map: RingsSkyMap | None = None,
        background_originals: Backgrounds | None = None,
        background_overrides: Backgrounds | None = None,
    ) -> Struct:
        """Make the final summary of a visit.

        Inputs that come one by one may be given themselves or as handles to be read.

        Parameters
        ----------
        input_summary
            Summary of the first pass; left unchanged.
        psf_overrides, ap_corr_overrides
            Records with the final PSF and aperture corrections.
        psf_star_catalog
            Stars with a ``detector`` column, their measurements and the flag ``calib_psf_used``.
        input_exposures
            Images of the first pass by detector, for their masks; without one, all pixels count as good.
        wcs_overrides_global, wcs_overrides_tract, wcs_overrides_healpix
            Sky projections of the visit, by tract or by HEALPix pixel (nested), as ``wcs_provider`` wants.
        photo_calib_overrides_global, photo_calib_overrides_tract, photo_calib_overrides_healpix
            Photometric calibrations, likewise.
        sky_map
            What defines the tracts.
        background_originals, background_overrides
            What was, and what else is to be, subtracted from the images, by detector; for the provider
            "replacement".

        Returns
        -------
        struct
            ``output_summary``: the final summary.

        Raises
        ------
        ValueError
            Raised if an input belongs to another visit, instrument or filter, one that a provider needs is
            missing, or the stars lack columns.
        """
        external = {
            "wcs_overrides_global": wcs_overrides_global,
            "wcs_overrides_tract": wcs_overrides_tract,
            "wcs_overrides_healpix": wcs_overrides_healpix,
            "photo_calib_overrides_global": photo_calib_overrides_global,
            "photo_calib_overrides_tract": photo_calib_overrides_tract,
            "photo_calib_overrides_healpix": photo_calib_overrides_healpix,
        }
        wcs = self._overrides("wcs", external, input_summary, sky_map)
        photo_calib = self._overrides("photo_calib", external, input_summary, sky_map)
        self._check(input_summary, psf_overrides, ap_corr_overrides, psf_star_catalog)
        replace_background = self.config.background_provider == "replacement"
        if replace_background and (background_originals is None or background_overrides is None):
            raise ValueError(
                "background_provider is 'replacement', but background_originals or background_overrides was "
                "not given."
            )
        stars = psf_star_catalog[np.isin(psf_star_catalog["detector"], input_summary.detectors)]
        star_detector = np.asarray(stars["detector"])
        names = self.config.connections
        records = []
        for old in input_summary:
            record, position = _copy(old, f"input_summary {names.input_summary}"), _position(old)
            image = (input_exposures or {}).get(old.detector)
            if old.summary_stats is None:
                self._begin_stats(record)
            self._update_psf(record, psf_overrides, ap_corr_overrides)
            self._update_psf_stats(record, stars[star_detector == old.detector], image)
            if wcs is not None:
                self._update_wcs(record, *wcs.find(old.detector, position))
            if photo_calib is not None:
                self._update_photo_calib(record, *photo_calib.find(old.detector, position))
            if replace_background:
                backgrounds = [
                    (b or {}).get(old.detector) for b in (background_originals, background_overrides)
                ]
                self._update_background(record, backgrounds, image)
            self._update_depth(record, input_summary.band, image)
            records.append(record)
        self.compute_summary_stats.update_ellipticity_correlations(
            [_stats(record) for record in records], stars
        )
        result = VisitSummary(
            input_summary.visit,
            records,
            instrument=input_summary.instrument,
            band=input_summary.band,
            physical_filter=input_summary.physical_filter,
            comment="Final calibrations.",
        )
        return Struct(output_summary=result)

    def _check(
        self,
        summary: VisitSummary,
        psf_overrides: VisitSummary,
        ap_corr_overrides: VisitSummary,
        stars: Table,
    ) -> None:
        """Check that what the finalize step made belongs to the visit, and warn of missing detectors."""
        for name, other in (("psf_overrides", psf_overrides), ("ap_corr_overrides", ap_corr_overrides)):
            checks.check_same_visit(name, other, summary)
            checks.warn_of_detectors(self.log, name, other.detectors, summary)
        checks.check_stars(stars, self.compute_summary_stats.star_columns, summary)
        checks.warn_of_detectors(self.log, "psf_star_catalog", np.unique(stars["detector"]).tolist(), summary)

    def _overrides(
        self, kind: str, external: Mapping[str, Any], summary: VisitSummary, sky_map: RingsSkyMap | None
    ) -> CalibrationOverrides | None:
        """Return the external calibrations of a kind, or `None` if those of the input summary stay."""
        provider = getattr(self.config, f"{kind}_provider")
        if provider == "input_summary":
            return None
        family = "healpix" if provider.startswith("healpix") else provider
        name = f"{kind}_overrides_{family}"
        given = external[name]
        if given is None or (family == "tract" and sky_map is None):
            missing = name if given is None else "sky_map"
            raise ValueError(f"{kind}_provider is {provider!r}, but {missing} was not given.")
        summaries = {0: given} if family == "global" else {int(k): _read(v) for k, v in given.items()}
        for other in summaries.values():
            checks.check_same_visit(name, other, summary)
        detectors = {detector for other in summaries.values() for detector in other.detectors}
        checks.warn_of_detectors(self.log, name, detectors, summary)
        centers: dict[int, np.ndarray] = {}
        if family == "tract" and sky_map is not None:
            centers = tract_centers(sky_map, summaries)
        elif family == "healpix":
            centers = healpix_centers(int(provider.removeprefix("healpix")), summaries)
        names = self.config.connections
        return CalibrationOverrides(
            "sky_projection" if kind == "wcs" else "photo_calib",
            provider,
            getattr(names, name).format(skyWcsName=names.skyWcsName, photoCalibName=names.photoCalibName),
            summaries,
            centers,
        )

    def _begin_stats(self, record: DetectorSummary) -> None:
        """Make those statistics that the first pass left to be made, of what may stay as it is."""
        stats, task = _stats(record), self.compute_summary_stats
        task.update_exposure_time(stats, record.obs_info)
        task.update_wcs_stats(stats, record.sky_projection, record.bbox, record.obs_info)
        task.update_photo_calib_stats(stats, record.photo_calib)

    def _update_psf(
        self, record: DetectorSummary, psf_overrides: VisitSummary, ap_corr_overrides: VisitSummary
    ) -> None:
        """Replace the PSF and the aperture corrections."""
        names = self.config.connections
        psf, ap_corr = psf_overrides.find(record.detector), ap_corr_overrides.find(record.detector)
        self._put(record, "psf", psf.psf if psf else None, names.psf_overrides)
        corrections = ap_corr.aperture_corrections if ap_corr else None
        self._put(record, "aperture_corrections", corrections, names.ap_corr_overrides)
        if record.bbox is None and psf is not None:
            record.bbox = psf.bbox

    def _put(self, record: DetectorSummary, piece: str, value: Any, source: str) -> None:
        """Put a calibration into a record and note where it came from."""
        setattr(record, piece, value)
        record.calibration_sources.pop(piece, None)
        if value is None:
            self.log.warning("Detector %d has no final %s.", record.detector, _PIECES[piece])
        else:
            record.calibration_sources[piece] = source

    def _update_psf_stats(
        self, record: DetectorSummary, stars: Table, image: VisitImage | Handle | None
    ) -> None:
        """Recompute what depends on the PSF; without a PSF or a bounding box it becomes unknown."""
        if record.bbox is None:
            self.log.warning("The bounding box of detector %d is not known.", record.detector)
        mask = None if image is None or record.psf is None else _component(image, "mask")
        self.compute_summary_stats.update_psf_stats(
            _stats(record),
            record.psf,
            record.bbox,
            stars,
            mask=mask,
            ap_corr_map=record.aperture_corrections,
        )

    def _update_wcs(
        self, record: DetectorSummary, sky_projection: SkyProjection[Any] | None, source: str
    ) -> None:
        """Replace the sky projection unless it moved a corner of the detector too far."""
        old, limit = record.sky_projection, self.config.wcs_consistency_threshold
        if limit is not None and old is not None and sky_projection is not None and record.bbox is not None:
            x, y = box_corners(record.bbox)
            shifts = old.pixel_to_sky(x=x, y=y).separation(sky_projection.pixel_to_sky(x=x, y=y))
            shift = float(shifts.arcsec.max())
            if not shift <= limit:
                self.log.warning(
                    "Detector %d: a corner moved by %.2f arcsec, more than %.2f; its sky projection is "
                    "dropped.", record.detector, shift, limit,
                )  # fmt: skip
                sky_projection = None
        self._put(record, "sky_projection", sky_projection, source)
        self.compute_summary_stats.update_wcs_stats(
            _stats(record), sky_projection, record.bbox, record.obs_info
        )

    def _update_photo_calib(
        self, record: DetectorSummary, photo_calib: PhotoCalib | None, source: str
    ) -> None:
        """Replace the photometric calibration."""
        if photo_calib is not None and not 0 < photo_calib.mean < math.inf:
            self.log.warning(
                "Detector %d: a photometric calibration of %s nJy per count is of no use.",
                record.detector, photo_calib.mean,
            )  # fmt: skip
            photo_calib = None
        self._put(record, "photo_calib", photo_calib, source)
        self.compute_summary_stats.update_photo_calib_stats(_stats(record), photo_calib)

    def _update_background(
        self,
        record: DetectorSummary,
        backgrounds: Sequence[BackgroundMap | Handle | None],
        image: VisitImage | Handle | None,
    ) -> None:
        """Make the statistics of what lies under the sources from the original background and the addition.

        The level of the sky is unknown without either background, the noise of the pixels without an image.
        """
        stats, names = _stats(record), self.config.connections
        original, override = (_read(item) for item in backgrounds)
        record.calibration_sources.pop("background", None)
        stats.skyBg = stats.skyNoise = math.nan
        if original is None or override is None:
            self.log.warning("Detector %d lacks a background.", record.detector)
            return
        self.compute_summary_stats.update_background_stats(stats, combine_backgrounds(original, override))
        record.calibration_sources["background"] = (
            f"replacement {names.background_originals} and {names.background_overrides}"
        )
        if image is not None:
            exposure = _read(image).copy()
            exposure.image.array[...] -= render_background(override, exposure.bbox)
            self.compute_summary_stats.update_masked_image_stats(stats, exposure)

    def _update_depth(self, record: DetectorSummary, band: str, image: VisitImage | Handle | None) -> None:
        """Recompute the limiting magnitude and the effective time from the other statistics.

        An image is read only if the statistics do not tell its gain and read noise.
        """
        stats, task = _stats(record), self.compute_summary_stats
        unknown = not task.knows_electronics(stats)
        task.update_magnitude_limit_stats(stats, _read(image) if unknown else None)
        task.update_effective_time_stats(stats, band)
        if not task.knows_electronics(stats):
            self.log.warning(
                "Detector %d: gain and read noise are not known, and so not its limiting magnitude.",
                record.detector,
            )


def _read(item: Any) -> Any:
    """Return an object that is given itself or behind a handle."""
    return item.get() if isinstance(item, DeferredDatasetHandle | InMemoryDatasetHandle) else item


def _component(image: VisitImage | Handle, name: str) -> Any:
    """Return a component of an image, reading nothing else."""
    return getattr(image, name) if isinstance(image, VisitImage) else image.get(component=name)


def _copy(record: DetectorSummary, source: str) -> DetectorSummary:
    """Return a record whose statistics and sources can be changed; all it has comes from one source."""
    stats = record.summary_stats
    pieces = [piece for piece in _PIECES if getattr(record, piece) is not None]
    if stats is not None and math.isfinite(stats.skyBg):
        pieces.append("background")
    return dataclasses.replace(
        record,
        summary_stats=ObservationSummaryStats.model_validate({})
        if stats is None
        else stats.model_copy(deep=True),
        calibration_sources=dict.fromkeys(pieces, source),
    )


def _stats(record: DetectorSummary) -> ObservationSummaryStats:
    """Return the statistics of a record that has some."""
    assert record.summary_stats is not None
    return record.summary_stats


def _position(record: DetectorSummary) -> np.ndarray | None:
    """Return the unit vector (3,) of the centre of a detector, as far as the first pass knows it."""
    stats = record.summary_stats
    if record.sky_projection is not None and record.bbox is not None:
        x, y = record.bbox.x.center, record.bbox.y.center
        return np.asarray(record.sky_projection.pixel_to_sky(x=x, y=y).cartesian.xyz.value)
    if stats is not None and math.isfinite(stats.ra) and math.isfinite(stats.dec):
        return unit_vectors(np.array(stats.ra), np.array(stats.dec))
    return None
