"""Smooth cells: a plane fitted around each cell, with Gaussian weights."""

from __future__ import annotations

__all__ = ("smooth_cells",)

import numpy as np
import scipy.ndimage


def smooth_cells(values: np.ndarray, weight: np.ndarray, *, sigma: float) -> np.ndarray:
    """Return the values at the cells of planes fitted around each, float64 (ny, nx).

    A plane stays as it is up to the border and across cells without weight, whose values are filled in; noise
    is averaged over about ``4 pi sigma^2`` cells.

    Parameters
    ----------
    values
        Values of the cells (ny, nx); those that are not finite have no weight.
    weight
        Weights, not negative (ny, nx).
    sigma
        Standard deviation of the Gaussian of distances, cells; 0 to fill in cells without weight and leave
        the others as they are.

    Raises
    ------
    ValueError
        Raised if no cell has weight.
    """
    y, x = np.meshgrid(*(np.arange(float(n)) for n in values.shape), indexing="ij")
    counted = (weight > 0) & np.isfinite(values)
    if not counted.any():
        raise ValueError("There is no cell with a weight and a value to fit planes to.")
    filled, weight = np.where(counted, values, 0.0), np.where(counted, weight, 0.0)
    width = sigma or 1.0
    result = np.full(values.shape, np.nan)
    # Where all neighbours are missing, wider and wider Gaussians find some.
    while not np.isfinite(result).all():
        todo = ~np.isfinite(result)
        result[todo] = _planes(filled, weight, x, y, width)[todo]
        width *= 2.0
    return np.where(counted, values, result) if sigma == 0 else result


def _planes(values: np.ndarray, weight: np.ndarray, x: np.ndarray, y: np.ndarray, sigma: float) -> np.ndarray:
    """Return the planes' values at the cells; NaN where there is hardly any weight."""

    def local(quantity: np.ndarray) -> np.ndarray:
        return np.asarray(scipy.ndimage.gaussian_filter(quantity, sigma, mode="constant", truncate=4.0))

    total = local(weight)
    # Nearer than 2.8 sigma there is a cell of full weight, or more of less weight.
    enough = total * max(2.0 * np.pi * sigma**2, 1.0) > 0.02 * weight.max()
    total = np.where(enough, total, np.nan)
    mean, mean_x, mean_y = (local(weight * q) / total for q in (values, x, y))
    xx = local(weight * x * x) / total - mean_x**2
    yy = local(weight * y * y) / total - mean_y**2
    xy = local(weight * x * y) / total - mean_x * mean_y
    xv = local(weight * x * values) / total - mean_x * mean
    yv = local(weight * y * values) / total - mean_y * mean
    # Far less than a cell: only a direction across which all cells are in line gets no slope.
    xx, yy = xx + 1e-6, yy + 1e-6
    determinant = xx * yy - xy**2
    slope_x = (yy * xv - xy * yv) / determinant
    slope_y = (xx * yv - xy * xv) / determinant
    return np.asarray(mean + slope_x * (x - mean_x) + slope_y * (y - mean_y))
