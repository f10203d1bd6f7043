"""Positions on the image: offset from the truth, and offset over the quoted error.

Biases are of objects with a signal-to-noise ratio of at least 20, pulls of those from 10 to 100: fainter ones
are found where the noise helps, and for brighter ones the noise is no longer what counts.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import numpy as np
from astropy.table import Table

from ..matching import Image
from ..numbers import Number, Sense, median, width
from ..populations import object_columns, views

BIAS_SNR = 20.0
PULL_SNRS = (10.0, 100.0)
_MILLIPIXELS = 1e3


def sample(image: Image) -> Table:
    """Return the objects that were found, with offset (pixels) and pull of their positions."""
    objects, sources = image.matches()
    table = object_columns(image.truth, objects)
    measured = image.measured
    for axis, position, error in (("x", measured.x, measured.x_err), ("y", measured.y, measured.y_err)):
        table[axis] = position[sources] - image.truth[axis][objects]
        with np.errstate(invalid="ignore", divide="ignore"):
            table[f"{axis}_pull"] = table[axis] / error[sources]
    return table


def numbers(table: Table) -> list[Number]:
    """Return median offsets, and means and widths of the pulls."""
    result = []
    for axis in ("x", "y"):
        offset, pull = _MILLIPIXELS * np.asarray(table[axis]), np.asarray(table[f"{axis}_pull"])
        for name, rows, interval in views(table, min_snr=BIAS_SNR):
            result += median(f"centroid.{axis}.bias.{name}", offset[rows], unit="mpix", bin=interval)
            result += width(f"centroid.{axis}.scatter.{name}", offset[rows], unit="mpix", bin=interval)
        for name, rows, interval in views(table, min_snr=PULL_SNRS[0], max_snr=PULL_SNRS[1]):
            result += median(f"centroid.{axis}.pull_mean.{name}", pull[rows], bin=interval)
            result += width(
                f"centroid.{axis}.pull_width.{name}", pull[rows], sense=Sense.TARGET, target=1.0, bin=interval
            )
    return result
