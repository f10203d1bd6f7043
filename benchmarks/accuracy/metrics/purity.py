"""Which sources are real, and what the others are.

Primary sources count, those with bad pixels too. A source is real if it is the match of an object of a
signal-to-noise ratio of at least 2. Of the others it is told whether they are on an artefact (any kind,
within the 3 x 3 pixels at their centre), else near a bright object, which may have been taken apart, or on
nothing.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import numpy as np
from astropy.table import Table
from scipy.ndimage import maximum_filter
from scipy.spatial import KDTree

from secondlight.catalog.photo_calib import AB_FLUX_NJY

from ..catalogs import Truth
from ..matching import Image, nearest_pixels
from ..numbers import Number, Sense, fraction
from ..populations import MAGNITUDES

_BRIGHT_SNR = 300.0
_NEAR_BRIGHT = 32.0
"""What a bright object is, and how far from it its parts may be, pixels."""


def sample(image: Image) -> Table:
    """Return the primary sources, whether they are real, and what they are if not."""
    measured, truth = image.measured, image.truth
    rows = np.flatnonzero(measured.primary)
    x, y = measured.x[rows], measured.y[rows]
    table = Table()
    table["real"] = image.object_of_source[rows] >= 0
    table["good"] = measured.good[rows]
    table["mag"] = np.full(len(rows), np.nan)
    if measured.psf_flux is not None:
        flux = measured.fluxes[measured.psf_flux][0][rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            table["mag"] = -2.5 * np.log10(flux / AB_FLUX_NJY)
    table["on_artifact"] = _on_artifact(truth, x, y) & ~table["real"]
    table["near_bright"] = _near_bright(truth, x, y) & ~table["real"] & ~table["on_artifact"]
    return table


def _on_artifact(truth: Truth, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if truth.artifacts is None:
        return np.zeros(len(x), dtype=bool)
    touched = maximum_filter(truth.artifacts.array.any(axis=-1), size=3)
    height, width = touched.shape
    i, j = nearest_pixels(truth, x, y)
    inside = (i >= 0) & (i < width) & (j >= 0) & (j < height)
    result = np.zeros(len(x), dtype=bool)
    result[inside] = touched[j[inside], i[inside]]
    return result


def _near_bright(truth: Truth, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    bright = truth["snr"] >= _BRIGHT_SNR
    finite = np.isfinite(x) & np.isfinite(y)
    result = np.zeros(len(x), dtype=bool)
    if bright.any() and finite.any():
        tree = KDTree(np.column_stack([truth["x"][bright], truth["y"][bright]]))
        result[finite] = tree.query(np.column_stack([x[finite], y[finite]]))[0] < _NEAR_BRIGHT
    return result


def numbers(table: Table) -> list[Number]:
    """Return fractions of sources that are real, and of the kinds of those that are not."""
    real, good, mag = (np.asarray(table[name]) for name in ("real", "good", "mag"))
    result = fraction("purity.all", real, sense=Sense.LARGER)
    result += fraction("purity.good", real[good], sense=Sense.LARGER)
    for interval in MAGNITUDES:
        rows = interval.contains(mag)
        result += fraction(f"purity.{interval.label}", real[rows], sense=Sense.LARGER, bin=interval)
    for name in ("on_artifact", "near_bright"):
        result += fraction(f"purity.false_{name}", np.asarray(table[name]), sense=Sense.SMALLER)
    elsewhere = ~(real | np.asarray(table["on_artifact"]) | np.asarray(table["near_bright"]))
    return result + fraction("purity.false_elsewhere", elsewhere, sense=Sense.SMALLER)
