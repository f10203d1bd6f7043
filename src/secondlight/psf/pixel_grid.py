"""Fast drawing of Piff's PixelGrid model with a polynomial interpolant, all positions at once."""

from __future__ import annotations

__all__ = ("PixelGridModel",)

import dataclasses
from typing import Any

import galsim
import numpy as np
import piff

_CHUNK = 512
"""Positions drawn together, which bounds the memory of the weight matrices."""


@dataclasses.dataclass(frozen=True)
class PixelGridModel:
    """A pixel grid whose values are polynomials of position, seen through a plain pixel scale.

    Parameters
    ----------
    coefficients
        Polynomial coefficients of each grid value (size * size, n_terms).
    exponents
        Powers of the two coordinates in each term (n_terms, 2).
    factors
        What turns x and y (pixels) into the coordinates of the polynomial (2).
    axes
        Index (0 for x, 1 for y) behind each coordinate of the polynomial (2).
    size
        Grid points per side.
    step
        Image pixels in units of grid steps.
    interpolant
        Kernel that interpolates between grid points.
    """

    coefficients: np.ndarray
    exponents: np.ndarray
    factors: np.ndarray
    axes: np.ndarray
    size: int
    step: float
    interpolant: Any

    @staticmethod
    def from_piff(psf: piff.PSF) -> PixelGridModel | None:
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
        keys = tuple(interp._keys)
        if type(local) is not galsim.PixelScale or not set(keys) <= set("xyuv") or len(keys) != 2:
            return None
        return PixelGridModel(
            coefficients=np.asarray(interp.q, dtype=np.float64),
            exponents=np.argwhere(interp._mask),
            factors=np.array([local.scale if key in "uv" else 1.0 for key in keys]),
            axes=np.array([0 if key in "xu" else 1 for key in keys]),
            size=int(model.size),
            step=float(local.scale / model.scale),
            interpolant=model.interp,
        )

    def draw(
        self, *, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray, half: tuple[int, int]
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

        Returns
        -------
        images
            Not normalised, float64 (n, h, w).
        """
        images = np.empty((len(x), 2 * half[1] + 1, 2 * half[0] + 1))
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            grids = self._grids(x[part], y[part])
            along_y = self._weights(dy[part], half[1])
            along_x = self._weights(dx[part], half[0])
            images[part] = along_y @ grids @ along_x.transpose(0, 2, 1)
        return images

    def _grids(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the grid values at positions (n, size, size)."""
        keys = np.stack([x, y])[self.axes] * self.factors[:, None]
        terms = keys[0][:, None] ** self.exponents[:, 0] * keys[1][:, None] ** self.exponents[:, 1]
        return np.asarray(terms @ self.coefficients.T).reshape(-1, self.size, self.size)

    def _weights(self, offset: np.ndarray, half: int) -> np.ndarray:
        """Return weights of the grid points for the pixels of one axis (n, 2 * half + 1, size)."""
        pixels = (np.arange(-half, half + 1) - offset[:, None]) * self.step
        distance = pixels[:, :, None] - (np.arange(self.size) - self.size // 2)
        return np.asarray(self.interpolant.xval(distance.ravel())).reshape(distance.shape)
