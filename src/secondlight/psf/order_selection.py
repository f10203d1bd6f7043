"""Choosing the order of a PSF's polynomial by what it predicts for stars that were not fitted."""

from __future__ import annotations

__all__ = ("choose_order",)

from collections.abc import Callable, Sequence

import numpy as np
from lsst.images.psfs import PointSpreadFunction
from lsst.pipe.base import AlgorithmError

from .candidates import PsfCandidates
from .held_out import HeldOutResiduals, best_order, held_out_residuals

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
    """Return the lowest order that predicts stars as well as any; `None` if there is nothing to compare.

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
    residuals: dict[int, HeldOutResiduals] = {}
    for order in sorted(orders):
        try:
            if len(held_out) >= min_held_out:
                residuals[order] = held_out_residuals(fit(order, stars), held_out, weigh(held_out))
            else:
                residuals[order] = _cross_validate(order, stars, fit=fit, weigh=weigh, folds=folds)
        except AlgorithmError:
            # Too few stars for this order are too few for all higher ones.
            break
    usable = {order: r for order, r in residuals.items() if np.isfinite(r.snr + r.size).any()}
    try:
        return best_order(usable)
    except ValueError:
        return None


def _cross_validate(
    order: int, stars: PsfCandidates, *, fit: Fit, weigh: Weigh, folds: int
) -> HeldOutResiduals:
    """Return the residuals of every star when it was held out (n)."""
    part = np.random.default_rng(_SEED).permutation(len(stars)) % folds
    result = np.full((len(HeldOutResiduals._fields), len(stars)), np.nan)
    for k in range(folds):
        out = part == k
        if out.any():
            result[:, out] = held_out_residuals(fit(order, stars[~out]), stars[out], weigh(stars[out]))
    return HeldOutResiduals(*result)
