"""Clipped statistics (spec reprocess 9.3)."""

from __future__ import annotations

__all__ = ("STATISTICS", "ClippedStatistics", "cell_statistics", "clip", "clipped_statistics")

import math
from typing import NamedTuple

import numpy as np
from numba import njit

STATISTICS = ("MEANCLIP", "MEAN", "MEDIAN", "STDEVCLIP")
"""Statistics of a cell, by the name configurations use; the position is the code `cell_statistics` takes."""

IQR_TO_SIGMA = 0.741301109252802
"""Standard deviation of a Gaussian over its interquartile range."""


class ClippedStatistics(NamedTuple):
    """Mean, standard deviation (n/(n-1) de-biased) and number of the values that survive the clipping."""

    mean: float
    stdev: float
    n_kept: int


_N_BUCKETS = 510
"""Buckets of `_bucketed` between the ends of the sample; two more hold what lies beyond."""

_SAMPLE = 256
"""Largest sample that tells `_bucketed` where most values are; of few values it is one in 32, at least 16."""


@njit(cache=True, nogil=True)
def _bucketed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return n > 0 finite values in buckets of ascending order, and where each bucket begins (buckets + 1).

    Bucket numbers never decrease with the value, so that a value of any rank is found by sorting one bucket.
    Where the buckets lie follows from a regular sample: it decides the speed and nothing else.
    """
    n = len(values)
    sample = np.sort(values[:: max(n // min(_SAMPLE, max(n // 32, 16)), 1)])
    low, high = np.float64(sample[len(sample) // 20]), np.float64(sample[len(sample) - 1 - len(sample) // 20])
    scale = _N_BUCKETS / (high - low) if high > low else 0.0
    if not np.isfinite(scale):  # the values differ by less than a number can tell
        scale = 0.0
    bucket = np.empty(n, np.uint16)
    begin = np.zeros(_N_BUCKETS + 3, np.int64)
    for i in range(n):
        place = min(max((values[i] - low) * scale, -1.0), _N_BUCKETS + 0.5)
        bucket[i] = np.uint16(place + 1.0)
        begin[bucket[i] + 1] += 1
    begin = np.cumsum(begin)
    ordered = np.empty_like(values)
    to = begin.copy()
    for i in range(n):
        ordered[to[bucket[i]]] = values[i]
        to[bucket[i]] += 1
    return ordered, begin


@njit(cache=True, nogil=True)
def _ranked(ordered: np.ndarray, begin: np.ndarray, rank: int) -> float:
    """Return the value of a rank, from 0, from the result of `_bucketed`."""
    k = np.searchsorted(begin, rank, side="right") - 1
    bucket = ordered[begin[k] : begin[k + 1]]
    if bucket.min() == bucket.max():  # also saves a sort of many equal values
        return float(bucket[0])
    return float(np.sort(bucket)[rank - begin[k]])


@njit(cache=True, nogil=True)
def _quantile(ordered: np.ndarray, begin: np.ndarray, fraction: float) -> float:
    """Return a quantile, interpolated linearly at rank ``fraction * (n - 1)``."""
    rank = fraction * (len(ordered) - 1)
    low = int(rank)
    lower = _ranked(ordered, begin, low)
    if low == len(ordered) - 1:
        return lower
    return lower + (rank - low) * (_ranked(ordered, begin, low + 1) - lower)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _moments(values: np.ndarray, centre: float, half_width: float) -> tuple[float, float, int]:
    """Return mean, de-biased variance and number of the values within ``centre +- half_width``."""
    total = 0.0
    squares = 0.0
    n = 0
    for v in values:
        d = float(v) - centre  # relative to the centre, so that the squares do not lose digits
        inside = abs(d) <= half_width
        d = d if inside else 0.0
        total += d
        squares += d * d
        n += 1 if inside else 0
    if n == 0:
        return np.nan, np.nan, 0
    mean = total / n
    variance = max(squares / n - mean * mean, 0.0) * n / (n - 1) if n > 1 else np.nan
    return centre + mean, variance, n


@njit(cache=True, nogil=True)
def clip(values: np.ndarray, n_sigma: float, n_iter: int) -> tuple[float, float, int]:
    """Return clipped mean, variance and number of finite values (n); compiled, for loops over many samples.

    The first centre is the median.  Variance is n/(n-1) de-biased; without values both are NaN.
    """
    if len(values) == 0:
        return np.nan, np.nan, 0
    ordered, begin = _bucketed(values)
    mean = _quantile(ordered, begin, 0.5)
    spread = _quantile(ordered, begin, 0.75) - _quantile(ordered, begin, 0.25)
    half_width = n_sigma * IQR_TO_SIGMA * spread
    variance = np.nan
    n = 0
    for _ in range(n_iter):
        mean, variance, n = _moments(values, mean, half_width)
        half_width = n_sigma * np.sqrt(variance) if n > 1 else 0.0
    return mean, variance, n


def clipped_statistics(values: np.ndarray, *, n_sigma: float = 3.0, n_iter: int = 3) -> ClippedStatistics:
    """Return mean and standard deviation of the finite values after clipping.

    Parameters
    ----------
    values
        Values of any shape; those that are not finite are left out.
    n_sigma
        Half-width of the accepted range in standard deviations.
    n_iter
        Number of iterations; all are done.

    Returns
    -------
    Statistics; NaN where there are no values.
    """
    flat = np.asarray(values).ravel()
    finite = np.isfinite(flat)
    mean, variance, n = clip(flat if finite.all() else flat[finite], n_sigma, n_iter)
    return ClippedStatistics(mean, math.sqrt(variance), n)


@njit(cache=True, nogil=True)
def cell_statistics(
    image: np.ndarray,
    good: np.ndarray,
    y_edges: np.ndarray,
    x_edges: np.ndarray,
    statistic: int,
    nan_safe: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a statistic of the good pixels of each cell, and the squared error of the mean or median there.

    Both are float64 (ny, nx).

    Parameters
    ----------
    image
        Pixels (height, width).
    good
        Pixels that count, bool (height, width).
    y_edges, x_edges
        First rows (ny+1) and columns (nx+1) of the cells, and the end of the last.
    statistic
        Index into `STATISTICS`; the clipping is at 3 sigma, 3 times.
    nan_safe
        Whether good pixels that are not finite are left out; else they make the cell NaN.
    """
    ny, nx = len(y_edges) - 1, len(x_edges) - 1
    values = np.full((ny, nx), np.nan)
    errors = np.full((ny, nx), np.nan)
    for cy in range(ny):
        for cx in range(nx):
            x0, x1 = x_edges[cx], x_edges[cx + 1]
            pixels = np.empty((y_edges[cy + 1] - y_edges[cy]) * (x1 - x0), image.dtype)
            n = 0
            n_good = 0
            for j in range(y_edges[cy], y_edges[cy + 1]):
                for i in range(x0, x1):
                    value = image[j, i]
                    # Written always and counted if wanted: a branch would cost more where the mask is ragged.
                    pixels[n] = value
                    n += good[j, i] and np.isfinite(value)
                    n_good += good[j, i]
            if n == 0 or (n < n_good and not nan_safe):
                continue
            pixels = pixels[:n]
            if statistic == 0 or statistic == 3:
                mean, variance, kept = clip(pixels, 3.0, 3)
                values[cy, cx] = mean if statistic == 0 else np.sqrt(variance)
                errors[cy, cx] = variance / kept if kept else np.nan
            else:
                centre = _quantile(*_bucketed(pixels), 0.5)
                mean, variance, kept = _moments(pixels, centre, np.inf)
                values[cy, cx] = mean if statistic == 1 else centre
                # The median of Gaussian noise varies pi/2 times as much as the mean.
                errors[cy, cx] = variance / kept * (1.0 if statistic == 1 else 0.5 * np.pi)
    return values, errors
