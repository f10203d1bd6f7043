"""PSF images and sizes at many positions at once."""

from __future__ import annotations

__all__ = (
    "InvalidPsfError",
    "StellarStamps",
    "average_position",
    "determinant_radius",
    "kernel_stamps",
    "psf_shapes",
    "stamp_shapes",
    "stellar_stamps",
    "takes_color",
    "trace_radius",
)

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from lsst.images.psfs import PiffWrapper, PointSpreadFunction

from ._drawing import draw_one_by_one, drawing_of, stamp_half, takes_color
from .adaptive_moments import UNWEIGHTED, UNWEIGHTED_BAD, adaptive_moments

_BATCH = 256
"""Stamps drawn together, which bounds the memory of intermediate steps."""

_FARTHEST = 2.0**31
"""Positions beyond this, in pixels, are not of this world."""


class InvalidPsfError(RuntimeError):
    """The PSF model cannot be evaluated."""


class StellarStamps(NamedTuple):
    """PSF images as stars would show them.

    Attributes
    ----------
    images
        Stamps of unit sum (n, h, w); a row whose PSF cannot be evaluated is NaN.
    x0, y0
        Parent pixel of the first element of each stamp, int64 (n).
    """

    images: np.ndarray
    x0: np.ndarray
    y0: np.ndarray


def kernel_stamps(
    psf: PointSpreadFunction,
    *,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    color: npt.ArrayLike | None = None,
    dtype: npt.DTypeLike = np.float64,
) -> np.ndarray:
    """Return kernel images at many positions, centred on the middle pixel, unit sum (n, h, w).

    Parameters
    ----------
    psf
        PSF model.
    x, y
        Positions, parent pixels (n).
    color
        Colours of the objects, mag (n), for a PSF that takes colours; by default, and where NaN, the mean
        colour of the stars that the PSF was fitted to.
    dtype
        Type of the stamps.  Single precision halves the memory and rounds to 1e-7 of the peak.

    Returns
    -------
    stamps
        A row whose PSF cannot be evaluated is NaN.
    """
    return _stamps(psf, x, y, color, dtype, centred=True).images


def stellar_stamps(
    psf: PointSpreadFunction,
    *,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    color: npt.ArrayLike | None = None,
    dtype: npt.DTypeLike = np.float64,
) -> StellarStamps:
    """Return the PSF as point sources at (x, y) show it: stamps centred on the nearest pixel, halves up.

    Parameters are those of `kernel_stamps`.
    """
    return _stamps(psf, x, y, color, dtype, centred=False)


def _stamps(
    psf: PointSpreadFunction,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    color: npt.ArrayLike | None,
    dtype: npt.DTypeLike,
    *,
    centred: bool,
) -> StellarStamps:
    """Draw in batches that fit into the processor's cache, and normalise."""
    color = np.nan if color is None else color
    xs, ys, colors = np.atleast_1d(
        *np.broadcast_arrays(*(np.asarray(values, dtype=np.float64) for values in (x, y, color)))
    )
    usable = np.isfinite(xs) & np.isfinite(ys) & (np.abs(xs) < _FARTHEST) & (np.abs(ys) < _FARTHEST)
    xi, yi = (np.floor(np.where(usable, position, 0.0) + 0.5) for position in (xs, ys))
    x_half, y_half = stamp_half(psf)
    images = np.empty((len(xs), *psf.kernel_bbox.shape), dtype=dtype)
    images[~usable] = np.nan
    draw = drawing_of(psf)
    for start in range(0, len(xs), _BATCH):
        rows = start + np.flatnonzero(usable[start : start + _BATCH])
        if draw is None:
            drawn = draw_one_by_one(psf, x=xs[rows], y=ys[rows], centred=centred)
        else:
            dx, dy = (np.zeros_like(p) if centred else p for p in (xs[rows] - xi[rows], ys[rows] - yi[rows]))
            with np.errstate(over="ignore", invalid="ignore"):
                drawn = draw(x=xs[rows], y=ys[rows], dx=dx, dy=dy, color=colors[rows])
        images[rows] = _normalised(drawn)
    return StellarStamps(images, xi.astype(np.int64) - x_half, yi.astype(np.int64) - y_half)


def _normalised(images: np.ndarray) -> np.ndarray:
    """Scale stamps to unit sum in place; those without a positive sum become NaN."""
    total = images.sum(axis=(1, 2))
    total[~(np.isfinite(total) & (total > 0))] = np.nan
    images /= total[:, None, None]
    return images


def psf_shapes(
    psf: PointSpreadFunction, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike | None = None
) -> np.ndarray:
    """Return adaptive moments ``[xx, yy, xy]`` of the kernel images, pixel^2, (n, 3); NaN where they fail.

    Parameters are those of `kernel_stamps`.  The images are not kept.
    """
    color = np.nan if color is None else color
    positions = np.atleast_1d(*np.broadcast_arrays(x, y, color))
    n = len(positions[0])
    shapes = np.empty((n, 3))
    for start in range(0, n, _BATCH):
        xs, ys, colors = (values[start : start + _BATCH] for values in positions)
        shapes[start : start + _BATCH] = stamp_shapes(kernel_stamps(psf, x=xs, y=ys, color=colors))
    return shapes


def stamp_shapes(stamps: np.ndarray) -> np.ndarray:
    """Return adaptive moments ``[xx, yy, xy]`` of kernel stamps (n, h, w) about their middle pixel (n, 3)."""
    shapes = np.empty((len(stamps), 3))
    for start in range(0, len(stamps), _BATCH):
        part = stamps[start : start + _BATCH]
        moments = adaptive_moments(part, x=part.shape[2] // 2, y=part.shape[1] // 2)
        bad = (moments.flags & (UNWEIGHTED | UNWEIGHTED_BAD)) != 0
        values = np.column_stack([moments.xx, moments.yy, moments.xy])
        shapes[start : start + _BATCH] = np.where(bad[:, None], np.nan, values)
    return shapes


def average_position(psf: PointSpreadFunction) -> tuple[float, float]:
    """Return the mean position of the stars a Piff model was fitted to, else the middle of the bounds."""
    stars = getattr(psf.piff_psf, "stars", None) if isinstance(psf, PiffWrapper) else None
    used = [s.image_pos for s in stars or () if not (s.is_flagged or s.is_reserve)]
    if used:
        return float(np.mean([p.x for p in used])), float(np.mean([p.y for p in used]))
    box = psf.bounds.bbox
    return 0.5 * (box.x.min + box.x.max), 0.5 * (box.y.min + box.y.max)


def determinant_radius(moments: np.ndarray) -> np.ndarray:
    """Return det(Q)**(1/4) of moments ``[xx, yy, xy]`` (..., 3), pixels; NaN where det < 0."""
    moments = np.asarray(moments, dtype=np.float64)
    det = moments[..., 0] * moments[..., 1] - moments[..., 2] ** 2
    return np.asarray(np.where(det >= 0, det, np.nan) ** 0.25)


def trace_radius(moments: np.ndarray) -> np.ndarray:
    """Return sqrt((xx + yy) / 2) of moments ``[xx, yy, xy]`` (..., 3), pixels; NaN where negative."""
    half = 0.5 * (np.asarray(moments, dtype=np.float64)[..., 0] + np.asarray(moments)[..., 1])
    return np.asarray(np.sqrt(np.where(half >= 0, half, np.nan)))
