from __future__ import annotations

import logging

import numpy as np
import pytest
from lsst.images import Image, Mask
from lsst.images.psfs import GaussianPointSpreadFunction
from lsst.images.serialization import ArchiveReadError
from lsst.pipe.base import Struct

from secondlight.background.fields import render_background
from secondlight.background.task import TooManyMaskedPixelsError
from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.mask_planes import make_mask_schema, mask_of, plane_name
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.visit_image import replace_components
from secondlight.detection.task import PsfGenerationError, SourceDetectionConfig, SourceDetectionTask
from tests.scenes import make_visit_image

X, Y = np.array([60.0, 120.0, 40.0, 150.0]), np.array([50.0, 90.0, 120.0, 30.0])


def _task(**fields: object) -> SourceDetectionTask:
    config = SourceDetectionConfig()
    config.reEstimateBackground = False
    config.doTempLocalBackground = False
    for name, value in fields.items():
        setattr(config, name, value)
    config.validate()
    return SourceDetectionTask(schema=minimal_source_schema(), config=config)


def _scene(flux: float | list[float] = 20000.0, **kwargs: object) -> object:
    options: dict[str, object] = {"x": X + 7, "y": Y - 3, "x0": 7, "y0": -3} | kwargs
    fluxes = np.broadcast_to(flux, np.shape(options["x"]))
    return make_visit_image(flux=fluxes, **options)  # type: ignore[arg-type]


def _positions(result: Struct) -> list[tuple[int, int]]:
    peaks = result.sources.footprints.all_peaks
    return sorted(zip(peaks.x.tolist(), peaks.y.tolist(), strict=True))


EXPECTED = sorted(zip((X + 7).astype(int).tolist(), (Y - 3).astype(int).tolist(), strict=True))


def test_stars_are_found_where_they_are() -> None:
    image = _scene()
    task = _task()
    result = task.run(image, id_generator=IdGenerator(5, 10))
    assert _positions(result) == EXPECTED
    assert (result.numPos, result.numPosPeaks, result.numNeg, result.numNegPeaks) == (4, 4, 0, 0)
    assert result.sources["id"].tolist() == [5 * 1024 + k for k in range(1, 5)]
    assert result.sources["parent"].tolist() == [0] * 4
    assert result.positive == result.sources.footprints
    assert result.negative is None
    assert result.background is None
    footprints = result.positive
    detected = footprints.to_mask(image.bbox.shape, x0=7, y0=-3)
    assert np.array_equal(mask_of(image.mask, ["DETECTED"]), detected)
    edge = mask_of(image.mask, ["EDGE"])
    assert not edge[7:-7, 7:-7].any()
    assert edge[:, :7].all()
    assert edge.sum() == edge.size - (180 - 14) * (200 - 14)
    assert task.metadata["smoothingKernelWidth"] == 15
    assert task.metadata["nGrow"] == 5
    assert task.metadata["sigma"] == pytest.approx(2.0, rel=1e-3)


def test_significance_is_the_matched_filter_signal_to_noise() -> None:
    noise, sigma = 10.0, 2.0
    flux = 40 * noise * np.sqrt(4 * np.pi) * sigma
    result = _task().run(_scene(flux, add_noise=False))
    np.testing.assert_allclose(result.positive.peak_significance, 40.0, rtol=5e-3)


def test_a_repeat_finds_the_same() -> None:
    image = _scene()
    task = _task()
    first = task.run(image)
    assert task.run(image).positive == first.positive


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"thresholdType": "value", "thresholdValue": 50.0}, 4),
        ({"thresholdType": "stdev"}, 4),
        ({"thresholdType": "variance", "thresholdValue": 20.0}, 4),
        ({"thresholdValue": 1e4}, 0),
        ({"includeThresholdMultiplier": 1e4}, 0),
        ({"minPixels": 10000}, 0),
        ({"isotropicGrow": False}, 4),
        ({"combinedGrow": False}, 4),
        ({"nSigmaToGrow": 0.0}, 4),
        ({"doTempWideBackground": True}, 4),
        ({"doTempLocalBackground": True}, 4),
    ],
)
def test_options(fields: dict[str, object], found: int) -> None:
    image = _scene()
    before = image.image.array.copy()
    result = _task(**fields).run(image)
    assert result.numPos == found
    assert np.array_equal(image.image.array, before)
    if found:
        assert _positions(result) == EXPECTED


def test_threshold_types_set_the_significance() -> None:
    image = _scene(add_noise=True)
    per_pixel = _task().run(image).positive.peak_significance
    stdev = _task(thresholdType="stdev").run(image).positive.peak_significance
    np.testing.assert_allclose(stdev, per_pixel, rtol=0.15)
    for threshold in ("value", "variance"):
        found = _task(thresholdType=threshold, thresholdValue=50.0).run(image)
        assert len(found.positive) > 0
        assert not found.positive.peak_significance.any()


def test_factor_raises_the_threshold() -> None:
    image = _scene(10 * 10 * np.sqrt(4 * np.pi) * 2, add_noise=False)
    assert _task().run(image, factor=1.9).numPos == 4
    assert _task().run(image, factor=2.1).numPos == 0


def test_original_footprints() -> None:
    image, other = _scene(), _scene()
    grown = _task().run(image).positive
    original = _task(returnOriginalFootprints=True).run(other).positive
    assert np.all(original.areas() < grown.areas())
    assert np.array_equal(mask_of(image.mask, ["DETECTED"]), mask_of(other.mask, ["DETECTED"]))


@pytest.mark.parametrize("polarity", ["positive", "negative", "both"])
@pytest.mark.parametrize("re_estimate", [False, True])
def test_polarity(polarity: str, re_estimate: bool) -> None:
    image = _scene(flux=20000.0)
    holes = _scene(flux=30000.0, x=[100.0, 30.0], y=[140.0, 80.0], noise=1e-3)
    image.image.array[...] -= holes.image.array
    task = _task(thresholdPolarity=polarity, reEstimateBackground=re_estimate)
    result = task.run(image)
    assert result.numPos == (4 if polarity != "negative" else 0)
    assert result.numNeg == (2 if polarity != "positive" else 0)
    assert (result.positive is None) == (polarity == "negative")
    assert (result.negative is None) == (polarity == "positive")
    assert mask_of(image.mask, ["DETECTED"]).any() == (polarity != "negative")
    assert mask_of(image.mask, ["DETECTED_NEGATIVE"]).any() == (polarity != "positive")
    if polarity == "both":
        assert result.sources["is_negative"].tolist() == [True] * 2 + [False] * 4
        assert sorted(result.negative.peak_x.tolist()) == [30, 100]
        assert (result.negative.peak_significance < -5).all()


def test_deepest_hole_comes_first() -> None:
    image = _scene(x=[100.0, 112.0], y=[100.0, 100.0], flux=[-2e4, -4e4])
    result = _task(thresholdPolarity="negative").run(image)
    assert result.negative.peak_x.tolist() == [112, 100]


def test_background_is_estimated_again() -> None:
    image = _scene(flux=2e5, background=4.0)
    config = {"reEstimateBackground": True, "adjustBackground": 1.0}
    task = _task(**config)
    before = image.image.array.copy()
    result = task.run(image)
    model = render_background(result.background, image.bbox)
    np.testing.assert_allclose(before - image.image.array, model, atol=0.02)
    np.testing.assert_allclose(model, 5.0, atol=1.0)
    both = task.run(image, background=result.background).background
    # The constant of the first time is what the second time finds.
    np.testing.assert_allclose(render_background(both, image.bbox), 5.0, atol=1.0)


def test_flat_ratio_is_used_for_the_new_background() -> None:
    image = _scene(flux=2e5)
    ratio = Image(1.25, bbox=image.bbox, dtype=np.float32)
    task = _task(reEstimateBackground=True, doApplyFlatBackgroundRatio=True)
    image.image.array[...] += 3.0
    task.run(image, background_to_photometric_ratio=ratio)
    assert np.median(image.image.array) == pytest.approx(0.0, abs=0.5)
    with pytest.raises(RuntimeError, match="missing"):
        task.run(image)


def test_local_background_removes_peaks_of_a_halo() -> None:
    x, y = np.mgrid[0:200, 0:180][:, :, :]
    halo = 60 * np.exp(-0.5 * ((x.T - 100) ** 2 + (y.T - 90) ** 2) / 50**2)
    image = make_visit_image(x=[100.0], y=[90.0], flux=[1e5])
    image.image.array[...] += halo.astype(np.float32)
    plain = _task().run(image)
    local = _task(doTempLocalBackground=True).run(image)
    assert local.numPosPeaks < plain.numPosPeaks
    brightest = np.argmax(local.positive.peak_value)
    assert (local.positive.peak_x[brightest], local.positive.peak_y[brightest]) == (100, 90)


def test_excluded_planes() -> None:
    image = _scene()
    marked = np.zeros(image.bbox.shape, dtype=bool)
    marked[80:100, 100:140] = True
    image.mask.set(plane_name("BAD"), marked)
    assert _task().run(image).numPos == 4
    assert _task(excludeMaskPlanes=["BAD"]).run(image).numPos == 3


def test_sigma_can_be_given() -> None:
    image = replace_components(_scene(), psf=ArchiveReadError("unreadable"))
    assert _task().run(image, sigma=2.0).numPos == 4


def test_psf_must_have_a_width() -> None:
    image = _scene(visit=31, detector=8)
    with pytest.raises(PsfGenerationError, match="visit 31 detector 8") as info:
        _task().run(image, sigma=float("nan"))
    assert set(info.value.metadata) == {"sigma"}
    with pytest.raises(PsfGenerationError, match="no PSF"):
        _task().run(replace_components(image, psf=ArchiveReadError("unreadable")))


def test_mask_must_have_the_planes() -> None:
    image = _scene(visit=31)
    bare = Mask(schema=make_mask_schema(["BAD", "EDGE"]), bbox=image.bbox)
    with pytest.raises(ValueError, match="visit 31 detector 4 lacks DETECTED, DETECTED_NEGATIVE"):
        _task().run(replace_components(image, mask=bare))


def test_image_smaller_than_the_kernel() -> None:
    psf_scene = make_visit_image(width=12, height=40, sigma=2.0)
    with pytest.raises(ValueError, match=r"visit 100 detector 4: .* smaller than the detection kernel"):
        _task().run(psf_scene)


def test_pixels_that_are_not_finite(caplog: pytest.LogCaptureFixture) -> None:
    image = _scene()
    image.image.array[0:40, :] = np.nan
    image.image.array[90, 120] = np.inf
    with caplog.at_level(logging.WARNING):
        result = _task().run(image)
    # One star is gone; the one with a bad centre keeps its footprint, with peaks beside the centre.
    assert result.numPos == 3
    footprint = next(k for k in range(3) if result.positive.bounding_boxes()[k][0] > 100)
    peaks = result.positive.peaks(footprint)
    assert np.hypot(peaks.x[0] - 127, peaks.y[0] - 87) < 2
    assert "8001 pixels of visit 100 detector 4 are not finite" in caplog.text


def test_empty_results() -> None:
    image = _scene()
    image.image.array[...] = np.nan
    result = _task().run(image)
    assert len(result.sources) == 0
    assert not mask_of(image.mask, ["DETECTED"]).any()
    image = _scene()
    image.mask.set(plane_name("BAD"), np.ones(image.bbox.shape, dtype=bool))
    assert _task(thresholdType="stdev").run(image).numPos == 0
    with pytest.raises(TooManyMaskedPixelsError):
        _task(reEstimateBackground=True).run(image)


def test_default_configuration_is_the_reference_s() -> None:
    """Spec reprocess 13.1."""
    config = SourceDetectionConfig()
    subtasks = ("background", "tempLocalBackground", "tempWideBackground")
    assert {k: v for k, v in config.toDict().items() if k not in subtasks} == {
        "minPixels": 1,
        "isotropicGrow": True,
        "combinedGrow": True,
        "nSigmaToGrow": 2.4,
        "returnOriginalFootprints": False,
        "thresholdValue": 5.0,
        "includeThresholdMultiplier": 1.0,
        "thresholdType": "pixel_stdev",
        "thresholdPolarity": "positive",
        "adjustBackground": 0.0,
        "reEstimateBackground": True,
        "doApplyFlatBackgroundRatio": False,
        "doTempLocalBackground": True,
        "doTempWideBackground": False,
        "nPeaksMaxSimple": 1,
        "nSigmaForKernel": 7.0,
        "statsMask": ["BAD", "SAT", "EDGE", "NO_DATA"],
        "excludeMaskPlanes": [],
    }
    assert config.tempLocalBackground.binSize == 64
    assert config.tempWideBackground.binSize == 512
    assert list(config.tempWideBackground.ignoredPixelMask) == ["BAD", "EDGE", "NO_DATA"]
    assert not config.tempLocalBackground.useApprox
    assert config.background.useApprox


def test_whole_pixel_shift_of_the_origin() -> None:
    here = _task().run(_scene(x=X, y=Y, x0=0, y0=0)).positive
    there = _task().run(_scene(x=X + 300, y=Y - 41, x0=300, y0=-41)).positive
    assert there == here.shifted(dx=300, dy=-41)


def test_wide_psf_smooths_more() -> None:
    image = _scene(psf=GaussianPointSpreadFunction(3.5, bounds=_scene().bbox, stamp_size=41))
    task = _task()
    task.run(image)
    assert task.metadata["smoothingKernelWidth"] == 25


@pytest.mark.parametrize(("sigma", "side", "growth"), [(1.5, 11, 4), (2.0, 15, 5), (2.5, 19, 6)])
def test_kernel_and_growth_follow_the_psf(sigma: float, side: int, growth: int) -> None:
    """Spec reprocess 24.2."""
    task = _task()
    task.run(_scene(), sigma=sigma)
    assert task.metadata["smoothingKernelWidth"] == side
    assert task.metadata["nGrow"] == growth


def test_wings_of_bright_stars_have_no_peaks_of_noise() -> None:
    """Moffat wings fall faster than the noise of the smoothed image can rise."""
    x, y = (g.ravel() for g in np.meshgrid(np.arange(60.0, 600, 120), np.arange(60.0, 600, 120)))
    snr = np.geomspace(200, 5000, len(x))
    image = make_visit_image(width=600, height=600, noise=10.0, seed=8)
    rows, columns = np.mgrid[0:600, 0:600]
    for xs, ys, s in zip(x, y, snr, strict=True):
        r2 = (columns - xs) ** 2 + (rows - ys) ** 2
        profile = (1 + r2 / (2.355 / (2 * np.sqrt(2 ** (1 / 3.2) - 1)) * 2) ** 2) ** -3.2
        image.image.array[...] += s * 10.0 / np.sqrt((profile**2).sum()) * profile
    result = _task().run(image, sigma=2.0)
    assert result.numPos == 25
    assert result.numPosPeaks <= 26
    assert {(int(a), int(b)) for a, b in zip(x, y, strict=True)} <= set(_positions(result))
