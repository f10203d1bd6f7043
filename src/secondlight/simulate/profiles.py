"""Radial profiles of atmosphere, bulge and disk: their Fourier transforms as tables, and where they end."""

from __future__ import annotations

__all__ = (
    "Atmosphere",
    "AtmosphereName",
    "RadialTable",
    "Sersic",
    "atmosphere_table",
    "sersic_table",
)

import math
from functools import cache
from typing import Literal, NamedTuple

import galsim
import numpy as np

type AtmosphereName = Literal["moffat", "kolmogorov"]

_SMALLEST_TRANSFER = 1e-7
"""Where the atmosphere lets less through than this, there is nothing to be seen."""

_SERSIC_ACCURACY = 1e-7
_LARGEST_FREQUENCY = 400.0
"""End of the Sersic tables: no seeing shows structure of 1/400 of a half-light radius."""

_STEP = 1e-3
"""Step of the tables in the square root of k; linear interpolation errs by less than 1e-6."""

_SLOPE_OF_WAVE_STRUCTURE = 5.0 / 3.0
_RADII = 4000


class RadialTable(NamedTuple):
    """Fourier transform of a round profile of unit flux.

    Attributes
    ----------
    values
        The transform at ``k = (i * step)**2``, float64 (m); beyond the end it is zero. The square root of k
        samples the cusp of Kolmogorov's transform at the origin and the long wing of Sersic's evenly.
    step
        Step in the square root of k, which is in inverse units of the profile's size.
    """

    values: np.ndarray
    step: float

    @property
    def end(self) -> float:
        """The k of the last value."""
        return ((len(self.values) - 1) * self.step) ** 2


class Atmosphere(NamedTuple):
    """The round profile of the atmosphere in units of its full width at half maximum.

    Attributes
    ----------
    profile
        Name of the profile.
    beta
        Exponent of a Moffat profile.
    """

    profile: AtmosphereName = "moffat"
    beta: float = 3.2

    def radius_of_fraction(self, outside: float) -> float:
        """Return the radius that leaves a fraction of the flux outside."""
        if self.profile == "moffat":
            return float(self._scale * math.sqrt(outside ** (1 / (1 - self.beta)) - 1))
        a = _SLOPE_OF_WAVE_STRUCTURE
        return float((2 * math.pi * self._wing / (a * outside)) ** (1 / a))

    def radius_of_brightness(self, level: np.ndarray) -> np.ndarray:
        """Return where a profile of unit flux falls to a level, both in units of the width (n)."""
        if self.profile == "moffat":
            peak = (self.beta - 1) / (math.pi * self._scale**2)
            ratio = np.minimum(level / peak, 1.0)
            return np.asarray(self._scale * np.sqrt(ratio ** (-1 / self.beta) - 1))
        return np.asarray((self._wing / level) ** (1 / (2 + _SLOPE_OF_WAVE_STRUCTURE)))

    @property
    def _scale(self) -> float:
        """Scale radius of the Moffat profile."""
        return 0.5 / math.sqrt(2 ** (1 / self.beta) - 1)

    @property
    def _wing(self) -> float:
        """Coefficient of the wing ``wing * r**(-11/3)`` that the cusp ``1 - (k / k0)**(5/3)`` stands for."""
        a = _SLOPE_OF_WAVE_STRUCTURE
        cusp = -math.log(galsim.Kolmogorov(fwhm=1.0).kValue(1.0, 0.0).real)
        return -cusp * 2**a * math.gamma(1 + a / 2) / (math.pi * math.gamma(-a / 2))


class Sersic(NamedTuple):
    """A round Sersic profile in units of its half-light radius.

    Attributes
    ----------
    exponent
        Sersic index.
    truncation
        Radius at which it ends.
    """

    exponent: float
    truncation: float

    def radius_of_fraction(self, outside: np.ndarray) -> np.ndarray:
        """Return the radii that leave fractions of the flux outside (n)."""
        radius, _, beyond = _sersic_shape(*self)
        return np.asarray(np.interp(-outside, -beyond, radius))

    def radius_of_brightness(self, level: np.ndarray) -> np.ndarray:
        """Return where a profile of unit flux falls to levels, in units of the half-light radius (n)."""
        radius, brightness, _ = _sersic_shape(*self)
        return np.asarray(np.interp(-np.log(level), -np.log(brightness), radius))

    def draw(self) -> galsim.GSObject:
        """Return the profile for GalSim."""
        accurate = galsim.GSParams(kvalue_accuracy=_SERSIC_ACCURACY)
        return galsim.Sersic(self.exponent, half_light_radius=1.0, trunc=self.truncation, gsparams=accurate)


@cache
def atmosphere_table(profile: str, beta: float) -> RadialTable:
    """Return the transfer function of an atmosphere of unit full width at half maximum."""
    parameters = galsim.GSParams(maxk_threshold=_SMALLEST_TRANSFER, kvalue_accuracy=1e-9)
    if profile == "moffat":
        atmosphere = galsim.Moffat(beta, fwhm=1.0, gsparams=parameters)
    else:
        atmosphere = galsim.Kolmogorov(fwhm=1.0, gsparams=parameters)
    return _tabulate(atmosphere, atmosphere.maxk)


@cache
def sersic_table(index: float, truncation: float) -> RadialTable:
    """Return the Fourier transform of a truncated Sersic profile of unit half-light radius."""
    return _tabulate(Sersic(index, truncation).draw(), _LARGEST_FREQUENCY)


def _tabulate(profile: galsim.GSObject, end: float) -> RadialTable:
    u = np.arange(math.ceil(math.sqrt(end) / _STEP) + 1) * _STEP
    return RadialTable(np.array([profile.kValue(k, 0.0).real for k in (u**2).tolist()]), _STEP)


@cache
def _sersic_shape(index: float, truncation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return radius, surface brightness there, and the fraction of the flux beyond, (m) each."""
    profile = Sersic(index, truncation).draw()
    # Radii crowd at the centre, where profiles of high index are cusps.
    radius = truncation * np.linspace(0.01, 1, _RADII) ** 2
    brightness = np.array([profile.xValue(r, 0.0) for r in (radius * (1 - 1e-9)).tolist()])
    rings = 0.5 * (brightness[1:] + brightness[:-1]) * math.pi * np.diff(radius**2)
    beyond = np.append(np.cumsum(rings[::-1])[::-1], 0.0)
    return radius, brightness, beyond
