"""Bad columns and hot pixels."""

from __future__ import annotations

import numpy as np
import pytest

from secondlight.simulate.defects import make_defects
from secondlight.simulate.scene import Scene, load_scene


def _scene(columns: float, pixels: float, **settings: object) -> Scene:
    return load_scene(
        "tiny", settings={"electronics.bad_columns": columns, "electronics.hot_pixels": pixels} | settings
    )


def test_defects_belong_to_the_detector() -> None:
    scene = _scene(3.0, 20.0)
    first, again, other = (make_defects(scene, detector) for detector in (0, 0, 1))
    np.testing.assert_array_equal(first.bad, again.bad)
    np.testing.assert_array_equal(first.dark_current, again.dark_current)
    assert (first.bad != other.bad).any()
    assert first.bad.shape == (scene.camera.height, scene.camera.width)


def test_defects_are_as_many_as_the_scene_says() -> None:
    scene = _scene(4.0, 50.0)
    detectors = [make_defects(scene, detector) for detector in range(60)]
    # The upper end of every bad column is bad; neighbours of a wide one are counted once.
    starts = [np.diff(d.bad_columns[-1].astype(int), prepend=0) == 1 for d in detectors]
    assert np.mean([s.sum() for s in starts]) == pytest.approx(4.0, abs=4 * np.sqrt(4 / 60))
    assert np.mean([d.hot_pixels.sum() for d in detectors]) == pytest.approx(50, abs=4 * np.sqrt(50 / 60))


def test_some_columns_are_partly_bad_and_reach_the_far_end() -> None:
    bad = np.concatenate(
        [make_defects(_scene(4.0, 0.0), detector).bad_columns for detector in range(20)], axis=1
    )
    heights = bad.sum(axis=0)[bad.any(axis=0)]
    assert (heights == len(bad)).any()
    assert (heights < len(bad)).any()
    assert bad[-1, bad.any(axis=0)].all()


def test_no_defects() -> None:
    defects = make_defects(_scene(0.0, 0.0), 0)
    charge = np.full(defects.bad.shape, 9.0)
    defects.add_dark_current(charge, 30.0, np.random.default_rng(1))
    defects.spoil_columns(charge)
    assert not defects.bad.any()
    assert (charge == 9.0).all()


def test_bad_columns_show_a_part_of_the_charge_or_a_level() -> None:
    scene = _scene(200.0, 0.0)
    defects = make_defects(scene, 0)
    dim, bright = np.full(defects.bad.shape, 100.0), np.full(defects.bad.shape, 1000.0)
    for charge in (dim, bright):
        defects.spoil_columns(charge)
    where = defects.bad_columns
    stuck = where & (dim == bright)
    assert stuck.any()
    assert (where & ~stuck).any()
    assert (bright[where & ~stuck] < 1000).all()
    np.testing.assert_allclose(bright[where & ~stuck], 10 * dim[where & ~stuck])
    assert stuck[-1].sum() / where[-1].sum() == pytest.approx(0.3, abs=0.15)
    assert (dim[~where] == 100).all()


def test_hot_pixels_collect_charge_with_time() -> None:
    defects = make_defects(_scene(0.0, 300.0), 0)
    short, long = np.zeros(defects.bad.shape), np.zeros(defects.bad.shape)
    defects.add_dark_current(short, 10.0, np.random.default_rng(1))
    defects.add_dark_current(long, 40.0, np.random.default_rng(2))
    hot = defects.hot_pixels
    np.testing.assert_allclose(long[hot] / short[hot], 4.0, rtol=0.5)
    assert np.median(long[hot] / short[hot]) == pytest.approx(4.0, rel=0.03)
    assert not long[~hot].any()
