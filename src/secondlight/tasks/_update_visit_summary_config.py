"""Inputs and configuration of `UpdateVisitSummaryTask` (spec reprocess 23.3, finalize 13)."""

from __future__ import annotations

__all__ = ("UpdateVisitSummaryConfig", "UpdateVisitSummaryConnections")

import dataclasses
from typing import Any

from lsst.pex.config import ChoiceField, ConfigurableField, RangeField
from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections
from lsst.pipe.base import connectionTypes as cT

from ..photometry.summary_stats import ComputeExposureSummaryStatsTask

_VISIT = ("instrument", "visit")
_DETECTOR = ("instrument", "visit", "detector")

_PROVIDERS = {
    "input_summary": "Keep what the input summary has.",
    "global": "Take it from a fit to the whole visit.",
    "tract": "Take it from the fits to the tracts of a sky map, each detector from the nearest tract.",
} | {
    f"healpix{order}": f"Take it from fits to HEALPix pixels of order {order}, likewise."
    for order in range(11)
}


def _overrides(what: str, name: str, provider: str) -> Any:
    """Return the connection of the calibrations that a provider needs."""
    if provider == "global":
        doc = f"{what} of a fit to the whole visit."
        return cT.Input(doc=doc, name=name, storageClass="VisitSummary", dimensions=_VISIT)
    values: dict[str, Any] = {"storageClass": "VisitSummary", "multiple": True, "deferLoad": True}
    if provider == "tract":
        doc, dimensions = f"{what} of the fits to the tracts of a sky map.", (*_VISIT, "tract", "skymap")
        return cT.Input(doc=doc, name=name, dimensions=dimensions, **values)
    # The query behind a quantum graph cannot relate such pixels to visits, the search for prerequisites can.
    # A visit without any must not stop the graph of all others.
    doc = f"{what} of the fits to HEALPix pixels of the configured order."
    return cT.PrerequisiteInput(doc=doc, name=name, dimensions=(*_VISIT, "healpix3"), minimum=0, **values)


def _of_detectors(doc: str, name: str, storage_class: str) -> Any:
    """Return a connection to one dataset per detector; any of them may be missing."""
    return cT.Input(
        doc=doc,
        name=name,
        storageClass=storage_class,
        dimensions=_DETECTOR,
        multiple=True,
        deferLoad=True,
        minimum=0,
    )


class UpdateVisitSummaryConnections(
    PipelineTaskConnections,
    dimensions=_VISIT,
    defaultTemplates={"skyWcsName": "gbdesAstrometricFit", "photoCalibName": "fgcm"},
):
    """Inputs and outputs of `UpdateVisitSummaryTask`."""

    input_summary = cT.Input(
        doc="Calibrations of the first pass.",
        name="visitSummary",
        storageClass="VisitSummary",
        dimensions=_VISIT,
    )
    input_exposures = _of_detectors(
        "Images of the first pass, for their masks; pixels are read only for another background.",
        "calexp",
        "VisitImage",
    )
    psf_overrides = cT.Input(
        doc="Final PSF of each detector.",
        name="finalized_psf_ap_corr_catalog",
        storageClass="VisitSummary",
        dimensions=_VISIT,
        deferGraphConstraint=True,
    )
    ap_corr_overrides = cT.Input(
        doc="Final aperture corrections of each detector.",
        name="finalized_psf_ap_corr_catalog",
        storageClass="VisitSummary",
        dimensions=_VISIT,
        deferGraphConstraint=True,
    )
    psf_star_catalog = cT.Input(
        doc="Stars that the final PSFs were made from and tested with.",
        name="finalized_src_table",
        storageClass="ArrowAstropy",
        dimensions=_VISIT,
        deferGraphConstraint=True,
    )
    sky_map = cT.Input(
        doc="Sky map that defines the tracts.",
        name="skyMap",
        storageClass="RingsSkyMap",
        dimensions=("skymap",),
        multiple=True,
    )
    wcs_overrides_global = _overrides("Sky projections", "{skyWcsName}SkyWcsCatalog", "global")
    wcs_overrides_tract = _overrides("Sky projections", "{skyWcsName}SkyWcsCatalog", "tract")
    wcs_overrides_healpix = _overrides("Sky projections", "{skyWcsName}SkyWcsCatalog", "healpix")
    photo_calib_overrides_global = _overrides(
        "Photometric calibrations", "{photoCalibName}PhotoCalibCatalog", "global"
    )
    photo_calib_overrides_tract = _overrides(
        "Photometric calibrations", "{photoCalibName}PhotoCalibCatalog", "tract"
    )
    photo_calib_overrides_healpix = _overrides(
        "Photometric calibrations", "{photoCalibName}PhotoCalibCatalog", "healpix"
    )
    background_originals = _of_detectors(
        "Backgrounds that were subtracted from input_exposures.", "calexpBackground", "BackgroundMap"
    )
    background_overrides = _of_detectors(
        "Backgrounds to be subtracted from input_exposures, on top of the originals.",
        "skyCorr",
        "BackgroundMap",
    )
    output_summary = cT.Output(
        doc="Final calibrations and statistics of every detector.",
        name="finalVisitSummary",
        storageClass="VisitSummary",
        dimensions=_VISIT,
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is None:
            return
        for kind in ("wcs", "photo_calib"):
            provider = getattr(config, f"{kind}_provider")
            kept = "healpix" if provider.startswith("healpix") else provider
            for other in {"global", "tract", "healpix"} - {kept}:
                delattr(self, f"{kind}_overrides_{other}")
            if kept == "healpix":
                name = f"{kind}_overrides_healpix"
                dimensions = (*_VISIT, provider)
                setattr(self, name, dataclasses.replace(getattr(self, name), dimensions=dimensions))
        if "tract" not in (config.wcs_provider, config.photo_calib_provider):
            del self.sky_map
        if config.background_provider != "replacement":
            del self.background_originals
            del self.background_overrides


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
    background_provider = ChoiceField[str](
        doc="What the statistics of the background are made of.",
        dtype=str,
        allowed={
            "input_summary": "Keep what the input summary has.",
            "replacement": "Make them anew from background_originals and background_overrides together.",
        },
        default="input_summary",
    )
    wcs_consistency_threshold = RangeField(
        doc="Largest shift of a corner of a detector by a new sky projection, arcsec; a detector that moves "
        "farther loses its sky projection.  No limit if not set.",
        dtype=float,
        default=None,
        optional=True,
        min=0.0,
    )
    compute_summary_stats: ConfigurableField[Any] = ConfigurableField(
        target=ComputeExposureSummaryStatsTask, doc="Recomputes the statistics."
    )
