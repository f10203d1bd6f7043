"""Collects the calibrations and the sources of the detectors of a visit after the first pass."""

from __future__ import annotations

__all__ = (
    "ConsolidateVisitSummaryConfig",
    "ConsolidateVisitSummaryConnections",
    "ConsolidateVisitSummaryTask",
)

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from lsst.daf.butler import DeferredDatasetHandle
from lsst.images import VisitImage
from lsst.pipe.base import (
    InMemoryDatasetHandle,
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from ..catalog.photo_calib import PhotoCalib
from ..catalog.provenance import record_provenance
from ..catalog.source_catalog import SourceCatalog
from ..catalog.visit_summary import DetectorSummary, VisitSummary
from ..photometry.calibrate import scaling_to_photo_calib
from ..photometry.source_table import FIRST_PASS_EXTRAS, make_source_table, stack_source_tables

type Handle = DeferredDatasetHandle | InMemoryDatasetHandle


class ConsolidateVisitSummaryConnections(PipelineTaskConnections, dimensions=("instrument", "visit")):
    """Inputs and outputs of `ConsolidateVisitSummaryTask`."""

    calexps = cT.Input(
        doc="Images with their first calibrations; pixels are not read.",
        name="calexp",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    initial_photo_calibs = cT.Input(
        doc="Photometric calibration of each detector.",
        name="initial_photoCalib_detector",
        storageClass="PhotoCalibV2",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
        minimum=0,
    )
    srcs = cT.Input(
        doc="Sources of each detector.",
        name="src",
        storageClass="SourceCatalogV2",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
        minimum=0,
    )
    visit_summary = cT.Output(
        doc="Calibrations and statistics of every detector.",
        name="visitSummary",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit"),
    )
    source_table = cT.Output(
        doc="Sources of all detectors, with published column names.",
        name="preSourceTable_visit",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit"),
    )


class ConsolidateVisitSummaryConfig(
    PipelineTaskConfig, pipelineConnections=ConsolidateVisitSummaryConnections
):
    """Configuration of `ConsolidateVisitSummaryTask`."""


class ConsolidateVisitSummaryTask(PipelineTask):
    """Make the summary and the source table of a visit.

    A detector that failed earlier is simply absent.
    """

    ConfigClass: ClassVar[type[PipelineTaskConfig]] = ConsolidateVisitSummaryConfig
    _DefaultName: ClassVar[str] = "consolidateVisitSummary"
    config: ConsolidateVisitSummaryConfig

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read what is needed detector by detector, run, and write the outputs."""
        inputs = butlerQC.get(inputRefs)
        data_id = butlerQC.quantum.dataId
        assert data_id is not None, "the quantum of a task with dimensions has a data id"

        def by_detector(name: str) -> dict[int, Handle]:
            return {int(handle.dataId["detector"]): handle for handle in inputs.get(name, [])}

        outputs = self.run(
            visit=int(data_id["visit"]),
            instrument=str(data_id["instrument"]),
            band=str(data_id["band"]),
            physical_filter=str(data_id["physical_filter"]),
            calexps=by_detector("calexps"),
            initial_photo_calibs=by_detector("initial_photo_calibs"),
            srcs=by_detector("srcs"),
        )
        record_provenance(self, outputs, inputs=inputRefs)
        butlerQC.put(outputs, outputRefs)

    def run(
        self,
        *,
        visit: int,
        band: str,
        physical_filter: str,
        calexps: Mapping[int, Handle | VisitImage],
        srcs: Mapping[int, Handle | SourceCatalog],
        initial_photo_calibs: Mapping[int, Handle | PhotoCalib] | None = None,
        instrument: str = "",
    ) -> Struct:
        """Consolidate one visit; images and catalogs may be given themselves or as handles to be read.

        Parameters
        ----------
        visit
            Visit id.
        band, physical_filter
            What the visit was taken with.
        calexps, srcs
            Images and sources by detector id.
        initial_photo_calibs
            Photometric calibrations by detector id; a missing one is taken from the image.
        instrument
            Name of the instrument.

        Returns
        -------
        struct
            ``visit_summary`` and ``source_table``.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if not one detector has both image and sources.
        """
        usable = sorted(set(calexps) & set(srcs))
        if not usable:
            raise NoWorkFound(
                f"Visit {visit}: no detector has both an image and sources from the first pass."
            )
        for detector in sorted(set(calexps) ^ set(srcs)):
            self.log.warning("Visit %d: detector %d lacks image or sources; left out.", visit, detector)
        calibs = initial_photo_calibs or {}
        summary = VisitSummary(
            visit,
            [self._summarize(detector, calexps[detector], calibs.get(detector)) for detector in usable],
            instrument=instrument,
            band=band,
            physical_filter=physical_filter,
            comment="Calibrations of the first pass.",
        )
        tables = {
            detector: make_source_table(
                _read(srcs[detector], SourceCatalog),
                visit=visit,
                detector=detector,
                band=band,
                physical_filter=physical_filter,
                extras=FIRST_PASS_EXTRAS,
            )
            for detector in usable
        }
        result = Struct(visit_summary=summary, source_table=stack_source_tables(tables))
        record_provenance(self, result)
        return result

    def _summarize(
        self, detector: int, image: Handle | VisitImage, photo_calib: Handle | PhotoCalib | None
    ) -> DetectorSummary:
        """Return the record of a detector, reading components of its image only."""

        def component(name: str) -> Any:
            return getattr(image, name) if isinstance(image, VisitImage) else image.get(component=name)

        names = self.config.connections
        bbox, bounds = component("bbox"), component("bounds")
        calib: PhotoCalib | None = None
        if photo_calib is not None:
            calib = _read(photo_calib, PhotoCalib)
        elif (scaling := component("photometric_scaling")) is not None:
            calib = scaling_to_photo_calib(scaling, component("unit"))
        record = DetectorSummary(
            detector=detector,
            bbox=bbox,
            psf=component("psf"),
            aperture_corrections=component("aperture_corrections"),
            sky_projection=component("sky_projection"),
            photo_calib=calib,
            valid_polygon=None if bounds == bbox else bounds,
            obs_info=component("obs_info"),
            summary_stats=component("summary_stats"),
        )
        for piece in ("psf", "aperture_corrections", "sky_projection", "photo_calib"):
            if getattr(record, piece) not in (None, {}):
                record.calibration_sources[piece] = names.calexps
        if photo_calib is not None:
            record.calibration_sources["photo_calib"] = names.initial_photo_calibs
        if record.summary_stats is not None and math.isfinite(record.summary_stats.skyBg):
            record.calibration_sources["background"] = names.calexps
        return record


def _read(item: Any, kind: type) -> Any:
    """Return an object that is given itself or behind a handle."""
    return item if isinstance(item, kind) else item.get()
