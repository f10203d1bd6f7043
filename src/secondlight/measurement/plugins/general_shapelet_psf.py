"""modelfit_GeneralShapeletPsfApprox: the PSF as sums of shapelet expansions on ellipses of their own.

The spec names its configuration only; the fit is a least-squares fit with Gaussian priors on the ellipses.
"""

from __future__ import annotations

__all__ = (
    "GeneralPsfFitterComponentConfig",
    "GeneralPsfFitterConfig",
    "GeneralShapeletPsfApproxConfig",
    "GeneralShapeletPsfApproxPlugin",
)

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog

from ..modelfit import double_fit as codes
from ..modelfit import general_fit as kernels
from ..modelfit.config import OptimizerConfig
from ..modelfit.shapelets import MAX_ORDER, term_count
from ..plugin import SHAPE_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from .shapelet_psf import CODES, component_values, declare_component, positive_field

_COMPONENTS = {"inner": 0.5, "primary": 1.0, "wings": 2.0, "outer": 4.0}
"""Default radii of the components over that of the PSF."""

_MODELS = {
    "SingleGaussian": {"primary": 0},
    "DoubleGaussian": {"primary": 0, "wings": 0},
    "DoubleShapelet": {"primary": 2, "wings": 1},
    "Full": {"inner": 0, "primary": 4, "wings": 4, "outer": 0},
}
"""Orders of the components that each model has."""


class GeneralPsfFitterComponentConfig(pex_config.Config):
    """Configuration of one expansion."""

    order = pex_config.Field[int](
        doc="Order; -1 to leave the component out.", default=-1, check=lambda order: -1 <= order <= MAX_ORDER
    )
    positionPriorSigma = positive_field(
        "Width of the prior of the centre about that of the image, pixels.", 0.1
    )
    ellipticityPriorSigma = positive_field(
        "Width of the prior of the conformal shear about that of the PSF.", 0.3
    )
    radiusFactor = positive_field("Middle of the prior of the radius over the radius of the PSF.", 1.0)
    radiusPriorSigma = positive_field("Width of the prior of the logarithm of the radius.", 0.5)


class GeneralPsfFitterConfig(pex_config.Config):
    """Configuration of one model of the PSF."""

    inner = pex_config.ConfigField[GeneralPsfFitterComponentConfig](doc="Innermost expansion.")
    primary = pex_config.ConfigField[GeneralPsfFitterComponentConfig](doc="Expansion of the core.")
    wings = pex_config.ConfigField[GeneralPsfFitterComponentConfig](doc="Expansion of the wings.")
    outer = pex_config.ConfigField[GeneralPsfFitterComponentConfig](doc="Outermost expansion.")
    optimizer = pex_config.ConfigField[OptimizerConfig](
        doc="How the ellipses are searched for.  The fit converges where the next step would lower the "
        "objective by less than the square of gradientThreshold, relatively; minDecreaseThreshold and the "
        "SR1 term are not used."
    )
    defaultNoiseSigma = positive_field("Noise of a pixel of the unit-flux image, against the priors.", 0.001)

    def setDefaults(self) -> None:
        """Set the radii, and the order of the core."""
        super().setDefaults()
        for name, factor in _COMPONENTS.items():
            getattr(self, name).radiusFactor = factor
        self.primary.order = 0

    def components(self) -> list[GeneralPsfFitterComponentConfig]:
        """Return the components in use, from inside out."""
        return [part for part in (getattr(self, name) for name in _COMPONENTS) if part.order >= 0]

    def settings(self) -> kernels.GeneralShapeletSettings:
        """Return what the kernels take."""
        parts = self.components()
        sigmas = [
            [part.positionPriorSigma] * 2 + [part.ellipticityPriorSigma] * 2 + [part.radiusPriorSigma]
            for part in parts
        ]
        return kernels.GeneralShapeletSettings(
            orders=np.array([part.order for part in parts], dtype=np.int64),
            sigmas=np.array(sigmas),
            noise=self.defaultNoiseSigma,
            optimizer=self.optimizer.settings(),
        )


class GeneralShapeletPsfApproxConfig(MeasurementPluginConfig):
    """Configuration of `GeneralShapeletPsfApproxPlugin`."""

    models = pex_config.ConfigDictField(
        doc="Models by name.", keytype=str, itemtype=GeneralPsfFitterConfig, default={}
    )
    sequence = pex_config.ListField[str](doc="Names of the models to fit.", default=["DoubleShapelet"])

    def setDefaults(self) -> None:
        """Define four models."""
        super().setDefaults()
        for name, orders in _MODELS.items():
            model = GeneralPsfFitterConfig()
            for component, order in orders.items():
                getattr(model, component).order = order
            self.models[name] = model

    def validate(self) -> None:
        """Check that the models to fit are defined and not empty."""
        super().validate()
        for name in self.sequence:
            if name not in self.models or not self.models[name].components():
                known = ", ".join(sorted(self.models))
                raise pex_config.FieldValidationError(
                    type(self).sequence,
                    self,
                    f"{name!r} has to be a model with a component; the models are {known}.",
                )


@register("modelfit_GeneralShapeletPsfApprox")
class GeneralShapeletPsfApproxPlugin(MeasurementPlugin):
    """Expansions with free ellipses, fitted to the PSF image at the centroid slot.

    The components of a model that are in use are numbered from inside out, so that
    ``modelfit_GeneralShapeletPsfApprox_DoubleShapelet`` can be the ``psfName`` of ``modelfit_CModel``.
    """

    ConfigClass = GeneralShapeletPsfApproxConfig
    config: GeneralShapeletPsfApproxConfig
    order = SHAPE_ORDER
    uses_centroid = True
    uses_psf = True

    def declare(self, schema: Schema) -> None:
        """Add ellipses, centres, coefficients and flags of each model."""
        schema.add_flag(self.column("flag"), "general failure of one of the models")
        for name in self.config.sequence:
            for i, part in enumerate(self.config.models[name].components()):
                declare_component(schema, self.column(f"{name}_{i}"), part.order)
            flags = {"flag": "general failure"} | {flag: doc for flag, (_, doc) in CODES.items()}
            self.add_flags(schema, flags, prefix=self.column(name))

    def measure(self, sources: MeasurementSources) -> None:
        """Fit the PSF kernel image of each source."""
        for name in self.config.sequence:
            self._fit(sources, name, self.config.models[name])
            sources.catalog[self.column("flag")] |= sources.catalog[self.column(f"{name}_flag")]

    def _fit(self, sources: MeasurementSources, name: str, config: GeneralPsfFitterConfig) -> None:
        n, parts = len(sources), config.components()
        terms = [term_count(part.order) for part in parts]
        centres, ellipses = np.full((n, len(parts), 2), np.nan), np.full((n, len(parts), 3), np.nan)
        coefficients, code = np.full((n, sum(terms)), np.nan), np.zeros(n, dtype=np.int64)
        starts = _starts(sources.psf_shapes, parts)
        kernels.general_shapelet_loop(
            sources.psf_kernels, config.settings(), starts, centres, ellipses, coefficients, code
        )
        sources.note_invalid_psf((code == codes.INVALID_POINT) & np.isfinite(sources.centroids[0]))
        split = np.split(coefficients, np.cumsum(terms)[:-1], axis=1)
        for i, part in enumerate(parts):
            values = component_values(part.order, ellipses[:, i], centres[:, i], split[i])
            self.write(sources, **{f"{name}_{i}_{suffix}": column for suffix, column in values.items()})
        flags = {f"{name}_{flag}": code == value for flag, (value, _) in CODES.items()}
        flags[f"{name}_flag"] = self.general_flag(sources, code != codes.FITTED)
        self.write(sources, **flags)

    def fail(self, catalog: SourceCatalog) -> None:
        """Set the general flags, also of all models."""
        super().fail(catalog)
        for name in self.config.sequence:
            catalog[self.column(f"{name}_flag")] = True


def _starts(shapes: np.ndarray, parts: list[GeneralPsfFitterComponentConfig]) -> np.ndarray:
    """Return where the fits start, (n, m, 5), from the moments of the PSFs (n, 3); NaN where these are."""
    xx, yy, xy = shapes.T
    starts = np.zeros((len(shapes), len(parts), kernels.ELLIPSE_PARAMETERS))
    with np.errstate(invalid="ignore", divide="ignore"):
        distortion = ((xx - yy) + 2j * xy) / (xx + yy)
        size = np.abs(distortion)
        shear = np.where(size > 0, distortion * np.arctanh(size) / np.where(size > 0, size, 1.0), 0.0)
        log_radius = 0.5 * np.log(0.5 * (xx + yy))
    for i, part in enumerate(parts):
        starts[:, i, 2:] = np.column_stack([shear.real, shear.imag, log_radius + np.log(part.radiusFactor)])
    return starts
