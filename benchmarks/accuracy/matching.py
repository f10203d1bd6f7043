"""Which source is which object: one to one, the brightest objects first."""

from __future__ import annotations

__all__ = ("MATCH_RADIUS", "MIN_SNR", "Image", "match_objects")

import dataclasses
from functools import cached_property

import numpy as np
from scipy.spatial import KDTree

from secondlight.catalog.mask_planes import mask_of

from .catalogs import Measured, Truth

MATCH_RADIUS = 2.0
"""Largest distance of a source from its object, pixels."""

MIN_SNR = 2.0
"""Fainter objects are texture of the sky: a source near one is not explained by it."""


@dataclasses.dataclass(frozen=True)
class Image:
    """Measurements and truth of one image.

    Parameters
    ----------
    measured, truth
        What was measured, and what was there.
    """

    measured: Measured
    truth: Truth

    @cached_property
    def source_of_object(self) -> np.ndarray:
        """Row of the source of each object, -1 if it was not found, int64."""
        return match_objects(self.measured, self.truth)

    @cached_property
    def object_of_source(self) -> np.ndarray:
        """Row of the object of each source, -1 if it is nothing real, int64."""
        result = np.full(len(self.measured), -1)
        rows = np.flatnonzero(self.source_of_object >= 0)
        result[self.source_of_object[rows]] = rows
        return result

    @cached_property
    def on_image(self) -> np.ndarray:
        """Objects whose centre is on a pixel that got light."""
        x, y = nearest_pixels(self.truth, self.truth["x"], self.truth["y"])
        height, width = self.truth.bbox.shape
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        if self.truth.artifacts is not None:
            dark = mask_of(self.truth.artifacts, ["NO_DATA"], missing_ok=True)
            inside[inside] = ~dark[y[inside], x[inside]]
        return np.asarray(inside)

    def matches(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of objects and of their sources, unsaturated and with good pixels."""
        objects = np.flatnonzero((self.source_of_object >= 0) & ~self.truth["saturated"].astype(bool))
        sources = self.source_of_object[objects]
        good = self.measured.good[sources]
        return objects[good], sources[good]


def nearest_pixels(truth: Truth, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return array indices (column, row) of the nearest pixels to positions; far outside for NaN."""
    x, y = (np.nan_to_num(v, nan=-1e6) for v in (x, y))
    return (
        np.floor(x + 0.5).astype(np.int64) - truth.bbox.x.start,
        np.floor(y + 0.5).astype(np.int64) - truth.bbox.y.start,
    )


def match_objects(measured: Measured, truth: Truth) -> np.ndarray:
    """Return the row of the source that each object was found as, or -1.

    Every object of signal-to-noise ratio of at least 2, from the brightest to the faintest, takes the nearest
    primary source within 2 pixels that no brighter object has taken.
    """
    result = np.full(len(truth), -1)
    candidates = np.flatnonzero(measured.primary & np.isfinite(measured.x) & np.isfinite(measured.y))
    worth = np.flatnonzero(truth["snr"] >= MIN_SNR)
    if not len(candidates) or not len(worth):
        return result
    worth = worth[np.argsort(-truth["flux"][worth], kind="stable")]
    sources = np.column_stack([measured.x[candidates], measured.y[candidates]])
    objects = np.column_stack([truth["x"][worth], truth["y"][worth]])
    near = KDTree(sources).query_ball_point(objects, MATCH_RADIUS)
    free = np.ones(len(candidates), dtype=bool)
    for row, position, found in zip(worth, objects, near, strict=True):
        available = [k for k in found if free[k]]
        if available:
            taken = min(available, key=lambda k: (np.hypot(*(sources[k] - position)), k))
            free[taken] = False
            result[row] = candidates[taken]
    return result
