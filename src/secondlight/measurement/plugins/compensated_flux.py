"""Fluxes compensated for the background about the source: base_CompensatedTophatFlux (spec 17.6)."""

from __future__ import annotations

__all__ = ("CompensatedTophatFluxConfig", "CompensatedTophatFluxPlugin")

import math

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog

from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from .aperture_flux import circle_sums


class CompensatedTophatFluxConfig(MeasurementPluginConfig):
    """Configuration of `CompensatedTophatFluxPlugin`."""

    apertures = pex_config.ListField[int](doc="Radii, pixels.", default=[12])
    inner_scale = pex_config.Field[float](
        doc="Inner radius of the background annulus, in aperture radii.", default=1.0
    )
    outer_scale = pex_config.Field[float](
        doc="Outer radius of the background annulus, in aperture radii.", default=1.7
    )


@register("base_CompensatedTophatFlux")
class CompensatedTophatFluxPlugin(MeasurementPlugin):
    """Aperture fluxes less the background in an annulus of the same weight."""

    ConfigClass = CompensatedTophatFluxConfig
    config: CompensatedTophatFluxConfig
    order = FLUX_ORDER

    def declare(self, schema: Schema) -> None:
        """Add flux, error, mask bits and flags of each radius."""
        for radius in self.config.apertures:
            prefix = self.column(str(radius))
            self.add_flux(schema, f"background-compensated flux within {radius} pixels", prefix=prefix)
            doc = "bits of the mask planes near the source, in the order of the mask's schema"
            schema.add(f"{prefix}_mask_bits", np.int32, doc)
            flags = {"flag": "general failure", "flag_bounds": "the annulus reaches over the edge"}
            self.add_flags(schema, flags, prefix=prefix)

    def fail(self, catalog: SourceCatalog) -> None:
        """Set the flag of every radius."""
        for radius in self.config.apertures:
            catalog[f"{self.column(str(radius))}_flag"] = True

    def measure(self, sources: MeasurementSources) -> None:
        """Measure at the centroid slot."""
        inner, outer = self.config.inner_scale, self.config.outer_scale
        scale = 1.0 / (outer**2 - inner**2)
        for radius in self.config.apertures:
            size = math.ceil(outer * radius)
            f0, v0, _ = circle_sums(sources, radius)
            f1, v1, _ = circle_sums(sources, inner * radius)
            f2, v2, _ = circle_sums(sources, outer * radius)
            out_of_bounds = self._out_of_bounds(sources, size)
            flux = np.where(out_of_bounds, np.nan, f0 - scale * (f2 - f1))
            error = np.where(out_of_bounds, np.nan, np.sqrt(v0 + scale**2 * (v2 - v1)))
            prefix, catalog = self.column(str(radius)), sources.catalog
            catalog[f"{prefix}_instFlux"], catalog[f"{prefix}_instFluxErr"] = flux, error
            catalog[f"{prefix}_mask_bits"] = _mask_bits(sources, size, ~out_of_bounds)
            catalog[f"{prefix}_flag_bounds"] = out_of_bounds
            catalog[f"{prefix}_flag"] = ~(np.isfinite(flux) & np.isfinite(error))

    def _out_of_bounds(self, sources: MeasurementSources, size: int) -> np.ndarray:
        x0, y0, x1, y1 = sources.box
        x, y = sources.nearest_pixels
        return (x < x0 + size) | (x > x1 - size) | (y < y0 + size) | (y > y1 - size)


def _mask_bits(sources: MeasurementSources, size: int, inside: np.ndarray) -> np.ndarray:
    """Return the OR of the mask bits in squares of half-size ``size`` about sources, int32 (n)."""
    mask = sources.exposure.mask.array
    x, y = sources.nearest_pixels
    x0, y0, _, _ = sources.box
    bits = np.zeros(len(sources), dtype=np.int64)
    for k in np.flatnonzero(inside):
        i, j = x[k] - x0, y[k] - y0
        part = mask[j - size : j + size + 1, i - size : i + size + 1]
        union = np.bitwise_or.reduce(part.reshape(-1, part.shape[-1]), axis=0)
        bits[k] = int.from_bytes(union.tobytes()[:4], "little")
    return bits.astype(np.uint32).view(np.int32)
