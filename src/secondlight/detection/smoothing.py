"""Smoothing of image and variance by the detection kernel, a round Gaussian (spec reprocess 9.4, 13.2)."""

from __future__ import annotations

__all__ = ("Smoothed", "gaussian_kernel", "kernel_size", "smooth")

from typing import NamedTuple

import numpy as np
from numba import njit


class Smoothed(NamedTuple):
    """Smoothed pixels where the kernel fits into the image.

    Parameters
    ----------
    image, variance
        Smoothed image and its variance, float32 (height - 2 * margin, width - 2 * margin).
    margin
        Width of the frame of the input that is left out, pixels.
    """

    image: np.ndarray
    variance: np.ndarray
    margin: int

    def inner(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Return the part of the input, of this (height, width), that the smoothed pixels belong to."""
        height, width = shape
        return slice(self.margin, height - self.margin), slice(self.margin, width - self.margin)


def kernel_size(sigma: float, n_sigma: float) -> int:
    """Return the odd width in pixels of a Gaussian kernel ``n_sigma`` standard deviations wide."""
    return (int(n_sigma * sigma + 0.5) // 2) * 2 + 1


def gaussian_kernel(sigma: float, size: int) -> np.ndarray:
    """Return a 1-d Gaussian sampled at integers, sum 1, float64 (size)."""
    offset = np.arange(size) - size // 2
    profile = np.exp(-0.5 * (offset / sigma) ** 2)
    return np.asarray(profile / profile.sum())


def smooth(image: np.ndarray, variance: np.ndarray, kernel: np.ndarray) -> Smoothed:
    """Correlate an image with the outer product of a 1-d kernel with itself, and propagate its variance.

    A pixel that is not finite spoils every output pixel whose kernel covers it.

    Parameters
    ----------
    image, variance
        Pixels and their variance, float32 (height, width).
    kernel
        1-d kernel with an odd number of elements.

    Raises
    ------
    ValueError
        Raised if the image is smaller than the kernel.
    """
    height, width = image.shape
    if min(height, width) < len(kernel):
        raise ValueError(
            f"An image of {width} x {height} pixels is smaller than the detection kernel of "
            f"{len(kernel)} x {len(kernel)} pixels."
        )
    return Smoothed(
        correlate_separable(image, kernel), correlate_separable(variance, kernel**2), len(kernel) // 2
    )


@njit(cache=True, nogil=True)
def correlate_separable(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate the rows, then the columns of an image with a 1-d kernel.

    Parameters
    ----------
    image
        Pixels (height, width).
    kernel
        Odd number n of elements, float64.

    Returns
    -------
    Pixels where the kernel fits, float32 (height - n + 1, width - n + 1); sums are float64.
    """
    size = len(kernel)
    height, width = image.shape
    out_width = width - size + 1
    out = np.empty((height - size + 1, out_width), np.float32)
    rows = np.empty((size, out_width), np.float32)  # the last rows after the first pass, as a ring
    total = np.empty(out_width, np.float64)
    for j in range(height):
        total[:] = 0.0
        for k in range(size):
            weight = kernel[k]
            for i in range(out_width):
                total[i] += weight * image[j, i + k]
        row = rows[j % size]
        for i in range(out_width):
            row[i] = total[i]
        first = j - size + 1
        if first < 0:
            continue
        total[:] = 0.0
        for k in range(size):
            weight = kernel[k]
            row = rows[(first + k) % size]
            for i in range(out_width):
                total[i] += weight * row[i]
        for i in range(out_width):
            out[first, i] = total[i]
    return out
