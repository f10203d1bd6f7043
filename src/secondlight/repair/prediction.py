"""Prediction of a pixel from its neighbours when the image is a PSF-smoothed random field."""

from __future__ import annotations

__all__ = ("unit_sum_weights",)

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def unit_sum_weights(positions: np.ndarray, target: float, sigma: float) -> np.ndarray:
    """Return the weights of the best linear predictor of unit sum (ordinary kriging).

    Point sources scattered over an image with a Gaussian PSF of width sigma have the autocorrelation
    exp(-d**2 / (4 sigma**2)); the weights minimise the mean squared error for such a field and keep a
    constant level (spec reprocess 11.4, where sigma = 1 reproduces the tabulated numbers).

    Parameters
    ----------
    positions
        Distinct positions of the known pixels along a line, pixels, float64 (n), n >= 1.
    target
        Position of the predicted pixel on that line, pixels.
    sigma
        Width of the PSF, pixels.

    Returns
    -------
    weights
        Weight of each known pixel, float64 (n); they sum to 1.
    """
    n = len(positions)
    scale = 1.0 / (4.0 * sigma * sigma)
    # The last row and column carry the Lagrange multiplier of the unit sum.
    matrix = np.ones((n + 1, n + 1))
    right = np.ones(n + 1)
    matrix[n, n] = 0.0
    for i in range(n):
        right[i] = np.exp(-scale * (positions[i] - target) ** 2)
        for j in range(n):
            matrix[i, j] = np.exp(-scale * (positions[i] - positions[j]) ** 2)
    return np.linalg.solve(matrix, right)[:n]
