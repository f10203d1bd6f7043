"""Growth of footprints, alone or merged where they meet (spec reprocess 9.11)."""

from __future__ import annotations

__all__ = ("grow",)

import numpy as np
from lsst.images import Box

from secondlight.catalog.footprints import Footprints

from .threshold import connected_footprints, sort_peaks


def grow(
    footprints: Footprints,
    radius: int,
    *,
    region: Box,
    isotropic: bool = True,
    combined: bool = True,
    sign: int = 1,
) -> Footprints:
    """Return footprints dilated by a stencil and clipped to a region.

    Parameters
    ----------
    footprints
        Footprints inside the region.
    radius
        Radius of the stencil, pixels.
    region
        Pixels that may belong to the result.
    isotropic
        Whether the stencil is a circle, else a Manhattan diamond.
    combined
        Whether grown footprints that touch become one, with the peaks of all of them; else each row is grown
        for itself.
    sign
        Order of merged peaks: 1 for largest values first, -1 for smallest.
    """
    grown = footprints.dilated(radius, manhattan=not isotropic).clipped(
        x0=region.x.min, y0=region.y.min, x1=region.x.max, y1=region.y.max
    )
    return _merged(grown, footprints, region, sign) if combined else grown


def _merged(grown: Footprints, footprints: Footprints, region: Box, sign: int) -> Footprints:
    """Unite grown footprints that touch and hand them the peaks of the footprints they grew from."""
    x0, y0 = region.x.min, region.y.min
    mask = grown.to_mask(region.shape, x0=x0, y0=y0)
    united = connected_footprints(mask, x0=x0, y0=y0)
    filled = np.nonzero(np.diff(footprints.span_offsets))[0]
    component = np.zeros(len(footprints), dtype=np.int64)
    first = footprints.span_offsets[filled]
    component[filled] = _component_of(united, footprints.span_x0[first], footprints.span_y[first])
    rows = np.repeat(component, np.diff(footprints.peak_offsets))
    return united.with_peaks(*sort_peaks(rows, footprints.all_peaks, sign=sign, n_rows=len(united)))


def _component_of(united: Footprints, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the row of disjoint footprints each pixel belongs to; every pixel must belong to one."""

    def raster(px: np.ndarray, py: np.ndarray) -> np.ndarray:
        return np.asarray(py.astype(np.int64) * (1 << 32) + px)

    key = raster(united.span_x0, united.span_y)
    order = np.argsort(key)
    row = np.repeat(np.arange(len(united)), np.diff(united.span_offsets))
    return np.asarray(row[order[np.searchsorted(key[order], raster(x, y), side="right") - 1]])
