"""ext_photometryKron_KronFlux: flux in an ellipse as large as the source (spec 17.15, finalize 8.7).

The Kron radius is the flux-weighted mean radius of the pixels about a source (Kron 1980).
"""

from __future__ import annotations

__all__ = ("KronFluxConfig", "KronFluxPlugin")

import math

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.schema import Schema
from secondlight.photometry._elliptical_sinc_kernels import JINC_TABLE
from secondlight.psf.evaluation import average_position, determinant_radius, psf_shapes

from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from . import _kron_kernels as kernels

_GAUSSIAN_RADIUS = math.sqrt(math.pi / 2.0)
"""Kron radius of a Gaussian of sigma 1."""

_FLAGS = {
    "flag": "general failure",
    "flag_edge": "the pixels needed reach over the edge of the image",
    "flag_bad_shape_no_psf": "no usable shape, and no PSF to take its place",
    "flag_no_minimum_radius": "the minimum radius could not be enforced: none is set and there is no PSF",
    "flag_no_fallback_radius": "no radius was found, none is set for this case and there is no PSF",
    "flag_bad_radius": "no radius was found; a minimum is used instead",
    "flag_used_minimum_radius": "the configured minimum radius is used",
    "flag_used_psf_radius": "the radius of the PSF is used",
    "flag_small_radius": "the radius that was found is below the minimum",
    "flag_bad_shape": "the shape of the source is not usable; that of the PSF is used",
}
_BITS = {
    "flag_edge": kernels.EDGE,
    "flag_no_minimum_radius": kernels.NO_MINIMUM,
    "flag_no_fallback_radius": kernels.NO_FALLBACK,
    "flag_bad_radius": kernels.BAD_RADIUS,
    "flag_used_minimum_radius": kernels.USED_MINIMUM,
    "flag_used_psf_radius": kernels.USED_PSF,
    "flag_small_radius": kernels.SMALL,
}


class KronFluxConfig(MeasurementPluginConfig):
    """Configuration of `KronFluxPlugin`."""

    fixed = pex_config.Field[bool](
        doc="Whether the radius is given (refRadiusName, else the size of the shape) and not measured.",
        default=False,
    )
    nSigmaForRadius = pex_config.Field[float](
        doc="Size of the ellipse the radius is measured in, in units of the shape.",
        default=6.0,
        check=lambda v: v > 0,
    )
    nIterForRadius = pex_config.Field[int](
        doc="How many times the radius is measured, each time about the last one.",
        default=1,
        check=lambda v: v >= 1,
    )
    nRadiusForFlux = pex_config.Field[float](
        doc="Size of the aperture in Kron radii.", default=2.5, check=lambda v: v > 0
    )
    maxSincRadius = pex_config.Field[float](
        doc="Largest minor axis measured with sinc weights, pixels; larger apertures, and those longer than "
        "some hundred pixels, sum whole pixels.",
        default=10.0,
    )
    minimumRadius = pex_config.Field[float](
        doc="Smallest radius, pixels; if 0, that of the PSF.", default=0.0, check=lambda v: v >= 0
    )
    enforceMinimumRadius = pex_config.Field[bool](
        doc="Whether a smaller radius is raised to the smallest.", default=True
    )
    useFootprintRadius = pex_config.Field[bool](
        doc="Whether the radius is measured within an ellipse at least as large as the footprint.",
        default=False,
    )
    smoothingSigma = pex_config.Field[float](
        doc="Width (sigma) of the Gaussian that smooths the image for the radius, pixels; none if not > 0.",
        default=-1.0,
    )
    refRadiusName = pex_config.Field[str](
        doc="Column of the radii of a reference catalog, for measurements with a fixed radius.",
        default="ext_photometryKron_KronFlux_radius",
    )
    maxRadius = pex_config.Field[float](
        doc="Largest radius to believe, pixels.", default=200.0, check=lambda v: v > 0
    )
    marginalizeRadius = pex_config.Field[bool](
        doc="Whether the error of the flux includes that of a radius measured on the same pixels.",
        default=True,
    )


@register("ext_photometryKron_KronFlux", ap_corr=True)
class KronFluxPlugin(MeasurementPlugin):
    """Flux within some Kron radii, in an ellipse of the form of the shape slot."""

    ConfigClass = KronFluxConfig
    config: KronFluxConfig
    order = FLUX_ORDER
    uses_centroid = True
    uses_psf = True
    is_centroider = True

    def declare(self, schema: Schema) -> None:
        """Add flux, error, radii and flags."""
        if "slot_Shape" not in schema.aliases:
            raise ValueError(f"{self.name} needs slot_Shape, which neither the slots nor the schema define.")
        self.add_flux(schema, f"flux within {self.config.nRadiusForFlux} Kron radii")
        for suffix, doc in {
            "radius": "Kron radius",
            "radius_for_radius": "radius of the ellipse in which the Kron radius was measured",
            "psf_radius": "Kron radius of the PSF",
        }.items():
            schema.add(self.column(suffix), np.float32, doc, unit="pix")
        self.add_flags(schema, _FLAGS)

    def measure(self, sources: MeasurementSources) -> None:
        """Measure at the slots, or with the shape of the PSF where the shape slot failed."""
        smoothing = max(0.0, self.config.smoothingSigma)
        psf_radii = _GAUSSIAN_RADIUS * np.hypot(determinant_radius(sources.psf_shapes), smoothing)
        shapes = self._shapes(sources)
        given = self._given_radii(sources, shapes)
        results, bits = kernels.kron_loop(
            sources.pixels,
            *sources.centroids,
            shapes,
            given,
            psf_radii,
            _smoothing_taps(smoothing),
            self._settings(),
            JINC_TABLE,
        )
        failed = (bits & kernels.FAILED) != 0
        no_shape = sources.shape_flag & np.isnan(shapes[:, 0])
        self.write(
            sources,
            instFlux=results[:, 0],
            instFluxErr=np.sqrt(results[:, 1]),
            radius=results[:, 2],
            radius_for_radius=results[:, 3],
            psf_radius=np.where(failed, np.nan, psf_radii),
            flag=self.general_flag(sources, failed | sources.shape_flag),
            flag_bad_shape=sources.shape_flag & ~no_shape,
            flag_bad_shape_no_psf=no_shape,
            **{suffix: (bits & bit) != 0 for suffix, bit in _BITS.items()},
        )
        sources.note_invalid_psf(np.isnan(psf_radii) & np.isfinite(sources.centroids[0]))

    def _settings(self) -> kernels.KronSettings:
        c = self.config
        return kernels.KronSettings(
            fixed=c.fixed,
            n_sigma=c.nSigmaForRadius,
            n_iterations=c.nIterForRadius,
            n_radius_for_flux=c.nRadiusForFlux,
            max_sinc_radius=c.maxSincRadius,
            minimum_radius=c.minimumRadius,
            enforce_minimum=c.enforceMinimumRadius,
            max_radius=c.maxRadius,
            marginalize=c.marginalizeRadius,
        )

    def _shapes(self, sources: MeasurementSources) -> np.ndarray:
        """Return the moments to start from, (n, 3): of the slot, else of the PSF at its average position."""
        shapes = np.array(sources.shapes)
        bad = sources.shape_flag
        if bad.any():
            x, y = average_position(sources.psf)
            shapes[bad] = psf_shapes(sources.psf, x=x, y=y)[0]
        if self.config.useFootprintRadius:
            size = determinant_radius(shapes)
            with np.errstate(invalid="ignore", divide="ignore"):
                growth = _footprint_sizes(sources.footprints) / (self.config.nSigmaForRadius * size)
            shapes *= np.where(growth > 1.0, growth, 1.0)[:, None] ** 2
        return shapes

    def _given_radii(self, sources: MeasurementSources, shapes: np.ndarray) -> np.ndarray:
        """Return the radii to use if they are fixed, (n)."""
        sizes = determinant_radius(shapes)
        if self.config.refRadiusName not in sources.catalog:
            return sizes
        given = np.array(sources.catalog[self.config.refRadiusName], dtype=np.float64)
        return np.where(given > 0, given, sizes)


def _smoothing_taps(sigma: float) -> np.ndarray:
    """Return a Gaussian of unit sum out to 2 sigma, or one pixel if sigma is 0."""
    half = int(2.0 * sigma)
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / (sigma or 1.0)) ** 2)
    return np.asarray(taps / taps.sum())


def _footprint_sizes(footprints: Footprints) -> np.ndarray:
    """Return sqrt(2) times the determinant radii of the second moments of footprints, pixels (n)."""
    f = footprints
    rows = np.repeat(np.arange(len(f)), np.diff(f.span_offsets))
    width = (f.span_x1 - f.span_x0 + 1).astype(np.float64)
    middle = 0.5 * (f.span_x0 + f.span_x1)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(rows, weights=values, minlength=len(f))

    with np.errstate(invalid="ignore", divide="ignore"):
        area = total(width)
        x, y = total(width * middle) / area, total(width * f.span_y) / area
        dx, dy = middle - x[rows], f.span_y - y[rows]
        xx = total(width * (dx**2 + (width**2 - 1.0) / 12.0)) / area
        yy, xy = total(width * dy**2) / area, total(width * dx * dy) / area
    return math.sqrt(2.0) * determinant_radius(np.column_stack([xx, yy, xy]))
