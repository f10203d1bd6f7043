"""The final characterizations of the detectors of a visit in one summary and one table."""

from __future__ import annotations

__all__ = (
    "ConsolidateFinalizeCharacterizationDetectorConfig",
    "ConsolidateFinalizeCharacterizationDetectorConnections",
    "ConsolidateFinalizeCharacterizationDetectorTask",
)

import dataclasses
from collections.abc import Mapping
from typing import Any

from lsst.pipe.base import NoWorkFound, PipelineTask, PipelineTaskConfig, Struct
from lsst.pipe.base import connectionTypes as cT

from ..catalog.provenance import record_provenance
from ..catalog.visit_summary import DetectorSummary, VisitSummary
from ._finalize_config import VisitCharacterizationOutputs
from ._finalize_shared import load, stack_tables


class ConsolidateFinalizeCharacterizationDetectorConnections(
    VisitCharacterizationOutputs, dimensions=("instrument", "visit"), defaultTemplates={}
):
    """Inputs and outputs of `ConsolidateFinalizeCharacterizationDetectorTask`."""

    finalized_psf_ap_corr_detector_cats = cT.Input(
        doc="Final PSF and aperture corrections of each detector.",
        name="finalized_psf_ap_corr_detector_catalog",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    finalized_src_detector_tables = cT.Input(
        doc="Stars of each detector, measured with the final PSF.",
        name="finalized_src_detector_table",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )


class ConsolidateFinalizeCharacterizationDetectorConfig(
    PipelineTaskConfig, pipelineConnections=ConsolidateFinalizeCharacterizationDetectorConnections
):
    """There is nothing to configure."""


class ConsolidateFinalizeCharacterizationDetectorTask(PipelineTask):
    """Gather what `FinalizeCharacterizationDetectorTask` made of the detectors of a visit."""

    ConfigClass = ConsolidateFinalizeCharacterizationDetectorConfig
    _DefaultName = "consolidate_finalize_characterization_detector"
    config: ConsolidateFinalizeCharacterizationDetectorConfig

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Get handles of the inputs, run, and write the results."""
        inputs = butlerQC.get(inputRefs)

        def by_detector(handles: list[Any]) -> dict[int, Any]:
            return {handle.dataId["detector"]: handle for handle in handles}

        result = self.run(
            psf_ap_corr_detector_dict=by_detector(inputs["finalized_psf_ap_corr_detector_cats"]),
            src_detector_table_dict=by_detector(inputs["finalized_src_detector_tables"]),
        )
        record_provenance(self, [result.output_table], inputs=inputRefs)
        butlerQC.put(result.psf_ap_corr_cat, outputRefs.finalized_psf_ap_corr_cat)
        butlerQC.put(result.output_table, outputRefs.finalized_src_table)

    def run(
        self, *, psf_ap_corr_detector_dict: Mapping[int, Any], src_detector_table_dict: Mapping[int, Any]
    ) -> Struct:
        """Gather the results of the detectors.

        Parameters
        ----------
        psf_ap_corr_detector_dict
            `VisitSummary` of each detector, or handles of them, by detector.
        src_detector_table_dict
            Star table of each detector, or handles of them, by detector.

        Returns
        -------
        lsst.pipe.base.Struct
            ``psf_ap_corr_cat``: `VisitSummary` of the visit; ``output_table``: its stars, by detector.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if there are no detectors.
        ValueError
            Raised if summaries and tables are of different detectors or visits, a summary lacks the record of
            its detector, or tables differ in their columns.
        """
        if set(psf_ap_corr_detector_dict) != set(src_detector_table_dict):
            raise ValueError(
                f"There are summaries of detectors {sorted(psf_ap_corr_detector_dict)} but star tables of "
                f"detectors {sorted(src_detector_table_dict)}."
            )
        detectors = sorted(psf_ap_corr_detector_dict)
        if not detectors:
            raise NoWorkFound("No detector of the visit was characterized.")
        summaries = {detector: load(psf_ap_corr_detector_dict[detector]) for detector in detectors}
        first: VisitSummary = summaries[detectors[0]]
        result = VisitSummary(
            first.visit,
            [self._record(summaries[detector], detector, first.visit) for detector in detectors],
            instrument=first.instrument,
            band=first.band,
            physical_filter=first.physical_filter,
            comment="Records are identified by detector id, ascending; detectors without data have none.",
        )
        tables = {detector: load(src_detector_table_dict[detector]) for detector in detectors}
        return Struct(psf_ap_corr_cat=result, output_table=stack_tables(tables))

    def _record(self, summary: VisitSummary, detector: int, visit: int) -> DetectorSummary:
        """Return the record of a detector, checked to be of the right visit."""
        if summary.visit != visit:
            raise ValueError(f"Detector {detector}: expected visit {visit}, found visit {summary.visit}.")
        record = summary.find(detector)
        if record is None:
            raise ValueError(
                f"Visit {visit}: the summary of detector {detector} has records of {summary.detectors} only."
            )
        origin = self.config.connections.finalized_psf_ap_corr_detector_cats
        pieces = ("psf", "aperture_corrections")
        sources = {piece: origin for piece in pieces if getattr(record, piece) is not None}
        return dataclasses.replace(record, calibration_sources=sources)
