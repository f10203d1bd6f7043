"""Which peaks of blends the reference takes for point sources (spec reprocess 15.4), slow and obvious.

Sources off the middle of their pixels are fitted again on the wrong side of them, their neighbours stay at
their peaks, and a neighbour that does not reach the fitted pixels makes the equations singular.
"""

from __future__ import annotations

__all__ = ("find_point_sources",)

import dataclasses
import math

import numpy as np
from lsst.images.psfs import PointSpreadFunction

from secondlight.deblend.blend import Blends, Pixels
from secondlight.deblend.config import SourceDeblendConfig
from secondlight.deblend.psf_fit import PeakPsfs, PointSources
from secondlight.psf.evaluation import stellar_stamps

_UNSOLVED = 1e30


@dataclasses.dataclass(frozen=True)
class _Stamp:
    """PSF image with the array index of its first pixel."""

    image: np.ndarray
    x0: int
    y0: int

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the image at some pixels, 0 outside of it."""
        i, j = x - self.x0, y - self.y0
        inside = self.covers(x, y)
        result = np.zeros(len(x))
        result[inside] = self.image[j[inside], i[inside]]
        return result

    def covers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return which pixels are inside."""
        height, width = self.image.shape
        i, j = x - self.x0, y - self.y0
        return (i >= 0) & (j >= 0) & (i < width) & (j < height)

    def meets(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Return whether the box overlaps that of some pixels."""
        height, width = self.image.shape
        return bool(
            self.x0 <= x.max()
            and self.x0 + width > x.min()
            and self.y0 <= y.max()
            and self.y0 + height > y.min()
        )


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Weighted columns of one peak, without and with derivatives, and what they are fitted to."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    data: np.ndarray
    columns: np.ndarray
    n_terms: int
    dof: float

    def solve(self, n_terms: int) -> tuple[float, np.ndarray]:
        """Return chi squared and coefficients of the first terms."""
        matrix = self.columns[:, :n_terms] * self.weight[:, None]
        solution, residual, _, _ = np.linalg.lstsq(matrix, self.data * self.weight, rcond=-1)
        return (float(residual[0]) if len(residual) else _UNSOLVED), solution


def _prepare(
    pixels: Pixels,
    row: int,
    box: np.ndarray,
    cx: int,
    cy: int,
    fwhm: float,
    own: _Stamp,
    others: list[_Stamp],
) -> _Fit | None:
    """Collect the pixels about a peak and the columns of its fit; `None` if it cannot be fitted."""
    r0, r1 = math.ceil(fwhm), math.ceil(1.5 * fwhm)
    x0, x1, y0, y1 = max(cx - r1, box[0]), min(cx + r1, box[2]), max(cy - r1, box[1]), min(cy + r1, box[3])
    if min(x1 - x0, y1 - y0) + 1 <= 2:
        return None
    y, x = (v.ravel() for v in np.mgrid[y0 : y1 + 1, x0 : x1 + 1])
    r = np.hypot(x - cx, y - cy)
    good = (pixels.owner[y, x] == row) & (r <= r1) & (pixels.variance[y, x] > 0)
    if not good.any():
        return None
    x, y, r = x[good], y[good], r[good]
    ramp = np.where(r <= r0, 1.0, np.maximum(0.0, 1 - (r - r0) / (r1 - r0)))
    terms = [own.at(x, y), np.ones(len(x)), x - float(cx), y - float(cy)]
    terms += [other.at(x, y) for other in others if other.meets(x, y)]
    derivatives = [0.5 * (own.at(x + i, y + j) - own.at(x - i, y - j)) for i, j in ((1, 0), (0, 1))]
    n_terms, total = len(terms), float(ramp.sum())
    if total <= n_terms + 2:
        return None
    weight = np.sqrt(ramp / pixels.variance[y, x].astype(np.float64))
    columns = np.stack([*terms, *derivatives], axis=1)
    return _Fit(x, y, weight, pixels.image[y, x].astype(np.float64), columns, n_terms, total - n_terms)


def find_point_sources(
    pixels: Pixels, blends: Blends, psfs: PeakPsfs, psf: PointSpreadFunction, config: SourceDeblendConfig
) -> PointSources:
    """Fit every peak as the reference does, in place of this project's function of that name."""
    stamps = [_Stamp(*parts) for parts in zip(psfs.images, psfs.x0, psfs.y0, strict=True)]
    n = len(stamps)
    found = PointSources(
        np.zeros(n, dtype=bool), np.zeros(n), blends.x.astype(float), blends.y.astype(float),
        psfs.images.copy(), psfs.x0.copy(), psfs.y0.copy(),
    )  # fmt: skip
    for k in range(n):
        b = blends.blend[k]
        reach = math.ceil(1.5 * psfs.fwhm[b]) + 0.5 * min(psfs.images.shape[1:])
        peers = [i for i in range(blends.offsets[b], blends.offsets[b + 1]) if i != k]
        near = [i for i in peers if math.hypot(blends.x[i] - blends.x[k], blends.y[i] - blends.y[k]) <= reach]
        x, y = int(blends.x[k]), int(blends.y[k])
        others = [stamps[i] for i in near]
        fit = _prepare(
            pixels, blends.rows[b], blends.boxes[b], x, y, psfs.fwhm[b], stamps[k], others
        )  # fmt: skip
        if fit is not None:
            _decide(fit, found, k, psf, pixels, config)
    return found


def _decide(
    fit: _Fit,
    found: PointSources,
    k: int,
    psf: PointSpreadFunction,
    pixels: Pixels,
    config: SourceDeblendConfig,
) -> None:
    """Fill what becomes of one peak."""
    chi2, solution = fit.solve(fit.n_terms)
    chi2_free, free = fit.solve(fit.n_terms + 2)
    unshifted = chi2 / fit.dof < config.psfChisq1
    found.is_point[k], found.flux[k] = unshifted, solution[0]
    dx, dy = free[fit.n_terms :] / free[0]  # of the wrong sign
    if not (chi2_free / (fit.dof - 2) < config.psfChisq2 and abs(dx) < 1 and abs(dy) < 1):
        return
    x, y = found.x[k] + dx, found.y[k] + dy
    moved = stellar_stamps(psf, x=np.array([x + pixels.x0]), y=np.array([y + pixels.y0]))
    stamp = _Stamp(moved.images[0], int(moved.x0[0]) - pixels.x0, int(moved.y0[0]) - pixels.y0)
    column = np.where(stamp.covers(fit.x, fit.y), stamp.at(fit.x, fit.y), fit.columns[:, 0])
    again = dataclasses.replace(fit, columns=np.column_stack([column, fit.columns[:, 1:]]))
    new_chi2, new_solution = again.solve(fit.n_terms)
    if new_chi2 / fit.dof < config.psfChisq2b and (not unshifted or new_chi2 < chi2):
        found.is_point[k], found.flux[k], found.x[k], found.y[k] = True, new_solution[0], x, y
        found.images[k], found.x0[k], found.y0[k] = stamp.image, stamp.x0, stamp.y0
