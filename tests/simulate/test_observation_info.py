"""Metadata of simulated exposures."""

from __future__ import annotations

import pytest

from secondlight.simulate.observation_info import observation_info
from secondlight.simulate.scene import load_scene


def test_metadata_of_snaps_follow_each_other():
    scene = load_scene("tiny", settings={"snaps": 2})
    visit = scene.visits[0]
    first, second = (observation_info(scene, visit, 1, snap) for snap in range(2))
    assert (first.visit_id, first.exposure_id, second.visit_id, second.exposure_id) == (
        1001,
        1001,
        1001,
        1002,
    )
    assert first.datetime_begin.mjd == pytest.approx(visit.mjd, abs=1e-9)
    assert abs((second.datetime_begin - first.datetime_end).to_value("s")) < 1e-6
    total = (second.datetime_end - first.datetime_begin).to_value("s")
    assert total == pytest.approx(visit.exposure_time, abs=1e-6)
    assert first.exposure_group == second.exposure_group
    assert first.physical_filter == "sim_r"
    assert first.boresight_airmass == visit.airmass
    assert first.observing_day == 20251001
