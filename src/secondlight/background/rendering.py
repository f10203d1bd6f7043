"""Fields over whole images, in single precision, a strip of rows at a time.

Values are those of the fields' own ``render`` in double precision to a few units in the last place, before
they are rounded: only the order of multiplications differs, which saves most of the time.
"""

from __future__ import annotations

__all__ = ("add_field",)

import numpy as np
from lsst.images import Box, Interval
from lsst.images.fields import ChebyshevField, Field, SplineField
from numba import njit
from scipy.interpolate import Akima1DInterpolator

_STRIP = 512


def add_field(total: np.ndarray, field: Field, bbox: Box) -> None:
    """Add a field, evaluated in double precision and rounded, to the pixels of a box in place.

    Parameters
    ----------
    total
        Pixels, float32 (height, width).
    field
        Field to evaluate.
    bbox
        Parent pixels of the image.
    """
    columns = _columns(field, bbox.y) if isinstance(field, SplineField) else None
    # Strips of rows: whole images in double precision would need many times the memory.
    for start in range(0, bbox.y.size, _STRIP):
        rows = total[start : start + _STRIP]
        first = bbox.y.start + start
        strip = Box.factory[first : first + len(rows), bbox.x.start : bbox.x.stop]
        if columns is not None:
            _add_spline(rows, columns[0], columns[1][:, start : start + _STRIP], field.bounds.bbox.x, strip.x)
        elif isinstance(field, ChebyshevField):
            rows += _chebyshev(field, strip).astype(np.float32)
        else:
            rows += field.render(strip, dtype=np.float64).array.astype(np.float32)


def _chebyshev(field: ChebyshevField, bbox: Box) -> np.ndarray:
    """Return a polynomial over a box as one product of matrices, float64 (height, width)."""
    order_y, order_x = field.y_order, field.x_order
    domain = field.bounds.bbox
    x = np.polynomial.chebyshev.chebvander(_remapped(bbox.x, domain.x), order_x)
    y = np.polynomial.chebyshev.chebvander(_remapped(bbox.y, domain.y), order_y)
    return np.asarray(y @ field.coefficients @ x.T)


def _remapped(pixels: Interval, domain: Interval) -> np.ndarray:
    """Return positions in units in which a domain, half a pixel wider at each end, goes from -1 to 1."""
    return np.asarray((pixels.arange - 0.5 * (domain.min + domain.max)) * (2.0 / domain.size))


def _columns(field: SplineField, rows: Interval) -> tuple[np.ndarray, np.ndarray]:
    """Return where a spline has columns of nodes (n), and its values along each column (n, rows)."""
    finite = np.isfinite(field.data)
    filled = finite.any(axis=0)
    if not filled.any():
        raise ValueError("A spline without a single finite value cannot be evaluated.")
    interval = field.bounds.bbox.y
    if finite.all():
        return field.x, _curve(field.y, field.data, interval)(rows.arange).T
    values = [
        _curve(field.y[good], column[good], interval)(rows.arange)
        for column, good in zip(field.data.T[filled], finite.T[filled], strict=True)
    ]
    return field.x[filled], np.array(values)


def _add_spline(
    rows: np.ndarray, nodes: np.ndarray, values: np.ndarray, interval: Interval, columns: Interval
) -> None:
    """Add an Akima spline along x to each row of pixels, from its values at the nodes (nodes, rows)."""
    curve = _curve(nodes, values, interval)
    segment = np.clip(np.searchsorted(curve.x, columns.arange, side="right") - 1, 0, len(curve.x) - 2)
    begin = np.searchsorted(segment, np.arange(len(curve.x)))
    _add_cubics(rows, np.ascontiguousarray(curve.c.transpose(2, 1, 0)), curve.x, begin, columns.start)


def _curve(nodes: np.ndarray, values: np.ndarray, interval: Interval) -> Akima1DInterpolator:
    if len(nodes) == 1:  # a constant, as the field has it
        return Akima1DInterpolator([interval.min - 0.5, interval.max + 0.5], np.repeat(values, 2, axis=0))
    return Akima1DInterpolator(nodes, values, extrapolate=True)


@njit(cache=True, nogil=True)
def _add_cubics(
    rows: np.ndarray, coefficients: np.ndarray, nodes: np.ndarray, begin: np.ndarray, x0: int
) -> None:
    """Add piecewise cubics along each row.

    Parameters
    ----------
    rows
        Pixels, float32 (height, width), changed in place.
    coefficients
        Those of each row and segment, highest power first (height, segments, 4).
    nodes
        Where segments begin, pixels (segments + 1).
    begin
        First column of each segment (segments + 1).
    x0
        Position of the first column.
    """
    for j in range(rows.shape[0]):
        for k in range(len(begin) - 1):
            c = coefficients[j, k]
            for i in range(begin[k], begin[k + 1]):
                d = x0 + i - nodes[k]
                rows[j, i] += np.float32(((c[0] * d + c[1]) * d + c[2]) * d + c[3])
