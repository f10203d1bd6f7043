"""Circular apertures: base_CircularApertureFlux (spec 17.5)."""

from __future__ import annotations

__all__ = ("CircularApertureFluxConfig", "CircularApertureFluxPlugin")

import lsst.pex.config as pex_config
import numpy as np
from numba import njit

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry._aperture_kernels import Circles, circle_scratch, circle_sums
from secondlight.photometry.apertures import FLAG_COEFFICIENTS, FLAG_TRUNCATED, make_circles

from ..pixels import SourcePixels, hide, show
from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources


class CircularApertureFluxConfig(MeasurementPluginConfig):
    """Configuration of `CircularApertureFluxPlugin`."""

    radii = pex_config.ListField[float](
        doc="Radii, pixels.",
        default=[3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0, 50.0, 70.0],
        itemCheck=lambda r: r > 0,
    )
    maxSincRadius = pex_config.Field[float](
        doc="Largest radius measured with sinc coefficients, pixels; larger ones sum whole pixels.",
        default=10.0,
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
        circles, columns = make_circles(self.config.radii, max_sinc_radius=self.config.maxSincRadius)
        fluxes, variances, flags = _circle_loop(sources.pixels, *sources.centroids, circles)
        catalog = sources.catalog
        for radius, column in zip(self.config.radii, columns.tolist(), strict=True):
            flux, bits, prefix = fluxes[:, column], flags[:, column], self._prefix(radius)
            with np.errstate(invalid="ignore"):
                error = np.sqrt(variances[:, column])
            failed = ((bits & FLAG_TRUNCATED) != 0) | ~(np.isfinite(flux) & np.isfinite(error))
            catalog[f"{prefix}_instFlux"], catalog[f"{prefix}_instFluxErr"] = flux, error
            catalog[f"{prefix}_flag"] = self.general_flag(sources, failed)
            catalog[f"{prefix}_flag_apertureTruncated"] = bits & FLAG_TRUNCATED
            if self._is_sinc(radius):
                catalog[f"{prefix}_flag_sincCoeffsTruncated"] = bits & FLAG_COEFFICIENTS


@njit(cache=True, nogil=True)
def _circle_loop(
    pixels: SourcePixels, x: np.ndarray, y: np.ndarray, circles: Circles
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flux, its variance and flags (n, k + m) of circles at parent positions x, y (n)."""
    shape = len(x), len(circles.radii) + len(circles.discs)
    flux, variance = np.empty(shape), np.empty(shape)
    flags = np.zeros(shape, np.int64)
    scratch = circle_scratch(circles)
    for k in range(len(x)):
        i, j = x[k] - pixels.x0, y[k] - pixels.y0
        show(pixels, k)
        circle_sums(pixels.image, pixels.variance, i, j, circles, scratch, flux[k], variance[k], flags[k])
        hide(pixels, k)
    return flux, variance, flags
