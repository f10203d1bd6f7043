"""Inputs and configuration that the finalize-characterization tasks share (spec finalize 2.1 to 2.3)."""

from __future__ import annotations

__all__ = (
    "FinalizeCharacterizationConfigBase",
    "FinalizeCharacterizationConnectionsBase",
    "VisitCharacterizationOutputs",
)

from typing import Any

from lsst.pex.config import ConfigurableField, Field, ListField
from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections
from lsst.pipe.base import connectionTypes as cT

from ..measurement.task import SingleFrameMeasurementTask
from ..photometry.apply_ap_corr import ApplyApCorrTask
from ..photometry.measure_ap_corr import MeasureApCorrTask
from ..psf.candidates import MakePsfCandidatesTask
from ..psf.piff_determiner import psfDeterminerRegistry
from ..psf.reservation import ReserveIsolatedStarsTask
from ..psf.source_selectors import sourceSelectorRegistry

_PLUGINS = (
    "base_FPPosition",
    "base_PsfFlux",
    "base_GaussianFlux",
    "modelfit_DoubleShapeletPsfApprox",
    "modelfit_CModel",
    "ext_photometryKron_KronFlux",
    "ext_convolved_ConvolvedFlux",
    "ext_gaap_GaapFlux",
    "ext_shapeHSM_HsmShapeRegauss",
    "ext_shapeHSM_HsmSourceMoments",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_shapeHSM_HsmSourceMomentsRound",
    "ext_shapeHSM_HigherOrderMomentsSource",
    "ext_shapeHSM_HigherOrderMomentsPSF",
)

_BAD_FLAGS = (
    *(
        f"base_PixelFlags_flag_{name}"
        for name in (
            "edge", "nodata", "interpolatedCenter", "saturatedCenter", "crCenter", "bad", "interpolated",
            "saturated",
        )
    ),
    "slot_Centroid_flag",
    "base_GaussianFlux_flag",
)  # fmt: skip


class FinalizeCharacterizationConnectionsBase(
    PipelineTaskConnections, dimensions=("instrument", "visit"), defaultTemplates={}
):
    """Inputs of both tasks."""

    isolated_star_cats = cT.Input(
        doc="Isolated stars.",
        name="isolated_star_presource_associations",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "tract", "skymap"),
        deferLoad=True,
        multiple=True,
    )
    isolated_star_sources = cT.Input(
        doc="Sources of the isolated stars.",
        name="isolated_star_presources",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "tract", "skymap"),
        deferLoad=True,
        multiple=True,
    )
    fgcm_standard_star = cT.Input(
        doc="FGCM standard stars, for colours and magnitudes.",
        name="fgcm_standard_star",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "tract", "skymap"),
        deferLoad=True,
        multiple=True,
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is not None and not config.needs_fgcm():
            del self.fgcm_standard_star


class VisitCharacterizationOutputs(
    PipelineTaskConnections, dimensions=("instrument", "visit"), defaultTemplates={}
):
    """Outputs of the tasks that characterize a whole visit."""

    finalized_psf_ap_corr_cat = cT.Output(
        doc="Final PSF and aperture corrections of every detector of the visit.",
        name="finalized_psf_ap_corr_catalog",
        storageClass="VisitSummary",
        dimensions=("instrument", "visit"),
    )
    finalized_src_table = cT.Output(
        doc="Stars of the visit, measured with the final PSFs.",
        name="finalized_src_table",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit"),
    )


class FinalizeCharacterizationConfigBase(
    PipelineTaskConfig, pipelineConnections=FinalizeCharacterizationConnectionsBase
):
    """Configuration of both tasks."""

    source_selector = sourceSelectorRegistry.makeField(
        doc="Selects clean sources among those of the first pass.", default="science"
    )
    id_column = Field[str](doc="Column with the source id in the isolated-star sources.", default="sourceId")
    reserve_selection: ConfigurableField[Any] = ConfigurableField(
        target=ReserveIsolatedStarsTask, doc="Chooses the stars held out of the fit."
    )
    make_psf_candidates: ConfigurableField[Any] = ConfigurableField(
        target=MakePsfCandidatesTask, doc="Cuts out the stars."
    )
    psf_determiner = psfDeterminerRegistry.makeField(doc="Fits the PSF.", default="piff")
    measurement: ConfigurableField[Any] = ConfigurableField(
        target=SingleFrameMeasurementTask, doc="Measures the stars with the final PSF."
    )
    measure_ap_corr: ConfigurableField[Any] = ConfigurableField(
        target=MeasureApCorrTask, doc="Measures aperture corrections."
    )
    apply_ap_corr: ConfigurableField[Any] = ConfigurableField(
        target=ApplyApCorrTask, doc="Applies them to the stars."
    )
    do_add_sky_moments = Field[bool](
        doc="Add second moments along right ascension and declination, altitude and azimuth?", default=False
    )
    do_add_fgcm_photometry = Field[bool](doc="Add FGCM standard magnitudes?", default=False)
    fgcmPhotometryBands = ListField[str](
        doc="Bands of the FGCM magnitudes to add.", default=["g", "r", "i", "z", "y"]
    )

    def setDefaults(self) -> None:
        """Select bright clean stars; measure fluxes and shapes with the final PSF."""
        super().setDefaults()
        selector = self.source_selector["science"]
        selector.doFlags = True
        selector.doSignalToNoise = True
        selector.signalToNoise.minimum = 50.0
        selector.signalToNoise.maximum = 1000.0
        selector.signalToNoise.fluxField = "base_GaussianFlux_instFlux"
        selector.signalToNoise.errField = "base_GaussianFlux_instFluxErr"
        selector.flags.bad = list(_BAD_FLAGS)

        self.measurement.plugins.names = list(_PLUGINS)
        slots = self.measurement.slots
        slots.centroid = slots.apFlux = slots.calibFlux = None
        slots.shape = "ext_shapeHSM_HsmSourceMoments"
        slots.psfShape = "ext_shapeHSM_HsmPsfMoments"
        slots.psfFlux = "base_PsfFlux"
        slots.gaussianFlux = "base_GaussianFlux"
        slots.modelFlux = "modelfit_CModel"

        self.measure_ap_corr.sourceSelector["science"].doFlags = False
        self.measure_ap_corr.sourceSelector["science"].doUnresolved = False
        convolved = self.measurement.plugins["ext_convolved_ConvolvedFlux"]
        convolved.seeing.append(8.0)
        gaap = self.measurement.plugins["ext_gaap_GaapFlux"]
        gaap.sigmas = [0.5, 0.7, 1.0, 1.5, 2.5, 3.0]
        gaap.doPsfPhotometry = True
        # Large apertures and small kernels fail on ordinary images.
        self.measure_ap_corr.allowFailure += convolved.getAllResultNames() + gaap.getAllGaapResultNames()

    def uses_color(self) -> bool:
        """Return whether the PSF depends on colour."""
        return self.psf_determiner.name == "piff" and bool(self.psf_determiner["piff"].useColor)

    def needs_fgcm(self) -> bool:
        """Return whether FGCM standard stars are needed."""
        return self.uses_color() or bool(self.do_add_fgcm_photometry)
