"""Flags that say which rows of a catalog to use (spec reprocess 18.4)."""

from __future__ import annotations

__all__ = ("SetPrimaryFlagsConfig", "SetPrimaryFlagsTask")

from typing import Any, ClassVar

import numpy as np
from lsst.pex.config import Config, ListField
from lsst.pipe.base import Task

from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog


class SetPrimaryFlagsConfig(Config):
    """Configuration of `SetPrimaryFlagsTask`."""

    pseudoFilterList = ListField[str](
        doc="Kinds of made-up sources, marked by a flag '<kind>_source'; they are never primary.",
        default=["sky"],
    )


class SetPrimaryFlagsTask(Task):
    """Marks the rows that together count every object once.

    Parameters
    ----------
    schema
        Schema of the catalogs.  ``detect_isPrimary`` is added, and ``detect_isDeblendedSource``,
        ``detect_fromBlend`` and ``detect_isIsolated`` if it knows ``deblend_nChild``.
    """

    ConfigClass: ClassVar[type[Config]] = SetPrimaryFlagsConfig
    _DefaultName: ClassVar[str] = "setPrimaryFlags"
    config: SetPrimaryFlagsConfig

    def __init__(self, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._deblended = "deblend_nChild" in schema
        schema.add_flag(
            "detect_isPrimary", "real source without children; primary rows hold every object once"
        )
        if self._deblended:
            schema.add_flag(
                "detect_isDeblendedSource", "has no children: a child of a blend or an isolated source"
            )
            schema.add_flag("detect_fromBlend", "child of a blend")
            schema.add_flag("detect_isIsolated", "neither a child nor a parent of a blend")

    def run(self, catalog: SourceCatalog) -> None:
        """Set the flags of a catalog in place."""
        childless = np.ones(len(catalog), dtype=bool)
        if self._deblended:
            childless = catalog["deblend_nChild"] == 0
            child = catalog["parent"] != 0
            catalog["detect_isDeblendedSource"] = childless
            catalog["detect_fromBlend"] = child
            catalog["detect_isIsolated"] = childless & ~child
        primary = childless.copy()
        for kind in self.config.pseudoFilterList:
            if f"{kind}_source" in catalog:
                primary &= ~catalog[f"{kind}_source"]
        catalog["detect_isPrimary"] = primary
