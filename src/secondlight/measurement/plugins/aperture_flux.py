"""Circular apertures: base_CircularApertureFlux and base_CompensatedTophatFlux (spec 17.5, 17.6)."""

from __future__ import annotations

__all__ = (
    "CircularApertureFluxConfig",
    "CircularApertureFluxPlugin",
    "CompensatedTophatFluxConfig",
    "CompensatedTophatFluxPlugin",
)

import math

import lsst.pex.config as pex_config
import numpy as np
from numba import njit

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry._aperture_kernels import naive_sums, sinc_sums
from secondlight.photometry.apertures import FLAG_COEFFICIENTS, FLAG_TRUNCATED, circle_coefficients

from ..pixels import SourcePixels, hide, show
from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources

_DEFAULT_MAX_SINC_RADIUS = 10.0


class CircularApertureFluxConfig(MeasurementPluginConfig):
    """Configuration of `CircularApertureFluxPlugin`."""

    radii = pex_config.ListField[float](
        doc="Radii, pixels.", default=[3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0, 50.0, 70.0]
    )
    maxSincRadius = pex_config.Field[float](
        doc="Largest radius measured with sinc coefficients, pixels; larger ones sum whole pixels.",
        default=_DEFAULT_MAX_SINC_RADIUS,
    )
    shiftKernel = pex_config.ChoiceField[str](
        doc="Kernel that shifts the sinc coefficients.",
        allowed={"lanczos5": "Lanczos kernel of order 5."},
        default="lanczos5",
    )


@register("base_CircularApertureFlux")
class CircularApertureFluxPlugin(MeasurementPlugin):
    """Fluxes in circles about the centroid slot."""

    ConfigClass = CircularApertureFluxConfig
    config: CircularApertureFluxConfig
    order = FLUX_ORDER
    uses_centroid = True

    def _prefix(self, radius: float) -> str:
        return self.column(f"{radius:.1f}".replace(".", "_"))

    def _is_sinc(self, radius: float) -> bool:
        return bool(radius <= self.config.maxSincRadius)

    def declare(self, schema: Schema) -> None:
        """Add flux, error and flags of each radius."""
        for radius in self.config.radii:
            prefix = self._prefix(radius)
            self.add_flux(schema, f"flux within {radius} pixels", prefix=prefix)
            flags = {
                "flag": "general failure",
                "flag_apertureTruncated": "the aperture reaches over the edge of the image",
            }
            if self._is_sinc(radius):
                flags["flag_sincCoeffsTruncated"] = "the sinc coefficients reach over the edge of the image"
            self.add_flags(schema, flags, prefix=prefix)

    def fail(self, catalog: SourceCatalog) -> None:
        """Set the flag of every radius."""
        for radius in self.config.radii:
            catalog[f"{self._prefix(radius)}_flag"] = True

    def measure(self, sources: MeasurementSources) -> None:
        """Measure at the centroid slot."""
        for radius in self.config.radii:
            flux, variance, bits = circle_sums(sources, radius, sinc=self._is_sinc(radius))
            error = np.sqrt(variance)
            failed = ((bits & FLAG_TRUNCATED) != 0) | ~(np.isfinite(flux) & np.isfinite(error))
            prefix, catalog = self._prefix(radius), sources.catalog
            catalog[f"{prefix}_instFlux"], catalog[f"{prefix}_instFluxErr"] = flux, error
            catalog[f"{prefix}_flag"] = self.general_flag(sources, failed)
            catalog[f"{prefix}_flag_apertureTruncated"] = bits & FLAG_TRUNCATED
            if self._is_sinc(radius):
                catalog[f"{prefix}_flag_sincCoeffsTruncated"] = bits & FLAG_COEFFICIENTS


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


def circle_sums(
    sources: MeasurementSources, radius: float, *, sinc: bool | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flux, its variance and flags (n) in circles about the centroids."""
    if sinc is None:
        sinc = radius <= _DEFAULT_MAX_SINC_RADIUS
    coefficients = circle_coefficients(float(radius)).copy() if sinc else np.zeros((0, 0))
    x, y = sources.centroids
    return _circle_loop(sources.pixels, x, y, float(radius), coefficients)


@njit(cache=True, nogil=True)
def _circle_loop(
    pixels: SourcePixels, x: np.ndarray, y: np.ndarray, radius: float, coefficients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum circles at parent positions x, y (n): with sinc coefficients (s, s), or whole pixels if s is 0."""
    n = len(x)
    flux = np.full(n, np.nan)
    variance = np.full(n, np.nan)
    flags = np.zeros(n, np.int64)
    rows = np.empty_like(coefficients)
    shifted = np.empty_like(coefficients)
    square = radius * radius
    for k in range(n):
        i, j = x[k] - pixels.x0, y[k] - pixels.y0
        if not (math.isfinite(i) and math.isfinite(j)):
            continue
        show(pixels, k)
        if coefficients.size > 0:
            flux[k], variance[k], flags[k] = sinc_sums(
                pixels.image, pixels.variance, i, j, radius, radius, coefficients, rows, shifted
            )
        else:
            flux[k], variance[k], flags[k] = naive_sums(
                pixels.image, pixels.variance, i, j, square, square, 0.0
            )
        hide(pixels, k)
    return flux, variance, flags
