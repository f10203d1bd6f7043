"""How each kind of PSF is drawn on many stamps."""

from __future__ import annotations

__all__ = ("Draw", "draw_one_by_one", "drawing_of", "stamp_half", "takes_color", "typical_color")

import functools
import logging
import math
from collections.abc import Callable
from typing import Protocol

import galsim
import numpy as np
from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper, PointSpreadFunction

from .batch import BatchPsf
from .pixel_grid import PixelGridModel

_LOG = logging.getLogger(__name__)
_COLOR_KEY = "colorValue"


class Draw(Protocol):
    """A function that draws stamps of positions (x, y) at offsets (dx, dy) from the middle pixel.

    All arguments are (n), finite, but for colours that are not known, which are NaN.  Stamps are float64
    (n, h, w), not necessarily normalised; those that cannot be drawn are NaN.
    """

    def __call__(
        self, *, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray, color: np.ndarray
    ) -> np.ndarray:
        """Draw."""


def stamp_half(psf: PointSpreadFunction) -> tuple[int, int]:
    """Return the half sizes of the stamps of a PSF in x and y, pixels."""
    box = psf.kernel_bbox
    return -box.x.start, -box.y.start


def drawing_of(psf: PointSpreadFunction) -> Draw | None:
    """Return the function that draws a PSF, or `None` if only its own methods know how.

    A subclass of a class of another package may draw differently and is left to its own methods.
    """
    if isinstance(psf, BatchPsf):
        return functools.partial(_draw_batch, psf)
    if type(psf) is GaussianPointSpreadFunction:
        return functools.partial(_draw_gaussian, psf)
    if type(psf) is PiffWrapper:
        model = PixelGridModel.from_piff(psf.piff_psf, typical_color=typical_color(psf))
        if model is not None:
            return functools.partial(model.draw, half=stamp_half(psf))
        return functools.partial(_draw_piff, psf)
    return None


def takes_color(psf: PointSpreadFunction) -> bool:
    """Return whether a PSF depends on the colour of the object."""
    return isinstance(psf, PiffWrapper) and _COLOR_KEY in psf.piff_psf.interp_property_names


def typical_color(psf: PiffWrapper) -> float:
    """Return the mean colour of the stars a PSF was fitted to, mag; NaN if it takes none or has none."""
    if not takes_color(psf):
        return math.nan
    stars = getattr(psf.piff_psf, "stars", None) or ()
    # Stars as Piff left them, or what the fit kept of them.
    colors = [
        star.data.properties.get(_COLOR_KEY, math.nan)
        if hasattr(star, "data")
        else getattr(star, "color", math.nan)
        for star in stars
    ]
    known = [color for color in colors if math.isfinite(color)]
    return float(np.mean(known)) if known else math.nan


def _draw_batch(
    psf: BatchPsf, *, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray, color: np.ndarray
) -> np.ndarray:
    return psf.draw(x=x, y=y, dx=dx, dy=dy)


def _draw_gaussian(
    psf: GaussianPointSpreadFunction,
    *,
    x: np.ndarray,
    y: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
    color: np.ndarray,
) -> np.ndarray:
    """Draw point-sampled Gaussians."""
    x_half, y_half = stamp_half(psf)

    def profile(half: int, offset: np.ndarray) -> np.ndarray:
        distance = np.arange(-half, half + 1) - offset[:, None]
        return np.asarray(np.exp(-0.5 * (distance / psf.sigma) ** 2))

    return np.asarray(profile(y_half, dy)[:, :, None] * profile(x_half, dx)[:, None, :])


def _draw_piff(
    psf: PiffWrapper, *, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray, color: np.ndarray
) -> np.ndarray:
    """Draw with Piff on stamps whose middle is the nearest pixel, halves up.

    Piff's own choice of the stamp centre rounds halves down, which displaces a star at k + 0.5 by one pixel.
    """
    height, width = psf.kernel_bbox.shape
    chromatic = takes_color(psf)
    known = np.where(np.isfinite(color), color, typical_color(psf))

    def draw(k: int) -> np.ndarray:
        stamp = galsim.Image(width, height, dtype=float)
        xi, yi = float(np.floor(x[k] + 0.5)), float(np.floor(y[k] + 0.5))
        stamp.setCenter(int(xi), int(yi))
        colors = {_COLOR_KEY: float(known[k])} if chromatic else {}
        psf.piff_psf.draw(x[k], y[k], image=stamp, center=(xi + dx[k], yi + dy[k]), **colors)
        return np.asarray(stamp.array)

    # NaN is equal to nothing, so that unknown colours would make every row a distinct one.
    return _each(draw, np.column_stack([x, y, dx, dy, np.nan_to_num(known)]), (height, width))


def draw_one_by_one(psf: PointSpreadFunction, *, x: np.ndarray, y: np.ndarray, centred: bool) -> np.ndarray:
    """Draw with the PSF's own methods: kernel images if centred, else stellar images (n, h, w)."""

    def draw(k: int) -> np.ndarray:
        compute = psf.compute_kernel_image if centred else psf.compute_stellar_image
        return np.asarray(compute(x=float(x[k]), y=float(y[k])).array, dtype=np.float64)

    return _each(draw, np.column_stack([x, y]), psf.kernel_bbox.shape)


def _each(draw: Callable[[int], np.ndarray], settings: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Draw each distinct row of settings (n, m) once, by its index; rows that fail are NaN."""
    _, first, inverse = np.unique(settings, axis=0, return_index=True, return_inverse=True)
    images = np.full((len(first), *shape), np.nan)
    for image, k in zip(images, first, strict=True):
        try:
            image[:] = draw(int(k))
        except Exception as error:
            _LOG.debug("The PSF cannot be evaluated at (%g, %g): %s", *settings[k, :2], error)
    return images[inverse.ravel()]
