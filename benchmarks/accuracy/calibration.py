"""The zero point that a system found, against the true one."""

from __future__ import annotations

__all__ = ("MIN_SNR", "calibration_stars", "zero_point_factor")

import numpy as np

from .matching import Image
from .numbers import MIN_SAMPLE
from .populations import CROWDING

MIN_SNR = 200.0
"""Of fainter stars the light of neighbours and the mean light of faint objects in the sky is a percent."""


def calibration_stars(image: Image) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of bright isolated stars, and measured over true flux of their calibration flux.

    There are none if the system did not fit its zero point.
    """
    measured, truth = image.measured, image.truth
    if measured.calibration_flux is None:
        return np.empty(0, dtype=np.int64), np.empty(0)
    objects, sources = image.matches()
    good = truth["is_star"][objects].astype(bool) & (truth["snr"][objects] >= MIN_SNR)
    good &= truth["contamination"][objects] < CROWDING["isolated"][1]
    good &= measured.usable(measured.calibration_flux)[sources]
    objects, sources = objects[good], sources[good]
    return objects, measured.fluxes[measured.calibration_flux][0][sources] / truth["flux"][objects]


def zero_point_factor(image: Image) -> float:
    """Return by what factor a system's fluxes in nJy are too large; 1 if there are too few stars to tell."""
    _, ratios = calibration_stars(image)
    return float(np.median(ratios)) if len(ratios) >= MIN_SAMPLE else 1.0
