"""What a simulated exposure says about its time, place and pointing."""

from __future__ import annotations

__all__ = ("observation_info",)

import functools

import astropy.units as u
from astro_metadata_translator import ObservationInfo, makeObservationInfo
from astropy.coordinates import Angle, EarthLocation, SkyCoord
from astropy.time import Time

from ..instruments.base import observing_day
from .names import INSTRUMENT, detector_name, filter_name
from .scene import Scene
from .scene_parts import Visit


def observation_info(scene: Scene, visit: Visit, detector: int, snap: int = 0) -> ObservationInfo:
    """Return the observation metadata of one snap of a detector.

    The snaps share the visit's exposure time and follow each other at once. The airmass is the scene's; it
    need not be that of the boresight over the observatory (Cerro Pachon) at that time.

    Parameters
    ----------
    scene
        The survey.
    visit, detector
        What is exposed.
    snap
        Number of the snap in the visit, from 0; the exposure's id is that of the visit plus this.
    """
    duration = visit.exposure_time / scene.snaps * u.s
    begin = Time(visit.mjd, format="mjd", scale="tai") + snap * duration
    begin.format = "isot"
    exposure = visit.id + snap
    return makeObservationInfo(
        instrument=INSTRUMENT,
        telescope="simulated",
        location=_observatory(),
        exposure_id=exposure,
        visit_id=visit.id,
        detector_num=detector,
        detector_name=detector_name(detector),
        physical_filter=filter_name(visit.band),
        exposure_time=duration,
        datetime_begin=begin,
        datetime_end=begin + duration,
        tracking_radec=SkyCoord(visit.ra, visit.dec, unit="deg", frame="icrs"),
        boresight_rotation_angle=Angle(visit.rotation, unit="deg"),
        boresight_rotation_coord="sky",
        boresight_airmass=visit.airmass,
        object=scene.name,
        science_program=scene.name,
        observation_type="science",
        observation_reason="science",
        observation_id=f"{INSTRUMENT}-{exposure}",
        exposure_group=f"{INSTRUMENT}-{visit.id}",
        observing_day=observing_day(begin),
        observation_counter=exposure,
        group_counter_start=visit.id,
        group_counter_end=visit.id + scene.snaps - 1,
        has_simulated_content=True,
        can_see_sky=True,
    )


@functools.cache
def _observatory() -> EarthLocation:
    return EarthLocation.from_geodetic(lon=-70.749417 * u.deg, lat=-30.244639 * u.deg, height=2663 * u.m)
