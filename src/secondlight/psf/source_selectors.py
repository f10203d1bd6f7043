"""Selection of sources by their catalog columns (spec finalize 3)."""

from __future__ import annotations

__all__ = (
    "BaseSourceSelectorTask",
    "ColorLimit",
    "FlaggedSourceSelectorConfig",
    "FlaggedSourceSelectorTask",
    "NullSourceSelectorTask",
    "ObjectSizeStarSelectorConfig",
    "ObjectSizeStarSelectorTask",
    "ReferenceSourceSelectorConfig",
    "ReferenceSourceSelectorTask",
    "ScienceSourceSelectorConfig",
    "ScienceSourceSelectorTask",
    "sourceSelectorRegistry",
)

from abc import abstractmethod
from typing import ClassVar, Protocol

import astropy.table
import numpy as np
import numpy.typing as npt
from lsst.pex.config import Config, ConfigDictField, ConfigField, Field, ListField
from lsst.pex.config.registry import makeRegistry, registerConfigurable
from lsst.pipe.base import Task

from ..catalog.source_catalog import SourceCatalog
from ._selection_limits import (
    CentroidErrorLimit,
    ColorLimit,
    FluxLimit,
    MagnitudeErrorLimit,
    MagnitudeLimit,
    RequireFiniteRaDec,
    RequireFlags,
    RequireIsolated,
    RequirePrimary,
    RequireUnresolved,
    SignalToNoiseLimit,
    SkyFlag,
    column,
    flux_flag,
)

type Catalog = SourceCatalog | astropy.table.Table


class _Criterion(Protocol):
    def apply(self, catalog: Catalog) -> npt.NDArray[np.bool_]: ...


sourceSelectorRegistry = makeRegistry(  # noqa: N816
    "Tasks that select sources; each offers ``select_sources(catalog)``, which returns one boolean per row."
)


class BaseSourceSelectorTask(Task):
    """A rule that says which rows of a catalog to keep."""

    ConfigClass: ClassVar[type[Config]] = Config
    _DefaultName: ClassVar[str] = "source_selector"

    @abstractmethod
    def select_sources(self, catalog: Catalog) -> npt.NDArray[np.bool_]:
        """Return which rows are selected.

        Parameters
        ----------
        catalog
            A `SourceCatalog` or a table with one row per source.

        Returns
        -------
        numpy.ndarray
            One boolean per row.

        Raises
        ------
        ValueError
            Raised if a column that the configuration asks for is missing; the message names it.
        """
        raise NotImplementedError


class NullSourceSelectorConfig(Config):
    """Selecting everything needs no configuration."""


@registerConfigurable("null", sourceSelectorRegistry)
class NullSourceSelectorTask(BaseSourceSelectorTask):
    """Select every source."""

    ConfigClass = NullSourceSelectorConfig
    config: NullSourceSelectorConfig

    def select_sources(self, catalog: Catalog) -> npt.NDArray[np.bool_]:
        """Return True for every row."""
        return np.ones(len(catalog), dtype=np.bool_)


class FlaggedSourceSelectorConfig(Config):
    """Which flag selects."""

    field = Field[str](doc="Flag that a selected source must have set.", default="calib_psf_used")


@registerConfigurable("flagged", sourceSelectorRegistry)
class FlaggedSourceSelectorTask(BaseSourceSelectorTask):
    """Select the sources that an earlier step flagged."""

    ConfigClass = FlaggedSourceSelectorConfig
    config: FlaggedSourceSelectorConfig

    def select_sources(self, catalog: Catalog) -> npt.NDArray[np.bool_]:
        """Return the configured flag column."""
        return column(catalog, self.config.field).astype(np.bool_)


class ScienceSourceSelectorConfig(Config):
    """Criteria for sources measured on a science image; each is off unless its switch is on."""

    doFluxLimit = Field[bool](doc="Apply limits to a flux?", default=False)
    doFlags = Field[bool](doc="Require flags to be set or unset?", default=False)
    doUnresolved = Field[bool](doc="Require point-like sources?", default=False)
    doSignalToNoise = Field[bool](doc="Apply limits to the signal-to-noise ratio?", default=False)
    doIsolated = Field[bool](doc="Require sources that are not part of a blend?", default=False)
    doRequireFiniteRaDec = Field[bool](doc="Require finite sky coordinates?", default=False)
    doRequirePrimary = Field[bool](doc="Require primary detections?", default=False)
    doSkySources = Field[bool](doc="Also select sky sources, whatever the criteria before?", default=False)
    doCentroidErrorLimit = Field[bool](doc="Apply a limit to the centroid errors?", default=False)
    fluxLimit = ConfigField[FluxLimit](doc="Limits to a flux.")
    flags = ConfigField[RequireFlags](doc="Flags to require.")
    unresolved = ConfigField[RequireUnresolved](doc="Limits to the measure of extendedness.")
    signalToNoise = ConfigField[SignalToNoiseLimit](doc="Limits to the signal-to-noise ratio.")
    isolated = ConfigField[RequireIsolated](doc="Columns that tell blends.")
    requireFiniteRaDec = ConfigField[RequireFiniteRaDec](doc="Columns of the sky coordinates.")
    requirePrimary = ConfigField[RequirePrimary](doc="Column that tells primary detections.")
    skyFlag = ConfigField[SkyFlag](doc="Flags of sky sources.")
    centroidErrorLimit = ConfigField[CentroidErrorLimit](doc="Limit to the centroid errors.")

    def setDefaults(self) -> None:
        """Set the bad flags that suit a calibrated science image."""
        super().setDefaults()
        self.flags.bad = [
            "base_PixelFlags_flag_edge",
            "base_PixelFlags_flag_nodata",
            "base_PixelFlags_flag_saturated",
            "base_PsfFlux_flag",
        ]


@registerConfigurable("science", sourceSelectorRegistry)
class ScienceSourceSelectorTask(BaseSourceSelectorTask):
    """Select sources by flux, flags, extendedness, signal-to-noise ratio and the like."""

    ConfigClass = ScienceSourceSelectorConfig
    config: ScienceSourceSelectorConfig

    def select_sources(self, catalog: Catalog) -> npt.NDArray[np.bool_]:
        """Return the rows that meet every criterion, plus sky sources if asked for."""
        config = self.config
        selected = np.ones(len(catalog), dtype=np.bool_)
        criteria: list[tuple[bool, _Criterion]] = [
            (config.doFluxLimit, config.fluxLimit),
            (config.doFlags, config.flags),
            (config.doUnresolved, config.unresolved),
            (config.doSignalToNoise, config.signalToNoise),
            (config.doIsolated, config.isolated),
            (config.doRequireFiniteRaDec, config.requireFiniteRaDec),
            (config.doRequirePrimary, config.requirePrimary),
        ]
        for wanted, criterion in criteria:
            if wanted:
                selected &= criterion.apply(catalog)
        if config.doSkySources:
            selected |= config.skyFlag.apply(catalog)
        if config.doCentroidErrorLimit:
            selected &= config.centroidErrorLimit.apply(catalog)
        return selected


class ReferenceSourceSelectorConfig(Config):
    """Criteria for objects of a reference catalog; each is off unless its switch is on."""

    doMagLimit = Field[bool](doc="Apply limits to a magnitude?", default=False)
    doFlags = Field[bool](doc="Require flags to be set or unset?", default=False)
    doUnresolved = Field[bool](doc="Require point-like sources?", default=False)
    doSignalToNoise = Field[bool](doc="Apply limits to the signal-to-noise ratio?", default=False)
    doMagError = Field[bool](doc="Apply limits to the magnitude error?", default=False)
    doRequireFiniteRaDec = Field[bool](doc="Require finite sky coordinates?", default=True)
    magLimit = ConfigField[MagnitudeLimit](doc="Limits to a magnitude.")
    flags = ConfigField[RequireFlags](doc="Flags to require.")
    unresolved = ConfigField[RequireUnresolved](doc="Limits to the measure of extendedness.")
    signalToNoise = ConfigField[SignalToNoiseLimit](doc="Limits to the signal-to-noise ratio.")
    magError = ConfigField[MagnitudeErrorLimit](doc="Limits to the magnitude error.")
    requireFiniteRaDec = ConfigField[RequireFiniteRaDec](doc="Columns of the sky coordinates.")
    colorLimits = ConfigDictField(
        keytype=str,
        itemtype=ColorLimit,
        doc="Limits to colours, each under a name of the user's choice.",
        default={},
    )

    def setDefaults(self) -> None:
        """Set the columns of reference catalogs."""
        super().setDefaults()
        self.signalToNoise.fluxField = "flux"
        self.signalToNoise.errField = "flux_err"


@registerConfigurable("references", sourceSelectorRegistry)
class ReferenceSourceSelectorTask(BaseSourceSelectorTask):
    """Select objects of a reference catalog by magnitude, its error, flags and colours."""

    ConfigClass = ReferenceSourceSelectorConfig
    config: ReferenceSourceSelectorConfig

    def select_sources(self, catalog: Catalog) -> npt.NDArray[np.bool_]:
        """Return the rows that meet every criterion."""
        config = self.config
        selected = np.ones(len(catalog), dtype=np.bool_)
        criteria: list[tuple[bool, _Criterion]] = [
            (config.doMagLimit, config.magLimit),
            (config.doFlags, config.flags),
            (config.doUnresolved, config.unresolved),
            (config.doSignalToNoise, config.signalToNoise),
            (config.doMagError, config.magError),
            (config.doRequireFiniteRaDec, config.requireFiniteRaDec),
            *((True, limit) for limit in config.colorLimits.values()),
        ]
        for wanted, criterion in criteria:
            if wanted:
                selected &= criterion.apply(catalog)
        return selected


class ObjectSizeStarSelectorConfig(Config):
    """Where and how tightly to look for the stellar locus in size."""

    doFluxLimit = Field[bool](doc="Apply limits to the flux?", default=False)
    fluxMin = Field[float](doc="Smallest flux of a star, counts.", default=12500.0)
    fluxMax = Field[float](doc="Largest flux of a star, counts; 0 for no limit.", default=0.0)
    doSignalToNoiseLimit = Field[bool](doc="Apply limits to the signal-to-noise ratio?", default=True)
    signalToNoiseMin = Field[float](doc="Smallest signal-to-noise ratio of a star.", default=50.0)
    signalToNoiseMax = Field[float](
        doc="Largest signal-to-noise ratio of a star; 0 for no limit.", default=0.0
    )
    widthMin = Field[float](doc="Smallest size (trace radius) of a star, pixels.", default=0.9)
    widthMax = Field[float](doc="Largest size (trace radius) of a star, pixels.", default=10.0)
    sourceFluxField = Field[str](
        doc="Flux column; its error is ``<name>Err``.", default="base_PsfFlux_instFlux"
    )
    widthStdAllowed = Field[float](
        doc="Largest standard deviation of the sizes that still counts as one locus, pixels.", default=0.15
    )
    nSigmaClip = Field[float](doc="Half-width of the locus in standard deviations of its sizes.", default=2.0)
    shapeField = Field[str](doc="Second moments; ``_xx`` and ``_yy`` are appended.", default="slot_Shape")
    badFlags = ListField[str](
        doc="Flags that exclude a source.",
        default=[
            "base_PixelFlags_flag_edge",
            "base_PixelFlags_flag_nodata",
            "base_PixelFlags_flag_interpolatedCenter",
            "base_PixelFlags_flag_saturatedCenter",
            "base_PixelFlags_flag_crCenter",
            "base_PixelFlags_flag_bad",
            "base_PixelFlags_flag_interpolated",
            "slot_Centroid_flag",
        ],
    )

    def validate(self) -> None:
        """Check that the sizes leave room for a locus."""
        super().validate()
        if not self.widthMin < self.widthMax:
            raise ValueError(f"widthMin {self.widthMin} is not less than widthMax {self.widthMax}.")


@registerConfigurable("objectSize", sourceSelectorRegistry)
class ObjectSizeStarSelectorTask(BaseSourceSelectorTask):
    """Select the stars of an image by their common size.

    Bright sources pile up at the size of the PSF.  The pile is found as the mode of the sizes, then its
    width is estimated and clipped until it no longer changes.

    References
    ----------
    Robertson & Cryer 1974, JASA 69, 1012 (half-sample mode).
    """

    ConfigClass = ObjectSizeStarSelectorConfig
    config: ObjectSizeStarSelectorConfig

    def select_sources(self, catalog: Catalog) -> npt.NDArray[np.bool_]:
        """Return the rows in the stellar locus; none if no source is usable."""
        config = self.config
        flux = column(catalog, config.sourceFluxField)
        with np.errstate(invalid="ignore"):
            trace = column(catalog, f"{config.shapeField}_xx") + column(catalog, f"{config.shapeField}_yy")
            width = np.sqrt(0.5 * trace)
        usable = ~flux_flag(catalog, config.sourceFluxField)
        usable &= RequireFlags(bad=config.badFlags).apply(catalog)
        usable &= np.isfinite(flux) & (width >= config.widthMin) & (width <= config.widthMax)
        if config.doFluxLimit:
            usable &= flux > config.fluxMin
            if config.fluxMax > 0:
                usable &= flux < config.fluxMax
        if config.doSignalToNoiseLimit:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = flux / column(catalog, f"{config.sourceFluxField}Err")
            usable &= ratio > config.signalToNoiseMin
            if config.signalToNoiseMax > 0:
                usable &= ratio < config.signalToNoiseMax
        if not usable.any():
            return usable
        low, high = self._locus(width[usable])
        return np.asarray(usable & (width >= low) & (width <= high))

    def _locus(self, width: np.ndarray) -> tuple[float, float]:
        """Return the smallest and largest size of a star, pixels."""
        sigma = allowed = self.config.widthStdAllowed
        center = _half_sample_mode(width)
        for _ in range(10):
            # Three sigma, whatever nSigmaClip: a tighter window would shrink with every round.
            inside = width[np.abs(width - center) <= 3.0 * sigma]
            center = float(np.median(inside))
            smaller = min(1.4826 * float(np.median(np.abs(inside - center))), allowed)
            if smaller == sigma:
                break
            sigma = smaller
        half = self.config.nSigmaClip * sigma
        return center - half, center + half


def _half_sample_mode(values: np.ndarray) -> float:
    """Return the mode of a sample by keeping the shortest interval with half of the values, repeatedly."""
    sample = np.sort(values)
    while len(sample) > 3:
        half = (len(sample) + 1) // 2
        start = int(np.argmin(sample[half - 1 :] - sample[: len(sample) - half + 1]))
        sample = sample[start : start + half]
    if len(sample) == 3:
        low, high = sample[1] - sample[0], sample[2] - sample[1]
        sample = sample[:2] if low < high else sample[1:] if high < low else sample[1:2]
    return float(sample.mean())
