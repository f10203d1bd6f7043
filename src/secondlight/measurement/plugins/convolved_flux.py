"""ext_convolved_ConvolvedFlux: aperture fluxes as worse seeing would show them (spec finalize 8.8).

Images of several visits or bands, each convolved to the same seeing, give colours in apertures.
"""

from __future__ import annotations

__all__ = ("ConvolvedFluxConfig", "ConvolvedFluxPlugin")

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry._elliptical_sinc_kernels import JINC_TABLE
from secondlight.photometry.ap_corr_names import add_ap_corr_name
from secondlight.photometry.apertures import FLAG_COEFFICIENTS, FLAG_TRUNCATED, make_circles
from secondlight.psf.evaluation import determinant_radius

from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from . import _convolved_kernels as kernels
from .aperture_flux import CircularApertureFluxConfig

_NAME = "ext_convolved_ConvolvedFlux"
_SIGMA_TO_FWHM = 2.3548200450309493


class ConvolvedFluxConfig(MeasurementPluginConfig):
    """Configuration of `ConvolvedFluxPlugin`."""

    seeing = pex_config.ListField[float](
        doc="Seeings to convolve to: FWHM of a Gaussian PSF, pixels.",
        default=[3.5, 5.0, 6.5],
        itemCheck=lambda v: v > 0,
    )
    kernelScale = pex_config.Field[float](
        doc="Half-width of the kernels in units of their sigma.", default=4.0, check=lambda v: v > 0
    )
    aperture = pex_config.ConfigField[CircularApertureFluxConfig](doc="Circular apertures.")
    maxSincRadius = pex_config.Field[float](
        doc="Largest minor axis of a Kron aperture measured with sinc weights, pixels; larger ones sum whole "
        "pixels.",
        default=10.0,
    )
    kronRadiusName = pex_config.Field[str](
        doc="Column of the Kron radii.", default="ext_photometryKron_KronFlux_radius"
    )
    kronRadiusForFlux = pex_config.Field[float](
        doc="Size of the Kron aperture in Kron radii.", default=2.5, check=lambda v: v > 0
    )
    registerForApCorr = pex_config.Field[bool](
        doc="Whether the fluxes take part in aperture correction.", default=True
    )

    def setDefaults(self) -> None:
        """Use apertures about as large as the seeing."""
        super().setDefaults()
        self.aperture.radii = [3.3, 4.5, 6.0]

    def getBaseNameForSeeing(self, seeing: float, name: str = _NAME) -> str:
        """Return what the columns of a seeing start with.

        Raises
        ------
        ValueError
            Raised if the seeing is not configured.
        """
        seeings = list(self.seeing)
        if seeing not in seeings:
            raise ValueError(f"{name} has the seeings {seeings} and not {seeing}.")
        return f"{name}_{seeings.index(seeing)}"

    def getApertureResultName(self, seeing: float, radius: float, name: str = _NAME) -> str:
        """Return the column prefix of a circular aperture at a seeing."""
        return f"{self.getBaseNameForSeeing(seeing, name)}_{radius:.1f}".replace(".", "_")

    def getKronResultName(self, seeing: float, name: str = _NAME) -> str:
        """Return the column prefix of the Kron aperture at a seeing."""
        return f"{self.getBaseNameForSeeing(seeing, name)}_kron"

    def getAllApertureResultNames(self, name: str = _NAME) -> list[str]:
        """Return the column prefixes of all circular apertures."""
        return [self.getApertureResultName(s, r, name) for s in self.seeing for r in self.aperture.radii]

    def getAllKronResultNames(self, name: str = _NAME) -> list[str]:
        """Return the column prefixes of all Kron apertures."""
        return [self.getKronResultName(s, name) for s in self.seeing]

    def getAllResultNames(self, name: str = _NAME) -> list[str]:
        """Return the column prefixes of all fluxes."""
        return self.getAllApertureResultNames(name) + self.getAllKronResultNames(name)


@register(_NAME)
class ConvolvedFluxPlugin(MeasurementPlugin):
    """Fluxes in circles and in the Kron ellipse on the image convolved to several seeings."""

    ConfigClass = ConvolvedFluxConfig
    config: ConvolvedFluxConfig
    order = FLUX_ORDER + 0.1
    uses_centroid = True
    uses_psf = True

    def declare(self, schema: Schema) -> None:
        """Add the seeing, and fluxes and flags of every seeing and aperture."""
        if "slot_Shape" not in schema.aliases:
            raise ValueError(f"{self.name} needs slot_Shape, which neither the slots nor the schema define.")
        schema.add(self.column("seeing"), np.float32, "sigma of the PSF before the convolution", unit="pix")
        schema.add_flag(self.column("flag"), "general failure")
        for seeing in self.config.seeing:
            base = self.config.getBaseNameForSeeing(seeing, self.name)
            schema.add_flag(f"{base}_deconv", f"not convolved: the seeing is worse than {seeing} pixels")
            for radius in self.config.aperture.radii:
                self._declare_circle(schema, seeing, radius)
            kron = self.config.getKronResultName(seeing, self.name)
            self.add_flux(schema, f"Kron flux at a seeing of {seeing} pixels", prefix=kron)
            schema.add_flag(f"{kron}_flag", "no Kron flux at this seeing")
        if self.config.registerForApCorr:
            for name in self.config.getAllResultNames(self.name):
                add_ap_corr_name(name)

    def _declare_circle(self, schema: Schema, seeing: float, radius: float) -> None:
        prefix = self.config.getApertureResultName(seeing, radius, self.name)
        self.add_flux(schema, f"flux within {radius} pixels at a seeing of {seeing} pixels", prefix=prefix)
        flags = {
            "flag": "general failure",
            "flag_apertureTruncated": "the aperture reaches over the edge of the image",
            "flag_sincCoeffsTruncated": "the sinc coefficients reach over the edge of the image",
        }
        self.add_flags(schema, flags, prefix=prefix)

    def _declare_aliases(self, schema: Schema) -> None:
        super()._declare_aliases(schema)
        for seeing in self.config.seeing:
            base = self.config.getBaseNameForSeeing(seeing, self.name)
            schema.set_alias(f"{base}_flag_badCentroid", schema.resolve("slot_Centroid") + "_flag")

    def fail(self, catalog: SourceCatalog) -> None:
        """Set the general flag and that of every flux."""
        super().fail(catalog)
        for name in self.config.getAllResultNames(self.name):
            catalog[f"{name}_flag"] = True

    def measure(self, sources: MeasurementSources) -> None:
        """Measure at the centroid slot, with the Kron radii and the form of the shape slot."""
        aperture = self.config.aperture
        circles, columns = make_circles(aperture.radii, max_sinc_radius=aperture.maxSincRadius)
        seeing = determinant_radius(sources.psf_shapes)
        flux, variance, bits, unconvolved = kernels.convolved_loop(
            sources.pixels,
            *sources.centroids,
            seeing,
            self._kron_ellipses(sources),
            np.array(self.config.seeing) / _SIGMA_TO_FWHM,
            self.config.kernelScale,
            circles,
            self.config.maxSincRadius,
            JINC_TABLE,
        )
        no_psf = np.isnan(seeing)
        sources.note_invalid_psf(no_psf & np.isfinite(sources.centroids[0]))
        self.write(sources, seeing=seeing, flag=self.general_flag(sources, no_psf))
        with np.errstate(invalid="ignore"):
            error = np.sqrt(variance)
        catalog = sources.catalog
        for t, target in enumerate(self.config.seeing):
            catalog[f"{self.config.getBaseNameForSeeing(target, self.name)}_deconv"] = unconvolved[:, t]
            kron = self.config.getKronResultName(target, self.name)
            self._write_flux(sources, kron, flux[:, t, -1], error[:, t, -1])
            for radius, a in zip(aperture.radii, columns.tolist(), strict=True):
                prefix = self.config.getApertureResultName(target, radius, self.name)
                self._write_flux(sources, prefix, flux[:, t, a], error[:, t, a])
                catalog[f"{prefix}_flag_apertureTruncated"] = bits[:, a] & FLAG_TRUNCATED
                catalog[f"{prefix}_flag_sincCoeffsTruncated"] = bits[:, a] & FLAG_COEFFICIENTS

    def _write_flux(
        self, sources: MeasurementSources, prefix: str, flux: np.ndarray, error: np.ndarray
    ) -> None:
        failed = ~(np.isfinite(flux) & np.isfinite(error))
        sources.catalog[f"{prefix}_instFlux"], sources.catalog[f"{prefix}_instFluxErr"] = flux, error
        sources.catalog[f"{prefix}_flag"] = self.general_flag(sources, failed)

    def _kron_ellipses(self, sources: MeasurementSources) -> np.ndarray:
        """Return the matrices ``[xx, yy, xy]`` of the Kron apertures, pixel^2 (n, 3); NaN if unknown."""
        shapes = sources.shapes
        if self.config.kronRadiusName not in sources.catalog:
            return np.full_like(shapes, np.nan)
        radius = np.array(sources.catalog[self.config.kronRadiusName], dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = self.config.kronRadiusForFlux * radius / determinant_radius(shapes)
            scale = np.where(np.isfinite(scale) & (scale > 0), scale, np.nan)
        return np.asarray(shapes * scale[:, None] ** 2)
