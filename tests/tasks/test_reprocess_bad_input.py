"""Inputs of the final pass that do not fit: errors that name visit and detector, or marks in the result."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import astropy.table
import astropy.units as u
import numpy as np
import pytest
from lsst.images import BackgroundMap, Box, Image, Mask
from lsst.images.fields import ChebyshevField
from lsst.pipe.base import AlgorithmError, Struct

from secondlight.background.fields import combine_backgrounds, make_background
from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.mask_planes import make_mask_schema, mask_of
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.visit_image import replace_components
from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask
from tests.scenes import make_visit_image

from .reprocess_scenes import (
    DETECTOR,
    HEIGHT,
    NOISE,
    VISIT,
    WHERE,
    WIDTH,
    X0,
    Y0,
    background_field,
    default_outputs,
    default_task,
    make_config,
    make_inputs,
    make_scene,
)

SMALLER = Box.factory[Y0 : Y0 + HEIGHT, X0 : X0 + WIDTH - 1]


@pytest.fixture(scope="module")
def ratio_task() -> ReprocessVisitImageTask:
    return ReprocessVisitImageTask(config=make_config(do_apply_flat_background_ratio=True))


def assert_refused(task: ReprocessVisitImageTask, message: str, **values: Any) -> None:
    """Check that inputs are refused with a message, before any pixel changed and with nothing published."""
    image = make_scene()
    inputs = make_inputs(image)
    before, mask = image.image.array.copy(), image.mask.copy()
    result = Struct()
    with pytest.raises(ValueError, match=message) as caught:
        task.run(**(inputs | values | {"result": result}))
    assert WHERE in str(caught.value)
    np.testing.assert_array_equal(image.image.array, before)
    assert image.mask == mask
    assert result == Struct()


# Calibrations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["psf", "ap_corr", "photo_calib", "wcs"])
def test_missing_calibration(name: str) -> None:
    assert_refused(default_task(), f"no {name} given", **{name: None})


def test_every_missing_calibration_is_named() -> None:
    missing = {"psf": None, "ap_corr": None, "photo_calib": None, "wcs": None}
    assert_refused(default_task(), "no psf, ap_corr, photo_calib, wcs given", **missing)


@pytest.mark.parametrize("mean", [0.0, -2.0, math.nan, math.inf])
def test_photometric_calibration_that_is_no_positive_number(mean: float) -> None:
    assert_refused(default_task(), f"photo_calib is {mean}; expected", photo_calib=PhotoCalib(mean))
    task = ReprocessVisitImageTask(config=make_config(remove_initial_photo_calib=True))
    calibration = PhotoCalib(mean)
    assert_refused(task, f"initial_photo_calib is {mean}; expected", initial_photo_calib=calibration)


@pytest.mark.parametrize("slope", [13.0, math.nan])
def test_photometric_calibration_that_is_not_positive_everywhere(slope: float) -> None:
    field = ChebyshevField(make_scene().bbox, np.array([[12.3, slope]]))
    message = "photo_calib is (nan|-0.6).*; expected a positive number"
    assert_refused(default_task(), message, photo_calib=PhotoCalib(12.3, field=field))


def test_photometric_calibration_of_other_counts() -> None:
    field = ChebyshevField(make_scene().bbox, np.array([[12.3, 0.1]]), unit=u.nJy / u.electron)
    calibration = PhotoCalib(12.3, field=field)
    message = "photo_calib: The photometric calibration is in nJy / electron; expected nJy / adu"
    assert_refused(default_task(), message, photo_calib=calibration)


def test_inputs_that_the_configuration_needs(ratio_task: ReprocessVisitImageTask) -> None:
    task = ReprocessVisitImageTask(config=make_config(remove_initial_photo_calib=True))
    assert_refused(task, "no initial_photo_calib")
    assert_refused(ratio_task, "background_to_photometric_ratio was not given")


def test_a_visit_summary_has_each_detector_once() -> None:
    with pytest.raises(ValueError, match=f"Visit {VISIT}: detector {DETECTOR} appears twice"):
        VisitSummary(VISIT, [DetectorSummary(DETECTOR), DetectorSummary(DETECTOR)])


# Images ---------------------------------------------------------------------------------------------------


def test_calibrated_image() -> None:
    assert_refused(default_task(), "the unit is nJy", exposures=[default_outputs().exposure])


def test_image_whose_background_is_subtracted() -> None:
    image = make_scene()
    first_pass = replace_components(image, backgrounds=make_background(background_field(image.bbox)))
    message = "its background is subtracted already; expected a post-ISR image"
    assert_refused(default_task(), message, exposures=[first_pass])


def test_image_of_nan() -> None:
    """The sky sources that an image without a finite pixel gets cannot be replaced by noise."""
    image = make_scene()
    image.image.array[...] = np.nan
    with pytest.raises(AlgorithmError, match=rf"visit {VISIT}, detector 42 .*no finite pixels"):
        default_task().run(**make_inputs(image))


@pytest.mark.parametrize("masked", [False, True])
def test_nothing_to_find(masked: bool) -> None:
    """An image of noise, or one without a good pixel, gives an empty table with all columns."""
    config = make_config()
    config.sky_sources.nSources = 0
    task = ReprocessVisitImageTask(config=config)
    image = make_visit_image(
        width=WIDTH, height=HEIGHT, x0=X0, y0=Y0, noise=NOISE, visit=VISIT, detector=DETECTOR
    )
    if masked:
        image.mask.set("NO_DATA", np.ones(image.bbox.shape, dtype=bool))
    result = task.run(**make_inputs(image))
    assert len(result.sources) == 0
    assert set(task.sources_schema.schema.names) <= set(result.sources.colnames)
    assert result.exposure.unit == u.nJy
    assert math.isnan(result.exposure.summary_stats.skyNoise) == masked


@pytest.mark.parametrize("n", [0, 3])
def test_one_or_two_snaps(n: int) -> None:
    whose = f"found {n} for exposure {VISIT} of visit {VISIT}, detector {DETECTOR}" if n else "found 0"
    with pytest.raises(RuntimeError, match=whose):
        default_task().run(**make_inputs(make_scene()) | {"exposures": [make_scene()] * n})


def test_snaps_of_two_detectors() -> None:
    snaps = [make_scene(), make_scene(detector=DETECTOR + 1)]
    message = f"visit {VISIT}, detector {DETECTOR} and .*the detector of the first is 42, of the second 43"
    with pytest.raises(ValueError, match=message):
        default_task().run(**make_inputs(snaps[0]) | {"exposures": snaps})


# Backgrounds, masks and flat ratios -----------------------------------------------------------------------


def test_background_of_other_pixels() -> None:
    smaller = make_background(background_field(SMALLER))
    message = r"the background covers .*, but the image has \[y=4:185, x=5:206\]"
    assert_refused(default_task(), message, background=smaller)
    # One field of a sum is enough.
    whole = make_background(background_field(make_scene().bbox))
    assert_refused(default_task(), message, background=combine_backgrounds(whole, smaller))


def test_no_background() -> None:
    assert_refused(default_task(), "no background given", background=None)
    assert_refused(default_task(), "A background with 0 fields", background=BackgroundMap())


def test_background_in_another_unit() -> None:
    field = background_field(make_scene().bbox)
    message = "the background is in nJy; expected adu, as it is not to be divided"
    assert_refused(default_task(), message, background=make_background(field * u.nJy))
    task = ReprocessVisitImageTask(config=make_config(remove_initial_photo_calib=True))
    message = "the background is in adu; expected nJy, as it is to be divided"
    values = {"background": make_background(field * u.adu), "initial_photo_calib": PhotoCalib(2.0)}
    assert_refused(task, message, **values)


@pytest.mark.parametrize("level", [math.nan, math.inf])
def test_background_that_is_no_number(level: float) -> None:
    field = ChebyshevField(make_scene().bbox, np.array([[level]]))
    message = f"the background is {level}; expected numbers"
    assert_refused(default_task(), message, background=make_background(field))


def test_background_of_more_pixels() -> None:
    """A larger background is cut to the image."""
    field = background_field(make_scene().bbox.padded(10))
    image = make_scene()
    inputs = make_inputs(image, background=make_background(field))
    image.image.array[...] = make_scene().image.array + field.render(image.bbox).array.astype(np.float32)
    result = default_task().run(**inputs)
    assert len(result.sources) == len(default_outputs().sources)
    assert result.exposure.summary_stats.skyNoise == pytest.approx(NOISE, rel=0.05)


def test_preliminary_mask_of_other_pixels() -> None:
    mask = Mask(schema=make_mask_schema(), bbox=SMALLER)
    message = r"preliminary_mask covers .*, but the image has"
    assert_refused(default_task(), message, preliminary_mask=mask)


def test_ratio_of_other_pixels(ratio_task: ReprocessVisitImageTask) -> None:
    ratio = Image(np.ones(SMALLER.shape, dtype=np.float32), bbox=SMALLER)
    message = "background_to_photometric_ratio covers .*, but the image has"
    assert_refused(ratio_task, message, background_to_photometric_ratio=ratio)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_ratio_without_a_usable_pixel(ratio_task: ReprocessVisitImageTask, value: float) -> None:
    image = make_scene()
    ratio = Image(np.full(image.bbox.shape, value, dtype=np.float32), bbox=image.bbox)
    assert_refused(ratio_task, "no positive finite pixel", background_to_photometric_ratio=ratio)


def test_ratio_that_is_no_image(ratio_task: ReprocessVisitImageTask) -> None:
    ratio = np.ones((HEIGHT, WIDTH))
    assert_refused(ratio_task, "must be an Image, not ndarray", background_to_photometric_ratio=ratio)


def test_pixels_without_a_usable_ratio(
    ratio_task: ReprocessVisitImageTask, caplog: pytest.LogCaptureFixture
) -> None:
    """They are NaN, have no data, and their number is logged; all else is as without them."""
    image = make_scene()
    values = np.full(image.bbox.shape, 1.1, dtype=np.float32)
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[140:142, 10:14] = True
    values[140, 10:14] = [0.0, -1.0, np.nan, np.inf]
    values[141, 10:14] = np.nan
    given = Image(values, bbox=image.bbox)
    kept = values.copy()
    with caplog.at_level(logging.WARNING, logger="secondlight"):
        result = ratio_task.run(**make_inputs(image, background_to_photometric_ratio=given))
    assert f"{WHERE}: 8 pixels without a usable flat ratio get NO_DATA" in caplog.text
    np.testing.assert_array_equal(values, kept)
    assert np.isnan(result.exposure.image.array[bad]).all()
    assert np.isfinite(result.exposure.image.array[~bad]).all()
    np.testing.assert_array_equal(mask_of(result.exposure.mask, ["NO_DATA"]), bad)
    assert len(result.sources) == len(default_outputs().sources)
    assert np.isfinite(result.exposure.summary_stats.skyNoise)


# Calibration stars ----------------------------------------------------------------------------------------


def test_no_table_of_stars() -> None:
    assert_refused(default_task(), "no calib_sources given", calib_sources=None)


@pytest.mark.parametrize("name", ["detector", "coord_ra", "coord_dec", "calib_psf_used"])
def test_stars_without_a_column(name: str) -> None:
    stars = make_inputs(make_scene())["calib_sources"]
    stars.remove_column(name)
    assert_refused(default_task(), f"calib_sources lacks the columns {name}", calib_sources=stars)


def test_stars_whose_coordinates_are_no_angles() -> None:
    stars = make_inputs(make_scene())["calib_sources"]
    stars["coord_dec"].unit = "pix"
    message = "coord_dec of calib_sources has the unit pix"
    assert_refused(default_task(), message, calib_sources=stars)


def keep_none(stars: astropy.table.Table) -> astropy.table.Table:
    return stars[:0]


def keep_other_detector(stars: astropy.table.Table) -> astropy.table.Table:
    return stars[stars["detector"] != DETECTOR]


@pytest.mark.parametrize("keep", [keep_none, keep_other_detector])
def test_no_stars_of_the_detector(
    keep: Callable[[astropy.table.Table], astropy.table.Table], caplog: pytest.LogCaptureFixture
) -> None:
    inputs = make_inputs(make_scene())
    inputs["calib_sources"] = keep(inputs["calib_sources"])
    with caplog.at_level(logging.WARNING, logger="secondlight"):
        result = default_task().run(**inputs)
    assert f"{WHERE}: no source is one of 0 calibration stars" in caplog.text
    assert len(result.sources) == len(default_outputs().sources)
    assert not result.sources["calib_psf_candidate"].any()
    assert result.exposure.summary_stats.nPsfStar == 0
    assert math.isnan(result.exposure.summary_stats.psfStarDeltaE1Median)


def test_repeated_stars_are_told(caplog: pytest.LogCaptureFixture) -> None:
    inputs = make_inputs(make_scene())
    stars = inputs["calib_sources"]
    stars["id"] = np.arange(len(stars)) + 1
    inputs["calib_sources"] = astropy.table.vstack([stars, stars[:1]])
    with caplog.at_level(logging.WARNING, logger="secondlight"):
        result = default_task().run(**inputs)
    assert f"{WHERE}: 1 rows of calibration stars repeat a star" in caplog.text
    expected = default_outputs().sources["calib_psf_used"]
    np.testing.assert_array_equal(result.sources["calib_psf_used"], expected)


# Identifiers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "generator", [IdGenerator(1 << 43, 20), IdGenerator(7, 0), IdGenerator(7, -3), IdGenerator(-1, 20)]
)
def test_ids_that_do_not_fit(generator: IdGenerator) -> None:
    assert_refused(default_task(), "do not fit the 63 bits of a source id", id_generator=generator)


def test_more_sources_than_ids() -> None:
    result = Struct()
    with pytest.raises(OverflowError, match=f"{WHERE}: .* do not fit the 3 counter bits"):
        default_task().run(**make_inputs(make_scene(), id_generator=IdGenerator(7, 3), result=result))
    assert result == Struct()


class Repeating(IdGenerator):
    """Gives the same id again and again."""

    def row_ids(self, n: int, *, start: int = 1) -> np.ndarray:
        """Return an id n times."""
        return np.full(n, 5, dtype=np.int64)


def test_ids_that_are_not_unique() -> None:
    result = Struct()
    with pytest.raises(ValueError, match=f"{WHERE}: 1 source ids are not unique, 5 is the first"):
        default_task().run(**make_inputs(make_scene(), id_generator=Repeating(7, 20), result=result))
    assert result == Struct()


def test_varying_calibration_of_other_pixels_is_continued() -> None:
    """A calibration is a function of position; fields of detectors trimmed otherwise are common."""
    calib = PhotoCalib(12.3, field=ChebyshevField(SMALLER, np.array([[12.3, 0.5]])))
    image = make_scene()
    result = default_task().run(**make_inputs(image, photo_calib=calib))
    assert np.isfinite(result.exposure.image.array).all()
