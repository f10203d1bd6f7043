"""What the final pass publishes leads back to its input, to the last bit."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np
import pytest
from lsst.images import Box, Image
from lsst.images.fields import ChebyshevField
from lsst.pipe.base import Struct

from secondlight.background.fields import make_background, subtracted_field
from secondlight.catalog.mask_planes import mask_of
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.photometry.restore import Flattening, restore_counts
from secondlight.repair.snap_combine import SnapCombineTask
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .reprocess_scenes import CALIB, background_field, make_config, make_inputs, make_scene


def varying(bbox: Box, mean: float, slope: float = 0.02) -> PhotoCalib:
    return PhotoCalib(mean, field=ChebyshevField(bbox, mean * np.array([[1.0, slope], [slope / 2, 0.0]])))


def make_ratio(bbox: Box) -> Image:
    x = np.linspace(0, 3, bbox.x.size, dtype=np.float32)
    return Image(np.tile(1 + np.float32(0.05) * np.sin(x), (bbox.y.size, 1)), bbox=bbox)


def run(case: str) -> tuple[Struct, np.ndarray, np.ndarray, Flattening]:
    """Return outputs, input pixels and variance, and what leads from one to the other."""
    image = make_scene()
    inputs = make_inputs(image)
    config = make_config()
    steps = Flattening()
    if "varying" in case:
        inputs["photo_calib"] = varying(image.bbox, 12.3)
    if "ratio" in case:
        config.do_apply_flat_background_ratio = True
        steps["background_to_photometric_ratio"] = make_ratio(image.bbox)
    if "initial" in case:
        config.remove_initial_photo_calib = True
        steps["initial_photo_calib"] = varying(image.bbox, 3.3)
        inputs["background"] = make_background(background_field(image.bbox) * 3.3)
    if "re-estimated" in case:
        config.detection.reEstimateBackground = True
        config.detection.doApplyFlatBackgroundRatio = "ratio" in case
    config.validate()
    snaps = [image]
    if "snaps" in case:
        snaps.append(make_scene(seed=6))
        inputs["exposures"] = snaps
    post_isr = SnapCombineTask().run(snaps)
    counts, variance = post_isr.image.array.copy(), post_isr.variance.array.copy()
    result = ReprocessVisitImageTask(config=config).run(**(inputs | steps))
    return result, counts, variance, steps


@pytest.mark.parametrize(
    "case", ["default", "varying", "varying ratio", "initial", "re-estimated", "re-estimated ratio", "snaps"]
)
def test_every_pixel_comes_back(case: str) -> None:
    result, counts, variance, steps = run(case)
    image, background, replaced = result.exposure, result.background, result.replaced_pixels
    assert replaced.meta["exact"]
    restored = restore_counts(image, background, replaced_pixels=replaced, **steps)
    np.testing.assert_array_equal(restored.image.array, counts)
    np.testing.assert_allclose(restored.variance.array, variance, rtol=3e-7)
    assert restored.unit == u.adu

    # Without the table, cosmic rays keep their repaired values, and the rest is off by rounding at most.
    restored = restore_counts(image, background, **steps)
    rays = mask_of(image.mask, ["CR"])
    assert rays.sum() >= 2
    difference = restored.image.array.astype(np.float64) - counts
    assert np.abs(difference[~rays]).max() <= 2 * np.spacing(counts.max())
    assert (difference[~rays] != 0).mean() < 0.02
    assert difference[rays].min() < -5000
    rows, columns = replaced["y"] - image.bbox.y.start, replaced["x"] - image.bbox.x.start
    marked = np.zeros_like(rays)
    marked[rows, columns] = replaced["replaced"]
    np.testing.assert_array_equal(marked & ~rays, False)
    assert marked[60 - image.bbox.y.start, 60 - image.bbox.x.start]


def test_units_of_the_outputs() -> None:
    result, *_ = run("default")
    assert result.exposure.unit == u.nJy
    assert subtracted_field(result.background).unit == u.adu
    assert result.replaced_pixels["counts"].unit == u.adu
    assert result.exposure.metadata["photo_calib_error"] == CALIB.error
    assert result.sources.meta["photo_calib_mean"] == CALIB.mean
    result, *_ = run("initial")
    assert subtracted_field(result.background).unit == u.nJy


def test_table_can_be_left_out() -> None:
    config: Any = make_config(do_write_replaced_pixels=False)
    assert "replaced_pixels" not in config.connections.ConnectionsClass(config=config).outputs
    image = make_scene()
    result = ReprocessVisitImageTask(config=config).run(**make_inputs(image))
    assert "replaced_pixels" not in result.getDict()
