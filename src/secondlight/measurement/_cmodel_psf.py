"""Shapelet approximations of PSFs as derivatives of Gaussians, for drawing galaxy models."""

from __future__ import annotations

__all__ = ("ShapeletPsf", "read_shapelet_psf", "shapelet_columns", "shapelets_to_derivatives")

import math
from typing import NamedTuple

import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog

from ._cmodel_model_kernels import PSF_TERMS

_COEFFICIENTS = {1: 0, 3: 1, 6: 2}
"""Order of an expansion by its number of coefficients."""


class ShapeletPsf(NamedTuple):
    """PSFs of n sources as sums of m components.

    Attributes
    ----------
    components
        What `draw_mixture` takes, float64 (n, m, 11).
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
        Raised if the schema has no such columns, or an expansion is of higher order than 2.
    """
    result: list[list[str]] = []
    while f"{name}_{len(result)}_xx" in schema:
        prefix = f"{name}_{len(result)}"
        names = [f"{prefix}_{suffix}" for suffix in ("xx", "yy", "xy", "x", "y")]
        k = 0
        while f"{prefix}_{k}" in schema:
            names.append(f"{prefix}_{k}")
            k += 1
        if k not in _COEFFICIENTS:
            expected = ", ".join(str(n) for n in _COEFFICIENTS)
            raise ValueError(f"{prefix} has {k} coefficients; expected one of {expected} (order 2 or less).")
        result.append(names)
    if not result:
        raise ValueError(
            f"There are no columns {name}_0_xx, ...: enable the plugin {name} or set psfName to the one that "
            "approximates the PSF by shapelets."
        )
    return result


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
        with np.errstate(invalid="ignore"):
            failed |= ~(np.isfinite(values).all(axis=1) & (xx > 0) & (yy > 0) & (xx * yy > xy * xy))
    components = np.zeros((len(catalog), len(parts), PSF_TERMS))
    for k, values in enumerate(parts):
        coefficients = np.zeros((len(catalog), 6))
        coefficients[:, : values.shape[1] - 5] = values[:, 5:]
        good = ~failed
        components[good, k] = shapelets_to_derivatives(
            values[good, :3], centres=values[good, 3:5], coefficients=coefficients[good]
        )
    moments, offset = _moments(components)
    with np.errstate(invalid="ignore"):
        usable = (moments[:, 0] > 0) & (moments[:, 0] * moments[:, 1] > moments[:, 2] ** 2)
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
        Factors of the basis functions (nx, ny) = (0,0), (0,1), (1,0), (0,2), (1,1), (2,0), (n, 6).

    Returns
    -------
    components
        See `PSF_TERMS`, (n, 11).
    """
    c = 2.0 * math.sqrt(math.pi) * coefficients
    root2 = math.sqrt(2.0)
    # Along the axes of the unit circle t h1 -> -sqrt2 d/dt, h2 -> sqrt2 d2/dt2 + 1/sqrt2, h1 h1 -> 2 d2/dtdu.
    first = -root2 * np.stack([c[:, 2], c[:, 1]], axis=1)
    second = np.empty((len(c), 2, 2))
    second[:, 0, 0], second[:, 1, 1] = root2 * c[:, 5], root2 * c[:, 3]
    second[:, 0, 1] = second[:, 1, 0] = c[:, 4]
    root = _square_root(moments)
    first = np.einsum("nij,nj->ni", root, first)
    second = root @ second @ root
    result = np.empty((len(c), PSF_TERMS))
    result[:, :2], result[:, 2:5] = centres, moments
    result[:, 5] = c[:, 0] + (c[:, 3] + c[:, 5]) / root2
    result[:, 6:8] = first
    result[:, 8], result[:, 9], result[:, 10] = second[:, 0, 0], 2.0 * second[:, 0, 1], second[:, 1, 1]
    return result


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
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = c[5].sum(axis=1)
        x = (c[5] * c[0] - c[6]).sum(axis=1) / flux
        y = (c[5] * c[1] - c[7]).sum(axis=1) / flux
        xx = (c[5] * (c[2] + c[0] ** 2) - 2.0 * c[6] * c[0] + 2.0 * c[8]).sum(axis=1) / flux - x * x
        yy = (c[5] * (c[3] + c[1] ** 2) - 2.0 * c[7] * c[1] + 2.0 * c[10]).sum(axis=1) / flux - y * y
        xy = (c[5] * (c[4] + c[0] * c[1]) - c[6] * c[1] - c[7] * c[0] + c[9]).sum(axis=1) / flux - x * y
    return np.column_stack([xx, yy, xy]), np.column_stack([x, y])
