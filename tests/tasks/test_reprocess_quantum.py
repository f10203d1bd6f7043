"""The final pass as a quantum: what is read and written, and what happens when something is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from lsst.images import BackgroundMap, VisitImage
from lsst.pipe.base import (
    AlgorithmError,
    AnnotatedPartialOutputsError,
    Struct,
    UpstreamFailureNoWorkFound,
)

from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary
from secondlight.sky.matching import match_pairs
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask
from tests.parity.pack import load_pack

from .reprocess_scenes import (
    CALIB,
    DETECTOR,
    VISIT,
    make_config,
    make_inputs,
    make_scene,
)


@pytest.fixture(scope="module")
def task() -> ReprocessVisitImageTask:
    return ReprocessVisitImageTask(config=make_config())


@pytest.fixture(scope="module")
def outputs(task: ReprocessVisitImageTask) -> Struct:
    inputs = make_inputs(make_scene())
    result = task.run(**inputs)
    result.inputs = inputs
    return result


class FakeButler:
    """Stands in for the context of a quantum: hands out inputs and keeps what is put."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.inputs = inputs
        self.written: Struct | None = None

    def get(self, refs: Any) -> dict[str, Any]:
        """Return the inputs."""
        return dict(self.inputs)

    def put(self, values: Struct, refs: Any) -> None:
        """Keep the outputs."""
        self.written = values


def run_quantum(
    monkeypatch: pytest.MonkeyPatch, task: ReprocessVisitImageTask, image: VisitImage, **record: Any
) -> FakeButler:
    inputs = make_inputs(image)
    values = {"psf": inputs["psf"], "sky_projection": inputs["wcs"], "photo_calib": CALIB} | record
    values.setdefault("aperture_corrections", {})
    detector = values.pop("detector", DETECTOR)
    butler = FakeButler(
        {
            "exposures": inputs["exposures"],
            "preliminary_mask": image.mask,
            "visit_summary": VisitSummary(VISIT, [DetectorSummary(detector, **values)]),
            "background_1": inputs["background"],
            "calib_sources": inputs["calib_sources"],
        }
    )
    generator = IdGenerator(7, 20)
    monkeypatch.setattr(type(task.config.id_generator), "apply", lambda self, data_id: generator)
    refs = SimpleNamespace(exposure=SimpleNamespace(dataId={"visit": VISIT, "detector": DETECTOR}))
    try:
        task.runQuantum(butler, None, refs)  # type: ignore[arg-type]
    except AnnotatedPartialOutputsError as error:
        butler.error = error  # type: ignore[attr-defined]
    return butler


def test_quantum(monkeypatch: pytest.MonkeyPatch, task: ReprocessVisitImageTask, outputs: Struct) -> None:
    written = run_quantum(monkeypatch, task, make_scene()).written
    assert written is not None
    np.testing.assert_array_equal(written.exposure.image.array, outputs.exposure.image.array)
    assert len(written.sources) == 9


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"detector": 43}, ["Detector 42", "no row"]),
        (
            {"psf": None, "photo_calib": None},
            ["its PSF is missing", "its photometric calibration is missing"],
        ),
        (
            {"sky_projection": None, "aperture_corrections": None},
            ["its WCS is missing", "its aperture-correction map is missing"],
        ),
    ],
)
def test_missing_calibrations_are_named(
    monkeypatch: pytest.MonkeyPatch, task: ReprocessVisitImageTask, record: dict[str, Any], texts: list[str]
) -> None:
    with pytest.raises(UpstreamFailureNoWorkFound) as caught:
        run_quantum(monkeypatch, task, make_scene(), **record)
    positions = [str(caught.value).index(text) for text in texts]
    assert positions == sorted(positions)


class MadeUpError(AlgorithmError):
    """A failure of an algorithm."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Some numbers."""
        return {"n_pixels": 12}


def test_partial_outputs_are_calibrated_and_marked(
    monkeypatch: pytest.MonkeyPatch, task: ReprocessVisitImageTask
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise MadeUpError("too many cosmic rays")

    image = make_scene()
    counts = image.image.array.copy()
    monkeypatch.setattr(task.repair, "run", fail)
    butler = run_quantum(monkeypatch, task, image)
    assert isinstance(butler.error.__cause__, MadeUpError)  # type: ignore[attr-defined]
    written = butler.written
    assert written is not None
    assert written.exposure.unit == u.nJy
    np.testing.assert_allclose(written.exposure.image.array, counts * np.float32(12.3), rtol=1e-4, atol=0.02)
    assert written.exposure.metadata["failure_message"] == "too many cosmic rays"
    assert written.exposure.metadata["failure_n_pixels"] == 12
    assert isinstance(written.background, BackgroundMap)
    assert written.sources is None
    assert written.sources_footprints is None
    assert "failure" in task.metadata


def test_nothing_is_written_if_it_fails_early(
    monkeypatch: pytest.MonkeyPatch, task: ReprocessVisitImageTask
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise MadeUpError("no snaps")

    monkeypatch.setattr(task.snap_combine, "run", fail)
    written = run_quantum(monkeypatch, task, make_scene()).written
    assert written is not None
    assert set(written.getDict().values()) == {None}


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "false_flags"), [("A", 9), ("B", 12)])
def test_calibration_stars_of_the_parity_packs(
    data_dir: Path, task: ReprocessVisitImageTask, name: str, false_flags: int
) -> None:
    """The reference flags sources that have no calibration star; we do not."""
    pack = load_pack(data_dir, name)
    sources = pack.sources.copy()
    reference = sources["calib_psf_candidate"].copy()
    for flag in ("calib_psf_used", "calib_psf_candidate", "calib_psf_reserved"):
        sources[flag] = False
    task._match_calib_sources(sources, pack.calib_sources, detector=pack.detector)
    stars = pack.calib_sources
    near, _, _ = match_pairs(
        *(np.degrees(sources[f"coord_{axis}"]) for axis in ("ra", "dec")),
        *(np.degrees(np.asarray(stars[f"coord_{axis}"])) for axis in ("ra", "dec")),
        0.2,
    )
    has_star = np.isin(np.arange(len(sources)), near)
    ours = sources["calib_psf_candidate"]
    assert (reference & ~has_star).sum() == false_flags
    assert not (ours & ~has_star).any()
    assert not (ours & (sources["deblend_nChild"] > 0)).any()
    childless = has_star & (sources["deblend_nChild"] == 0)
    assert ours.sum() > 0.95 * childless.sum()
