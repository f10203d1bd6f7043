"""Dimension records of one detector of one visit, made from its observation metadata and sky region."""

from __future__ import annotations

__all__ = ("corner_polygon", "detector_region", "register_observation")

from collections.abc import Sequence
from typing import Any

import numpy as np
from astro_metadata_translator import ObservationInfo
from lsst.daf.butler import Butler, Timespan
from lsst.images import VisitImage
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

from .base import CameraInstrument


def detector_region(image: VisitImage) -> ConvexPolygon:
    """Return the region of the sky inside the outer corners of an image."""
    box = image.bbox
    x = np.array([box.x.start, box.x.stop, box.x.stop, box.x.start]) - 0.5
    y = np.array([box.y.start, box.y.start, box.y.stop, box.y.stop]) - 0.5
    sky = image.sky_projection.pixel_to_sky(x=x, y=y)
    return corner_polygon(sky.ra.deg, sky.dec.deg)


def corner_polygon(ra: np.ndarray, dec: np.ndarray) -> ConvexPolygon:
    """Return the polygon around corners given in degrees."""
    return ConvexPolygon.convexHull(
        [UnitVector3d(LonLat.fromDegrees(r, d)) for r, d in zip(ra, dec, strict=True)]
    )


def register_observation(
    butler: Butler,
    instrument: CameraInstrument,
    exposures: Sequence[ObservationInfo],
    *,
    band: str,
    region: ConvexPolygon,
) -> None:
    """Insert the records of one detector in a visit, as far as they are missing.

    These are the records of its detector and filter, of day, group, exposures and visit, and its region. The
    region of the visit grows to the convex hull of all its detectors registered so far.

    Parameters
    ----------
    butler
        Repository, open for writing.
    instrument
        The camera; registered.
    exposures
        Observation metadata of the visit's exposures (the snaps), the first one first.
    band
        Band of the filter.
    region
        Region of the sky the detector saw.
    """
    first: Any = exposures[0]
    registry = butler.registry
    visit, detector = int(first.visit_id), int(first.detector_num)
    data_id = {"instrument": instrument.name}
    instrument.register_detector(registry, detector, str(first.detector_name))
    instrument.register_filter(registry, str(first.physical_filter), band)
    known = next(
        iter(butler.query_dimension_records("visit", instrument=instrument.name, visit=visit, explain=False)),
        None,
    )
    if known is None:
        _insert_visit(butler, instrument, exposures, region)
    elif not known.region.contains(region):
        hull = ConvexPolygon.convexHull([*known.region.getVertices(), *region.getVertices()])
        registry.insertDimensionData("visit", known.toDict() | {"region": hull}, replace=True)
    registry.insertDimensionData(
        "visit_detector_region",
        data_id | {"visit": visit, "detector": detector, "region": region},
        skip_existing=True,
    )


def _insert_visit(
    butler: Butler, instrument: CameraInstrument, exposures: Sequence[ObservationInfo], region: ConvexPolygon
) -> None:
    """Insert a visit and its exposures, with the days and the group they belong to."""
    infos: Sequence[Any] = exposures
    first = infos[0]
    registry = butler.registry
    visit = int(first.visit_id)
    group = str(first.observation_id)
    data_id = {"instrument": instrument.name}
    for day in sorted({int(info.observing_day) for info in infos}):
        registry.syncDimensionData("day_obs", data_id | {"id": day})
    registry.syncDimensionData("group", data_id | {"name": group})
    counters = [info.observation_counter for info in infos]
    sequence = {"group": group, "seq_start": counters[0], "seq_end": counters[-1]}
    records = [_shared_record([info]) | _exposure_record(info) | sequence for info in exposures]
    registry.insertDimensionData("exposure", *records)
    record = {"id": visit, "name": group, "seq_num": first.observation_counter, "region": region}
    registry.insertDimensionData("visit", _shared_record(exposures) | record)
    definitions = [data_id | {"exposure": record["id"], "visit": visit} for record in records]
    registry.insertDimensionData("visit_definition", *definitions)
    registry.insertDimensionData(
        "visit_system_membership",
        data_id | {"visit": visit, "visit_system": instrument.visit_system.id},
    )


def _shared_record(exposures: Sequence[ObservationInfo]) -> dict[str, Any]:
    """Return what the record of an exposure has in common with that of a visit of several."""
    infos: Sequence[Any] = exposures
    info = infos[0]
    return {
        "instrument": info.instrument,
        "physical_filter": info.physical_filter,
        "day_obs": int(info.observing_day),
        "exposure_time": sum(i.exposure_time.to_value("s") for i in infos),
        "target_name": info.object or None,
        "observation_reason": info.observation_type,
        "science_program": info.science_program or None,
        "zenith_angle": _zenith_angle(info.boresight_airmass),
        "timespan": Timespan(begin=info.datetime_begin, end=infos[-1].datetime_end),
    }


def _exposure_record(exposure: ObservationInfo) -> dict[str, Any]:
    """Return what only the record of an exposure has."""
    info: Any = exposure
    tracking = info.tracking_radec
    return {
        "id": int(info.exposure_id),
        "obs_id": info.observation_id,
        "seq_num": info.observation_counter,
        "observation_type": info.observation_type,
        "tracking_ra": None if tracking is None else float(tracking.icrs.ra.deg),
        "tracking_dec": None if tracking is None else float(tracking.icrs.dec.deg),
        "has_simulated": bool(info.has_simulated_content),
        "can_see_sky": True,
    }


def _zenith_angle(airmass: float | None) -> float | None:
    """Return the zenith angle in degrees of a plane-parallel atmosphere."""
    return None if airmass is None else float(np.degrees(np.arccos(min(1.0, 1.0 / airmass))))
