"""Repair of images that nobody wants to see: a result or a clear error, and the same one every time."""

from __future__ import annotations

import numpy as np
import pytest

from secondlight.catalog.mask_planes import mask_of, plane_name
from secondlight.repair.snap_combine import SnapCombineTask
from secondlight.repair.task import RepairConfig, RepairTask
from tests.scenes import make_visit_image


def repair(image, **kwargs) -> int:
    """Repair an image in place and return the number of cosmic rays."""
    task = RepairTask(config=RepairConfig())
    task.run(image, **kwargs)
    return task.metadata["cosmic_ray_count"]


def assert_untouched_elsewhere(image, before, changed):
    np.testing.assert_array_equal(image.image.array[~changed], before[~changed])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite(value: float):
    image = make_visit_image()
    image.image.array[20:25, 20:25] = value
    image.image.array[60, 60], image.image.array[60, 62], image.image.array[60, 64] = 9000, value, 9000
    image.image.array[0, 0] = value
    before = image.image.array.copy()
    assert repair(image) == 2
    rays = mask_of(image.mask, ["CR"])
    assert sorted(zip(*np.nonzero(rays), strict=True)) == [(60, 60), (60, 64)]
    assert_untouched_elsewhere(image, before, rays)
    assert np.abs(image.image.array[rays]).max() < 50  # what is not finite does not leak into the filling


@pytest.mark.parametrize("value", [0.0, -5.0, np.nan, np.inf])
def test_variance_that_is_none(value: float):
    image = make_visit_image()
    image.image.array[60, 60] = image.image.array[90, 90] = 9000
    image.variance.array[58:63, 58:63] = value
    repair(image)
    rays = mask_of(image.mask, ["CR"])
    assert not rays[60, 60]  # without a variance nothing is significant
    assert rays[90, 90]
    image.variance.array[...] = value
    assert repair(image) == 0


def test_variance_of_nothing_around_a_ray():
    image = make_visit_image()
    image.image.array[60, 60] = 9000
    image.variance.array[59:62, 59:62] = 0
    image.variance.array[60, 60] = 100
    assert repair(image) == 1
    assert abs(image.image.array[60, 60]) < 50


@pytest.mark.parametrize("plane", ["BAD", "SAT", "INTRP", "NO_DATA"])
def test_fully_masked(plane: str):
    image = make_visit_image(width=40, height=40)
    image.image.array[20, 20] = 9000
    image.mask.set(plane_name(plane), np.ones(image.bbox.shape, dtype=bool))
    before = image.image.array.copy()
    assert repair(image) == 0
    np.testing.assert_array_equal(image.image.array, before)


@pytest.mark.parametrize("marked", [True, False])
def test_one_saturated_star_fills_the_image(marked: bool):
    image = make_visit_image(width=60, height=60, x=[30.2], y=[29.7], flux=[1e9], sigma=9.0, gain=1.0)
    full = image.image.array >= 5e4
    image.image.array[full] = 5e4
    image.mask.set("SATURATED", full & marked)
    before = image.image.array.copy()
    assert full.mean() > 0.5
    assert repair(image) == 0
    np.testing.assert_array_equal(image.image.array, before)


@pytest.mark.parametrize("value", [-800.0, -1e9])
def test_dead_columns_make_no_rays(value: float):
    image = make_visit_image(noise=25.0)
    dead = np.zeros(image.bbox.shape, dtype=bool)
    dead[:, 40] = dead[20:90, 100:102] = True
    image.image.array[dead] = value
    image.mask.set("BAD", dead)
    image.image.array[60, 41] = 9000
    assert repair(image) == 1
    assert mask_of(image.mask, ["CR"])[60, 41]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (3, 3), (7, 4), (11, 11)])
def test_image_smaller_than_the_kernel(shape: tuple[int, int]):
    image = make_visit_image(width=shape[1], height=shape[0], add_noise=False, x0=5, y0=-7)
    y, x = shape[0] // 2, shape[1] // 2
    image.image.array[y, x] = 5000
    found = repair(image)
    # A pixel without two neighbours on opposite sides cannot be told from anything.
    assert found == (max(shape) > 2)
    # The filling makes up for the noise that the variance tells of and this image does not have.
    assert image.image.array[y, x] == pytest.approx(0 if found else 5000, abs=12)


def test_defects_of_the_whole_image():
    image = make_visit_image(width=30, height=20)
    image.image.array[...] = np.nan
    repair(image, defects=np.ones(image.bbox.shape, dtype=bool))
    np.testing.assert_array_equal(image.image.array, 0)
    assert mask_of(image.mask, ["INTRP"]).all()
    assert not mask_of(image.mask, ["CR"]).any()


def test_snaps_without_a_good_pixel():
    first, second = (make_visit_image(width=12, height=9, seed=s) for s in (1, 2))
    for snap in (first, second):
        snap.image.array[...] = np.nan
        snap.variance.array[...] = -1
    combined = SnapCombineTask().run([first, second])
    assert np.isnan(combined.image.array).all()


def make_scene():
    rng = np.random.default_rng(8)
    image = make_visit_image(
        width=240, height=200, x=rng.uniform(20, 220, 25), y=rng.uniform(20, 180, 25),
        flux=np.geomspace(500, 1e6, 25), gain=1.2, seed=6,
    )  # fmt: skip
    ys, xs = rng.integers(20, 180, (2, 40))
    for step in range(4):
        image.image.array[ys + step, xs + step // 2] += rng.uniform(100, 5000, 40).astype(np.float32)
    image.mask.set("SATURATED", image.image.array > 3e4)
    return image


def test_two_runs_give_the_same_bits():
    first, second = make_scene(), make_scene()
    for image in (first, second):
        assert repair(image) > 20
    assert first.image.array.tobytes() == second.image.array.tobytes()
    assert first.variance.array.tobytes() == second.variance.array.tobytes()
    assert first.mask == second.mask


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (7, -3), (-11, 5)])
def test_a_shifted_scene_gives_shifted_results(dx: int, dy: int):
    image = make_scene()
    moved = make_scene()
    for name in ("image", "variance"):
        array = getattr(moved, name).array
        array[...] = np.roll(array, (dy, dx), (0, 1))
    moved.mask.clear("SATURATED")
    moved.mask.set("SATURATED", moved.image.array > 3e4)
    for each in (image, moved):
        repair(each)
    inner = np.s_[15:-15, 15:-15]
    for before, after in (
        (image.image.array, moved.image.array),
        (mask_of(image.mask, ["CR"]), mask_of(moved.mask, ["CR"])),
    ):
        np.testing.assert_array_equal(np.roll(before, (dy, dx), (0, 1))[inner], after[inner])
