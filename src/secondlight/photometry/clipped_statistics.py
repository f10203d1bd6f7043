"""Clipped mean and standard deviation of many values (spec reprocess 9.3)."""

from __future__ import annotations

__all__ = ("ClippedStatistics", "clipped_statistics")

from typing import NamedTuple

import numpy as np

_IQR_TO_SIGMA = 0.741301109252802


class ClippedStatistics(NamedTuple):
    """Mean and standard deviation (with n - 1) of the values kept; NaN where there are too few."""

    mean: float
    stdev: float


def clipped_statistics(values: np.ndarray, *, n_sigma: float = 3.0, n_iter: int = 3) -> ClippedStatistics:
    """Return the clipped mean and standard deviation of the finite values.

    The first round clips about the median by the interquartile range, later ones about the last mean by the
    last standard deviation; every round looks at all values again.
    """
    values = values[np.isfinite(values)]
    if not values.size:
        return ClippedStatistics(np.nan, np.nan)
    lower, center, upper = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    sigma = _IQR_TO_SIGMA * (upper - lower)
    for _ in range(n_iter):
        kept = values[np.abs(values - center) <= n_sigma * sigma]
        if kept.size < 2:
            return ClippedStatistics(float(kept[0]) if kept.size else np.nan, np.nan)
        center, sigma = float(kept.mean(dtype=np.float64)), float(kept.std(dtype=np.float64, ddof=1))
    return ClippedStatistics(center, sigma)
