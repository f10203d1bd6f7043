"""Fast drawing of Piff's PixelGrid model with a polynomial interpolant, all positions at once."""

from __future__ import annotations

__all__ = ("PixelGridModel",)

import dataclasses
import math
from typing import Any

import galsim
import numpy as np
import piff

from ._stamp_kernels import resample_loop

_NO_WEIGHT = 1e-15
"""Weights below this are rounding errors of zero."""

_KEYS = {"x": 0, "u": 0, "y": 1, "v": 1, "colorValue": 2}
"""Which of x, y and colour is behind each coordinate of a polynomial."""


@dataclasses.dataclass(frozen=True)
class PixelGridModel:
    """A pixel grid whose values are polynomials of position and perhaps colour, on plain pixels.

    Parameters
    ----------
    coefficients
        Polynomial coefficients of each grid value (size * size, n_terms).
    exponents
        Powers of the coordinates in each term (n_terms, n_keys).
    factors
        What turns x, y (pixels) or colour (mag) into the coordinates of the polynomial (n_keys).
    axes
        Index (0 for x, 1 for y, 2 for colour) behind each coordinate of the polynomial (n_keys).
    size
        Grid points per side.
    step
        Image pixels in units of grid steps.
    interpolant
        Kernel that interpolates between grid points.
    typical_color
        Colour of objects whose own is not known, mag.
    """

    coefficients: np.ndarray
    exponents: np.ndarray
    factors: np.ndarray
    axes: np.ndarray
    size: int
    step: float
    interpolant: Any
    typical_color: float = math.nan

    @staticmethod
    def from_piff(psf: piff.PSF, *, typical_color: float = math.nan) -> PixelGridModel | None:
        """Return the fast form of a Piff model, or `None` if it has a feature that only Piff itself draws."""
        model: Any = getattr(psf, "model", None)
        interp: Any = getattr(psf, "interp", None)
        wcs = psf.wcs
        supported = (
            type(psf) is piff.SimplePSF
            and type(model) is piff.PixelGrid
            and type(interp) is piff.BasisPolynomial
            and len(wcs) == 1
            and psf.pointing is None
        )
        if not supported:
            return None
        (local,) = wcs.values()
        keys = [str(key) for key in interp._keys]
        if type(local) is not galsim.PixelScale or not set(keys) <= set(_KEYS):
            return None
        step = float(local.scale / model.scale)
        return PixelGridModel(
            coefficients=np.asarray(interp.q, dtype=np.float64),
            exponents=np.argwhere(interp._mask),
            factors=np.array([local.scale if key in "uv" else 1.0 for key in keys]),
            axes=np.array([_KEYS[key] for key in keys]),
            size=int(model.size),
            step=1.0 if math.isclose(step, 1.0, rel_tol=1e-12) else step,
            interpolant=model.interp,
            typical_color=typical_color,
        )

    def draw(
        self,
        *,
        x: np.ndarray,
        y: np.ndarray,
        dx: np.ndarray,
        dy: np.ndarray,
        half: tuple[int, int],
        color: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw the model of positions (x, y) at offsets (dx, dy) from the middle pixel of stamps.

        Parameters
        ----------
        x, y
            Positions that choose the model, parent pixels (n).
        dx, dy
            Offsets of the profile from the middle pixel (n).
        half
            Stamp half-sizes in x and y; the stamps are ``2 * half + 1`` wide.
        color
            Colours of the objects, mag (n); NaN, or no array, for the typical colour.

        Returns
        -------
        images
            Not normalised, float64 (n, h, w).
        """
        return np.asarray(
            resample_loop(self._grids(x, y, color), *self._taps(dy, half[1]), *self._taps(dx, half[0]))
        )

    def _grids(self, x: np.ndarray, y: np.ndarray, color: np.ndarray | None) -> np.ndarray:
        """Return the grid values at positions (n, size, size)."""
        if color is None:
            color = np.full(len(x), math.nan)
        known = np.where(np.isfinite(color), color, self.typical_color)
        keys = np.stack([x, y, known])[self.axes] * self.factors[:, None]
        terms = np.prod(keys.T[:, None, :] ** self.exponents, axis=2)
        return np.asarray(terms @ self.coefficients.T).reshape(-1, self.size, self.size)

    def _taps(self, offset: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
        """Return first grid indices (n, p) and weights (n, p or 1, taps) of the pixels of one axis.

        There is one row instead of n if all offsets are the same.
        """
        if np.all(offset == offset[:1]):
            offset = offset[:1]
        pixels = np.arange(-half, half + 1)
        if self.step == 1.0:
            # All pixels of a stamp lie alike between their neighbours on the grid.
            position, shift = -offset[:, None], pixels
        else:
            position, shift = (pixels - offset[:, None]) * self.step, np.zeros_like(pixels)
        reach = min(math.ceil(self.interpolant.xrange), self.size + half)
        base = np.floor(position)
        distance = (position - base)[:, :, None] - np.arange(1 - reach, reach + 1)
        weights = np.asarray(self.interpolant.xval(distance.ravel())).reshape(distance.shape)
        weights[np.abs(weights) < _NO_WEIGHT] = 0.0
        return base.astype(np.int64) + shift + (self.size // 2 + 1 - reach), weights
