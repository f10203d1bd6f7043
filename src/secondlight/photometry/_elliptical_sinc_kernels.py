"""Compiled sinc apertures of any ellipse, worked out per source (spec finalize 9.5; Bickerton & Lupton 2013).

An ellipse is given by the matrix ``xx, yy, xy`` (pixel^2) of which the points with ``d^T M^-1 d = 1`` are its
border.  Its Fourier transform is ``pi sqrt(det M) jinc(2 pi sqrt(k^T M k))``, ``jinc(z) = 2 J1(z) / z``.  The
transform back is a product with the cosines and sines of either axis.  They are those of the pixel grid moved
by a Lanczos kernel, so that the weights come out centred on the source.  The slow twin is
`secondlight.photometry.apertures.sinc_coefficients` with `lanczos_shift`.
"""

from __future__ import annotations

__all__ = ("JINC_TABLE", "ellipse_coefficients", "ellipse_sums")

import math

import numpy as np
import scipy.special
from numba import njit

from ._aperture_kernels import LANCZOS_ORDER, box_fits, lanczos_taps

_MARGIN = 8
"""Pixels beyond the ellipse.  Weights farther out would change a flux by 1 % of its error."""

_STEPS = 16
"""Steps of the table for each unit of z; cubic interpolation between them is good to 4e-9."""
_TABLE_END = 64


def _jinc_table() -> np.ndarray:
    """Return values and slopes per step of jinc(z), (n, 2)."""
    z = np.arange(_TABLE_END * _STEPS + 1) / _STEPS
    safe = np.where(z == 0, 1.0, z)
    values = np.where(z == 0, 1.0, 2.0 * scipy.special.j1(safe) / safe)
    slopes = np.where(z == 0, 0.0, -2.0 * scipy.special.jn(2, safe) / safe)
    return np.ascontiguousarray(np.column_stack([values, slopes / _STEPS]))


JINC_TABLE = _jinc_table()
"""What the kernels take as ``table``."""


@njit(cache=True, nogil=True)
def _jinc(z: float, table: np.ndarray) -> float:
    """Return 2 J1(z) / z, z >= 0."""
    if z >= _TABLE_END:
        # Abramowitz & Stegun 9.2.5, two terms of each series.
        phase = z - 0.75 * math.pi
        p, q = 1.0 + 15.0 / (128.0 * z * z), 3.0 / (8.0 * z)
        wave = p * math.cos(phase) - q * math.sin(phase)
        return 2.0 / z * math.sqrt(2.0 / (math.pi * z)) * wave
    step = z * _STEPS
    k = int(step)
    t = step - k
    f0, s0, f1, s1 = table[k, 0], table[k, 1], table[k + 1, 0], table[k + 1, 1]
    rise = f1 - f0
    return float(f0 + t * (s0 + t * (3.0 * rise - 2.0 * s0 - s1 + t * (s0 + s1 - 2.0 * rise))))


@njit(cache=True, nogil=True)
def _shifted_waves(half: int, offset: float, waves: np.ndarray) -> None:
    """Fill waves on ``2 half + 1`` pixels moved by an offset in (-1, 1) with a Lanczos kernel.

    Row k of ``waves`` (2 half + 2, 2 half + 1) has the cosine of frequency k, row ``half + 1 + k`` the sine.
    """
    n = half + 1
    size = 2 * half + 1
    cos, sin = np.empty(size), np.empty(size)
    for i in range(size):
        cos[i], sin[i] = math.cos(2.0 * math.pi * i / size), math.sin(2.0 * math.pi * i / size)
    taps = np.empty(2 * LANCZOS_ORDER)
    # The square of an offset much smaller than this would vanish, and the taps divide by it.
    start = lanczos_taps(offset if abs(offset) > 1e-9 else 0.0, taps)
    for k in range(n):
        real = imaginary = 0.0
        for t in range(2 * LANCZOS_ORDER):
            phase = (k * (start + t)) % size
            real += taps[t] * cos[phase]
            imaginary += taps[t] * sin[phase]
        phase = (-k * half) % size
        for i in range(size):
            waves[k, i] = real * cos[phase] - imaginary * sin[phase]
            waves[n + k, i] = real * sin[phase] + imaginary * cos[phase]
            phase += k
            if phase >= size:
                phase -= size


@njit(cache=True, nogil=True)
def _spectrum(
    xx: float, yy: float, xy: float, half_x: int, half_y: int, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of the ellipse's transform that are even and odd in kx, (half_y + 1, half_x + 1)."""
    nx, ny = half_x + 1, half_y + 1
    even, odd = np.empty((ny, nx)), np.empty((ny, nx))
    step_x, step_y = 2.0 * math.pi / (2 * half_x + 1), 2.0 * math.pi / (2 * half_y + 1)
    area = math.pi * math.sqrt(max(xx * yy - xy * xy, 0.0)) / ((2 * half_x + 1) * (2 * half_y + 1))
    for j in range(ny):
        ky = step_y * j
        weight = area if j == 0 else 2.0 * area
        for i in range(nx):
            kx = step_x * i
            round_part = xx * kx * kx + yy * ky * ky
            cross = 2.0 * xy * kx * ky
            rising = weight * _jinc(math.sqrt(max(round_part + cross, 0.0)), table)
            if i == 0:
                even[j, i], odd[j, i] = rising, 0.0
                continue
            falling = weight * _jinc(math.sqrt(max(round_part - cross, 0.0)), table)
            even[j, i], odd[j, i] = rising + falling, rising - falling
    return even, odd


@njit(cache=True, nogil=True)
def ellipse_coefficients(
    dx: float, dy: float, xx: float, yy: float, xy: float, table: np.ndarray
) -> np.ndarray:
    """Return weights that integrate an image over an ellipse (dx, dy), in (-1, 1), off their middle pixel.

    The result is (h, w) with odd sides, `_MARGIN` pixels wider than the ellipse all round.  Its sum is the
    area of the ellipse.
    """
    half_x, half_y = math.ceil(math.sqrt(xx)) + _MARGIN, math.ceil(math.sqrt(yy)) + _MARGIN
    nx, ny = half_x + 1, half_y + 1
    even, odd = _spectrum(xx, yy, xy, half_x, half_y, table)
    x_waves = np.empty((2 * nx, 2 * half_x + 1))
    y_waves = np.empty((2 * ny, 2 * half_y + 1))
    _shifted_waves(half_x, dx, x_waves)
    _shifted_waves(half_y, dy, y_waves)
    rows = np.empty((2 * ny, 2 * half_x + 1))
    rows[:ny] = np.dot(even, x_waves[:nx])
    rows[ny:] = -np.dot(odd, x_waves[nx:])
    return np.dot(y_waves.T, rows)


@njit(cache=True, nogil=True)
def ellipse_sums(
    image: np.ndarray,
    variance: np.ndarray,
    x: float,
    y: float,
    xx: float,
    yy: float,
    xy: float,
    table: np.ndarray,
) -> tuple[float, float]:
    """Return sum(c I) and sum(c^2 V) over an ellipse about the array index (x, y).

    NaN if the ellipse reaches over the edge of the image.  Weights beyond the edge are left out.
    """
    height, width = image.shape
    if not box_fits(x, y, math.sqrt(xx), math.sqrt(yy), height, width):
        return np.nan, np.nan
    ix, iy = math.floor(x + 0.5), math.floor(y + 0.5)
    weights = ellipse_coefficients(x - ix, y - iy, xx, yy, xy, table)
    first_x, first_y = ix - weights.shape[1] // 2, iy - weights.shape[0] // 2
    flux = noise = 0.0
    for j in range(max(0, -first_y), min(weights.shape[0], height - first_y)):
        for i in range(max(0, -first_x), min(weights.shape[1], width - first_x)):
            c = weights[j, i]
            flux += c * image[first_y + j, first_x + i]
            noise += c * c * variance[first_y + j, first_x + i]
    return flux, noise
