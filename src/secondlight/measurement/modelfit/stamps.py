"""PSF stamps as lists of pixels, and sums over them, for the shapelet fits."""

from __future__ import annotations

__all__ = (
    "Scratch",
    "dot",
    "load_stamp",
    "make_scratch",
    "repeated",
    "shift_origin",
    "solve_least_squares",
)

from typing import NamedTuple

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_EPSILON = 2.2e-16


class Scratch(NamedTuple):
    """One stamp of h x w = n pixels, and room to work.

    Attributes
    ----------
    image
        Pixel values (n).
    dx, dy
        Offsets from the centre of the fit, pixels (n).
    square
        Squares of the distances from it in units of the ellipse (n).
    rows
        Images of functions, (m, n).
    residual
        What is left to fit (n).
    """

    image: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    square: np.ndarray
    rows: np.ndarray
    residual: np.ndarray


@njit(cache=True, nogil=True)
def make_scratch(pixels: int, rows: int) -> Scratch:
    """Return room for stamps of some number of pixels and for some number of images."""
    return Scratch(
        np.empty(pixels),
        np.empty(pixels),
        np.empty(pixels),
        np.empty(pixels),
        np.empty((rows, pixels)),
        np.empty(pixels),
    )


@njit(cache=True, nogil=True, fastmath=_FAST)
def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of products of two images (n)."""
    total = 0.0
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@njit(cache=True, nogil=True)
def repeated(stamps: np.ndarray, row: int) -> bool:
    """Return whether a stamp (n, h, w) is, bit for bit, the one before it, as those of a constant PSF are."""
    if row == 0:
        return False
    for j in range(stamps.shape[1]):
        for i in range(stamps.shape[2]):
            if stamps[row, j, i] != stamps[row - 1, j, i]:
                return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def load_stamp(stamp: np.ndarray, scratch: Scratch, moments: np.ndarray) -> None:
    """Take the pixels of a stamp and work out its unweighted moments.

    Parameters
    ----------
    stamp
        Pixels (h, w).
    scratch
        ``image``, ``dx`` and ``dy`` are filled, the latter as offsets from the pixel [h // 2, w // 2].
    moments
        Filled with the flux, x and y of the centroid from that pixel, and xx, yy, xy about the centroid (6).
    """
    h, w = stamp.shape
    sums = np.zeros(6)
    k = 0
    for j in range(h):
        y = float(j - h // 2)
        for i in range(w):
            x = float(i - w // 2)
            value = float(stamp[j, i])
            scratch.image[k], scratch.dx[k], scratch.dy[k] = value, x, y
            k += 1
            sums[0] += value
            sums[1] += value * x
            sums[2] += value * y
            sums[3] += value * x * x
            sums[4] += value * y * y
            sums[5] += value * x * y
    flux = sums[0]
    x, y = sums[1] / flux, sums[2] / flux
    moments[0], moments[1], moments[2] = flux, x, y
    moments[3] = sums[3] / flux - x * x
    moments[4] = sums[4] / flux - y * y
    moments[5] = sums[5] / flux - x * y


@njit(cache=True, nogil=True)
def shift_origin(scratch: Scratch, x: float, y: float) -> None:
    """Count offsets from another centre, which lies at x, y from the present one."""
    for k in range(len(scratch.dx)):
        scratch.dx[k] -= x
        scratch.dy[k] -= y


@njit(cache=True, nogil=True, error_model="numpy")
def solve_least_squares(rows: np.ndarray, data: np.ndarray, solution: np.ndarray) -> None:
    """Fit data (n) by a sum of images (m, n), leaving out combinations that the data do not tell.

    ``solution`` is filled with the factors (m), NaN if an image is not finite.
    """
    m = len(rows)
    if m == 0:
        return
    normal, right = np.empty((m, m)), np.empty(m)
    for i in range(m):
        right[i] = dot(rows[i], data)
        for j in range(i + 1):
            normal[i, j] = normal[j, i] = dot(rows[i], rows[j])
    if not np.isfinite(normal).all():
        solution[:] = np.nan
        return
    values, vectors = np.linalg.eigh(normal)
    solution[:] = 0.0
    for k in range(m):
        if values[k] > _EPSILON * values[m - 1]:
            factor = dot(np.ascontiguousarray(vectors[:, k]), right) / values[k]
            for i in range(m):
                solution[i] += factor * vectors[i, k]
