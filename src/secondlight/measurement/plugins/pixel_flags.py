"""base_PixelFlags: what the mask says about a source's footprint and centre (spec reprocess 17.12)."""

from __future__ import annotations

__all__ = ("PixelFlagsConfig", "PixelFlagsPlugin")

import lsst.pex.config as pex_config
import numpy as np
from numba import njit

from secondlight.catalog.mask_planes import plane_name
from secondlight.catalog.schema import Schema

from ..plugin import FLUX_ORDER, FatalMeasurementError, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources

_PLANES = {
    "EDGE": "edge",
    "NO_DATA": "nodata",
    "INTRP": "interpolated",
    "SAT": "saturated",
    "CR": "cr",
    "BAD": "bad",
    "SUSPECT": "suspect",
}


class PixelFlagsConfig(MeasurementPluginConfig):
    """Configuration of `PixelFlagsPlugin`."""

    masksFpAnywhere = pex_config.ListField[str](
        doc="More mask planes to look for anywhere in the footprint.", default=[]
    )
    masksFpCenter = pex_config.ListField[str](
        doc="More mask planes to look for in the 3 x 3 pixels about the centroid.", default=[]
    )


@register("base_PixelFlags")
class PixelFlagsPlugin(MeasurementPlugin):
    """Mask planes in the footprint, in the central 3 x 3 pixels, and in all of these."""

    ConfigClass = PixelFlagsConfig
    config: PixelFlagsConfig
    order = FLUX_ORDER

    def _flags(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return flag names by plane for the footprint and for the centre."""
        anywhere = _PLANES | {p: p.lower() for p in self.config.masksFpAnywhere}
        center = _PLANES | {p: p.lower() for p in self.config.masksFpCenter}
        return anywhere, center

    def declare(self, schema: Schema) -> None:
        """Add the flags."""
        anywhere, center = self._flags()
        self.add_flags(
            schema,
            {
                "flag": "general failure: no centre",
                "flag_offimage": "the centre is outside the image",
                **{f"flag_{name}": f"{plane} in the footprint" for plane, name in anywhere.items()},
                **{f"flag_{name}Center": f"{plane} in the centre" for plane, name in center.items()},
                **{
                    f"flag_{name}CenterAll": f"{plane} in all pixels of the centre"
                    for plane, name in center.items()
                },
            },
        )

    def measure(self, sources: MeasurementSources) -> None:
        """Look at the mask."""
        anywhere, center = self._flags()
        x0, y0, x1, y1 = sources.box
        x, y = sources.centroids
        finite = np.isfinite(x) & np.isfinite(y)
        inside = finite & (x >= x0 - 0.5) & (x < x1 + 0.5) & (y >= y0 - 0.5) & (y < y1 + 0.5)
        off = ~inside
        f = sources.footprints
        xi, yi = sources.nearest_pixels
        in_footprint, any_center, all_center = _mask_loop(
            sources.exposure.mask.array, x0, y0, f.span_offsets, f.span_y, f.span_x0, f.span_x1, xi, yi
        )
        values = {"flag": ~finite, "flag_offimage": off}
        for plane, name in anywhere.items():
            values[f"flag_{name}"] = self._has(sources, plane, in_footprint)
        for plane, name in center.items():
            values[f"flag_{name}Center"] = self._has(sources, plane, any_center)
            values[f"flag_{name}CenterAll"] = self._has(sources, plane, all_center)
        for suffix in ("flag_edge", "flag_edgeCenter", "flag_edgeCenterAll"):
            values[suffix] = values[suffix] | off
        self.write(sources, **values)

    def _has(self, sources: MeasurementSources, plane: str, bits: np.ndarray) -> np.ndarray:
        """Return whether a plane is in mask bytes (n, n_bytes).

        Raises
        ------
        FatalMeasurementError
            Raised if the mask lacks a plane that the configuration asks for.
        """
        schema = sources.exposure.mask.schema
        if plane_name(plane) not in schema.names:
            if plane in _PLANES:
                return np.zeros(len(bits), dtype=bool)
            raise FatalMeasurementError(
                f"{self.name} is configured for mask plane {plane}, which the mask lacks; "
                f"it has {', '.join(schema.names)}."
            )
        return np.asarray((bits & schema.bitmask(plane_name(plane))).any(axis=1))


@njit(cache=True, nogil=True)
def _mask_loop(
    mask: np.ndarray,
    x0: int,
    y0: int,
    span_offsets: np.ndarray,
    span_y: np.ndarray,
    span_x0: np.ndarray,
    span_x1: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mask bytes (n, n_bytes): OR over footprints, OR and AND over the 3 x 3 pixels about (x, y).

    ``mask`` is uint8 (h, w, n_bytes) with first parent pixel (x0, y0).  Pixels outside it are left out;
    no pixel at all gives 0.
    """
    n = len(x)
    height, width, n_bytes = mask.shape
    footprint = np.zeros((n, n_bytes), np.uint8)
    any_center = np.zeros((n, n_bytes), np.uint8)
    all_center = np.zeros((n, n_bytes), np.uint8)
    for k in range(n):
        for s in range(span_offsets[k], span_offsets[k + 1]):
            j = span_y[s] - y0
            if j < 0 or j >= height:
                continue
            for i in range(max(0, span_x0[s] - x0), min(width, span_x1[s] - x0 + 1)):
                for b in range(n_bytes):
                    footprint[k, b] |= mask[j, i, b]
        first = True
        for j in range(max(0, y[k] - y0 - 1), min(height, y[k] - y0 + 2)):
            for i in range(max(0, x[k] - x0 - 1), min(width, x[k] - x0 + 2)):
                for b in range(n_bytes):
                    any_center[k, b] |= mask[j, i, b]
                    all_center[k, b] = mask[j, i, b] if first else all_center[k, b] & mask[j, i, b]
                first = False
    return footprint, any_center, all_center
