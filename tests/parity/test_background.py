"""The background of the raw image equals the one the reference subtracts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secondlight.background.fields import render_background, sky_level
from secondlight.background.model import measure_cells
from secondlight.background.task import SubtractBackgroundConfig, SubtractBackgroundTask
from secondlight.catalog.mask_planes import mask_of

from .pack import load_pack

pytestmark = pytest.mark.realdata

_ROUNDING = 2.0**-9
"""Half the step to which the stored background image is rounded, counts."""


@pytest.mark.parametrize("name", ["A", "B"])
def test_cells_and_polynomial_equal_the_reference(data_dir: Path, name: str) -> None:
    pack = load_pack(data_dir, name)
    image = pack.input_image()
    good = ~mask_of(image.mask, ["BAD", "EDGE", "NO_DATA"])
    grid = measure_cells(image.image.array, good, image.bbox, cell_size=(128, 128))
    np.testing.assert_allclose(grid.values, pack.background_stats, atol=5e-5)
    config = SubtractBackgroundConfig()
    config.approxOrderX = 2
    result = SubtractBackgroundTask(config=config).run(image)
    difference = render_background(result.background, image.bbox) - pack.background
    assert np.abs(difference).max() < _ROUNDING + 1e-4
    # Its own sky level is the median of the noisy cells; ours is that of the model at their centres.
    assert sky_level(result.background) == pytest.approx(pack.summary_stats["skyBg"], rel=0.005)
