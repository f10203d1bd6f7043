"""Sky sources are on the reference's pixels, with the reference's footprints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secondlight.catalog.schema import minimal_source_schema
from secondlight.detection.sky_objects import SkyObjectsTask
from secondlight.detection.task import SourceDetectionConfig, SourceDetectionTask

from .pack import load_pack

pytestmark = pytest.mark.realdata


@pytest.mark.parametrize("name", ["A", "B"])
def test_sky_sources_equal_the_reference(data_dir: Path, name: str) -> None:
    pack = load_pack(data_dir, name)
    schema = minimal_source_schema()
    sky_objects = SkyObjectsTask(schema=schema)
    config = SourceDetectionConfig()
    config.reEstimateBackground = config.doTempLocalBackground = False
    image = pack.repaired_image()
    detected = SourceDetectionTask(schema=schema, config=config).run(image).sources
    ours = sky_objects.run(image.mask, 0, detected)

    stored = pack.footprints
    is_sky = np.isin(stored.ids, pack.sources["id"][pack.sources["sky_source"]])
    reference = stored.footprints.take(is_sky)
    assert len(reference) == 100
    assert ours["id"][ours["sky_source"]].tolist() == stored.ids[is_sky].tolist()
    assert ours.footprints is not None
    found = ours.footprints.take(ours["sky_source"])
    for column in ("span_offsets", "span_y", "span_x0", "span_x1", "peak_offsets", "peak_x", "peak_y"):
        assert np.array_equal(getattr(found, column), getattr(reference, column)), column
    assert np.array_equal(found.peak_value, reference.peak_value)
