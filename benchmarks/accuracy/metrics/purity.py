"""Which sources are real, and what the others are.

Primary sources count, those with bad pixels too. A source is real if it is the match of an object of a
signal-to-noise ratio of at least 2. Of the others it is told whether they are on an artefact (any kind,
within the 3 x 3 pixels at their centre), else near a bright object, which may have been taken apart, else at
the edge of the image (within 12 pixels), else misplaced: within 5 pixels of an object of a signal-to-noise
ratio of at least 3 that no other source is the match of; or on nothing.

Also of those not at the edge, all and by signal-to-noise ratio of the measured PSF flux, if there is one: a
system that goes deeper has more sources that are hard to tell.
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
from ..populations import MAGNITUDES, SNRS, inside_box

_BRIGHT_SNR = 300.0
_NEAR_BRIGHT = 32.0
"""What a bright object is, and how far from it its parts may be, pixels."""

_MISPLACED = 5.0
_MISPLACED_SNR = 3.0
"""How far a misplaced source may be from its object, pixels, and what that must have at least."""


def sample(image: Image) -> Table:
    """Return the primary sources, whether they are real, and what they are if not."""
    measured, truth = image.measured, image.truth
    rows = np.flatnonzero(measured.primary)
    x, y = measured.x[rows], measured.y[rows]
    table = Table()
    table["real"] = image.object_of_source[rows] >= 0
    table["good"] = measured.good[rows]
    table["inside"] = inside_box(truth.bbox, x=x, y=y)
    table["mag"], table["snr"] = np.full((2, len(rows)), np.nan)
    if measured.psf_flux is not None:
        flux, error = (values[rows] for values in measured.fluxes[measured.psf_flux])
        with np.errstate(invalid="ignore", divide="ignore"):
            table["mag"], table["snr"] = -2.5 * np.log10(flux / AB_FLUX_NJY), flux / error
    unexplained = ~np.asarray(table["real"])
    bright, lost = truth["snr"] >= _BRIGHT_SNR, truth["snr"] >= _MISPLACED_SNR
    lost &= image.source_of_object < 0
    for name, explained in (
        ("on_artifact", _on_artifact(truth, x, y)),
        ("near_bright", _near(truth, bright, _NEAR_BRIGHT, x, y)),
        ("at_edge", ~np.asarray(table["inside"])),
        ("misplaced", _near(truth, lost, _MISPLACED, x, y)),
    ):
        table[name] = explained & unexplained
        unexplained &= ~explained
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


def _near(truth: Truth, objects: np.ndarray, distance: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which positions are near one of some objects."""
    finite = np.isfinite(x) & np.isfinite(y)
    result = np.zeros(len(x), dtype=bool)
    if objects.any() and finite.any():
        tree = KDTree(np.column_stack([truth["x"][objects], truth["y"][objects]]))
        result[finite] = tree.query(np.column_stack([x[finite], y[finite]]))[0] < distance
    return result


def numbers(table: Table) -> list[Number]:
    """Return fractions of sources that are real, and of the kinds of those that are not."""
    real, good, mag, snr = (np.asarray(table[name]) for name in ("real", "good", "mag", "snr"))
    result = fraction("purity.all", real, sense=Sense.LARGER)
    result += fraction("purity.good", real[good], sense=Sense.LARGER)
    inside = np.asarray(table["inside"])
    result += fraction("purity.inside.all", real[inside], sense=Sense.LARGER)
    for key, which, values, intervals in (
        ("purity", np.ones_like(inside), mag, MAGNITUDES),
        ("purity.inside", inside, snr, SNRS),
    ):
        for interval in intervals:
            rows = which & interval.contains(values)
            result += fraction(f"{key}.{interval.label}", real[rows], sense=Sense.LARGER, bin=interval)
    elsewhere = ~real
    for name in ("on_artifact", "near_bright", "at_edge", "misplaced"):
        result += fraction(f"purity.false_{name}", np.asarray(table[name]), sense=Sense.SMALLER)
        elsewhere &= ~np.asarray(table[name])
    return result + fraction("purity.false_elsewhere", elsewhere, sense=Sense.SMALLER)
