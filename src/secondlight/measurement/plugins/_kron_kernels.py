"""Compiled core of the Kron fluxes (spec reprocess 17.15, finalize 8.7); the slow twin is in the tests.

An ellipse is given by the matrix ``xx, yy, xy`` (pixel^2) of which the points with ``d^T M^-1 d = 1`` are its
border, its size by the determinant radius ``det(M)**(1/4)``, the geometric mean of the semi-axes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from secondlight.photometry._aperture_kernels import box_fits, naive_sums, row_span
from secondlight.photometry._elliptical_sinc_kernels import ellipse_sums

from ..pixels import SourcePixels, hide, show
from ._kron_error_kernels import radius_variance

FAILED = 1
EDGE = 2
NO_MINIMUM = 4
NO_FALLBACK = 8
BAD_RADIUS = 16
USED_MINIMUM = 32
USED_PSF = 64
SMALL = 128

_CENTRE_RADIUS = (math.sqrt(2.0) + math.asinh(1.0)) / 6.0
"""Mean distance of the points of a pixel from its middle."""
_LEAST_SIZE = 1e-8
"""Smaller shapes are no shapes; their squares would get lost in the arithmetic."""
_MOST_WEIGHTS = 1 << 16
"""Most pixels that get sinc weights: the ellipse of a long trail would take seconds and much memory."""


class KronSettings(NamedTuple):
    """Settings the kernels take, in pixels where they are lengths; names as in the configuration."""

    fixed: bool
    n_sigma: float
    n_iterations: int
    n_radius_for_flux: float
    max_sinc_radius: float
    minimum_radius: float
    enforce_minimum: bool
    max_radius: float
    marginalize: bool


@njit(cache=True, nogil=True)
def _size(xx: float, yy: float, xy: float) -> float:
    """Return the determinant radius; 0 for a matrix that is not positive."""
    return math.sqrt(math.sqrt(max(xx * yy - xy * xy, 0.0)))


@njit(cache=True, nogil=True)
def _semi_axes(xx: float, yy: float, xy: float) -> tuple[float, float]:
    """Return the major and the minor semi-axis."""
    t = math.sqrt((xx - yy) ** 2 + 4.0 * xy * xy)
    return math.sqrt(0.5 * (xx + yy + t)), math.sqrt(max(0.5 * (xx + yy - t), 0.0))


@njit(cache=True, nogil=True)
def mean_radius(image: np.ndarray, x: float, y: float, xx: float, yy: float, xy: float) -> float:
    """Return the flux-weighted mean determinant radius of the pixels in an ellipse, the Kron radius.

    NaN where the sums are not positive.  ``x, y`` are array indices; the ellipse must lie in the image.
    """
    size = _size(xx, yy, xy)
    major, minor = _semi_axes(xx, yy, xy)
    if not (size > 0.0 and minor > 0.0):
        return np.nan
    # d^T M^-1 d of the ellipse of the same form with size 1.
    w_xx, w_yy, w_xy = yy / size**2, xx / size**2, -xy / size**2
    total = first = 0.0
    y_half = math.sqrt(yy)
    for j in range(math.ceil(y - y_half), math.floor(y + y_half) + 1):
        dy = j - y
        i0, i1 = row_span(x, y, xx, yy, xy, j)
        for i in range(i0, i1 + 1):
            dx = i - x
            square = w_xx * dx * dx + 2.0 * w_xy * dx * dy + w_yy * dy * dy
            radius = math.sqrt(max(square, 0.0))
            if dx * dx + dy * dy < 0.25:
                distance = math.sqrt(dx * dx + dy * dy)
                within = _CENTRE_RADIUS * (1.0 + distance / math.sqrt(2.0))
                radius = math.sqrt(square + minor / major * within * within)
            total += image[j, i]
            first += radius * image[j, i]
    if not (total > 0.0 and first > 0.0):
        return np.nan
    return first / total


@njit(cache=True, nogil=True)
def _smoothed(image: np.ndarray, i0: int, i1: int, j0: int, j1: int, taps: np.ndarray) -> np.ndarray:
    """Return the pixels i0..i1, j0..j1 of an image smoothed along both axes by taps of odd number."""
    half = len(taps) // 2
    height, width = j1 - j0 + 1, i1 - i0 + 1
    rows = np.zeros((height + 2 * half, width))
    for j in range(height + 2 * half):
        for t in range(len(taps)):
            for i in range(width):
                rows[j, i] += taps[t] * image[j0 - half + j, i0 - half + t + i]
    out = np.zeros((height, width))
    for j in range(height):
        for t in range(len(taps)):
            for i in range(width):
                out[j, i] += taps[t] * rows[j + t, i]
    return out


@njit(cache=True, nogil=True)
def _radius_in(
    image: np.ndarray, x: float, y: float, xx: float, yy: float, xy: float, taps: np.ndarray
) -> tuple[float, bool]:
    """Return the Kron radius within an ellipse, and whether all pixels needed are in the image."""
    half = len(taps) // 2
    x_half, y_half = math.sqrt(xx), math.sqrt(yy)
    i0, i1 = math.ceil(x - x_half), math.floor(x + x_half)
    j0, j1 = math.ceil(y - y_half), math.floor(y + y_half)
    if not (half <= i0 and half <= j0 and i1 < image.shape[1] - half and j1 < image.shape[0] - half):
        return np.nan, False
    if half == 0:
        return mean_radius(image, x, y, xx, yy, xy), True
    return mean_radius(_smoothed(image, i0, i1, j0, j1, taps), x - i0, y - j0, xx, yy, xy), True


@njit(cache=True, nogil=True)
def _measured_radius(
    image: np.ndarray,
    x: float,
    y: float,
    xx: float,
    yy: float,
    xy: float,
    taps: np.ndarray,
    settings: KronSettings,
) -> tuple[float, float, int]:
    """Return the Kron radius about a shape, the size of the ellipse it was measured in, and flags.

    Each iteration looks within an ellipse ``n_sigma`` times the last size, as long as the radius grows.  A
    radius that is smaller than the last size comes from noise (that of a Gaussian is 1.25 times the size of
    its shape, that of other profiles more), so that the last size is kept.
    """
    start = size = _size(xx, yy, xy)
    window = np.nan
    for _ in range(settings.n_iterations):
        window = settings.n_sigma * size
        scale = (window / start) ** 2
        radius, inside = _radius_in(image, x, y, scale * xx, scale * yy, scale * xy, taps)
        if not inside:
            return np.nan, np.nan, EDGE | FAILED
        if not radius <= settings.max_radius:
            return np.nan, np.nan, 0
        if radius <= size:
            break
        size = radius
    return size, window, 0


@njit(cache=True, nogil=True)
def _acceptable_radius(radius: float, psf_radius: float, settings: KronSettings) -> tuple[float, int]:
    """Return the radius to use for a measured one, NaN if there was none, and flags."""
    has_minimum = settings.minimum_radius > 0.0
    minimum = settings.minimum_radius if has_minimum else psf_radius
    used = USED_MINIMUM if has_minimum else USED_PSF
    if math.isnan(radius):
        failure = NO_FALLBACK | FAILED
        return (minimum, BAD_RADIUS | used) if minimum > 0.0 else (np.nan, BAD_RADIUS | failure)
    if not settings.enforce_minimum:
        return radius, 0
    if not minimum > 0.0:
        return np.nan, NO_MINIMUM | FAILED
    return (radius, 0) if radius >= minimum else (minimum, used | SMALL)


@njit(cache=True, nogil=True)
def _flux_in(
    pixels: SourcePixels, x: float, y: float, xx: float, yy: float, xy: float, limit: float, table: np.ndarray
) -> tuple[float, float, int]:
    """Return flux, variance and flags of an ellipse: sinc weights if the minor axis is within the limit."""
    image, variance = pixels.image, pixels.variance
    x_half, y_half = math.sqrt(xx), math.sqrt(yy)
    if not box_fits(x, y, x_half, y_half, image.shape[0], image.shape[1]):
        return np.nan, np.nan, EDGE | FAILED
    if _semi_axes(xx, yy, xy)[1] <= limit and 4.0 * x_half * y_half <= _MOST_WEIGHTS:
        flux, noise = ellipse_sums(image, variance, x, y, xx, yy, xy, table)
    else:
        flux, noise, _ = naive_sums(image, variance, x, y, xx, yy, xy)
    return flux, noise, 0 if math.isfinite(flux) and noise >= 0.0 else FAILED


@njit(cache=True, nogil=True)
def _kron(
    pixels: SourcePixels,
    x: float,
    y: float,
    shape: tuple[float, float, float],
    given: float,
    psf_radius: float,
    taps: np.ndarray,
    settings: KronSettings,
    table: np.ndarray,
) -> tuple[float, float, float, float, int]:
    """Return what `kron_loop` does for one source, about an array index; nothing counts if it is `FAILED`."""
    xx, yy, xy = shape
    size = _size(xx, yy, xy)
    if not (size > _LEAST_SIZE and math.isfinite(size * x) and math.isfinite(size * y)):
        return np.nan, np.nan, np.nan, np.nan, FAILED
    radius, window, flag = given, np.nan, 0
    if not settings.fixed:
        radius, window, flag = _measured_radius(pixels.image, x, y, xx, yy, xy, taps, settings)
        if flag & FAILED:
            return np.nan, np.nan, np.nan, np.nan, flag
    radius, more = _acceptable_radius(radius, psf_radius, settings)
    flag |= more
    if flag & FAILED:
        return np.nan, np.nan, np.nan, np.nan, flag
    aperture = settings.n_radius_for_flux * radius
    scale = (aperture / size) ** 2
    flux, variance, more = _flux_in(
        pixels, x, y, scale * xx, scale * yy, scale * xy, settings.max_sinc_radius, table
    )
    flag |= more
    if settings.marginalize and not settings.fixed and not flag & (FAILED | BAD_RADIUS | SMALL):
        total = variance + radius_variance(
            pixels.image, pixels.variance, x, y, shape, flux, radius, window, aperture
        )
        # Pixels of unknown variance beyond the aperture do not spoil its flux.
        if math.isfinite(total) and total >= 0.0:
            variance = total
    return flux, variance, radius, window, flag


@njit(cache=True, nogil=True)
def kron_loop(
    pixels: SourcePixels,
    x: np.ndarray,
    y: np.ndarray,
    shapes: np.ndarray,
    radii: np.ndarray,
    psf_radii: np.ndarray,
    taps: np.ndarray,
    settings: KronSettings,
    table: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure Kron fluxes at parent positions (n).

    Parameters
    ----------
    shapes
        Moments ``[xx, yy, xy]`` to start from, pixel^2 (n, 3); a row that is NaN is left out.
    radii
        Kron radii to use as they are, (n); only read if ``settings.fixed``.
    psf_radii
        Kron radii of the PSF, (n); NaN where there is none.
    taps
        Kernel that smooths the image the radius is measured on; one element for none.
    table
        `secondlight.photometry._elliptical_sinc_kernels.JINC_TABLE`.

    Returns
    -------
    results
        Flux, its variance, radius, radius of the ellipse it was measured in (n, 4).
    flags
        Bits of this module (n).
    """
    n = len(x)
    results = np.full((n, 4), np.nan)
    flags = np.zeros(n, np.int64)
    for k in range(n):
        show(pixels, k)
        flux, variance, radius, window, flags[k] = _kron(
            pixels,
            x[k] - pixels.x0,
            y[k] - pixels.y0,
            (shapes[k, 0], shapes[k, 1], shapes[k, 2]),
            radii[k],
            psf_radii[k],
            taps,
            settings,
            table,
        )
        hide(pixels, k)
        if not flags[k] & FAILED:
            results[k, 0], results[k, 1], results[k, 2], results[k, 3] = flux, variance, radius, window
    return results, flags
