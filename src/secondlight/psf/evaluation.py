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
    "trace_radius",
)

import logging
from collections.abc import Callable
from typing import NamedTuple

import galsim
import numpy as np
import numpy.typing as npt
from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper, PointSpreadFunction

from .adaptive_moments import UNWEIGHTED, UNWEIGHTED_BAD, adaptive_moments
from .pixel_grid import PixelGridModel

_LOG = logging.getLogger(__name__)


class InvalidPsfError(RuntimeError):
    """The PSF model cannot be evaluated."""


class StellarStamps(NamedTuple):
    """PSF images as stars would show them.

    Attributes
    ----------
    images
        Stamps of unit sum, float64 (n, h, w); a row whose PSF cannot be evaluated is NaN.
    x0, y0
        Parent pixel of the first element of each stamp, int64 (n).
    """

    images: np.ndarray
    x0: np.ndarray
    y0: np.ndarray


def _positions(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    return np.atleast_1d(xs), np.atleast_1d(ys)


def _nearest(position: np.ndarray) -> np.ndarray:
    """Return the nearest pixel, halves up; 0 for a position that is not finite."""
    return np.floor(np.where(np.isfinite(position), position, 0.0) + 0.5).astype(np.int64)


def _normalised(images: np.ndarray, invalid: np.ndarray) -> np.ndarray:
    """Scale stamps to unit sum in place; rows that are invalid or have no positive sum become NaN."""
    total = images.sum(axis=(1, 2))
    invalid = invalid | ~(np.isfinite(total) & (total > 0))
    images /= np.where(invalid, 1.0, total)[:, None, None]
    images[invalid] = np.nan
    return images


def _stamp_half(psf: PointSpreadFunction) -> tuple[int, int]:
    box = psf.kernel_bbox
    return -box.x.start, -box.y.start


def kernel_stamps(psf: PointSpreadFunction, *, x: npt.ArrayLike, y: npt.ArrayLike) -> np.ndarray:
    """Return kernel images at many positions, centred on the middle pixel, unit sum, float64 (n, h, w).

    A row whose PSF cannot be evaluated is NaN.
    """
    xs, ys = _positions(x, y)
    invalid = ~(np.isfinite(xs) & np.isfinite(ys))
    if isinstance(psf, GaussianPointSpreadFunction):
        return _normalised(_gaussian(psf, np.zeros_like(xs), np.zeros_like(ys)), invalid)
    if isinstance(psf, PiffWrapper):
        if (model := PixelGridModel.from_piff(psf.piff_psf)) is not None:
            half = _stamp_half(psf)
            middle = np.zeros_like(xs)
            return _normalised(model.draw(x=xs, y=ys, dx=middle, dy=middle, half=half), invalid)

        def draw(xi: float, yi: float) -> np.ndarray:
            return _draw_piff(psf, xi, yi, centred=True)
    else:

        def draw(xi: float, yi: float) -> np.ndarray:
            return np.asarray(psf.compute_kernel_image(x=xi, y=yi).array, dtype=np.float64)

    return _normalised(_each(draw, xs, ys, invalid, psf.kernel_bbox.shape), invalid)


def stellar_stamps(psf: PointSpreadFunction, *, x: npt.ArrayLike, y: npt.ArrayLike) -> StellarStamps:
    """Return the PSF as point sources at (x, y) show it: stamps centred on the nearest pixel, halves up."""
    xs, ys = _positions(x, y)
    invalid = ~(np.isfinite(xs) & np.isfinite(ys))
    x_half, y_half = _stamp_half(psf)
    xi, yi = _nearest(xs), _nearest(ys)
    x0, y0 = xi - x_half, yi - y_half
    dx, dy = np.where(invalid, 0.0, xs - xi), np.where(invalid, 0.0, ys - yi)
    if isinstance(psf, GaussianPointSpreadFunction):
        return StellarStamps(_normalised(_gaussian(psf, dx, dy), invalid), x0, y0)
    if isinstance(psf, PiffWrapper):
        if (model := PixelGridModel.from_piff(psf.piff_psf)) is not None:
            images = model.draw(x=xs, y=ys, dx=dx, dy=dy, half=(x_half, y_half))
            return StellarStamps(_normalised(images, invalid), x0, y0)

        def draw(xk: float, yk: float) -> np.ndarray:
            return _draw_piff(psf, xk, yk, centred=False)
    else:

        def draw(xk: float, yk: float) -> np.ndarray:
            return np.asarray(psf.compute_stellar_image(x=xk, y=yk).array, dtype=np.float64)

    images = _each(draw, xs, ys, invalid, psf.kernel_bbox.shape)
    return StellarStamps(_normalised(images, invalid), x0, y0)


def _gaussian(psf: GaussianPointSpreadFunction, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return point-sampled Gaussians offset by (dx, dy) from the middle pixel (n, h, w)."""
    x_half, y_half = _stamp_half(psf)

    def profile(half: int, offset: np.ndarray) -> np.ndarray:
        distance = np.arange(-half, half + 1) - offset[:, None]
        return np.asarray(np.exp(-0.5 * (distance / psf.sigma) ** 2))

    return np.asarray(profile(y_half, dy)[:, :, None] * profile(x_half, dx)[:, None, :])


def _draw_piff(psf: PiffWrapper, x: float, y: float, *, centred: bool) -> np.ndarray:
    """Draw a Piff model on a stamp whose middle is the nearest pixel, halves up.

    Piff's own choice of the stamp centre rounds halves down, which displaces a star at k + 0.5 by one pixel.
    """
    height, width = psf.kernel_bbox.shape
    stamp = galsim.Image(width, height, dtype=float)
    xi, yi = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    stamp.setCenter(xi, yi)
    psf.piff_psf.draw(x, y, image=stamp, center=(float(xi), float(yi)) if centred else (x, y))
    return np.asarray(stamp.array)


def _each(
    draw: Callable[[float, float], np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    invalid: np.ndarray,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Draw one distinct position at a time; rows that fail stay NaN."""
    distinct, inverse = np.unique(np.column_stack([x, y]), axis=0, return_inverse=True)
    usable = np.zeros(len(distinct), dtype=bool)
    usable[inverse.ravel()[~invalid]] = True
    images = np.full((len(distinct), *shape), np.nan)
    for k in np.flatnonzero(usable):
        try:
            images[k] = draw(float(distinct[k, 0]), float(distinct[k, 1]))
        except Exception as error:
            _LOG.debug("The PSF cannot be evaluated at (%g, %g): %s", *distinct[k], error)
    return images[inverse.ravel()]


def psf_shapes(psf: PointSpreadFunction, *, x: npt.ArrayLike, y: npt.ArrayLike) -> np.ndarray:
    """Return adaptive moments ``[xx, yy, xy]`` of the kernel images, pixel^2, (n, 3); NaN where they fail."""
    xs, ys = _positions(x, y)
    if isinstance(psf, GaussianPointSpreadFunction):
        finite = np.isfinite(xs) & np.isfinite(ys)
        return np.where(finite[:, None], stamp_shapes(kernel_stamps(psf, x=0.0, y=0.0)), np.nan)
    return stamp_shapes(kernel_stamps(psf, x=xs, y=ys))


def stamp_shapes(stamps: np.ndarray) -> np.ndarray:
    """Return adaptive moments ``[xx, yy, xy]`` of kernel stamps (n, h, w) about their middle pixel (n, 3)."""
    moments = adaptive_moments(stamps, x=stamps.shape[2] // 2, y=stamps.shape[1] // 2)
    shapes = np.column_stack([moments.xx, moments.yy, moments.xy])
    shapes[(moments.flags & (UNWEIGHTED | UNWEIGHTED_BAD)) != 0] = np.nan
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
