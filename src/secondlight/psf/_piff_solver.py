"""Piff's normal equations built with matrix products instead of one outer product per star."""

from __future__ import annotations

__all__ = ("batched_solver", "normal_equations")

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import piff
import scipy.linalg

_BATCH = 16


def normal_equations(
    basis: np.ndarray, stars: Sequence[piff.Star], n_param: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return matrix and right-hand side of the least-squares problem for all coefficients.

    Star s constrains its parameters p by ``alpha_s p = beta_s``, and ``p = q . K_s`` with coefficients q and
    basis K.  The block of basis functions (a, b) is ``sum_s K_s[a] K_s[b] alpha_s``.

    Parameters
    ----------
    basis
        Basis functions at the stars (n_stars, n_basis).
    stars
        Stars with ``fit.alpha`` (n_param, n_param) and ``fit.beta`` (n_param).
    n_param
        Number of parameters.

    Returns
    -------
    matrix
        (n_basis * n_param, n_basis * n_param), coefficients ordered by basis function; only the blocks on and
        above the diagonal are filled.
    right
        (n_basis * n_param).
    """
    n_stars, n_basis = basis.shape
    first, second = np.triu_indices(n_basis)
    products = basis[:, first] * basis[:, second]
    blocks = np.zeros((len(first), n_param * n_param))
    right = np.zeros((n_basis, n_param))
    for start in range(0, n_stars, _BATCH):
        part = slice(start, start + _BATCH)
        alphas = np.stack([star.fit.alpha.ravel() for star in stars[part]])
        blocks += products[part].T @ alphas
        right += basis[part].T @ np.stack([star.fit.beta for star in stars[part]])
    matrix = np.zeros((n_basis * n_param, n_basis * n_param))
    for a, b, block in zip(first, second, blocks, strict=True):
        rows, columns = slice(a * n_param, (a + 1) * n_param), slice(b * n_param, (b + 1) * n_param)
        matrix[rows, columns] = block.reshape(n_param, n_param)
    return matrix, right.ravel()


@contextmanager
def batched_solver(psf: piff.PSF) -> Iterator[None]:
    """Let a PSF whose interpolation is solved with SciPy use faster equations while it is fitted.

    The solution is the same but for rounding.  Singular equations are left to Piff's own method, and so is
    everything else.
    """
    interp = getattr(psf, "interp", None)
    if not isinstance(interp, piff.BasisPolynomial) or interp.solver != "scipy":
        yield
        return
    own_method = interp._solve_direct_python

    def solve(stars: Sequence[piff.Star], logger: Any) -> None:
        n_param, n_basis = interp.q.shape
        matrix, right = normal_equations(np.stack([interp.basis(s) for s in stars]), stars, n_param)
        try:
            # The transpose is in Fortran order, so nothing is copied.
            factor = scipy.linalg.cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            own_method(stars, logger)
            return
        step = scipy.linalg.cho_solve(factor, right, check_finite=False)
        interp.q += step.reshape(n_basis, n_param).T

    interp._solve_direct_python = solve
    try:
        yield
    finally:
        del interp._solve_direct_python
