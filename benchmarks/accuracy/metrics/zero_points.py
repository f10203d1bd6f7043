"""Error of the photometric zero point of each image.

Measured over true flux, by the flux that the zero point was fitted with, of isolated stars (contamination
below 0.01) with a signal-to-noise ratio of at least 200. The other photometric numbers are free of it. For
fainter ones the mean light of objects too faint to be found, which is taken off with the sky, is several
mmag: stars chosen to have no neighbours do not have it.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import numpy as np
from astropy.table import Table

from ..calibration import calibration_stars
from ..matching import Image
from ..numbers import Number, Sense, median, median_of_images, width


def sample(image: Image) -> Table:
    """Return the magnitude errors of calibration stars."""
    objects, ratios = calibration_stars(image)
    table = Table()
    with np.errstate(invalid="ignore", divide="ignore"):
        table["error"] = -2.5e3 * np.log10(ratios)
    table["visit"] = np.full(len(objects), image.measured.visit)
    table["detector"] = np.full(len(objects), image.measured.detector)
    return table


def numbers(table: Table) -> list[Number]:
    """Return the error of each image, and their median and scatter."""
    error = np.asarray(table["error"])
    images = np.unique(np.stack([table["visit"], table["detector"]], axis=-1), axis=0)
    each: list[Number] = []
    for visit, detector in images:
        rows = (np.asarray(table["visit"]) == visit) & (np.asarray(table["detector"]) == detector)
        each += median(f"zero_point.visit_{visit}.detector_{detector}", error[rows], unit="mmag")
    errors = np.array([number.value for number in each])
    result = median_of_images("zero_point.bias", errors, sense=Sense.TARGET, unit="mmag")
    result += width("zero_point.scatter", errors, unit="mmag")
    if len(errors):
        worst = float(np.max(np.abs(errors)))
        result.append(Number("zero_point.largest", worst, len(errors), None, Sense.SMALLER, unit="mmag"))
    return result + each
