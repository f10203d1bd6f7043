"""The final pass as a quantum, without a repository."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lsst.images import VisitImage
from lsst.pipe.base import InMemoryDatasetHandle, Struct

from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .reprocess_scenes import CALIB, DETECTOR, VISIT, make_inputs

GENERATOR = IdGenerator(7, 20)


class SummaryHandle:
    """Stands in for the handle of a stored visit summary."""

    def __init__(self, summary: VisitSummary) -> None:
        self.summary = summary

    def get(self, *, parameters: dict[str, int]) -> VisitSummary:
        """Return the record of one detector, if there is one."""
        return VisitSummary(VISIT, [r for r in self.summary if r.detector == parameters["detector"]])


class FakeButler:
    """Stands in for the context of a quantum: hands out inputs and keeps what is put."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.inputs = inputs
        self.written: dict[str, Any] | None = None

    def get(self, refs: Any) -> dict[str, Any]:
        """Return the inputs."""
        return dict(self.inputs)

    def put(self, values: Struct, refs: Any) -> None:
        """Keep the outputs that a repository would: those that are not `None`."""
        assert self.written is None, "outputs were written twice"
        self.written = {name: value for name, value in values.getDict().items() if value is not None}


def make_quantum(image: VisitImage, *, detector: int = DETECTOR, **record: Any) -> FakeButler:
    """Return the inputs of a quantum; values for the detector's row of the visit summary can be replaced."""
    inputs = make_inputs(image)
    values = {
        "psf": inputs["psf"],
        "sky_projection": inputs["wcs"],
        "photo_calib": CALIB,
        "aperture_corrections": {},
    }
    return FakeButler(
        {
            "exposures": inputs["exposures"],
            "preliminary_mask": image.mask,
            "visit_summary": SummaryHandle(
                VisitSummary(VISIT, [DetectorSummary(detector, **(values | record))])
            ),
            "background_1": inputs["background"],
            "calib_sources": InMemoryDatasetHandle(inputs["calib_sources"], storageClass="ArrowAstropy"),
        }
    )


def run_quantum(
    monkeypatch: pytest.MonkeyPatch, task: ReprocessVisitImageTask, butler: FakeButler
) -> dict[str, Any]:
    """Run a quantum and return what it wrote."""
    monkeypatch.setattr(type(task.config.id_generator), "apply", lambda self, data_id: GENERATOR)
    refs = SimpleNamespace(exposure=SimpleNamespace(dataId={"visit": VISIT, "detector": DETECTOR}))
    task.runQuantum(butler, None, refs)  # type: ignore[arg-type]
    assert butler.written is not None
    return butler.written
