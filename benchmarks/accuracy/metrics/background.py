"""The background that was subtracted against the true sky.

Near bright objects: within 64 pixels of one with a signal-to-noise ratio of at least 300; blank: farther.
Errors of medians come from the scatter between images, as pixels of one background are not independent.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import math

import numpy as np
from astropy.table import Table
from scipy.spatial import KDTree

from secondlight.photometry.measure_ap_corr import robust_sigma

from ..matching import Image
from ..numbers import Number, Sense, median_of_images

_STEP = 8
"""Every eighth pixel in each direction is looked at."""

_BRIGHT_SNR = 300.0
_NEAR = 64.0


def sample(image: Image) -> Table:
    """Return one row: the bias in counts and in units of the noise, its scatter, and where it is."""
    measured, truth = image.measured, image.truth
    if measured.background is None or truth.background is None:
        return Table({name: np.empty(0) for name in _UNITS})
    half = _STEP // 2
    error = (
        measured.background[half::_STEP, half::_STEP] - truth.background[half::_STEP, half::_STEP]
    ).astype(np.float64)
    near = _near_bright(image, error.shape)
    row = {
        "bias": np.median(error),
        "bias_sigma": np.median(error) / truth.noise,
        "scatter_sigma": robust_sigma(error.ravel()) / truth.noise,
        "blank_sigma": _median(error[~near]) / truth.noise,
        "near_bright_sigma": _median(error[near]) / truth.noise,
    }
    return Table({name: [value] for name, value in row.items()})


_UNITS = {
    "bias": "count",
    "bias_sigma": "sky sigma",
    "scatter_sigma": "sky sigma",
    "blank_sigma": "sky sigma",
    "near_bright_sigma": "sky sigma",
}


def _near_bright(image: Image, shape: tuple[int, ...]) -> np.ndarray:
    truth = image.truth
    bright = truth["snr"] >= _BRIGHT_SNR
    if not bright.any():
        return np.zeros(shape, dtype=bool)
    rows, columns = (_STEP // 2 + _STEP * np.arange(n) for n in shape)
    x, y = np.meshgrid(columns + truth.bbox.x.start, rows + truth.bbox.y.start)
    tree = KDTree(np.column_stack([truth["x"][bright], truth["y"][bright]]))
    return np.asarray(tree.query(np.stack([x, y], axis=-1))[0] < _NEAR)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else math.nan


def numbers(table: Table) -> list[Number]:
    """Return the medians over the images."""
    result = []
    for name, unit in _UNITS.items():
        sense = Sense.SMALLER if name.startswith("scatter") else Sense.TARGET
        result += median_of_images(f"background.{name}", np.asarray(table[name]), sense=sense, unit=unit)
    return result
