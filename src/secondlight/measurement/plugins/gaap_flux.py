"""ext_gaap_GaapFlux: Gaussian-aperture-and-PSF fluxes (spec finalize 8.9; Kuijken 2008, Kuijken et al. 2015).

The image is convolved so that the PSF becomes a round Gaussian; pixels are then weighted with a Gaussian so
chosen that the flux is that under a wanted Gaussian on the sky as it is without seeing.
"""

from __future__ import annotations

__all__ = ("GaapFluxConfig", "GaapFluxPlugin", "GaussianizePsfConfig", "KernelFitConfig")

import itertools
from typing import Any, NamedTuple

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry.ap_corr_names import add_ap_corr_name
from secondlight.psf.evaluation import determinant_radius, trace_radius

from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from ._gaap_fit_kernels import GaussianizeSettings
from ._gaap_kernels import gaap_loop
from .sky_position import local_sky

_NAME = "ext_gaap_GaapFlux"
_PSF_FLUX = "PsfFlux"
_OPTIMAL = "Optimal"
_RADIAN = 180.0 * 3600.0 / np.pi
"""Arcseconds."""
_LEAST_DET = 1e-12


def _only(dtype: type, value: int, doc: str) -> Any:
    """Return a field of old configurations that can have one value only."""
    return pex_config.ChoiceField(dtype=dtype, doc=doc, allowed={value: doc}, default=value)


class KernelFitConfig(pex_config.Config):
    """Kernel that makes the PSF Gaussian: a Gaussian times a polynomial."""

    kernelBasisSet = pex_config.ChoiceField[str](
        doc="Functions the kernel is made of.",
        allowed={"alard-lupton": "Gaussians times polynomials (Alard & Lupton 1998)."},
        default="alard-lupton",
    )
    alardNGauss = _only(int, 1, "Number of Gaussians.")
    alardDegGauss = pex_config.ListField[int](
        doc="Degree of the polynomial.", default=[4], length=1, itemCheck=lambda v: 0 <= v <= 8
    )
    alardGaussBeta = pex_config.Field[float](
        doc="Ratio of the widths of Gaussians; of no consequence with one.", default=1.0
    )
    alardMinSig = pex_config.Field[float](
        doc="Least width (sigma) of the Gaussian, pixels.", default=0.7, check=lambda v: v > 0
    )
    kernelSize = pex_config.Field[int](
        doc="Side of the kernel, pixels, unless scaleByFwhm.", default=21, check=lambda v: v > 0
    )
    scaleByFwhm = pex_config.Field[bool](
        doc="Whether the side of the kernel follows the width of its Gaussian.", default=True
    )
    kernelSizeFwhmScaling = pex_config.Field[float](
        doc="Side of the kernel in units of the width (sigma) of its Gaussian.", default=6.0
    )
    kernelSizeMin = pex_config.Field[int](
        doc="Least side of the kernel, pixels.", default=21, check=lambda v: v > 0
    )
    kernelSizeMax = pex_config.Field[int](
        doc="Largest side of the kernel, pixels.", default=35, check=lambda v: v > 0
    )
    spatialKernelOrder = _only(int, 0, "Order of the kernel's variation: there is one for each source.")
    fitForBackground = _only(bool, False, "Whether a background is fitted: PSFs have none.")
    constantVarianceWeighting = _only(bool, True, "Whether all pixels have the same weight.")
    singleKernelClipping = _only(bool, False, "Whether sources are left out for their kernel.")
    kernelSumClipping = _only(bool, False, "Whether sources are left out for the sum of their kernel.")
    spatialKernelClipping = _only(bool, False, "Whether sources are left out for their residuals.")


class GaussianizePsfConfig(pex_config.Config):
    """How the PSF is made Gaussian."""

    kernel = pex_config.ConfigChoiceField(
        doc="Kernel and its fit.", typemap={"AL": KernelFitConfig}, default="AL"
    )
    doAutoPadPsf = pex_config.Field[bool](
        doc="Whether zeros are put around the PSF image so that it is autoPadPsfTo times as large as the "
        "kernel; otherwise it grows by padPsfBy.",
        default=True,
    )
    autoPadPsfTo = pex_config.RangeField(
        dtype=float,
        doc="Least side of the PSF image in units of that of the kernel.",
        default=1.4,
        min=1.0,
        max=2.0,
    )
    padPsfBy = pex_config.Field[int](
        doc="Pixels by which the PSF image grows.", default=0, check=lambda v: v >= 0
    )
    convolutionMethod = pex_config.ChoiceField[str](
        doc="Not used, all give the same; kept for old configurations.",
        allowed={name: name for name in ("direct", "fft", "auto", "overlap-add")},
        default="auto",
    )

    def settings(self) -> GaussianizeSettings:
        """Return the settings in the form compiled kernels take."""
        kernel = self.kernel["AL"]
        return GaussianizeSettings(
            degree=kernel.alardDegGauss[0],
            min_sigma=kernel.alardMinSig,
            kernel_size=kernel.kernelSize,
            scale_by_fwhm=kernel.scaleByFwhm,
            fwhm_scaling=kernel.kernelSizeFwhmScaling,
            size_min=kernel.kernelSizeMin,
            size_max=kernel.kernelSizeMax,
            auto_pad=self.doAutoPadPsf,
            pad_to=self.autoPadPsfTo,
            pad_by=self.padPsfBy,
        )


class GaapFluxConfig(MeasurementPluginConfig):
    """Configuration of `GaapFluxPlugin`."""

    sigmas = pex_config.ListField[float](
        doc="Widths (sigma) of the apertures on the sky, arcsec.",
        default=[0.7, 1.0],
        itemCheck=lambda v: v > 0,
    )
    scalingFactors = pex_config.ListField[float](
        doc="Widths of the Gaussian PSF in units of that of the PSF.",
        default=[1.15],
        itemCheck=lambda v: v >= 1.0,
    )
    _modelPsfMatch = pex_config.ConfigField[GaussianizePsfConfig](doc="How the PSF is made Gaussian.")
    _modelPsfDimension = pex_config.Field[int](
        doc="Not used, the Gaussian PSF is known exactly; kept for old configurations.",
        default=65,
        check=lambda v: v > 0 and v % 2 == 1,
    )
    doPsfPhotometry = pex_config.Field[bool](
        doc="Whether to measure with the Gaussian PSF as the aperture.", default=False
    )
    doOptimalPhotometry = pex_config.Field[bool](
        doc="Whether to measure with an aperture of the shape of the source.", default=True
    )
    registerForApCorr = pex_config.Field[bool](
        doc="Whether the fluxes take part in aperture correction.", default=True
    )

    @property
    def gaussianize(self) -> GaussianizeSettings:
        """Settings of the fit of the kernels."""
        return self._modelPsfMatch.settings()

    @property
    def apertures(self) -> list[float | str]:
        """Apertures in the order they are measured."""
        apertures: list[float | str] = list(self.sigmas)
        if self.doPsfPhotometry:
            apertures.append(_PSF_FLUX)
        if self.doOptimalPhotometry:
            apertures.append(_OPTIMAL)
        return apertures

    @staticmethod
    def getBaseName(factor: float, name: str = _NAME) -> str:
        """Return what the columns of a scaling factor start with."""
        return f"{name}_{factor}x".replace(".", "_")

    @classmethod
    def getGaapResultName(cls, factor: float, aperture: float | str, name: str = _NAME) -> str:
        """Return the column prefix of a flux: of a width in arcsec, ``PsfFlux`` or ``Optimal``."""
        return f"{cls.getBaseName(factor, name)}_{aperture}".replace(".", "_")

    def getAllGaapResultNames(self, name: str = _NAME) -> list[str]:
        """Return the column prefixes of all fluxes."""
        pairs = itertools.product(self.scalingFactors, self.apertures)
        return [self.getGaapResultName(factor, aperture, name) for factor, aperture in pairs]


class _Apertures(NamedTuple):
    """Apertures of n sources for one scaling factor.

    Attributes
    ----------
    moments
        Moments ``[xx, yy, xy]`` of the weights, pixel^2 (n, a, 3); NaN for those that cannot be measured.
    scale
        What the weighted sums are multiplied with (n, a).
    big_psf
        Whether the PSF is too large for them, bool (n, a).
    """

    moments: np.ndarray
    scale: np.ndarray
    big_psf: np.ndarray


@register(_NAME)
class GaapFluxPlugin(MeasurementPlugin):
    """Fluxes in Gaussian apertures on the sky, whatever the PSF."""

    ConfigClass = GaapFluxConfig
    config: GaapFluxConfig
    order = FLUX_ORDER
    uses_centroid = True
    uses_psf = True

    def declare(self, schema: Schema) -> None:
        """Add fluxes and flags of every aperture, and the shape of the optimal one."""
        if self.config.doOptimalPhotometry:
            if "slot_Shape" not in schema.aliases:
                raise ValueError(
                    f"{self.name} needs slot_Shape, which neither the slots nor the schema define."
                )
            for c in ("xx", "yy", "xy"):
                doc = f"{c} moment of the optimal aperture: that of source and PSF together"
                schema.add(self.column(f"OptimalShape_{c}"), np.float64, doc, unit="pix2")
        for factor in self.config.scalingFactors:
            base = self.config.getBaseName(factor, self.name)
            schema.add_flag(f"{base}_flag_gaussianization", "the PSF could not be made Gaussian")
            for aperture in self.config.apertures:
                self._declare_aperture(schema, factor, aperture)
        flags = {
            "flag": "general failure",
            "flag_edge": "the pixels needed reach over the edge of the image",
            "flag_no_pixel": "the footprint has no pixels",
        }
        self.add_flags(schema, flags)
        if self.config.registerForApCorr:
            for name in self.config.getAllGaapResultNames(self.name):
                add_ap_corr_name(name)

    def _declare_aperture(self, schema: Schema, factor: float, aperture: float | str) -> None:
        prefix = self.config.getGaapResultName(factor, aperture, self.name)
        self.add_flux(
            schema, f"flux in aperture {aperture} with a PSF made {factor} times wider", prefix=prefix
        )
        schema.add_flag(f"{prefix}_flag", "no flux in this aperture")
        if aperture != _PSF_FLUX:
            schema.add_flag(f"{prefix}_flag_bigPsf", "the PSF is too large for this aperture")

    def fail(self, catalog: SourceCatalog) -> None:
        """Set the general flag and that of every flux."""
        super().fail(catalog)
        for name in self.config.getAllGaapResultNames(self.name):
            catalog[f"{name}_flag"] = True

    def measure(self, sources: MeasurementSources) -> None:
        """Measure at the centroid slot."""
        psf_sigmas = trace_radius(sources.psf_shapes)
        no_psf = ~(psf_sigmas > 0) | sources.psf_flag
        sources.note_invalid_psf(no_psf & np.isfinite(sources.centroids[0]))
        boxes, clipped = _boxes(sources, margin=self.config._modelPsfMatch.kernel["AL"].kernelSize // 2)
        no_pixel = boxes[:, 0] > boxes[:, 2]
        optimal = self._optimal_shapes(sources)
        to_pixels = _pixels_per_arcsec(sources)
        for factor in self.config.scalingFactors:
            targets = factor * psf_sigmas
            apertures = self._apertures(targets, optimal, to_pixels)
            sums, variances, failed = gaap_loop(
                sources.pixels,
                *sources.centroids,
                boxes,
                sources.psf_kernels,
                psf_sigmas,
                targets,
                apertures.moments,
                self.config.gaussianize,
            )
            sources.catalog[f"{self.config.getBaseName(factor, self.name)}_flag_gaussianization"] = failed
            self._write_fluxes(sources, factor, apertures, sums, variances)
        failed = no_psf | no_pixel
        if self.config.doOptimalPhotometry:
            self.write(
                sources, **{f"OptimalShape_{c}": optimal[:, k] for k, c in enumerate(("xx", "yy", "xy"))}
            )
            failed |= np.isnan(optimal[:, 0])
        self.write(
            sources, flag=self.general_flag(sources, failed), flag_edge=clipped, flag_no_pixel=no_pixel
        )

    def _write_fluxes(
        self,
        sources: MeasurementSources,
        factor: float,
        apertures: _Apertures,
        sums: np.ndarray,
        variances: np.ndarray,
    ) -> None:
        flux = 2.0 * apertures.scale * sums
        with np.errstate(invalid="ignore"):
            error = 2.0 * apertures.scale * np.sqrt(variances)
        failed = ~(np.isfinite(flux) & np.isfinite(error))
        catalog = sources.catalog
        for a, aperture in enumerate(self.config.apertures):
            prefix = self.config.getGaapResultName(factor, aperture, self.name)
            catalog[f"{prefix}_instFlux"], catalog[f"{prefix}_instFluxErr"] = flux[:, a], error[:, a]
            catalog[f"{prefix}_flag"] = self.general_flag(sources, failed[:, a])
            if aperture != _PSF_FLUX:
                catalog[f"{prefix}_flag_bigPsf"] = apertures.big_psf[:, a]

    def _apertures(self, targets: np.ndarray, optimal: np.ndarray, to_pixels: np.ndarray) -> _Apertures:
        """Return the apertures for a Gaussian PSF.

        Parameters
        ----------
        targets
            Width (sigma) of the PSF, pixels (n).
        optimal
            Moments of the optimal aperture, pixel^2 (n, 3).
        to_pixels
            Pixels per arcsec on the sky, (n, 2, 2).
        """
        square = targets[:, None] ** 2 * np.array([1.0, 1.0, 0.0])
        on_sky = to_pixels @ to_pixels.transpose(0, 2, 1)
        on_sky = np.column_stack([on_sky[:, 0, 0], on_sky[:, 1, 1], on_sky[:, 0, 1]])
        pixels_per_arcsec = determinant_radius(on_sky)
        moments, scales, big = [], [], []
        for aperture in self.config.apertures:
            if aperture == _PSF_FLUX:
                moments.append(square)
                scales.append(np.ones(len(targets)))
                big.append(np.zeros(len(targets), dtype=bool))
                continue
            whole = optimal if aperture == _OPTIMAL else float(aperture) ** 2 * on_sky
            weight = whole - square
            with np.errstate(invalid="ignore"):
                # Where there is no shape or PSF, that is no fault of the size of the PSF.
                too_big = (weight[:, 0] <= 0) | (weight[:, 1] <= 0) | (_det(weight) <= _LEAST_DET)
                if aperture != _OPTIMAL:
                    too_big |= float(aperture) * pixels_per_arcsec <= targets
            weight[too_big] = np.nan
            moments.append(weight)
            # The area of the whole aperture, in units of that of the weights, of which 9.4 takes the double.
            scales.append(0.5 * np.sqrt(_det(whole) / _det(weight)))
            big.append(too_big)
        return _Apertures(
            np.ascontiguousarray(np.stack(moments, axis=1)), np.column_stack(scales), np.column_stack(big)
        )

    def _optimal_shapes(self, sources: MeasurementSources) -> np.ndarray:
        """Return the moments of source and PSF together, pixel^2 (n, 3); NaN where the source has none.

        The moments of the PSF are those of its slot, or its adaptive moments where the slot has none.
        """
        if not self.config.doOptimalPhotometry:
            return np.full((len(sources), 3), np.nan)
        psf = np.array(sources.psf_shapes)
        columns = [f"slot_PsfShape_{c}" for c in ("xx", "yy", "xy")]
        if all(column in sources.catalog for column in columns):
            given = np.column_stack([sources.catalog[column] for column in columns])
            usable = np.isfinite(given).all(axis=1)
            psf[usable] = given[usable]
        total = sources.shapes + psf
        return np.asarray(np.where(np.isnan(total).any(axis=1)[:, None], np.nan, total))


def _det(moments: np.ndarray) -> np.ndarray:
    """Return the determinants of moments ``[xx, yy, xy]`` (n, 3)."""
    return np.asarray(moments[:, 0] * moments[:, 1] - moments[:, 2] ** 2)


def _boxes(sources: MeasurementSources, *, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes to measure in, ``x0, y0, x1, y1`` (n, 4), and whether the image clips them (n).

    A source without pixels in the image has a box with ``x0 > x1``.
    """
    boxes = np.array(sources.bounding_boxes, dtype=np.int64)
    empty = (boxes[:, 0] > boxes[:, 2]) | (boxes[:, 1] > boxes[:, 3])
    grown = boxes + margin * np.array([-1, -1, 1, 1])
    x0, y0, x1, y1 = sources.box
    inside = np.clip(grown, [x0, y0, x0, y0], [x1, y1, x1, y1])
    clipped = (inside != grown).any(axis=1) & ~empty
    inside[empty] = [0, 0, -1, -1]
    return inside, clipped


def _pixels_per_arcsec(sources: MeasurementSources) -> np.ndarray:
    """Return d(x, y)/d(east, north) at the centroids, pixels per arcsec (n, 2, 2)."""
    x, y = sources.centroids
    jacobian = local_sky(sources.exposure.sky_projection, x=x, y=y).jacobian * _RADIAN
    (a, b), (c, d) = jacobian.transpose(1, 2, 0)
    adjugate = np.array([[d, -b], [-c, a]]).transpose(2, 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(adjugate / (a * d - b * c)[:, None, None])
