"""What detection and sky sources make of images that nobody would want: a result or a clear error."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from lsst.images import VisitImage
from lsst.pipe.base import Struct

from secondlight.background.task import TooManyMaskedPixelsError
from secondlight.catalog.mask_planes import mask_of, plane_name
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.detection.sky_objects import SkyObjectsTask
from secondlight.detection.task import SourceDetectionConfig, SourceDetectionTask
from tests.scenes import make_visit_image

STARS = {"x": [60.0, 120.0, 40.0, 150.0], "y": [50.0, 90.0, 120.0, 30.0], "flux": [20000.0] * 4}


def _detect(image: VisitImage, *, sigma: float | None = None, **fields: object) -> Struct:
    config = SourceDetectionConfig()
    config.reEstimateBackground = config.doTempLocalBackground = False
    for name, value in fields.items():
        setattr(config, name, value)
    return SourceDetectionTask(schema=minimal_source_schema(), config=config).run(image, sigma=sigma)


def _peaks(result: Struct) -> list[tuple[int, int]]:
    peaks = result.sources.footprints.all_peaks
    return sorted(zip(peaks.x.tolist(), peaks.y.tolist(), strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("plane", ["image", "variance"])
def test_pixels_that_are_not_finite(value: float, plane: str, caplog: pytest.LogCaptureFixture) -> None:
    image = make_visit_image(**STARS)
    getattr(image, plane).array[80:100, 110:130] = value
    with caplog.at_level(logging.WARNING):
        result = _detect(image)
    assert _peaks(result) == [(40, 120), (60, 50), (150, 30)]
    assert np.isfinite(result.positive.peak_value).all()
    assert np.isfinite(result.positive.peak_significance).all()
    assert "400 pixels of visit 100 detector 4 are not finite" in caplog.text


@pytest.mark.parametrize("value", [0.0, -100.0])
def test_variance_that_is_not_positive(value: float) -> None:
    image = make_visit_image(**STARS)
    image.variance.array[70:110, 100:140] = value
    result = _detect(image)
    assert {(40, 120), (60, 50), (150, 30)} <= set(_peaks(result))
    assert np.isfinite(result.positive.peak_significance).all()
    image.variance.array[...] = value
    assert _detect(image).numPos == 0


@pytest.mark.parametrize("threshold", ["pixel_stdev", "stdev", "variance", "value"])
def test_fully_masked(threshold: str, caplog: pytest.LogCaptureFixture) -> None:
    image = make_visit_image(**STARS)
    for plane in ("BAD", "NO_DATA", "SAT"):
        image.mask.set(plane_name(plane))
    image.variance.array[...] = np.nan
    image.image.array[...] = np.nan
    result = _detect(image, thresholdType=threshold)
    assert result.numPos == 0
    assert not mask_of(image.mask, ["DETECTED"]).any()
    schema = minimal_source_schema()
    task = SkyObjectsTask(schema=schema)
    with caplog.at_level(logging.WARNING):
        assert len(task.run(image.mask, 1, SourceCatalog(schema, 0))) == 0
    assert "Found room for 0 of 100 sky sources" in caplog.text
    with pytest.raises(TooManyMaskedPixelsError):
        _detect(image, thresholdType=threshold, doTempLocalBackground=True)


def test_saturated_star_fills_the_image() -> None:
    image = make_visit_image(width=400, height=300, add_noise=False)
    image.image.array[...] = 60000.0
    result = _detect(image, nSigmaToGrow=5.0)
    assert result.positive.areas().tolist() == [400 * 300]
    assert np.diff(result.positive.peak_offsets).tolist() == [1]
    assert np.hypot(result.positive.peak_x[0] - 199.5, result.positive.peak_y[0] - 149.5) < 1


def test_star_with_a_flat_top_has_one_peak() -> None:
    image = make_visit_image(x=[100.0], y=[90.0], flux=[1e6])
    y, x = np.mgrid[0:180, 0:200]
    image.image.array[np.hypot(x - 100, y - 90) < 25] = 60000.0
    assert _peaks(_detect(image)) == [(100, 90)]


@pytest.mark.parametrize(("width", "height"), [(14, 14), (14, 100), (100, 14), (1, 1)])
def test_image_smaller_than_the_kernel(width: int, height: int) -> None:
    image = make_visit_image(width=width, height=height, sigma=2.0)
    message = rf"visit 100 detector 4: .*{width} x {height} pixels is smaller than the .*kernel of 15 x 15"
    with pytest.raises(ValueError, match=message):
        _detect(image, sigma=2.0)


def test_image_as_large_as_the_kernel() -> None:
    image = make_visit_image(width=15, height=15, x=[7.0], y=[7.0], flux=[1e5], sigma=2.0)
    assert _peaks(_detect(image, sigma=2.0)) == [(7, 7)]


def test_footprints_touch_every_border() -> None:
    x = [0.0, 90.0, 179.0, 0.0, 179.0, 0.0, 90.0, 179.0]
    y = [0.0, 0.0, 0.0, 80.0, 80.0, 159.0, 159.0, 159.0]
    image = make_visit_image(width=180, height=160, x=x, y=y, flux=[1e6] * 8, x0=0, y0=0)
    # By default growth ends before the border, as it is narrower than the frame without detections.
    footprints = _detect(image, nSigmaToGrow=5.0).positive
    boxes = footprints.bounding_boxes()
    assert len(footprints) == 8
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0
    assert boxes[:, 2].max() == 179
    assert boxes[:, 3].max() == 159
    # Peaks are searched where the kernel fits, so they are at the frame of 7 pixels.
    assert set(footprints.peak_x.tolist()) <= {7, 90, 172}
    assert set(footprints.peak_y.tolist()) <= {7, 80, 152}


@pytest.mark.parametrize("combined", [True, False])
def test_noise_at_one_sigma_gives_a_hundred_thousand_detections(combined: bool) -> None:
    image = make_visit_image(width=1000, height=1000, sigma=1.0)
    result = _detect(
        image,
        sigma=0.3,
        thresholdValue=1.0,
        thresholdPolarity="both",
        combinedGrow=combined,
        nSigmaToGrow=1.0,
    )
    assert result.numPosPeaks + result.numNegPeaks > 100_000
    peaks = len(result.sources.footprints.peak_x)
    assert peaks == result.numPosPeaks + result.numNegPeaks
