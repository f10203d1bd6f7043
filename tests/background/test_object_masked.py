"""The background between objects that the task finds itself."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from lsst.images import Box, Image, VisitImage

from secondlight.background.fields import make_background, render_background, sky_level, subtracted_field
from secondlight.background.object_masked import ObjectMaskedBackgroundTask
from secondlight.background.task import SubtractBackgroundTask, TooManyMaskedPixelsError
from secondlight.catalog.mask_planes import plane_name
from tests.scenes import make_visit_image

SKY, NOISE = 700.0, 20.0


def _task(**fields: object) -> ObjectMaskedBackgroundTask:
    config = ObjectMaskedBackgroundTask.ConfigClass()
    config.update(**fields)
    config.validate()
    return ObjectMaskedBackgroundTask(config=config)


def _image(size: int = 512, *, sources: int = 0, seed: int = 1, **place: int) -> VisitImage:
    """Return noise on a sky with stars of all brightnesses that have wide wings."""
    image = make_visit_image(width=size, height=size, background=SKY, noise=NOISE, seed=seed, **place)
    random = np.random.default_rng(seed)
    light = np.zeros((size, size))
    flux = 60.0 * random.uniform(size=sources) ** (-1 / 0.8)
    np.add.at(light, (random.integers(0, size, sources), random.integers(0, size, sources)), flux)
    core, wing = (scipy.ndimage.gaussian_filter(light, s, mode="wrap") for s in (2.0, 5.0))
    image.image.array[...] += (0.9 * core + 0.1 * wing).astype(np.float32)
    return image


def _rendered(task: SubtractBackgroundTask, image: VisitImage) -> np.ndarray:
    return render_background(make_background(task.fit(image)), image.bbox)


def test_objects_leave_little_of_their_light_in_the_sky() -> None:
    image = _image(1024, sources=12000)
    plain = SubtractBackgroundTask.ConfigClass()
    plain.useApprox = False
    before = _rendered(SubtractBackgroundTask(config=plain), image) - SKY
    masked = _rendered(_task(doFaintLight=False), image) - SKY
    after = _rendered(_task(), image) - SKY
    assert np.median(before) > 0.1 * NOISE
    assert np.median(masked) < 0.5 * np.median(before)
    assert abs(np.median(after)) < 0.5 * np.median(masked)
    assert np.std(after) < 0.6 * np.std(before)


def test_a_bright_star_does_not_raise_the_sky_around_it() -> None:
    image = _image()
    y, x = np.mgrid[-200:312, -260:252]
    image.image.array[...] += (3e5 * (1 + (x**2 + y**2) / 16.0) ** -2.5).astype(np.float32)
    background = _rendered(_task(), image) - SKY
    assert np.abs(background).max() < 0.05 * NOISE


def test_slopes_and_bowls_are_followed() -> None:
    image = _image(768, sources=4000)
    y, x = np.mgrid[:768, :768] / 768.0
    truth = 30.0 * x - 20.0 * y + 15.0 * (x - 0.5) ** 2
    image.image.array[...] += truth.astype(np.float32)
    difference = _rendered(_task(), image) - SKY - truth
    assert np.abs(difference).max() < 0.1 * NOISE


def test_metadata_and_result() -> None:
    image = _image(sources=1000)
    before = image.image.array.copy()
    task = _task()
    background = task.run(image).background
    pixels = render_background(background, image.bbox)
    np.testing.assert_array_equal(image.image.array, before - pixels)
    assert image.metadata["BGMEAN"] == pytest.approx(SKY, abs=0.2 * NOISE)
    assert sky_level(background) == pytest.approx(SKY, abs=0.2 * NOISE)
    assert 0.02 < task.metadata["objectFraction"] < 0.8
    assert task.metadata["faintLight"] >= 0


def test_an_earlier_background_is_replaced() -> None:
    image, again = _image(sources=1000), _image(sources=1000)
    once = _task().run(image).background
    first = SubtractBackgroundTask(config=SubtractBackgroundTask.ConfigClass()).run(again).background
    twice = _task().run(again, background=first).background
    np.testing.assert_allclose(again.image.array, image.image.array, atol=2e-3)
    assert type(subtracted_field(twice)) is type(subtracted_field(once))


def test_flat_ratio_is_undone() -> None:
    image = _image()
    ratio = Image(np.linspace(0.8, 1.2, 512) * np.ones((512, 1)), bbox=image.bbox, dtype=np.float32)
    image.image.array[...] /= ratio.array
    original = image.image.array.copy()
    task = _task(doApplyFlatBackgroundRatio=True)
    first = task.run(image, background_to_photometric_ratio=ratio).background
    pixels = image.image.array.copy()
    assert sky_level(first) == pytest.approx(SKY, abs=0.1 * NOISE)
    np.testing.assert_allclose(
        image.image.array * ratio.array, original * ratio.array - SKY, atol=0.2 * NOISE
    )
    task.run(image, background=first, background_to_photometric_ratio=ratio)
    np.testing.assert_allclose(image.image.array, pixels, atol=2e-3)


@pytest.mark.parametrize(
    "fields",
    [
        {"useApprox": True, "approxOrderX": 2},
        {"algorithm": "NATURAL_SPLINE"},
        {"algorithm": "LINEAR", "doFilterSuperPixels": True},
        {"statisticsProperty": "MEDIAN", "cellSmoothing": 0.0},
        {"blockSize": 3, "binSizeX": 100, "binSizeY": 64},
        {"blockSize": 1, "nIterations": 1},
    ],
)
def test_every_model_works(fields: dict[str, object]) -> None:
    background = _rendered(_task(**fields), _image(509, sources=100))
    assert np.abs(background - SKY).max() < 0.5 * NOISE
    assert np.median(background) == pytest.approx(SKY, abs=0.1 * NOISE)


def test_none_estimates_nothing() -> None:
    assert np.all(_rendered(_task(algorithm="NONE"), _image(100)) == 0)


# Bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_left_out(value: float) -> None:
    image = _image(sources=100)
    expected = _rendered(_task(), image)
    image.image.array[7::40, 3::30] = value
    image.image.array[200:230, 200:260] = value
    assert np.abs(_rendered(_task(), image) - expected).max() < 0.1 * NOISE


def test_entirely_masked_image_is_reported() -> None:
    image = _image(100)
    image.mask.set(plane_name("NO_DATA"), np.ones((100, 100), dtype=bool))
    with pytest.raises(TooManyMaskedPixelsError, match="usable value"):
        _task().run(image)


def test_image_of_nan_is_reported() -> None:
    image = _image(100)
    image.image.array[...] = np.nan
    with pytest.raises(TooManyMaskedPixelsError, match="usable value"):
        _task().run(image)


@pytest.mark.parametrize("size", [1, 2, 5, 40, 127])
def test_an_image_smaller_than_a_cell_gets_its_mean(size: int) -> None:
    background = _rendered(_task(), _image(size))
    assert np.ptp(background) == 0
    assert background[0, 0] == pytest.approx(SKY, abs=5 * NOISE / size)


def test_a_star_that_fills_the_image_leaves_the_background_of_all_pixels(
    caplog: pytest.LogCaptureFixture,
) -> None:
    image = _image(400)
    y, x = np.mgrid[-200:200, -200:200]
    image.image.array[...] += (1e5 * np.exp(-(x**2 + y**2) / 2 / 150.0**2)).astype(np.float32)
    image.mask.set(plane_name("SAT"), np.hypot(x, y) < 100)
    background = _rendered(_task(), image)
    assert np.isfinite(background).all()


def test_objects_everywhere_leave_the_background_of_all_pixels(caplog: pytest.LogCaptureFixture) -> None:
    image = _image(256)
    image.image.array[8::16, 8::16] += 1e4
    background = _rendered(_task(), image)
    assert "cover all of visit" in caplog.text
    assert background == pytest.approx(SKY, abs=0.5 * NOISE)


def test_an_image_without_noise() -> None:
    image = make_visit_image(width=300, height=300, noise=0.0)
    image.image.array[...] = 5.0
    image.variance.array[...] = 0.0
    assert np.all(_rendered(_task(), image) == 5.0)
    image.image.array[150, 150] = 1000.0
    assert _rendered(_task(), image) == pytest.approx(5.0, abs=0.1)


# Invariance -----------------------------------------------------------------------------------------------


def test_the_same_bits_every_time() -> None:
    one, two = (_rendered(_task(), _image(sources=1000)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_an_image_elsewhere_has_the_same_background() -> None:
    here, there = _image(sources=1000), _image(sources=1000, x0=1001, y0=-77)
    assert there.bbox == Box.factory[-77:435, 1001:1513]
    # Positions are not small integers any more; the bits differ by rounding.
    np.testing.assert_allclose(_rendered(_task(), there), _rendered(_task(), here), rtol=1e-6)


def test_a_scene_moved_by_a_cell_has_its_background_moved() -> None:
    """Only borders and the mean light of faint objects know where a cell is."""
    wide = _image(1024, sources=4000)
    parts = []
    for x0 in (0, 128):
        part = make_visit_image(width=640, height=640, x0=x0, noise=NOISE)
        part.image.array[...] = wide.image.array[:640, x0 : x0 + 640]
        parts.append(_rendered(_task(doFaintLight=False), part))
    np.testing.assert_allclose(parts[1][:, 192:-320], parts[0][:, 320:-192], atol=0.02 * NOISE)
