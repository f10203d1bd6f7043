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
    "good_pixels",
    "outcome_of",
    "psf_moments_loop",
    "source_moments_loop",
)

import numpy as np
from numba import njit

from ..pixels import SourcePixels, hide, show
from .moments import INVALID, OK, RESULT_SIZE, find_moments

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
def good_pixels(
    pixels: SourcePixels, bad: np.ndarray, box: np.ndarray, x: float, y: float, sigma: float
) -> tuple[int, tuple[slice, slice], np.ndarray]:
    """Return whether a source can be measured (an outcome), its part of the image, and its good pixels there.

    Arguments as of `source_moments_loop`, for one source.
    """
    part = (
        slice(box[1] - pixels.y0, box[3] - pixels.y0 + 1),
        slice(box[0] - pixels.x0, box[2] - pixels.x0 + 1),
    )
    if box[2] < box[0] or box[3] < box[1]:
        return NO_PIXELS, part, bad[:0, :0]
    # Floats: a position that is not finite is nowhere.
    xi, yi = np.floor(x + 0.5), np.floor(y + 0.5)
    if not (box[0] <= xi <= box[2] and box[1] <= yi <= box[3]):
        return NOT_CONTAINED, part, bad[:0, :0]
    good = ~bad[part]
    if not good.any():
        return NO_PIXELS, part, good
    return (MEASURED if np.isfinite(sigma) else NO_PSF), part, good


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
    outcome, part, good = good_pixels(pixels, bad, box, x, y, sigma)
    if outcome != MEASURED:
        return outcome
    show(pixels, row)
    image = pixels.image[part]
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
