"""Compiled loops that draw objects: Fourier space is filled, and stamps are added to an image."""

from __future__ import annotations

__all__ = ("add_stamps", "fill_spectra")

import math

import numpy as np
from numba import njit

_SMALLEST_EXPONENT = 16.0
"""Gaussians end where they are exp(-16) = 1e-7."""


@njit(cache=True, nogil=True)
def _look_up(square: float, values: np.ndarray, step: float) -> float:
    """Return a radial table at k, given k^2; zero beyond its end."""
    position = math.sqrt(math.sqrt(square)) / step
    i = int(position)
    if i + 1 >= values.size:
        return 0.0
    fraction = position - i
    return float((1.0 - fraction) * values[i] + fraction * values[i + 1])


@njit(cache=True, nogil=True)
def _axis(
    size: int, columns: int, cut: float, shift: float, variance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the frequencies of one axis contribute, and where.

    Frequencies beyond those of the grid fall on those they are aliases of, as sampling does to them.

    Parameters
    ----------
    size
        Pixels of the stamp.
    columns
        Frequencies 0 ... columns - 1 (modulo size) are wanted.
    cut
        Frequency up to which there is something, radians per pixel.
    shift
        Position of the object, pixels from the first of the stamp.
    variance
        Of the Gaussian spot along the axis, pix^2.

    Returns
    -------
    target, k, weight
        Grid index, frequency (radians per pixel), and phase times pixel times Gaussian, (m) each.
    """
    dk = 2 * math.pi / size
    last = int(cut / dk)
    target = np.empty(2 * last + 1, np.int64)
    frequency = np.empty(2 * last + 1)
    weight = np.empty(2 * last + 1, np.complex128)
    m = 0
    for j in range(-last, last + 1):
        if j % size >= columns:
            continue
        k = j * dk
        size_of_weight = math.exp(-0.5 * variance * k * k)
        if j != 0:
            size_of_weight *= math.sin(0.5 * k) / (0.5 * k)
        target[m] = j % size
        frequency[m] = k
        weight[m] = size_of_weight * complex(math.cos(k * shift), -math.sin(k * shift))
        m += 1
    return target[:m], frequency[:m], weight[:m]


@njit(cache=True, nogil=True)
def _cut(atmosphere: np.ndarray, spot: np.ndarray, end: float) -> float:
    """Return the frequency beyond which the PSF passes nothing in any direction, radians per pixel."""
    narrow = 0.5 * (atmosphere[0] + atmosphere[1]) - math.hypot(
        0.5 * (atmosphere[0] - atmosphere[1]), atmosphere[2]
    )
    cut = end / math.sqrt(narrow)
    sharp = 0.5 * (spot[0] + spot[1]) - math.hypot(0.5 * (spot[0] - spot[1]), spot[2])
    if sharp > 0:
        cut = min(cut, math.sqrt(2 * _SMALLEST_EXPONENT / sharp))
    return cut


@njit(cache=True, nogil=True)
def fill_spectra(
    spectra: np.ndarray,
    size: int,
    dx: np.ndarray,
    dy: np.ndarray,
    flux: np.ndarray,
    atmosphere: np.ndarray,
    spot: np.ndarray,
    bulge_fraction: np.ndarray,
    bulge: np.ndarray,
    disk: np.ndarray,
    atmosphere_values: np.ndarray,
    bulge_values: np.ndarray,
    disk_values: np.ndarray,
    step: float,
) -> None:
    """Add the discrete Fourier transforms of stamps.

    Parameters
    ----------
    spectra
        Half of the transform of the stamps of real numbers, zeros at first, complex128 (n, size, size//2+1).
    size
        Pixels of the stamps, along each side.
    dx, dy
        Positions in pixels from the middle pixel ``size // 2`` (n).
    flux
        Total fluxes (n).
    atmosphere, bulge, disk
        ``[xx, yy, xy]`` of M M^T, pix^2 (n, 3), where M maps the round profile of the table to the sky;
        zeros for a point.
    spot
        Covariance ``[xx, yy, xy]`` of the Gaussian spot, pix^2 (n, 3).
    bulge_fraction
        Share of the bulge in the flux (n).
    atmosphere_values, bulge_values, disk_values
        Transforms of the round profiles at ``k = (i * step)**2`` (m).
    """
    end = ((atmosphere_values.size - 1) * step) ** 2
    end_square = end * end
    for n in range(dx.size):
        a, c, b, d = atmosphere[n], spot[n], bulge[n], disk[n]
        share = bulge_fraction[n]
        point = b[0] + b[1] + d[0] + d[1] == 0.0
        cut = _cut(a, c, end)
        columns, kxs, wxs = _axis(size, size // 2 + 1, cut, dx[n] + size // 2, c[0])
        rows, kys, wys = _axis(size, size, cut, dy[n] + size // 2, c[1])
        for j in range(rows.size):
            ky, wy = kys[j], flux[n] * wys[j]
            for i in range(columns.size):
                kx = kxs[i]
                xx, yy, xy = kx * kx, ky * ky, 2 * kx * ky
                q = a[0] * xx + a[1] * yy + a[2] * xy
                if q >= end_square:
                    continue
                value = _look_up(q, atmosphere_values, step) * math.exp(-0.5 * c[2] * xy)
                if not point:
                    form = 0.0
                    if share > 0.0:
                        q = max(b[0] * xx + b[1] * yy + b[2] * xy, 0.0)
                        form += share * _look_up(q, bulge_values, step)
                    if share < 1.0:
                        q = max(d[0] * xx + d[1] * yy + d[2] * xy, 0.0)
                        form += (1.0 - share) * _look_up(q, disk_values, step)
                    value *= form
                spectra[n, rows[j], columns[i]] += value * wy * wxs[i]


@njit(cache=True, nogil=True)
def add_stamps(image: np.ndarray, stamps: np.ndarray, x0: np.ndarray, y0: np.ndarray) -> None:
    """Add stamps to an image; what is off the image is dropped.

    Parameters
    ----------
    image
        float64 (h, w).
    stamps
        float64 (n, s, s).
    x0, y0
        Column and row of the first pixel of each stamp, int64 (n).
    """
    height, width = image.shape
    size = stamps.shape[1]
    for n in range(stamps.shape[0]):
        for j in range(max(0, -y0[n]), min(size, height - y0[n])):
            for i in range(max(0, -x0[n]), min(size, width - x0[n])):
                image[y0[n] + j, x0[n] + i] += stamps[n, j, i]
