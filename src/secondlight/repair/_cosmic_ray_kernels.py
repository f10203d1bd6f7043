"""Compiled pixel loops of the cosmic-ray finder.

All images are padded with a margin of `MARGIN` pixels that are NaN (not usable), so neighbours of every true
pixel can be looked at and those outside never count.
"""

from __future__ import annotations

__all__ = ("MARGIN", "fill", "grow", "scan")

import math

import numpy as np
from numba import njit

MARGIN = 2
"""Width of the margin around padded images, pixels."""

_REACH = 64
"""How far the fill looks for a good pixel when no immediate neighbours are good, pixels."""

_TOLERANCE = 0.2
"""Share of a pixel's height by which the prediction from its neighbours may miss the peak of a star."""

# Directions in the order in which they are tried: N-S, W-E, SW-NE, NW-SE, each as one of its two steps.
_STEP_Y = np.array([1, 0, 1, 1])
_STEP_X = np.array([0, 1, 1, -1])

# Expected minimum of n standard normal deviates; index n.
_EXPECTED_MINIMUM = np.array([0.0, 0.0, -0.5641895835, -0.8462843753, -1.0293753730])


@njit(cache=True, nogil=True)
def _examine(
    image: np.ndarray,
    variance: np.ndarray,
    y: int,
    x: int,
    thresholds: np.ndarray,
    background: float,
    min_sigma: float,
    cond3_fac: float,
) -> tuple[int, int, float]:
    """Return in how many directions a pixel stands out, in how many not, and its estimate if it is too sharp.

    The estimate is the mean of the first pair of opposite neighbours for which the pixel is sharper than the
    PSF allows (NaN if none); spec reprocess 11.3, conditions 1 to 3.
    """
    value = image[y, x]
    var = variance[y, x]
    above, below, estimate = 0, 0, np.nan
    if not (value >= background and var > 0.0):
        return above, below, estimate
    sigma = math.sqrt(var)
    margin = min_sigma * sigma if min_sigma >= 0.0 else -min_sigma
    for k in range(4):
        dy, dx = _STEP_Y[k], _STEP_X[k]
        mean = 0.5 * (image[y - dy, x - dx] + image[y + dy, x + dx])
        if value >= mean + margin:
            above += 1
        elif value < mean + margin:
            below += 1
    if above == 0:
        return above, below, estimate
    for k in range(4):
        dy, dx = _STEP_Y[k], _STEP_X[k]
        mean = 0.5 * (image[y - dy, x - dx] + image[y + dy, x + dx])
        noise = cond3_fac * math.sqrt(variance[y - dy, x - dx] + variance[y + dy, x + dx]) / 2.0
        if thresholds[k] * (value - background - cond3_fac * sigma) > mean - background + noise:
            estimate = mean
            break
    return above, below, estimate


@njit(cache=True, nogil=True)
def scan(
    image: np.ndarray,
    variance: np.ndarray,
    blocked: np.ndarray,
    thresholds: np.ndarray,
    background: float,
    min_sigma: float,
    cond3_fac: float,
    limit: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosmic-ray pixels (y, x) of an image, looked at in raster order.

    Each hit is replaced at once by its estimate, so the pixels after it see the cleaned image.

    Parameters
    ----------
    image
        Padded pixels, float32 (h, w), counts; hits are replaced in place.
    variance
        Padded variance, float32 (h, w), counts**2.
    blocked
        Padded pixels that cannot be hits, bool (h, w).
    thresholds
        Largest allowed ratio of neighbours to peak for the directions N-S, W-E, SW-NE, NW-SE, float64 (4).
    background
        Level under the sources, counts.
    min_sigma
        Sigmas (or, if negative, minus the counts) that a hit is above the mean of two opposite neighbours.
    cond3_fac
        Sigmas of benefit of the doubt in the sharpness test.
    limit
        The scan stops after limit + 1 hits.
    """
    ys, xs = [0 for _ in range(0)], [0 for _ in range(0)]
    height, width = image.shape
    stands_out = np.zeros(width, dtype=np.bool_)
    for y in range(MARGIN, height - MARGIN):
        if not _mark_row(image, variance, blocked, y, background, min_sigma, stands_out):
            continue
        changed = False
        for x in range(MARGIN, width - MARGIN):
            # The row was looked at before the hits in it were replaced.
            if not (stands_out[x] or (changed and not blocked[y, x])):
                changed = False
                continue
            above, _, estimate = _examine(image, variance, y, x, thresholds, background, min_sigma, cond3_fac)
            changed = above > 0 and not math.isnan(estimate)
            if not changed:
                continue
            image[y, x] = estimate
            ys.append(y)
            xs.append(x)
            if len(ys) > limit:
                return np.array(ys), np.array(xs)
    return np.array(ys), np.array(xs)


@njit(cache=True, nogil=True)
def _mark_row(
    image: np.ndarray,
    variance: np.ndarray,
    blocked: np.ndarray,
    y: int,
    background: float,
    min_sigma: float,
    stands_out: np.ndarray,
) -> bool:
    """Mark the pixels of a row that stand out in some direction, bool (w); return whether there are any.

    These are the conditions of `_examine` before the one on sharpness, without branches: nearly all pixels of
    an image end here.
    """
    found = False
    fixed = 0.0 if min_sigma >= 0.0 else -min_sigma
    factor = max(min_sigma, 0.0)
    for x in range(MARGIN, image.shape[1] - MARGIN):
        lowest = np.float32(np.inf)
        for k in range(4):
            dy, dx = _STEP_Y[k], _STEP_X[k]
            total = image[y - dy, x - dx] + image[y + dy, x + dx]
            lowest = total if total < lowest else lowest
        value, var = image[y, x], variance[y, x]
        # Rounding keeps order, so the pair with the smallest mean passes if any does.
        high = value >= 0.5 * lowest + (factor * np.sqrt(var) + fixed)
        marked = high & (value >= background) & (var > 0.0) & (not blocked[y, x])
        stands_out[x] = marked
        found |= marked
    return found


@njit(cache=True, nogil=True)
def _predict(
    image: np.ndarray, variance: np.ndarray, y: int, x: int, k: int, weights: np.ndarray
) -> tuple[float, float]:
    """Return what two pixels on either side of a pixel in direction k predict for it, and the variance."""
    near, far = weights[0 if k < 2 else 1]
    total, var = 0.0, 0.0
    for step, weight in ((1, near), (2, far), (-1, near), (-2, far)):
        v, u = y + step * _STEP_Y[k], x + step * _STEP_X[k]
        total += weight * image[v, u]
        var += weight * weight * variance[v, u]
    return total, var


@njit(cache=True, nogil=True)
def _exceeds_predictions(
    image: np.ndarray,
    variance: np.ndarray,
    y: int,
    x: int,
    background: float,
    min_sigma: float,
    weights: np.ndarray,
) -> float:
    """Return the lowest prediction of a pixel that is above them in all directions but one, else NaN.

    The predictions follow the light of a star, so a ray shows although it is no sharper than the star.
    """
    value, var = np.float64(image[y, x]), np.float64(variance[y, x])
    above, below, lowest = 0, 0, np.inf
    for k in range(4):
        total, noise = _predict(image, variance, y, x, k, weights)
        margin = min_sigma * math.sqrt(var + noise) if min_sigma >= 0.0 else -min_sigma
        margin += _TOLERANCE * (value - background)
        if value - total >= margin:
            above += 1
            lowest = min(lowest, total)
        elif value - total < margin:
            below += 1
    return lowest if above >= 2 and below <= 1 else np.nan


@njit(cache=True, nogil=True)
def grow(
    image: np.ndarray,
    variance: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    thresholds: np.ndarray,
    background: float,
    min_sigma: float,
    weights: np.ndarray,
) -> np.ndarray:
    """Return which neighbours (y, x) of cosmic rays belong to them, bool (n); estimates replace them.

    A neighbour is added if it stands out in all directions but at most one, namely the one in which it has
    other pixels of the same ray for neighbours, and is either too sharp (without benefit of the doubt) or
    higher than the light around it predicts.  ``weights`` are those of `fill`.
    """
    added = np.zeros(len(ys), dtype=np.bool_)
    for i in range(len(ys)):
        y, x = ys[i], xs[i]
        above, below, estimate = _examine(image, variance, y, x, thresholds, background, min_sigma, 0.0)
        if above == 0 or below > 1:
            continue
        if math.isnan(estimate):
            estimate = _exceeds_predictions(image, variance, y, x, background, min_sigma, weights)
        if not math.isnan(estimate):
            image[y, x] = estimate
            added[i] = True
    return added


@njit(cache=True, nogil=True)
def fill(
    image: np.ndarray,
    variance: np.ndarray,
    usable: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    weights: np.ndarray,
    background: float,
) -> np.ndarray:
    """Return new values of the pixels (y, x), float32 (n), from usable pixels around them.

    Each direction with two usable pixels on either side gives a linear prediction; predictions below the
    background by more than two sigmas are dropped.  The smallest one is taken (it has least of the ray's own
    light), corrected for being the smallest of several noisy numbers.  Without any prediction, the nearest
    usable pixels in eight directions are averaged with weights 1 / d**2; without these, the background.

    Parameters
    ----------
    image, variance
        Padded pixels and variance (h, w).
    usable
        Padded pixels that may be used, bool (h, w).
    ys, xs
        Pixels to fill, int64 (n).
    weights
        Weights of the pixels one and two steps away, along rows and columns and along diagonals,
        float64 (2, 2); each row sums to 1/2.
    background
        Level under the sources, counts.
    """
    values = np.empty(len(ys), dtype=np.float32)
    for i in range(len(ys)):
        y, x = ys[i], xs[i]
        n, lowest, noise = 0, np.inf, 0.0
        for k in range(4):
            total, var = _predict(image, variance, y, x, k, weights)
            dy, dx = _STEP_Y[k], _STEP_X[k]
            complete = True
            for step in (1, 2, -1, -2):
                complete = complete and usable[y + step * dy, x + step * dx]
            sigma = math.sqrt(max(var, 0.0))
            if complete and total > background - 2.0 * sigma:
                n += 1
                lowest = min(lowest, total)
                noise += sigma
        if n > 0:
            values[i] = lowest - _EXPECTED_MINIMUM[n] * noise / n
        else:
            values[i] = _nearest_mean(image, usable, y, x, background)
    return values


@njit(cache=True, nogil=True)
def _nearest_mean(image: np.ndarray, usable: np.ndarray, y: int, x: int, default: float) -> float:
    """Return the mean of the nearest usable pixels in eight directions with weights 1 / d**2."""
    height, width = image.shape
    total, weight = 0.0, 0.0
    for k in range(4):
        for sign in (-1, 1):
            for step in range(1, _REACH + 1):
                v, u = y + sign * step * _STEP_Y[k], x + sign * step * _STEP_X[k]
                if not (0 <= v < height and 0 <= u < width):
                    break
                if usable[v, u]:
                    w = 1.0 / (step * step * (_STEP_Y[k] ** 2 + _STEP_X[k] ** 2))
                    total += w * image[v, u]
                    weight += w
                    break
    return total / weight if weight > 0.0 else default
