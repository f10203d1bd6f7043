"""How many objects there are, how bright they are, and where on the sky."""

from __future__ import annotations

__all__ = ("PowerLaw", "circle_area", "clustered_in_circle", "displace", "uniform_in_circle")

import dataclasses
import math

import numpy as np

_ARCMIN2 = (180 * 60 / math.pi) ** 2
"""Square arcminutes per steradian."""

_BORDER = 5.0
"""Groups are made this many of their radii outside a circle too, so that its edge is not depleted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """Counts of objects: ``density * 10**(slope * (m - pivot))`` per square arcminute brighter than m.

    Parameters
    ----------
    density
        Objects per square arcminute brighter than the pivot, if the law held for the brightest too.
    slope
        Slope of the logarithmic counts, per magnitude.
    pivot
        Magnitude at which the density is given.
    bright, faint
        Range of magnitudes in which there are objects.
    """

    density: float
    slope: float
    pivot: float
    bright: float
    faint: float

    def cumulative(self, magnitude: np.ndarray | float) -> np.ndarray:
        """Return the number per square arcminute between the bright end and a magnitude."""
        shape = 10 ** (self.slope * (np.clip(magnitude, self.bright, self.faint) - self.pivot))
        return np.asarray(self.density * (shape - 10 ** (self.slope * (self.bright - self.pivot))))

    def mean_number(self, area: float) -> float:
        """Return the mean number of objects in an area given in square arcminutes."""
        return float(self.cumulative(self.faint)) * area

    def magnitudes(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return magnitudes that follow the counts, by inverting them."""
        bright, faint = (10 ** (self.slope * (end - self.pivot)) for end in (self.bright, self.faint))
        drawn = self.pivot + np.log10(bright + (faint - bright) * rng.random(n)) / self.slope
        return np.asarray(np.clip(drawn, self.bright, self.faint))


def circle_area(radius: float) -> float:
    """Return the area of a circle on the sphere, square arcminutes, from its radius in degrees."""
    # Twice the squared sine of half the angle does not lose the digits that 1 - cos does.
    return 4 * math.pi * math.sin(0.5 * math.radians(radius)) ** 2 * _ARCMIN2


def uniform_in_circle(
    n: int, *, ra: float, dec: float, radius: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions spread evenly over a circle on the sphere.

    Parameters
    ----------
    n
        Number of positions.
    ra, dec
        Centre of the circle, degrees.
    radius
        Its radius, degrees, below 90.
    rng
        Random numbers.

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        Right ascension and declination, degrees.
    """
    # The area of a spherical cap grows with sin^2 of half its radius.
    half = np.arcsin(math.sin(0.5 * math.radians(radius)) * np.sqrt(rng.random(n)))
    distance = np.degrees(np.tan(2 * half)) * 3600
    angle = 2 * math.pi * rng.random(n)
    return displace(
        ra=np.full(n, ra), dec=np.full(n, dec), east=distance * np.sin(angle), north=distance * np.cos(angle)
    )


def clustered_in_circle(
    mean_number: float,
    *,
    members: float,
    group_radius: float,
    ra: float,
    dec: float,
    radius: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions of objects in groups (a Neyman-Scott process), cut to a circle on the sphere.

    Groups are spread evenly, have a Poisson number of members each, and Gaussian profiles.

    Parameters
    ----------
    mean_number
        Mean number of objects in the circle.
    members
        Mean number of members of a group.
    group_radius
        Standard deviation of the members' distances from the centre in each coordinate, arcsec.
    ra, dec
        Centre of the circle, degrees.
    radius
        Its radius, degrees.
    rng
        Random numbers.

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        Right ascension and declination, degrees.
    """
    outer = radius + _BORDER * group_radius / 3600
    n_groups = rng.poisson(mean_number / members * circle_area(outer) / circle_area(radius))
    sizes = rng.poisson(members, n_groups)
    centers = uniform_in_circle(n_groups, ra=ra, dec=dec, radius=outer, rng=rng)
    east, north = rng.normal(scale=group_radius, size=(2, sizes.sum()))
    found = displace(
        ra=np.repeat(centers[0], sizes), dec=np.repeat(centers[1], sizes), east=east, north=north
    )
    inside = _chord(ra, dec, *found) <= 2 * math.sin(0.5 * math.radians(radius))
    return found[0][inside], found[1][inside]


def displace(
    *, ra: np.ndarray, dec: np.ndarray, east: np.ndarray, north: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions at offsets in the tangent plane of others.

    Parameters
    ----------
    ra, dec
        Positions, degrees, shape (n,).
    east, north
        Offsets in the plane that touches the sphere there (gnomonic projection), arcsec, shape (n,).

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        Right ascension in [0, 360) and declination, degrees.
    """
    a, d = np.radians(ra), np.radians(dec)
    xi, eta = np.radians(east / 3600), np.radians(north / 3600)
    # Along the meridian of the position, across it, and to the pole.
    along, pole = np.cos(d) - eta * np.sin(d), np.sin(d) + eta * np.cos(d)
    moved_ra = np.degrees(a + np.arctan2(xi, along)) % 360
    # The remainder of a tiny negative angle rounds to 360.
    moved_ra = np.where(moved_ra == 360, 0.0, moved_ra)
    return moved_ra, np.degrees(np.arctan2(pole, np.hypot(xi, along)))


def _chord(ra0: float, dec0: float, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return straight distances between one point and others of the unit sphere."""
    a0, d0, a, d = (np.radians(angle) for angle in (ra0, dec0, ra, dec))
    hav = np.sin(0.5 * (d - d0)) ** 2 + np.cos(d0) * np.cos(d) * np.sin(0.5 * (a - a0)) ** 2
    return np.asarray(2 * np.sqrt(hav))
