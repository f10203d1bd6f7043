"""Slots: which plugin's columns stand for the centroid, the shape and the fluxes of a source."""

from __future__ import annotations

__all__ = ("SourceSlotConfig",)

from collections.abc import Collection

import lsst.pex.config as pex_config

from secondlight.catalog.schema import Schema


def _slot(default: str, doc: str) -> pex_config.Field[str]:
    return pex_config.Field[str](doc=f"{doc}, or None.", default=default, optional=True)


class SourceSlotConfig(pex_config.Config):
    """Column prefixes that the ``slot_*`` aliases point to."""

    centroid = _slot("base_SdssCentroid", "Plugin of the positions")
    shape = _slot("base_SdssShape", "Columns of the shapes")
    psfShape = _slot("base_SdssShape_psf", "Columns of the PSF shapes")
    apFlux = _slot("base_CircularApertureFlux_12_0", "Columns of the aperture flux")
    modelFlux = _slot("base_GaussianFlux", "Columns of the model flux")
    psfFlux = _slot("base_PsfFlux", "Columns of the PSF flux")
    gaussianFlux = _slot("base_GaussianFlux", "Columns of the Gaussian flux")
    calibFlux = _slot("base_CircularApertureFlux_12_0", "Columns of the flux for calibration")

    def set_aliases(self, schema: Schema) -> None:
        """Point the slot aliases of a schema at the configured columns; a slot that is None is left alone."""
        for slot, target in self.toDict().items():
            if target is not None:
                schema.set_alias(f"slot_{slot[0].upper()}{slot[1:]}", target)

    def without_columns(self, schema: Schema) -> dict[str, str]:
        """Return the configured slots behind which a schema has no column, with their targets."""
        return {
            slot: target
            for slot, target in self.toDict().items()
            if target is not None and not any(name.startswith(f"{target}_") for name in schema.names)
        }

    def check(self, plugins: Collection[str]) -> None:
        """Check that every slot is filled by one of the enabled plugins.

        Raises
        ------
        ValueError
            Raised if a slot names columns of none of them.
        """
        for slot, target in self.toDict().items():
            if target is not None and not any(target == p or target.startswith(f"{p}_") for p in plugins):
                raise ValueError(
                    f"slots.{slot} = {target!r} belongs to no enabled plugin; these are {sorted(plugins)}."
                )
