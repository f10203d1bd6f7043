"""The final pass as a quantum: what is read, and what happens when a calibration is missing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from lsst.images import Image
from lsst.pipe.base import Struct, UpstreamFailureNoWorkFound

from secondlight.background.fields import make_background, render_background
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .reprocess_quantum import GENERATOR, make_quantum, run_quantum
from .reprocess_scenes import (
    CALIB,
    DETECTOR,
    VISIT,
    background_field,
    default_outputs,
    default_task,
    make_config,
    make_scene,
)

REASONS = {
    "psf": "its PSF is missing",
    "sky_projection": "its WCS is missing",
    "aperture_corrections": "its aperture-correction map is missing",
    "photo_calib": "its photometric calibration is missing",
}


def test_quantum(monkeypatch: pytest.MonkeyPatch) -> None:
    written = run_quantum(monkeypatch, default_task(), make_quantum(make_scene()))
    outputs = default_outputs()
    names = {"exposure", "sources", "sources_footprints", "background", "replaced_pixels"}
    assert set(written) == names
    np.testing.assert_array_equal(written["exposure"].image.array, outputs.exposure.image.array)
    np.testing.assert_array_equal(written["sources"]["id"], outputs.sources["id"])


class Spy(ReprocessVisitImageTask):
    """Keeps the arguments of `run` instead of working."""

    def run(self, **arguments: Any) -> Struct:
        """Keep the arguments."""
        self.arguments = arguments
        return arguments["result"]


def test_arguments_of_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is what its connection gave; the names are those of the reference, and the visit is one more."""
    spy = Spy(config=make_config())
    butler = make_quantum(make_scene())
    butler.inputs["calib_sources"].get()["psf_max_value"] = 1.0  # of no use here, so not read
    run_quantum(monkeypatch, spy, butler)
    given, inputs = spy.arguments, butler.inputs
    record = inputs["visit_summary"].summary.find(DETECTOR)
    assert set(given) == {
        "exposures", "preliminary_mask", "initial_photo_calib", "psf", "background", "ap_corr", "photo_calib",
        "wcs", "calib_sources", "id_generator", "background_to_photometric_ratio", "result", "visit",
    }  # fmt: skip
    assert given["exposures"] == inputs["exposures"]
    assert given["preliminary_mask"] is inputs["preliminary_mask"]
    assert given["background"] is inputs["background_1"]
    stars = inputs["calib_sources"].get()
    assert set(given["calib_sources"].colnames) == set(stars.colnames) - {"psf_max_value"}
    np.testing.assert_array_equal(given["calib_sources"]["coord_ra"], stars["coord_ra"])
    assert given["psf"] is record.psf
    assert given["wcs"] is record.sky_projection
    assert given["ap_corr"] is record.aperture_corrections
    assert given["photo_calib"] is CALIB
    assert given["id_generator"] is GENERATOR
    assert given["visit"] == VISIT
    assert given["initial_photo_calib"] is None
    assert given["background_to_photometric_ratio"] is None


class OldHandle:
    """Stands in for the handle of a visit summary in a repository that knows no records."""

    def __init__(self, summary: VisitSummary) -> None:
        self.summary = summary

    def get(self, *, parameters: dict[str, int] | None = None) -> VisitSummary:
        """Return the whole summary, as a storage class without parameters does."""
        if parameters:
            raise KeyError("Parameter 'detector' not understood by StorageClass VisitSummary")
        return self.summary


def test_repository_of_an_earlier_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its storage classes, which are its own, cannot read one record of a visit summary."""
    butler = make_quantum(make_scene())
    record = butler.inputs["visit_summary"].summary.find(DETECTOR)
    butler.inputs["visit_summary"] = OldHandle(VisitSummary(VISIT, [DetectorSummary(1), record]))
    spy = Spy(config=make_config())
    run_quantum(monkeypatch, spy, butler)
    assert spy.arguments["psf"] is record.psf


def test_optional_inputs_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(config=make_config())
    image = make_scene()
    butler = make_quantum(image)
    initial, ratio = PhotoCalib(2.0), Image(np.ones(image.bbox.shape), bbox=image.bbox)
    butler.inputs |= {"initial_photo_calib": initial, "background_to_photometric_ratio": ratio}
    run_quantum(monkeypatch, spy, butler)
    assert spy.arguments["initial_photo_calib"] is initial
    assert spy.arguments["background_to_photometric_ratio"] is ratio


def test_an_input_that_nothing_uses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    butler = make_quantum(make_scene())
    butler.inputs["streaks"] = None
    with pytest.raises(AssertionError, match="streaks"):
        run_quantum(monkeypatch, default_task(), butler)


def test_sky_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two backgrounds that add up to the one of the default scene give the same image."""
    task = ReprocessVisitImageTask(config=make_config(do_use_sky_corr=True))
    image = make_scene()
    butler = make_quantum(image)
    field = background_field(image.bbox)
    butler.inputs["background_1"] = make_background(field * 0.75)
    butler.inputs["background_2"] = make_background(field * 0.25)
    written = run_quantum(monkeypatch, task, butler)
    outputs = default_outputs()
    np.testing.assert_allclose(
        written["exposure"].image.array, outputs.exposure.image.array, atol=2e-3, rtol=1e-6
    )
    assert written["exposure"].summary_stats.skyBg == pytest.approx(outputs.exposure.summary_stats.skyBg)
    total = render_background(written["background"], image.bbox)
    np.testing.assert_allclose(total, field.render().array, rtol=1e-6)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_first_snap_is_the_first_exposure(
    monkeypatch: pytest.MonkeyPatch, order: tuple[int, int]
) -> None:
    spy = Spy(config=make_config())
    snaps = [make_scene(), make_scene()]
    with snaps[1].obs_info.edit_copy() as later:
        later.exposure_id = VISIT + 1
    snaps[1]._obs_info = later
    butler = make_quantum(snaps[0])
    butler.inputs["exposures"] = [snaps[i] for i in order]
    run_quantum(monkeypatch, spy, butler)
    assert [snap.obs_info.exposure_id for snap in spy.arguments["exposures"]] == [VISIT, VISIT + 1]


def test_a_detector_that_the_summary_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    butler = make_quantum(make_scene(), detector=43)
    with pytest.raises(UpstreamFailureNoWorkFound) as caught:
        run_quantum(monkeypatch, default_task(), butler)
    assert f"Detector {DETECTOR} of visit {VISIT}" in str(caught.value)
    assert "the visit summary has no row for it" in str(caught.value)
    assert butler.written is None


@pytest.mark.parametrize(
    "missing", [m for n in range(1, len(REASONS) + 1) for m in itertools.combinations(REASONS, n)]
)
def test_missing_calibrations_are_named_in_order(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    butler = make_quantum(make_scene(), **dict.fromkeys(missing))
    with pytest.raises(UpstreamFailureNoWorkFound) as caught:
        run_quantum(monkeypatch, default_task(), butler)
    first, *lines = str(caught.value).split("\n")
    assert first == f"Detector {DETECTOR} of visit {VISIT} cannot be processed:"
    assert lines == [f"- {REASONS[name]}" for name in missing]
    assert butler.written is None
