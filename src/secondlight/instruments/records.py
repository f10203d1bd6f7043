"""Dimension records of one detector of one visit, made from its observation metadata and sky region."""

from __future__ import annotations

__all__ = ("detector_region", "register_observation")

from typing import Any

import numpy as np
from lsst.daf.butler import Butler, Timespan
from lsst.images import VisitImage
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

from .base import VISIT_SYSTEM, SurveyInstrument


def detector_region(image: VisitImage) -> ConvexPolygon:
    """Return the region of the sky inside the outer corners of an image."""
    box = image.bbox
    x = np.array([box.x.start, box.x.stop, box.x.stop, box.x.start]) - 0.5
    y = np.array([box.y.start, box.y.start, box.y.stop, box.y.stop]) - 0.5
    sky = image.sky_projection.pixel_to_sky(x=x, y=y)
    return ConvexPolygon.convexHull(
        [UnitVector3d(LonLat.fromDegrees(r, d)) for r, d in zip(sky.ra.deg, sky.dec.deg, strict=True)]
    )


def register_observation(butler: Butler, instrument: SurveyInstrument, image: VisitImage) -> None:
    """Insert the records of an image's day, group, exposure, visit and region, as far as they are missing.

    The region of the visit grows to the convex hull of all its detectors ingested so far.
    """
    info: Any = image.obs_info
    registry = butler.registry
    region = detector_region(image)
    visit, exposure = int(info.visit_id), int(info.exposure_id)
    data_id = {"instrument": instrument.name}
    instrument.register_detector(registry, int(info.detector_num), str(info.detector_name))
    instrument.register_filter(registry, str(info.physical_filter), image.band)
    registry.syncDimensionData("day_obs", data_id | {"id": int(info.observing_day)})
    group = str(info.observation_id)
    registry.syncDimensionData("group", data_id | {"name": group})
    shared = _shared_record(image)
    known = next(
        iter(butler.query_dimension_records("visit", instrument=instrument.name, visit=visit, explain=False)),
        None,
    )
    if known is None:
        registry.insertDimensionData("exposure", shared | _exposure_record(image) | {"group": group})
        record = shared | {"id": visit, "name": group, "seq_num": info.observation_counter, "region": region}
        registry.insertDimensionData("visit", record)
        registry.insertDimensionData("visit_definition", data_id | {"exposure": exposure, "visit": visit})
        registry.insertDimensionData(
            "visit_system_membership", data_id | {"visit": visit, "visit_system": VISIT_SYSTEM}
        )
    elif not known.region.contains(region):
        hull = ConvexPolygon.convexHull([*known.region.getVertices(), *region.getVertices()])
        registry.insertDimensionData("visit", known.toDict() | {"region": hull}, replace=True)
    registry.insertDimensionData(
        "visit_detector_region",
        data_id | {"visit": visit, "detector": int(info.detector_num), "region": region},
        skip_existing=True,
    )


def _shared_record(image: VisitImage) -> dict[str, Any]:
    """Return what the records of an exposure and of its visit have in common."""
    info: Any = image.obs_info
    return {
        "instrument": info.instrument,
        "physical_filter": info.physical_filter,
        "day_obs": int(info.observing_day),
        "exposure_time": info.exposure_time.to_value("s"),
        "target_name": info.object or None,
        "observation_reason": info.observation_type,
        "science_program": info.science_program or None,
        "zenith_angle": _zenith_angle(info.boresight_airmass),
        "timespan": Timespan(begin=info.datetime_begin, end=info.datetime_end),
    }


def _exposure_record(image: VisitImage) -> dict[str, Any]:
    """Return what only the record of an exposure has."""
    info: Any = image.obs_info
    tracking = info.tracking_radec
    return {
        "id": int(info.exposure_id),
        "obs_id": info.observation_id,
        "seq_num": info.observation_counter,
        "seq_start": info.observation_counter,
        "seq_end": info.observation_counter,
        "observation_type": info.observation_type,
        "tracking_ra": None if tracking is None else float(tracking.icrs.ra.deg),
        "tracking_dec": None if tracking is None else float(tracking.icrs.dec.deg),
        "has_simulated": False,
        "can_see_sky": True,
    }


def _zenith_angle(airmass: float | None) -> float | None:
    """Return the zenith angle in degrees of a plane-parallel atmosphere."""
    return None if airmass is None else float(np.degrees(np.arccos(min(1.0, 1.0 / airmass))))
