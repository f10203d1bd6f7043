"""The sky of a scene: the same stars and galaxies in all its visits, and what they are at the time of one."""

from __future__ import annotations

__all__ = ("Observed", "epoch", "make_objects", "observed_at", "shape_matrices")

import dataclasses

import astropy.units as u
import numpy as np
from astropy.table import Table

from .counts import displace
from .galaxies import make_galaxies
from .randomness import rng
from .scene import Scene
from .scene_parts import Visit
from .stars import make_stars

_DAYS_PER_YEAR = 365.25

_COLUMNS = {
    "ra": (u.deg, "right ascension at the time of the first visit, ICRS"),
    "dec": (u.deg, "declination at the time of the first visit, ICRS"),
    "g_i": (u.mag, "colour g - i"),
    "bulge_fraction": (None, "share of the bulge in the light; 0 for stars"),
    "bulge_radius": (u.arcsec, "half-light radius of the bulge, geometric mean of its axes; 0 for stars"),
    "disk_radius": (u.arcsec, "half-light radius of the disk, geometric mean of its axes; 0 for stars"),
    "half_light_radius": (
        u.arcsec,
        "half-light radius of bulge and disk together before the PSF; 0 for stars",
    ),
    "e1": (None, "observed shape as a reduced shear (a - b) / (a + b); positive stretches along east-west"),
    "e2": (None, "observed shape as a reduced shear; positive stretches along north-east to south-west"),
    "pm_ra": (u.mas / u.yr, "motion towards east, with the factor cos(dec)"),
    "pm_dec": (u.mas / u.yr, "motion towards north"),
    "amplitude": (u.mag, "standard deviation of the magnitude from visit to visit"),
}
"""Units and descriptions of the columns besides ids, kinds and magnitudes."""


@dataclasses.dataclass(frozen=True)
class Observed:
    """What objects are at the time of a visit.

    Parameters
    ----------
    ra, dec
        Positions, ICRS, degrees, shape (n,).
    mag
        AB magnitudes in the band of the visit above the atmosphere, shape (n,).
    """

    ra: np.ndarray
    dec: np.ndarray
    mag: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Observed:
        """Return some of the objects."""
        return Observed(self.ra[rows], self.dec[rows], self.mag[rows])


def make_objects(scene: Scene) -> Table:
    """Draw all objects of a scene.

    Parameters
    ----------
    scene
        Scene; the result follows from it alone.

    Returns
    -------
    astropy.table.Table
        One row per object, stars first, with units and descriptions on the columns: ``object_id`` (from 1),
        ``is_star``, ``ra``, ``dec``, ``mag_<band>`` per band of the scene, ``g_i``, ``bulge_fraction``,
        ``bulge_radius``, ``disk_radius``, ``half_light_radius``, ``e1``, ``e2``, ``pm_ra``, ``pm_dec`` and
        ``amplitude``. Shapes are reduced shears in the frame x = east, y = north: positive ``e1`` stretches
        along east-west, positive ``e2`` along the diagonal from north-east to south-west. Bands whose colours
        are not known have the magnitudes of the reference band (`colors.magnitudes_in`).

    Raises
    ------
    SceneError
        Raised if there is no star.
    """
    stars, galaxies = make_stars(scene), make_galaxies(scene)
    n_stars, n_galaxies = len(stars["ra"]), len(galaxies["ra"])
    magnitudes = {f"mag_{band}": (u.mag, f"AB magnitude in {band}, mean over time") for band in scene.bands}
    table = Table(meta={"scene": scene.name, "seed": scene.seed, "epoch": epoch(scene)})
    table["object_id"] = np.arange(1, n_stars + n_galaxies + 1)
    table["object_id"].info.description = "id of the object, the same in all visits"
    table["is_star"] = np.arange(n_stars + n_galaxies) < n_stars
    table["is_star"].info.description = "is the object a star?"
    for name, (unit, description) in (_COLUMNS | magnitudes).items():
        parts = [stars.get(name, np.zeros(n_stars)), galaxies.get(name, np.zeros(n_galaxies))]
        table[name] = np.concatenate(parts)
        table[name].unit = unit
        table[name].info.description = description
    return table


def epoch(scene: Scene) -> float:
    """Return the time the catalog's positions are for: the begin of the first visit, MJD (TAI)."""
    return min(visit.mjd for visit in scene.visits)


def observed_at(objects: Table, scene: Scene, visit: Visit) -> Observed:
    """Return where objects are and how bright they are at the time of a visit.

    Parameters
    ----------
    objects
        All or some rows of the table from `make_objects`; what is found for an object does not depend on the
        others.
    scene
        Scene they belong to.
    visit
        One of its visits.

    Returns
    -------
    Observed
        Positions and magnitudes of the rows; those of the catalog for objects that neither move nor vary.
    """
    ra, dec, mag = (np.array(objects[name], np.float64) for name in ("ra", "dec", f"mag_{visit.band}"))
    years = (visit.mjd - epoch(scene)) / _DAYS_PER_YEAR
    east, north = (np.asarray(objects[name]) * years / 1000 for name in ("pm_ra", "pm_dec"))
    moving = (east != 0) | (north != 0)
    ra[moving], dec[moving] = displace(ra=ra[moving], dec=dec[moving], east=east[moving], north=north[moving])
    amplitude = np.asarray(objects["amplitude"])
    variable = amplitude > 0
    if variable.any():
        ids = np.asarray(objects["object_id"])[variable]
        # One number per object id from the start of the stream, so that any rows may be asked for.
        deviations = rng(scene, "variability", visit.id).standard_normal(ids.max() + 1)
        mag[variable] += amplitude[variable] * deviations[ids]
    return Observed(ra, dec, mag)


def shape_matrices(objects: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the linear maps from a circle of unit half-light radius to the components of objects.

    Parameters
    ----------
    objects
        Rows of the table from `make_objects`.

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        Maps of bulge and disk to offsets (east, north) in arcsec, shape (n, 2, 2): the radius times the
        area-preserving shear, [[1 + e1, e2], [e2, 1 - e1]] / sqrt(1 - e1^2 - e2^2); zeros for stars.
    """
    e1, e2 = np.asarray(objects["e1"]), np.asarray(objects["e2"])
    stretch = np.stack([np.stack([1 + e1, e2], axis=-1), np.stack([e2, 1 - e1], axis=-1)], axis=-2)
    stretch /= np.sqrt(1 - e1**2 - e2**2)[:, None, None]
    bulge, disk = (np.asarray(objects[name])[:, None, None] for name in ("bulge_radius", "disk_radius"))
    return bulge * stretch, disk * stretch
