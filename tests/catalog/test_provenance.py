"""What images and tables tell about where they come from."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import astropy.io.fits
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler, DatasetType
from lsst.daf.butler import Config as ButlerConfig
from lsst.images import VisitImage
from lsst.images.serialization import read_archive, write_archive
from lsst.pex.config import Config, ConfigurableField, Field, ListField
from lsst.pipe.base import Struct, Task
from lsst.pipe.base.connections import DeferredDatasetRef
from lsst.resources import ResourcePath

from secondlight.catalog.arrow_tables import TableStream
from secondlight.catalog.provenance import TABLE_VERSION, record_provenance
from secondlight.catalog.source_catalog import SourceCatalog

from ..scenes import make_visit_image
from .test_source_catalog import make_catalog


class InnerConfig(Config):
    """Configuration of a subtask."""

    radius = Field[float](doc="A radius.", default=3.0)


class InnerTask(Task):
    """A subtask."""

    ConfigClass = InnerConfig
    _DefaultName: ClassVar[str] = "inner"


class OtherInnerTask(InnerTask):
    """Another subtask."""


class OuterConfig(Config):
    """Configuration of a task."""

    name = Field[str](doc="A name.", default="a = b")
    planes = ListField[str](doc="Some names.", default=["SAT", "CR"])
    inner: Any = ConfigurableField(target=InnerTask, doc="A subtask.")


class OuterTask(Task):
    """A task."""

    ConfigClass = OuterConfig
    _DefaultName: ClassVar[str] = "outer"


def make_task(*, name: str = "outer", other: bool = False, **values: Any) -> OuterTask:
    config = OuterConfig()
    for field, value in values.items():
        setattr(config, field, value)
    if other:
        config.inner.retarget(OtherInnerTask)
        config.inner.radius = 4.5
    return OuterTask(config=config, name=name)


def reference(name: str, number: int = 1, **data_id: Any) -> SimpleNamespace:
    return SimpleNamespace(
        datasetType=SimpleNamespace(name=name),
        run="a/run",
        id=uuid.UUID(int=number),
        dataId=SimpleNamespace(required=data_id),
    )


def recorded(task: Task, **arguments: Any) -> dict[str, Any]:
    table = Table()
    record_provenance(task, [table], **arguments)
    return dict(table.meta)


def test_values() -> None:
    meta = recorded(make_task(name="a_label", planes=["BAD"]))
    assert meta["provenance_task"] == f"{__name__}.OuterTask"
    assert meta["provenance_label"] == "a_label"
    assert meta["provenance_table_version"] == TABLE_VERSION
    versions = json.loads(meta["provenance_versions"])
    assert versions["numpy"] == np.__version__
    assert {"python", "secondlight", "galsim", "piff", "lsst-images", "pyarrow"} < set(versions)
    assert json.loads(meta["provenance_config"]) == {"planes": "['BAD']"}
    assert re.fullmatch("[0-9a-f]{64}", meta["provenance_config_sha256"])
    assert "provenance_inputs" not in meta


def test_configuration() -> None:
    default = recorded(make_task())
    assert default["provenance_config"] == "{}"
    changed = recorded(make_task(other=True))
    fields = json.loads(changed["provenance_config"])
    assert fields == {"inner": f"{__name__}.OtherInnerTask", "inner.radius": "4.5"}
    assert changed["provenance_config_sha256"] != default["provenance_config_sha256"]
    same = recorded(make_task(planes=["SAT", "CR"]))
    assert same["provenance_config_sha256"] == default["provenance_config_sha256"]


def test_inputs() -> None:
    exposure = reference("postISRCCD", 7, instrument="Cam", exposure=12, detector=3)
    many = [reference("calexp", k, detector=k) for k in range(60)]
    inputs = [
        ("exposures", [exposure]),
        ("summary", reference("finalVisitSummary", 8, instrument="Cam", visit=12)),
        ("later", DeferredDatasetRef(exposure)),  # type: ignore[arg-type]
        ("none", []),
        ("many", many),
    ]
    found = json.loads(recorded(make_task(), inputs=inputs)["provenance_inputs"])
    described = {
        "type": "postISRCCD",
        "run": "a/run",
        "id": str(uuid.UUID(int=7)),
        "data_id": {"instrument": "Cam", "exposure": 12, "detector": 3},
    }
    assert found["exposures"] == found["later"] == [described]
    assert [entry["type"] for entry in found["summary"]] == ["finalVisitSummary"]
    assert found["none"] == []
    assert found["many"] == {"type": "calexp", "count": 60}


def test_calibration_sources() -> None:
    meta = recorded(make_task(), calibration_sources={"psf": "finalized_psf_ap_corr_catalog"})
    assert meta["provenance_calibration_psf"] == "finalized_psf_ap_corr_catalog"


def test_outputs_of_all_kinds() -> None:
    image, catalog, table = make_visit_image(), make_catalog(), Table({"a": [1]})
    stream = TableStream(Table({"a": [1]}), iter(()))
    image.metadata["provenance_inputs"] = "of the input of an input"
    image.metadata["GAIN"] = 1.7
    outputs = Struct(image=image, catalog=catalog, tables=[table, stream], nothing=None, number=3)
    record_provenance(make_task(), outputs)
    for metadata in (image.metadata, catalog.metadata, table.meta, stream.header.meta):
        assert metadata["provenance_label"] == "outer"
    assert "provenance_table_version" in catalog.metadata
    assert "provenance_table_version" not in image.metadata
    assert "provenance_inputs" not in image.metadata
    assert image.metadata["GAIN"] == 1.7


def test_what_the_butler_recorded_of_an_input_is_not_said_of_an_output(butler: Butler) -> None:
    dataset_type = DatasetType("a_table", (), "ArrowAstropy", universe=butler.dimensions)
    butler.registry.registerDatasetType(dataset_type)
    butler.put(Table({"a": [1]}, meta={"zero_point": 31.4}), dataset_type)
    table = butler.get("a_table")
    assert table.meta["LSST.BUTLER.DATASETTYPE"] == "a_table"
    record_provenance(make_task(), [table])
    assert not [key for key in table.meta if key.startswith("LSST.BUTLER")]
    assert table.meta["zero_point"] == 31.4


def test_repeatable_and_without_paths() -> None:
    first = recorded(make_task(), inputs=[("a", reference("b", detector=1))])
    again = recorded(make_task(), inputs=[("a", reference("b", detector=1))])
    assert first == again
    assert list(first) == list(again)
    assert str(Path.home()) not in str(first)
    assert str(Path(__file__).parent) not in str(first)


def test_long_values_in_fits_are_outside_the_headers(tmp_path: Path) -> None:
    long = {"inner.radius": "x" * 100_000, "text": "'quotes' \"double\" & ampersand, ünïcode, a\nbreak"}
    image = make_visit_image()
    record_provenance(make_task(), [image])
    image.metadata["provenance_config"] = json.dumps(long)
    write_archive(image, tmp_path / "image.fits")
    again = read_archive(tmp_path / "image.fits", cls=VisitImage)
    assert again.metadata == image.metadata
    with astropy.io.fits.open(tmp_path / "image.fits") as hdus:
        assert sum(len(hdu.header.tostring()) for hdu in hdus) < 60_000
        tree = json.loads(hdus["JSON"].data["JSON"][0].tobytes())
    assert tree["metadata"]["provenance_label"] == "outer"
    assert json.loads(tree["metadata"]["provenance_config"]) == long


@pytest.fixture
def butler(tmp_path: Path) -> Iterator[Butler]:
    config = ButlerConfig(ResourcePath("resource://secondlight/configs/butler.yaml"))
    Butler.makeRepo(str(tmp_path / "repo"), config=config)
    with Butler.from_config(str(tmp_path / "repo"), run="test") as butler:
        yield butler


@pytest.mark.parametrize("storage_class", ["ArrowAstropy", "SourceCatalogV2"])
def test_tables_in_a_repository(butler: Butler, storage_class: str) -> None:
    catalog = make_catalog()
    dataset = catalog if storage_class == "SourceCatalogV2" else catalog.to_astropy()
    record_provenance(make_task(), [dataset], inputs=[("a", reference("b", detector=1))])
    metadata = catalog.metadata if dataset is catalog else dataset.meta
    expected = {key: value for key, value in metadata.items() if key.startswith("provenance_")}
    assert len(expected) == 7
    dataset_type = DatasetType("a_table", (), storage_class, universe=butler.dimensions)
    butler.registry.registerDatasetType(dataset_type)
    ref = butler.put(dataset, dataset_type)
    again = butler.get(ref)
    assert expected.items() <= (again.metadata if isinstance(again, SourceCatalog) else again.meta).items()
    path = butler.getURI(ref).ospath
    assert expected.items() <= Table.read(path, format="parquet").meta.items()
    text = pq.read_schema(path).metadata[b"table_meta_yaml"].decode()
    assert all(key in text for key in expected)
