"""Gauss-Hermite expansions ("shapelets") on ellipses (spec finalize 8.10).

An expansion about a centre has an ellipse with moments ``Q = [[xx, xy], [xy, yy]]`` and the basis functions

    det(T) h_nx(u) h_ny(v) exp(-(u^2 + v^2) / 2),    (u, v) = T (r - centre),    T = Q^(-1/2) (symmetric),

with ``h_0 = pi^(-1/4)``, ``h_1 = sqrt(2) t h_0``, ``h_n = sqrt(2/n) t h_(n-1) - sqrt((n-1)/n) h_(n-2)``.  The
factors are packed by total order, and with rising nx within one: (nx, ny) = (0,0); (0,1), (1,0); (0,2),
(1,1), (2,0); ...  The factor c of (0,0) stands for the flux ``2 sqrt(pi) c``.
"""

from __future__ import annotations

__all__ = (
    "MAX_ORDER",
    "fill_basis",
    "inverse",
    "square_root",
    "term_count",
)

import math

import numpy as np
from numba import njit

MAX_ORDER = 4
"""Highest order of an expansion."""


@njit(cache=True, nogil=True)
def term_count(order: int) -> int:
    """Return how many basis functions an expansion of some order has."""
    return (order + 1) * (order + 2) // 2


@njit(cache=True, nogil=True, error_model="numpy")
def square_root(xx: float, yy: float, xy: float) -> tuple[float, float, float]:
    """Return the elements xx, yy, xy of the symmetric square root of a positive definite matrix."""
    s = math.sqrt(xx * yy - xy * xy)
    t = math.sqrt(xx + yy + 2.0 * s)
    return (xx + s) / t, (yy + s) / t, xy / t


@njit(cache=True, nogil=True, error_model="numpy")
def inverse(xx: float, yy: float, xy: float) -> tuple[float, float, float]:
    """Return the elements xx, yy, xy of the inverse of a symmetric matrix."""
    det = xx * yy - xy * xy
    return yy / det, xx / det, -xy / det


@njit(cache=True, nogil=True, error_model="numpy")
def fill_basis(
    order: int, xx: float, yy: float, xy: float, dx: np.ndarray, dy: np.ndarray, basis: np.ndarray
) -> None:
    """Evaluate all basis functions of an expansion.

    Parameters
    ----------
    order
        Order, at most `MAX_ORDER`.
    xx, yy, xy
        Moments of the ellipse, pixel^2, positive definite.
    dx, dy
        Offsets from the centre, pixels (n).
    basis
        Filled with the functions, as packed, at these points, (`term_count` or more, n).
    """
    root_xx, root_yy, root_xy = square_root(xx, yy, xy)
    t_xx, t_yy, t_xy = inverse(root_xx, root_yy, root_xy)
    norm = (t_xx * t_yy - t_xy * t_xy) / math.sqrt(math.pi)
    hx, hy = np.ones(MAX_ORDER + 1), np.ones(MAX_ORDER + 1)
    for i in range(len(dx)):
        u, v = t_xx * dx[i] + t_xy * dy[i], t_xy * dx[i] + t_yy * dy[i]
        hx[0] = norm * math.exp(-0.5 * (u * u + v * v))
        for n in range(1, order + 1):
            hx[n] = math.sqrt(2.0 / n) * u * hx[n - 1]
            hy[n] = math.sqrt(2.0 / n) * v * hy[n - 1]
            if n > 1:
                hx[n] -= math.sqrt((n - 1.0) / n) * hx[n - 2]
                hy[n] -= math.sqrt((n - 1.0) / n) * hy[n - 2]
        k = 0
        for n in range(order + 1):
            for nx in range(n + 1):
                basis[k, i] = hx[nx] * hy[n - nx]
                k += 1
