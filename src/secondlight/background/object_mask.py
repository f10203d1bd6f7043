"""Where the objects are: significant light on a smoothed, block-averaged image, and generous margins.

Everything here works on blocks of a few pixels: objects are wider than a pixel, and that saves most of the
time.
"""

from __future__ import annotations

__all__ = ("block_average", "grow_by_size", "grow_mask", "smoothed_blocks")

import math

import numpy as np
import scipy.ndimage
from numba import njit

_DIAGONAL = math.sqrt(2.0)


@njit(cache=True, nogil=True)
def block_average(image: np.ndarray, good: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return averages of the good pixels of square blocks.

    Parameters
    ----------
    image
        Pixels (height, width).
    good
        Pixels that count, bool (height, width); pixels that are not finite never do.
    size
        Side of a block, pixels; blocks at the upper and right edge have what is left.

    Returns
    -------
    Averages, float32 (ceil(height / size), ceil(width / size)), 0 without good pixels; and whether at least
    half of the block's pixels are good.
    """
    height, width = image.shape
    ny, nx = -(-height // size), -(-width // size)
    average = np.zeros((ny, nx), np.float32)
    usable = np.zeros((ny, nx), np.bool_)
    total = np.empty(nx, np.float64)
    number = np.empty(nx, np.int64)
    for by in range(ny):
        total[:] = 0.0
        number[:] = 0
        rows = min(size, height - by * size)
        for j in range(by * size, by * size + rows):
            for bx in range(nx):
                for i in range(bx * size, min((bx + 1) * size, width)):
                    if good[j, i] and np.isfinite(image[j, i]):
                        total[bx] += image[j, i]
                        number[bx] += 1
        for bx in range(nx):
            if number[bx] > 0:
                average[by, bx] = total[bx] / number[bx]
                usable[by, bx] = 2 * number[bx] >= rows * min(size, width - bx * size)
    return average, usable


def smoothed_blocks(residual: np.ndarray, usable: np.ndarray, *, sigma: float) -> np.ndarray:
    """Return blocks smoothed by a Gaussian, float32; blocks that are not usable count as zero.

    Parameters
    ----------
    residual
        Blocks without background (ny, nx).
    usable
        Blocks that count (ny, nx).
    sigma
        Standard deviation of the Gaussian, blocks.
    """
    filled = np.where(usable, residual, np.float32(0))
    return np.asarray(scipy.ndimage.gaussian_filter(filled, sigma, mode="reflect", truncate=3.5))


def grow_by_size(detected: np.ndarray, *, margin: float, factor: float) -> np.ndarray:
    """Return a mask with a margin around each connected region that grows with its size.

    The wings of an object reach the farther beyond the isophote of its detection the brighter it is, and so
    does that isophote: its radius is a measure of both.

    Parameters
    ----------
    detected
        Blocks with objects, bool (ny, nx).
    margin
        Least width of the margin, blocks.
    factor
        Width of the margin in radii of a disk as large as the region, added to the least width.
    """
    labels, n = scipy.ndimage.label(detected, structure=np.ones((3, 3)))
    radius = np.sqrt(np.bincount(labels.ravel(), minlength=n + 1) / math.pi)
    reach = np.where(labels > 0, (margin + factor * radius)[labels], -1.0).astype(np.float32)
    return grow_mask(reach)


@njit(cache=True, nogil=True)
def grow_mask(reach: np.ndarray) -> np.ndarray:
    """Return the pixels within the reach of any pixel, bool (height, width).

    Distances are lengths of paths of steps to the eight neighbours, which makes octagons of circles.

    Parameters
    ----------
    reach
        How far each pixel reaches, pixels; negative for not even itself (height, width).  Overwritten.
    """
    height, width = reach.shape
    for direction in (1, -1):
        for jj in range(height):
            j = jj if direction == 1 else height - 1 - jj
            for ii in range(width):
                i = ii if direction == 1 else width - 1 - ii
                best = reach[j, i]
                before = i - direction
                if 0 <= before < width:
                    best = max(best, reach[j, before] - 1.0)
                above = j - direction
                if 0 <= above < height:
                    best = max(best, reach[above, i] - 1.0)
                    for side in (i - 1, i + 1):
                        if 0 <= side < width:
                            best = max(best, reach[above, side] - _DIAGONAL)
                reach[j, i] = best
    return reach >= 0.0
