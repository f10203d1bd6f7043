"""Connected regions above a threshold and their peaks (spec reprocess 9.11)."""

from __future__ import annotations

__all__ = (
    "connected_footprints",
    "find_peaks",
    "pixels_above",
    "pixels_above_noise",
    "reaching",
    "search_peaks_again",
    "sort_peaks",
)

import numpy as np
from numba import njit

from secondlight.catalog._footprint_kernels import gather, mask_to_spans
from secondlight.catalog.footprints import Footprints, Peaks


@njit(cache=True, nogil=True)
def pixels_above(image: np.ndarray, level: float, sign: int) -> np.ndarray:
    """Return where ``sign * image`` is finite and at least ``level``, bool of the image's shape."""
    height, width = image.shape
    out = np.zeros((height, width), np.bool_)
    for j in range(height):
        for i in range(width):
            value = sign * np.float64(image[j, i])
            out[j, i] = np.isfinite(value) and value >= level
    return out


@njit(cache=True, nogil=True)
def pixels_above_noise(image: np.ndarray, variance: np.ndarray, n_sigma: float, sign: int) -> np.ndarray:
    """Return where ``sign * image`` is finite and at least ``n_sigma`` times its standard deviation, bool.

    Pixels without positive variance are never in.
    """
    height, width = image.shape
    out = np.zeros((height, width), np.bool_)
    for j in range(height):
        for i in range(width):
            value = sign * np.float64(image[j, i])
            v = np.float64(variance[j, i])
            out[j, i] = np.isfinite(value) and v > 0.0 and value >= n_sigma * np.sqrt(v)
    return out


@njit(cache=True, nogil=True)
def _root(parent: np.ndarray, k: int) -> int:
    """Return the root of element k, shortening the path to it."""
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k


@njit(cache=True, nogil=True)
def label_spans(y: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the 8-connected component of each span, int64 (n), and the number of components.

    Spans are in raster order.  A span takes the label its first pixel touches in the row below, or else a new
    one; a span that touches further labels replaces them by its own.  Components are numbered by the order in
    which their surviving labels were made, which is the reference's order of rows and ids.
    """
    n = len(y)
    parent = np.arange(n)
    below = 0  # first span of the previous row that can still touch the current one
    for k in range(n):
        while below < k and (y[below] < y[k] - 1 or (y[below] == y[k] - 1 and x1[below] < x0[k] - 1)):
            below += 1
        other = below
        if other < k and y[other] == y[k] - 1 and x0[other] <= x0[k] + 1:
            parent[k] = _root(parent, other)
            other += 1
        while other < k and y[other] == y[k] - 1 and x0[other] <= x1[k] + 1:
            parent[_root(parent, other)] = _root(parent, k)
            other += 1
    number = np.empty(n, np.int64)
    count = 0
    for k in range(n):
        if parent[k] == k:
            number[k] = count
            count += 1
    labels = np.empty(n, np.int64)
    for k in range(n):
        labels[k] = number[_root(parent, k)]
    return labels, count


def connected_footprints(mask: np.ndarray, *, x0: int = 0, y0: int = 0) -> Footprints:
    """Return the 8-connected regions of a boolean image, ordered as in `label_spans`.

    Parameters
    ----------
    mask
        Boolean image.
    x0, y0
        Parent coordinates of its first pixel.
    """
    y, left, right = mask_to_spans(mask)
    labels, count = label_spans(y, left, right)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=count))])
    order = np.argsort(labels, kind="stable")
    return Footprints.from_spans(offsets, y[order] + y0, left[order] + x0, right[order] + x0)


def reaching(footprints: Footprints, mask: np.ndarray, *, x0: int, y0: int) -> np.ndarray:
    """Return which footprints touch the True pixels of an image with first pixel (x0, y0), bool (n)."""
    inside = gather(mask, x0, y0, footprints.span_y, footprints.span_x0, footprints.span_x1)
    hits = np.concatenate([[0], np.cumsum(inside > 0)])
    ends = np.concatenate([[0], np.cumsum(footprints.areas())])
    return np.asarray(hits[ends[1:]] > hits[ends[:-1]])


@njit(cache=True, nogil=True)
def peak_pixels(
    image: np.ndarray,
    sign: int,
    ox: int,
    oy: int,
    offsets: np.ndarray,
    y: np.ndarray,
    x0: np.ndarray,
    x1: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return local maxima of ``sign * image`` per footprint: offsets int64 (n+1), x and y int32.

    The image's first pixel is (ox, oy).  The outermost pixels of the image are not searched; a footprint
    without local maximum gives its highest pixel.
    """
    height, width = image.shape
    n = len(offsets) - 1
    new_offsets = np.zeros(n + 1, np.int64)
    px = []
    py = []
    for f in range(n):
        best = -np.inf
        best_x = x0[offsets[f]] if offsets[f + 1] > offsets[f] else 0
        best_y = y[offsets[f]] if offsets[f + 1] > offsets[f] else 0
        found = 0
        for s in range(offsets[f], offsets[f + 1]):
            j = y[s] - oy
            for x in range(x0[s], x1[s] + 1):
                i = x - ox
                value = sign * image[j, i]
                if value > best:
                    best, best_x, best_y = value, x, y[s]
                if i < 1 or j < 1 or i > width - 2 or j > height - 2:
                    continue
                highest = True
                for dj in range(-1, 2):
                    for di in range(-1, 2):
                        if sign * image[j + dj, i + di] > value:
                            highest = False
                if highest:
                    px.append(np.int32(x))
                    py.append(np.int32(y[s]))
                    found += 1
        if not found and offsets[f + 1] > offsets[f]:
            px.append(np.int32(best_x))
            py.append(np.int32(best_y))
            found = 1
        new_offsets[f + 1] = new_offsets[f] + found
    return new_offsets, np.array(px, np.int32), np.array(py, np.int32)


def sort_peaks(rows: np.ndarray, peaks: Peaks, *, sign: int, n_rows: int) -> tuple[np.ndarray, Peaks]:
    """Return offsets and peaks, sorted by row, then from the most to the least extreme, then by x and y.

    Parameters
    ----------
    rows
        Row of each peak.
    peaks
        Peaks in any order.
    sign
        1 if larger values come first, -1 if smaller ones do.
    n_rows
        Number of rows.
    """
    order = np.lexsort((peaks.y, peaks.x, -sign * peaks.value, rows))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
    return offsets, Peaks(*(values[order] for values in peaks))


def find_peaks(footprints: Footprints, image: np.ndarray, *, x0: int, y0: int, sign: int = 1) -> Footprints:
    """Return the footprints with the local extrema of an image as their peaks, one for each flat top.

    Parameters
    ----------
    footprints
        Regions inside the image.
    image
        The searched image, float32, first pixel (x0, y0).
    x0, y0
        Parent coordinates of its first pixel.
    sign
        1 for maxima, -1 for minima.
    """
    offsets, x, y = peak_pixels(
        image, sign, x0, y0,
        footprints.span_offsets, footprints.span_y, footprints.span_x0, footprints.span_x1,
    )  # fmt: skip
    rows = np.repeat(np.arange(len(footprints)), np.diff(offsets))
    chosen = _one_per_plateau(x - x0, y - y0, (image.shape[0], image.shape[1]))
    rows, x, y = rows[chosen], x[chosen], y[chosen]
    values = image[y - y0, x - x0]
    peaks = Peaks(x, y, values, np.zeros(len(x), np.float32), np.zeros(len(x), np.int64))
    return footprints.with_peaks(*sort_peaks(rows, peaks, sign=sign, n_rows=len(footprints)))


def _one_per_plateau(x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return which peaks to keep so that one is left of those that touch: the nearest to their middle.

    Peaks can only touch on a plateau, such as the flat top of a saturated star.
    """
    mask = np.zeros(shape, dtype=np.bool_)
    mask[y, x] = True
    plateaus = connected_footprints(mask)
    chosen = np.ones(len(x), dtype=np.bool_)
    if len(plateaus) == len(x):
        return chosen
    plateau = plateaus.to_labels(shape)[y, x]
    middle = plateaus.centroids()[plateau]
    order = np.lexsort((x, y, (x - middle[:, 0]) ** 2 + (y - middle[:, 1]) ** 2, plateau))
    chosen[order[1:]] = np.diff(plateau[order]) > 0
    return chosen


def search_peaks_again(
    footprints: Footprints,
    image: np.ndarray,
    above: np.ndarray,
    *,
    x0: int,
    y0: int,
    sign: int,
    keep_up_to: int,
) -> Footprints:
    """Return the footprints with peaks of another image where they have many.

    Parameters
    ----------
    footprints
        Regions with peaks.
    image
        Image to search, float32, first pixel (x0, y0).
    above
        Pixels of it beyond the threshold; only they can hold peaks.
    x0, y0
        Parent coordinates of the first pixel.
    sign
        1 for maxima, -1 for minima.
    keep_up_to
        Rows with at most so many peaks keep them.  A row without any new peak keeps its most extreme one.
    """
    n = len(footprints)
    counts = np.diff(footprints.peak_offsets)
    rows = np.repeat(np.arange(n), counts)
    again = find_peaks(footprints, image, x0=x0, y0=y0, sign=sign)
    new_rows = np.repeat(np.arange(n), np.diff(again.peak_offsets))
    accepted = above[again.peak_y - y0, again.peak_x - x0] & (counts > keep_up_to)[new_rows]
    replaced = np.bincount(new_rows[accepted], minlength=n) > 0
    kept = (counts <= keep_up_to)[rows]
    best = np.isin(np.arange(len(rows)), footprints.peak_offsets[:-1]) & ~replaced[rows]
    old = kept | best
    peaks = Peaks(
        *(
            np.concatenate([a[old], b[accepted]])
            for a, b in zip(footprints.all_peaks, again.all_peaks, strict=True)
        )
    )
    all_rows = np.concatenate([rows[old], new_rows[accepted]])
    return footprints.with_peaks(*sort_peaks(all_rows, peaks, sign=sign, n_rows=n))
