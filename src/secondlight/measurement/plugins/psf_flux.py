"""base_PsfFlux: flux of the PSF fitted to the pixels with equal weights (spec reprocess 17.4)."""

from __future__ import annotations

__all__ = ("PsfFluxConfig", "PsfFluxPlugin")

import math

import lsst.pex.config as pex_config
import numpy as np
from numba import njit

from secondlight.catalog.schema import Schema

from ..pixels import SourcePixels, hide, show
from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources

_FLAGS = {
    "flag": "general failure",
    "flag_noGoodPixels": "no pixels to fit to",
    "flag_edge": "the PSF image reaches over the edge of the image",
}
_EDGE = 1
_NO_PIXELS = 2


class PsfFluxConfig(MeasurementPluginConfig):
    """Configuration of `PsfFluxPlugin`."""

    badMaskPlanes = pex_config.ListField[str](doc="Mask planes whose pixels are left out.", default=[])


@register("base_PsfFlux", ap_corr=True)
class PsfFluxPlugin(MeasurementPlugin):
    """Unweighted linear fit of the PSF at the centroid slot."""

    ConfigClass = PsfFluxConfig
    config: PsfFluxConfig
    order = FLUX_ORDER
    uses_centroid = True
    uses_psf = True

    def declare(self, schema: Schema) -> None:
        """Add flux, effective area, chi2, number of pixels and flags."""
        self.add_flux(schema, "flux of the PSF fitted to the pixels")
        schema.add(self.column("area"), np.float32, "effective area of the PSF", unit="pix")
        schema.add(self.column("chi2"), np.float32, "chi2 of the fit, not reduced")
        schema.add(self.column("npixels"), np.int32, "number of pixels in the fit", unit="pix")
        self.add_flags(schema, _FLAGS)

    def measure(self, sources: MeasurementSources) -> None:
        """Fit at the centroid slot."""
        stamps = sources.psf_images
        bad = np.zeros((0, 0), dtype=bool)
        if self.config.badMaskPlanes:
            bad = sources.mask_image(list(self.config.badMaskPlanes))
        results, counts, bits = psf_flux_loop(sources.pixels, stamps.images, stamps.x0, stamps.y0, bad)
        no_psf = sources.psf_flag
        sources.note_invalid_psf(no_psf & np.isfinite(sources.centroids[0]))
        failed = ~np.isfinite(results[:, :2]).all(axis=1) | (bits != 0)
        self.write(
            sources,
            instFlux=results[:, 0],
            instFluxErr=results[:, 1],
            area=results[:, 2],
            chi2=results[:, 3],
            npixels=counts,
            flag=self.general_flag(sources, failed),
            flag_noGoodPixels=bits & _NO_PIXELS,
            flag_edge=bits & _EDGE,
        )


@njit(cache=True, nogil=True)
def psf_flux_loop(
    pixels: SourcePixels, stamps: np.ndarray, x0: np.ndarray, y0: np.ndarray, bad: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit stamps (n, h, w) with first parent pixels x0, y0 (n); ``bad`` is (h, w), or empty for none.

    Returns flux, error, area, chi2 (n, 4), numbers of pixels (n) and flags (n).
    """
    n, height, width = stamps.shape
    results = np.full((n, 4), np.nan)
    counts = np.zeros(n, np.int64)
    flags = np.zeros(n, np.int64)
    image, variance = pixels.image, pixels.variance
    has_bad = bad.size > 0
    for k in range(n):
        phi = stamps[k]
        if math.isnan(phi[0, 0]):
            continue
        first_x, first_y = x0[k] - pixels.x0, y0[k] - pixels.y0
        j0, j1 = max(0, -first_y), min(height, image.shape[0] - first_y)
        i0, i1 = max(0, -first_x), min(width, image.shape[1] - first_x)
        if j0 > 0 or i0 > 0 or j1 < height or i1 < width:
            flags[k] |= _EDGE
        show(pixels, k)
        count = 0
        total = alpha = dot = noise = 0.0
        for j in range(j0, j1):
            for i in range(i0, i1):
                if has_bad and bad[first_y + j, first_x + i]:
                    continue
                m = phi[j, i]
                count += 1
                total += m
                alpha += m * m
                dot += m * image[first_y + j, first_x + i]
                noise += m * m * variance[first_y + j, first_x + i]
        counts[k] = count
        if count == 0 or alpha <= 0.0:
            flags[k] |= _NO_PIXELS
            hide(pixels, k)
            continue
        flux = dot / alpha
        chi2 = 0.0
        for j in range(j0, j1):
            for i in range(i0, i1):
                if has_bad and bad[first_y + j, first_x + i]:
                    continue
                residual = image[first_y + j, first_x + i] - flux * phi[j, i]
                v = variance[first_y + j, first_x + i]
                # Compiled code raises on a division by zero, which would fail every source of the image.
                chi2 += residual * residual / v if v != 0.0 else np.inf
        hide(pixels, k)
        results[k, 0], results[k, 1] = flux, math.sqrt(noise) / alpha
        results[k, 2], results[k, 3] = total * total / alpha, chi2
    return results, counts, flags
