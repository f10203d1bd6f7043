"""Final PSF and aperture corrections of a whole visit or of one detector, from isolated stars."""

from __future__ import annotations

__all__ = (
    "FinalizeCharacterizationDetectorConfig",
    "FinalizeCharacterizationDetectorConnections",
    "FinalizeCharacterizationDetectorTask",
)

from collections.abc import Mapping
from typing import Any

from lsst.images import VisitImage
from lsst.pipe.base import NoWorkFound, Struct
from lsst.pipe.base import connectionTypes as cT

from ..catalog.provenance import record_provenance
from ..catalog.source_catalog import SourceCatalog
from ..catalog.visit_summary import DetectorSummary
from ._finalize_config import FinalizeCharacterizationConfigBase, FinalizeCharacterizationConnectionsBase
from ._finalize_shared import (
    FinalizeCharacterizationBase,
    make_summary,
)


class FinalizeCharacterizationDetectorConnections(
    FinalizeCharacterizationConnectionsBase,
    dimensions=("instrument", "visit", "detector"),
    defaultTemplates={},
):
    """Inputs and outputs of `FinalizeCharacterizationDetectorTask`."""

    src = cT.Input(
        doc="Sources of the first pass, with footprints.",
        name="src",
        storageClass="SourceCatalogV2",
        dimensions=("instrument", "visit", "detector"),
    )
    calexp = cT.Input(
        doc="Image the sources were measured on.",
        name="calexp",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
    )
    finalized_psf_ap_corr_detector_cat = cT.Output(
        doc="Final PSF and aperture corrections of the detector.",
        name="finalized_psf_ap_corr_detector_catalog",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit", "detector"),
    )
    finalized_src_detector_table = cT.Output(
        doc="Stars of the detector, measured with the final PSF.",
        name="finalized_src_detector_table",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
    )


class FinalizeCharacterizationDetectorConfig(
    FinalizeCharacterizationConfigBase, pipelineConnections=FinalizeCharacterizationDetectorConnections
):
    """Configuration of `FinalizeCharacterizationDetectorTask`."""


class FinalizeCharacterizationDetectorTask(FinalizeCharacterizationBase):
    """Refit PSF and aperture corrections of one detector."""

    ConfigClass = FinalizeCharacterizationDetectorConfig
    _DefaultName = "finalize_characterization_detector"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read the inputs, run, and write the results."""
        self._check_storable()
        inputs = butlerQC.get(inputRefs)
        data_id = butlerQC.quantum.dataId
        result = self.run(
            visit=data_id["visit"],
            band=data_id["band"],
            detector=data_id["detector"],
            isolated_star_cat_dict=self._by_tract(inputs["isolated_star_cats"]),
            isolated_star_source_dict=self._by_tract(inputs["isolated_star_sources"]),
            src=inputs["src"],
            exposure=inputs["calexp"],
            fgcm_standard_star_dict=self._by_tract(inputs.get("fgcm_standard_star", ())),
        )
        record_provenance(self, [result.output_table], inputs=inputRefs)
        butlerQC.put(result.psf_ap_corr_cat, outputRefs.finalized_psf_ap_corr_detector_cat)
        butlerQC.put(result.output_table, outputRefs.finalized_src_detector_table)

    def run(
        self,
        *,
        visit: int,
        band: str,
        detector: int,
        isolated_star_cat_dict: Mapping[int, Any],
        isolated_star_source_dict: Mapping[int, Any],
        src: SourceCatalog,
        exposure: VisitImage,
        fgcm_standard_star_dict: Mapping[int, Any] | None = None,
    ) -> Struct:
        """Characterize one detector.

        Parameters
        ----------
        visit, band, detector
            What the image is of.
        isolated_star_cat_dict, isolated_star_source_dict
            Isolated stars and their sources by tract; tables or handles of them.
        src
            Every source of the first pass, with footprints.
        exposure
            Background-subtracted image in counts; not changed.
        fgcm_standard_star_dict
            FGCM standard stars by tract, if colours or magnitudes are wanted.

        Returns
        -------
        lsst.pipe.base.Struct
            ``psf_ap_corr_cat``: `VisitSummary` with one record; ``output_table``: the stars.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if the detector shows no isolated star that can be used.
        """
        fgcm = self._load_fgcm(band, fgcm_standard_star_dict)
        isolated = self._isolated_sources(
            visit, band, isolated_star_cat_dict, isolated_star_source_dict, detector
        )
        refit = self.compute_psf_and_ap_corr_map(visit, detector, exposure, src, isolated, fgcm)
        if refit.measured_src is None:
            raise NoWorkFound(f"No usable isolated stars in visit {visit}, detector {detector}.")
        record = DetectorSummary(
            detector, bbox=exposure.bbox, psf=refit.psf, aperture_corrections=refit.ap_corr_map
        )
        comment = "Records are identified by detector id; this holds one detector."
        return Struct(
            psf_ap_corr_cat=make_summary(visit, [record], exposure, comment),
            output_table=refit.measured_src.to_astropy(),
        )
