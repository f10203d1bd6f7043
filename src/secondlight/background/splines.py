"""Splines through cells as fields (spec reprocess 12.3).

`lsst.images.fields.SplineField` is an Akima spline through its data points, first along columns, then along
rows.  Other splines are written as such a field by putting three close points before and behind each node on
tangents: the Akima slope at a point with two collinear points on one side is that of their line, so every
piecewise cubic is reproduced.
"""

from __future__ import annotations

__all__ = ("fit_spline", "reduced_style")

from collections.abc import Callable

import astropy.units as u
import numpy as np
from lsst.images import Box, Interval
from lsst.images.fields import SplineField
from scipy.interpolate import CubicSpline

_STEP = 0.01
"""Distance of the neighbours of a node, pixels: far below a pixel, far above rounding."""

_MIN_POINTS = {"CONSTANT": 1, "LINEAR": 2, "NATURAL_SPLINE": 3, "AKIMA_SPLINE": 5}
"""Styles in order of complexity with the number of points each needs."""

type _Curves = tuple[np.ndarray, np.ndarray]
"""Knots (n) and values there (n, columns), or values and slopes (n)."""

type _Curve = Callable[[np.ndarray], _Curves]
"""Value and slope of a curve at some places."""


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
    sample = _steps if style == "CONSTANT" else _tangents
    columns = []
    for column in data.T:
        good = np.isfinite(column)
        n_good = int(good.sum())
        curve = _curve(node[good], column[good], reduced_style(style, n_good)) if n_good else _nothing
        knots, values = sample(curve, node, edges)
        columns.append(values)
    return knots, np.column_stack(columns)


def _tangents(curve: _Curve, node: np.ndarray, edges: np.ndarray) -> _Curves:
    """Return knots and values: three points on the tangent before and three on that behind each node."""
    stops = np.unique(np.concatenate([edges, node]))
    reach = _STEP * np.arange(1, 4)
    before, behind = stops[1:, None] - reach[::-1], stops[:-1, None] + reach
    knots, values = [], []
    for side, anchor in ((before, before[:, 0]), (behind, behind[:, -1])):
        value, slope = curve(anchor)
        knots.append(side.ravel())
        values.append((value[:, None] + slope[:, None] * (side - anchor[:, None])).ravel())
    all_knots = np.concatenate(knots)
    order = np.argsort(all_knots)
    return all_knots[order], np.concatenate(values)[order]


def _steps(curve: _Curve, node: np.ndarray, edges: np.ndarray) -> _Curves:
    """Return two knots at both ends of each plateau, so that the Akima spline is flat between."""
    middle = 0.5 * (node[1:] + node[:-1])
    start = np.concatenate([edges[:1], middle]) + _STEP
    stop = np.concatenate([middle, edges[1:]]) - _STEP
    knots = np.sort(np.concatenate([start, start + _STEP, stop - _STEP, stop]))
    return knots, curve(knots)[0]


def _nothing(at: np.ndarray) -> _Curves:
    return np.full(len(at), np.nan), np.full(len(at), np.nan)


def _curve(node: np.ndarray, value: np.ndarray, style: str) -> _Curve:
    """Return a function that gives value and slope of a curve through the nodes, also beyond them."""
    if style == "CONSTANT":
        middle = 0.5 * (node[1:] + node[:-1])
        return lambda at: (value[np.searchsorted(middle, at)], np.zeros(len(at)))
    if style == "LINEAR":
        slopes = np.diff(value) / np.diff(node)

        def linear(at: np.ndarray) -> _Curves:
            k = np.clip(np.searchsorted(node, at, side="right") - 1, 0, len(slopes) - 1)
            return value[k] + slopes[k] * (at - node[k]), slopes[k]

        return linear
    spline = CubicSpline(node, value, bc_type="natural")

    def natural(at: np.ndarray) -> _Curves:
        # The second derivative of a natural spline vanishes at its ends: the quadratic there is a line.
        end = np.clip(at, node[0], node[-1])
        slope = spline(end, 1)
        return spline(end) + slope * (at - end), slope

    return natural
