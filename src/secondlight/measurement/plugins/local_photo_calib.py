"""base_LocalPhotoCalib: the photometric calibration at the source (spec reprocess 17.16)."""

from __future__ import annotations

__all__ = ("LocalPhotoCalibPlugin",)

import numpy as np

from secondlight.catalog.schema import Schema

from ..plugin import SHAPE_ORDER, MeasurementPlugin, register
from ..sources import MeasurementSources


@register("base_LocalPhotoCalib")
class LocalPhotoCalibPlugin(MeasurementPlugin):
    """Calibration in nJy per count and its uncertainty at the centroid slot."""

    order = SHAPE_ORDER

    def declare(self, schema: Schema) -> None:
        """Add flag, calibration and error."""
        schema.add_flag(self.column("flag"), "general failure")
        schema.add(self.name, np.float64, "photometric calibration at the source", unit="nJy / ct")
        doc = "uncertainty of the photometric calibration"
        schema.add(f"{self.name}Err", np.float64, doc, unit="nJy / ct")

    def measure(self, sources: MeasurementSources) -> None:
        """Evaluate the calibration given to the task, or else the one of the image (without uncertainty)."""
        x, y = sources.centroids
        finite = np.isfinite(x) & np.isfinite(y)
        value, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
        if sources.photo_calib is not None:
            value[finite] = sources.photo_calib.evaluate(x=x[finite], y=y[finite])
            error[finite] = sources.photo_calib.error
        elif (field := sources.exposure.photometric_scaling) is not None:
            value[finite] = np.asarray(field(x=x[finite], y=y[finite]))
        sources.catalog[self.name], sources.catalog[f"{self.name}Err"] = value, error
        self.write(sources, flag=~np.isfinite(value))
