"""Galaxy models seen through a PSF: sums of Gaussians and their derivatives, drawn on the pixels of a region.

A Gaussian times a polynomial (a Gauss-Hermite expansion) is ``P(d/dx, d/dy) G_S``, where the coefficients of
``P`` do not depend on the covariance ``S``.  Convolution with an elliptical Gaussian only adds to ``S``, and
a derivative with respect to ``S`` is half of a second derivative in space, so everything is a polynomial
times a Gaussian.
"""

from __future__ import annotations

__all__ = ("PSF_ORDER", "PSF_TERMS", "PixelRegion", "draw_mixture", "fill_offsets")

import math
from typing import NamedTuple

import numpy as np
from numba import njit

PSF_ORDER = 4
"""Highest order of the expansion of a PSF."""

PSF_TERMS = 5 + (PSF_ORDER + 1) * (PSF_ORDER + 2) // 2
"""Numbers of one component of a PSF: x, y, xx, yy, xy, and the factors of derivatives of a Gaussian of unit
flux: 1, d/dx, d/dy, d2/dx2, d2/dxdy, d2/dy2, and so on for the higher orders."""

_FAST = {"reassoc", "contract", "nsz", "arcp"}


class PixelRegion(NamedTuple):
    """Pixels to fit, row after row, and scratch space; the arrays hold room for more than are in use.

    Attributes
    ----------
    counts
        Number of rows, number of pixels, number of pixels with a weight, int64 (3).
    row_y, row_x, row_start
        Parent y, first parent x and first pixel of each row; ``row_start`` has one entry more.
    data, variance
        Pixel values and their variances.
    good
        1 for pixels to fit, 0 for pixels to leave out.
    weight
        Weight of each residual: 1/sigma, or one value for all pixels to fit.
    dx, dy
        Offset of each pixel from the fitted centre.
    gaussian
        Scratch.
    kept
        Room for a model to keep.
    models
        Two drawings, each the model of unit flux and its derivatives with respect to the moments xx, yy, xy
        of the galaxy, (2, 4, n).
    """

    counts: np.ndarray
    row_y: np.ndarray
    row_x: np.ndarray
    row_start: np.ndarray
    data: np.ndarray
    variance: np.ndarray
    good: np.ndarray
    weight: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    gaussian: np.ndarray
    kept: np.ndarray
    models: np.ndarray


@njit(cache=True, nogil=True)
def fill_offsets(region: PixelRegion, x: float, y: float) -> None:
    """Work out the offsets of all pixels from a centre in parent pixels."""
    for row in range(region.counts[0]):
        first = region.row_start[row]
        for k in range(first, region.row_start[row + 1]):
            region.dx[k] = region.row_x[row] + (k - first) - x
            region.dy[k] = region.row_y[row] - y


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_gaussian(region: PixelRegion, a: float, b: float, c: float, mx: float, my: float) -> None:
    """Fill ``gaussian`` with exp(-(a dx^2 + 2 b dx dy + c dy^2) / 2) about (mx, my), by recurrence in x.

    Each row is walked from its brightest pixel to both ends, so that a Gaussian which vanishes at the ends is
    not lost in between.
    """
    g = region.gaussian
    ratio = math.exp(-a)
    for row in range(region.counts[0]):
        first, end = region.row_start[row], region.row_start[row + 1]
        dy = region.dy[first] - my
        peak = mx - b / a * dy - region.dx[first]
        start = first
        if peak > 0.0:
            start += int(min(peak + 0.5, float(end - 1 - first)))
        dx = region.dx[start] - mx
        value = math.exp(-0.5 * (a * dx * dx + 2.0 * b * dx * dy + c * dy * dy))
        slope = b * dy
        up = math.exp(-a * (dx + 0.5) - slope)
        down = math.exp(a * (dx - 0.5) + slope)
        right = left = value
        g[start] = value
        for k in range(start + 1, end):
            right *= up
            up *= ratio
            g[k] = right
        for k in range(start - 1, first - 1, -1):
            left *= down
            down *= ratio
            g[k] = left


@njit(cache=True, nogil=True, fastmath=_FAST)
def _add_component(
    region: PixelRegion,
    slot: int,
    psf: np.ndarray,
    amplitude: float,
    variance: float,
    a: float,
    b: float,
    c: float,
) -> None:
    """Add ``amplitude`` times one PSF component of order 2 or less, convolved, to a drawing.

    ``a, b, c`` is the inverse of the covariance, whose derivative with respect to the moments of the galaxy
    is ``variance``; ``gaussian`` of the region has its exponential.
    """
    norm = amplitude * math.sqrt(a * c - b * b) / (2.0 * math.pi)
    mx, my = psf[0], psf[1]
    cx, cy, cxx, cxy, cyy = psf[6], psf[7], psf[8], psf[9], psf[10]
    # Polynomial v of P G = v G: value, slopes and second derivatives at the centre.
    v0 = psf[5] - cxx * a - cxy * b - cyy * c
    vx0, vy0 = -(a * cx + b * cy), -(b * cx + c * cy)
    vxx = 2.0 * (a * a * cxx + a * b * cxy + b * b * cyy)
    vxy = 2.0 * a * b * cxx + (a * c + b * b) * cxy + 2.0 * b * c * cyy
    vyy = 2.0 * (b * b * cxx + b * c * cxy + c * c * cyy)
    half, whole = 0.5 * variance, variance
    n = region.counts[1]
    offset_x, offset_y, gaussian = region.dx[:n], region.dy[:n], region.gaussian[:n]
    model, d_xx, d_yy, d_xy = (
        region.models[slot, 0, :n],
        region.models[slot, 1, :n],
        region.models[slot, 2, :n],
        region.models[slot, 3, :n],
    )
    for k in range(n):
        dx, dy = offset_x[k] - mx, offset_y[k] - my
        u, w = a * dx + b * dy, b * dx + c * dy
        sx, sy = vxx * dx + vxy * dy, vxy * dx + vyy * dy
        v = v0 + dx * (vx0 + 0.5 * sx) + dy * (vy0 + 0.5 * sy)
        vx, vy = vx0 + sx, vy0 + sy
        g = norm * gaussian[k]
        model[k] += g * v
        d_xx[k] += half * g * (vxx - 2.0 * u * vx + (u * u - a) * v)
        d_yy[k] += half * g * (vyy - 2.0 * w * vy + (w * w - c) * v)
        d_xy[k] += whole * g * (vxy - w * vx - u * vy + (u * w - b) * v)


@njit(cache=True, nogil=True)
def _add_component_of_any_order(
    region: PixelRegion,
    slot: int,
    psf: np.ndarray,
    amplitude: float,
    variance: float,
    a: float,
    b: float,
    c: float,
) -> None:
    """Do what `_add_component` does, slower, for PSF components of orders up to `PSF_ORDER`."""
    norm = amplitude * math.sqrt(a * c - b * b) / (2.0 * math.pi)
    h = np.ones((PSF_ORDER + 3, PSF_ORDER + 3))  # h[m, n] G is the derivative of G by x^m y^n
    for k in range(region.counts[1]):
        dx, dy = region.dx[k] - psf[0], region.dy[k] - psf[1]
        u, w = a * dx + b * dy, b * dx + c * dy
        for n in range(PSF_ORDER + 3):
            if n > 0:
                h[0, n] = -w * h[0, n - 1] - ((n - 1) * c * h[0, n - 2] if n > 1 else 0.0)
            for m in range(1, PSF_ORDER + 3 - n):
                h[m, n] = -u * h[m - 1, n] - ((m - 1) * a * h[m - 2, n] if m > 1 else 0.0)
                h[m, n] -= n * b * h[m - 1, n - 1] if n > 0 else 0.0
        v = v_xx = v_yy = v_xy = 0.0
        term = 5
        for order in range(PSF_ORDER + 1):
            for n in range(order + 1):
                m = order - n
                v += psf[term] * h[m, n]
                v_xx += psf[term] * h[m + 2, n]
                v_yy += psf[term] * h[m, n + 2]
                v_xy += psf[term] * h[m + 1, n + 1]
                term += 1
        g = norm * region.gaussian[k]
        region.models[slot, 0, k] += g * v
        region.models[slot, 1, k] += 0.5 * variance * g * v_xx
        region.models[slot, 2, k] += 0.5 * variance * g * v_yy
        region.models[slot, 3, k] += variance * g * v_xy


@njit(cache=True, nogil=True, error_model="numpy")
def draw_mixture(
    region: PixelRegion,
    slot: int,
    psf: np.ndarray,
    amplitudes: np.ndarray,
    variances: np.ndarray,
    xx: float,
    yy: float,
    xy: float,
) -> None:
    """Draw a galaxy of unit flux and moments ``xx, yy, xy`` with its derivatives.

    Parameters
    ----------
    region
        Pixels, with offsets from the centre of the galaxy.
    slot
        Which drawing to overwrite.
    psf
        Components of the PSF, (m, `PSF_TERMS`).
    amplitudes, variances
        Mixture of Gaussians of the profile, (k).
    xx, yy, xy
        Moments of the half-light ellipse.
    """
    n = region.counts[1]
    region.models[slot, :, :n] = 0.0
    for p in range(psf.shape[0]):
        simple = not np.any(psf[p, 11:])
        for k in range(len(amplitudes)):
            s_xx = psf[p, 2] + variances[k] * xx
            s_yy = psf[p, 3] + variances[k] * yy
            s_xy = psf[p, 4] + variances[k] * xy
            det = s_xx * s_yy - s_xy * s_xy
            a, b, c = s_yy / det, -s_xy / det, s_xx / det
            _fill_gaussian(region, a, b, c, psf[p, 0], psf[p, 1])
            if simple:
                _add_component(region, slot, psf[p], amplitudes[k], variances[k], a, b, c)
            else:
                _add_component_of_any_order(region, slot, psf[p], amplitudes[k], variances[k], a, b, c)
