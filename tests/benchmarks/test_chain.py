from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from benchmarks.accuracy.chain import ImageId, Survey

from secondlight.catalog.mask_planes import mask_of
from secondlight.simulate.detector import simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.render import add_light, stamp_sizes
from secondlight.simulate.scene import Scene, load_scene

IMAGE = ImageId(1003, 1)


class Datasets:
    """A butler that has the simulated datasets of one detector and visit."""

    def __init__(self, scene: Scene) -> None:
        objects = make_objects(scene)
        made = simulate_detector(scene, objects, visit=IMAGE.visit, detector=IMAGE.detector)
        shuffled = objects[np.random.default_rng(1).permutation(len(objects))]
        self.datasets = {
            "sim_scene": [scene],
            "sim_objects": [shuffled],
            "sim_truth": [made.truth],
            "sim_psf": [made.psf],
            "sim_background": [made.background],
            "sim_artifacts": made.artifacts,
            "postISRCCD": made.images,
        }

    def get(self, name: str, *, exposure: int = IMAGE.visit, **data_id: Any) -> Any:
        """Return a dataset of the only detector and visit."""
        assert data_id["instrument"] == "SimCam"
        return self.datasets[name][exposure - IMAGE.visit]


@pytest.mark.parametrize("snaps", [1, 2])
def test_the_truth_explains_the_image(snaps: int) -> None:
    """Light of all objects and sky, taken from the image, leave nothing but noise."""
    survey = Survey(Datasets(load_scene("tiny", settings={"snaps": snaps})), "SimCam")  # type: ignore[arg-type]
    truth, image = survey.truth(IMAGE), survey.post_isr_image(IMAGE)
    assert truth.light is not None
    assert truth.artifacts is not None
    assert truth.background is not None
    light = dataclasses.replace(truth.light, flux=truth["counts"])
    expected = np.zeros(truth.bbox.shape)
    add_light(expected, light, sizes=stamp_sizes(light, surface_brightness=0.02 * truth.noise))
    residual = image.image.array - expected - truth.background
    sound = ~truth.artifacts.array.any(axis=-1) & ~mask_of(image.mask, ["BAD", "SAT", "INTRP", "NO_DATA"])
    pull = residual[sound] / np.sqrt(image.variance.array[sound])
    assert np.mean(pull) == pytest.approx(0.0, abs=0.02)
    assert np.std(pull) == pytest.approx(1.0, abs=0.02)
    assert np.std(residual[sound & (expected < 0.1 * truth.noise)]) == pytest.approx(truth.noise, rel=0.02)
    bright = pull[expected[sound] > 3 * truth.noise]
    assert len(bright) > 500
    assert np.std(bright) == pytest.approx(1.0, abs=0.1)
