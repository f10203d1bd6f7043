"""Compiled loops over spans; the slow twins are in ``tests/catalog``.

All coordinates are parent pixels; ``x1`` of a span is inclusive; ``offsets`` are int64 (n+1).
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def mask_to_spans(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (y, x0, x1) of the runs of True in a boolean image, in array indices."""
    height, width = mask.shape
    n = 0
    for j in range(height):
        for i in range(width):
            if mask[j, i] and (i == 0 or not mask[j, i - 1]):
                n += 1
    y = np.empty(n, np.int32)
    x0 = np.empty(n, np.int32)
    x1 = np.empty(n, np.int32)
    k = 0
    for j in range(height):
        i = 0
        while i < width:
            if not mask[j, i]:
                i += 1
                continue
            y[k] = j
            x0[k] = i
            while i < width and mask[j, i]:
                i += 1
            x1[k] = i - 1
            k += 1
    return y, x0, x1


@njit(cache=True, nogil=True)
def gather(image: np.ndarray, ox: int, oy: int, y: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> np.ndarray:
    """Return the pixels of an image with first pixel (ox, oy) under the spans, in span order, float32."""
    n = 0
    for k in range(len(y)):
        n += x1[k] - x0[k] + 1
    out = np.empty(n, np.float32)
    m = 0
    for k in range(len(y)):
        for x in range(x0[k], x1[k] + 1):
            out[m] = image[y[k] - oy, x - ox]
            m += 1
    return out


@njit(cache=True, nogil=True)
def bounding_boxes(offsets: np.ndarray, y: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> np.ndarray:
    """Return inclusive boxes (x0, y0, x1, y1), int32 (n, 4)."""
    n = len(offsets) - 1
    boxes = np.empty((n, 4), np.int32)
    for i in range(n):
        if offsets[i] == offsets[i + 1]:
            boxes[i] = np.array([0, 0, -1, -1], np.int32)
            continue
        first = offsets[i]
        boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = x0[first], y[first], x1[first], y[first]
        for k in range(first + 1, offsets[i + 1]):
            boxes[i, 0] = min(boxes[i, 0], x0[k])
            boxes[i, 1] = min(boxes[i, 1], y[k])
            boxes[i, 2] = max(boxes[i, 2], x1[k])
            boxes[i, 3] = max(boxes[i, 3], y[k])
    return boxes


@njit(cache=True, nogil=True)
def centroids(offsets: np.ndarray, y: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> np.ndarray:
    """Return the mean pixel position (x, y) of each row, float64 (n, 2)."""
    n = len(offsets) - 1
    out = np.full((n, 2), np.nan)
    for i in range(n):
        area = 0
        sx = 0.0
        sy = 0.0
        for k in range(offsets[i], offsets[i + 1]):
            width = x1[k] - x0[k] + 1
            area += width
            sx += width * 0.5 * (float(x0[k]) + float(x1[k]))
            sy += width * float(y[k])
        if area:
            out[i, 0] = sx / area
            out[i, 1] = sy / area
    return out


@njit(cache=True, nogil=True)
def contains(
    offsets: np.ndarray, y: np.ndarray, x0: np.ndarray, x1: np.ndarray, px: np.ndarray, py: np.ndarray
) -> np.ndarray:
    """Return whether pixel i lies in row i, bool (n)."""
    n = len(offsets) - 1
    out = np.zeros(n, np.bool_)
    for i in range(n):
        for k in range(offsets[i], offsets[i + 1]):
            if y[k] == py[i] and x0[k] <= px[i] <= x1[k]:
                out[i] = True
                break
    return out


@njit(cache=True, nogil=True)
def paint(
    labels: np.ndarray,
    ox: int,
    oy: int,
    offsets: np.ndarray,
    y: np.ndarray,
    x0: np.ndarray,
    x1: np.ndarray,
) -> None:
    """Write the row number into the pixels of each row of an image with first pixel (ox, oy)."""
    height, width = labels.shape
    for i in range(len(offsets) - 1):
        for k in range(offsets[i], offsets[i + 1]):
            j = y[k] - oy
            if j < 0 or j >= height:
                continue
            for x in range(max(0, x0[k] - ox), min(width - 1, x1[k] - ox) + 1):
                labels[j, x] = i


@njit(cache=True, nogil=True)
def clip(
    offsets: np.ndarray,
    y: np.ndarray,
    x0: np.ndarray,
    x1: np.ndarray,
    heavy_offsets: np.ndarray,
    heavy: np.ndarray,
    bx0: int,
    by0: int,
    bx1: int,
    by1: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut spans (and the heavy pixels under them) to an inclusive box."""
    n = len(offsets) - 1
    new_offsets = np.zeros(n + 1, np.int64)
    new_heavy_offsets = np.zeros(n + 1, np.int64)
    out_y = np.empty(len(y), np.int32)
    out_x0 = np.empty(len(y), np.int32)
    out_x1 = np.empty(len(y), np.int32)
    out_heavy = np.empty(len(heavy), np.float32)
    m = 0
    h = 0
    for i in range(n):
        pixel = heavy_offsets[i]
        is_heavy = heavy_offsets[i + 1] > heavy_offsets[i]
        for k in range(offsets[i], offsets[i + 1]):
            left = max(x0[k], bx0)
            right = min(x1[k], bx1)
            if by0 <= y[k] <= by1 and left <= right:
                out_y[m] = y[k]
                out_x0[m] = left
                out_x1[m] = right
                m += 1
                if is_heavy:
                    for x in range(left, right + 1):
                        out_heavy[h] = heavy[pixel + x - x0[k]]
                        h += 1
            if is_heavy:
                pixel += x1[k] - x0[k] + 1
        new_offsets[i + 1] = m
        new_heavy_offsets[i + 1] = h
    return (
        new_offsets,
        out_y[:m].copy(),
        out_x0[:m].copy(),
        out_x1[:m].copy(),
        new_heavy_offsets,
        out_heavy[:h].copy(),
    )


@njit(cache=True, nogil=True)
def normalise(
    offsets: np.ndarray, y: np.ndarray, x0: np.ndarray, x1: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sort the spans of each row by (y, x0) and merge those that overlap or touch."""
    n = len(offsets) - 1
    new_offsets = np.zeros(n + 1, np.int64)
    out_y = np.empty(len(y), np.int32)
    out_x0 = np.empty(len(y), np.int32)
    out_x1 = np.empty(len(y), np.int32)
    m = 0
    for i in range(n):
        first, last = offsets[i], offsets[i + 1]
        key = y[first:last].astype(np.int64) * (1 << 32) + x0[first:last]
        order = np.argsort(key)
        start = m
        for k in order:
            s = first + k
            if m > start and out_y[m - 1] == y[s] and x0[s] <= out_x1[m - 1] + 1:
                out_x1[m - 1] = max(out_x1[m - 1], x1[s])
                continue
            out_y[m] = y[s]
            out_x0[m] = x0[s]
            out_x1[m] = x1[s]
            m += 1
        new_offsets[i + 1] = m
    return new_offsets, out_y[:m].copy(), out_x0[:m].copy(), out_x1[:m].copy()


@njit(cache=True, nogil=True)
def dilate(
    offsets: np.ndarray, y: np.ndarray, x0: np.ndarray, x1: np.ndarray, radius: int, manhattan: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Dilate each row by a circle or Manhattan stencil."""
    rows = 2 * radius + 1
    half = np.empty(rows, np.int64)
    for d in range(rows):
        dy = d - radius
        half[d] = radius - abs(dy) if manhattan else int(np.sqrt(radius * radius - dy * dy))
    n = len(y)
    big_y = np.empty(n * rows, np.int32)
    big_x0 = np.empty(n * rows, np.int32)
    big_x1 = np.empty(n * rows, np.int32)
    for k in range(n):
        for d in range(rows):
            big_y[k * rows + d] = y[k] + d - radius
            big_x0[k * rows + d] = x0[k] - half[d]
            big_x1[k * rows + d] = x1[k] + half[d]
    return normalise(offsets * rows, big_y, big_x0, big_x1)
