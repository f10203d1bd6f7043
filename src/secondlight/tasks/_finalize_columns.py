"""Columns of the final star table: what is copied from the first pass and what is new (spec finalize 2.8)."""

from __future__ import annotations

__all__ = ("ALT_AZ_AXES", "SKY_AXES", "FinalizeColumns")

from collections.abc import Sequence

import numpy as np

from ..catalog.schema import Schema, minimal_source_schema
from ..catalog.source_catalog import SourceCatalog

_SLOTS = ("slot_Centroid", "slot_ApFlux", "slot_CalibFlux")

_FLAGS = {
    "calib_psf_candidate": "source was a candidate for the fit of the PSF",
    "calib_psf_reserved": "source was held out of the fit of the PSF",
    "calib_psf_used": "source was used in the fit of the PSF",
}

SKY_AXES = ("Iuu", "Ivv", "Iuv")
ALT_AZ_AXES = ("Ialtalt", "Iazaz", "Ialtaz")

_AXES_DOCS = dict(
    zip(
        SKY_AXES + ALT_AZ_AXES,
        (
            "along right ascension", "along declination", "right ascension-declination cross moment",
            "along altitude", "along azimuth", "altitude-azimuth cross moment",
        ),
        strict=True,
    )
)  # fmt: skip


class FinalizeColumns:
    """The schema of the star table of one first-pass catalog, before measurement adds to it.

    Parameters
    ----------
    source
        Schema of the first-pass catalog.
    selection_flux
        Flux and error columns whose ratio selected the stars, if one did.
    sky_moments
        Whether to add moments on the sky.
    fgcm_bands
        Bands of the FGCM magnitudes to add.

    Raises
    ------
    ValueError
        Raised if the first-pass catalog lacks a slot that is needed.
    """

    def __init__(
        self,
        source: Schema,
        *,
        selection_flux: tuple[str, str] | None,
        sky_moments: bool,
        fgcm_bands: Sequence[str],
    ) -> None:
        for slot in ("slot_Centroid", "slot_CalibFlux"):
            if slot not in source.aliases:
                raise ValueError(f"The first-pass catalog defines no {slot}.")
        self.schema = minimal_source_schema()
        self._copied = {name: name for name in self.schema.names}
        for name in source.names:
            if name not in self.schema and _is_copied(name, source):
                self.schema.add_field(source[name])
                self._copied[name] = name
        for slot in _SLOTS:
            if slot in source.aliases:
                self.schema.set_alias(slot, source.aliases[slot])
        for name, selected in zip(
            ("calib_psf_selection_flux", "calib_psf_selection_flux_err"), selection_flux or (), strict=False
        ):
            self.schema.add(name, np.float64, f"{selected}, which selected the stars", unit="ct")
            self._copied[name] = selected
        self._add_new(sky_moments, fgcm_bands)

    def _add_new(self, sky_moments: bool, fgcm_bands: Sequence[str]) -> None:
        schema = self.schema
        for name, doc in _FLAGS.items():
            schema.add_flag(name, doc)
        schema.add("visit", np.int64, "visit id")
        schema.add("detector", np.int32, "detector id")
        schema.add("psf_color_value", np.float32, "colour of the star for the PSF", unit="mag")
        schema.add("psf_color_type", "U10", "bands of the colour")
        schema.add("psf_max_value", np.float32, "largest pixel of the star's cut-out", unit="ct")
        if sky_moments:
            for axes in (SKY_AXES, ALT_AZ_AXES):
                for owner, what in (("shape", "source"), ("psfShape", "PSF")):
                    for axis in axes:
                        doc = f"second moment of the {what}, {_AXES_DOCS[axis]}"
                        schema.add(f"{owner}_{axis}", np.float32, doc, unit="arcsec2")
        for band in fgcm_bands:
            schema.add(f"fgcm_mag_{band}", np.float32, f"FGCM standard magnitude in {band}", unit="mag")

    def make_catalog(self, source: SourceCatalog) -> SourceCatalog:
        """Return a catalog of the same rows and footprints with the copied columns filled in."""
        result = SourceCatalog(self.schema, len(source), footprints=source.footprints)
        for name, original in self._copied.items():
            result[name] = source[original]
        return result


def _is_copied(name: str, source: Schema) -> bool:
    """Return whether a first-pass column is published again."""
    centroid = source.resolve("slot_Centroid")
    fluxes = [source.resolve(slot) for slot in ("slot_ApFlux", "slot_CalibFlux") if slot in source.aliases]
    return (
        name in (f"{centroid}_x", f"{centroid}_y")
        or name.startswith((f"{centroid}_flag", "base_CircularApertureFlux_"))
        or any(name.startswith(f"{flux}_") for flux in fluxes)
    )
