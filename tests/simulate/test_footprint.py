"""Detectors must see simulated sky that belongs to a tract; scenes that do not fit are explained."""

from __future__ import annotations

import pytest
from astropy.coordinates import SkyCoord

from secondlight.simulate.geometry import check_footprint, tracts_of, true_geometry
from secondlight.simulate.scene import Scene, SceneError, load_scene
from secondlight.sky.sky_map import RingsSkyMap, RingsSkyMapConfig

SCENES = ("tiny", "demo", "ccd", "ccd-dense", "ccd-crowded", "survey")


@pytest.mark.parametrize("name", SCENES)
def test_scenes_that_come_with_the_package_fit_their_sky(name):
    check_footprint(load_scene(name))


@pytest.mark.parametrize("name", ["demo", "survey"])
def test_visits_cross_the_border_of_a_tract(name):
    scene = load_scene(name)
    for visit in scene.visits:
        assert len(tracts_of_visit(scene, visit.id)) >= 2


def tracts_of_visit(scene: Scene, visit: int) -> set[int]:
    sky_map = RingsSkyMap(RingsSkyMapConfig(numRings=scene.field.num_rings))
    geometries_ = (true_geometry(scene, scene.visit(visit), detector) for detector in scene.camera.detectors)
    return {tract for geometry in geometries_ for tract in tracts_of(sky_map, geometry)}


def test_a_detector_outside_the_sky_is_named_with_what_would_help():
    with pytest.raises(SceneError) as caught:
        check_footprint(load_scene("demo", settings={"field.radius": 0.08}))
    message = str(caught.value)
    # The one that is farthest out, as astropy sees it.
    scene = load_scene("demo")
    center = SkyCoord(scene.field.ra, scene.field.dec, unit="deg")
    reach = {
        (visit.id, detector): SkyCoord(*true_geometry(scene, visit, detector).corners, unit="deg")
        .separation(center)
        .deg.max()
        for visit in scene.visits
        for detector in scene.camera.detectors
    }
    assert "visit {}, detector {}".format(*max(reach, key=reach.__getitem__)) in message
    assert "0.08 degrees" in message
    enough = float(message.rpartition("at least ")[2].rstrip("."))
    check_footprint(load_scene("demo", settings={"field.radius": enough}))


def test_a_detector_off_the_tracts_is_named():
    every = tracts_of_visit(load_scene("survey"), 1001)
    check_footprint(load_scene("survey", settings={"field.tracts": sorted(every)}))
    with pytest.raises(
        SceneError, match=rf"visit 1001, detector \d: it sees tract .*field.tracts has {min(every)}"
    ):
        check_footprint(load_scene("survey", settings={"field.tracts": [min(every)]}))


def test_tracts_that_the_sky_map_does_not_have():
    with pytest.raises(SceneError, match=r"field\.tracts has 18938, but the tracts .* are 0 to 18937"):
        check_footprint(load_scene("tiny", settings={"field.tracts": [4848, 18938]}))
