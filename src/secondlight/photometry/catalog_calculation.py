"""Columns computed from other columns once a catalog is measured (spec reprocess 18.3)."""

from __future__ import annotations

__all__ = (
    "CatalogCalculationConfig",
    "CatalogCalculationPlugin",
    "CatalogCalculationTask",
    "ClassificationExtendednessConfig",
    "ClassificationExtendednessPlugin",
    "FootprintAreaPlugin",
    "catalogCalculationRegistry",
)

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from lsst.pex.config import Config, Field
from lsst.pex.config.registry import makeRegistry, registerConfigurable
from lsst.pipe.base import Task

from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog

catalogCalculationRegistry = makeRegistry(  # noqa: N816
    "Plugins that compute columns of a measured catalog; each declares its columns at construction and "
    "offers ``calculate(catalog)``."
)


class CatalogCalculationPlugin(ABC):
    """A calculation over all rows of a catalog.

    Parameters
    ----------
    schema
        Schema to declare columns in.
    name
        Name the plugin was registered under; prefix of its columns.
    config
        Its configuration.
    """

    ConfigClass: ClassVar[type[Config]] = Config
    order: ClassVar[float] = 4.0
    """Place in the sequence; equal numbers run in order of name."""

    def __init__(self, schema: Schema, *, name: str, config: Any) -> None:
        self.name = name
        self.config = config

    @abstractmethod
    def calculate(self, catalog: SourceCatalog) -> None:
        """Fill the declared columns in place."""


@registerConfigurable("base_FootprintArea", catalogCalculationRegistry)
class FootprintAreaPlugin(CatalogCalculationPlugin):
    """Number of pixels of the footprint."""

    def __init__(self, schema: Schema, *, name: str, config: Any) -> None:
        super().__init__(schema, name=name, config=config)
        self.column = schema.add(f"{name}_value", np.int32, "number of pixels of the footprint", unit="pix")

    def calculate(self, catalog: SourceCatalog) -> None:
        """Fill the areas; 0 if the catalog has no footprints."""
        catalog[self.column] = 0 if catalog.footprints is None else catalog.footprints.areas()


class ClassificationExtendednessConfig(Config):
    """Configuration of `ClassificationExtendednessPlugin`."""

    fluxRatio = Field[float](
        doc="Factor on the model flux; a smaller one calls more sources stars.", default=0.95
    )
    modelErrFactor = Field[float](doc="Factor on the uncertainty of the model flux.", default=0.0)
    psfErrFactor = Field[float](doc="Factor on the uncertainty of the PSF flux.", default=0.0)


@registerConfigurable("base_ClassificationExtendedness", catalogCalculationRegistry)
class ClassificationExtendednessPlugin(CatalogCalculationPlugin):
    """Extended (1) or point-like (0), from the ratio of model to PSF flux.

    Raises
    ------
    ValueError
        Raised if one of the two is not in its slot.
    """

    ConfigClass: ClassVar[type[Config]] = ClassificationExtendednessConfig

    def __init__(self, schema: Schema, *, name: str, config: Any) -> None:
        super().__init__(schema, name=name, config=config)
        for slot in ("slot_ModelFlux", "slot_PsfFlux"):
            if f"{slot}_instFlux" not in schema:
                raise ValueError(f"{name} needs {slot}, which neither the slots nor the schema define.")
        self.column = schema.add(f"{name}_value", np.float64, "1 for extended sources, 0 for point sources")
        self.flag = schema.add_flag(f"{name}_flag", "model or PSF flux is not usable")

    def calculate(self, catalog: SourceCatalog) -> None:
        """Classify every row; NaN and flagged where a flux is not usable."""
        c = self.config
        model, psf = catalog["slot_ModelFlux_instFlux"], catalog["slot_PsfFlux_instFlux"]
        model_side, psf_side = c.fluxRatio * model, psf.copy()
        # A factor of zero must not let an error that is NaN spoil the comparison.
        if c.modelErrFactor:
            model_side = model_side + c.modelErrFactor * catalog["slot_ModelFlux_instFluxErr"]
        if c.psfErrFactor:
            psf_side = psf_side + c.psfErrFactor * catalog["slot_PsfFlux_instFluxErr"]
        bad = np.isnan(model_side) | np.isnan(psf_side)
        for flag in ("slot_ModelFlux_flag", "slot_PsfFlux_flag"):
            if flag in catalog:
                bad |= catalog[flag]
        catalog[self.column] = np.where(bad, np.nan, np.where(model_side < psf_side, 0.0, 1.0))
        catalog[self.flag] = bad


class CatalogCalculationConfig(Config):
    """Configuration of `CatalogCalculationTask`."""

    plugins = catalogCalculationRegistry.makeField(
        doc="Calculations to run.",
        multi=True,
        default=["base_ClassificationExtendedness", "base_FootprintArea"],
    )


class CatalogCalculationTask(Task):
    """Runs calculations over a measured catalog.

    Parameters
    ----------
    schema
        Schema of the catalogs; every plugin adds its columns.
    """

    ConfigClass: ClassVar[type[Config]] = CatalogCalculationConfig
    _DefaultName: ClassVar[str] = "catalogCalculation"
    config: CatalogCalculationConfig

    def __init__(self, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        names = sorted(
            self.config.plugins.names, key=lambda name: (catalogCalculationRegistry[name].order, name)
        )
        self.plugins: list[CatalogCalculationPlugin] = [
            catalogCalculationRegistry[name](schema, name=name, config=self.config.plugins[name])
            for name in names
        ]

    def run(self, catalog: SourceCatalog) -> None:
        """Fill the columns of every plugin in place."""
        for plugin in self.plugins:
            plugin.calculate(catalog)
