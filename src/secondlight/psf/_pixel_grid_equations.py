"""Least squares for the coefficients of a pixel grid that varies as a polynomial over the image.

The grid points of a star's PSF are interpolated along rows and along columns, so that the images of n stars
are two small matrix products each, and so is what their residuals say about the grids.  The normal equations
are therefore never written down: they are solved by conjugate gradients (Hestenes & Stiefel 1952).

With basis functions that are orthonormal over the stars, the normal matrix is nearly the same block for each
of them: the mean of the stars' own matrices.  That block, factorised once, is the preconditioner, and the
number of steps hardly depends on the number of stars or coefficients.
"""

from __future__ import annotations

__all__ = ("StarDesign", "solve_increment")

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

type _Array = npt.NDArray[np.float64]
type _Operator = Callable[[_Array], _Array]

_TOLERANCE = 1e-10
"""Residual of the equations that ends the search, in units of the right-hand side that the whole light of the
stars would give, both in the norm of the preconditioner."""

_MAX_STEPS = 100
"""Largest number of steps.  Where stars constrain all of the model, 15 to 70 reach the tolerance; with hardly
more stars than coefficients, more steps would only fit noise to what no star shows."""

_RIDGE = 1e-12
"""Added to the diagonal of the preconditioner, for grid points that no star shows, relative to its mean."""

_SMALLEST_PART = 1e-10
"""Combinations of basis functions relatively smaller than this at all stars stay as they are."""


@dataclasses.dataclass(frozen=True, eq=False)
class StarDesign:
    """How the pixels of n stars depend on the grids of their PSFs: ``along_y @ grid @ along_x.T``.

    Parameters
    ----------
    along_x, along_y
        Weight of each of m grid columns in each of w pixel columns, float64 (n, w, m), and of grid rows in
        pixel rows, float64 (n, h, m).
    """

    along_x: _Array
    along_y: _Array

    def __getitem__(self, rows: Any) -> StarDesign:
        return StarDesign(self.along_x[rows], self.along_y[rows])

    def draw(self, grids: _Array) -> _Array:
        """Return the images (n, h, w) of grids (n, m, m)."""
        return np.asarray(self.along_y @ grids @ self.along_x.transpose(0, 2, 1))

    def project(self, images: _Array) -> _Array:
        """Return what images (n, h, w) say about the grids: the transpose of `draw`, (n, m, m)."""
        return np.asarray(self.along_y.transpose(0, 2, 1) @ images @ self.along_x)

    def block(self, weight: _Array) -> _Array:
        """Return nearly the normal matrix of one grid for all stars, (m * m, m * m).

        The weights of each star are replaced by the product of their means along rows and along columns,
        which they are but for scattered masked pixels.

        Parameters
        ----------
        weight
            Weights of the pixels (n, h, w).
        """
        size = self.along_x.shape[-1]
        mean = weight.mean(axis=(1, 2))
        columns = weight.mean(axis=1) / np.where(mean > 0, mean, 1.0)[:, None]
        x = self.along_x.transpose(0, 2, 1) @ (self.along_x * columns[:, :, None])
        y = self.along_y.transpose(0, 2, 1) @ (self.along_y * weight.mean(axis=2)[:, :, None])
        products = y.reshape(len(y), -1).T @ x.reshape(len(x), -1)
        blocks = products.reshape(size, size, size, size).transpose(0, 2, 1, 3)
        return np.asarray(blocks.reshape(size**2, size**2))


def solve_increment(
    design: StarDesign, *, basis: _Array, flux: _Array, weight: _Array, image: _Array, residual: _Array
) -> _Array:
    """Return the change of the coefficients that minimises chi-squared.

    Parameters
    ----------
    design
        How the pixels of n stars of unit flux depend on their grids of m x m points.
    basis
        Basis functions of the polynomial at the stars (n, n_basis).
    flux
        Fluxes (n).
    weight
        Weights of the pixels, zero where they do not count (n, h, w).
    image
        The stars (n, h, w).
    residual
        The stars less their present model (n, h, w).

    Returns
    -------
    increment
        To be added to the coefficients (m * m, n_basis).  What the stars do not constrain is not changed.

    Raises
    ------
    RuntimeError
        Raised if pixels are not finite or none counts.
    """
    own_weight = weight * (flux**2)[:, None, None]
    strength = own_weight.mean(axis=(1, 2))
    total = float(strength.sum())
    if not (np.isfinite(residual).all() and 0.0 < total < np.inf):
        raise RuntimeError("The fit has run away: fluxes or models of stars are not finite, or all are zero.")
    orthonormal, to_given = _orthonormal(basis, np.sqrt(strength))
    n, size = len(basis), design.along_x.shape[-1]
    block = design.block(own_weight / total)
    block[np.diag_indices_from(block)] += _RIDGE * np.trace(block) / len(block)
    factor = scipy.linalg.cho_factor(block, lower=True, overwrite_a=True, check_finite=False)

    def right_side(images: _Array) -> _Array:
        projected = design.project(images * weight * flux[:, None, None])
        return np.asarray(orthonormal.T @ projected.reshape(n, -1))

    def normal_matrix(coefficients: _Array) -> _Array:
        grids = (orthonormal @ coefficients).reshape(n, size, size)
        projected = design.project(design.draw(grids) * own_weight)
        return np.asarray(orthonormal.T @ projected.reshape(n, -1))

    def precondition(right: _Array) -> _Array:
        return np.asarray(scipy.linalg.cho_solve(factor, right.T, check_finite=False).T)

    light = right_side(image)
    limit = _TOLERANCE**2 * float(np.vdot(light, precondition(light)))
    solution = _conjugate_gradients(normal_matrix, precondition, right_side(residual), limit)
    return np.asarray(solution.T @ to_given.T)


def _orthonormal(basis: _Array, strength: _Array) -> tuple[_Array, _Array]:
    """Return basis functions whose products, weighted by ``strength**2`` and summed over stars, are 0 or 1.

    Returns
    -------
    orthonormal
        The new functions at the stars, as many as the stars can tell apart (n, k).
    transformation
        ``basis @ transformation`` is ``orthonormal`` (n_basis, k).
    """
    weighted = strength[:, None] * basis
    size = np.linalg.norm(weighted, axis=0)
    size[size == 0] = 1.0
    _, parts, directions = np.linalg.svd(weighted / size, full_matrices=False)
    kept = parts > _SMALLEST_PART * parts[0]
    transformation = directions[kept].T / parts[kept] / size[:, None]
    return basis @ transformation, transformation


def _conjugate_gradients(matrix: _Operator, precondition: _Operator, right: _Array, limit: float) -> _Array:
    """Solve ``matrix(x) = right`` until the preconditioned square of the residual is at most a limit."""
    solution = np.zeros_like(right)
    residual = right
    direction = step = precondition(residual)
    square = float(np.vdot(residual, step))
    for _ in range(_MAX_STEPS):
        if square <= limit:
            break
        image = matrix(direction)
        curvature = float(np.vdot(direction, image))
        if curvature <= 0:
            break  # Only rounding errors are left.
        length = square / curvature
        solution = solution + length * direction
        residual = residual - length * image
        step = precondition(residual)
        previous, square = square, float(np.vdot(residual, step))
        direction = step + (square / previous) * direction
    return solution
