"""Final PSF and aperture corrections of all detectors of a visit, from isolated stars."""

from __future__ import annotations

__all__ = (
    "FinalizeCharacterizationConfig",
    "FinalizeCharacterizationConnections",
    "FinalizeCharacterizationTask",
)

from collections.abc import Mapping
from typing import Any

import astropy.table
from lsst.images import VisitImage
from lsst.pipe.base import NoWorkFound, Struct
from lsst.pipe.base import connectionTypes as cT

from ..catalog.provenance import record_provenance
from ..catalog.visit_summary import DetectorSummary, VisitSummary
from ._finalize_config import (
    FinalizeCharacterizationConfigBase,
    FinalizeCharacterizationConnectionsBase,
    VisitCharacterizationOutputs,
)
from ._finalize_shared import (
    FinalizeCharacterizationBase,
    load,
    make_summary,
    stack_tables,
)


class FinalizeCharacterizationConnections(
    FinalizeCharacterizationConnectionsBase,
    VisitCharacterizationOutputs,
    dimensions=("instrument", "visit"),
    defaultTemplates={},
):
    """Inputs and outputs of `FinalizeCharacterizationTask`."""

    srcs = cT.Input(
        doc="Sources of the first pass, with footprints.",
        name="src",
        storageClass="SourceCatalogV2",
        dimensions=("instrument", "visit", "detector"),
        deferLoad=True,
        multiple=True,
        deferGraphConstraint=True,
    )
    calexps = cT.Input(
        doc="Images the sources were measured on.",
        name="calexp",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
        deferLoad=True,
        multiple=True,
    )


class FinalizeCharacterizationConfig(
    FinalizeCharacterizationConfigBase, pipelineConnections=FinalizeCharacterizationConnections
):
    """Configuration of `FinalizeCharacterizationTask`."""


class FinalizeCharacterizationTask(FinalizeCharacterizationBase):
    """Refit PSF and aperture corrections of every detector of a visit, one after the other."""

    ConfigClass = FinalizeCharacterizationConfig
    _DefaultName = "finalize_characterization"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Get handles of the inputs, run, and write the results."""
        self._check_storable()
        inputs = butlerQC.get(inputRefs)
        result = self.run(
            visit=butlerQC.quantum.dataId["visit"],
            band=butlerQC.quantum.dataId["band"],
            isolated_star_cat_dict=self._by_tract(inputs["isolated_star_cats"]),
            isolated_star_source_dict=self._by_tract(inputs["isolated_star_sources"]),
            src_dict={handle.dataId["detector"]: handle for handle in inputs["srcs"]},
            calexp_dict={handle.dataId["detector"]: handle for handle in inputs["calexps"]},
            fgcm_standard_star_dict=self._by_tract(inputs.get("fgcm_standard_star", ())),
        )
        record_provenance(self, [result.output_table], inputs=inputRefs)
        butlerQC.put(result.psf_ap_corr_cat, outputRefs.finalized_psf_ap_corr_cat)
        butlerQC.put(result.output_table, outputRefs.finalized_src_table)

    def run(
        self,
        *,
        visit: int,
        band: str,
        isolated_star_cat_dict: Mapping[int, Any],
        isolated_star_source_dict: Mapping[int, Any],
        src_dict: Mapping[int, Any],
        calexp_dict: Mapping[int, Any],
        fgcm_standard_star_dict: Mapping[int, Any] | None = None,
    ) -> Struct:
        """Characterize a visit.

        Parameters
        ----------
        visit, band
            What the images are of.
        isolated_star_cat_dict, isolated_star_source_dict
            Isolated stars and their sources by tract; tables or handles of them.
        src_dict, calexp_dict
            Sources of the first pass and background-subtracted images by detector, or handles of them.
        fgcm_standard_star_dict
            FGCM standard stars by tract, if colours or magnitudes are wanted.

        Returns
        -------
        lsst.pipe.base.Struct
            ``psf_ap_corr_cat``: `VisitSummary` with a record per detector that has stars; ``output_table``:
            their stars, by detector.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if no detector shows an isolated star that can be used.
        Exception
            What stopped the last detector, if every detector with work to do failed unexpectedly.

        Notes
        -----
        A detector that fails unexpectedly (an image that cannot be read, say) is logged and left out; it does
        not cost the others their results.
        """
        fgcm = self._load_fgcm(band, fgcm_standard_star_dict)
        isolated = self._isolated_sources(
            visit, band, isolated_star_cat_dict, isolated_star_source_dict, None
        )
        records: list[DetectorSummary] = []
        tables: dict[int, astropy.table.Table] = {}
        summary: VisitSummary | None = None
        failure: Exception | None = None
        for detector in self._detectors(visit, src_dict, calexp_dict):
            try:
                exposure: VisitImage = load(calexp_dict[detector])
                src = load(src_dict[detector])
                refit = self.compute_psf_and_ap_corr_map(visit, detector, exposure, src, isolated, fgcm)
            except MemoryError:
                raise
            except Exception as error:
                self.log.exception("Visit %d, detector %d failed.", visit, detector)
                failure = error
                continue
            if refit.measured_src is None:
                continue
            records.append(
                DetectorSummary(
                    detector, bbox=exposure.bbox, psf=refit.psf, aperture_corrections=refit.ap_corr_map
                )
            )
            tables[detector] = refit.measured_src.to_astropy()
            comment = "Records are identified by detector id, ascending; detectors without data have none."
            summary = make_summary(visit, records, exposure, comment)
        if summary is None:
            if failure is not None:
                raise failure
            raise NoWorkFound(f"No usable isolated stars in any detector of visit {visit}.")
        return Struct(psf_ap_corr_cat=summary, output_table=stack_tables(tables))

    def _detectors(
        self, visit: int, src_dict: Mapping[int, Any], calexp_dict: Mapping[int, Any]
    ) -> list[int]:
        """Return the detectors that have both inputs, ascending."""
        if set(src_dict) != set(calexp_dict):
            self.log.warning(
                "Visit %d: sources of detectors %s but images of %s; using those that have both.",
                visit, sorted(src_dict), sorted(calexp_dict),
            )  # fmt: skip
        return sorted(set(src_dict) & set(calexp_dict))
