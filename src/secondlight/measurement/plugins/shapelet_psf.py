"""modelfit_DoubleShapeletPsfApprox: the PSF as a sum of two shapelet expansions (spec finalize 8.10)."""

from __future__ import annotations

__all__ = (
    "CODES",
    "DoubleShapeletPsfApproxConfig",
    "DoubleShapeletPsfApproxPlugin",
    "component_values",
    "declare_component",
    "positive_field",
)

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema

from ..modelfit import double_fit as kernels
from ..modelfit.config import OptimizerConfig
from ..modelfit.shapelets import MAX_ORDER, term_count
from ..plugin import SHAPE_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources

CODES = {
    "flag_invalidPointForPsf": (kernels.INVALID_POINT, "the PSF cannot be evaluated there"),
    "flag_invalidMoments": (kernels.INVALID_MOMENTS, "the moments of the PSF image give no usable start"),
    "flag_maxIterations": (kernels.MAX_ITERATIONS, "the fit did not converge; its last values are kept"),
}
"""Codes of the kernels and what they mean, by flag."""


def _order_field(doc: str, default: int) -> pex_config.Field[int]:
    return pex_config.Field[int](doc=doc, default=default, check=lambda order: 0 <= order <= MAX_ORDER)


def positive_field(doc: str, default: float) -> pex_config.Field[float]:
    """Return a field for a number above 0."""
    return pex_config.Field[float](doc=doc, default=default, check=lambda value: value > 0)


class DoubleShapeletPsfApproxConfig(MeasurementPluginConfig):
    """Configuration of `DoubleShapeletPsfApproxPlugin`."""

    innerOrder = _order_field("Order of the inner expansion.", 2)
    outerOrder = _order_field("Order of the outer expansion.", 1)
    radiusRatio = positive_field("Outer over inner radius at the start of the fit.", 2.0)
    peakRatio = positive_field("Outer over inner peak at the start of the fit.", 0.1)
    minRadius = positive_field("Least minor axis of the inner ellipse, pixels.", 0.25)
    minRadiusDiff = positive_field("Least difference of the determinant radii, pixels.", 0.5)
    maxRadiusBoxFraction = positive_field(
        "Largest major axis of the outer ellipse over the square root of the area of the PSF image.", 0.4
    )
    optimizer = pex_config.ConfigField[OptimizerConfig](
        doc="How the radii are searched for.  The fit converges where the next step would lower the sum of "
        "squared residuals by less than the square of gradientThreshold, relatively; minDecreaseThreshold "
        "is not used, nor the SR1 term, as the second derivatives are exact."
    )

    def settings(self) -> kernels.DoubleShapeletSettings:
        """Return what the kernels take."""
        return kernels.DoubleShapeletSettings(
            inner_order=self.innerOrder,
            outer_order=self.outerOrder,
            radius_ratio=self.radiusRatio,
            peak_ratio=self.peakRatio,
            min_radius=self.minRadius,
            min_radius_diff=self.minRadiusDiff,
            max_radius_fraction=self.maxRadiusBoxFraction,
            optimizer=self.optimizer.settings(),
        )


@register("modelfit_DoubleShapeletPsfApprox")
class DoubleShapeletPsfApproxPlugin(MeasurementPlugin):
    """Two concentric expansions on ellipses of one shape, fitted to the PSF image at the centroid slot."""

    ConfigClass = DoubleShapeletPsfApproxConfig
    config: DoubleShapeletPsfApproxConfig
    order = SHAPE_ORDER
    uses_centroid = True
    uses_psf = True

    @property
    def _orders(self) -> tuple[int, int]:
        return self.config.innerOrder, self.config.outerOrder

    def declare(self, schema: Schema) -> None:
        """Add ellipse, centre and coefficients of both components, and flags."""
        for i, order in enumerate(self._orders):
            declare_component(schema, self.column(str(i)), order)
        self.add_flags(schema, {"flag": "general failure"} | {name: doc for name, (_, doc) in CODES.items()})

    def measure(self, sources: MeasurementSources) -> None:
        """Fit the PSF kernel image of each source."""
        n, terms = len(sources), max(term_count(order) for order in self._orders)
        centres, ellipses = np.full((n, 2), np.nan), np.full((n, 2, 3), np.nan)
        coefficients, codes = np.full((n, 2, terms), np.nan), np.zeros(n, dtype=np.int64)
        kernels.double_shapelet_loop(
            sources.psf_kernels, self.config.settings(), centres, ellipses, coefficients, codes
        )
        sources.note_invalid_psf((codes == kernels.INVALID_POINT) & np.isfinite(sources.centroids[0]))
        for i, order in enumerate(self._orders):
            values = component_values(order, ellipses[:, i], centres, coefficients[:, i])
            self.write(sources, **{f"{i}_{suffix}": column for suffix, column in values.items()})
        flags = {name: codes == code for name, (code, _) in CODES.items()}
        self.write(sources, flag=self.general_flag(sources, codes != kernels.FITTED), **flags)


def declare_component(schema: Schema, prefix: str, order: int) -> None:
    """Add the columns of one expansion."""
    for moment in ("xx", "yy", "xy"):
        schema.add(
            f"{prefix}_{moment}", np.float64, f"ellipse of the expansion: moment {moment}", unit="pix2"
        )
    for axis in ("x", "y"):
        doc = f"centre of the expansion from that of the PSF image: {axis}"
        schema.add(f"{prefix}_{axis}", np.float64, doc, unit="pix")
    powers = [(nx, n - nx) for n in range(order + 1) for nx in range(n + 1)]
    for k, (nx, ny) in enumerate(powers):
        schema.add(f"{prefix}_{k}", np.float64, f"factor of the basis function of order {nx} in x, {ny} in y")


def component_values(
    order: int, ellipses: np.ndarray, centres: np.ndarray, coefficients: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the columns of one expansion by suffix; the arguments are (n, 3), (n, 2) and (n, m)."""
    values = dict(zip(("xx", "yy", "xy"), ellipses.T, strict=True))
    values |= dict(zip(("x", "y"), centres.T, strict=True))
    return values | {str(k): coefficients[:, k] for k in range(term_count(order))}
