"""The simulated camera in a repository, and records of visits with several exposures."""

from __future__ import annotations

from collections.abc import Iterator

import astropy.time
import astropy.units as u
import numpy as np
import pytest
from astro_metadata_translator import ObservationInfo, makeObservationInfo
from lsst.daf.butler import Butler
from lsst.pipe.base import Instrument
from lsst.sphgeom import LonLat, UnitVector3d

from secondlight.instruments.records import corner_polygon, register_observation
from secondlight.instruments.repository import make_repository, open_or_make_repository
from secondlight.instruments.sim_cam import SimCam

BEGIN = astropy.time.Time("2025-10-03T02:00:00", scale="tai")


def snap(visit: int, number: int, *, detector: int = 0) -> ObservationInfo:
    begin = BEGIN + (20.0 * number) * u.s
    return makeObservationInfo(
        instrument="SimCam",
        exposure_id=visit + number,
        visit_id=visit,
        detector_num=detector,
        detector_name=f"R{detector}",
        physical_filter="r",
        exposure_time=15.0 * u.s,
        datetime_begin=begin,
        datetime_end=begin + 15.0 * u.s,
        object="field",
        observation_type="science",
        observation_id=f"SimCam-{visit + number}",
        observing_day=20251002,
        observation_counter=visit + number,
        boresight_airmass=1.25,
        has_simulated_content=True,
    )


def square(ra: float):
    return corner_polygon(np.array([ra, ra + 0.1, ra + 0.1, ra]), np.array([-5.0, -5.0, -4.9, -4.9]))


@pytest.fixture
def butler(tmp_path) -> Iterator[Butler]:
    with make_repository(tmp_path / "repo") as butler:
        SimCam().register(butler.registry)
        yield butler


def test_the_middleware_finds_the_camera(butler):
    SimCam().register(butler.registry)
    assert isinstance(Instrument.from_string("secondlight.instruments.sim_cam.SimCam"), SimCam)
    assert isinstance(Instrument.fromName("SimCam", butler.registry), SimCam)
    assert [r.name for r in butler.query_dimension_records("visit_system")] == ["by-group"]
    with pytest.raises(NotImplementedError, match="SimCam"):
        SimCam().getRawFormatter({})


def test_two_snaps_make_one_visit(butler):
    register_observation(butler, SimCam(), [snap(1001, 0), snap(1001, 1)], band="r", region=square(30.0))
    exposures = sorted(butler.query_dimension_records("exposure"), key=lambda record: record.id)
    assert [e.id for e in exposures] == [1001, 1002]
    assert {e.group for e in exposures} == {"SimCam-1001"}
    assert [(e.seq_num, e.seq_start, e.seq_end) for e in exposures] == [
        (1001, 1001, 1002),
        (1002, 1001, 1002),
    ]
    assert all(e.has_simulated and e.exposure_time == 15.0 for e in exposures)
    (visit,) = butler.query_dimension_records("visit")
    assert (visit.id, visit.name, visit.exposure_time, visit.day_obs) == (1001, "SimCam-1001", 30.0, 20251002)
    assert visit.zenith_angle == pytest.approx(np.degrees(np.arccos(0.8)))
    assert visit.timespan.begin == exposures[0].timespan.begin
    assert visit.timespan.end == exposures[1].timespan.end
    with butler.query() as query:
        definitions = {
            (r.exposure, r.visit)
            for r in query.join_dimensions(["exposure", "visit"]).dimension_records("visit_definition")
        }
    assert definitions == {(1001, 1001), (1002, 1001)}


def test_regions_of_detectors_and_of_their_visit(butler):
    for detector in (0, 1):
        for _ in range(2):  # repeated without harm
            register_observation(
                butler,
                SimCam(),
                [snap(1001, 0, detector=detector)],
                band="r",
                region=square(30.0 + 0.2 * detector),
            )
    regions = {r.detector: r.region for r in butler.query_dimension_records("visit_detector_region")}
    assert regions == {0: square(30.0), 1: square(30.2)}
    (visit,) = butler.query_dimension_records("visit")
    assert all(visit.region.contains(region) for region in regions.values())
    assert visit.region.contains(UnitVector3d(LonLat.fromDegrees(30.15, -4.95)))
    assert [r.full_name for r in butler.query_dimension_records("detector")] == ["R0", "R1"]


def test_a_repository_is_made_or_opened(tmp_path):
    for _ in range(2):
        with open_or_make_repository(tmp_path / "repo") as butler:
            SimCam().register(butler.registry)
    with Butler.from_config(str(tmp_path / "repo")) as butler:
        assert [r.name for r in butler.query_dimension_records("instrument")] == ["SimCam"]
