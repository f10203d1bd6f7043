"""Compiled resampling of gridded PSF models."""

from __future__ import annotations

__all__ = ("resample_loop",)

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, fastmath={"contract"})
def _resample_rows(samples: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Fill ``out[i, j]`` with the sum over t of ``weights[j, t] * samples[first[j] + t, i]``.

    ``samples`` is (h, w), zero beyond its rows; ``first`` is (p); ``weights`` is (p, taps), or (1, taps) if
    all pixels have the same; ``out`` is (w, p).
    """
    height, width = samples.shape
    taps = weights.shape[1]
    total = np.empty(width)
    for j in range(len(first)):
        weight = weights[min(j, len(weights) - 1)]
        start = first[j]
        total[:] = 0.0
        t, end = max(0, -start), min(taps, height - start)
        while t + 4 <= end:
            a, b, c, d = weight[t], weight[t + 1], weight[t + 2], weight[t + 3]
            # Weights vanish where the pixels are on the grid: then a stamp costs next to nothing.
            if a != 0.0 or b != 0.0 or c != 0.0 or d != 0.0:
                rows = samples[start + t : start + t + 4]
                for i in range(width):
                    total[i] += a * rows[0, i] + b * rows[1, i] + c * rows[2, i] + d * rows[3, i]
            t += 4
        while t < end:
            a = weight[t]
            if a != 0.0:
                row = samples[start + t]
                for i in range(width):
                    total[i] += a * row[i]
            t += 1
        for i in range(width):
            out[i, j] = total[i]


@njit(cache=True, nogil=True)
def resample_loop(
    samples: np.ndarray,
    first_y: np.ndarray,
    weights_y: np.ndarray,
    first_x: np.ndarray,
    weights_x: np.ndarray,
) -> np.ndarray:
    """Interpolate n grids separably on stamps.

    Pixel (j, i) of stamp k is the sum of ``samples[k, first_y[k, j] + s, first_x[k, i] + t]`` times
    ``weights_y[k, j, s] * weights_x[k, i, t]``; grids are zero outside.

    Parameters
    ----------
    samples
        Grids, float64 (n, h, w).
    first_y, first_x
        First grid index of each pixel's taps, int64 (n, p_y), (n, p_x).
    weights_y, weights_x
        Weights of the taps, float64 (n, p_y, taps), (n, p_x, taps); the second length is 1 if all pixels
        of a stamp have the same weights.  The first length of indices and weights is 1 if all stamps have the
        same.

    Returns
    -------
    stamps
        Float64 (n, p_y, p_x).
    """
    n, _, width = samples.shape
    p_y, p_x = first_y.shape[1], first_x.shape[1]
    between = np.empty((width, p_y))
    stamps = np.empty((n, p_y, p_x))
    for k in range(n):
        at_y, at_x = min(k, len(first_y) - 1), min(k, len(first_x) - 1)
        _resample_rows(samples[k], first_y[at_y], weights_y[at_y], between)
        _resample_rows(between, first_x[at_x], weights_x[at_x], stamps[k])
    return stamps
