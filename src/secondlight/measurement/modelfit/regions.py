"""Which pixels of a source a galaxy model is fitted to (spec finalize 8.11)."""

from __future__ import annotations

__all__ = (
    "BAD_PIXELS",
    "FOOTPRINT_AREA",
    "MAX_AREA",
    "MAX_ELLIPSE",
    "MIN_ELLIPSE",
    "PSF_AREA",
    "RegionSettings",
    "final_ellipse",
    "initial_ellipse",
    "is_ellipse",
    "make_region",
    "select_pixels",
    "set_weights",
)

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from ..pixels import SourcePixels
from .mixtures import PixelRegion

MAX_AREA, BAD_PIXELS, FOOTPRINT_AREA, PSF_AREA, MIN_ELLIPSE, MAX_ELLIPSE = 1, 2, 4, 8, 16, 32


class RegionSettings(NamedTuple):
    """Settings of the regions, named in spec finalize 8.11."""

    kron_radii: float
    psf_sigma_min: float
    psf_sigma_grow: float
    fit_radii_min: float
    fit_radii_max: float
    max_area: int
    max_bad_fraction: float


def make_region(shape: tuple[int, int], max_area: int) -> PixelRegion:
    """Return room for any region of an image of some shape (h, w) that is not too large."""
    height, width = shape
    size = min(height * width, max_area + 4 * (height + width))
    return PixelRegion(
        counts=np.zeros(3, dtype=np.int64),
        row_y=np.empty(height, dtype=np.int64),
        row_x=np.empty(height, dtype=np.int64),
        row_start=np.empty(height + 1, dtype=np.int64),
        data=np.empty(size),
        variance=np.empty(size),
        good=np.empty(size),
        weight=np.empty(size),
        dx=np.empty(size),
        dy=np.empty(size),
        gaussian=np.empty(size),
        kept=np.empty(size),
        models=np.empty((2, 4, size)),
    )


@njit(cache=True, nogil=True)
def _determinant(moments: np.ndarray) -> float:
    return float(moments[0] * moments[1] - moments[2] * moments[2])


@njit(cache=True, nogil=True)
def is_ellipse(moments: np.ndarray) -> bool:
    """Return whether moments ``xx, yy, xy`` are finite and positive definite."""
    finite = np.isfinite(moments[0]) and np.isfinite(moments[1]) and np.isfinite(moments[2])
    return finite and moments[0] > 0.0 and moments[1] > 0.0 and _determinant(moments) > 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def initial_ellipse(
    settings: RegionSettings,
    moments: np.ndarray,
    psf_moments: np.ndarray,
    kron_radius: float,
    footprint_area: float,
    ellipse: np.ndarray,
) -> int:
    """Fill the ellipse (moments, 3) of the initial region; return how it was chosen.

    It has the shape of the source and some Kron radii, but if that is too small or not known, that of the
    PSF and the area of the footprint.
    """
    least = settings.psf_sigma_min**2 * math.sqrt(_determinant(psf_moments))
    if kron_radius > 0.0 and is_ellipse(moments):
        size = (settings.kron_radii * kron_radius) ** 2
        if size >= least:
            ellipse[:] = moments * (size / math.sqrt(_determinant(moments)))
            return 0
    size = footprint_area / math.pi
    chosen = FOOTPRINT_AREA
    if not size >= least:
        size, chosen = least, PSF_AREA
    ellipse[:] = psf_moments * (size / math.sqrt(_determinant(psf_moments)))
    return chosen


@njit(cache=True, nogil=True, error_model="numpy")
def final_ellipse(
    settings: RegionSettings,
    fitted: np.ndarray,
    psf_moments: np.ndarray,
    initial: np.ndarray,
    ellipse: np.ndarray,
) -> int:
    """Fill the ellipse (moments, 3) of the final region; return how its size was limited.

    It is the half-light ellipse of the initial fit, enlarged so that together with some radii of the PSF it
    has the area of the initial region.
    """
    psf = settings.psf_sigma_grow**2 * psf_moments
    a = _determinant(fitted)
    b = fitted[0] * psf[1] + fitted[1] * psf[0] - 2.0 * fitted[2] * psf[2]
    c = _determinant(psf) - _determinant(initial)
    # det(square * fitted + psf) = det(initial); the form of the root that stays exact for a small fit.
    square = 0.0
    if c < 0.0:
        denominator = b + math.sqrt(b * b - 4.0 * a * c)
        square = -2.0 * c / denominator if denominator > 0.0 else np.inf
    radii = math.sqrt(square)
    limited = 0
    if radii < settings.fit_radii_min:
        radii, limited = settings.fit_radii_min, MIN_ELLIPSE
    elif radii > settings.fit_radii_max:
        radii, limited = settings.fit_radii_max, MAX_ELLIPSE
    ellipse[:] = radii * radii * fitted + psf
    return limited


@njit(cache=True, nogil=True, error_model="numpy")
def select_pixels(
    pixels: SourcePixels,
    bad: np.ndarray,
    settings: RegionSettings,
    x: float,
    y: float,
    ellipse: np.ndarray,
    region: PixelRegion,
) -> int:
    """Collect the pixels inside an ellipse; return what is wrong with them, or 0.

    Parameters
    ----------
    pixels
        Image and variance.
    bad
        Pixels to leave out, bool (h, w).  Those outside the image or without a usable value count as bad.
    settings
        Limits of area and bad pixels.
    x, y
        Centre, parent pixels.
    ellipse
        Moments ``xx, yy, xy``.
    region
        Filled.
    """
    region.counts[:] = 0
    if not math.pi * math.sqrt(_determinant(ellipse)) <= settings.max_area:
        return MAX_AREA
    height, width = pixels.image.shape
    slope = ellipse[2] / ellipse[1]
    square = ellipse[0] - ellipse[2] * slope
    reach = math.sqrt(ellipse[1])
    rows = used = good = inside = 0
    for py in range(math.ceil(y - reach), math.floor(y + reach) + 1):
        dy = py - y
        half = math.sqrt(max(square * (1.0 - dy * dy / ellipse[1]), 0.0))
        first = math.ceil(x + slope * dy - half)
        last = math.floor(x + slope * dy + half)
        inside += max(last - first + 1, 0)
        first, last = max(first, pixels.x0), min(last, pixels.x0 + width - 1)
        j = py - pixels.y0
        if last < first or not 0 <= j < height:
            continue
        if used + last - first + 1 > len(region.data):
            region.counts[:] = 0
            return MAX_AREA
        region.row_y[rows], region.row_x[rows], region.row_start[rows] = py, first, used
        rows += 1
        for px in range(first, last + 1):
            i = px - pixels.x0
            value, variance = float(pixels.image[j, i]), float(pixels.variance[j, i])
            usable = not bad[j, i] and np.isfinite(value) and np.isfinite(variance) and variance > 0.0
            region.data[used] = value if usable else 0.0
            region.variance[used] = variance if usable else 0.0
            region.good[used] = 1.0 if usable else 0.0
            good += usable
            used += 1
    region.row_start[rows] = used
    region.counts[0], region.counts[1], region.counts[2] = rows, used, good
    if good == 0 or inside - good > settings.max_bad_fraction * inside:
        return BAD_PIXELS
    return 0


@njit(cache=True, nogil=True, error_model="numpy")
def set_weights(region: PixelRegion, per_pixel: bool, multiplier: float) -> None:
    """Weight the pixels by 1/sigma, each by its own or all by the geometric mean."""
    total = 0.0
    n = region.counts[1]
    for k in range(n):
        region.weight[k] = 0.0
        if region.good[k]:
            region.weight[k] = multiplier / math.sqrt(region.variance[k])
            total += math.log(region.variance[k])
    if not per_pixel:
        mean = multiplier * math.exp(-0.5 * total / region.counts[2])
        for k in range(n):
            region.weight[k] = mean * region.good[k]
