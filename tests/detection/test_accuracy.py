"""What is found on a simulated detector, judged as in the benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.accuracy.matching import Image
from benchmarks.detection import Judge, Scene, Steps, measured_positions, run_steps


@pytest.fixture(scope="module")
def searched() -> tuple[Scene, Steps]:
    scene = Scene.simulate("tiny")
    return scene, run_steps(scene.image, scene.sigma)


def test_isolated_stars_are_found_and_sources_are_real(searched: tuple[Scene, Steps]) -> None:
    scene, steps = searched
    truth, peaks = scene.truth, steps.footprints.all_peaks
    measured = measured_positions("secondlight", peaks.x.astype(float), peaks.y.astype(float), truth)
    image = Image(measured, truth)
    height, width = truth.bbox.shape
    inside = (truth["x"] > 10) & (truth["x"] < width - 10) & (truth["y"] > 10) & (truth["y"] < height - 10)
    isolated = inside & (truth["contamination"] < 0.01) & (truth["snr"] > 10) & truth["is_star"]
    found = image.source_of_object >= 0
    assert isolated.sum() > 20
    assert found[isolated].mean() >= 0.99
    assert (image.object_of_source >= 0).mean() > 0.88
    # What is matched to nothing is nearly always light of an object more than two pixels away.
    false = image.object_of_source < 0
    light = Judge(scene, steps.image).true_light(measured.x[false], measured.y[false])
    assert np.sum(light < 1) <= 0.02 * len(measured)


def test_row_of_the_benchmark(searched: tuple[Scene, Steps]) -> None:
    scene, steps = searched
    judge = Judge(scene, steps.image)
    bright = scene.truth["snr"] >= 10
    name, n, *rest = judge.row("truth", scene.truth["x"][bright], scene.truth["y"][bright])
    assert (name, n) == ("truth", str(bright.sum()))
    assert rest[0] == "100.0"
    assert "isolated stars of S/N > 200" in judge.peaks_of_bright_stars(steps.footprints)
    assert set(steps.seconds) == {"repair", "detection", "sky sources"}
