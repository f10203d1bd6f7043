"""Compiled steps that make one template about a peak; the slow twins are in the tests.

A window is an array of odd sides (2 ey + 1, 2 ex + 1) with the peak in its middle.  In a template window,
pixels outside the template's footprint hold `OUTSIDE`, all others a value >= 0.
"""

from __future__ import annotations

__all__ = (
    "OUTSIDE",
    "cut_to_nonzero",
    "median_smooth",
    "monotonic",
    "ramp_image",
    "ramped_template",
    "symmetric_template",
    "template_edge",
)

import math

import numpy as np
from numba import njit

OUTSIDE = np.float32(-1.0)

_CHUNK = 5
"""Rings between two refreshes of the values that cast shadows, and the length of a shadow."""

_WEDGE = 0.3
_MEDIAN_HALF = 2
_MEDIAN_SIZE = 25
_BLOCK = 256


@njit(cache=True, nogil=True)
def _value(image: np.ndarray, x: int, y: int) -> np.float32:
    """Return a pixel, 0 if it is not finite."""
    value = image[y, x]
    return value if math.isfinite(value) else np.float32(0.0)


@njit(cache=True, nogil=True)
def symmetric_template(
    image: np.ndarray, owner: np.ndarray, row: int, cx: int, cy: int, ex: int, ey: int, patch: bool
) -> tuple[np.ndarray, bool]:
    """Return the smaller of each pixel and its mirror about the peak, and whether any pixel is patched.

    Parameters
    ----------
    image, owner
        Pixels, and the footprint row each belongs to (h, w).
    row
        Row of the blend.
    cx, cy
        Pixel of the peak.
    ex, ey
        Half-sizes of the window.
    patch
        Whether pixels whose mirror is outside the image stand for themselves.
    """
    height, width = image.shape
    template = np.full((2 * ey + 1, 2 * ex + 1), OUTSIDE, np.float32)
    patched = False
    for j in range(max(-ey, -cy), min(ey, height - 1 - cy) + 1):
        for i in range(max(-ex, -cx), min(ex, width - 1 - cx) + 1):
            if owner[cy + j, cx + i] != row:
                continue
            value = max(np.float32(0.0), _value(image, cx + i, cy + j))
            x, y = cx - i, cy - j
            if 0 <= x < width and 0 <= y < height:
                if owner[y, x] == row:
                    mirrored = max(np.float32(0.0), _value(image, x, y))
                    template[ey + j, ex + i] = min(value, mirrored)
            elif patch:
                template[ey + j, ex + i] = value
                patched = True
    return template, patched


@njit(cache=True, nogil=True)
def template_edge(template: np.ndarray, open_x: bool, open_y: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the window indices (y, x) of template pixels with a side neighbour outside the template.

    Parameters
    ----------
    template
        Template window.
    open_x, open_y
        Whether the template goes on beyond the window, so that nothing is known about pixels at its border.
    """
    height, width = template.shape
    ys = np.empty(height * width, np.int64)
    xs = np.empty(height * width, np.int64)
    n = 0
    for j in range(height):
        for i in range(width):
            at_x, at_y = i == 0 or i == width - 1, j == 0 or j == height - 1
            if template[j, i] < 0 or (at_x and open_x) or (at_y and open_y):
                continue
            if (
                at_x
                or at_y
                or template[j - 1, i] < 0
                or template[j + 1, i] < 0
                or template[j, i - 1] < 0
                or template[j, i + 1] < 0
            ):
                ys[n] = j
                xs[n] = i
                n += 1
    return ys[:n].copy(), xs[:n].copy()


@njit(cache=True, nogil=True)
def ramp_image(
    template: np.ndarray, ys: np.ndarray, xs: np.ndarray, psf: np.ndarray, radius: int, ex: int, ey: int
) -> np.ndarray:
    """Return, in a window of half-sizes (ex, ey), the brightest PSF wing that any edge pixel throws.

    Parameters
    ----------
    template
        Template window with the edge pixels.
    ys, xs
        Its edge pixels.
    psf
        PSF image with its centre in the middle (h, w).
    radius
        Half-side of the part of the PSF image that is used.
    """
    oy, ox = ey - template.shape[0] // 2, ex - template.shape[1] // 2
    hy, hx = psf.shape[0] // 2, psf.shape[1] // 2
    ry, rx = min(radius, hy), min(radius, hx)
    top = psf.max()
    ramp = np.zeros((2 * ey + 1, 2 * ex + 1), np.float32)
    for k in range(len(ys)):
        value = template[ys[k], xs[k]] / top
        jc, ic = ys[k] + oy, xs[k] + ox
        for j in range(max(jc - ry, 0), min(jc + ry, 2 * ey) + 1):
            for i in range(max(ic - rx, 0), min(ic + rx, 2 * ex) + 1):
                ramp[j, i] = max(ramp[j, i], np.float32(value * psf[hy + j - jc, hx + i - ic]))
    return ramp


@njit(cache=True, nogil=True)
def _dilated(owner: np.ndarray, row: int, cx: int, cy: int, ex: int, ey: int, radius: int) -> np.ndarray:
    """Return which pixels of a window lie within a circle stencil of the footprint, bool."""
    height, width = owner.shape
    result = np.zeros((2 * ey + 1, 2 * ex + 1), np.bool_)
    for y in range(max(0, cy - ey - radius), min(height - 1, cy + ey + radius) + 1):
        for x in range(max(0, cx - ex - radius), min(width - 1, cx + ex + radius) + 1):
            if owner[y, x] != row:
                continue
            interior = (
                0 < y < height - 1
                and 0 < x < width - 1
                and owner[y - 1, x] == row
                and owner[y + 1, x] == row
                and owner[y, x - 1] == row
                and owner[y, x + 1] == row
            )
            # The stencils of the edge pixels and the footprint itself cover all that the stencils of all do.
            reach = 0 if interior else radius
            for dy in range(-reach, reach + 1):
                j = y + dy - cy + ey
                if j < 0 or j > 2 * ey:
                    continue
                half = int(math.sqrt(reach * reach - dy * dy))
                for i in range(max(x - half - cx + ex, 0), min(x + half - cx + ex, 2 * ex) + 1):
                    result[j, i] = True
    return result


@njit(cache=True, nogil=True)
def ramped_template(
    image: np.ndarray,
    owner: np.ndarray,
    row: int,
    cx: int,
    cy: int,
    ex: int,
    ey: int,
    radius: int,
    ramp: np.ndarray,
) -> np.ndarray:
    """Return the symmetric template of a footprint grown by ``radius``, with a ramp where there is no pixel.

    Pixels of other footprints are neither used nor claimed; see `symmetric_template` for the parameters.
    """
    height, width = image.shape
    grown = _dilated(owner, row, cx, cy, ex, ey, radius)
    free = np.zeros(grown.shape, np.bool_)
    values = ramp.copy()
    for j in range(max(-ey, -cy), min(ey, height - 1 - cy) + 1):
        for i in range(max(-ex, -cx), min(ex, width - 1 - cx) + 1):
            label = owner[cy + j, cx + i]
            if label == row or label == -1 or label == -2 - row:
                free[ey + j, ex + i] = True
                value = _value(image, cx + i, cy + j)
                if grown[ey + j, ex + i] and value != 0:
                    values[ey + j, ex + i] = value
    template = np.full(grown.shape, OUTSIDE, np.float32)
    for j in range(2 * ey + 1):
        for i in range(2 * ex + 1):
            if free[j, i] and grown[j, i] and grown[2 * ey - j, 2 * ex - i]:
                smaller = min(values[j, i], values[2 * ey - j, 2 * ex - i])
                template[j, i] = max(np.float32(0.0), smaller)
    return template


@njit(cache=True, nogil=True)
def _box_of_footprint(template: np.ndarray) -> tuple[int, int, int, int]:
    """Return the inclusive box (x0, y0, x1, y1) of a template's footprint; x1 < x0 if it is empty."""
    height, width = template.shape
    x0, y0, x1, y1 = width, height, -1, -1
    for j in range(height):
        for i in range(width):
            if template[j, i] >= 0:
                x0, x1 = min(x0, i), max(x1, i)
                y0, y1 = min(y0, j), max(y1, j)
    return x0, y0, x1, y1


@njit(cache=True, nogil=True)
def _medians(work: np.ndarray, samples: np.ndarray, n: int) -> np.ndarray:
    """Return the medians of n sets of 25 samples (25, n) by dropping extremes from a growing set."""
    size = _MEDIAN_SIZE // 2 + 2
    for e in range(size):
        for p in range(n):
            work[e, p] = samples[e, p]
    following = size
    while True:
        first = work[0]
        for e in range(1, size):
            other = work[e]
            for p in range(n):
                a, b = first[p], other[p]
                first[p] = a if a < b else b
                other[p] = b if a < b else a
        last = work[size - 1]
        for e in range(1, size - 1):
            other = work[e]
            for p in range(n):
                a, b = other[p], last[p]
                other[p] = a if a < b else b
                last[p] = b if a < b else a
        if following == _MEDIAN_SIZE:
            break
        for p in range(n):
            first[p] = samples[following, p]
        following += 1
        size -= 1
    return work[1, :n].copy()


@njit(cache=True, nogil=True)
def median_smooth(template: np.ndarray) -> np.ndarray:
    """Return a template with 5 x 5 medians inside the box of its footprint; a margin of 2 pixels is kept.

    Pixels outside the footprint count as 0.
    """
    result = template.copy()
    x0, y0, x1, y1 = _box_of_footprint(template)
    half = _MEDIAN_HALF
    width = template.shape[1]
    flat, out = template.ravel(), result.ravel()
    work = np.empty((_MEDIAN_SIZE // 2 + 2, _BLOCK), np.float32)
    samples = np.empty((_MEDIAN_SIZE, _BLOCK), np.float32)
    where = np.empty(_BLOCK, np.int64)
    n = 0
    for j in range(y0 + half, y1 - half + 1):
        for i in range(x0 + half, x1 - half + 1):
            if template[j, i] < 0:
                continue
            positive = 0
            e = 0
            for dy in range(-half, half + 1):
                start = (j + dy) * width + i
                for dx in range(-half, half + 1):
                    value = max(flat[start + dx], np.float32(0.0))
                    positive += value > 0
                    samples[e, n] = value
                    e += 1
            if positive <= _MEDIAN_SIZE // 2:
                result[j, i] = 0
                continue
            where[n] = j * width + i
            n += 1
            if n == _BLOCK:
                out[where] = _medians(work, samples, n)
                n = 0
    if n:
        out[where[:n]] = _medians(work, samples, n)
    return result


@njit(cache=True, nogil=True)
def _round(value: float) -> int:
    """Round halves away from zero."""
    return math.floor(value + 0.5) if value >= 0 else -math.floor(0.5 - value)


@njit(cache=True, nogil=True)
def _cast_shadow(template: np.ndarray, value: float, dx: int, dy: int) -> None:
    """Limit the pixels behind the one at (dx, dy) from the middle to its value."""
    height, width = template.shape
    along_x = abs(dx) >= abs(dy)
    major, minor = (dx, dy) if along_x else (dy, dx)
    step = 1 if major > 0 else -1
    slope = minor / abs(major)
    y, x = height // 2 + dy, width // 2 + dx
    for k in range(1, _CHUNK + 1):
        for t in range(_round(k * (slope - _WEDGE)), _round(k * (slope + _WEDGE)) + 1):
            if along_x:
                i, j = x + step * k, y + t
            else:
                i, j = x + t, y + step * k
            if 0 <= i < width and 0 <= j < height and template[j, i] > value:
                template[j, i] = value


@njit(cache=True, nogil=True)
def _ring_is_dark(template: np.ndarray, ring: int) -> bool:
    """Whether no pixel at this distance (largest coordinate) from the middle is positive."""
    height, width = template.shape
    cy, cx = height // 2, width // 2
    for j in range(max(-ring, -cy), min(ring, cy) + 1):
        if abs(j) == ring:
            for i in range(max(-ring, -cx), min(ring, cx) + 1):
                if template[cy + j, cx + i] > 0:
                    return False
        elif ring <= cx and (template[cy + j, cx - ring] > 0 or template[cy + j, cx + ring] > 0):
            return False
    return True


@njit(cache=True, nogil=True)
def _cast_ring(template: np.ndarray, source: np.ndarray, ring: int) -> None:
    """Let all pixels of a square ring cast shadows; their values come from ``source``, the middle part."""
    cy, cx = source.shape[0] // 2, source.shape[1] // 2
    for j in range(max(-ring, -cy), min(ring, cy) + 1):
        step = 1 if abs(j) == ring else 2 * ring
        for i in range(-ring, ring + 1, step):
            if abs(i) <= cx:
                _cast_shadow(template, max(source[cy + j, cx + i], np.float32(0.0)), i, j)


@njit(cache=True, nogil=True)
def monotonic(template: np.ndarray) -> int:
    """Make a template fall outward from its middle, in place; return the first dark ring, or -1.

    Rings are walked in chunks of five, and every ring from a dark one at the start of a chunk on is dark.
    """
    height, width = template.shape
    cy, cx = height // 2, width // 2
    last = max(cx, cy)
    for start in range(0, last + 1, _CHUNK):
        if start and _ring_is_dark(template, start):
            for j in range(height):
                for i in range(width):
                    if max(abs(j - cy), abs(i - cx)) > start and template[j, i] > 0:
                        template[j, i] = 0
            return start
        end = min(start + _CHUNK - 1, last)
        ey, ex = min(end, cy), min(end, cx)
        source = template[cy - ey : cy + ey + 1, cx - ex : cx + ex + 1].copy()
        for ring in range(max(start, 1), end + 1):
            _cast_ring(template, source, ring)
    return -1


@njit(cache=True, nogil=True)
def cut_to_nonzero(template: np.ndarray) -> tuple[int, int, int, int]:
    """Cut each run of pixels to its first and last non-zero one, in place; return the box that is left."""
    height, width = template.shape
    for j in range(height):
        i = 0
        while i < width:
            if template[j, i] < 0:
                i += 1
                continue
            start = i
            while i < width and template[j, i] >= 0:
                i += 1
            stop = i
            while start < stop and template[j, start] == 0:
                template[j, start] = OUTSIDE
                start += 1
            while stop > start and template[j, stop - 1] == 0:
                stop -= 1
                template[j, stop] = OUTSIDE
    return _box_of_footprint(template)
