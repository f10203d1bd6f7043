"""The light of objects too faint to be found, from the shape of the distribution of pixels.

The noise is symmetric, the light of objects is not.  Let x be the pixels of a smoothed image without
background, in units of their noise, and phi(t) the mean of exp(i t x).  Symmetric noise of any shape and
width leaves the phase of phi alone.  So ``arg(phi) / t`` is the mean of the pixels, undetected light and all,
for small t; for larger t the phases of bright pixels cancel, and it comes closer to the level without that
light.  If the number of objects rises with decreasing flux as a power law, N(> f) ~ f^-alpha, up to the x_max
where they are found, and g(t) is the integral from 0 to x_max of sin(t x) / t * x^(-1 - alpha) dx, then

    arg(phi) / t = sky + light * g(t) / g(0),

whatever their profiles are: a profile changes the number of pixels of each brightness by a common factor.
"""

from __future__ import annotations

__all__ = ("faint_light",)

import math

import numpy as np

_LOW, _HIGH = 0.1, 1.5
"""Where the phase is used, radians per sigma.  At 2, noise is twice as large; at 1, the lever is short."""

_WIDEST = 6.0
"""Pixels farther than this from the middle, in sigma, are not noise."""

_BIN = 0.02


def faint_light(pixels: np.ndarray, *, sigma: float, limit: float, index: float, area: float) -> float:
    """Return the mean light of undetected objects, in the unit of the pixels; 0 if it is lost in the noise.

    Parameters
    ----------
    pixels
        Pixels of the smoothed image without background and detected objects.
    sigma
        Their noise.
    limit
        Brightness above which objects have been left out, in units of the noise.
    index
        The power alpha of the counts, above 0 and below 1.
    area
        Number of pixels that share their noise, ``4 pi s^2`` after smoothing with a Gaussian of width s.

    Notes
    -----
    An estimate L with the error e is shrunk by ``1 - e^2 / L^2``: images too small for it get hardly any.
    """
    edges = np.linspace(-_WIDEST, _WIDEST, round(2 * _WIDEST / _BIN) + 1)
    if not (len(pixels) and sigma > 0):
        return 0.0
    number = np.histogram(pixels * (1.0 / sigma), len(edges) - 1, (edges[0], edges[-1]))[0]
    if not number.any():
        return 0.0
    t = np.array([_LOW, _HIGH])
    middle = 0.5 * (edges[1:] + edges[:-1])
    level = np.angle(np.exp(1j * np.outer(t, middle)) @ number) / t
    lever = -float(np.diff(_template(t, limit, index))[0])
    light = float(level[0] - level[1]) / lever
    error = math.sqrt(_variance_of_difference() * area / number.sum()) / lever
    return sigma * light * (1.0 - (error / light) ** 2) if light > error else 0.0


def _variance_of_difference() -> float:
    """Return the variance that one Gaussian pixel gives the difference of the two levels."""
    (a, b) = (_LOW, _HIGH)
    return math.sinh(a * a) / (a * a) + math.sinh(b * b) / (b * b) - 2 * math.sinh(a * b) / (a * b)


def _template(t: np.ndarray, limit: float, index: float) -> np.ndarray:
    """Return g(t) / g(0); the integral over x is done in x^(1 - index), where it has no singularity."""
    x = limit * ((np.arange(4000) + 0.5) / 4000) ** (1.0 / (1.0 - index))
    return np.asarray(np.sinc(np.outer(t, x) / np.pi).mean(axis=1))
