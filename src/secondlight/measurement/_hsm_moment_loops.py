"""Compiled loops of the HSM moments over sources and over PSF stamps."""

from __future__ import annotations

__all__ = (
    "FAILED",
    "INVALID_SHAPE",
    "MEASURED",
    "NOT_CONTAINED",
    "NO_PIXELS",
    "NO_PSF",
    "OFF_IMAGE",
    "VALUES",
    "outcome_of",
    "psf_moments_loop",
    "source_moments_loop",
)

import numpy as np
from numba import njit

from ._hsm_moment_kernels import INVALID, OK, RESULT_SIZE, find_moments
from .pixels import SourcePixels, hide, show

MEASURED, NO_PIXELS, NOT_CONTAINED, NO_PSF, FAILED, INVALID_SHAPE, OFF_IMAGE = range(7)

VALUES = RESULT_SIZE
"""Values per object: those of `find_moments`."""


@njit(cache=True, nogil=True)
def outcome_of(code: int) -> int:
    """Return what became of an object from the code of its fit."""
    if code == OK:
        return MEASURED
    return INVALID_SHAPE if code == INVALID else FAILED


@njit(cache=True, nogil=True)
def _measure_source(
    pixels: SourcePixels,
    bad: np.ndarray,
    box: np.ndarray,
    x: float,
    y: float,
    sigma: float,
    round_moments: bool,
    row: int,
    values: np.ndarray,
) -> int:
    """Measure one source in its box and return the outcome.  Arguments as of `source_moments_loop`."""
    if box[2] < box[0] or box[3] < box[1]:
        return NO_PIXELS
    # Floats: a position that is not finite is nowhere.
    xi, yi = np.floor(x + 0.5), np.floor(y + 0.5)
    if not (box[0] <= xi <= box[2] and box[1] <= yi <= box[3]):
        return NOT_CONTAINED
    i0, i1 = box[0] - pixels.x0, box[2] - pixels.x0 + 1
    j0, j1 = box[1] - pixels.y0, box[3] - pixels.y0 + 1
    good = ~bad[j0:j1, i0:i1]
    if not good.any():
        return NO_PIXELS
    if not np.isfinite(sigma):
        return NO_PSF
    show(pixels, row)
    image = pixels.image[j0:j1, i0:i1]
    code = find_moments(image, good, x - box[0], y - box[1], sigma, round_moments, values)
    hide(pixels, row)
    values[1] += box[0]
    values[2] += box[1]
    return outcome_of(code)


@njit(cache=True, nogil=True)
def source_moments_loop(
    pixels: SourcePixels,
    bad: np.ndarray,
    boxes: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    sigma: np.ndarray,
    round_moments: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure n sources, each on its own pixels.

    Parameters
    ----------
    pixels
        Image and own pixels of the sources.
    bad
        Pixels without weight, bool, of the shape of the image.
    boxes
        Inclusive boxes ``x0, y0, x1, y1`` of the footprints, parent pixels, int (n, 4).
    x, y
        First guesses of the centres, parent pixels (n).
    sigma
        First guesses of the sizes, pixels (n); NaN where the PSF cannot be evaluated.
    round_moments
        Whether the weight is kept round.

    Returns
    -------
    values
        Those of `find_moments`, with parent positions, (n, `VALUES`); NaN where there are none.
    outcomes
        What became of each source, int (n).
    """
    n = len(boxes)
    values, outcomes = np.full((n, VALUES), np.nan), np.zeros(n, np.int64)
    for k in range(n):
        outcomes[k] = _measure_source(
            pixels, bad, boxes[k], x[k], y[k], sigma[k], round_moments, k, values[k]
        )
    return values, outcomes


@njit(cache=True, nogil=True)
def psf_moments_loop(
    images: np.ndarray, x: np.ndarray, y: np.ndarray, sigma: np.ndarray, round_moments: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Measure n PSF images (n, h, w) from first guesses: centres (n, indices) and sizes (n, pixels).

    Returns
    -------
    values
        Those of `find_moments`, (n, `VALUES`); NaN where there are none.
    outcomes
        What became of each image, int (n).
    """
    n, height, width = images.shape
    values, outcomes = np.full((n, VALUES), np.nan), np.zeros(n, np.int64)
    everywhere = np.ones((height, width), np.bool_)
    for k in range(n):
        if np.isfinite(sigma[k]) and np.isfinite(images[k, 0, 0]):
            code = find_moments(images[k], everywhere, x[k], y[k], sigma[k], round_moments, values[k])
            outcomes[k] = outcome_of(code)
        else:
            outcomes[k] = NO_PSF
    return values, outcomes
