"""Where an image lies on the sky (spec reprocess 20.2)."""

from __future__ import annotations

__all__ = ("box_corners", "pixel_scale", "zenith_distance")

import functools
import math
import warnings
from typing import Any

import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.coordinates import AltAz, SkyCoord
from astropy.utils import iers
from lsst.images import Box, SkyProjection

_END_OF_TIME = 1e6
"""A day that no observation reaches, MJD."""


def box_corners(bbox: Box) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the outer corners of the corner pixels: lower left, lower right, upper right, left.

    These lie half a pixel outside the centres of the first and last pixels.
    """
    x0, x1 = bbox.x.start - 0.5, bbox.x.stop - 0.5
    y0, y1 = bbox.y.start - 0.5, bbox.y.stop - 0.5
    return np.array([x0, x1, x1, x0]), np.array([y0, y0, y1, y1])


def pixel_scale(sky_projection: SkyProjection[Any], *, x: float, y: float) -> float:
    """Return the side of a square of the area of the pixel about a position, arcsec."""
    sky = sky_projection.pixel_to_sky(x=x + np.array([-0.5, 0.5, 0, 0]), y=y + np.array([0, 0, -0.5, 0.5]))
    left, right, below, above = sky.cartesian.xyz.value.T
    area = np.linalg.norm(np.cross(right - left, above - below))
    return math.degrees(math.sqrt(float(area))) * 3600


@functools.cache
def _earth_rotation() -> iers.IERS:
    """Return how the Earth turned, from the file that comes with astropy; later, as at its end.

    astropy takes half a second to read its own tables, longer than all the other statistics take together.
    """
    rows = np.loadtxt(iers.IERS_B_FILE, usecols=(4, 5, 6, 7))
    rows = np.append(rows, [[_END_OF_TIME, *rows[-1, 1:]]], axis=0)
    units = {"MJD": u.d, "PM_x": u.arcsec, "PM_y": u.arcsec, "UT1_UTC": u.s}
    return iers.IERS(
        {name: values * unit for (name, unit), values in zip(units.items(), rows.T, strict=True)}
    )


def zenith_distance(sky: SkyCoord, obs_info: ObservationInfo | None) -> float:
    """Return the zenith distance in the middle of an observation, degrees; NaN without place or time."""
    if obs_info is None or obs_info.location is None or obs_info.datetime_begin is None:
        return math.nan
    time = obs_info.datetime_begin
    if obs_info.datetime_end is not None:
        time = time + 0.5 * (obs_info.datetime_end - time)
    # A far-off date is taken as it comes.
    with warnings.catch_warnings(action="ignore"), iers.earth_orientation_table.set(_earth_rotation()):
        altitude = sky.transform_to(AltAz(obstime=time, location=obs_info.location)).alt
    return 90.0 - float(altitude.deg)
