"""Configuration of the summary statistics (spec reprocess 20.1)."""

from __future__ import annotations

__all__ = ("ComputeExposureSummaryStatsConfig",)

import math
from typing import Any

from lsst.pex.config import Config, ConfigurableField, DictField, Field, ListField

from ..psf.source_selectors import sourceSelectorRegistry
from .ellipticity_correlation import EllipticityCorrelationTask

_BANDS = "ugrizy"
_CORRELATED = {"psfTE1": (0.0, 1.0), "psfTE2": (5.0, 100.0), "psfTE3": (0.0, 5.0), "psfTE4": (5.0, 20.0)}
"""Ranges of distance, arcmin."""


def _by_band(doc: str, value: float) -> DictField[str, float]:
    return DictField(keytype=str, itemtype=float, doc=doc, default=dict.fromkeys(_BANDS, value))


def _correlation(name: str) -> ConfigurableField[Any]:
    low, high = _CORRELATED[name]
    return ConfigurableField(
        target=EllipticityCorrelationTask,
        doc=f"Correlates the ellipticity residuals of stars {low:g} to {high:g} arcmin apart.",
    )


class ComputeExposureSummaryStatsConfig(Config):
    """Configuration of `ComputeExposureSummaryStatsTask`."""

    sigmaClip = Field[float](doc="Clipping limit of the pixel statistics, sigma.", default=3.0)
    clipIter = Field[int](doc="Number of clipping rounds of the pixel statistics.", default=2)
    badMaskPlanes = ListField[str](
        doc="Planes whose pixels are left out of the pixel statistics.", default=["NO_DATA", "SUSPECT"]
    )
    starSelection = Field[str](
        doc="Flag column of the stars the PSF was made from.", default="calib_psf_used"
    )
    starSelector = sourceSelectorRegistry.makeField(
        doc="Chooses the stars of the PSF statistics.", default="science"
    )
    starShape = Field[str](doc="Column prefix of the stars' second moments.", default="slot_Shape")
    psfShape = Field[str](
        doc="Column prefix of the PSF's second moments at the stars.", default="slot_PsfShape"
    )
    starHigherOrderMomentBase = Field[str](
        doc="Column prefix of the stars' higher moments.", default="ext_shapeHSM_HigherOrderMomentsSource"
    )
    psfHigherOrderMomentBase = Field[str](
        doc="Column prefix of the PSF's higher moments at the stars; no statistic is made of them yet.",
        default="ext_shapeHSM_HigherOrderMomentsPSF",
    )
    psfSampling = Field[int](doc="Step of the distance-to-star statistic, pixels.", default=8)
    psfGridSampling = Field[int](doc="Step of the grid the PSF is evaluated on, pixels.", default=96)
    minPsfApRadiusPix = Field[float](doc="Smallest aperture of the PSF flux statistic, pixels.", default=2.0)
    psfApCorrFieldName = Field[str](
        doc="Aperture correction whose variation is measured.", default="base_PsfFlux_instFlux"
    )
    psfBadMaskPlanes = ListField[str](
        doc="Planes whose pixels are left out of the grid statistics.",
        default=["BAD", "CR", "EDGE", "INTRP", "NO_DATA", "SAT", "SUSPECT"],
    )
    fiducialSkyBackground = _by_band("Sky background by band, counts per second.", 1.0)
    fiducialPsfSigma = _by_band("PSF size by band, pixels.", 1.0)
    fiducialZeroPoint = _by_band("Magnitude of one count per second by band.", 25.0)
    fiducialReadNoise = _by_band("Read noise that fiducialMagLim assumes, by band, electrons.", 9.0)
    fiducialExpTime = _by_band("Exposure time that fiducialMagLim assumes, by band, s.", 30.0)
    fiducialMagLim = _by_band("Limiting magnitude by band under fiducial conditions.", 25.0)
    maxEffectiveTransparency = Field[float](
        doc="Upper limit of the throughput factor of the effective time.", default=math.inf
    )
    magLimSnr = Field[float](doc="Signal-to-noise ratio at the limiting magnitude.", default=5.0)
    psfTE1 = _correlation("psfTE1")
    psfTE2 = _correlation("psfTE2")
    psfTE3 = _correlation("psfTE3")
    psfTE4 = _correlation("psfTE4")

    def setDefaults(self) -> None:
        """Select PSF stars with good shapes and moderate signal-to-noise, and set the ranges of distance."""
        super().setDefaults()
        selector = self.starSelector["science"]
        selector.doFluxLimit = False
        selector.doFlags = True
        selector.doUnresolved = False
        selector.doSignalToNoise = True
        selector.doIsolated = False
        selector.flags.good = ["calib_psf_used"]
        selector.flags.bad = ["slot_Shape_flag", "slot_PsfFlux_flag"]
        selector.signalToNoise.fluxField = "slot_PsfFlux_instFlux"
        selector.signalToNoise.errField = "slot_PsfFlux_instFluxErr"
        selector.signalToNoise.minimum = 50.0
        selector.signalToNoise.maximum = 1000.0
        for name, limits in _CORRELATED.items():
            getattr(self, name).min_sep, getattr(self, name).max_sep = limits
