"""Piff's fit of a pixel grid with a polynomial interpolation, for all stars at once.

The iterations are those of `piff.PSF.fit` with a `piff.SimplePSF`: solve for the coefficients, refit fluxes
and centres of the stars, reject outliers, until chi-squared settles.  Initial values and rejection are Piff's
own code; the rest is arithmetic on arrays of all stars instead of one star after another.
"""

from __future__ import annotations

__all__ = ("fit_pixel_grid", "is_separable")

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import galsim
import numpy as np
import numpy.typing as npt
import piff

from ._pixel_grid_equations import StarDesign, solve_increment

type _Array = npt.NDArray[np.float64]

_INTERPOLANTS = (galsim.Lanczos, galsim.Cubic, galsim.Quintic, galsim.Linear)

_SPECIAL = ("trust_pos", "gain")
"""Properties of stars that change what Piff does."""

_SHIFT = 1e-5
"""Shift of the finite differences with respect to the centre, world units; that of Piff."""


def is_separable(psf: piff.PSF, stars: Sequence[piff.Star], pointing: object | None) -> bool:
    """Return whether `fit_pixel_grid` fits this model to these stars."""
    model: Any = getattr(psf, "model", None)
    if not (
        type(psf) is piff.SimplePSF
        and type(model) is piff.PixelGrid
        and type(psf.interp) is piff.BasisPolynomial
        and (psf.outliers is None or type(psf.outliers) is piff.ChisqOutliers)
        and isinstance(model.interp, _INTERPOLANTS)
        and not model._fit_flux
        and model._init in (None, "hsm", "delta")
        and pointing is None
        and stars
    ):
        return False
    first = stars[0]
    return all(
        type(star.image.wcs) is galsim.PixelScale
        and star.image.wcs.scale == first.image.wcs.scale
        and star.image.array.shape == first.image.array.shape
        and (star.weight.array >= 0).all()
        and np.isfinite(star.image.array).all()
        and not any(star.data.properties.get(name) for name in _SPECIAL)
        for star in stars
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Pixels:
    """What does not change during the fit.

    Parameters
    ----------
    image, weight
        Stars and their weights (n, h, w).
    u, v
        World coordinates of pixel columns (n, w) and rows (n, h) relative to the stars' nominal positions.
    basis
        Basis functions of the polynomial at the stars (n, n_basis).
    is_reserve
        Stars that do not take part (n).
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
    is_reserve: npt.NDArray[np.bool_]
    model: piff.PixelGrid
    light_per_grid_point: float

    @staticmethod
    def of(stars: Sequence[piff.Star], psf: piff.SimplePSF) -> _Pixels:
        """Take the pixels out of stars."""
        scale = stars[0].image.wcs.scale
        bounds = [star.image.bounds for star in stars]
        x = np.array([np.arange(b.xmin, b.xmax + 1) - star.x for b, star in zip(bounds, stars, strict=True)])
        y = np.array([np.arange(b.ymin, b.ymax + 1) - star.y for b, star in zip(bounds, stars, strict=True)])
        return _Pixels(
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
        along_x, along_y = (
            self._interpolate(position - center[:, axis, None])
            for axis, position in enumerate((self.u, self.v))
        )
        return StarDesign(along_x * self.light_per_grid_point, along_y)

    def _interpolate(self, position: _Array) -> _Array:
        grid = np.arange(self.model.size) - self.model.size // 2
        distance = position[:, :, None] / self.model.scale - grid
        return np.asarray(self.model.interp.xval(distance.ravel())).reshape(distance.shape)

    def weight_on_grid(self, center: _Array) -> _Array:
        """Return the weights, zero where pixels are farther from the centre than the grid reaches."""
        near_u = np.abs(self.u - center[:, 0, None]) <= self.model.maxuv
        near_v = np.abs(self.v - center[:, 1, None]) <= self.model.maxuv
        return np.where(near_v[:, :, None] & near_u[:, None, :], self.weight, 0.0)

    def unit_grids(self, coefficients: _Array) -> _Array:
        """Return the grids of the stars for coefficients (m * m, n_basis), normalised to unit sum."""
        size = self.model.size
        grids = (self.basis @ coefficients.T).reshape(-1, size, size)
        return np.asarray(grids / grids.sum(axis=(1, 2))[:, None, None])


@dataclasses.dataclass
class _Fits:
    """What is known of each star; `chisq` is NaN before the first fit."""

    flux: _Array
    center: _Array
    chisq: _Array
    dof: npt.NDArray[np.int64]
    is_flagged: npt.NDArray[np.bool_]

    @staticmethod
    def of(stars: Sequence[piff.Star]) -> _Fits:
        n = len(stars)
        return _Fits(
            flux=np.array([star.flux for star in stars], dtype=np.float64),
            center=np.array([star.center for star in stars], dtype=np.float64),
            chisq=np.full(n, np.nan),
            dof=np.zeros(n, dtype=np.int64),
            is_flagged=np.array([star.is_flagged for star in stars]),
        )


@dataclasses.dataclass
class _Judged:
    """As much of a star as Piff's rejection of outliers looks at."""

    fit: Any
    is_flagged: bool
    is_reserve: bool

    @property
    def flux(self) -> float:
        return float(self.fit.flux)

    def flag_if(self, flag: bool) -> _Judged:
        return dataclasses.replace(self, is_flagged=True) if flag else self


def fit_pixel_grid(
    psf: piff.SimplePSF, stars: Sequence[piff.Star], wcs: Mapping[int, galsim.BaseWCS], *, logger: Any
) -> None:
    """Fit a model to stars, leaving the PSF as its own ``fit`` does.

    The stars of the PSF have no design matrices (``fit.A``, ``fit.b``).

    Parameters
    ----------
    psf
        Model to fit, for which `is_separable` is true.
    stars
        Stars to fit; reserved and flagged ones are not fitted, but get fluxes and chi-squared.
    wcs
        Mapping of the image by chip.
    logger
        Piff's logger.

    Raises
    ------
    SingularEquationsError
        Raised if the stars do not constrain the model.
    RuntimeError
        Raised if no stars are left to fit.
    """
    psf.wcs, psf.pointing = wcs, None
    stars = psf.initialize_flux_center(stars, logger=logger)
    stars, psf.nremoved = psf.initialize_params(stars, logger=logger)
    pixels, fits = _Pixels.of(stars, psf), _Fits.of(stars)
    previous = 0.0
    for iteration in range(psf.max_iter):
        use = ~(fits.is_flagged | pixels.is_reserve)
        logger.info("Iteration %d: Fitting %d stars", iteration + 1, np.count_nonzero(use))
        if not use.any():
            raise RuntimeError("No stars left to fit.  Cannot find PSF model.")
        design = pixels.design(fits.center)
        psf.interp.q = psf.interp.q + _increment(pixels, fits, design, psf.interp.q, use)
        failed = _refit_stars(pixels, fits, design, psf.interp.q, centered=psf.fit_center)
        removed = np.count_nonzero(failed & ~fits.is_flagged)
        fits.is_flagged |= failed
        removed += _flag_outliers(psf, fits, pixels.is_reserve, iteration, logger)
        use = ~(fits.is_flagged | pixels.is_reserve)
        psf.chisq, psf.dof = fits.chisq[use].sum(), fits.dof[use].sum()
        psf.last_delta_chisq = previous - psf.chisq
        psf.nremoved += removed
        psf.niter = iteration + 1
        logger.info("             Total chisq = %.2f / %d dof", psf.chisq, psf.dof)
        settled = 0 < previous < psf.chisq + psf.chisq_thresh * psf.dof
        if settled and removed == 0 and psf.niter >= psf.min_iter:
            break
        previous = psf.chisq
    else:
        logger.warning("PSF fit did not converge.  Max iterations = %d reached.", psf.max_iter)
    psf.stars = _finished(stars, fits, pixels.basis @ psf.interp.q.T)


def _increment(
    pixels: _Pixels, fits: _Fits, design: StarDesign, coefficients: _Array, use: npt.NDArray[np.bool_]
) -> _Array:
    """Return the change of the coefficients that fits the stars in use best."""
    flux = fits.flux[use]
    model = flux[:, None, None] * design.draw(pixels.unit_grids(coefficients))[use]
    return solve_increment(
        design[use],
        basis=pixels.basis[use],
        flux=flux,
        weight=pixels.weight_on_grid(fits.center)[use],
        image=pixels.image[use],
        residual=pixels.image[use] - model,
    )


def _refit_stars(
    pixels: _Pixels, fits: _Fits, design: StarDesign, coefficients: _Array, *, centered: bool
) -> npt.NDArray[np.bool_]:
    """Fit fluxes, and centres if they are free, weighted by the model; return which stars resist."""
    n = len(fits.flux)
    grids = pixels.unit_grids(coefficients)
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
    step, failed = _solve_each(
        weighted @ rows.transpose(0, 2, 1), (weighted @ residual.reshape(n, -1, 1))[:, :, 0]
    )
    left = residual.reshape(n, -1) - (step[:, None] @ rows)[:, 0]
    # The model's own centroid is taken up by the centre, so that the next model is centred.
    light = weight * model
    centroid = np.stack(
        [(light * pixels.u[:, None, :]).sum(axis=(1, 2)), (light * pixels.v[:, :, None]).sum(axis=(1, 2))],
        axis=1,
    )
    kept = ~failed
    fits.chisq[kept] = (left**2 * pixels.weight.reshape(n, -1)).sum(axis=1)[kept]
    fits.flux[kept] = (flux + step[:, 0])[kept]
    fits.center[kept] = (centroid / norm[:, None] + step[:, 1:])[kept]
    return failed


def _solve_each(matrices: _Array, right: _Array) -> tuple[_Array, npt.NDArray[np.bool_]]:
    """Solve small symmetric systems (n, k, k), (n, k); return solutions (n, k) and which are singular (n)."""
    diagonal = np.einsum("nii->ni", matrices)
    singular = ~((diagonal > 0) & np.isfinite(diagonal)).all(axis=1)
    scale = np.sqrt(np.where(singular[:, None], 1.0, diagonal))
    # Fluxes and centres differ by many orders of magnitude.
    scaled = np.where(
        singular[:, None, None], np.eye(right.shape[1]), matrices / (scale[:, :, None] * scale[:, None, :])
    )
    singular |= np.linalg.matrix_rank(scaled, hermitian=True) < right.shape[1]
    scaled[singular] = np.eye(right.shape[1])
    return np.linalg.solve(scaled, (right / scale)[:, :, None])[:, :, 0] / scale, singular


def _flag_outliers(
    psf: piff.SimplePSF, fits: _Fits, is_reserve: npt.NDArray[np.bool_], iteration: int, logger: Any
) -> int:
    """Let Piff flag outliers and return how many it removed."""
    judged = [
        _Judged(piff.StarFit(None, flux=flux, chisq=chisq, dof=dof), bool(flagged), bool(reserve))
        for flux, chisq, dof, flagged, reserve in zip(
            fits.flux, fits.chisq, fits.dof, fits.is_flagged, is_reserve, strict=True
        )
    ]
    judged, removed = psf.remove_outliers(judged, iteration, logger)
    fits.is_flagged = np.array([star.is_flagged for star in judged])
    return int(removed)


def _finished(stars: Sequence[piff.Star], fits: _Fits, params: _Array) -> list[piff.Star]:
    """Return the stars with their flags, fluxes, centres and the parameters of their PSFs."""
    return [
        piff.Star(
            star.data,
            star.fit.withNew(
                params=params[i],
                flux=fits.flux[i],
                center=(float(fits.center[i, 0]), float(fits.center[i, 1])),
                chisq=fits.chisq[i],
                dof=int(fits.dof[i]),
            ),
        ).flag_if(bool(fits.is_flagged[i]))
        for i, star in enumerate(stars)
    ]
