"""Adaptive Gaussian moments: the Gaussian weight that matches an object (Bernstein & Jarvis 2002)."""

from __future__ import annotations

__all__ = ("MAX_ITER", "SHIFT", "UNWEIGHTED", "UNWEIGHTED_BAD", "AdaptiveMoments", "adaptive_moments")

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import _adaptive_moment_kernels as kernels
from ._adaptive_moment_kernels import MAX_ITER, SHIFT, UNWEIGHTED, UNWEIGHTED_BAD

MIN_SHIFT, MAX_SHIFT = 2.0, 10.0
"""Limits of the largest accepted centre shift, pixels."""


class AdaptiveMoments(NamedTuple):
    """Adaptive moments of n objects.

    Attributes
    ----------
    x, y
        Weighted centre, array indices (n).
    xx, yy, xy
        Second moments of the matched weight, pixel^2 (n); NaN where not even unweighted moments exist.
    weighted_sum
        Sum of weight times pixels; the flux of the matched Gaussian is twice this (n); NaN if unweighted.
    flags
        Bits `UNWEIGHTED` (unweighted moments), `UNWEIGHTED_BAD` (these failed too), `SHIFT`, `MAX_ITER` (n).
    """

    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    weighted_sum: np.ndarray
    flags: np.ndarray


def adaptive_moments(
    images: np.ndarray,
    *,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    max_iter: int = 100,
    max_shift: float = 0.0,
    tol1: float = 1e-5,
    tol2: float = 1e-4,
    max_sigma: float = np.inf,
) -> AdaptiveMoments:
    """Measure stamps (spec finalize 9.3).

    Parameters
    ----------
    images
        Stamps (n, h, w).
    x, y
        Fixed centres in array indices, scalars or (n).
    max_iter
        Most iterations.
    max_shift
        Largest accepted shift of the weighted centre, pixels; forced into [2, 10].
    tol1, tol2
        Convergence limits of the ellipticity components and of the relative size.
    max_sigma
        Widest weight, pixels; an object whose weight would get wider has unweighted moments.
    """
    n = len(images)
    results, flags = kernels.adaptive_moments_loop(
        np.ascontiguousarray(images, dtype=np.float64),
        np.broadcast_to(np.asarray(x, dtype=np.float64), n).copy(),
        np.broadcast_to(np.asarray(y, dtype=np.float64), n).copy(),
        max_iter,
        min(max(max_shift, MIN_SHIFT), MAX_SHIFT),
        tol1,
        tol2,
        max_sigma,
    )
    x_out, y_out, xx, yy, xy, weighted_sum = results.T
    return AdaptiveMoments(x_out, y_out, xx, yy, xy, weighted_sum, flags)
