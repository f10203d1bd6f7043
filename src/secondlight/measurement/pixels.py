"""Pixels as one source sees them: its own over an image where every source is replaced by noise."""

from __future__ import annotations

__all__ = ("SourcePixels", "hide", "put_all", "show", "take_own", "take_rows")

from typing import NamedTuple

import numpy as np
from numba import njit


class SourcePixels(NamedTuple):
    """Working image and the own pixels of n sources; the form compiled kernels take.

    Attributes
    ----------
    image
        Working image with all sources replaced by noise, float32 (h, w).  `show` and `hide` change it.
    variance
        Variance of the pixels, float32 (h, w).
    x0, y0
        Parent pixel of the first element.
    span_offsets, span_y, span_x0, span_x1
        Spans of the own pixels, parent coordinates; row k has ``span_offsets[k]:span_offsets[k + 1]``.
    offsets, own, replaced
        Own values and replacements, float32, in span order; row k has ``offsets[k]:offsets[k + 1]``.
    """

    image: np.ndarray
    variance: np.ndarray
    x0: int
    y0: int
    span_offsets: np.ndarray
    span_y: np.ndarray
    span_x0: np.ndarray
    span_x1: np.ndarray
    offsets: np.ndarray
    own: np.ndarray
    replaced: np.ndarray


@njit(cache=True, nogil=True)
def put(
    image: np.ndarray,
    x0: int,
    y0: int,
    span_offsets: np.ndarray,
    span_y: np.ndarray,
    span_x0: np.ndarray,
    span_x1: np.ndarray,
    offsets: np.ndarray,
    values: np.ndarray,
    row: int,
) -> None:
    """Write the values of one row over its spans into an image; a row without values changes nothing."""
    k = offsets[row]
    if k == offsets[row + 1]:
        return
    for s in range(span_offsets[row], span_offsets[row + 1]):
        j = span_y[s] - y0
        for i in range(span_x0[s] - x0, span_x1[s] - x0 + 1):
            image[j, i] = values[k]
            k += 1


@njit(cache=True, nogil=True)
def show(pixels: SourcePixels, row: int) -> None:
    """Put the own pixels of a row into the working image."""
    p = pixels
    put(p.image, p.x0, p.y0, p.span_offsets, p.span_y, p.span_x0, p.span_x1, p.offsets, p.own, row)


@njit(cache=True, nogil=True)
def hide(pixels: SourcePixels, row: int) -> None:
    """Put the replacement back, so that the working image is exactly what it was before `show`."""
    p = pixels
    put(p.image, p.x0, p.y0, p.span_offsets, p.span_y, p.span_x0, p.span_x1, p.offsets, p.replaced, row)


@njit(cache=True, nogil=True)
def put_all(
    image: np.ndarray,
    x0: int,
    y0: int,
    span_offsets: np.ndarray,
    span_y: np.ndarray,
    span_x0: np.ndarray,
    span_x1: np.ndarray,
    offsets: np.ndarray,
    values: np.ndarray,
) -> None:
    """Write the values of all rows, in order, into an image."""
    for row in range(len(offsets) - 1):
        put(image, x0, y0, span_offsets, span_y, span_x0, span_x1, offsets, values, row)


@njit(cache=True, nogil=True)
def take_own(
    image: np.ndarray,
    x0: int,
    y0: int,
    span_offsets: np.ndarray,
    span_y: np.ndarray,
    span_x0: np.ndarray,
    span_x1: np.ndarray,
    heavy_offsets: np.ndarray,
    heavy: np.ndarray,
    from_heavy: np.ndarray,
    offsets: np.ndarray,
    own: np.ndarray,
) -> None:
    """Fill the own values of n rows: heavy pixels where ``from_heavy`` (n), else those of the image.

    Row k has ``own[offsets[k]:offsets[k + 1]]``, which is all its pixels or none.
    """
    for row in range(len(from_heavy)):
        k, end = offsets[row], offsets[row + 1]
        if from_heavy[row]:
            own[k:end] = heavy[heavy_offsets[row] : heavy_offsets[row + 1]]
            continue
        if k == end:
            continue
        for s in range(span_offsets[row], span_offsets[row + 1]):
            j = span_y[s] - y0
            for i in range(span_x0[s] - x0, span_x1[s] - x0 + 1):
                own[k] = image[j, i]
                k += 1


@njit(cache=True, nogil=True)
def take_rows(
    offsets: np.ndarray, values: np.ndarray, rows: np.ndarray, to_offsets: np.ndarray, out: np.ndarray
) -> None:
    """Fill the values of some rows of a ragged array, one after the other, into another one."""
    for k in range(len(rows)):
        out[to_offsets[k] : to_offsets[k + 1]] = values[offsets[rows[k]] : offsets[rows[k] + 1]]
