"""base_SdssCentroid: maximum of the PSF-smoothed image (spec reprocess 17.1)."""

from __future__ import annotations

__all__ = ("SdssCentroidConfig", "SdssCentroidPlugin")

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.psf.evaluation import determinant_radius, stamp_shapes

from ..plugin import CENTROID_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from . import _sdss_centroid_kernels as kernels
from .centroid_checks import check_centroids

_FLAGS = {
    "flag": "general failure",
    "flag_edge": "too close to the edge of the image",
    "flag_noSecondDerivative": "the second derivative vanishes or is too small for the slope",
    "flag_almostNoSecondDerivative": "never set; see flag_noSecondDerivative",
    "flag_notAtMaximum": "the first peak is not at a maximum",
    "flag_near_edge": "so close to the edge that a small kernel was used",
    "flag_resetToPeak": "the centre was too far off and was put back on the first peak",
    "flag_badError": "the error is not finite",
}


class SdssCentroidConfig(MeasurementPluginConfig):
    """Configuration of `SdssCentroidPlugin`."""

    binmax = pex_config.Field[int](doc="Largest binning, pixels.", default=16)
    peakMin = pex_config.Field[float](
        doc="At bin 1, least peak value that ends the binning; negative to accept any.", default=-1.0
    )
    wfac = pex_config.Field[float](doc="Binning goes on while the object is wider than this.", default=1.5)
    doFootprintCheck = pex_config.Field[bool](
        doc="Whether the centre must stay in the footprint.", default=True
    )
    maxDistToPeak = pex_config.Field[float](
        doc="Largest distance from the first peak, pixels; not positive for any.", default=1.0
    )


@register("base_SdssCentroid")
class SdssCentroidPlugin(MeasurementPlugin):
    """Centroids by the algorithm of the SDSS photometric pipeline."""

    ConfigClass = SdssCentroidConfig
    config: SdssCentroidConfig
    order = CENTROID_ORDER
    uses_psf = True

    def declare(self, schema: Schema) -> None:
        """Add positions, errors and flags."""
        for axis in "xy":
            schema.add(self.column(axis), np.float64, f"{axis} of the centroid", unit="pix")
        for axis in "xy":
            schema.add(self.column(f"{axis}Err"), np.float32, f"1-sigma uncertainty of {axis}", unit="pix")
        self.add_flags(schema, _FLAGS)

    def measure(self, sources: MeasurementSources) -> None:
        """Measure about the first peak of each footprint."""
        peak_x, peak_y = sources.first_peaks
        stamps = sources.psf_kernels_at_peaks
        sigma = determinant_radius(stamp_shapes(stamps))
        no_psf = ~np.isfinite(sigma) & np.isfinite(peak_x)
        sources.note_invalid_psf(no_psf)
        usable = np.isfinite(peak_x) & ~no_psf
        outside = np.int64(np.iinfo(np.int32).min)
        results, bits = kernels.centroid_loop(
            sources.pixels,
            np.where(usable, peak_x, outside).astype(np.int64),
            np.where(usable, peak_y, outside).astype(np.int64),
            stamps,
            np.where(usable, sigma**2, 1.0),
            _signs(sources),
            self.config.binmax,
            self.config.peakMin,
            self.config.wfac,
        )
        moved = np.isfinite(results[:, 0])
        bits[~usable] = 0
        self.write(
            sources,
            x=np.where(moved, peak_x + results[:, 0], peak_x),
            y=np.where(moved, peak_y + results[:, 1], peak_y),
            xErr=results[:, 2],
            yErr=results[:, 3],
            flag=(bits != 0) | ~usable,
            flag_edge=bits & kernels.EDGE,
            flag_noSecondDerivative=bits & kernels.FLAT,
            flag_notAtMaximum=bits & kernels.NOT_AT_MAXIMUM,
            flag_near_edge=bits & kernels.NEAR_EDGE,
        )
        bad_error = moved & ~np.isfinite(results[:, 2:]).all(axis=1)
        sources.catalog[self.column("flag_badError")] = bad_error
        sources.catalog[self.column("flag")] |= bad_error
        check_centroids(
            sources,
            self.name,
            do_footprint_check=self.config.doFootprintCheck,
            max_distance=self.config.maxDistToPeak,
        )


def _signs(sources: MeasurementSources) -> np.ndarray:
    """Return -1 for sources that are negative detections, else 1, float64 (n)."""
    if "is_negative" not in sources.catalog:
        return np.ones(len(sources))
    return np.where(sources.catalog["is_negative"], -1.0, 1.0)
