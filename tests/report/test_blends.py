"""Pictures of blends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.deblend.task import SourceDeblendTask
from secondlight.detection.task import SourceDetectionTask
from secondlight.report.blends import draw_blends, render_child
from tests.scenes import make_visit_image


def deblended():
    exposure = make_visit_image(
        x=[60.0, 68.0, 150.0], y=[60.0, 62.0, 120.0], flux=[20000.0, 15000.0, 9000.0], noise=5.0
    )
    schema = minimal_source_schema()
    detection = SourceDetectionTask(schema=schema, config=SourceDetectionTask.ConfigClass())
    deblend = SourceDeblendTask(schema=schema, config=SourceDeblendTask.ConfigClass())
    return exposure, deblend.run(exposure, detection.run(exposure).sources)


def test_children_and_what_is_left_over(tmp_path: Path) -> None:
    exposure, sources = deblended()
    assert sources["deblend_nChild"].max() == 2
    figure = draw_blends(exposure, sources)
    image, first, second, empty, also_empty, rest = figure.axes
    assert [axes.get_title() for axes in (image, first, rest)] == ["image", "child 1", "left over"]
    assert image.images
    assert second.images
    assert not empty.images
    assert not also_empty.images
    # What is left over is about the noise, where the image has hundreds of times that.
    shown = [np.abs(np.sinh(axes.images[0].get_array())).max() for axes in (image, rest)]
    assert shown[0] > 50
    assert shown[1] < 4
    figure.savefig(tmp_path / "blends.png")
    assert (tmp_path / "blends.png").stat().st_size > 5000


def test_pixels_of_a_child() -> None:
    offsets, y, x0, x1 = np.array([0, 2]), np.array([3, 4]), np.array([2, 1]), np.array([3, 1])
    heavy = (np.array([0, 3]), np.array([5.0, 6.0, 7.0], dtype=np.float32))
    footprints = Footprints.from_spans(offsets, y, x0, x1, heavy=heavy)
    expected = np.zeros((3, 4))
    expected[0, 2:4] = 5, 6
    expected[1, 1] = 7
    np.testing.assert_array_equal(render_child(footprints, 0, (0, 3, 3, 5)), expected)


def test_nothing_to_draw() -> None:
    exposure, sources = deblended()
    with pytest.raises(ValueError, match="None of 1 sources was split"):
        draw_blends(exposure, sources[sources["deblend_nChild"] == 0][:1])
    with pytest.raises(ValueError, match="without footprints"):
        draw_blends(exposure, SourceCatalog(sources.schema, 2))
