"""Puts the final calibrations of a visit into its summary (spec reprocess 23.3, finalize 13)."""

from __future__ import annotations

__all__ = ("UpdateVisitSummaryConfig", "UpdateVisitSummaryConnections", "UpdateVisitSummaryTask")

import dataclasses
from typing import Any, ClassVar

import numpy as np
from astropy.table import Table
from lsst.images import ObservationSummaryStats
from lsst.pex.config import ChoiceField, ConfigurableField, Field
from lsst.pipe.base import (
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from ..catalog.visit_summary import DetectorSummary, VisitSummary
from ..photometry.summary_stats import ComputeExposureSummaryStatsTask

_PROVIDERS = {
    "input_summary": "Keep what the input summary has.",
    "global": "Take it from a visit summary made by a fit to the whole visit.",
}


class UpdateVisitSummaryConnections(
    PipelineTaskConnections,
    dimensions=("instrument", "visit"),
    defaultTemplates={"skyWcsName": "gbdesAstrometricFit", "photoCalibName": "fgcm"},
):
    """Inputs and outputs of `UpdateVisitSummaryTask`."""

    input_summary = cT.Input(
        doc="Calibrations of the first pass.",
        name="visitSummary",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit"),
    )
    psf_overrides = cT.Input(
        doc="Final PSF of each detector.",
        name="finalized_psf_ap_corr_catalog",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit"),
        deferGraphConstraint=True,
    )
    ap_corr_overrides = cT.Input(
        doc="Final aperture corrections of each detector.",
        name="finalized_psf_ap_corr_catalog",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit"),
        deferGraphConstraint=True,
    )
    psf_star_catalog = cT.Input(
        doc="Stars that the final PSFs were made from and tested with.",
        name="finalized_src_table",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit"),
        deferGraphConstraint=True,
    )
    wcs_overrides_global = cT.Input(
        doc="Sky projections of a fit to the whole visit.",
        name="{skyWcsName}SkyWcsCatalog",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit"),
    )
    photo_calib_overrides_global = cT.Input(
        doc="Photometric calibrations of a fit to the whole visit.",
        name="{photoCalibName}PhotoCalibCatalog",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit"),
    )
    output_summary = cT.Output(
        doc="Final calibrations and statistics of every detector.",
        name="finalVisitSummary",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit"),
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is not None and config.wcs_provider != "global":
            del self.wcs_overrides_global
        if config is not None and config.photo_calib_provider != "global":
            del self.photo_calib_overrides_global


class UpdateVisitSummaryConfig(PipelineTaskConfig, pipelineConnections=UpdateVisitSummaryConnections):
    """Configuration of `UpdateVisitSummaryTask`."""

    wcs_provider = ChoiceField[str](
        doc="Where the sky projections come from.", dtype=str, allowed=_PROVIDERS, default="input_summary"
    )
    photo_calib_provider = ChoiceField[str](
        doc="Where the photometric calibrations come from.",
        dtype=str,
        allowed=_PROVIDERS,
        default="input_summary",
    )
    wcs_consistency_threshold = Field[float](
        doc="Largest shift of a corner of a detector by a new sky projection, arcsec; a detector that moves "
        "farther loses its sky projection.  No limit if not set.",
        default=None,
        optional=True,
    )
    compute_summary_stats: ConfigurableField[Any] = ConfigurableField(
        target=ComputeExposureSummaryStatsTask, doc="Recomputes the statistics that depend on what changed."
    )


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
        """Read the inputs, run, and write the final summary."""
        butlerQC.put(self.run(**butlerQC.get(inputRefs)), outputRefs)

    def run(
        self,
        *,
        input_summary: VisitSummary,
        psf_overrides: VisitSummary,
        ap_corr_overrides: VisitSummary,
        psf_star_catalog: Table,
        wcs_overrides_global: VisitSummary | None = None,
        photo_calib_overrides_global: VisitSummary | None = None,
    ) -> Struct:
        """Make the final summary of a visit.

        Parameters
        ----------
        input_summary
            Summary of the first pass; left unchanged.
        psf_overrides, ap_corr_overrides
            Records with the final PSF and aperture corrections.
        psf_star_catalog
            Stars with a ``detector`` column, their measurements and the flag ``calib_psf_used``.
        wcs_overrides_global, photo_calib_overrides_global
            Records with sky projections and photometric calibrations, for the provider "global".

        Returns
        -------
        struct
            ``output_summary``: the final summary.

        Raises
        ------
        ValueError
            Raised if an input belongs to another visit, or one that a provider needs is missing.
        """
        for name, other in (("psf_overrides", psf_overrides), ("ap_corr_overrides", ap_corr_overrides)):
            if other.visit != input_summary.visit:
                raise ValueError(f"{name} is of visit {other.visit}, expected visit {input_summary.visit}.")
        star_detector = np.asarray(psf_star_catalog["detector"])
        records = []
        for old in input_summary:
            record = dataclasses.replace(old, summary_stats=_copy(old.summary_stats))
            psf_record = psf_overrides.find(old.detector)
            ap_corr_record = ap_corr_overrides.find(old.detector)
            record.psf = psf_record.psf if psf_record is not None else None
            record.aperture_corrections = (
                ap_corr_record.aperture_corrections if ap_corr_record is not None else None
            )
            self._update_psf_stats(record, psf_star_catalog[star_detector == old.detector])
            if self.config.wcs_provider == "global":
                self._update_wcs(record, _given(wcs_overrides_global, "wcs").find(old.detector))
            if self.config.photo_calib_provider == "global":
                override = _given(photo_calib_overrides_global, "photo_calib").find(old.detector)
                self._update_photo_calib(record, override)
            record.calibration_sources = self._sources(record)
            records.append(record)
        result = VisitSummary(
            input_summary.visit,
            records,
            instrument=input_summary.instrument,
            band=input_summary.band,
            physical_filter=input_summary.physical_filter,
            comment="Final calibrations.",
        )
        return Struct(output_summary=result)

    def _sources(self, record: DetectorSummary) -> dict[str, str]:
        """Say where the pieces of a finished record came from; what is missing came from nowhere."""
        names = self.config.connections
        kept = f"input_summary {names.input_summary}"
        wcs, calib = self.config.wcs_provider, self.config.photo_calib_provider
        origins = {
            "psf": names.psf_overrides,
            "aperture_corrections": names.ap_corr_overrides,
            "sky_projection": kept if wcs == "input_summary" else f"{wcs} {names.skyWcsName}SkyWcsCatalog",
            "photo_calib": (
                kept if calib == "input_summary" else f"{calib} {names.photoCalibName}PhotoCalibCatalog"
            ),
        }
        sources = {piece: origin for piece, origin in origins.items() if getattr(record, piece) is not None}
        return sources | {"background": kept}

    def _update_psf_stats(self, record: DetectorSummary, stars: Table) -> None:
        """Recompute what depends on the PSF; without a bounding box or PSF it becomes unknown."""
        if record.psf is None:
            self.log.warning("Detector %d has no final PSF.", record.detector)
        if record.aperture_corrections is None:
            self.log.warning("Detector %d has no final aperture corrections.", record.detector)
        assert record.summary_stats is not None
        if record.bbox is None:
            raise ValueError(f"The input summary has no bounding box of detector {record.detector}.")
        self.compute_summary_stats.update_psf_stats(
            record.summary_stats,
            record.psf,
            record.bbox,
            stars if len(stars) else None,
            ap_corr_map=record.aperture_corrections,
        )

    def _update_wcs(self, record: DetectorSummary, override: DetectorSummary | None) -> None:
        """Replace the sky projection unless it moved a corner of the detector too far."""
        old, record.sky_projection = record.sky_projection, override.sky_projection if override else None
        limit = self.config.wcs_consistency_threshold
        assert record.summary_stats is not None
        assert record.bbox is not None
        if limit is not None and old is not None and record.sky_projection is not None:
            box = record.bbox
            x = np.array([box.x.min, box.x.max, box.x.max, box.x.min], dtype=float)
            y = np.array([box.y.min, box.y.min, box.y.max, box.y.max], dtype=float)
            shift = old.pixel_to_sky(x=x, y=y).separation(record.sky_projection.pixel_to_sky(x=x, y=y))
            if float(shift.arcsec.max()) > limit:
                self.log.warning(
                    "Detector %d: a corner moved by %.2f arcsec, more than %.2f; its sky projection is "
                    "dropped.", record.detector, shift.arcsec.max(), limit,
                )  # fmt: skip
                record.sky_projection = None
        self.compute_summary_stats.update_wcs_stats(
            record.summary_stats, record.sky_projection, record.bbox, record.obs_info
        )

    def _update_photo_calib(self, record: DetectorSummary, override: DetectorSummary | None) -> None:
        """Replace the photometric calibration."""
        record.photo_calib = override.photo_calib if override is not None else None
        assert record.summary_stats is not None
        calib = record.photo_calib
        record.summary_stats.zeroPoint = calib.zero_point if calib is not None else float("nan")


def _copy(stats: ObservationSummaryStats | None) -> ObservationSummaryStats:
    return stats.model_copy() if stats is not None else ObservationSummaryStats.model_validate({})


def _given(summary: VisitSummary | None, kind: str) -> VisitSummary:
    """Return an optional input that the configuration needs."""
    if summary is None:
        raise ValueError(f"{kind}_provider is 'global' but {kind}_overrides_global was not given.")
    return summary
