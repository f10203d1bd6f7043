"""base_PsfFlux: flux of the PSF fitted to the pixels (spec reprocess 17.4).

The fit has equal weights; a second one with inverse-variance weights can be had beside it.
"""

from __future__ import annotations

__all__ = ("PsfFluxConfig", "PsfFluxPlugin")

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry.ap_corr_names import add_ap_corr_name

from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from . import _psf_flux_kernels as kernels

_FLAGS = {
    "flag": "general failure",
    "flag_noGoodPixels": "no pixels to fit to",
    "flag_edge": "the PSF image reaches over the edge of the image",
}
_WEIGHTED = "weighted"


class PsfFluxConfig(MeasurementPluginConfig):
    """Configuration of `PsfFluxPlugin`."""

    badMaskPlanes = pex_config.ListField[str](doc="Mask planes whose pixels are left out.", default=[])
    doWeighted = pex_config.Field[bool](
        doc="Whether to measure also a flux with inverse-variance weights, less noisy for bright stars.",
        default=False,
    )


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
        if self.config.doWeighted:
            prefix = self.column(_WEIGHTED)
            self.add_flux(schema, "flux of the PSF fitted with inverse-variance weights", prefix=prefix)
            schema.add_flag(f"{prefix}_flag", "general failure of the weighted flux")

    def measure(self, sources: MeasurementSources) -> None:
        """Fit at the centroid slot."""
        stamps = sources.psf_images
        bad = np.zeros((0, 0), dtype=bool)
        if self.config.badMaskPlanes:
            bad = sources.mask_image(list(self.config.badMaskPlanes))
        results, counts, bits = kernels.psf_flux_loop(
            sources.pixels, stamps.images, stamps.x0, stamps.y0, bad
        )
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
            flag_noGoodPixels=bits & kernels.NO_PIXELS,
            flag_edge=bits & kernels.EDGE,
        )
        if self.config.doWeighted:
            self._measure_weighted(sources, bad, clipped=(bits & kernels.EDGE) != 0)

    def _measure_weighted(self, sources: MeasurementSources, bad: np.ndarray, *, clipped: np.ndarray) -> None:
        """Fit with inverse-variance weights; ``bad`` is (h, w) or empty, ``clipped`` (n)."""
        stamps = sources.psf_images
        fits = kernels.weighted_flux_loop(sources.pixels, stamps.images, stamps.x0, stamps.y0, bad)
        values = {
            f"{_WEIGHTED}_instFlux": fits[:, 0],
            f"{_WEIGHTED}_instFluxErr": fits[:, 1],
            f"{_WEIGHTED}_flag": self.general_flag(sources, clipped | ~np.isfinite(fits).all(axis=1)),
        }
        self.write(sources, **values)

    def fail(self, catalog: SourceCatalog) -> None:
        """Set the general flags of all sources."""
        super().fail(catalog)
        if self.config.doWeighted:
            catalog[self.column(f"{_WEIGHTED}_flag")] = True


add_ap_corr_name(f"base_PsfFlux_{_WEIGHTED}")
