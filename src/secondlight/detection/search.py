"""A smoothed image together with the threshold it is searched with."""

from __future__ import annotations

__all__ = ("Search",)

import dataclasses

import numpy as np

from secondlight.catalog.footprints import Footprints

from .smoothing import Smoothed
from .threshold import pixels_above, pixels_above_noise


@dataclasses.dataclass(frozen=True)
class Search:
    """A smoothed image, where it is and what it is compared with.

    Parameters
    ----------
    smoothed
        Smoothed pixels.
    x0, y0
        Parent coordinates of their first pixel.
    level
        Threshold in counts, or in standard deviations of each pixel if ``per_pixel``.
    sigma
        Standard deviation all significances refer to; 0 if there is none or if ``per_pixel``.
    per_pixel
        Whether the noise of each pixel counts.
    """

    smoothed: Smoothed
    x0: int
    y0: int
    level: float
    sigma: float
    per_pixel: bool

    def mask(self, sign: int, factor: float = 1.0) -> np.ndarray:
        """Return the pixels beyond ``factor`` times the threshold."""
        level = factor * self.level
        if self.per_pixel:
            return pixels_above_noise(self.smoothed.image, self.smoothed.variance, level, sign)
        return pixels_above(self.smoothed.image, level, sign)

    def with_significance(self, footprints: Footprints) -> Footprints:
        """Return footprints whose peaks know their significance and are numbered from 1."""
        j, i = footprints.peak_y - self.y0, footprints.peak_x - self.x0
        if self.per_pixel:
            noise = np.sqrt(self.smoothed.variance[j, i])
        else:
            noise = np.full(len(j), self.sigma if self.sigma > 0 else np.inf)
        peaks = footprints.all_peaks._replace(
            significance=self.smoothed.image[j, i] / noise, id=np.arange(1, len(j) + 1)
        )
        return footprints.with_peaks(footprints.peak_offsets, peaks)
