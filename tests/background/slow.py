"""Slow, obvious twins of compiled loops."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def slow_clip(values: Iterable[float], n_sigma: float, n_iter: int) -> tuple[float, float, int]:
    """Return clipped mean, standard deviation and number of values, as spec reprocess 9.3 words it."""
    good = np.array(list(values), dtype=np.float64)
    q1, centre, q3 = np.percentile(good, [25, 50, 75])
    half_width = n_sigma * 0.741301109252802 * (q3 - q1)
    kept = good
    for _ in range(n_iter):
        kept = good[np.abs(good - centre) <= half_width]
        if len(kept) == 0:
            return np.nan, np.nan, 0
        centre = kept.mean()
        half_width = n_sigma * kept.std(ddof=1) if len(kept) > 1 else 0.0
    return centre, kept.std(ddof=1) if len(kept) > 1 else np.nan, len(kept)


def slow_block_average(image: np.ndarray, good: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return averages of blocks and whether half of their pixels are good."""
    ny, nx = -(-image.shape[0] // size), -(-image.shape[1] // size)
    average, usable = np.zeros((ny, nx)), np.zeros((ny, nx), dtype=bool)
    for j in range(ny):
        for i in range(nx):
            part = np.s_[j * size : (j + 1) * size, i * size : (i + 1) * size]
            counted = good[part] & np.isfinite(image[part])
            if counted.any():
                average[j, i] = image[part][counted].mean(dtype=float)
            usable[j, i] = counted.any() and counted.mean() >= 0.5
    return average, usable


def slow_grow(reach: np.ndarray) -> np.ndarray:
    """Return the pixels within the reach of any pixel; distances go along rows, columns and diagonals."""
    y, x = np.indices(reach.shape)
    grown = np.zeros(reach.shape, dtype=bool)
    for j, i in np.argwhere(reach >= 0):
        dy, dx = np.abs(y - j), np.abs(x - i)
        distance = np.maximum(dy, dx) - np.minimum(dy, dx) + np.sqrt(2) * np.minimum(dy, dx)
        grown |= distance <= reach[j, i] + 1e-5
    return grown


def slow_planes(values: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Return planes fitted around each cell by least squares."""
    y, x = np.indices(values.shape).astype(float)
    counted = weight > 0
    result = np.empty(values.shape)
    for j, i in np.ndindex(*values.shape):
        near = weight * np.exp(-0.5 * ((x - i) ** 2 + (y - j) ** 2) / sigma**2)
        root = np.sqrt(near[counted])
        design = np.column_stack([np.ones(counted.sum()), (x - i)[counted], (y - j)[counted]])
        result[j, i] = np.linalg.lstsq(design * root[:, None], values[counted] * root)[0][0]
    return result


def slow_super_pixels(values: np.ndarray, size: int) -> np.ndarray:
    """Return the median of finite values around each cell, reflected at the borders; NaN stays NaN."""
    ny, nx = values.shape

    def reflected(k: int, n: int) -> int:
        return -k - 1 if k < 0 else 2 * n - 1 - k if k >= n else k

    result = values.copy()
    for j, i in np.argwhere(np.isfinite(values)):
        offsets = range(-(size // 2), (size - 1) // 2 + 1)
        around = [values[reflected(j + b, ny), reflected(i + a, nx)] for b in offsets for a in offsets]
        result[j, i] = np.nanmedian(around)
    return result
