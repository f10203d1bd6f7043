"""Splines through cells as fields (spec reprocess 12.3).

`lsst.images.fields.SplineField` is an Akima spline through its data points, first along columns, then along
rows.  Other splines are written as such a field by giving each node two close neighbours on its tangents: the
Akima slope at a node with collinear neighbours is that of the line, so every piecewise cubic is reproduced.
"""

from __future__ import annotations

__all__ = ("fit_spline", "reduced_style")

from collections.abc import Callable

import astropy.units as u
import numpy as np
from lsst.images import Box, Interval
from lsst.images.fields import SplineField
from scipy.interpolate import CubicSpline

_STEP = 1e-4
"""Distance of the neighbours of a node, pixels: far below a pixel, far above rounding."""

_MIN_POINTS = {"CONSTANT": 1, "LINEAR": 2, "NATURAL_SPLINE": 3, "AKIMA_SPLINE": 5}
"""Styles in order of complexity with the number of points each needs."""

type _Curves = tuple[np.ndarray, np.ndarray]
"""Knots (n) and values there (n, columns)."""


def reduced_style(style: str, n_points: int) -> str:
    """Return the style itself, or the richest simpler one that so many points allow."""
    styles = list(_MIN_POINTS)
    allowed = [s for s in styles[: styles.index(style) + 1] if _MIN_POINTS[s] <= n_points]
    return allowed[-1]


def min_points(style: str) -> int:
    """Return how many points a style needs."""
    return _MIN_POINTS[style]


def fit_spline(
    bbox: Box,
    values: np.ndarray,
    *,
    y: np.ndarray,
    x: np.ndarray,
    style: str,
    unit: u.UnitBase | None = None,
) -> SplineField:
    """Return a field that passes through the values of cells.

    Parameters
    ----------
    bbox
        Pixels the field covers.
    values
        Values of the cells (ny, nx); NaN cells are left out, at least one is finite.
    y, x
        Centres of the rows and columns of cells, parent pixels.
    style
        ``AKIMA_SPLINE``, ``NATURAL_SPLINE``, ``LINEAR`` or ``CONSTANT``; reduced per axis to what the number
        of cells allows.
    unit
        Unit of the values.

    Notes
    -----
    Beyond the outermost centres, Akima splines go on as the last cubic, natural splines as a quadratic with
    the value and the first two derivatives of the end, constants keep the end value.
    """
    y, x = np.asarray(y, dtype=np.float64), np.asarray(x, dtype=np.float64)
    data = np.array(values, dtype=np.float64)
    if (y_style := reduced_style(style, len(y))) != "AKIMA_SPLINE":
        filled = np.isfinite(data).any(axis=0)
        data, x = data[:, filled], x[filled]
        y, data = _refined(y, data, bbox.y, y_style)
    if (x_style := reduced_style(style, len(x))) != "AKIMA_SPLINE":
        x, columns = _refined(x, data.T, bbox.x, x_style)
        data = columns.T.copy()
    return SplineField(bbox, data, y=y, x=x, unit=unit)


def _refined(node: np.ndarray, data: np.ndarray, interval: Interval, style: str) -> _Curves:
    """Return knots and data along the first axis through which an Akima spline follows another style.

    Columns are treated one by one, without their NaN nodes; a column of NaN stays NaN.
    """
    edges = np.array([interval.min - 0.5, interval.max + 0.5])
    stops = np.unique(np.concatenate([edges, node]))
    knots = _step_knots(node, edges) if style == "CONSTANT" else _tangent_knots(stops)
    out = np.full((len(knots), data.shape[1]), np.nan)
    for k, column in enumerate(data.T):
        good = np.isfinite(column)
        if good.any():
            curve = _curve(node[good], column[good], reduced_style(style, int(good.sum())))
            out[:, k] = curve(knots)
    return knots, out


def _tangent_knots(stops: np.ndarray) -> np.ndarray:
    """Return each stop with close neighbours on both sides, inside the outermost ones."""
    return np.sort(np.concatenate([stops, stops[1:] - _STEP, stops[:-1] + _STEP]))


def _step_knots(node: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return two knots at both ends of each plateau, so that the Akima spline is flat between."""
    middle = 0.5 * (node[1:] + node[:-1])
    start = np.concatenate([edges[:1], middle]) + _STEP
    stop = np.concatenate([middle, edges[1:]]) - _STEP
    return np.sort(np.concatenate([start, start + _STEP, stop - _STEP, stop]))


def _curve(node: np.ndarray, value: np.ndarray, style: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function through the nodes that continues beyond them as the style asks."""
    if style == "CONSTANT":
        middle = 0.5 * (node[1:] + node[:-1])
        return lambda at: value[np.searchsorted(middle, at)]
    if style == "LINEAR":
        slope = np.diff(value) / np.diff(node)

        def linear(at: np.ndarray) -> np.ndarray:
            k = np.clip(np.searchsorted(node, at, side="right") - 1, 0, len(slope) - 1)
            return np.asarray(value[k] + slope[k] * (at - node[k]))

        return linear
    spline = CubicSpline(node, value, bc_type="natural")

    def natural(at: np.ndarray) -> np.ndarray:
        # The second derivative of a natural spline vanishes at its ends: the quadratic there is a line.
        end = np.clip(at, node[0], node[-1])
        return np.asarray(spline(end) + spline(end, 1) * (at - end))

    return natural
