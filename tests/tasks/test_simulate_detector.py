"""The simulation of a detector as a task: in memory, and as a quantum that writes snaps as exposures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from lsst.pipe.base import Struct

from secondlight.simulate.detector import simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.scene import Scene, SceneError, load_scene
from secondlight.tasks.simulate_detector import SimulateDetectorTask

VISIT, DETECTOR = 1003, 1
SETTINGS = {"snaps": 2, "stars.faint": 22.0, "galaxies.faint": 22.0}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_scene("tiny", settings=SETTINGS)


@pytest.fixture(scope="module")
def objects(scene: Scene) -> Table:
    return make_objects(scene)


@pytest.fixture(scope="module")
def result(scene: Scene, objects: Table) -> Struct:
    return SimulateDetectorTask().run(scene=scene, objects=objects, visit=VISIT, detector=DETECTOR)


def test_the_task_gives_what_the_function_makes(scene, objects, result):
    simulated = simulate_detector(scene, objects, visit=VISIT, detector=DETECTOR)
    assert len(result.exposures) == len(result.artifacts) == 2
    for mine, expected in zip(result.exposures, simulated.images, strict=True):
        np.testing.assert_array_equal(mine.image.array, expected.image.array)
    assert (result.exposures[0].image.array != result.exposures[1].image.array).any()
    assert len(result.truth) == len(simulated.truth) > 50
    assert result.background_to_photometric_ratio is None


class FakeButler:
    """Stands in for the context of a quantum: hands out inputs and keeps what is put."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.inputs = inputs
        self.written: dict[Any, Any] = {}
        self.order: list[str] = []

    def get(self, refs: Any) -> dict[str, Any]:
        """Return the inputs."""
        return dict(self.inputs)

    def put(self, value: Any, ref: SimpleNamespace) -> None:
        """Keep an output."""
        self.order.append(ref.name)
        self.written[ref.name, ref.dataId.get("exposure")] = value


def references(visit: int, detector: int, snaps: list[int]) -> SimpleNamespace:
    """Return what a quantum writes to, the exposures in the given order."""
    single = {
        name: SimpleNamespace(name=name, dataId={"visit": visit, "detector": detector})
        for name in ("truth", "psf", "background", "background_to_photometric_ratio")
    }
    several = {
        name: [
            SimpleNamespace(name=name, dataId={"exposure": visit + snap, "detector": detector})
            for snap in snaps
        ]
        for name in ("exposures", "artifacts")
    }
    return SimpleNamespace(**single, **several)


def test_each_snap_is_the_exposure_it_is(scene, objects, result):
    butler = FakeButler({"scene": scene, "objects": objects})
    SimulateDetectorTask().runQuantum(butler, None, references(VISIT, DETECTOR, [1, 0]))
    for snap in (0, 1):
        image = butler.written["exposures", VISIT + snap]
        assert image.obs_info.exposure_id == VISIT + snap
        np.testing.assert_array_equal(image.image.array, result.exposures[snap].image.array)
        assert butler.written["artifacts", VISIT + snap] == result.artifacts[snap]
    assert ("background_to_photometric_ratio", None) not in butler.written
    assert butler.order[-2:] == ["exposures"] * 2, "what is interrupted must not look complete"


def test_illumination_is_written_where_there_is_any(objects):
    scene = load_scene("tiny", settings=SETTINGS | {"snaps": 1, "sky.illumination": 0.05})
    butler = FakeButler({"scene": scene, "objects": objects})
    SimulateDetectorTask().runQuantum(butler, None, references(VISIT, DETECTOR, [0]))
    ratio = butler.written["background_to_photometric_ratio", None]
    assert ratio.array.shape == (scene.camera.height, scene.camera.width)
    assert ratio.array.std() > 0


@pytest.mark.parametrize(("visit", "detector", "text"), [(7, 0, "visit 7"), (VISIT, 9, "9")])
def test_what_the_scene_does_not_have(scene, objects, visit, detector, text):
    with pytest.raises(SceneError, match=text):
        SimulateDetectorTask().run(scene=scene, objects=objects, visit=visit, detector=detector)
