"""Populations of objects: stars and galaxies, isolated and blended, by magnitude, size and crowding."""

from __future__ import annotations

__all__ = (
    "CROWDING",
    "MAGNITUDES",
    "SIZES",
    "SNRS",
    "View",
    "crowding_bins",
    "inside",
    "inside_box",
    "object_columns",
    "views",
)

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from astropy.table import Table
from lsst.images import Box

from secondlight.psf.evaluation import stamp_shapes, trace_radius

from .catalogs import Truth
from .expected import psf_stamps
from .numbers import Bin

MAGNITUDES = tuple(Bin("mag", low, low + 1) for low in range(12, 30))
SNRS = tuple(Bin("snr", a, b) for a, b in itertools.pairwise((5, 6, 7, 8, 10, 20, 50, 100, 1000, math.inf)))
SIZES = tuple(Bin("size", a, b) for a, b in itertools.pairwise((0.0, 0.25, 0.5, 1.0, 2.0, math.inf)))
"""Half-light radius of a galaxy before the PSF over that of the PSF."""

CROWDING = {
    "isolated": (-math.inf, 0.01),
    "mild": (0.01, 0.1),
    "blended": (0.1, 1.0),
    "severe": (1.0, math.inf),
}
"""Ranges of `contamination`, the relative change of a matched-filter flux by all other objects."""

_BLENDED = 0.1
_MARGIN = 12.0
"""Closer to the edge a smoothing kernel is not whole, nor is the light of a source, pixels."""
_HALF_LIGHT_RADIUS = math.sqrt(2 * math.log(2))
"""Half-light radius of a Gaussian of unit standard deviation."""


class View(NamedTuple):
    """Some rows of a table of objects.

    Attributes
    ----------
    name
        What they are: ``stars.isolated.all``, ``galaxies.isolated.mag_20_21``, ...
    rows
        Which rows (n).
    bin
        Their range; `None` if they are all.
    """

    name: str
    rows: np.ndarray
    bin: Bin | None


def psf_radius(truth: Truth) -> float:
    """Return the half-light radius of a Gaussian of the size of the true PSF, pixels; NaN without PSF."""
    if truth.psf is None:
        return math.nan
    x, y = (np.array([0.5 * (side.min + side.max)]) for side in (truth.bbox.x, truth.bbox.y))
    return _HALF_LIGHT_RADIUS * float(trace_radius(stamp_shapes(psf_stamps(truth.psf, x, y)))[0])


def object_columns(truth: Truth, rows: np.ndarray) -> Table:
    """Return what tells the population of objects, as plain columns."""
    table = Table()
    for name in ("object_id", "mag", "snr", "contamination"):
        table[name] = truth[name][rows]
    table["is_star"] = truth["is_star"][rows].astype(bool)
    table["size"] = truth["half_light_radius"][rows] / psf_radius(truth)
    return table


def inside(truth: Truth) -> np.ndarray:
    """Return which objects are at least 12 pixels from the edge of the image (n)."""
    return inside_box(truth.bbox, x=truth["x"], y=truth["y"])


def inside_box(box: Box, *, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which positions are at least 12 pixels from the edge of a box (n)."""
    result = (x >= box.x.min + _MARGIN) & (x <= box.x.max - _MARGIN)
    return np.asarray(result & (y >= box.y.min + _MARGIN) & (y <= box.y.max - _MARGIN))


def crowding_bins() -> Iterator[tuple[str, Bin]]:
    """Yield the name and range of each degree of crowding."""
    for name, (low, high) in CROWDING.items():
        yield name, Bin("crowding", low, high)


def views(table: Table, *, min_snr: float, max_snr: float = math.inf) -> Iterator[View]:
    """Yield the populations that most numbers are given for.

    For stars and galaxies, isolated and blended (contamination above 0.1): all within limits of the
    signal-to-noise ratio, and by magnitude without limits; by crowding within the limits; isolated galaxies
    by size within the limits.
    """
    snr = np.asarray(table["snr"])
    within = (snr >= min_snr) & (snr < max_snr)
    mag, contamination, size = (np.asarray(table[name]) for name in ("mag", "contamination", "size"))
    star = np.asarray(table["is_star"])
    isolated = contamination < CROWDING["isolated"][1]
    for kind, of_kind in (("stars", star), ("galaxies", ~star)):
        for crowd, crowded in (("isolated", isolated), ("blended", contamination >= _BLENDED)):
            yield View(f"{kind}.{crowd}.all", of_kind & crowded & within, None)
            for magnitudes in MAGNITUDES:
                rows = of_kind & crowded & magnitudes.contains(mag)
                yield View(f"{kind}.{crowd}.{magnitudes.label}", rows, magnitudes)
        for crowd, interval in crowding_bins():
            rows = of_kind & within & interval.contains(contamination)
            yield View(f"{kind}.crowding_{crowd}", rows, interval)
    for sizes in SIZES:
        rows = ~star & isolated & within & sizes.contains(size)
        yield View(f"galaxies.isolated.{sizes.label}", rows, sizes)
