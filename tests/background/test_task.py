from __future__ import annotations

import numpy as np
import pytest
from lsst.images import BackgroundMap, Box, Image
from lsst.images.fields import ChebyshevField

from secondlight.background.fields import (
    background_flat_context,
    combine_backgrounds,
    make_background,
    render_background,
    sky_level,
    subtracted_field,
)
from secondlight.background.task import (
    SubtractBackgroundConfig,
    SubtractBackgroundTask,
    TooManyMaskedPixelsError,
)
from secondlight.catalog.mask_planes import plane_name
from tests.scenes import make_visit_image


def _task(**fields: object) -> SubtractBackgroundTask:
    config = SubtractBackgroundConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    config.validate()
    return SubtractBackgroundTask(config=config)


def _sloping(shape: tuple[int, int], x0: int, y0: int) -> np.ndarray:
    y, x = np.mgrid[y0 : y0 + shape[0], x0 : x0 + shape[1]]
    return (200 + 0.05 * x - 0.03 * y + 1e-4 * (x - 100) * (y - 90)).astype(np.float32)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"useApprox": False},
        {"useApprox": False, "algorithm": "NATURAL_SPLINE"},
        {"useApprox": False, "algorithm": "LINEAR"},
        {"statisticsProperty": "MEDIAN", "weighting": False},
        {"doFilterSuperPixels": True, "approxOrderX": 2, "approxOrderY": 1},
    ],
)
def test_smooth_background_is_removed(fields: dict[str, object]) -> None:
    image = make_visit_image(width=400, height=360, x0=30, y0=-20, noise=3.0)
    noise = image.image.array.copy()
    truth = _sloping(image.bbox.shape, 30, -20)
    image.image.array[...] += truth
    result = _task(binSize=60, **fields).run(image)
    model = render_background(result.background, image.bbox)
    np.testing.assert_allclose(image.image.array, noise + truth - model, atol=1e-3)
    inner = (slice(30, -30), slice(30, -30))
    limit = 1.5 if "doFilterSuperPixels" in fields else 0.6
    assert np.abs(model - truth)[inner].max() < limit
    assert image.metadata["BGMEAN"] == pytest.approx(model.mean(dtype=float))
    assert image.metadata["BGVAR"] == pytest.approx(model.var(dtype=float), rel=1e-4)
    assert sky_level(result.background) == pytest.approx(np.median(truth), abs=1.0)


def test_masked_sources_do_not_count() -> None:
    image = make_visit_image(width=256, height=256, background=50.0, noise=1.0)
    image.image.array[40:90, 60:200] += 1000.0
    marked = np.zeros((256, 256), dtype=bool)
    marked[40:90, 60:200] = True
    image.mask.set(plane_name("DETECTED"), marked)
    task = _task(binSize=64, approxOrderX=1)
    model = render_background(task.run(image).background, image.bbox)
    np.testing.assert_allclose(model, 50.0, atol=0.3)


def test_models_add_up() -> None:
    image = make_visit_image(width=200, height=150, background=80.0)
    task = _task(binSize=50, approxOrderX=1)
    first = task.run(image).background
    image.image.array[...] += 7.0
    both = task.run(image, background=first).background
    total = render_background(both, image.bbox)
    np.testing.assert_allclose(total, 87.0, atol=3.0)
    assert sky_level(both) == pytest.approx(87.0, abs=2.0)
    assert len(subtracted_field(combine_backgrounds(both, first)).operands) == 3


def test_everything_masked_is_reported() -> None:
    image = make_visit_image(width=100, height=80, visit=77, detector=5)
    image.mask.set(plane_name("BAD"), np.ones((80, 100), dtype=bool))
    with pytest.raises(TooManyMaskedPixelsError, match="visit 77 detector 5") as info:
        _task().run(image)
    assert info.value.metadata == {"n_cells": 1, "masked_fraction": 1.0}


def test_all_nan_is_reported() -> None:
    image = make_visit_image(width=100, height=80)
    image.image.array[...] = np.nan
    with pytest.raises(TooManyMaskedPixelsError, match="usable value"):
        _task(isNanSafe=True).run(image)


def test_too_few_cells() -> None:
    image = make_visit_image(width=100, height=80, background=10.0, noise=1.0)
    with pytest.raises(ValueError, match="7 x 7 cells"):
        _task(undersampleStyle="THROW_EXCEPTION").run(image)
    model = _task(undersampleStyle="INCREASE_NXNYSAMPLE", useApprox=False).fit(image)
    assert model.data.shape == (5, 5)
    model = _task().fit(image)
    assert (model.x_order, model.y_order) == (0, 0)


@pytest.mark.parametrize("use_approx", [True, False])
def test_mostly_masked_image_gets_a_simple_model(use_approx: bool) -> None:
    image = make_visit_image(width=320, height=320, background=50.0, noise=1.0)
    marked = np.ones((320, 320), dtype=bool)
    marked[:80, :80] = marked[-40:, -40:] = False
    image.mask.set(plane_name("NO_DATA"), marked)
    task = _task(binSize=40, useApprox=use_approx)
    model = render_background(task.run(image).background, image.bbox)
    np.testing.assert_allclose(model, 50.0, atol=1.0)


def test_none_estimates_nothing() -> None:
    image = make_visit_image(width=60, height=50, background=10.0)
    before = image.image.array.copy()
    result = _task(algorithm="NONE").run(image)
    assert np.array_equal(image.image.array, before)
    assert sky_level(result.background) == 0.0


def test_flat_ratio_is_undone() -> None:
    image = make_visit_image(width=60, height=50, background=100.0, noise=1.0)
    ratio = Image(np.linspace(0.8, 1.2, 60) * np.ones((50, 1)), bbox=image.bbox, dtype=np.float32)
    image.image.array[...] = 100.0 / ratio.array
    pixels, variance = image.image.array.copy(), image.variance.array.copy()
    with background_flat_context(image, True, ratio):
        np.testing.assert_allclose(image.image.array, 100.0, rtol=1e-6)
        np.testing.assert_allclose(image.variance.array, variance * ratio.array**2, rtol=1e-6)
    np.testing.assert_allclose(image.image.array, pixels, rtol=1e-6)
    with pytest.raises(KeyError), background_flat_context(image, True, ratio):
        raise KeyError
    np.testing.assert_allclose(image.image.array, pixels, rtol=1e-6)
    np.testing.assert_allclose(image.variance.array, variance, rtol=1e-6)
    task = _task(doApplyFlatBackgroundRatio=True, approxOrderX=0)
    task.run(image, background_to_photometric_ratio=ratio)
    np.testing.assert_allclose(image.image.array, 0.0, atol=1e-3)


def test_flat_ratio_is_checked() -> None:
    image = make_visit_image(width=60, height=50)
    with pytest.raises(RuntimeError, match="missing"), background_flat_context(image, True, None):
        pass
    with pytest.raises(ValueError, match="ndarray"), background_flat_context(image, True, np.ones((50, 60))):
        pass
    small = Image(1.0, bbox=Box.factory[0:5, 0:5], dtype=np.float32)
    with pytest.raises(ValueError, match="covers"), background_flat_context(image, True, small):
        pass
    with background_flat_context(image, False, None):
        pass


def test_dataset_must_say_what_is_subtracted() -> None:
    field = ChebyshevField(Box.factory[0:5, 0:5], np.array([[3.0]]))
    assert subtracted_field(make_background(field)) is field
    two = BackgroundMap()
    two.add("one", field)
    assert subtracted_field(two) is field
    two.add("two", field)
    with pytest.raises(ValueError, match="one, two"):
        subtracted_field(two)
