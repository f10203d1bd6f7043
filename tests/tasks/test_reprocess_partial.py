"""What is left after a failure at every step: a complete image with its background, or nothing."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import astropy.units as u
import numpy as np
import pytest
from lsst.images import BackgroundMap
from lsst.images.fields import SumField
from lsst.pipe.base import AnnotatedPartialOutputsError, Struct

from secondlight.background.fields import render_background, subtracted_field
from secondlight.catalog.visit_image import replace_components
from secondlight.tasks import reprocess_visit_image
from secondlight.tasks._reprocess_failure import failure_metadata
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .reprocess_quantum import FakeButler, make_quantum, run_quantum
from .reprocess_scenes import (
    CALIB,
    DETECTOR,
    NOISE,
    SIGMA,
    VISIT,
    MadeUpError,
    background_field,
    default_outputs,
    default_task,
    make_config,
    make_inputs,
    make_scene,
)

# Steps in their order; before these there is no image to publish, and after the last none is whole.
WITHOUT_IMAGE = ("snap_combine", "subtract_background", "calibrate_image", "unrestorable_pixels")
BEFORE_MEASUREMENT = (
    "repair", "detection", "sky_sources", "deblend", "measurement", "normalized_calibration_flux",
    "apply_aperture_correction", "catalog_calculation", "set_primary_flags",
)  # fmt: skip
AFTER_MEASUREMENT = ("post_calculations", "compute_summary_stats", "calibrate_catalog")
WITH_IMAGE = BEFORE_MEASUREMENT + AFTER_MEASUREMENT


@pytest.fixture(scope="module", autouse=True)
def complete() -> Struct:
    """Return what there is without a failure, made before anything fails."""
    return default_outputs()


def break_step(
    monkeypatch: pytest.MonkeyPatch, task: ReprocessVisitImageTask, step: str, error: Exception
) -> None:
    """Let a subtask, or a function that the task calls, fail."""

    def fail(*args: Any, **kwargs: Any) -> NoReturn:
        raise error

    if hasattr(task, step):
        monkeypatch.setattr(getattr(task, step), "run", fail)
    else:
        monkeypatch.setattr(reprocess_visit_image, step, fail)


def run_broken(monkeypatch: pytest.MonkeyPatch, step: str) -> dict[str, Any]:
    """Run a quantum with a step that fails and return what it wrote."""
    task, butler = default_task(), make_quantum(make_scene())
    task.emptyMetadata()
    break_step(monkeypatch, task, step, MadeUpError("that is too much"))
    with pytest.raises(AnnotatedPartialOutputsError) as caught:
        run_quantum(monkeypatch, task, butler)
    assert isinstance(caught.value.__cause__, MadeUpError)
    assert task.metadata["failure"]["message"] == "that is too much"
    assert task.metadata["failure"]["type"].endswith("MadeUpError")
    assert butler.written is not None
    return butler.written


@pytest.mark.parametrize("step", WITH_IMAGE)
def test_image_and_background_after_a_failure(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Pixels, mask, calibrations and what is known of the statistics, consistent with each other."""
    written = run_broken(monkeypatch, step)
    assert set(written) == {"exposure", "background", "replaced_pixels"}
    exposure, complete = written["exposure"], default_outputs().exposure
    assert exposure.unit == u.nJy
    assert exposure.variance.unit == u.nJy**2
    np.testing.assert_allclose(exposure.variance.array, complete.variance.array, rtol=1e-6)
    if step == "repair":
        counts = make_scene().image.array
        np.testing.assert_allclose(exposure.image.array, CALIB.mean * counts, rtol=1e-5, atol=2e-3)
    else:
        np.testing.assert_array_equal(exposure.image.array, complete.image.array)
    if step not in ("repair", "detection"):
        assert exposure.mask == complete.mask
    inputs = default_outputs().inputs
    assert exposure.psf == inputs["psf"]
    assert exposure.sky_projection == inputs["wcs"]
    assert exposure.aperture_corrections == inputs["ap_corr"]
    assert exposure.photometric_scaling(x=100.0, y=100.0) == pytest.approx(CALIB.mean)
    assert isinstance(written["background"], BackgroundMap)
    pixels = render_background(written["background"], exposure.bbox)
    np.testing.assert_allclose(pixels, background_field(exposure.bbox).render().array, rtol=1e-6)


@pytest.mark.parametrize("step", WITH_IMAGE)
def test_the_image_tells_of_the_failure(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    metadata = run_broken(monkeypatch, step)["exposure"].metadata
    failure = {name: metadata[name] for name in metadata if name.startswith("failure")}
    assert failure.pop("failure_type").endswith("reprocess_scenes.MadeUpError")
    assert failure == {
        "failure_message": "that is too much",
        "failure_n_pixels": 12,
        "failure_width": "nan",
    }
    assert not [name for name in default_outputs().exposure.metadata if name.startswith("failure")]


@pytest.mark.parametrize("step", WITH_IMAGE)
def test_statistics_after_a_failure(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """All that is known without sources, with them that of their stars too; none if they are what failed."""
    stats = run_broken(monkeypatch, step)["exposure"].summary_stats
    complete = default_outputs().exposure.summary_stats
    if step == "compute_summary_stats":
        assert math.isnan(stats.psfSigma)
        assert math.isnan(stats.zeroPoint)
        return
    assert stats.psfSigma == pytest.approx(SIGMA, rel=1e-3)
    assert stats.zeroPoint == pytest.approx(CALIB.zero_point)
    assert stats.skyBg == complete.skyBg
    assert stats.skyNoise == pytest.approx(NOISE, rel=0.05)
    assert stats.raCorners == complete.raCorners
    assert stats.magLim == pytest.approx(complete.magLim)
    assert stats.nPsfStar == (1 if step in AFTER_MEASUREMENT else 0)


def test_statistics_of_the_first_pass_are_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = default_outputs().exposure.summary_stats.model_copy()
    butler = make_quantum(replace_components(make_scene(), summary_stats=stats))
    break_step(monkeypatch, default_task(), "compute_summary_stats", MadeUpError("that is too much"))
    with pytest.raises(AnnotatedPartialOutputsError):
        run_quantum(monkeypatch, default_task(), butler)
    assert butler.written is not None
    assert math.isnan(butler.written["exposure"].summary_stats.psfSigma)


@pytest.mark.parametrize("step", WITHOUT_IMAGE)
def test_nothing_is_written_without_a_whole_image(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    assert run_broken(monkeypatch, step) == {}


@pytest.mark.parametrize("step", [*WITHOUT_IMAGE, *WITH_IMAGE])
def test_other_errors_leave_nothing(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    task, butler = default_task(), make_quantum(make_scene())
    break_step(monkeypatch, task, step, ZeroDivisionError("a mistake"))
    with pytest.raises(ZeroDivisionError):
        run_quantum(monkeypatch, task, butler)
    assert butler.written is None


def test_a_mistake_while_a_failure_is_written_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task, butler = default_task(), make_quantum(make_scene())
    break_step(monkeypatch, task, "detection", MadeUpError("that is too much"))
    break_step(monkeypatch, task, "calibrate_image", ZeroDivisionError("a mistake"))
    with pytest.raises(ZeroDivisionError):
        run_quantum(monkeypatch, task, butler)
    assert butler.written is None


@pytest.mark.parametrize("step", ["sky_sources", "measurement"])
def test_background_that_detection_made_is_kept(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Image and background still add up to what went in, if a failure follows a re-estimated background."""
    config = make_config()
    config.detection.reEstimateBackground = True
    config.repair.doCosmicRay = False
    task = ReprocessVisitImageTask(config=config)
    image = make_scene()
    inputs = make_inputs(image)
    before = image.image.array.copy()
    break_step(monkeypatch, task, step, MadeUpError("that is too much"))
    result = Struct()
    with pytest.raises(MadeUpError):
        task.run(**inputs, result=result)
    assert isinstance(subtracted_field(result.background), SumField)
    pixels = render_background(result.background, image.bbox)
    assert np.ptp(pixels - background_field(image.bbox).render().array) > 0.1
    restored = result.exposure.image.array / CALIB.mean + pixels
    np.testing.assert_allclose(restored, before, rtol=1e-6, atol=1e-4)


def test_in_memory_the_result_has_the_partial_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Struct()
    break_step(monkeypatch, default_task(), "deblend", MadeUpError("that is too much"))
    with pytest.raises(MadeUpError):
        default_task().run(**make_inputs(make_scene()), result=result)
    assert set(result.getDict()) == {"exposure", "background", "replaced_pixels"}


def test_failures_of_the_subtasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that no test made up: more cosmic rays than are allowed."""
    config = make_config()
    config.repair.cosmicray.nCrPixelMax = 1
    task = ReprocessVisitImageTask(config=config)
    butler: FakeButler = make_quantum(make_scene())
    with pytest.raises(AnnotatedPartialOutputsError) as caught:
        run_quantum(monkeypatch, task, butler)
    assert type(caught.value.__cause__).__name__ == "TooManyCosmicRays"
    assert butler.written is not None
    metadata = butler.written["exposure"].metadata
    assert metadata["failure_type"] == "secondlight.repair.cosmic_rays.TooManyCosmicRays"
    assert f"visit {VISIT}, detector {DETECTOR}" in metadata["failure_message"]


def test_image_without_a_finite_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be measured; what is written is as empty as it is, and says why."""
    image = make_scene()
    butler = make_quantum(image)
    image.image.array[...] = np.nan
    with pytest.raises(AnnotatedPartialOutputsError):
        run_quantum(monkeypatch, default_task(), butler)
    assert butler.written is not None
    exposure = butler.written["exposure"]
    assert np.isnan(exposure.image.array).all()
    assert "no finite pixels" in exposure.metadata["failure_message"]
    assert exposure.summary_stats.psfSigma == pytest.approx(SIGMA, rel=1e-3)
    assert math.isnan(exposure.summary_stats.skyNoise)


def test_an_earlier_failure_is_forgotten() -> None:
    """Counts that an image after a failure leads back to may well be processed next time."""
    image = make_scene()
    image.metadata |= {"failure_type": "MadeUpError", "failure_message": "too much", "failures": 3}
    metadata = default_task().run(**make_inputs(image)).exposure.metadata
    assert not [name for name in metadata if name.startswith("failure_")]
    assert metadata["failures"] == 3
    assert image.metadata["failure_type"] == "MadeUpError"


def test_failure_without_numbers() -> None:
    class PlainError(MadeUpError):
        """Has nothing to say."""

        @property
        def metadata(self) -> None:
            """Nothing."""

    assert set(failure_metadata(PlainError("no"))) == {"failure_type", "failure_message"}


def test_numbers_do_not_hide_the_failure() -> None:
    class LoudError(MadeUpError):
        """Uses names of its own."""

        @property
        def metadata(self) -> dict[str, str]:
            """Something else of the same name."""
            return {"message": "something else"}

    assert failure_metadata(LoudError("no"))["failure_message"] == "no"
