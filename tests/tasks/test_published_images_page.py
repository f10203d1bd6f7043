"""The page about published images: its examples run on files, and say what is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest
from lsst.images import VisitImage
from lsst.images.serialization import read_archive, write_archive
from lsst.pipe.base import Struct

import secondlight
from secondlight.catalog.arrow_tables import write_table
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .reprocess_scenes import make_config, make_inputs, make_scene

PAGE = Path(__file__).parents[2] / "docs" / "published_images.md"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Publish an image as files; return their folder and the input."""
    folder = tmp_path_factory.mktemp("published")
    image = make_scene()
    inputs = make_inputs(image)
    image.metadata["GAIN"] = 1.6
    counts = image.image.array.copy()
    result: Struct = ReprocessVisitImageTask(config=make_config()).run(**inputs)
    write_archive(result.exposure, folder / "pvi.fits")
    write_archive(result.background, folder / "pvi_background.fits")
    write_table(result.replaced_pixels, folder / "pvi_replaced_pixels.parq")
    write_table(result.sources, folder / "sources_detector.parq")
    pq.write_table(result.sources_footprints.to_arrow(), folder / "sources_detector_footprints.parq")
    return folder, counts


def test_examples(published: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, counts = published
    monkeypatch.chdir(folder)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 9
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    image, sources = names["image"], names["sources"]

    np.testing.assert_array_equal(names["original"].image.array, counts)
    np.testing.assert_allclose(names["electrons"], 1.6 * image.image.array / 12.3, rtol=1e-6)
    np.testing.assert_array_equal(names["flux_of_one_count"], [12.3])
    bright = sources[sources["base_PsfFlux_flux"] > 0]
    np.testing.assert_allclose(names["magnitudes"].value, bright["base_PsfFlux_mag"], atol=1e-9)
    found = names["background"].subtracted.field.unit
    assert found == u.adu

    assert names["noise"].shape == counts.shape
    assert names["tree"]["metadata"]["zero_point"] == image.metadata["zero_point"]
    assert names["tree"]["summary_stats"]["psfSigma"] == image.summary_stats.psfSigma
    versions = json.loads(names["tree"]["metadata"]["provenance_versions"])
    assert versions["secondlight"] == secondlight.__version__
    assert 0.01 < names["detected"].mean() < 0.5
    corner = names["wcs"].pixel_to_world(0, 0)
    truth = image.sky_projection.pixel_to_sky(x=float(image.bbox.x.start), y=float(image.bbox.y.start))
    assert corner.separation(truth).arcsec < 1e-3
    assert names["table"]["base_PsfFlux_flux"].unit == u.nJy
    assert names["table"].meta["provenance_task"].endswith("ReprocessVisitImageTask")
    assert len(names["y"]) == len(names["x0"]) == len(names["x1"]) > 0


def test_every_key_of_the_metadata_is_described(published: tuple[Path, np.ndarray]) -> None:
    folder, _ = published
    text = PAGE.read_text()
    image = read_archive(folder / "pvi.fits", cls=VisitImage)
    described = set(re.findall(r"`([a-z0-9_]+)`", text))
    for name in image.metadata:
        assert name.isupper() or name in described, name
