"""Fluxes compensated for the background about the source (spec 17.6, 17.7).

Both are sums of the pixels with weights that add up to exactly zero, so that a constant background has no
effect: a disc less an annulus about it, and a Gaussian less a wider one.
"""

from __future__ import annotations

__all__ = (
    "CompensatedGaussianFluxConfig",
    "CompensatedGaussianFluxPlugin",
    "CompensatedTophatFluxConfig",
    "CompensatedTophatFluxPlugin",
)

import math
from abc import abstractmethod
from collections.abc import Sequence

import lsst.pex.config as pex_config
import numpy as np
import scipy.stats

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog

from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from ._compensated_kernels import gaussian_loop, mask_bits_loop, tophat_loop

_CONTAINED = 0.995
"""Share of the wider Gaussian, along one axis, below the upper edge of the pixels that are used."""


class CompensatedFluxPlugin(MeasurementPlugin):
    """What both share: columns of each width, the box that must lie inside the image, and its mask bits."""

    order = FLUX_ORDER

    @property
    @abstractmethod
    def widths(self) -> Sequence[int]:
        """Radii or widths to measure, pixels, which end the names of the columns."""

    @abstractmethod
    def half_size(self, width: int) -> int:
        """Return how far the box of a width reaches from its middle pixel."""

    @abstractmethod
    def sums(
        self, sources: MeasurementSources, x: np.ndarray, y: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return flux and variance (n) at positions (n), of which those that are NaN are left out."""

    def declare(self, schema: Schema) -> None:
        """Add flux, error, mask bits and flags of each width."""
        for width in self.widths:
            prefix = self.column(str(width))
            self.add_flux(schema, f"background-compensated flux, width {width} pixels", prefix=prefix)
            doc = "bits of the mask planes near the source, in the order of the mask's schema"
            schema.add(f"{prefix}_mask_bits", np.int32, doc)
            flags = {"flag": "general failure", "flag_bounds": "the pixels needed reach over the edge"}
            self.add_flags(schema, flags, prefix=prefix)

    def fail(self, catalog: SourceCatalog) -> None:
        """Set the flag of every width."""
        for width in self.widths:
            catalog[f"{self.column(str(width))}_flag"] = True

    def measure(self, sources: MeasurementSources) -> None:
        """Measure at the centroid slot; unlike other fluxes not at the peak where there is no centroid."""
        catalog = sources.catalog
        x, y = np.array(catalog["slot_Centroid_x"]), np.array(catalog["slot_Centroid_y"])
        known = np.isfinite(x) & np.isfinite(y)
        for width in self.widths:
            half = self.half_size(width)
            inside = _box_inside(sources, x, y, half)
            at_x, at_y = np.where(inside, x, np.nan), np.where(inside, y, np.nan)
            flux, variance = self.sums(sources, at_x, at_y, width)
            with np.errstate(invalid="ignore"):
                error = np.sqrt(variance)
            prefix = self.column(str(width))
            catalog[f"{prefix}_instFlux"], catalog[f"{prefix}_instFluxErr"] = flux, error
            catalog[f"{prefix}_mask_bits"] = _mask_bits(sources, at_x, at_y, half)
            catalog[f"{prefix}_flag_bounds"] = known & ~inside
            catalog[f"{prefix}_flag"] = ~(np.isfinite(flux) & np.isfinite(error))


def _box_inside(sources: MeasurementSources, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    """Return whether the box of 2 half + 1 pixels about the nearest pixel lies inside the image, bool (n)."""
    x0, y0, x1, y1 = sources.box
    with np.errstate(invalid="ignore"):
        i, j = np.floor(x + 0.5), np.floor(y + 0.5)
        return np.asarray((i >= x0 + half) & (i <= x1 - half) & (j >= y0 + half) & (j <= y1 - half))


def _mask_bits(sources: MeasurementSources, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    """Return the first 32 mask bits set anywhere in boxes about positions (n), int32 (n); 0 where NaN."""
    x0, y0, _, _ = sources.box
    mask = sources.exposure.mask.array
    octets = mask_bits_loop(mask, x - x0, y - y0, half, min(mask.shape[2], 4))
    return octets.view("<i4")[:, 0].astype(np.int32)


class CompensatedTophatFluxConfig(MeasurementPluginConfig):
    """Configuration of `CompensatedTophatFluxPlugin`."""

    apertures = pex_config.ListField[int](doc="Radii, pixels.", default=[12], itemCheck=lambda r: r > 0)
    inner_scale = pex_config.Field[float](
        doc="Inner radius of the background annulus, in aperture radii.", default=1.0
    )
    outer_scale = pex_config.Field[float](
        doc="Outer radius of the background annulus, in aperture radii.", default=1.7
    )

    def validate(self) -> None:
        """Check that there is an annulus."""
        super().validate()
        if not 0.0 <= self.inner_scale < self.outer_scale:
            raise pex_config.FieldValidationError(
                type(self).outer_scale,
                self,
                f"Must be larger than inner_scale >= 0; found {self.outer_scale} and {self.inner_scale}.",
            )


@register("base_CompensatedTophatFlux")
class CompensatedTophatFluxPlugin(CompensatedFluxPlugin):
    """Pixels of a disc less the mean of those of an annulus."""

    ConfigClass = CompensatedTophatFluxConfig
    config: CompensatedTophatFluxConfig

    @property
    def widths(self) -> Sequence[int]:
        """Radii of the disc."""
        return list(self.config.apertures)

    def half_size(self, width: int) -> int:
        """Return the radius of the disc or the outer one of the annulus, the larger, in whole pixels."""
        return math.ceil(max(1.0, self.config.outer_scale) * width)

    def sums(
        self, sources: MeasurementSources, x: np.ndarray, y: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return flux and variance (n)."""
        inner, outer = self.config.inner_scale * width, self.config.outer_scale * width
        return tophat_loop(sources.pixels, x, y, float(width), inner, outer)


class CompensatedGaussianFluxConfig(MeasurementPluginConfig):
    """Configuration of `CompensatedGaussianFluxPlugin`."""

    kernel_widths = pex_config.ListField[int](
        doc="Widths (sigma) of the Gaussian weight, pixels.", default=[3, 5], itemCheck=lambda s: s > 0
    )
    t = pex_config.Field[float](
        doc="Width of the Gaussian that is subtracted, in widths of the first.",
        default=2.0,
        check=lambda t: t > 1.0,
    )


@register("base_CompensatedGaussianFlux")
class CompensatedGaussianFluxPlugin(CompensatedFluxPlugin):
    """Flux under a Gaussian less the mean under a wider one, exact for a source as wide as the first."""

    ConfigClass = CompensatedGaussianFluxConfig
    config: CompensatedGaussianFluxConfig

    @property
    def widths(self) -> Sequence[int]:
        """Sigmas of the narrower Gaussian."""
        return list(self.config.kernel_widths)

    def half_size(self, width: int) -> int:
        """Return how far the wider Gaussian is followed."""
        return math.ceil(float(scipy.stats.norm.ppf(_CONTAINED)) * width * self.config.t)

    def sums(
        self, sources: MeasurementSources, x: np.ndarray, y: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return flux and variance (n)."""
        half = self.half_size(width)
        return gaussian_loop(sources.pixels, x, y, float(width), float(self.config.t), half)
