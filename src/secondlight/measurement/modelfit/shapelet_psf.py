"""Shapelet approximations of PSFs as derivatives of Gaussians, for drawing galaxy models."""

from __future__ import annotations

__all__ = ("ShapeletPsf", "read_shapelet_psf", "shapelet_columns", "shapelets_to_derivatives")

import math
from typing import NamedTuple

import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog

from .mixtures import PSF_ORDER, PSF_TERMS

_COUNTS = [(order + 1) * (order + 2) // 2 for order in range(PSF_ORDER + 1)]
"""Numbers of coefficients of expansions."""


class ShapeletPsf(NamedTuple):
    """PSFs of n sources as sums of m components.

    Attributes
    ----------
    components
        What `draw_mixture` takes, float64 (n, m, 20).
    moments
        Second moments ``xx, yy, xy`` about the centre, pixel^2 (n, 3).
    offset
        Centre of the PSF relative to the source, pixels (n, 2).
    failed
        Whether a PSF is not usable, bool (n).
    """

    components: np.ndarray
    moments: np.ndarray
    offset: np.ndarray
    failed: np.ndarray


def shapelet_columns(schema: Schema, name: str) -> list[list[str]]:
    """Return the columns of each component of an approximation: xx, yy, xy, x, y, then its coefficients.

    Raises
    ------
    ValueError
        Raised if the schema has no such columns, or the number of coefficients fits no order up to
        `PSF_ORDER`.
    """
    result: list[list[str]] = []
    while f"{name}_{len(result)}_xx" in schema:
        prefix = f"{name}_{len(result)}"
        names = [f"{prefix}_{suffix}" for suffix in ("xx", "yy", "xy", "x", "y")]
        k = 0
        while f"{prefix}_{k}" in schema:
            names.append(f"{prefix}_{k}")
            k += 1
        if k not in _COUNTS:
            expected = ", ".join(map(str, _COUNTS))
            raise ValueError(f"{prefix} has {k} coefficients; expected one of {expected}.")
        result.append(names)
    if not result:
        raise ValueError(
            f"There are no columns {name}_0_xx, ...: enable the plugin {name} or set psfName to the one that "
            "approximates the PSF by shapelets."
        )
    return result


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def read_shapelet_psf(catalog: SourceCatalog, name: str, *, centroid_flag: np.ndarray) -> ShapeletPsf:
    """Return the PSFs of the sources of a catalog.

    Parameters
    ----------
    catalog
        Sources.
    name
        Prefix of the columns of the approximation.
    centroid_flag
        Whether the centroid is flagged (n): an approximation that is flagged for no other reason is used.
    """
    parts, failed = [], np.zeros(len(catalog), dtype=bool)
    if f"{name}_flag" in catalog:
        failed |= np.asarray(catalog[f"{name}_flag"]) & ~centroid_flag
    for column in catalog.schema.names:
        if column.startswith(f"{name}_flag_"):
            failed |= np.asarray(catalog[column])
    for names in shapelet_columns(catalog.schema, name):
        values = np.column_stack([np.asarray(catalog[column], dtype=np.float64) for column in names])
        parts.append(values)
        xx, yy, xy = values[:, 0], values[:, 1], values[:, 2]
        failed |= ~(np.isfinite(values).all(axis=1) & (xx > 0) & (yy > 0) & (xx * yy > xy * xy))
    components = np.zeros((len(catalog), len(parts), PSF_TERMS))
    for k, values in enumerate(parts):
        good = values[~failed]
        components[~failed, k] = shapelets_to_derivatives(
            good[:, :3], centres=good[:, 3:5], coefficients=good[:, 5:]
        )
    moments, offset = _moments(components)
    usable = (moments[:, 0] > 0) & (moments[:, 0] * moments[:, 1] > moments[:, 2] ** 2)
    usable &= np.isfinite(components).all(axis=(1, 2)) & np.isfinite(moments).all(axis=1)
    return ShapeletPsf(components, moments, offset, failed | ~usable)


def shapelets_to_derivatives(
    moments: np.ndarray, *, centres: np.ndarray, coefficients: np.ndarray
) -> np.ndarray:
    """Return Gauss-Hermite expansions as combinations of derivatives of Gaussians of unit flux.

    Parameters
    ----------
    moments
        ``xx, yy, xy`` of the ellipses, (n, 3).
    centres
        (n, 2).
    coefficients
        Factors of the basis functions (nx, ny) = (0,0), (0,1), (1,0), (0,2), (1,1), (2,0), ..., (n, k).

    Returns
    -------
    components
        See `PSF_TERMS`, (n, 20).
    """
    root = _square_root(moments)
    along_u, along_v = root[:, 0], root[:, 1]
    result = np.zeros((len(moments), PSF_TERMS))
    result[:, :2], result[:, 2:5] = centres, moments
    for k in range(coefficients.shape[1]):
        order, nx = _PACKING[k]
        ny = order - nx
        for i in range(nx + 1):
            for j in range(ny + 1):
                factor = 2.0 * math.pi * _DERIVATIVES[nx, i] * _DERIVATIVES[ny, j]
                if factor:
                    start = 5 + (i + j) * (i + j + 1) // 2
                    powers = _product_of_powers(along_u, i, along_v, j)
                    result[:, start : start + i + j + 1] += (factor * coefficients[:, k])[:, None] * powers
    return result


def _product_of_powers(u: np.ndarray, i: int, v: np.ndarray, j: int) -> np.ndarray:
    """Return the factors of x^(i+j), x^(i+j-1) y, ... in (u0 x + u1 y)^i (v0 x + v1 y)^j, (n, i + j + 1)."""
    result = np.ones((len(u), 1))
    for factor in (*[u] * i, *[v] * j):
        grown = np.zeros((len(u), result.shape[1] + 1))
        grown[:, :-1] += factor[:, :1] * result
        grown[:, 1:] += factor[:, 1:] * result
        result = grown
    return result


def _derivative_table() -> np.ndarray:
    """Return the factors of (d/dt)^m exp(-t^2/2) in h_n exp(-t^2/2), (n, m), by the recurrence of h_n.

    Multiplication with t turns the m-th derivative into -(the next) - m (the one before).
    """
    size = PSF_ORDER + 1
    times_t = -np.eye(size, k=1) - np.diag(np.arange(1.0, size), k=-1)
    table = np.zeros((size, size))
    table[0, 0] = math.pi**-0.25
    for n in range(1, size):
        table[n] = math.sqrt(2.0 / n) * table[n - 1] @ times_t
        if n > 1:
            table[n] -= math.sqrt((n - 1.0) / n) * table[n - 2]
    return table


_DERIVATIVES = _derivative_table()
_PACKING = [(order, nx) for order in range(PSF_ORDER + 1) for nx in range(order + 1)]
"""Order and nx of the basis functions, as packed."""


def _square_root(moments: np.ndarray) -> np.ndarray:
    """Return the symmetric square roots of moment matrices, (n, 2, 2)."""
    xx, yy, xy = moments.T
    s = np.sqrt(xx * yy - xy * xy)
    t = np.sqrt(xx + yy + 2.0 * s)
    result = np.empty((len(moments), 2, 2))
    result[:, 0, 0], result[:, 1, 1] = (xx + s) / t, (yy + s) / t
    result[:, 0, 1] = result[:, 1, 0] = xy / t
    return result


def _moments(components: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return second moments about the centre (n, 3) and the centre (n, 2); NaN where there is no flux."""
    c = np.moveaxis(components, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        flux = c[5].sum(axis=1)
        x = (c[5] * c[0] - c[6]).sum(axis=1) / flux
        y = (c[5] * c[1] - c[7]).sum(axis=1) / flux
        xx = (c[5] * (c[2] + c[0] ** 2) - 2.0 * c[6] * c[0] + 2.0 * c[8]).sum(axis=1) / flux - x * x
        yy = (c[5] * (c[3] + c[1] ** 2) - 2.0 * c[7] * c[1] + 2.0 * c[10]).sum(axis=1) / flux - y * y
        xy = (c[5] * (c[4] + c[0] * c[1]) - c[6] * c[1] - c[7] * c[0] + c[9]).sum(axis=1) / flux - x * y
    return np.column_stack([xx, yy, xy]), np.column_stack([x, y])
