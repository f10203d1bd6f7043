"""Choosing the order of a PSF's polynomial by what it predicts for stars that were not fitted."""

from __future__ import annotations

__all__ = ("choose_order",)

from collections.abc import Callable, Sequence

import numpy as np
from lsst.images.psfs import PointSpreadFunction
from lsst.pipe.base import AlgorithmError

from .candidates import PsfCandidates
from .held_out import best_order, held_out_residuals

type Fit = Callable[[int, PsfCandidates], PointSpreadFunction]
"""Fits a PSF of an order to stars; raises `AlgorithmError` if it cannot."""
type Weigh = Callable[[PsfCandidates], np.ndarray]
"""Returns the inverse variance of the pixels of stars (n, size, size)."""

_SEED = 4242


def choose_order(
    orders: Sequence[int],
    stars: PsfCandidates,
    held_out: PsfCandidates,
    *,
    fit: Fit,
    weigh: Weigh,
    min_held_out: int,
    folds: int,
) -> int | None:
    """Return the lowest order that predicts stars as well as any; `None` if no order could be fitted.

    Parameters
    ----------
    orders
        Orders to try.
    stars
        Stars to fit.
    held_out
        Stars that take no part in the fit.
    fit, weigh
        How a PSF is fitted, and the weights of pixels.
    min_held_out
        With fewer held-out stars, the fitted ones are held out in turn instead: every order is then fitted
        ``folds`` times, each time without another part of them.
    folds
        Number of those parts.
    """
    chi2: dict[int, np.ndarray] = {}
    for order in sorted(orders):
        try:
            if len(held_out) >= min_held_out:
                chi2[order] = held_out_residuals(fit(order, stars), held_out, weigh(held_out)).chi2
            else:
                chi2[order] = _cross_validate(order, stars, fit=fit, weigh=weigh, folds=folds)
        except AlgorithmError:
            # Too few stars for this order are too few for all higher ones.
            break
    usable = {order: values for order, values in chi2.items() if np.isfinite(values).any()}
    return best_order(usable) if usable else None


def _cross_validate(order: int, stars: PsfCandidates, *, fit: Fit, weigh: Weigh, folds: int) -> np.ndarray:
    """Return the residual of every star when it was held out (n)."""
    part = np.random.default_rng(_SEED).permutation(len(stars)) % folds
    chi2 = np.full(len(stars), np.nan)
    for k in range(folds):
        out = part == k
        if out.any():
            chi2[out] = held_out_residuals(fit(order, stars[~out]), stars[out], weigh(stars[out])).chi2
    return chi2
