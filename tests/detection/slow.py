"""Slow, obvious twins of compiled loops."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

EIGHT = np.ones((3, 3), dtype=bool)


def stencil(radius: int, *, manhattan: bool = False) -> np.ndarray:
    """Return the circle or Manhattan stencil of spec reprocess 9.8 as a boolean image."""
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    if manhattan:
        return np.abs(dx) + np.abs(dy) <= radius
    return np.abs(dx) <= np.sqrt(radius**2 - dy**2).astype(int)


def slow_regions(mask: np.ndarray) -> list[np.ndarray]:
    """Return the 8-connected regions of a boolean image as boolean images, in the reference's order.

    Runs of pixels get labels from the first row to the last, from left to right.  A run takes the label of
    the first run it touches in the row before, or else a new one, and gives it to all others that it touches.
    """
    labels = np.zeros(mask.shape, dtype=int)
    last = 0
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(int)))
        for start, stop in edges.reshape(-1, 2):
            before = labels[y - 1, max(start - 1, 0) : stop + 1] if y else np.zeros(0, dtype=int)
            touched = before[before > 0]
            last += not len(touched)
            label = touched[0] if len(touched) else last
            labels[y, start:stop] = label
            labels[np.isin(labels, touched)] = label
    return [labels == label for label in np.unique(labels[labels > 0])]


def slow_peaks(image: np.ndarray, region: np.ndarray, sign: int = 1) -> list[tuple[int, int]]:
    """Return (x, y) of the peaks of a region by array index: most extreme first, ties by x then y.

    Of peaks that touch, the one nearest to the middle of them is left.
    """
    height, width = image.shape
    is_peak = np.zeros(image.shape, dtype=bool)
    for y, x in np.argwhere(region):
        if 0 < x < width - 1 and 0 < y < height - 1:
            around = sign * image[y - 1 : y + 2, x - 1 : x + 2]
            if not (around > sign * image[y, x]).any():
                is_peak[y, x] = True
    plateaus, n = scipy.ndimage.label(is_peak, EIGHT)
    found = []
    for k in range(1, n + 1):
        pixels = np.argwhere(plateaus == k)
        y, x = min(pixels, key=lambda p: (((p - pixels.mean(axis=0)) ** 2).sum(), *p))
        found.append((-sign * image[y, x], x, y))
    if not found:
        y, x = np.argwhere(region)[np.argmax(sign * image[region])]
        found = [(0, x, y)]
    return [(int(x), int(y)) for _, x, y in sorted(found)]


def slow_smooth(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the correlation with the outer product of a kernel, where it fits."""
    full = scipy.ndimage.correlate(image.astype(float), np.outer(kernel, kernel), mode="constant")
    half = len(kernel) // 2
    height, width = image.shape
    return full[half : height - half, half : width - half]
