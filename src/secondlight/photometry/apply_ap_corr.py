"""Applying aperture corrections to measured fluxes (spec finalize 11, reprocess 18.2)."""

from __future__ import annotations

__all__ = ("ApplyApCorrConfig", "ApplyApCorrTask")

from collections.abc import Mapping
from typing import Any, ClassVar

import astropy.table
import numpy as np
from lsst.images.fields import BaseField
from lsst.pex.config import Config, DictField, Field, ListField
from lsst.pipe.base import Task

from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog
from .ap_corr_names import ap_corr_names


class ApplyApCorrConfig(Config):
    """Configuration of `ApplyApCorrTask`."""

    ignoreList = ListField[str](doc="Column prefixes of registered fluxes to leave uncorrected.", default=[])
    doFlagApCorrFailures = Field[bool](
        doc="Whether a source without a usable correction gets the general flag of the flux.", default=True
    )
    proxies = DictField[str, str](
        doc="Flux that is not registered, to the registered flux whose correction it takes.", default={}
    )
    xColumn = Field[str](doc="Column with the x position, pixels.", default="slot_Centroid_x")
    yColumn = Field[str](doc="Column with the y position, pixels.", default="slot_Centroid_y")


class ApplyApCorrTask(Task):
    """Multiplies registered fluxes and their errors by the aperture correction at the source.

    Parameters
    ----------
    schema
        Schema of the catalogs; columns ``<name>_apCorr``, ``<name>_apCorrErr`` and ``<name>_flag_apCorr`` are
        added for every corrected flux.
    """

    ConfigClass: ClassVar[type[Config]] = ApplyApCorrConfig
    _DefaultName: ClassVar[str] = "applyApCorr"
    config: ApplyApCorrConfig

    def __init__(self, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        registered = ap_corr_names()
        for name in sorted(set(self.config.ignoreList) - registered):
            self.log.warning("Flux %r of ignoreList is not registered for aperture corrections.", name)
        models = {name: name for name in registered - set(self.config.ignoreList)}
        models |= {name: model for name, model in self.config.proxies.items() if name not in registered}
        self.models = {name: models[name] for name in sorted(models) if f"{name}_instFlux" in schema}
        for name, model in self.models.items():
            self._declare(schema, name, self.models.get(model))

    @staticmethod
    def _declare(schema: Schema, name: str, model: str | None) -> None:
        """Add the columns of a flux; one that shares the correction of another repeats its values."""
        if model is None or model == name:
            schema.add(f"{name}_apCorr", np.float64, f"aperture correction applied to {name}")
            schema.add(f"{name}_apCorrErr", np.float64, f"uncertainty of the aperture correction of {name}")
        else:
            schema.set_alias(f"{name}_apCorr", f"{model}_apCorr")
            schema.set_alias(f"{name}_apCorrErr", f"{model}_apCorrErr")
        schema.add_flag(f"{name}_flag_apCorr", f"aperture correction of {name} failed")

    def run(self, catalog: SourceCatalog | astropy.table.Table, ap_corr_map: Mapping[str, BaseField]) -> None:
        """Correct the fluxes of a catalog in place.

        Errors are multiplied by the correction; its own uncertainty is published in ``<name>_apCorrErr``.

        Parameters
        ----------
        catalog
            Measured sources; columns that a plain table lacks are created.
        ap_corr_map
            Fields keyed ``<name>_instFlux`` and ``<name>_instFluxErr``.
        """
        x, y = np.asarray(catalog[self.config.xColumn]), np.asarray(catalog[self.config.yColumn])
        for name, model in self.models.items():
            if isinstance(catalog, astropy.table.Table):
                _create_columns(catalog, name)
            field, error_field = (ap_corr_map.get(model + suffix) for suffix in ("_instFlux", "_instFluxErr"))
            if field is None or error_field is None:
                self.log.warning("The aperture correction map has no entry for %s.", model)
                catalog[f"{name}_flag_apCorr"] = True
                continue
            correction = np.asarray(field(x=x, y=y), dtype=np.float64)
            error = np.asarray(error_field(x=x, y=y), dtype=np.float64)
            with np.errstate(invalid="ignore"):
                good = np.isfinite(correction) & (correction > 0) & (error >= 0)
            catalog[f"{name}_apCorr"][...] = correction
            catalog[f"{name}_apCorrErr"][...] = error
            factor = np.where(good, correction, 1.0)
            for suffix in ("_instFlux", "_instFluxErr"):
                if name + suffix in _names(catalog):
                    catalog[name + suffix][...] *= factor
            catalog[f"{name}_flag_apCorr"][...] = ~good
            if self.config.doFlagApCorrFailures and f"{name}_flag" in _names(catalog):
                catalog[f"{name}_flag"][...] |= ~good


def _names(catalog: SourceCatalog | astropy.table.Table) -> Any:
    return catalog.colnames if isinstance(catalog, astropy.table.Table) else catalog


def _create_columns(table: astropy.table.Table, name: str) -> None:
    """Add the columns of a correction that a table lacks."""
    for suffix in ("_apCorr", "_apCorrErr"):
        if name + suffix not in table.colnames:
            table[name + suffix] = np.full(len(table), np.nan)
    for suffix in ("_flag_apCorr", "_flag"):
        if name + suffix not in table.colnames:
            table[name + suffix] = np.zeros(len(table), dtype=bool)
