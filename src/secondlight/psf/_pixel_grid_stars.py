"""The stars of a Piff fit as arrays, and the fit of their fluxes and centres."""

from __future__ import annotations

__all__ = ("StarFits", "StarPixels", "refit_stars")

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import piff

from ._pixel_grid_equations import StarDesign

type _Array = npt.NDArray[np.float64]
type _Flags = npt.NDArray[np.bool_]

_SHIFT = 1e-5
"""Shift of the finite differences with respect to the centre, world units; that of Piff."""


@dataclasses.dataclass(frozen=True, eq=False)
class StarPixels:
    """What does not change during the fit of n stars to a pixel grid with m points per side.

    Parameters
    ----------
    image, weight
        Stars and the weights of their pixels (n, h, w).
    u, v
        World coordinates of pixel columns (n, w) and rows (n, h) relative to the stars' nominal positions.
    basis
        Basis functions of the polynomial at the stars (n, n_basis).
    is_reserve
        Stars that do not take part in the fit (n).
    model
        The grid.
    light_per_grid_point
        Area of a pixel in units of that of a grid point.
    """

    image: _Array
    weight: _Array
    u: _Array
    v: _Array
    basis: _Array
    is_reserve: _Flags
    model: piff.PixelGrid
    light_per_grid_point: float

    @staticmethod
    def of(stars: Sequence[piff.Star], psf: piff.SimplePSF) -> StarPixels:
        """Take the pixels out of stars whose stamps have one size and one pixel scale."""
        scale = stars[0].image.wcs.scale
        bounds = [star.image.bounds for star in stars]
        x = np.array([np.arange(b.xmin, b.xmax + 1) - star.x for b, star in zip(bounds, stars, strict=True)])
        y = np.array([np.arange(b.ymin, b.ymax + 1) - star.y for b, star in zip(bounds, stars, strict=True)])
        return StarPixels(
            image=np.array([star.image.array for star in stars], dtype=np.float64),
            weight=np.array([star.weight.array for star in stars], dtype=np.float64),
            u=x * scale,
            v=y * scale,
            basis=np.array([psf.interp.basis(star) for star in stars]),
            is_reserve=np.array([star.is_reserve for star in stars]),
            model=psf.model,
            light_per_grid_point=(scale / psf.model.scale) ** 2,
        )

    def design(self, center: _Array) -> StarDesign:
        """Return how the pixels depend on the grids of stars at centres (n, 2)."""
        along_x = self._interpolate(self.u - center[:, 0, None]) * self.light_per_grid_point
        return StarDesign(along_x, self._interpolate(self.v - center[:, 1, None]))

    def _interpolate(self, position: _Array) -> _Array:
        """Return the weights of the grid points at positions along one axis (n, k): (n, k, m)."""
        grid = np.arange(self.model.size) - self.model.size // 2
        distance = position[:, :, None] / self.model.scale - grid
        return np.asarray(self.model.interp.xval(distance.ravel())).reshape(distance.shape)

    def weight_on_grid(self, center: _Array) -> _Array:
        """Return the weights, zero where pixels are farther from the centre than the grid reaches."""
        near_u = np.abs(self.u - center[:, 0, None]) <= self.model.maxuv
        near_v = np.abs(self.v - center[:, 1, None]) <= self.model.maxuv
        return np.where(near_v[:, :, None] & near_u[:, None, :], self.weight, 0.0)

    def unit_grids(self, coefficients: _Array) -> _Array:
        """Return the grids of the stars (n, m, m) for coefficients (m * m, n_basis), scaled to unit sum."""
        grids = (self.basis @ coefficients.T).reshape(-1, self.model.size, self.model.size)
        return np.asarray(grids / grids.sum(axis=(1, 2))[:, None, None])

    def centroid(self, light: _Array) -> _Array:
        """Return the sums over pixels of light (n, h, w) times u and v, (n, 2)."""
        along_u = (light.sum(axis=1) * self.u).sum(axis=1)
        along_v = (light.sum(axis=2) * self.v).sum(axis=1)
        return np.stack([along_u, along_v], axis=1)


@dataclasses.dataclass(eq=False)
class StarFits:
    """What the fit knows of each star.

    Parameters
    ----------
    flux
        Fluxes (n).
    center
        Centres relative to the nominal positions, world coordinates (n, 2).
    chisq
        Chi-squared (n); NaN before the first fit.
    dof
        Degrees of freedom (n).
    is_flagged
        Stars that were rejected or cannot be fitted (n).
    """

    flux: _Array
    center: _Array
    chisq: _Array
    dof: npt.NDArray[np.int64]
    is_flagged: _Flags

    @staticmethod
    def of(stars: Sequence[piff.Star]) -> StarFits:
        """Start from the stars as Piff initialises them."""
        return StarFits(
            flux=np.array([star.flux for star in stars], dtype=np.float64),
            center=np.array([star.center for star in stars], dtype=np.float64),
            chisq=np.full(len(stars), np.nan),
            dof=np.zeros(len(stars), dtype=np.int64),
            is_flagged=np.array([star.is_flagged for star in stars]),
        )


def refit_stars(
    pixels: StarPixels, fits: StarFits, design: StarDesign, grids: _Array, *, centered: bool
) -> _Flags:
    """Fit fluxes, and centres if they are free, one step from where they are; all pixels weigh by the model.

    Parameters
    ----------
    pixels
        The stars.
    fits
        What is known of them; gains fluxes, centres and chi-squared, the latter without the model's weights.
    design
        How the pixels depend on the grids at the present centres.
    grids
        Grids of the stars, unit sum (n, m, m).
    centered
        Whether centres are free; the model's own centroid then becomes part of them, so that the next model
        is centred.

    Returns
    -------
    failed
        Stars that do not tell their flux and centre; they stay as they are (n).
    """
    n = len(grids)
    profile = design.draw(grids)
    model = fits.flux[:, None, None] * profile
    weight = pixels.weight * model
    norm = (weight * model).sum(axis=(1, 2))
    norm[norm == 0] = 1.0
    ratio = (weight * pixels.image).sum(axis=(1, 2)) / norm
    flux = fits.flux * ratio
    residual = pixels.image - ratio[:, None, None] * model
    fits.dof = np.count_nonzero(pixels.weight, axis=(1, 2)) - (3 if centered else 1)
    if not centered:
        fits.flux = flux
        fits.chisq = (residual**2 * pixels.weight).sum(axis=(1, 2))
        return np.zeros(n, dtype=np.bool_)

    derivatives = [profile]
    for shift in ((_SHIFT, 0.0), (0.0, _SHIFT)):
        shifted = pixels.design(fits.center + shift).draw(grids)
        derivatives.append(flux[:, None, None] * (shifted - profile) / _SHIFT)
    rows = np.stack(derivatives, axis=1).reshape(n, 3, -1)
    weighted = rows * np.abs(weight).reshape(n, 1, -1)
    right = (weighted @ residual.reshape(n, -1, 1))[:, :, 0]
    step, failed = _solve_each(weighted @ rows.transpose(0, 2, 1), right)
    left = residual.reshape(n, -1) - (step[:, None] @ rows)[:, 0]
    chisq = (left**2 * pixels.weight.reshape(n, -1)).sum(axis=1)
    center = pixels.centroid(weight * model) / norm[:, None] + step[:, 1:]
    fits.chisq = np.where(failed, fits.chisq, chisq)
    fits.flux = np.where(failed, fits.flux, flux + step[:, 0])
    fits.center = np.where(failed[:, None], fits.center, center)
    return failed


def _solve_each(matrices: _Array, right: _Array) -> tuple[_Array, _Flags]:
    """Solve small symmetric systems (n, k, k), (n, k); return solutions (n, k) and which are singular (n)."""
    one = np.eye(right.shape[1])
    diagonal: Any = np.einsum("nii->ni", matrices)
    singular = ~((diagonal > 0) & np.isfinite(diagonal)).all(axis=1)
    # Fluxes and centres differ by many orders of magnitude.
    scale = np.sqrt(np.where(singular[:, None], 1.0, diagonal))
    scaled = np.where(singular[:, None, None], one, matrices / (scale[:, :, None] * scale[:, None, :]))
    singular |= np.linalg.matrix_rank(scaled, hermitian=True) < len(one)
    scaled[singular] = one
    return np.linalg.solve(scaled, (right / scale)[:, :, None])[:, :, 0] / scale, singular
