"""Which blends are too large, too elongated or too masked to be deblended (spec reprocess 15.3, step 2)."""

from __future__ import annotations

__all__ = ("axis_ratios", "masked_beyond_limits", "too_big")

from collections.abc import Mapping

import numpy as np
from lsst.images import Mask

from ..catalog.footprints import Footprints
from ..catalog.mask_planes import mask_of


def too_big(footprints: Footprints, *, max_area: int, max_size: int, min_axis_ratio: float) -> np.ndarray:
    """Return which footprints exceed a limit, bool (n); a limit of 0 does not act.

    Parameters
    ----------
    footprints
        Footprints with at least one pixel each.
    max_area
        Largest number of pixels.
    max_size
        Largest side of the bounding box, pixels.
    min_axis_ratio
        Smallest ratio of the minor to the major axis of the pixels' second moments.
    """
    result = np.zeros(len(footprints), dtype=bool)
    if max_area > 0:
        result |= footprints.areas() > max_area
    if max_size > 0:
        x0, y0, x1, y1 = footprints.bounding_boxes().T
        result |= np.maximum(x1 - x0, y1 - y0) + 1 > max_size
    if min_axis_ratio > 0:
        result |= axis_ratios(footprints) < min_axis_ratio
    return result


def axis_ratios(footprints: Footprints) -> np.ndarray:
    """Return minor over major axis of the unweighted second moments of each footprint, float64 (n).

    Pixels are squares (each adds 1/12 to both second moments), so a line of pixels is not degenerate.
    """
    widths = footprints.span_x1.astype(np.int64) - footprints.span_x0 + 1
    rows = np.repeat(np.arange(len(footprints)), np.diff(footprints.span_offsets))
    centre = footprints.centroids()[rows]
    dx = 0.5 * (footprints.span_x0.astype(np.float64) + footprints.span_x1) - centre[:, 0]
    dy = footprints.span_y - centre[:, 1]
    area = footprints.areas()

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.bincount(rows, weights=values * widths, minlength=len(footprints)) / area)

    # A span of w unit squares about its own middle has the second moment w**2 / 12 along the row.
    xx = mean(dx**2 + widths**2 / 12)
    yy = mean(dy**2 + 1 / 12)
    xy = mean(dx * dy)
    middle, spread = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    return np.asarray(np.sqrt((middle - spread) / (middle + spread)))


def masked_beyond_limits(footprints: Footprints, mask: Mask, limits: Mapping[str, float]) -> np.ndarray:
    """Return which footprints have a larger fraction of a plane's pixels than its limit, bool (n).

    Parameters
    ----------
    footprints
        Footprints with at least one pixel each, inside the mask.
    mask
        Mask of the image.
    limits
        Largest fraction by plane name; a plane that the mask does not have counts as set nowhere.
    """
    area = footprints.areas()
    ends = np.cumsum(area)
    result = np.zeros(len(footprints), dtype=bool)
    for plane, limit in limits.items():
        values = mask_of(mask, [plane], missing_ok=True).astype(np.float32)
        pixels = footprints.with_heavy(values, x0=mask.bbox.x.start, y0=mask.bbox.y.start).heavy
        total = np.concatenate([[0.0], np.cumsum(pixels, dtype=np.float64)])
        result |= total[ends] - total[ends - area] > limit * area
    return result
