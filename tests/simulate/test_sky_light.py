"""The simulated sky and the illumination pattern, against a loop over pixels."""

from __future__ import annotations

import math

import astropy.units as u
import numpy as np
import pytest

from secondlight.background.fields import render_background
from secondlight.simulate.geometry import true_geometry
from secondlight.simulate.scene import Scene, load_scene
from secondlight.simulate.sky_light import illumination, sky_field, true_background

STRONG = {"sky.gradient": 0.2, "sky.bowl": -0.1, "sky.illumination": 0.08}


def on_edges(scene: Scene, detector: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return field positions (u, v) and values at every 100th pixel."""
    y, x = np.mgrid[0 : scene.camera.height : 100, 0 : scene.camera.width : 100]
    u_, v = true_geometry(scene, scene.visits[0], detector).field(x=x, y=y)
    return u_, v, values[::100, ::100]


def test_sky_is_a_plane_and_a_bowl_over_the_whole_camera():
    """One direction and the two amplitudes explain all detectors, exactly."""
    scene = load_scene("survey", settings=STRONG)
    visit = scene.visits[2]
    level = scene.sky_electrons(visit) / scene.electronics.gain
    samples = [
        on_edges(scene, detector, sky_field(scene, visit, detector).render(dtype=np.float64).array)
        for detector in scene.camera.detectors
    ]
    u_, v, values = (np.concatenate([np.ravel(sample[i]) for sample in samples]) for i in range(3))
    terms = np.stack([np.ones_like(u_), u_, v, u_**2 + v**2], axis=-1)
    (constant, slope_u, slope_v, bowl), *_ = np.linalg.lstsq(terms, values / level)
    assert constant == pytest.approx(1.0, abs=1e-10)
    assert math.hypot(slope_u, slope_v) == pytest.approx(0.2, abs=1e-10)
    assert bowl == pytest.approx(-0.1, abs=1e-10)
    np.testing.assert_allclose(terms @ [constant, slope_u, slope_v, bowl], values / level, rtol=0, atol=1e-10)


def test_each_visit_has_a_gradient_of_its_own():
    scene = load_scene("survey", settings=STRONG)
    slopes = [
        np.arctan2(*sky_field(scene, visit, 4).coefficients[[1, 0], [0, 1]]) for visit in scene.visits[:5]
    ]
    assert np.min(np.diff(np.sort(slopes))) > 1e-3


def test_snaps_share_the_sky_of_the_visit():
    scene = load_scene("tiny", settings={"snaps": 2})
    visit = scene.visits[0]
    snap = sky_field(scene, visit, 1)
    box = snap.bounds.bbox
    total = render_background(true_background(scene, visit, 1), box)
    assert snap.unit == u.adu
    np.testing.assert_allclose(2 * snap.render(dtype=np.float64).array, total, rtol=1e-6)
    alone = load_scene("tiny")
    np.testing.assert_allclose(sky_field(alone, visit, 1).render(dtype=np.float64).array, total, rtol=1e-6)
    assert total.mean() == pytest.approx(scene.sky_electrons(visit) / scene.electronics.gain, rel=0.03)


def test_background_is_a_dataset_like_those_of_the_pipeline():
    scene = load_scene("tiny")
    background = true_background(scene, scene.visits[0], 0)
    assert list(background) == ["subtracted"]
    assert background.subtracted is not None


def test_illumination_is_one_in_the_mean_and_reaches_its_amplitude():
    scene = load_scene("demo", settings=STRONG)
    ratios = [illumination(scene, detector) for detector in scene.camera.detectors]
    pixels = np.stack([ratio.array for ratio in ratios])
    assert pixels.dtype == np.float32
    assert ratios[0].bbox == true_geometry(scene, scene.visits[0], 0).bbox
    assert pixels.mean(dtype=np.float64) == pytest.approx(1.0, abs=0.002)
    assert 0.04 < np.abs(pixels - 1).max() <= 0.08 + 1e-6
    center = [pixels[0][-1, -1], pixels[1][-1, 0], pixels[2][0, -1], pixels[3][0, 0]]
    np.testing.assert_allclose(center, 1 - 0.08 / 3, atol=0.002)


def test_no_illumination_pattern_is_none():
    assert illumination(load_scene("demo"), 0) is None
