"""A deblender of one's own: the example of the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lsst.pipe.base import Task

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.schema import minimal_source_schema
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.tasks.calibrate_image import CalibrateImageConfig
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageConfig

from .scene import make_blend

_PAGE = Path(__file__).parents[2] / "docs" / "deblend.md"


@pytest.fixture(scope="module")
def example() -> type[Task]:
    """Return the task class of the documentation."""
    (code,) = re.findall(r"```python\n(.*?class NearestPeakDeblendTask.*?)```", _PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(_PAGE), "exec"), names)
    return names["NearestPeakDeblendTask"]


def test_example_of_the_documentation(example):
    """It splits a blend, and its children can be measured."""
    blend = make_blend([50.0, 62.0], [50.0, 50.0], [2e4, 2e4], width=110, height=100, grow=3)
    schema = minimal_source_schema()
    task = example(schema=schema, config=example.ConfigClass())
    measurement = SingleFrameMeasurementTask(schema)
    catalog = task.run(blend.exposure, blend.sources(schema), id_generator=IdGenerator())
    assert catalog["parent"].tolist() == [0, 1, 1]
    assert catalog["id"].tolist() == [1, 2, 3]
    assert catalog["deblend_nChild"].tolist() == [2, 0, 0]
    assert isinstance(catalog.footprints, Footprints)
    assert catalog.footprints.areas()[1:].sum() == catalog.footprints.areas()[0]
    measurement.run(catalog, blend.exposure, seed=1)
    np.testing.assert_allclose(catalog["base_PsfFlux_instFlux"][1:], 2e4, rtol=0.02)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (ReprocessVisitImageConfig, "deblend"),
        (CalibrateImageConfig, "psf_deblend"),
        (CalibrateImageConfig, "star_deblend"),
    ],
)
def test_pipelines_take_another_deblender(example, config, name):
    settings = config()
    getattr(settings, name).retarget(example)
    assert getattr(settings, name).target is example
