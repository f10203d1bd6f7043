"""Colours of stars and galaxies, and their magnitudes in any band."""

from __future__ import annotations

__all__ = ("BAND_WAVELENGTHS", "galaxy_colors", "magnitudes_in", "star_colors")

from collections.abc import Iterable

import numpy as np

BAND_WAVELENGTHS = {
    "u": 368.0, "B": 440.0, "g": 480.0, "BP": 510.0, "V": 550.0, "r": 622.0, "G": 625.0, "VR": 625.0,
    "R": 650.0, "i": 755.0, "RP": 780.0, "I": 800.0, "z": 869.0, "y": 971.0, "Y": 990.0,
}  # fmt: skip
"""Mean wavelengths of the bands whose colours are known, nm; "i" and "I" differ, as in the common systems."""

_SED_BANDS = ("u", "g", "r", "i", "z", "y")
_WAVELENGTHS = np.array([BAND_WAVELENGTHS[band] for band in _SED_BANDS])

_LOCUS_G_I = np.array([-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
_LOCUS = {
    "u-g": np.array([0.60, 0.95, 1.13, 1.89, 2.45, 2.63, 2.60, 2.60, 2.64]),
    "g-r": np.array([-0.30, 0.02, 0.38, 0.73, 1.10, 1.33, 1.42, 1.46, 1.54]),
    "i-z": np.array([-0.12, -0.05, 0.02, 0.12, 0.21, 0.36, 0.57, 0.81, 1.06]),
    "z-y": np.array([-0.06, -0.02, 0.02, 0.05, 0.09, 0.15, 0.26, 0.40, 0.58]),
}
"""Colours of stars along g - i: values of the median SDSS locus of Covey et al. 2007 (AJ 134, 2398).

Their fits begin at g - i = 0.4 and have no y: what is bluer, and z - y, is a plausible continuation.
"""

_LOCUS_SCATTER = {"u-g": 0.06, "g-r": 0.02, "i-z": 0.02, "z-y": 0.02}
_GALAXY_SCATTER = {"u-g": 0.20, "g-r": 0.05, "i-z": 0.05, "z-y": 0.05}

_TURN_OFF, _DWARFS = (0.65, 0.22), (2.20, 0.45)
"""Mean and standard deviation of g - i of stars near the turn-off and of M dwarfs."""


def star_colors(magnitude: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the spectral energy distributions of stars.

    Stars lie on a locus along g - i with little scatter. There are two kinds, near the main sequence's
    turn-off and M dwarfs; the share of the red dwarfs grows with the magnitude.

    Parameters
    ----------
    magnitude
        Magnitudes in the reference band, shape (n,).
    rng
        Random numbers.

    Returns
    -------
    numpy.ndarray
        Magnitudes in ugrizy relative to r, shape (n, 6).
    """
    n = len(magnitude)
    red = rng.random(n) < 0.15 + 0.6 / (1 + np.exp(-0.7 * (magnitude - 20.5)))
    mean, scatter = (
        np.where(red, dwarfs, turn_off) for turn_off, dwarfs in zip(_TURN_OFF, _DWARFS, strict=True)
    )
    g_i = np.clip(rng.normal(mean, scatter), _LOCUS_G_I[0], _LOCUS_G_I[-1])
    locus = {name: np.interp(g_i, _LOCUS_G_I, values) for name, values in _LOCUS.items()}
    return _distributions(g_i, locus, _LOCUS_SCATTER, rng)


def galaxy_colors(magnitude: np.ndarray, bulge_fraction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the spectral energy distributions of galaxies: redder where brighter or dominated by the bulge.

    Parameters
    ----------
    magnitude
        Magnitudes in the reference band, shape (n,).
    bulge_fraction
        Share of the bulge in the light, shape (n,).
    rng
        Random numbers.

    Returns
    -------
    numpy.ndarray
        Magnitudes in ugrizy relative to r, shape (n, 6).
    """
    mean = 0.75 + 0.7 * bulge_fraction - 0.06 * (np.clip(magnitude, 16, 27) - 23)
    g_i = np.clip(rng.normal(mean, 0.25), -0.3, 3.0)
    colors = {"u-g": 0.25 + 0.65 * g_i, "g-r": 0.6 * g_i, "i-z": 0.22 * g_i, "z-y": 0.12 * g_i}
    return _distributions(g_i, colors, _GALAXY_SCATTER, rng)


def magnitudes_in(
    bands: Iterable[str], *, distribution: np.ndarray, magnitude: np.ndarray, reference_band: str
) -> dict[str, np.ndarray]:
    """Return the magnitudes of objects in some bands.

    Between the six bands of a distribution it is interpolated linearly in wavelength. A band whose wavelength
    is not in `BAND_WAVELENGTHS` gets the magnitudes of the reference band: in it, and if the reference band
    itself is such a band then in all, objects have no colour.

    Parameters
    ----------
    bands
        Names of bands.
    distribution
        Magnitudes in ugrizy relative to r, shape (n, 6).
    magnitude
        Magnitudes in the reference band, shape (n,).
    reference_band
        Band of these magnitudes.

    Returns
    -------
    dict [str, numpy.ndarray]
        AB magnitudes by band, shape (n,) each.
    """
    found = {}
    for band in bands:
        known = {band, reference_band} <= set(BAND_WAVELENGTHS)
        color = _at(distribution, band) - _at(distribution, reference_band) if known else 0.0
        found[band] = magnitude + color
    return found


def _at(distribution: np.ndarray, band: str) -> np.ndarray:
    """Return magnitudes relative to r in a known band; beyond the ends those of the last band."""
    wavelength = np.clip(BAND_WAVELENGTHS[band], _WAVELENGTHS[0], _WAVELENGTHS[-1])
    upper = int(np.clip(np.searchsorted(_WAVELENGTHS, wavelength), 1, len(_WAVELENGTHS) - 1))
    lower = upper - 1
    share = (wavelength - _WAVELENGTHS[lower]) / (_WAVELENGTHS[upper] - _WAVELENGTHS[lower])
    return np.asarray((1 - share) * distribution[:, lower] + share * distribution[:, upper])


def _distributions(
    g_i: np.ndarray, colors: dict[str, np.ndarray], scatter: dict[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Return magnitudes relative to r from g - i and the other colours, with scatter in all but g - i."""
    drawn = {name: values + rng.normal(scale=scatter[name], size=len(g_i)) for name, values in colors.items()}
    g = drawn["g-r"]
    i = g - g_i
    z = i - drawn["i-z"]
    return np.stack([g + drawn["u-g"], g, np.zeros(len(g_i)), i, z, z - drawn["z-y"]], axis=1)
