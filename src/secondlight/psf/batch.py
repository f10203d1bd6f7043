"""PSF models that draw themselves at many positions in one call."""

from __future__ import annotations

__all__ = ("BatchPsf",)

from abc import abstractmethod
from functools import cached_property

import numpy as np
from lsst.images import Box, Image
from lsst.images.psfs import PointSpreadFunction
from lsst.images.utils import round_half_up


class BatchPsf(PointSpreadFunction):
    """A PSF that draws stamps at many positions in one call; single images are batches of one.

    Attributes
    ----------
    stamp_size
        Side of the stamps, odd, pixels.
    """

    stamp_size: int

    @abstractmethod
    def draw(self, *, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Draw the PSF of positions (x, y) at offsets (dx, dy) from the middle pixel of stamps.

        Parameters
        ----------
        x, y
            Positions that choose the PSF, pixels, finite (n).
        dx, dy
            Offsets from the middle pixel, not more than half a pixel (n).

        Returns
        -------
        images
            Stamps of unit sum, float64 (n, stamp_size, stamp_size).
        """

    @cached_property
    def kernel_bbox(self) -> Box:
        """Box of all kernel images."""
        r = self.stamp_size // 2
        return Box.factory[-r : r + 1, -r : r + 1]

    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        """Return the PSF at (x, y), centred on the middle pixel, unit sum; parameters in parent pixels."""
        return Image(self._draw_one(x, y, 0.0, 0.0), bbox=self.kernel_bbox)

    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        """Return the PSF at (x, y) as a star there would appear, unit sum; parameters in parent pixels."""
        image = self._draw_one(x, y, x - round_half_up(x), y - round_half_up(y))
        return Image(image, bbox=self.compute_stellar_bbox(x=x, y=y))

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
        """Return the box of the stellar image at (x, y)."""
        r = self.stamp_size // 2
        i, j = round_half_up(x), round_half_up(y)
        return Box.factory[j - r : j + r + 1, i - r : i + r + 1]

    def _draw_one(self, x: float, y: float, dx: float, dy: float) -> np.ndarray:
        return np.asarray(
            self.draw(x=np.array([x]), y=np.array([y]), dx=np.array([dx]), dy=np.array([dy]))[0]
        )
