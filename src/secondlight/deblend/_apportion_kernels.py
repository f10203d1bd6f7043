"""Compiled sharing of pixels among templates; the slow twins are in the tests."""

from __future__ import annotations

__all__ = ("apportion_all", "quantum", "template_spans")

import math

import numpy as np
from numba import njit

_MANTISSA = 24
_SMALLEST_EXPONENT = -149


@njit(cache=True, nogil=True)
def quantum(value: float) -> float:
    """Return the step between float32 numbers of the size of a value.

    Multiples of this step that do not exceed the value are float32 numbers, and so are all their sums.
    """
    return math.ldexp(1.0, max(math.frexp(value)[1] - _MANTISSA, _SMALLEST_EXPONENT))


@njit(cache=True, nogil=True)
def _union_box(boxes: np.ndarray, start: int, stop: int) -> tuple[int, int, int, int]:
    """Return the box around those of some templates, leaving out templates without pixels."""
    x0, y0, x1, y1 = 1 << 40, 1 << 40, -1, -1
    for k in range(start, stop):
        if boxes[k, 2] >= boxes[k, 0]:
            x0, y0 = min(x0, boxes[k, 0]), min(y0, boxes[k, 1])
            x1, y1 = max(x1, boxes[k, 2]), max(y1, boxes[k, 3])
    return x0, y0, x1, y1


@njit(cache=True, nogil=True)
def apportion_all(
    image: np.ndarray, boxes: np.ndarray, first: np.ndarray, values: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Share the pixels of each blend in proportion to its templates (spec reprocess 15.4, apportionFlux).

    Shares are rounded to the float32 step of their pixel and the largest gets the rest, so they sum to the
    pixel exactly, in any order.  A pixel that is not finite is given whole to all who claim it.

    Parameters
    ----------
    image
        Pixels, float32 (h, w).
    boxes, first, values
        Templates; see `secondlight.deblend.templates.Templates`.
    offsets
        First template of each blend (n + 1).

    Returns
    -------
    shares
        Pixels of the children, in the order of ``values``, float32; 0 where a template is not positive.
    """
    shares = np.zeros(len(values), np.float32)
    for b in range(len(offsets) - 1):
        start, stop = offsets[b], offsets[b + 1]
        ox, oy, x1, y1 = _union_box(boxes, start, stop)
        if x1 < ox:
            continue
        shape = (y1 - oy + 1, x1 - ox + 1)
        total = np.zeros(shape)
        best = np.zeros(shape, np.float32)
        winner = np.full(shape, -1, np.int32)
        for k in range(start, stop):
            m = first[k]
            for y in range(boxes[k, 1], boxes[k, 3] + 1):
                for x in range(boxes[k, 0], boxes[k, 2] + 1):
                    t = values[m]
                    m += 1
                    if t > 0:
                        j, i = y - oy, x - ox
                        total[j, i] += t
                        if t > best[j, i]:
                            best[j, i] = t
                            winner[j, i] = k
        rest = image[oy : y1 + 1, ox : x1 + 1].astype(np.float64)
        for k in range(start, stop):
            m = first[k]
            for y in range(boxes[k, 1], boxes[k, 3] + 1):
                for x in range(boxes[k, 0], boxes[k, 2] + 1):
                    t = values[m]
                    if t > 0:
                        j, i = y - oy, x - ox
                        pixel = float(image[y, x])
                        if not math.isfinite(pixel):
                            shares[m] = image[y, x]
                        elif winner[j, i] != k:
                            step = quantum(pixel)
                            share = np.rint(pixel * (t / total[j, i]) / step) * step
                            shares[m] = share
                            rest[j, i] -= share
                    m += 1
        for k in range(start, stop):
            m = first[k]
            for y in range(boxes[k, 1], boxes[k, 3] + 1):
                for x in range(boxes[k, 0], boxes[k, 2] + 1):
                    if values[m] > 0 and winner[y - oy, x - ox] == k and math.isfinite(image[y, x]):
                        shares[m] = rest[y - oy, x - ox]
                    m += 1
    return shares


@njit(cache=True, nogil=True)
def template_spans(
    boxes: np.ndarray, first: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets, y, x0, x1 of the spans of the templates' footprints; an empty template has none."""
    n = 0
    for fill in range(2):
        if fill:
            y_out = np.empty(n, np.int32)
            x0_out = np.empty(n, np.int32)
            x1_out = np.empty(n, np.int32)
        offsets = np.zeros(len(boxes) + 1, np.int64)
        n = 0
        for k in range(len(boxes)):
            m = first[k]
            for y in range(boxes[k, 1], boxes[k, 3] + 1):
                if first[k] == first[k + 1]:
                    break
                inside = False
                for x in range(boxes[k, 0], boxes[k, 2] + 1):
                    member = values[m] >= 0
                    m += 1
                    if member and not inside:
                        n += 1
                        if fill:
                            y_out[n - 1] = y
                            x0_out[n - 1] = x
                    if member and fill:
                        x1_out[n - 1] = x
                    inside = member
            offsets[k + 1] = n
    return offsets, y_out, x0_out, x1_out
