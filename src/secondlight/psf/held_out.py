"""How well a PSF predicts stars it was not fitted to, and which order of its polynomial predicts best."""

from __future__ import annotations

__all__ = ("HeldOutResiduals", "best_order", "held_out_residuals", "median_and_scatter")

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from lsst.images.psfs import PointSpreadFunction

from .adaptive_moments import UNWEIGHTED, UNWEIGHTED_BAD, adaptive_moments
from .candidates import PsfCandidates
from .evaluation import stellar_stamps, takes_color

_UNUSABLE = UNWEIGHTED | UNWEIGHTED_BAD

_TOLERANCE = 0.25
"""By how many standard errors a lower order may be worse and yet be taken."""


class HeldOutResiduals(NamedTuple):
    """Residuals of n stars; NaN where a star or the PSF at its place cannot be measured.

    Attributes
    ----------
    chi2
        Weighted sum of squares of what the PSF leaves over, after its flux and centre were fitted to the
        star, per degree of freedom (n).
    snr
        Signal-to-noise ratio of that flux (n).
    size
        ``(T_star - T_psf) / T_psf`` of the adaptive moments, ``T = xx + yy`` (n).
    e1, e2
        Differences star - PSF of ``(xx - yy) / T`` and ``2 xy / T`` (n).
    """

    chi2: np.ndarray
    snr: np.ndarray
    size: np.ndarray
    e1: np.ndarray
    e2: np.ndarray


def held_out_residuals(
    psf: PointSpreadFunction, stars: PsfCandidates, weights: np.ndarray
) -> HeldOutResiduals:
    """Compare stars with a PSF.

    Parameters
    ----------
    psf
        The model.
    stars
        Stars, with stamps of odd size.
    weights
        Inverse variance of each pixel, 0 where it is bad (n, size, size).
    """
    if not len(stars):
        return HeldOutResiduals(*np.zeros((5, 0)))
    pixels = np.where(weights > 0, stars.stamps.image, 0.0).astype(np.float64)
    model = _model_stamps(psf, stars)
    star_shapes = _shapes(pixels, stars)
    psf_shapes = _shapes(model, stars)
    size_residual = star_shapes[0] / psf_shapes[0] - 1.0
    return HeldOutResiduals(
        *_fit_flux_and_shift(pixels, model, weights),
        size_residual,
        star_shapes[1] - psf_shapes[1],
        star_shapes[2] - psf_shapes[2],
    )


def _model_stamps(psf: PointSpreadFunction, stars: PsfCandidates) -> np.ndarray:
    """Return the PSF at the stars on the pixels of their stamps, 0 beyond its own (n, size, size)."""
    color = stars.color_value if takes_color(psf) else None
    drawn = stellar_stamps(psf, x=stars.x, y=stars.y, color=color)
    height, width = drawn.images.shape[1:]
    size = stars.stamps.image.shape[1]
    result = np.zeros((len(stars), size, size))
    for k in range(len(stars)):
        dx, dy = int(drawn.x0[k] - stars.stamps.x0[k]), int(drawn.y0[k] - stars.stamps.y0[k])
        j0, j1 = max(0, dy), min(size, dy + height)
        i0, i1 = max(0, dx), min(size, dx + width)
        result[k, j0:j1, i0:i1] = drawn.images[k, j0 - dy : j1 - dy, i0 - dx : i1 - dx]
    return result


def _shapes(images: np.ndarray, stars: PsfCandidates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return T, e1 and e2 of stamps about the stars' centroids (n)."""
    m = adaptive_moments(images, x=stars.x - stars.stamps.x0, y=stars.y - stars.stamps.y0)
    trace = np.where(m.flags & _UNUSABLE, np.nan, m.xx + m.yy)
    return trace, (m.xx - m.yy) / trace, 2.0 * m.xy / trace


def _fit_flux_and_shift(
    pixels: np.ndarray, model: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit flux and shift of the model to the pixels; return reduced chi2 and S/N of the flux (n)."""
    n = len(pixels)
    design = np.stack([model, *np.gradient(model, axis=(1, 2))], axis=-1).reshape(n, model[0].size, 3)
    w, data = (values.reshape(n, model[0].size) for values in (weights, pixels))
    normal = np.einsum("npi,np,npj->nij", design, w, design)
    freedom = (w > 0).sum(axis=1) - 3
    usable = np.isfinite(normal).all(axis=(1, 2)) & (freedom > 0)
    usable &= np.where(usable, normal[:, 0, 0], 0.0) > 0
    normal[~usable] = np.eye(3)
    right = np.einsum("npi,np,np->ni", design, w, data)
    right[~usable] = 0.0
    scale = np.sqrt(np.diagonal(normal, axis1=1, axis2=2))
    scale = np.where(scale > 0, scale, 1.0)
    scaled = normal / (scale[:, :, None] * scale[:, None, :])
    solution = np.einsum("nij,nj->ni", np.linalg.pinv(scaled, hermitian=True), right / scale) / scale
    residual = data - np.einsum("npi,ni->np", np.where(usable[:, None, None], design, 0.0), solution)
    chi2 = (w * residual**2).sum(axis=1) / np.maximum(freedom, 1)
    snr = solution[:, 0] * scale[:, 0]
    return np.where(usable, chi2, np.nan), np.where(usable, snr, np.nan)


def best_order(residuals: Mapping[int, HeldOutResiduals]) -> int:
    """Return the lowest order whose shape residuals are about as small as the smallest.

    Parameters
    ----------
    residuals
        By order, residuals of the same stars.

    Raises
    ------
    ValueError
        Raised if there is no order, or no star with residuals at all orders.

    Notes
    -----
    What counts is the shape, not chi2 of all pixels, which a higher order always makes worse where the stars
    have no light.  The loss of a star is ``log(1 + r^2 / 3)`` with
    ``r^2 = S/N^2 ((dT/T)^2 / 2 + de1^2 + de2^2)``, about three with noise alone, so that bright stars tell
    more than faint ones, and one that is no star tells little.  Losses are compared star by star; where a
    star has residuals at some orders only, the PSF of the others is nonsense there, which counts as the
    largest loss of all.  An order is accepted if it is worse than the best by less than a quarter of the
    standard error of the mean difference.  A whole one (Breiman et al. 1984) is too much to ask of the ten to
    thirty stars of a small detector: it took a constant PSF where a plane was twice as close to the truth.
    """
    if not residuals:
        raise ValueError("There is no order to choose from.")
    orders = sorted(residuals)
    losses = np.array([_shape_loss(residuals[order]) for order in orders])
    known = np.isfinite(losses)
    if not known.all(axis=0).any():
        raise ValueError("No star has residuals at all orders.")
    losses = np.where(known, losses, losses[known].max())[:, known.any(axis=0)]
    excess = losses - losses[np.argmin(losses.mean(axis=1))]
    error = excess.std(axis=1, ddof=min(1, excess.shape[1] - 1)) / np.sqrt(excess.shape[1])
    return orders[int(np.argmax(excess.mean(axis=1) <= _TOLERANCE * error))]


def _shape_loss(r: HeldOutResiduals) -> np.ndarray:
    return np.asarray(np.log1p(r.snr**2 * (0.5 * r.size**2 + r.e1**2 + r.e2**2) / 3.0))


def median_and_scatter(values: np.ndarray) -> tuple[float, float]:
    """Return median and 1.4826 times the median absolute deviation of the finite values; NaN without any."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    median = float(np.median(values))
    return median, 1.4826 * float(np.median(np.abs(values - median)))
