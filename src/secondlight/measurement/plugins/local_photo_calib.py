"""base_LocalPhotoCalib: the photometric calibration at the source (spec reprocess 17.16)."""

from __future__ import annotations

__all__ = ("LocalPhotoCalibPlugin",)

import dataclasses
import math

import astropy.units as u
import numpy as np
from lsst.images import VisitImage

from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.schema import Schema
from secondlight.photometry.calibrate import photo_calib_of

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
        """Evaluate the calibration given to the task, or else the one of the image."""
        x, y = sources.centroids
        finite = np.isfinite(x) & np.isfinite(y)
        value, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
        calib = sources.photo_calib or _calibration_of_pixels(sources.exposure)
        if calib is not None:
            value[finite] = calib.evaluate(x=x[finite], y=y[finite])
            error[finite] = calib.error
        sources.catalog[self.name], sources.catalog[f"{self.name}Err"] = value, error
        self.write(sources, flag=~np.isfinite(value))


def _calibration_of_pixels(exposure: VisitImage) -> PhotoCalib | None:
    """Return what turns the pixels of an image into nJy, with an uncertainty of NaN if the image knows none.

    Fluxes of an image that is calibrated already only change their unit, and keep the relative uncertainty.
    """
    if exposure.photometric_scaling is None:
        return None
    calib = photo_calib_of(exposure)
    error = calib.error if "photo_calib_error" in exposure.metadata else math.nan
    if exposure.unit.is_equivalent(u.nJy):
        unit = float(exposure.unit.to(u.nJy))
        return PhotoCalib(unit, unit * error / calib.mean)
    return dataclasses.replace(calib, error=error)
