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
