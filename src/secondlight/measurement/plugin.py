"""What a measurement plugin is, and the registry that configurations choose from."""

from __future__ import annotations

__all__ = (
    "FatalMeasurementError",
    "MeasurementError",
    "MeasurementPlugin",
    "MeasurementPluginConfig",
    "plugin_registry",
    "register",
)

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry.ap_corr_names import add_ap_corr_name

if TYPE_CHECKING:
    from .sources import MeasurementSources

CENTROID_ORDER = 0.0
SHAPE_ORDER = 1.0
FLUX_ORDER = 2.0


class FatalMeasurementError(RuntimeError):
    """A configuration or input problem that must stop the whole measurement."""


class MeasurementError(Exception):
    """A source that cannot be measured; raised by plugins that measure one source at a time.

    Parameters
    ----------
    message
        What is wrong.
    flag
        Suffix of the flag column that tells the reason, such as ``"flag_edge"``; it is set together with the
        general flag.
    """

    def __init__(self, message: str, *, flag: str = "flag") -> None:
        super().__init__(message)
        self.flag = flag


class MeasurementPluginConfig(pex_config.Config):
    """Configuration every plugin has."""

    doMeasure = pex_config.Field[bool](doc="Whether to run this plugin.", default=True)


class MeasurementPlugin(ABC):
    """One algorithm that measures all sources of an image together.

    Parameters
    ----------
    config
        Configuration, an instance of ``ConfigClass``.
    name
        Name of the plugin, which starts the names of its columns.
    schema
        Schema that gets the columns.
    """

    ConfigClass: ClassVar[type[MeasurementPluginConfig]] = MeasurementPluginConfig
    order: ClassVar[float]
    """Execution order: 0 centroids, 1 shapes, 2 fluxes, higher for what needs fluxes; ties run by name."""
    uses_centroid: ClassVar[bool] = False
    """Whether failures of the centroid slot are also failures of this plugin."""
    uses_shape: ClassVar[bool] = False
    """Whether failures of the shape slot are also failures of this plugin."""
    uses_psf: ClassVar[bool] = False
    """Whether the image must have a PSF."""
    is_centroider: ClassVar[bool] = False
    """Whether a bad initial centroid is no failure of this plugin."""

    def __init__(self, config: MeasurementPluginConfig, name: str, schema: Schema) -> None:
        self.config = config
        self.name = name
        self.declare(schema)
        self._declare_aliases(schema)

    @abstractmethod
    def declare(self, schema: Schema) -> None:
        """Add this plugin's columns to a schema."""

    @abstractmethod
    def measure(self, sources: MeasurementSources) -> None:
        """Measure all sources and write the results into ``sources.catalog``.

        A source that cannot be measured gets NaN and its flags; an exception fails all sources of the batch.
        """

    def fail(self, catalog: SourceCatalog) -> None:
        """Set the general flag of all sources: `measure` raised, or could not be run."""
        if self.column("flag") in catalog.schema:
            catalog[self.column("flag")] = True

    def column(self, suffix: str) -> str:
        """Return the full name of one of this plugin's columns."""
        return f"{self.name}_{suffix}"

    def write(self, sources: MeasurementSources, **values: np.ndarray) -> None:
        """Write columns given by suffix."""
        for suffix, column in values.items():
            sources.catalog[self.column(suffix)] = column

    def general_flag(self, sources: MeasurementSources, failed: np.ndarray) -> np.ndarray:
        """Return failures of this plugin together with those of the slots it uses."""
        flag = failed.copy()
        if self.uses_centroid and not self.is_centroider:
            flag |= sources.centroid_flag
        if self.uses_shape:
            flag |= sources.shape_flag
        return flag

    def add_flux(self, schema: Schema, doc: str, *, prefix: str | None = None) -> None:
        """Declare ``_instFlux`` and ``_instFluxErr``."""
        prefix = prefix or self.name
        schema.add(f"{prefix}_instFlux", np.float64, doc, unit="ct")
        schema.add(f"{prefix}_instFluxErr", np.float64, "1-sigma uncertainty of the flux", unit="ct")

    def add_flags(self, schema: Schema, flags: dict[str, str], *, prefix: str | None = None) -> None:
        """Declare flags by suffix and description."""
        for suffix, doc in flags.items():
            schema.add_flag(f"{prefix or self.name}_{suffix}", doc)

    def _declare_aliases(self, schema: Schema) -> None:
        flag = self.column("flag_badInitialCentroid" if self.is_centroider else "flag_badCentroid")
        if self.uses_centroid and "slot_Centroid" in schema.aliases and flag not in schema.names:
            schema.set_alias(flag, schema.resolve("slot_Centroid") + "_flag")
        if self.uses_shape and "slot_Shape" in schema.aliases:
            schema.set_alias(self.column("flag_badShape"), schema.resolve("slot_Shape") + "_flag")


plugin_registry = pex_config.makeRegistry("Measurement plugins by name.", MeasurementPluginConfig)


def register[P: type[MeasurementPlugin]](name: str, *, ap_corr: bool = False) -> Callable[[P], P]:
    """Return a class decorator that registers a plugin.

    Parameters
    ----------
    name
        Name for configurations and columns.
    ap_corr
        Whether its flux takes part in aperture correction.
    """

    def decorate(plugin: P) -> P:
        plugin_registry.register(name, plugin)
        if ap_corr:
            add_ap_corr_name(name)
        return plugin

    return decorate
