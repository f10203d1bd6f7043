"""The photometric zero point of instrumental fluxes, from stars of known magnitude."""

from __future__ import annotations

__all__ = ("ZeroPoint", "ZeroPointError", "fit_zero_point")

import dataclasses
import math
from typing import Any

import numpy as np
from lsst.pipe.base import AlgorithmError

from ..catalog.photo_calib import PhotoCalib
from .measure_ap_corr import robust_sigma


class ZeroPointError(AlgorithmError):
    """Too few matched stars have usable fluxes and magnitudes.

    Parameters
    ----------
    n_matches, n_usable, n_required
        Number of matches, of usable ones among them, and of those needed.
    """

    def __init__(self, *, n_matches: int, n_usable: int, n_required: int) -> None:
        super().__init__(
            f"No photometric zero point: {n_usable} of {n_matches} matched stars have a positive flux and a "
            f"finite reference magnitude, at least {n_required} are needed."
        )
        self._metadata = {"n_matches": n_matches, "n_usable": n_usable, "n_required": n_required}

    @property
    def metadata(self) -> dict[str, Any]:
        """Numbers that describe the failure."""
        return self._metadata


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroPoint:
    """A fitted zero point.

    Parameters
    ----------
    value
        AB magnitude of one count.
    error
        Uncertainty of the value, mag.
    scatter
        Robust scatter of the stars used, mag.
    n_used
        Number of stars used.
    used
        Which of the matched stars were used, shape (n,).
    """

    value: float
    error: float
    scatter: float
    n_used: int
    used: np.ndarray

    @property
    def photo_calib(self) -> PhotoCalib:
        """The same as a calibration in nJy per count."""
        return PhotoCalib.from_zero_point(self.value, self.error)


def fit_zero_point(
    *,
    inst_flux: np.ndarray,
    inst_flux_err: np.ndarray,
    ref_mag: np.ndarray,
    ref_mag_err: np.ndarray | None = None,
    n_sigma: float = 3.0,
    max_iter: int = 20,
    min_stars: int = 1,
) -> ZeroPoint:
    """Fit the zero point of matched stars: clip about the median, then take a weighted mean.

    Each star votes for ``ref_mag + 2.5 log10(inst_flux)``.  Rounds of clipping about the median by the robust
    scatter (but not below a star's own error) go on until nothing changes.  The scatter in excess of the
    errors is added to them in quadrature before weighting, so that a few very bright stars do not decide
    alone.

    Parameters
    ----------
    inst_flux, inst_flux_err
        Instrumental fluxes and errors of the matched stars, counts, shape (n,).
    ref_mag, ref_mag_err
        AB magnitudes of their counterparts in the same band, and errors (0 if not given), shape (n,).
    n_sigma
        Clipping limit.
    max_iter
        Most rounds of clipping.
    min_stars
        Fewest usable stars.

    Raises
    ------
    ZeroPointError
        Raised if fewer than ``min_stars`` stars are usable.
    """
    flux, flux_err = (np.asarray(a, dtype=np.float64) for a in (inst_flux, inst_flux_err))
    magnitude = np.asarray(ref_mag, dtype=np.float64)
    magnitude_err = (
        np.zeros_like(magnitude) if ref_mag_err is None else np.asarray(ref_mag_err, dtype=np.float64)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        votes = magnitude + 2.5 * np.log10(flux)
        errors = np.hypot(2.5 / math.log(10) * flux_err / flux, magnitude_err)
    used = np.isfinite(votes) & np.isfinite(errors)
    usable = int(used.sum())
    if usable < max(min_stars, 1):
        raise ZeroPointError(n_matches=len(flux), n_usable=usable, n_required=max(min_stars, 1))
    candidates = used.copy()
    for _ in range(max_iter):
        center, sigma = np.median(votes[used]), robust_sigma(votes[used])
        with np.errstate(invalid="ignore"):
            keep = candidates & (np.abs(votes - center) <= n_sigma * np.maximum(sigma, errors))
        if np.array_equal(keep, used):
            break
        used = keep
    return _weighted(votes, errors, used)


def _weighted(votes: np.ndarray, errors: np.ndarray, used: np.ndarray) -> ZeroPoint:
    """Average the votes that are used, with the scatter beyond the errors as a common floor."""
    v, e = votes[used], errors[used]
    scatter = robust_sigma(v)
    excess = max(scatter**2 - float(np.median(e**2)), 0.0)
    variance = e**2 + excess
    # Identical votes without errors leave nothing to weight by.
    weights = 1.0 / variance if (variance > 0).all() else np.ones_like(v)
    error = math.sqrt(1.0 / weights.sum()) if (variance > 0).all() else scatter / math.sqrt(len(v))
    return ZeroPoint(float(np.average(v, weights=weights)), error, scatter, len(v), used)
