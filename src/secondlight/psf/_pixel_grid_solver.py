"""Piff's fit of a pixel grid with a polynomial interpolation, to all stars at once.

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
import piff

from ._pixel_grid_equations import StarDesign, solve_increment
from ._pixel_grid_stars import StarFits, StarPixels, refit_stars

_INTERPOLANTS = (galsim.Lanczos, galsim.Cubic, galsim.Quintic, galsim.Linear)

_SPECIAL = ("trust_pos", "gain")
"""Properties of stars that change what Piff does with them."""


def is_separable(psf: piff.PSF, stars: Sequence[piff.Star], pointing: object | None) -> bool:
    """Return whether `fit_pixel_grid` knows the model and the kind of stars."""
    return pointing is None and _is_known_model(psf) and _are_alike(stars)


def _is_known_model(psf: piff.PSF) -> bool:
    model: Any = getattr(psf, "model", None)
    return (
        type(psf) is piff.SimplePSF
        and type(model) is piff.PixelGrid
        and type(psf.interp) is piff.BasisPolynomial
        and (psf.outliers is None or type(psf.outliers) is piff.ChisqOutliers)
        and isinstance(model.interp, _INTERPOLANTS)
        and not model._fit_flux
        and model._init != "zero"
    )


def _are_alike(stars: Sequence[piff.Star]) -> bool:
    """Return whether there are stars, all on stamps of one size and pixel scale, with pixels that count."""
    kinds = {(type(s.image.wcs), getattr(s.image.wcs, "scale", None), s.image.array.shape) for s in stars}
    return (
        len(kinds) == 1
        and kinds.pop()[0] is galsim.PixelScale
        and not any(star.data.properties.get(name) for star in stars for name in _SPECIAL)
        and all(np.isfinite(s.image.array).all() and (s.weight.array >= 0).all() for s in stars)
    )


def fit_pixel_grid(
    psf: piff.SimplePSF, stars: Sequence[piff.Star], wcs: Mapping[int, galsim.BaseWCS], *, logger: Any
) -> None:
    """Fit a model to stars, leaving the PSF as its own ``fit`` does.

    Only the design matrices of the stars (``fit.A``, ``fit.b``) are missing afterwards.

    Parameters
    ----------
    psf
        Model to fit, for which `is_separable` is true.
    stars
        Stars; reserved and flagged ones are not fitted, but get fluxes and chi-squared.
    wcs
        Mapping of the image by chip.
    logger
        Piff's logger.

    Raises
    ------
    RuntimeError
        Raised if no stars are left to fit, or the fit runs away.
    """
    psf.wcs, psf.pointing = wcs, None
    stars = psf.initialize_flux_center(stars, logger=logger)
    stars, psf.nremoved = psf.initialize_params(stars, logger=logger)
    pixels, fits = StarPixels.of(stars, psf), StarFits.of(stars)
    previous = 0.0
    for iteration in range(psf.max_iter):
        logger.info("Iteration %d: Fitting %d stars", iteration + 1, np.sum(_in_use(pixels, fits)))
        design = pixels.design(fits.center)
        psf.interp.q = psf.interp.q + _increment(pixels, fits, design, psf.interp.q)
        failed = refit_stars(pixels, fits, design, pixels.unit_grids(psf.interp.q), centered=psf.fit_center)
        removed = int(np.sum(failed & ~fits.is_flagged))
        fits.is_flagged |= failed
        removed += _flag_outliers(psf, pixels, fits, iteration, logger)
        use = _in_use(pixels, fits)
        psf.chisq, psf.dof = fits.chisq[use].sum(), fits.dof[use].sum()
        psf.last_delta_chisq = previous - psf.chisq
        psf.nremoved += removed
        psf.niter = iteration + 1
        logger.info("             Total chisq = %.2f / %d dof", psf.chisq, psf.dof)
        settled = previous > 0 and psf.last_delta_chisq < psf.chisq_thresh * psf.dof
        if settled and removed == 0 and psf.niter >= psf.min_iter:
            break
        previous = psf.chisq
    else:
        logger.warning("PSF fit did not converge.  Max iterations = %d reached.", psf.max_iter)
    psf.stars = _finished(stars, fits, pixels.basis @ psf.interp.q.T)


def _in_use(pixels: StarPixels, fits: StarFits) -> np.ndarray:
    return ~(pixels.is_reserve | fits.is_flagged)


def _increment(
    pixels: StarPixels, fits: StarFits, design: StarDesign, coefficients: np.ndarray
) -> np.ndarray:
    """Return the change of the coefficients that fits the stars in use best."""
    use = _in_use(pixels, fits)
    if not use.any():
        raise RuntimeError("No stars left to fit.  Cannot find PSF model.")
    model = fits.flux[:, None, None] * design.draw(pixels.unit_grids(coefficients))
    return solve_increment(
        design[use],
        basis=pixels.basis[use],
        flux=fits.flux[use],
        weight=pixels.weight_on_grid(fits.center)[use],
        image=pixels.image[use],
        residual=(pixels.image - model)[use],
    )


@dataclasses.dataclass(frozen=True)
class _Judged:
    """As much of a star as Piff's rejection of outliers looks at."""

    fit: piff.StarFit
    is_flagged: bool
    is_reserve: bool

    @property
    def flux(self) -> float:
        return float(self.fit.flux)

    def flag_if(self, flag: bool) -> _Judged:
        return dataclasses.replace(self, is_flagged=self.is_flagged or bool(flag))


def _flag_outliers(
    psf: piff.SimplePSF, pixels: StarPixels, fits: StarFits, iteration: int, logger: Any
) -> int:
    """Let Piff flag outliers; return how many it removed."""
    columns = zip(fits.flux, fits.chisq, fits.dof, fits.is_flagged, pixels.is_reserve, strict=True)
    judged = [
        _Judged(piff.StarFit(None, flux=flux, chisq=chisq, dof=dof), bool(is_flagged), bool(is_reserve))
        for flux, chisq, dof, is_flagged, is_reserve in columns
    ]
    judged, removed = psf.remove_outliers(judged, iteration, logger)
    fits.is_flagged = np.array([star.is_flagged for star in judged])
    return int(removed)


def _finished(stars: Sequence[piff.Star], fits: StarFits, params: np.ndarray) -> list[piff.Star]:
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
