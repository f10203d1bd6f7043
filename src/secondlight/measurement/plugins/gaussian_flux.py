"""base_GaussianFlux: flux under a Gaussian of the source's moments (spec reprocess 17.3, finalize 9.4)."""

from __future__ import annotations

__all__ = ("GaussianFluxConfig", "GaussianFluxPlugin")

import math

import lsst.pex.config as pex_config
import numpy as np
from numba import njit

from secondlight.catalog.schema import Schema
from secondlight.psf._adaptive_moment_kernels import PIXEL_CUT, SUBPIXEL_CUT, needs_subpixels, weight_box

from ..pixels import SourcePixels, hide, show
from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from .moment_errors import size_response


class GaussianFluxConfig(MeasurementPluginConfig):
    """Configuration of `GaussianFluxPlugin`."""

    background = pex_config.Field[float](doc="Not used; kept for old configurations.", default=0.0)
    marginalizeShape = pex_config.Field[bool](
        doc="Whether the error includes that of the shape slot, adaptive moments of the same pixels; "
        "without, it is the error for a given shape.",
        default=True,
    )


@register("base_GaussianFlux", ap_corr=True)
class GaussianFluxPlugin(MeasurementPlugin):
    """Flux with the Gaussian weight of the shape slot at the centroid slot."""

    ConfigClass = GaussianFluxConfig
    config: GaussianFluxConfig
    order = FLUX_ORDER
    uses_centroid = True
    uses_shape = True

    def declare(self, schema: Schema) -> None:
        """Add flux, error and flag."""
        self.add_flux(schema, "flux under a Gaussian with the moments of the source")
        schema.add_flag(self.column("flag"), "general failure")

    def measure(self, sources: MeasurementSources) -> None:
        """Measure at the slots."""
        x, y = sources.centroids
        flux, error = gaussian_flux_loop(sources.pixels, x, y, sources.shapes, self.config.marginalizeShape)
        failed = ~(np.isfinite(flux) & np.isfinite(error)) | sources.no_position
        # Flags of the slots alone are no failure here: the flux is that of the position and shape used.
        self.write(sources, instFlux=flux, instFluxErr=error, flag=failed)


@njit(cache=True, nogil=True)
def _subpixel_weight(dx: float, dy: float, w_xx: float, w_xy: float, w_yy: float) -> float:
    """Return the mean weight of the 4 x 4 sub-positions of a pixel; 0 if a corner is too far out."""
    total = 0.0
    worst = 0.0
    for j in range(4):
        py = dy - 0.375 + 0.25 * j
        for i in range(4):
            px = dx - 0.375 + 0.25 * i
            q = w_xx * px * px + 2.0 * w_xy * px * py + w_yy * py * py
            worst = max(worst, q)
            total += math.exp(-0.5 * q)
    return 0.0 if worst > SUBPIXEL_CUT else total / 16.0


@njit(cache=True, nogil=True)
def gaussian_flux_loop(
    pixels: SourcePixels, x: np.ndarray, y: np.ndarray, shapes: np.ndarray, marginalize: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return fluxes and errors (n) for moments ``[xx, yy, xy]`` (n, 3) at parent positions x, y (n).

    A source with its centre outside the image, without a usable shape, or with a shape so narrow that no
    pixel has any weight, gives NaN. With ``marginalize`` the moments are taken to be adaptive moments of
    these pixels, so that noise changes the flux through them too.
    """
    n = len(x)
    flux = np.full(n, np.nan)
    error = np.full(n, np.nan)
    height, width = pixels.image.shape
    for k in range(n):
        xx, yy, xy = shapes[k, 0], shapes[k, 1], shapes[k, 2]
        det = xx * yy - xy * xy
        i0, j0 = x[k] - pixels.x0, y[k] - pixels.y0
        if not (det > 0.0 and i0 >= -0.5 and j0 >= -0.5 and i0 < width - 0.5 and j0 < height - 0.5):
            continue
        subpixels = needs_subpixels(xx, yy, xy)
        w_xx, w_yy, w_xy = yy / det, xx / det, -xy / det
        first_x, last_x, first_y, last_y = weight_box(pixels.image.shape, i0, j0, xx, yy)
        total = fourth = noise = noise_2 = noise_4 = weight = 0.0
        show(pixels, k)
        for j in range(first_y, last_y + 1):
            dy = j - j0
            for i in range(first_x, last_x + 1):
                dx = i - i0
                q = w_xx * dx * dx + 2.0 * w_xy * dx * dy + w_yy * dy * dy
                if subpixels:
                    w = _subpixel_weight(dx, dy, w_xx, w_xy, w_yy)
                elif q > PIXEL_CUT:
                    continue
                else:
                    w = math.exp(-0.5 * q)
                value, spread = w * pixels.image[j, i], w * w * pixels.variance[j, i]
                weight += w
                total += value
                fourth += q * q * value
                noise += spread
                noise_2 += q * spread
                noise_4 += q * q * spread
        hide(pixels, k)
        if weight > 0.0:
            r = size_response(total, fourth) if marginalize else 0.0
            # Variance of the sum of w (1 + r (q - 1)) over the pixels.
            variance = (1.0 - r) ** 2 * noise + 2.0 * r * (1.0 - r) * noise_2 + r * r * noise_4
            flux[k] = 2.0 * total
            error[k] = 2.0 * math.sqrt(variance) if variance >= 0.0 else np.nan
    return flux, error
