"""Compiled loop that makes the templates of all peaks, each in a window that grows until it holds it."""

from __future__ import annotations

__all__ = ("extended_template", "make_all", "point_template")

import math

import numpy as np
from numba import njit

from ._template_kernels import (
    OUTSIDE,
    cut_to_nonzero,
    median_smooth,
    monotonic,
    ramp_image,
    ramped_template,
    symmetric_template,
    template_edge,
)

CLIP, RAMP, NO_CLIP = 0, 1, 2

_FIRST_HALF = 20
"""Half-side of the first window of a template (a multiple of the rings between two refreshes)."""

_SMALLEST_LIMIT = 40
"""Half-side that every template may have, however many there are."""

_FAINTEST_OF_PEAK = 1e-4
_FAINTEST_OF_NOISE = 0.1
"""A point source claims pixels where its model exceeds one of these fractions."""

_BLEND_PIXELS = 8_000_000
"""Pixels that the windows of one blend may have together, beyond the smallest limit of each."""


@njit(cache=True, nogil=True)
def point_template(
    owner: np.ndarray, row: int, flux: float, psf: np.ndarray, x0: int, y0: int, sigma: float
) -> tuple[np.ndarray, int, int]:
    """Return a point source inside its footprint, and the array index of the first pixel of the window.

    Pixels that are faint both against its peak and against the noise ``sigma`` are left to others.
    """
    faintest = _FAINTEST_OF_PEAK * flux * psf.max()
    if math.isfinite(sigma):
        faintest = min(faintest, _FAINTEST_OF_NOISE * sigma)
    height, width = owner.shape
    template = np.full(psf.shape, OUTSIDE, np.float32)
    for j in range(max(0, -y0), min(psf.shape[0], height - y0)):
        for i in range(max(0, -x0), min(psf.shape[1], width - x0)):
            if owner[y0 + j, x0 + i] == row and flux * psf[j, i] >= faintest:
                template[j, i] = np.float32(flux * psf[j, i])
    return template, x0, y0


@njit(cache=True, nogil=True)
def _touches(template: np.ndarray, ys: np.ndarray, xs: np.ndarray, threshold: float) -> bool:
    """Whether a template is bright where its footprint ends."""
    brightest = np.float32(0.0)
    for k in range(len(ys)):
        brightest = max(brightest, template[ys[k], xs[k]])
    return bool(brightest >= threshold)


@njit(cache=True, nogil=True)
def extended_template(
    image: np.ndarray,
    owner: np.ndarray,
    row: int,
    box: np.ndarray,
    cx: int,
    cy: int,
    psf: np.ndarray,
    fwhm: float,
    sigma: float,
    edges: int,
    smooth: bool,
    largest: int,
) -> tuple[np.ndarray, bool, bool, bool]:
    """Return the template of an extended source: symmetric, smooth, falling outward.

    Parameters
    ----------
    image, owner
        Pixels, and the footprint row each belongs to (h, w).
    row, box
        Row of the blend and its inclusive box (x0, y0, x1, y1).
    cx, cy
        Pixel of the peak.
    psf, fwhm
        PSF image at the peak and its width, pixels.
    sigma
        Noise per pixel.
    edges
        `CLIP`, `RAMP` or `NO_CLIP`.
    smooth
        Whether to smooth by a median.
    largest
        Largest half-side of the window.

    Returns
    -------
    template, ramped, patched, cut
        Window about the peak; whether the template was extended by the PSF, has copied pixels, or ends at the
        largest window although it may reach farther.
    """
    growth = int((1.5 * fwhm + 0.5) / 2) * 2 + 1
    margin = growth + 2 * 5
    low_x, high_x = cx - box[0], box[2] - cx
    low_y, high_y = cy - box[1], box[3] - cy
    reach_x, reach_y = min(low_x, high_x), min(low_y, high_y)
    if edges == NO_CLIP:
        reach_x, reach_y = max(low_x, high_x), max(low_y, high_y)
    half = min(_FIRST_HALF, largest)
    while True:
        bound_x, bound_y = reach_x, reach_y
        ex, ey = min(bound_x, half + margin), min(bound_y, half + margin)
        template, patched = symmetric_template(image, owner, row, cx, cy, ex, ey, edges == NO_CLIP)
        ramped = False
        if edges == RAMP:
            ys, xs = template_edge(template, ex < bound_x, ey < bound_y)
            if _touches(template, ys, xs, 3 * sigma):
                ramped = True
                bound_x, bound_y = reach_x + growth, reach_y + growth
                ex, ey = min(bound_x, half + margin), min(bound_y, half + margin)
                ramp = ramp_image(template, ys, xs, psf, growth, ex, ey)
                template = ramped_template(image, owner, row, cx, cy, ex, ey, growth, ramp)
        if smooth:
            template = median_smooth(template)
        dark = monotonic(template)
        whole = ex == bound_x and ey == bound_y
        if whole or 0 <= dark <= half:
            return template, ramped, patched, False
        if half == largest:
            inner_x, inner_y = min(ex, half), min(ey, half)
            inner = template[ey - inner_y : ey + inner_y + 1, ex - inner_x : ex + inner_x + 1].copy()
            return inner, ramped, patched, True
        half = min(2 * half, largest)


@njit(cache=True, nogil=True)
def _claim(owner: np.ndarray, row: int, template: np.ndarray, x0: int, y0: int) -> None:
    """Mark pixels outside all footprints that a template was extended over."""
    for j in range(template.shape[0]):
        for i in range(template.shape[1]):
            if template[j, i] >= 0 and owner[y0 + j, x0 + i] == -1:
                owner[y0 + j, x0 + i] = -2 - row


@njit(cache=True, nogil=True)
def _single_pixel(image: np.ndarray, x: int, y: int) -> np.ndarray:
    """Return a template that claims one pixel, more than nothing even where the image is negative."""
    value = image[y, x]
    tiny = np.float32(1e-30)
    return np.full((1, 1), max(value, tiny) if math.isfinite(value) else tiny, np.float32)


@njit(cache=True, nogil=True)
def make_all(
    image: np.ndarray,
    owner: np.ndarray,
    rows: np.ndarray,
    boxes: np.ndarray,
    offsets: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    is_point: np.ndarray,
    flux: np.ndarray,
    point_psf: np.ndarray,
    point_x: np.ndarray,
    point_y: np.ndarray,
    psf: np.ndarray,
    fwhm: np.ndarray,
    sigma: float,
    edges: int,
    smooth: bool,
    keep_all: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Make the templates of all peaks of all blends.

    Parameters
    ----------
    image, owner
        Pixels, and the footprint row each belongs to (h, w); pixels that templates are extended over are
        marked in ``owner``, so that blends never share one.
    rows, boxes, offsets, fwhm
        Footprint row, box, first peak and PSF width of each blend.
    x, y, is_point, flux
        Pixel of each peak; whether it is a point source, and its flux.
    point_psf, point_x, point_y
        PSF image at the position of each point source and the array index of its first pixel.
    psf
        PSF image at each peak.
    sigma, edges, smooth
        See `extended_template`.
    keep_all
        Whether a peak without a template gets its own pixel.

    Returns
    -------
    boxes
        Inclusive boxes of the templates, int64 (n, 4); x1 < x0 if a peak has none.
    first, values
        Where the values of each template start, int64 (n + 1), and the values, row by row, float32.
    flags
        Whether a template was extended, patched, cut at the largest window, bool (n, 3).
    """
    n = offsets[-1]
    height, width = image.shape
    out_boxes = np.empty((n, 4), np.int64)
    first = np.zeros(n + 1, np.int64)
    values = np.empty(1 << 16, np.float32)
    flags = np.zeros((n, 3), np.bool_)
    used = 0
    for b in range(len(rows)):
        budget = float(_BLEND_PIXELS)
        for k in range(offsets[b], offsets[b + 1]):
            owned = 0 <= x[k] < width and 0 <= y[k] < height and owner[y[k], x[k]] == rows[b]
            if not owned:
                template, x0, y0 = np.full((1, 1), OUTSIDE, np.float32), 0, 0
            elif is_point[k]:
                template, x0, y0 = point_template(
                    owner, rows[b], flux[k], point_psf[k], point_x[k], point_y[k], sigma
                )
            else:
                largest = max(_SMALLEST_LIMIT, int(math.sqrt(budget / 8)))
                template, ramped, patched, cut = extended_template(
                    image,
                    owner,
                    rows[b],
                    boxes[b],
                    x[k],
                    y[k],
                    psf[k],
                    fwhm[b],
                    sigma,
                    edges,
                    smooth,
                    largest,
                )
                x0, y0 = x[k] - template.shape[1] // 2, y[k] - template.shape[0] // 2
                flags[k] = (ramped, patched, cut)
            left, bottom, right, top = cut_to_nonzero(template)
            if flags[k, 0]:
                _claim(owner, rows[b], template, x0, y0)
            if right < left and keep_all and owned:
                template, x0, y0 = _single_pixel(image, x[k], y[k]), x[k], y[k]
                left, bottom, right, top = 0, 0, 0, 0
            out_boxes[k] = (x0 + left, y0 + bottom, x0 + right, y0 + top)
            part = template[bottom : top + 1, left : right + 1] if right >= left else template[:0]
            if used + part.size > len(values):
                larger = np.empty(used + part.size + len(values) // 2, np.float32)
                larger[:used] = values[:used]
                values = larger
            values[used : used + part.size] = part.copy().ravel()
            used += part.size
            first[k + 1] = used
            budget = max(0.0, budget - part.size)
    return out_boxes, first, values[:used].copy(), flags
