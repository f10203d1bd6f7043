"""base_NaiveCentroid: centre of mass of the 3 x 3 pixels about the first peak."""

from __future__ import annotations

__all__ = ("NaiveCentroidConfig", "NaiveCentroidPlugin")

import math

import lsst.pex.config as pex_config
import numpy as np
from numba import njit

from secondlight.catalog.schema import Schema

from ..pixels import SourcePixels, hide, show
from ..plugin import CENTROID_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from .centroid_checks import check_centroids

_EDGE = 1
_NO_COUNTS = 2
_FAR_OUTSIDE = np.iinfo(np.int32).min


class NaiveCentroidConfig(MeasurementPluginConfig):
    """Configuration of `NaiveCentroidPlugin`."""

    background = pex_config.Field[float](doc="Level subtracted from every pixel, counts.", default=0.0)
    doFootprintCheck = pex_config.Field[bool](
        doc="Whether the centre must stay in the footprint.", default=True
    )
    maxDistToPeak = pex_config.Field[float](
        doc="Largest distance from the first peak, pixels; not positive for any.", default=-1.0
    )


@register("base_NaiveCentroid")
class NaiveCentroidPlugin(MeasurementPlugin):
    """A centroid without a model, for tests and for pixels that follow none."""

    ConfigClass = NaiveCentroidConfig
    config: NaiveCentroidConfig
    order = CENTROID_ORDER

    def declare(self, schema: Schema) -> None:
        """Add position and flags."""
        for axis in "xy":
            schema.add(self.column(axis), np.float64, f"{axis} of the centroid", unit="pix")
        self.add_flags(
            schema,
            {
                "flag": "general failure",
                "flag_noCounts": "the pixels sum to zero, or to no finite number",
                "flag_edge": "too close to the edge of the image",
                "flag_resetToPeak": "the centre was too far off and was put back on the first peak",
            },
        )

    def measure(self, sources: MeasurementSources) -> None:
        """Measure about the first peak of each footprint."""
        peak_x, peak_y = sources.first_peaks
        usable = np.isfinite(peak_x)
        offsets, bits = _naive_loop(
            sources.pixels,
            np.where(usable, peak_x, _FAR_OUTSIDE).astype(np.int64),
            np.where(usable, peak_y, _FAR_OUTSIDE).astype(np.int64),
            self.config.background,
        )
        bits[~usable] = 0
        self.write(
            sources,
            x=peak_x + offsets[:, 0],
            y=peak_y + offsets[:, 1],
            flag=(bits != 0) | ~usable,
            flag_noCounts=bits & _NO_COUNTS,
            flag_edge=bits & _EDGE,
        )
        check_centroids(
            sources,
            self.name,
            do_footprint_check=self.config.doFootprintCheck,
            max_distance=self.config.maxDistToPeak,
        )


@njit(cache=True, nogil=True)
def _naive_loop(
    pixels: SourcePixels, x: np.ndarray, y: np.ndarray, background: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets (n, 2) of the centres of mass from integer parent peaks x, y (n), and flags (n)."""
    n = len(x)
    offsets = np.zeros((n, 2))
    flags = np.zeros(n, np.int64)
    height, width = pixels.image.shape
    for k in range(n):
        i, j = x[k] - pixels.x0, y[k] - pixels.y0
        if i < 1 or j < 1 or i >= width - 1 or j >= height - 1:
            flags[k] = _EDGE
            continue
        total = sum_x = sum_y = 0.0
        show(pixels, k)
        for dj in range(-1, 2):
            for di in range(-1, 2):
                value = pixels.image[j + dj, i + di] - background
                total += value
                sum_x += di * value
                sum_y += dj * value
        hide(pixels, k)
        if total == 0.0 or not math.isfinite(total):
            flags[k] = _NO_COUNTS
        else:
            offsets[k, 0], offsets[k, 1] = sum_x / total, sum_y / total
    return offsets, flags
