"""Exposure and read-out of a whole detector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from secondlight.catalog.mask_planes import mask_of
from secondlight.simulate.read_out import ReadOut, read_out
from secondlight.simulate.scene import Scene, load_scene

QUIET = {"cosmic_rays.rate": 0.0, "electronics.bad_columns": 0.0, "electronics.hot_pixels": 0.0}


def _scene(settings: dict[str, Any]) -> Scene:
    return load_scene("tiny", settings=settings)


def _read(
    scene: Scene, electrons: float | np.ndarray = 1000.0, *, dark: slice | None = None, snap: int = 0
) -> ReadOut:
    shape = (scene.camera.height, scene.camera.width)
    vignetted = np.zeros(shape, dtype=bool)
    if dark is not None:
        vignetted[dark] = True
    light = np.broadcast_to(electrons, shape).astype(np.float64)
    return read_out(scene, scene.visits[0], 0, snap, electrons=light, vignetted=vignetted)


def test_noise_is_what_the_variance_says() -> None:
    scene = _scene(QUIET)
    read = _read(scene)
    gain, noise = scene.electronics.gain, scene.electronics.read_noise
    n = read.counts.size
    variance = (1000 + noise**2) / gain**2
    assert read.counts.dtype == read.variance.dtype == np.float32
    assert read.counts.mean() == pytest.approx(1000 / gain, abs=4 * math.sqrt(variance / n))
    assert read.counts.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / n))
    np.testing.assert_allclose(
        read.variance, np.maximum(read.counts, 0) / gain + (noise / gain) ** 2, rtol=1e-5
    )
    assert not mask_of(read.mask, ["SAT", "BAD", "INTRP", "NO_DATA", "CR"]).any()
    assert not mask_of(read.artifacts, read.artifacts.schema.names).any()


def test_input_is_kept_and_output_follows_from_the_ids() -> None:
    scene = _scene({"snaps": 2, "electronics.full_well": 1e4})
    light = np.full((scene.camera.height, scene.camera.width), 500.0)
    light[100:103, 50] = 1e6
    before = light.copy()
    first, again, other = (_read(scene, light, snap=snap) for snap in (0, 0, 1))
    np.testing.assert_array_equal(light, before)
    np.testing.assert_array_equal(first.counts, again.counts)
    assert first.mask == again.mask
    assert (first.counts != other.counts).mean() > 0.99


def test_read_noise_does_not_depend_on_the_other_artefacts() -> None:
    """Switching an effect off changes only the pixels that it touches."""
    with_rays = _read(_scene(QUIET | {"cosmic_rays.rate": 1.0}))
    without = _read(_scene(QUIET))
    changed = with_rays.counts != without.counts
    assert 0 < changed.mean() < 0.05
    assert not (mask_of(with_rays.artifacts, ["COSMIC_RAY"]) & ~changed).any()


def test_saturated_pixels_and_trails() -> None:
    scene = _scene(QUIET | {"electronics.full_well": 1e4})
    light = np.full((scene.camera.height, scene.camera.width), 500.0)
    light[100:103, 50] = 5e4
    read = _read(scene, light)
    own, trail = (mask_of(read.artifacts, [plane]) for plane in ("SATURATED", "BLEED_TRAIL"))
    full = mask_of(read.mask, ["SAT"])
    assert np.argwhere(own).tolist() == [[100, 50], [101, 50], [102, 50]]
    # 3 x 40,000 electrons fill room for 9,500 in each pixel, half above and half below.
    assert trail.sum() == pytest.approx(3 * 4e4 / 9.5e3, abs=2.5)
    assert not (own & trail).any()
    np.testing.assert_array_equal(full, own | trail)
    level = scene.electronics.full_well / scene.electronics.gain
    np.testing.assert_allclose(read.counts[full], level, atol=5 * scene.electronics.read_noise)


def test_vignetted_pixels_have_read_noise_only() -> None:
    scene = _scene({"cosmic_rays.rate": 20.0, "electronics.hot_pixels": 400.0, "electronics.full_well": 1e4})
    light = np.full((scene.camera.height, scene.camera.width), 500.0)
    light[120, 50] = 1e6
    read = _read(scene, light, dark=slice(0, 100))
    noise = scene.electronics.read_noise / scene.electronics.gain
    dark = mask_of(read.mask, ["NO_DATA"])
    assert dark[:100].all()
    assert not dark[100:].any()
    assert np.abs(read.counts[:100]).max() < 6 * noise
    assert read.counts[:100].std() == pytest.approx(noise, rel=0.03)
    assert mask_of(read.artifacts, ["COSMIC_RAY"])[100:].any()
    told = ~dark | mask_of(read.mask, ["INTRP"])
    assert read.variance[~told].min() == pytest.approx(noise**2)
    assert not mask_of(read.mask, ["SAT"])[:100].any()
    assert not mask_of(read.artifacts, ["COSMIC_RAY", "SATURATED", "BLEED_TRAIL"])[:100].any()
    np.testing.assert_array_equal(mask_of(read.artifacts, ["NO_DATA"]), dark)


@pytest.mark.parametrize("interpolate", [True, False])
def test_defects_are_bad_and_interpolated_if_wanted(interpolate: bool) -> None:
    scene = _scene(
        {
            "cosmic_rays.rate": 0.0,
            "electronics.bad_columns": 6.0,
            "electronics.hot_pixels": 60.0,
            "electronics.interpolate_defects": interpolate,
        }
    )
    read = _read(scene)
    bad = mask_of(read.mask, ["BAD"])
    np.testing.assert_array_equal(bad, mask_of(read.artifacts, ["BAD_COLUMN", "HOT_PIXEL"]))
    assert mask_of(read.artifacts, ["BAD_COLUMN"]).any()
    assert mask_of(read.artifacts, ["HOT_PIXEL"]).any()
    np.testing.assert_array_equal(mask_of(read.mask, ["INTRP"]), bad & interpolate)
    # Prediction across a wide defect is noisier than a pixel, as its variance says.
    deviation = np.abs(read.counts[bad] - read.counts[~bad].mean()) / np.sqrt(read.variance[bad])
    assert (deviation.max() < 6) == interpolate
    assert np.isfinite(read.variance).all()
    assert (read.variance > 0).all()


def test_dark_current_of_a_snap_lasts_as_long_as_it() -> None:
    hot = {"electronics.hot_pixels": 200.0, "electronics.interpolate_defects": False}
    one, two = (_read(_scene(QUIET | hot | {"snaps": snaps}), 0.0) for snaps in (1, 2))
    where = mask_of(one.artifacts, ["HOT_PIXEL"])
    assert np.median(one.counts[where] / two.counts[where]) == pytest.approx(2.0, rel=0.03)


def test_saturated_pixels_are_not_interpolated() -> None:
    scene = _scene(QUIET | {"electronics.full_well": 1e4})
    light = np.full((scene.camera.height, scene.camera.width), 500.0)
    light[100, 50] = 5e4
    read = _read(scene, light)
    assert not mask_of(read.mask, ["INTRP"]).any()
    assert read.counts[100, 50] > 0.99 * scene.electronics.full_well / scene.electronics.gain


def test_cosmic_rays_are_in_the_truth_but_not_told() -> None:
    read = _read(_scene(QUIET | {"cosmic_rays.rate": 2.0}))
    hit = mask_of(read.artifacts, ["COSMIC_RAY"])
    assert hit.any()
    assert np.median(read.counts[hit]) > read.counts[~hit].mean() + 3 * read.counts[~hit].std()
    assert not mask_of(read.mask, ["CR"]).any()


def test_images_of_another_shape_are_refused() -> None:
    scene = _scene({})
    shape = (scene.camera.height, scene.camera.width)
    with pytest.raises(ValueError, match=r"'electrons' of visit 1001, detector 0 has shape \(3, 4\)"):
        read_out(
            scene, scene.visits[0], 0, 0, electrons=np.zeros((3, 4)), vignetted=np.zeros(shape, dtype=bool)
        )
    with pytest.raises(ValueError, match=r"'vignetted' of visit 1001, detector 0 has shape"):
        read_out(
            scene, scene.visits[0], 0, 0, electrons=np.zeros(shape), vignetted=np.zeros((1, 1), dtype=bool)
        )


def test_negative_light_names_the_detector() -> None:
    with pytest.raises(ValueError, match=r"visit 1001, detector 0 cannot be counted.*lowest is -1\.0"):
        _read(_scene({}), -1.0)
