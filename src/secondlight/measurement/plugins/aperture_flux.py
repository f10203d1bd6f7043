"""Circular apertures: base_CircularApertureFlux (spec 17.5)."""

from __future__ import annotations

__all__ = ("CircularApertureFluxConfig", "CircularApertureFluxPlugin", "circle_sums")

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
