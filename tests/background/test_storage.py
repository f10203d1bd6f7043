"""Backgrounds of every model come back from a repository as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lsst.daf.butler import Butler, Config, DatasetType
from lsst.resources import ResourcePath

from secondlight.background.fields import render_background, sky_level
from secondlight.background.task import SubtractBackgroundConfig, SubtractBackgroundTask
from tests.scenes import make_visit_image


def test_round_trip(tmp_path: Path) -> None:
    image = make_visit_image(background=300.0)
    background = None
    for style in (None, "AKIMA_SPLINE", "NATURAL_SPLINE", "CONSTANT"):
        config = SubtractBackgroundConfig()
        config.binSize = 30
        config.useApprox = style is None
        config.algorithm = style or "AKIMA_SPLINE"
        background = SubtractBackgroundTask(config=config).run(image, background=background).background
    assert background is not None
    Butler.makeRepo(
        str(tmp_path / "repo"), config=Config(ResourcePath("resource://secondlight/configs/butler.yaml"))
    )
    butler = Butler.from_config(str(tmp_path / "repo"), run="test")
    try:
        dataset_type = DatasetType("some_background", (), "BackgroundMap", universe=butler.dimensions)
        butler.registry.registerDatasetType(dataset_type)
        butler.put(background, dataset_type)
        again = butler.get(dataset_type)
    finally:
        butler.close()
    assert again.subtracted.field == background.subtracted.field
    rendered = render_background(again, image.bbox)
    assert np.array_equal(rendered, render_background(background, image.bbox))
    assert sky_level(again) == sky_level(background)
    np.testing.assert_allclose(rendered, 300.0, atol=10.0)
