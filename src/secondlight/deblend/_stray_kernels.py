"""Compiled sharing of the pixels of a blend that no template claims; the slow twin is in the tests."""

from __future__ import annotations

__all__ = ("NEAREST", "TO_FOOTPRINT", "TO_PEAK", "share_stray_pixels")

import numpy as np
from numba import njit

from ._apportion_kernels import quantum

TO_PEAK, TO_FOOTPRINT, NEAREST = 0, 1, 2


@njit(cache=True, nogil=True)
def _distance(
    x: int, y: int, start: int, stop: int, sy: np.ndarray, x0: np.ndarray, x1: np.ndarray, manhattan: bool
) -> int:
    """Return the distance of a pixel to the nearest pixel of spans: Manhattan, or squared Euclidean."""
    nearest = 1 << 60
    for s in range(start, stop):
        dy = abs(y - sy[s])
        dx = max(x0[s] - x, x - x1[s], 0)
        nearest = min(nearest, dx + dy if manhattan else dx * dx + dy * dy)
    return nearest


@njit(cache=True, nogil=True)
def _weights(
    x: int,
    y: int,
    px: np.ndarray,
    py: np.ndarray,
    spans: np.ndarray,
    sy: np.ndarray,
    x0: np.ndarray,
    x1: np.ndarray,
    rule: int,
) -> np.ndarray:
    """Return the weight of each child for a stray pixel."""
    n = len(px)
    weights = np.zeros(n)
    if rule == NEAREST:
        best, nearest = 0, 1 << 60
        for k in range(n):
            distance = _distance(x, y, spans[k], spans[k + 1], sy, x0, x1, True)
            if distance < nearest:
                best, nearest = k, distance
        weights[best] = 1.0
        return weights
    for k in range(n):
        if rule == TO_PEAK:
            r2 = (x - px[k]) ** 2 + (y - py[k]) ** 2
        else:
            r2 = _distance(x, y, spans[k], spans[k + 1], sy, x0, x1, False)
        weights[k] = 1.0 / (1.0 + r2)
    return weights


@njit(cache=True, nogil=True)
def share_stray_pixels(
    x: np.ndarray,
    y: np.ndarray,
    pixels: np.ndarray,
    px: np.ndarray,
    py: np.ndarray,
    spans: np.ndarray,
    sy: np.ndarray,
    x0: np.ndarray,
    x1: np.ndarray,
    rule: int,
    smallest: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share stray pixels among children so that the shares of each sum to it exactly.

    Parameters
    ----------
    x, y, pixels
        Position and value of the stray pixels (n).
    px, py
        Peaks of the children (m).
    spans, sy, x0, x1
        Offsets (m + 1) and spans of the children's footprints.
    rule
        `TO_PEAK`, `TO_FOOTPRINT` or `NEAREST`.
    smallest
        Shares below this fraction are dropped, and the rest is scaled up.

    Returns
    -------
    child, pixel, share
        Indices of the child and of the stray pixel, int64, and the share, float32.
    """
    child = np.empty(2 * len(x), np.int64)
    pixel = np.empty(2 * len(x), np.int64)
    share = np.empty(2 * len(x), np.float32)
    n = 0
    for p in range(len(x)):
        weights = _weights(x[p], y[p], px, py, spans, sy, x0, x1, rule)
        weights[weights < smallest * weights.sum()] = 0
        total = weights.sum()
        if not total > 0:
            continue
        largest = np.argmax(weights)
        step = quantum(float(pixels[p]))
        rest = float(pixels[p])
        needed = n + len(weights)
        if needed > len(child):
            child = np.append(child, np.empty(needed, np.int64))
            pixel = np.append(pixel, np.empty(needed, np.int64))
            share = np.append(share, np.empty(needed, np.float32))
        main = n
        for k in range(len(weights)):
            if weights[k] > 0:
                value = np.rint(pixels[p] * (weights[k] / total) / step) * step
                if k == largest:
                    main = n
                else:
                    rest -= value
                child[n] = k
                pixel[n] = p
                share[n] = value
                n += 1
        share[main] = rest
    return child[:n].copy(), pixel[:n].copy(), share[:n].copy()
