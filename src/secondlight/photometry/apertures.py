"""Aperture fluxes: sinc apertures (Bickerton & Lupton 2013) and plain sums of pixel centres."""

from __future__ import annotations

__all__ = (
    "FLAG_COEFFICIENTS",
    "FLAG_TRUNCATED",
    "ApertureFluxes",
    "aperture_fluxes",
    "circle_coefficients",
    "make_circles",
    "psf_aperture_flux",
    "sinc_coefficients",
)

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from . import _aperture_kernels as kernels
from ._aperture_kernels import FLAG_COEFFICIENTS, FLAG_TRUNCATED, Circles


class ApertureFluxes(NamedTuple):
    """Fluxes in apertures.

    Attributes
    ----------
    flux, error
        Sum of the pixels and its standard deviation, in image units (n); NaN where the aperture is truncated.
    flags
        Bits `FLAG_TRUNCATED`, `FLAG_COEFFICIENTS` (n).
    """

    flux: np.ndarray
    error: np.ndarray
    flags: np.ndarray


def sinc_coefficients(a: float, b: float, theta: float) -> np.ndarray:
    """Return the weights that integrate a band-limited image over an ellipse centred on the middle pixel.

    Parameters
    ----------
    a, b
        Semi-axes, pixels.
    theta
        Angle of the major axis from +x, radians.

    Returns
    -------
    coefficients
        Real (s, s) with odd side ``s = 2 * 2**max(3, ceil(log2(2 a))) - 1``; the sum is pi a b.

    Notes
    -----
    The weights are the inverse DFT of the Fourier transform of the ellipse,
    ``(b / a) a J1(2 pi a k) / k`` with ``k`` the frequency in the circular frame (spec finalize 9.5).
    """
    if not a >= b > 0:
        raise ValueError(f"Semi-axes must be a >= b > 0; got a={a}, b={b}.")
    side = 2 * 2 ** max(3, math.ceil(math.log2(2 * a))) - 1
    frequency = np.fft.fftfreq(side)
    kx, ky = frequency[None, :], frequency[:, None]
    cos, sin = math.cos(theta), math.sin(theta)
    ratio = b / a
    k = np.hypot(kx * cos + ky * sin, ratio * (ky * cos - kx * sin))
    k[0, 0] = 1.0
    transform = ratio * a * scipy.special.j1(2 * math.pi * a * k) / k
    transform[0, 0] = math.pi * a * b
    return np.ascontiguousarray(np.fft.fftshift(np.fft.ifft2(transform).real))


@functools.lru_cache(maxsize=64)
def circle_coefficients(radius: float) -> np.ndarray:
    """Return `sinc_coefficients` of a circle, cached and read-only."""
    coefficients = sinc_coefficients(radius, radius, 0.0)
    coefficients.setflags(write=False)
    return coefficients


def make_circles(radii: Sequence[float], *, max_sinc_radius: float) -> tuple[Circles, np.ndarray]:
    """Return circles in the form compiled kernels take, and the column of each radius in their results.

    Parameters
    ----------
    radii
        Radii, pixels, in any order.
    max_sinc_radius
        Largest radius measured with sinc coefficients; beyond it, pixel centres inside are summed.
    """
    values = np.asarray(radii, dtype=np.float64)
    order = np.lexsort([values, values > max_sinc_radius])
    n_sinc = int(np.count_nonzero(values <= max_sinc_radius))
    sinc, discs = values[order[:n_sinc]], values[order[n_sinc:]]
    tables = [circle_coefficients(float(radius)) for radius in sinc]
    circles = Circles(
        radii=sinc,
        sides=np.array([len(table) for table in tables], dtype=np.int64),
        coefficients=np.concatenate([np.zeros(0), *(table.ravel() for table in tables)]),
        discs=discs,
    )
    return circles, np.argsort(order)


def aperture_fluxes(
    image: np.ndarray,
    variance: np.ndarray,
    *,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    radius: float,
    max_sinc_radius: float = 10.0,
) -> ApertureFluxes:
    """Measure circular apertures.

    Parameters
    ----------
    image, variance
        Pixels (h, w).
    x, y
        Centres in array indices (n).
    radius
        Radius, pixels.
    max_sinc_radius
        Largest radius measured with sinc coefficients; beyond it, pixel centres inside are summed.
    """
    xs, ys = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    circles, _ = make_circles([radius], max_sinc_radius=max_sinc_radius)
    flux, variance, flags = kernels.circle_loop(
        image, variance, np.atleast_1d(xs).copy(), np.atleast_1d(ys).copy(), circles
    )
    with np.errstate(invalid="ignore"):
        return ApertureFluxes(flux[:, 0], np.sqrt(variance[:, 0]), flags[:, 0])


def psf_aperture_flux(kernel: np.ndarray, radius: float) -> np.ndarray:
    """Return the sinc aperture flux of kernel stamps about their middle pixel.

    Parameters
    ----------
    kernel
        One stamp (h, w) or many (n, h, w); treated as zero outside.
    radius
        Radius, pixels.

    Returns
    -------
    flux
        Scalar array or (n).
    """
    coefficients = circle_coefficients(radius)
    half = coefficients.shape[0] // 2
    height, width = kernel.shape[-2:]
    y_half, x_half = min(half, height // 2), min(half, width // 2)
    inner = coefficients[half - y_half : half + y_half + 1, half - x_half : half + x_half + 1]
    cut = kernel[
        ...,
        height // 2 - y_half : height // 2 + y_half + 1,
        width // 2 - x_half : width // 2 + x_half + 1,
    ]
    return np.asarray(np.einsum("ij,...ij->...", inner, cut))
