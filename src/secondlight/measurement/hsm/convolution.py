"""Gaussians on pixels, and the convolution that re-Gaussianization needs (Hirata & Seljak 2003)."""

from __future__ import annotations

__all__ = ("add_convolution", "fill_gaussian")

import math

import numpy as np
from numba import njit

_ROWS = 16
"""Rows convolved together."""


@njit(cache=True, nogil=True, error_model="numpy")
def fill_gaussian(image: np.ndarray, x: float, y: float, xx: float, xy: float, yy: float) -> float:
    """Fill an image with a Gaussian of unit peak at indices (x, y), moments in pixel^2; return its sum."""
    det = xx * yy - xy * xy
    w_xx, w_xy, w_yy = yy / det, -xy / det, xx / det
    total = 0.0
    for j in range(image.shape[0]):
        dy = j - y
        for i in range(image.shape[1]):
            dx = i - x
            value = math.exp(-0.5 * (w_xx * dx * dx + w_yy * dy * dy) - w_xy * dx * dy)
            image[j, i] = value
            total += value
    return total


@njit(cache=True, nogil=True)
def fft_size(n: int) -> int:
    """Return the least of 2, 4, 6, 8, 12, 16, ... (powers of two, and those times three) not below ``n``."""
    size = 2
    while size < n:
        size *= 2
    return size // 4 * 3 if size >= 8 and size // 4 * 3 >= n else size


@njit(cache=True, nogil=True)
def _period(kernel: np.ndarray, image: np.ndarray, out: np.ndarray) -> int:
    """Return the period on which GalSim convolves the two into ``out``: what reaches beyond it comes back."""
    kernel_size, image_size = max(kernel.shape), max(image.shape)
    return fft_size(max(kernel_size * 4 // 3, image_size * 4 // 3, max(out.shape)))


@njit(cache=True, nogil=True)
def _range(shift: int, extent: int, period: int, size: int) -> tuple[int, int]:
    """Return the range of pixels, 0 to ``size``, inside one period and where the convolution is not zero."""
    reach = extent if extent < period else period
    return max(shift, 0), min(shift + reach, size)


@njit(cache=True, nogil=True)
def _repeated(image: np.ndarray, period: int, x0: int, y0: int, width: int, height: int) -> np.ndarray:
    """Return the periodic repetition of a zero-padded image on a box of pixels with spare columns, flat."""
    result = np.zeros(width * height + width)
    for j in range(height):
        source_j = (y0 + j) % period
        if source_j >= image.shape[0]:
            continue
        for i in range(width):
            source_i = (x0 + i) % period
            if source_i < image.shape[1]:
                result[j * width + i] = image[source_j, source_i]
    return result


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_shifted(
    out: np.ndarray, image: np.ndarray, k: int, g0: float, g1: float, g2: float, g3: float
) -> None:
    """Add an image, scaled and shifted by ``k`` to ``k - 3``; four shifts at a time spare memory traffic."""
    # Slices instead of shifted indices: only these loops become vector instructions.
    image0, image1, image2, image3 = image[k:], image[k - 1 :], image[k - 2 :], image[k - 3 :]
    for i in range(len(out)):
        out[i] += g0 * image0[i] + g1 * image1[i] + g2 * image2[i] + g3 * image3[i]


@njit(cache=True, nogil=True)
def add_convolution(
    first: np.ndarray, second: np.ndarray, shift_x: int, shift_y: int, out: np.ndarray
) -> None:
    """Add the convolution of two images (k, l) and (m, n) to a third ``out`` (h, w), in place, float64.

    Element (0, 0) of the convolution falls on pixel (shift_x, shift_y) of ``out``.

    Notes
    -----
    It is the periodic convolution that GalSim makes by Fourier transforms (whose period is shorter than both
    extents together, so faint edges come back on the other side), summed directly: in re-Gaussianization one
    of the two is mostly so small that this is several times faster.
    """
    kernel, image = (first, second) if first.size < second.size else (second, first)
    n_y, n_x = kernel.shape
    period = _period(kernel, image, out)
    x0, x1 = _range(shift_x, n_x + image.shape[1] - 1, period, out.shape[1])
    y0, y1 = _range(shift_y, n_y + image.shape[0] - 1, period, out.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    last = -(-n_x // 4) * 4 - 1
    width, height = x1 - x0 + last, y1 - y0 + n_y - 1
    repeated = _repeated(image, period, x0 - shift_x - last, y0 - shift_y - (n_y - 1), width, height)
    total = np.zeros((y1 - y0) * width)
    taps = np.zeros((n_y, last + 1))
    taps[:, :n_x] = kernel
    # Rows one after the other make long loops, a few of them stay in fast memory; the spare columns between
    # them are dropped in the end.
    for j in range(0, y1 - y0, _ROWS):
        rows = total[j * width : (j + _ROWS) * width]
        for k in range(n_y):
            start = (j + n_y - 1 - k) * width + last
            for m in range(0, last, 4):
                g = taps[k]
                _add_shifted(rows, repeated, start - m, g[m], g[m + 1], g[m + 2], g[m + 3])
    for j in range(y0, y1):
        for i in range(x0, x1):
            out[j, i] += total[(j - y0) * width + i - x0]
