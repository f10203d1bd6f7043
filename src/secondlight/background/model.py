"""Background models: cells, their statistics, and fields fitted to them (spec reprocess 12.3)."""

from __future__ import annotations

__all__ = ("CellGrid", "cell_edges", "fit_chebyshev", "measure_cells")

import dataclasses

import astropy.units as u
import numpy as np
from lsst.images import Box
from lsst.images.fields import ChebyshevField

from .statistics import STATISTICS, cell_statistics


@dataclasses.dataclass(frozen=True)
class CellGrid:
    """A statistic of the pixels of each cell of an image.

    Parameters
    ----------
    bbox
        Pixels of the image.
    y, x
        Centres of the rows (ny) and columns (nx) of cells, parent pixels.
    values
        Statistic of each cell, float64 (ny, nx); NaN for a cell without good pixels.
    squared_errors
        Squared error of the statistic (ny, nx).
    """

    bbox: Box
    y: np.ndarray
    x: np.ndarray
    values: np.ndarray
    squared_errors: np.ndarray


def cell_edges(length: int, cell_size: int, *, at_least: int = 1) -> np.ndarray:
    """Return the edges of nearly equal cells of at most ``cell_size`` pixels, int64 (n+1), first 0.

    Parameters
    ----------
    length
        Number of pixels to divide.
    cell_size
        Largest size of a cell.
    at_least
        Number of cells wanted even if they are smaller.
    """
    n = max(-(-length // cell_size), min(at_least, length))
    return np.minimum((np.arange(n + 1) * length + n // 2) // n, length)


def measure_cells(
    image: np.ndarray,
    good: np.ndarray,
    bbox: Box,
    *,
    cell_size: tuple[int, int],
    statistic: str = "MEANCLIP",
    nan_safe: bool = False,
    at_least: tuple[int, int] = (1, 1),
) -> CellGrid:
    """Return a statistic of the good pixels in each cell.

    Parameters
    ----------
    image
        Pixels (height, width).
    good
        Pixels that count, bool (height, width).
    bbox
        Parent pixels of the image.
    cell_size
        Largest size of a cell in x and y, pixels.
    statistic
        One of `STATISTICS`.
    nan_safe
        Whether good pixels that are not finite are left out instead of spoiling their cell.
    at_least
        Least number of cells in x and y.
    """
    height, width = image.shape
    x_edges = cell_edges(width, cell_size[0], at_least=at_least[0])
    y_edges = cell_edges(height, cell_size[1], at_least=at_least[1])
    values, errors = cell_statistics(image, good, y_edges, x_edges, STATISTICS.index(statistic), nan_safe)
    return CellGrid(
        bbox,
        bbox.y.min + 0.5 * (y_edges[1:] + y_edges[:-1]) - 0.5,
        bbox.x.min + 0.5 * (x_edges[1:] + x_edges[:-1]) - 0.5,
        values,
        errors,
    )


def fit_chebyshev(
    grid: CellGrid, *, x_order: int, y_order: int, weighting: bool, unit: u.UnitBase | None = None
) -> ChebyshevField:
    """Return the Chebyshev polynomial closest to the cells.

    Parameters
    ----------
    grid
        Cells, at least one of them finite.
    x_order, y_order
        Orders, reduced to what the finite cells can determine.
    weighting
        Whether the squared residual of a cell counts by its inverse error (not squared: reproduces the
        reference's images); where no error is positive all cells count the same.
    unit
        Unit of the values.
    """
    x_order, y_order = _supported_orders(np.isfinite(grid.values), x_order, y_order)
    weight = None
    if weighting:
        usable = np.isfinite(grid.squared_errors) & (grid.squared_errors > 0)
        # The fit squares what it gets: the fourth root of the squared error weighs squares by 1/error.
        residual_weight = np.where(usable, grid.squared_errors, np.inf) ** -0.25
        weight = residual_weight if usable.any() else None
    return ChebyshevField.fit(
        grid.bbox,
        grid.values,
        y=grid.y,
        x=grid.x,
        x_order=x_order,
        y_order=y_order,
        weight=weight,
        unit=unit,
    )


def _supported_orders(finite: np.ndarray, x_order: int, y_order: int) -> tuple[int, int]:
    """Return orders that the columns, the rows and the number of finite cells can determine."""
    x_order = min(x_order, int(finite.any(axis=0).sum()) - 1)
    y_order = min(y_order, int(finite.any(axis=1).sum()) - 1)
    while _n_terms(x_order, y_order) > finite.sum():
        x_order, y_order = max(x_order - 1, 0), max(y_order - 1, 0)
    return x_order, y_order


def _n_terms(x_order: int, y_order: int) -> int:
    """Return the number of terms T_p(y) T_q(x) with p + q not above the larger order."""
    q, p = np.meshgrid(np.arange(x_order + 1), np.arange(y_order + 1))
    return int((p + q <= max(x_order, y_order)).sum())
