"""From the measured sources of detectors to the public tables of a visit, in memory and in a repository."""

from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler, Config, DatasetType
from lsst.pipe.base import InMemoryDatasetHandle, NoWorkFound, Pipeline
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
from lsst.resources import ResourcePath
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.cli.pipeline import find_pipeline
from secondlight.photometry.published_columns import PUBLISHED_COLUMNS
from secondlight.tasks.consolidate_source import ConsolidateSourceTask
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask
from secondlight.tasks.split_primary_source import SplitPrimarySourceConfig, SplitPrimarySourceTask
from secondlight.tasks.standardize_source import StandardizeSourceConfig, StandardizeSourceTask

from . import reprocess_scenes as scenes

VISIT = 1 << 33
NAMES = [column.name for column in PUBLISHED_COLUMNS]


@pytest.fixture(scope="module")
def schema() -> SourceCatalog:
    return ReprocessVisitImageTask().sources_schema


def measured(schema: SourceCatalog, detector: int, n: int) -> SourceCatalog:
    """Return n sources of a detector, every third of them not primary."""
    rng = np.random.default_rng(detector)
    catalog = SourceCatalog(schema.schema, n)
    for field in catalog.schema:
        if field.dtype.kind == "f":
            catalog[field.name] = rng.normal(size=n)
        elif field.dtype.kind == "b":
            catalog[field.name] = rng.random(n) < 0.1
    catalog["id"] = 1000 * detector + np.arange(n)
    catalog["detect_isPrimary"] = np.arange(n) % 3 > 0
    return catalog


def standardize(sources: Any, detector: int, **config: Any) -> Table:
    task = StandardizeSourceTask(config=make_config(StandardizeSourceConfig(), config))
    return task.run(
        inputCatalog=sources, visit=VISIT, detector=detector, band="r", physical_filter="r_01"
    ).outputCatalog


def make_config(config: Any, values: dict[str, Any]) -> Any:
    for name, value in values.items():
        setattr(config, name, value)
    config.validate()
    return config


@pytest.fixture(scope="module")
def tables(schema: SourceCatalog) -> dict[int, Table]:
    return {d: standardize(measured(schema, d, n), d) for d, n in ((9, 4), (4, 7), (6, 0))}


def test_standardize_the_kinds_of_input_give_the_same(schema: SourceCatalog) -> None:
    catalog = measured(schema, 4, 6)
    table = catalog.to_astropy()
    handle = InMemoryDatasetHandle(table, storageClass="ArrowAstropy")
    results = [standardize(sources, 4) for sources in (catalog, table, handle)]
    for result in results:
        assert result.colnames == NAMES
        assert set(result["detector"]) == {4}
        for name in NAMES:
            np.testing.assert_array_equal(result[name], results[0][name])


def test_standardize_only_what_is_published_is_read(schema: SourceCatalog) -> None:
    read = []

    class Handle(InMemoryDatasetHandle):
        """Notes the columns that are asked for."""

        def get(self, *, component: str | None = None, parameters: Any = None) -> Any:
            if component is None:
                read.extend(parameters["columns"])
            return super().get(component=component, parameters=parameters)

    handle = Handle(measured(schema, 4, 2).to_astropy(), storageClass="ArrowAstropy")
    config = {"extra_columns": ["ext_photometryKron_KronFlux_r*"], "include_calibration_error": True}
    result = standardize(handle, 4, **config)
    assert result["kronFlux_radius"].unit == u.pix
    assert "base_LocalPhotoCalibErr" in read
    assert "base_PsfFlux_chi2" not in read
    assert len(read) == len(set(read)) < 170


def test_standardize_bad_input_is_said_with_visit_and_detector(schema: SourceCatalog) -> None:
    table = measured(schema, 4, 2).to_astropy()
    table.remove_column("id")
    for sources in (table, InMemoryDatasetHandle(table, storageClass="ArrowAstropy")):
        with pytest.raises(ValueError, match=rf"Visit {VISIT}, detector 4: .*no sourceId \(from id\)"):
            standardize(sources, 4)


def test_consolidate_detectors_follow_in_order(tables: dict[int, Table]) -> None:
    table = ConsolidateSourceTask().run(inputCatalogs=tables, visit=VISIT).outputCatalog
    assert table["detector"].tolist() == [4] * 7 + [9] * 4
    assert table["sourceId"].tolist() == [*range(4000, 4007), *range(9000, 9004)]
    assert table.colnames == NAMES
    assert table.dtype == tables[4].dtype
    assert table["psfFlux"].unit == u.nJy
    assert table["ra"].meta == {"ucd": "pos.eq.ra;meta.main"}
    assert table["ra"].description == tables[4]["ra"].description


def test_consolidate_handles(tables: dict[int, Table]) -> None:
    handles = {d: InMemoryDatasetHandle(t, storageClass="ArrowAstropy") for d, t in tables.items()}
    one, other = (
        ConsolidateSourceTask().run(inputCatalogs=inputs, visit=VISIT).outputCatalog
        for inputs in (tables, handles)
    )
    for name in NAMES:
        np.testing.assert_array_equal(one[name], other[name])


def test_consolidate_absent_detectors_are_logged(
    tables: dict[int, Table], caplog: pytest.LogCaptureFixture
) -> None:
    inputs = {**tables, 3: None, 7: None}
    with caplog.at_level(logging.INFO):
        result = ConsolidateSourceTask().run(inputCatalogs=inputs, visit=VISIT)
    assert len(result.outputCatalog) == 11
    assert f"Visit {VISIT}: no sources of detectors 3, 7." in caplog.text
    assert f"Visit {VISIT}: 11 sources of 3 detectors." in caplog.text


@pytest.mark.parametrize("inputs", [{}, {4: None}])
def test_consolidate_no_detector(inputs: dict[int, None]) -> None:
    with pytest.raises(NoWorkFound, match=f"Visit {VISIT}: no detector has a source table"):
        ConsolidateSourceTask().run(inputCatalogs=inputs, visit=VISIT)


def test_consolidate_no_sources_at_all(tables: dict[int, Table]) -> None:
    table = ConsolidateSourceTask().run(inputCatalogs={6: tables[6]}, visit=VISIT).outputCatalog
    assert len(table) == 0
    assert table.dtype == tables[4].dtype


@pytest.mark.parametrize("same_detector", [False, True])
def test_consolidate_ids_must_be_unique(tables: dict[int, Table], same_detector: bool) -> None:
    bad = tables[9].copy()
    bad["sourceId"][1] = 9000 if same_detector else 4002
    detectors, first = ("9", 9000) if same_detector else ("4, 9", 4002)
    text = f"1 source ids appear more than once, in detectors {detectors}; the first is {first}"
    with pytest.raises(ValueError, match=f"Visit {VISIT}: {text}"):
        ConsolidateSourceTask().run(inputCatalogs={**tables, 9: bad}, visit=VISIT)


def test_consolidate_columns_must_agree(tables: dict[int, Table]) -> None:
    bad = tables[9].copy()
    bad.remove_column("ixx")
    with pytest.raises(ValueError, match=f"Visit {VISIT}: .*detector 9 and 4 differ in the columns ixx"):
        ConsolidateSourceTask().run(inputCatalogs={**tables, 9: bad}, visit=VISIT)


def test_consolidate_tables_without_ids() -> None:
    with pytest.raises(ValueError, match=f"Visit {VISIT}: the sources of detector 4 have no column sourc"):
        ConsolidateSourceTask().run(inputCatalogs={4: Table({"x": [1.0]})}, visit=VISIT)


def test_consolidate_one_detector_at_a_time_is_in_memory(tables: dict[int, Table]) -> None:
    n, rows = 20, np.zeros(2000, dtype=int)

    class Handle:
        """Makes a table of two megabytes when it is asked for."""

        def __init__(self, detector: int) -> None:
            self.detector = detector

        def get(self) -> Table:
            table = tables[4][rows]
            table["sourceId"] = 10_000 * self.detector + np.arange(len(rows))
            return table

    stream = ConsolidateSourceTask().stream(inputCatalogs={d: Handle(d) for d in range(n)}, visit=VISIT)
    tracemalloc.start()
    n_rows = sum(len(piece) for piece in stream.pieces)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_rows == n * len(rows)
    one = sum(column.nbytes for column in tables[4][rows].columns.values())
    assert peak < 4 * one


def test_split(tables: dict[int, Table]) -> None:
    full = tables[4]
    result = SplitPrimarySourceTask().run(full=full)
    assert result.primary["sourceId"].tolist() == [4001, 4002, 4004, 4005]
    assert result.nonprimary["sourceId"].tolist() == [4000, 4003, 4006]
    for part in (result.primary, result.nonprimary):
        assert part.colnames == [name for name in NAMES if name != "detect_isPrimary"]
        assert part["psfFlux"].unit == u.nJy
        assert part["psfFlux"].description == full["psfFlux"].description


def test_tables_tell_what_made_them_without_a_repository(schema: SourceCatalog) -> None:
    catalogs = {d: measured(schema, d, 3) for d in (4, 9)}
    for d, catalog in catalogs.items():
        catalog.metadata |= {"provenance_task": "ReprocessVisitImageTask", "photo_calib_error": float(d)}
    tables = {d: standardize(catalog, d) for d, catalog in catalogs.items()}
    whole = ConsolidateSourceTask().run(inputCatalogs=tables, visit=VISIT).outputCatalog
    parts = SplitPrimarySourceTask().run(full=whole)
    made_by = {"StandardizeSourceTask": [*tables.values()], "ConsolidateSourceTask": [whole]}
    made_by["SplitPrimarySourceTask"] = [parts.primary, parts.nonprimary]
    for name, made in made_by.items():
        assert all(table.meta["provenance_task"].endswith(name) for table in made)
    assert [table.meta["photo_calib_error"] for table in tables.values()] == [4.0, 9.0]
    assert "photo_calib_error" not in whole.meta


def test_split_columns_can_be_left_out(tables: dict[int, Table]) -> None:
    values = {
        "discard_primary_columns": ["sky_source", "not_there"],
        "discard_nonprimary_columns": ["extendedness"],
    }
    config = make_config(SplitPrimarySourceConfig(), values)
    result = SplitPrimarySourceTask(config=config).run(full=tables[4])
    assert set(NAMES) - set(result.primary.colnames) == {"detect_isPrimary", "sky_source"}
    assert set(NAMES) - set(result.nonprimary.colnames) == {"detect_isPrimary", "extendedness"}


def test_split_no_rows(tables: dict[int, Table]) -> None:
    result = SplitPrimarySourceTask().run(full=tables[6])
    assert len(result.primary) == len(result.nonprimary) == 0
    assert result.primary.dtype == SplitPrimarySourceTask().run(full=tables[4]).primary.dtype


def test_split_bad_input(tables: dict[int, Table]) -> None:
    with pytest.raises(ValueError, match="no column detect_isPrimary"):
        SplitPrimarySourceTask().run(full=Table({"x": [1.0]}))
    numbers = tables[4].copy()
    numbers["detect_isPrimary"] = numbers["detect_isPrimary"].astype(float)
    with pytest.raises(ValueError, match="detect_isPrimary to split the sources by is of float64"):
        SplitPrimarySourceTask().run(full=numbers)


DETECTORS = (1, 2, 3)


@pytest.fixture
def repository(tmp_path: Path, schema: SourceCatalog) -> str:
    """A repository with the measured sources of two visits; one detector of the first has none."""
    return make_repository(
        tmp_path, schema, Config(ResourcePath("resource://secondlight/configs/butler.yaml"))
    )


def make_repository(tmp_path: Path, schema: SourceCatalog, config: Config) -> str:
    path = str(tmp_path / "repo")
    Butler.makeRepo(path, config=config)
    with Butler.from_config(path, writeable=True, run="measured") as butler:
        register_records(butler, visits=(10, 11))
        dataset_type = DatasetType(
            "sources_detector",
            ["instrument", "visit", "detector"],
            "ArrowAstropy",
            universe=butler.dimensions,
        )
        butler.registry.registerDatasetType(dataset_type)
        for visit in (10, 11):
            for detector in DETECTORS[: 2 if visit == 10 else 3]:
                catalog = measured(schema, detector, 5 + detector)
                catalog["id"] += 100_000 * visit
                data_id = {"instrument": "Cam", "visit": visit, "detector": detector}
                butler.put(catalog.to_astropy(), dataset_type, data_id)
    return path


def register_records(butler: Butler, visits: tuple[int, ...]) -> None:
    corners = [(-0.1, -0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, 0.1)]
    square = ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*corner)) for corner in corners])
    insert = butler.registry.insertDimensionData
    insert("instrument", {"name": "Cam", "visit_max": 100, "exposure_max": 100, "detector_max": 10})
    insert("day_obs", {"instrument": "Cam", "id": 20260101})
    insert("physical_filter", {"instrument": "Cam", "name": "r_01", "band": "r"})
    for detector in DETECTORS:
        insert("detector", {"instrument": "Cam", "id": detector, "full_name": f"d{detector}"})
    for visit in visits:
        common = {"instrument": "Cam", "physical_filter": "r_01", "day_obs": 20260101, "region": square}
        insert("visit", {**common, "id": visit, "name": f"visit {visit}"})
        for detector in DETECTORS:
            record = {"instrument": "Cam", "visit": visit, "detector": detector, "region": square}
            insert("visit_detector_region", record)


def run_pipeline(path: str) -> Butler:
    pipeline = Pipeline.from_uri(find_pipeline("secondlight#source_tables"))
    butler = SimplePipelineExecutor.prep_butler(path, inputs=["measured"], output="published")
    executor = SimplePipelineExecutor.from_pipeline(pipeline, where="instrument = 'Cam'", butler=butler)
    executor.run(register_dataset_types=True)
    executor.butler.registry.refresh()
    return executor.butler


def test_in_a_data_repository(repository: str) -> None:
    with run_pipeline(repository) as butler:
        visit = {"instrument": "Cam", "visit": 11}
        whole = butler.get("source_all", visit)
        assert whole["detector"].tolist() == [1] * 6 + [2] * 7 + [3] * 8
        assert whole.colnames == NAMES
        assert set(whole["band"]) == {"r"}
        assert set(whole["visit"]) == {11}
        primary, rest = butler.get("source", visit), butler.get("source_nonprimary", visit)
        assert len(primary) + len(rest) == len(whole)
        flag = whole["detect_isPrimary"]
        assert primary["sourceId"].tolist() == whole["sourceId"][flag].tolist()
        assert rest["sourceId"].tolist() == whole["sourceId"][~flag].tolist()
        # A detector without measured sources is absent.
        assert set(butler.get("source_all", instrument="Cam", visit=10)["detector"]) == {1, 2}

        measured_table = butler.get("sources_detector", visit, detector=3)
        published = butler.get("source_detector", visit, detector=3)
        np.testing.assert_array_equal(published["psfFlux"], measured_table["slot_PsfFlux_flux"])
        for table in (published, whole, primary, rest):
            for column in [column for column in PUBLISHED_COLUMNS if column.name in table.colnames]:
                values = table[column.name]
                assert values.dtype == column.dtype
                assert (values.unit or u.one) == u.Unit(column.unit)
                assert values.description == column.description
                assert values.meta.get("ucd", "") == column.ucd
        rows = whole["detector"] == 3
        for name in NAMES:
            np.testing.assert_array_equal(whole[name][rows], published[name])
        check_provenance(butler, published, whole, primary)


def test_in_a_repository_that_stores_tables_otherwise(tmp_path: Path, schema: SourceCatalog) -> None:
    """The middleware's own formatter takes whole tables only."""
    config = Config(ResourcePath("resource://secondlight/configs/butler.yaml"))
    del config["datastore", "formatters", "ArrowAstropy"]
    with run_pipeline(make_repository(tmp_path, schema, config)) as butler:
        whole = butler.get("source_all", instrument="Cam", visit=11)
        assert whole["detector"].tolist() == [1] * 6 + [2] * 7 + [3] * 8
        assert len(butler.get("source", instrument="Cam", visit=11)) == whole["detect_isPrimary"].sum()


def check_provenance(butler: Butler, published: Table, whole: Table, primary: Table) -> None:
    assert published.meta["provenance_task"].endswith("StandardizeSourceTask")
    assert whole.meta["provenance_task"].endswith("ConsolidateSourceTask")
    assert primary.meta["provenance_task"].endswith("SplitPrimarySourceTask")
    assert whole.meta["LSST.BUTLER.DATASETTYPE"] == "source_all"
    (ref,) = butler.query_datasets(
        "source_detector", where="instrument = 'Cam' AND visit = 11 AND detector = 3"
    )
    assert str(ref.id) in whole.meta["provenance_inputs"]


def test_ids_that_are_not_unique_leave_no_table(repository: str) -> None:
    with Butler.from_config(repository, writeable=True, run="measured") as butler:
        data_id = {"instrument": "Cam", "visit": 11}
        table = butler.get("sources_detector", data_id, detector=1)
        ref = butler.find_dataset("sources_detector", data_id, detector=2)
        butler.pruneDatasets([ref], unstore=True, purge=True, disassociate=True)
        butler.put(table, "sources_detector", data_id, detector=2)
    with pytest.raises(Exception, match=r".") as caught:
        run_pipeline(repository)
    messages, error = [], caught.value
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    text = "Visit 11: 6 source ids appear more than once, in detectors 1, 2"
    assert any(text in message for message in messages)
    with Butler.from_config(repository, collections="published") as butler:
        found = butler.query_datasets("source_all", explain=False)
        assert 11 not in {ref.dataId["visit"] for ref in found}


def test_footprints_beside_the_table(tmp_path: Path) -> None:
    """What a final pass measured, read back from a repository: the table, and the footprints of its rows."""
    task = ReprocessVisitImageTask(config=scenes.make_config())
    result = task.run(**scenes.make_inputs(scenes.make_scene(blend=True)))
    Butler.makeRepo(str(tmp_path), config=Config(ResourcePath("resource://secondlight/configs/butler.yaml")))
    with Butler.from_config(str(tmp_path), writeable=True, run="test") as butler:
        for name, storage_class in (("sources", "ArrowAstropy"), ("footprints", "SourceCatalogV2")):
            dataset_type = DatasetType(f"{name}_detector", (), storage_class, universe=butler.dimensions)
            butler.registry.registerDatasetType(dataset_type)
        butler.put(result.sources, "sources_detector")
        ref = butler.put(result.sources_footprints, "footprints_detector")
        table, catalog = butler.get("sources_detector"), butler.get("footprints_detector")
        path = butler.getURI(ref).ospath
    expected = result.sources_footprints
    assert table["id"].tolist() == catalog["id"].tolist() == expected["id"].tolist()
    assert catalog.schema == expected.schema
    assert catalog.footprints == expected.footprints
    np.testing.assert_array_equal(table["base_FootprintArea_value"], catalog.footprints.areas())
    assert catalog.metadata["heavy_footprint_unit"] == "adu"
    assert table["base_PsfFlux_flux"].unit == u.nJy
    assert table["coord_ra"].meta["ucd"] == "pos.eq.ra;meta.main"
    for name, field in ((field.name, field) for field in expected.schema):
        assert (table[name].unit or u.one) == u.Unit(field.unit or ""), name
        assert table[name].description == (field.doc or None), name

    rows = pq.read_table(path, columns=["footprint_span_x0", "footprint_span_x1", "footprint_heavy"])
    areas = [
        sum(x1 - x0 + 1 for x0, x1 in zip(row["footprint_span_x0"], row["footprint_span_x1"], strict=True))
        for row in rows.to_pylist()
    ]
    assert areas == catalog.footprints.areas().tolist()
    heavy = [len(values) for values in rows["footprint_heavy"].to_pylist()]
    children = (catalog["parent"] != 0).tolist()
    assert any(children)
    assert heavy == [area if child else 0 for area, child in zip(areas, children, strict=True)]
