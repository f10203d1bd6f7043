"""Detection on the reference's repaired pixels gives the reference's footprints and peaks, in its order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lsst.pipe.base import Struct

from secondlight.catalog.mask_planes import mask_of
from secondlight.catalog.schema import minimal_source_schema
from secondlight.detection.task import SourceDetectionConfig, SourceDetectionTask

from .pack import ParityPack, load_pack

pytestmark = pytest.mark.realdata


def _detect(pack: ParityPack) -> tuple[Struct, np.ndarray]:
    config = SourceDetectionConfig()
    config.reEstimateBackground = False
    config.doTempLocalBackground = False
    task = SourceDetectionTask(schema=minimal_source_schema(), config=config)
    image = pack.repaired_image()
    result = task.run(image)
    stored = pack.meta["task_metadata"]["reprocessVisitImage:detection"]
    assert task.metadata["smoothingKernelWidth"] == stored["smoothingKernelWidth"]
    assert task.metadata["nGrow"] == stored["nGrow"]
    assert task.metadata["sigma"] == pytest.approx(stored["sigma"], rel=1e-6)
    return result, mask_of(image.mask, ["DETECTED"])


@pytest.mark.parametrize("name", ["A", "B"])
def test_footprints_and_peaks_equal_the_reference(data_dir: Path, name: str) -> None:
    pack = load_pack(data_dir, name)
    result, detected = _detect(pack)
    ours, reference = result.sources.footprints, pack.detection.footprints
    print(f"{name}: {len(ours)} of {len(reference)} footprints")
    print(f"{name}: {len(ours.peak_x)} of {len(reference.peak_x)} peaks")
    assert {k: result.getDict()[k] for k in pack.meta["detection"]} == pack.meta["detection"]
    assert np.array_equal(result.sources["id"], pack.detection.ids)
    for column in ("span_offsets", "span_y", "span_x0", "span_x1", "peak_offsets", "peak_x", "peak_y"):
        assert np.array_equal(getattr(ours, column), getattr(reference, column)), column
    np.testing.assert_allclose(ours.peak_value, reference.peak_value, rtol=1e-5)
    np.testing.assert_allclose(ours.peak_significance, reference.peak_significance, rtol=1e-5)
    assert np.array_equal(detected, mask_of(pack.pvi().mask, ["DETECTED"]))


@pytest.mark.parametrize("name", ["A", "B"])
def test_edge_frame_equals_the_reference(data_dir: Path, name: str) -> None:
    pack = load_pack(data_dir, name)
    image = pack.repaired_image()
    task = SourceDetectionTask(schema=minimal_source_schema())
    task.run(image)
    assert np.array_equal(mask_of(image.mask, ["EDGE"]), mask_of(pack.pvi().mask, ["EDGE"]))
