"""Sizes and shapes of galaxies made of a bulge and a disk."""

from __future__ import annotations

__all__ = ("MAX_ELLIPTICITY", "component_radii", "enclosed_flux", "intrinsic_ellipticities", "lens")

import functools
import math

import galsim
import numpy as np
import scipy.special

MAX_ELLIPTICITY = 0.7
"""Upper limit of the intrinsic reduced shear."""

_TABLE_STEPS = 8192
_HALVINGS = 10


def enclosed_flux(radius: np.ndarray, *, index: float, truncation: float) -> np.ndarray:
    """Return the share of a truncated Sersic profile's light inside a radius.

    Parameters
    ----------
    radius
        Radii in units of the half-light radius of the truncated profile.
    index
        Sersic index; 1 is exponential.
    truncation
        Where the profile ends, in the same unit.

    Returns
    -------
    numpy.ndarray
        Shares between 0 and 1; the integral of exp(-(r/r0)^(1/n)) is an incomplete gamma function of order
        2n, and r0 is GalSim's, so that what is drawn with GalSim has the same light profile.

    Raises
    ------
    galsim.GalSimError
        Raised if GalSim does not find r0, as for an exponential profile that ends at 16 half-light radii.
    """
    profile = galsim.Sersic(n=index, half_light_radius=1.0, trunc=truncation)

    def integral(r: np.ndarray | float) -> np.ndarray:
        return np.asarray(scipy.special.gammainc(2 * index, (r / profile.scale_radius) ** (1 / index)))

    return np.asarray(integral(np.clip(radius, 0.0, truncation)) / integral(truncation))


def component_radii(
    half_light_radius: np.ndarray,
    *,
    bulge_fraction: np.ndarray,
    ratio: np.ndarray,
    index: float,
    truncation: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the half-light radii of bulge and disk whose sum has a given half-light radius.

    In units of the disk's radius the sum's lies between the bulge's and the disk's; it is found there by
    bisection on tabulated curves of enclosed light, and a linear step at the end.

    Parameters
    ----------
    half_light_radius
        Radius of half the light of the sum, shape (n,).
    bulge_fraction
        Share of the bulge in the light, shape (n,).
    ratio
        Half-light radius of the bulge over that of the disk, shape (n,).
    index
        Sersic index of the bulge.
    truncation
        Where both profiles end, in half-light radii of each.

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        Half-light radii of bulge and disk, in the unit of that of the sum.
    """
    bulge, disk = _excess_light(index, truncation), _excess_light(1.0, truncation)
    step = truncation / _TABLE_STEPS

    def excess(radius: np.ndarray) -> np.ndarray:
        """Return the share of the light inside a radius, in units of the disk's, less one half."""
        inner = _interpolate(bulge, radius / (ratio * step))
        outer = _interpolate(disk, radius / step)
        return np.asarray(bulge_fraction * inner + (1 - bulge_fraction) * outer)

    low, high = np.minimum(ratio, 1.0), np.maximum(ratio, 1.0)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        above = excess(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    below, above = excess(low), excess(high)
    rise = above - below
    share = np.divide(-below, rise, out=np.full_like(rise, 0.5), where=rise > 0)
    disk_radius = half_light_radius / (low + np.clip(share, 0, 1) * (high - low))
    return ratio * disk_radius, disk_radius


def intrinsic_ellipticities(n: int, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Draw ellipticities without preferred direction, in the form of a reduced shear (a - b) / (a + b).

    Parameters
    ----------
    n
        Number of galaxies.
    deviation
        Standard deviation of each component, before magnitudes above `MAX_ELLIPTICITY` are ruled out.
    rng
        Random numbers.

    Returns
    -------
    numpy.ndarray
        Complex numbers, shape (n,).
    """
    angle = 2 * math.pi * rng.random(n)
    uniform = rng.random(n)
    if deviation == 0:
        return np.zeros(n, complex)
    # The magnitude of two normal components follows a Rayleigh distribution; it is inverted up to the limit.
    allowed = -np.expm1(-0.5 * (MAX_ELLIPTICITY / deviation) ** 2)
    magnitude = deviation * np.sqrt(-2 * np.log1p(-uniform * allowed))
    return np.asarray(magnitude * np.exp(1j * angle))


def lens(ellipticity: np.ndarray, shear: complex) -> np.ndarray:
    """Return what a reduced shear makes of ellipticities (Seitz & Schneider 1997, A&A 318, 687).

    Parameters
    ----------
    ellipticity
        Intrinsic ellipticities, complex, shape (n,).
    shear
        Reduced shear, of magnitude below 1.

    Returns
    -------
    numpy.ndarray
        Observed ellipticities; their mean is the shear if the intrinsic ones have no preferred direction.
    """
    return np.asarray((ellipticity + shear) / (1 + np.conj(shear) * ellipticity))


@functools.cache
def _excess_light(index: float, truncation: float) -> np.ndarray:
    """Return the enclosed light less one half on equal steps of radius from 0 to the end of the profile."""
    radius = np.linspace(0.0, truncation, _TABLE_STEPS + 1)
    table = enclosed_flux(radius, index=index, truncation=truncation) - 0.5
    table.flags.writeable = False
    return table


def _interpolate(table: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return a table's values between its equal steps; beyond its end the last one."""
    position = np.minimum(position, len(table) - 1)
    lower = np.minimum(position.astype(np.intp), len(table) - 2)
    share = position - lower
    return np.asarray((1 - share) * table[lower] + share * table[lower + 1])
