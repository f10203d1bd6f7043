"""What Parquet tables tell to astropy, pandas, pyarrow and the Butler, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Column, MaskedColumn, QTable, Table
from hypothesis import given
from hypothesis import strategies as st
from lsst.daf.butler import (
    Butler,
    Config,
    DataCoordinate,
    DatasetProvenance,
    DatasetRef,
    DatasetType,
    FileDataset,
)
from lsst.daf.butler.formatters.parquet import arrow_to_astropy, astropy_to_arrow
from lsst.resources import ResourcePath

from secondlight.catalog.arrow_tables import (
    TableStream,
    arrow_to_table,
    read_table,
    table_to_arrow,
    write_table,
)
from secondlight.catalog.source_catalog import SourceCatalog

from .test_source_catalog import make_catalog

DTYPES = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "U7")


def make_table(n: int = 3) -> Table:
    table = Table(meta={"visit": 12, "list": [1, 2], "text": "a: b\n\n- c # 'd'", "long": "word " * 60})
    table["flux"] = Column(np.linspace(-1, 1, n), unit="nJy", description="a flux: 'so' # called")
    table["flux"].meta["ucd"] = "phot.flux"
    table["area"] = Column(np.full(n, np.nan), unit="pixel**2", description="a moment")
    table["flag"] = Column(np.arange(n) % 2 == 0, description="a flag")
    table["band"] = Column(np.full(n, "r"), dtype="U32", description="a label")
    table["id"] = Column(2**62 + np.arange(n), description="an id")
    table["detector"] = Column(np.full(n, 42), dtype=np.int16)
    return table


def assert_same(table: Table, expected: Table) -> None:
    assert table.colnames == expected.colnames
    for name in expected.colnames:
        ours, theirs = table[name], expected[name]
        assert ours.dtype == theirs.dtype, name
        assert (ours.unit, ours.description, ours.meta) == (theirs.unit, theirs.description, theirs.meta)
        assert not isinstance(ours, MaskedColumn)
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.fixture
def butler(tmp_path: Path) -> Iterator[Butler]:
    config = Config(ResourcePath("resource://secondlight/configs/butler.yaml"))
    Butler.makeRepo(str(tmp_path / "repo"), config=config)
    butler = Butler.from_config(str(tmp_path / "repo"), run="test")
    for name, storage_class in (("table", "ArrowAstropy"), ("catalog", "SourceCatalogV2")):
        butler.registry.registerDatasetType(DatasetType(name, (), storage_class, universe=butler.dimensions))
    yield butler
    butler.close()


def path_of(butler: Butler, ref: DatasetRef) -> str:
    return butler.getURI(ref).ospath


@pytest.mark.parametrize("n", [0, 3])
def test_file_round_trip_is_exact(tmp_path: Path, n: int) -> None:
    table = make_table(n)
    write_table(table, tmp_path / "table.parq")
    again = read_table(tmp_path / "table.parq")
    assert_same(again, table)
    assert again.meta == table.meta
    some = read_table(tmp_path / "table.parq", columns=["id", "flux"])
    assert_same(some, table["id", "flux"])
    assert some.meta == table.meta


@given(
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=6),
    n=st.integers(0, 5),
    seed=st.integers(0, 2**31),
)
def test_every_kind_of_column_comes_back(dtypes: list[str], n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = Table()
    for k, dtype in enumerate(map(np.dtype, dtypes)):
        values = [
            bytes(rng.integers(0x20, 0x7F, 7, dtype=np.uint8)).decode().strip()
            if dtype.kind == "U"
            else np.frombuffer(rng.bytes(8), dtype="?" if dtype.kind == "b" else dtype)[0]
            for _ in range(n)
        ]
        if dtype.kind == "b":
            values = list(rng.random(n) < 0.5)
        table[f"c{k}"] = Column(np.array(values, dtype=dtype), description=f"column {k}")
    again = arrow_to_table(table_to_arrow(table))
    assert_same(again, table)


def test_units_and_descriptions_are_told_to_everyone(tmp_path: Path) -> None:
    table, path = make_table(), tmp_path / "table.parq"
    write_table(table, path)
    by_astropy = Table.read(path, format="parquet")
    assert_same(by_astropy, table)
    assert by_astropy.meta == table.meta
    assert by_astropy["flux"].meta["ucd"] == "phot.flux"

    by_pandas = pd.read_parquet(path)
    assert by_pandas.attrs["units"] == {"flux": "nJy", "area": "pix2"}
    assert by_pandas.attrs["descriptions"]["flux"] == "a flux: 'so' # called"
    assert by_pandas["flag"].dtype == np.bool_
    assert by_pandas["detector"].dtype == np.int16
    assert by_pandas["band"].tolist() == ["r", "r", "r"]
    assert by_pandas["area"].isna().all()

    field = pq.read_schema(path).field("flux")
    assert field.metadata == {b"description": b"a flux: 'so' # called", b"unit": b"nJy", b"ucd": b"phot.flux"}
    assert pq.read_metadata(path).num_rows == 3
    assert all(column.null_count == 0 for column in pq.read_table(path).columns)


def test_through_a_repository(butler: Butler) -> None:
    table = make_table()
    expected = table.copy()
    ref = butler.put(table, "table")
    again = butler.get("table")
    assert_same(again, expected)
    assert {key: again.meta[key] for key in expected.meta} == expected.meta
    assert again.meta["LSST.BUTLER.DATASETTYPE"] == "table"
    assert again.meta["LSST.BUTLER.ID"] == str(ref.id)
    assert butler.get("table.columns") == table.colnames
    assert butler.get("table.rowcount") == 3
    assert butler.get("table.schema").schema["flux"].unit == u.nJy
    assert_same(butler.get("table", parameters={"columns": ["band", "flux"]}), expected["band", "flux"])
    assert butler.get("table", storageClass="DataFrame")["id"].tolist() == expected["id"].tolist()
    assert butler.get("table", storageClass="ArrowNumpy").dtype.names == tuple(table.colnames)
    assert butler.get("table", storageClass="ArrowTable").num_columns == 6


def test_a_table_that_the_butler_wrote_itself(tmp_path: Path) -> None:
    table = make_table()
    pq.write_table(astropy_to_arrow(table), tmp_path / "table.parq")
    again = read_table(tmp_path / "table.parq")
    assert again.meta == table.meta
    del table["flux"].meta["ucd"]  # which it does not write where it would be read from
    assert_same(again, table)


def test_a_table_that_astropy_wrote_itself(butler: Butler, tmp_path: Path) -> None:
    """It tells units in its description of the whole table alone, and such files are ingested, too."""
    table, path = make_table(), tmp_path / "table.parq"
    table["band"] = Column(table["band"].astype("U1"), description="a label")  # lengths are not in the file
    table.write(path, format="parquet")
    again = read_table(path)
    assert_same(again, table)
    assert again.meta == table.meta
    some = read_table(path, columns=["id", "flux"])
    assert_same(some, table["id", "flux"])
    ref = DatasetRef(butler.get_dataset_type("table"), DataCoordinate.make_empty(butler.dimensions), "test")
    butler.ingest(FileDataset(str(path), ref), transfer="copy")
    assert_same(butler.get("table"), table)


def test_quantities_become_columns_with_units(butler: Butler) -> None:
    table = QTable(make_table(), meta={"visit": 12})
    assert isinstance(table["flux"], u.Quantity)
    butler.put(table, "table")
    again = butler.get("table")
    np.testing.assert_array_equal(again["flux"], table["flux"].value)
    assert again["flux"].unit == u.nJy
    assert again["flux"].meta["ucd"] == "phot.flux"
    assert again["flux"].description == "a flux: 'so' # called"
    assert again.meta["visit"] == 12


def test_the_butler_itself_reads_our_tables(tmp_path: Path) -> None:
    table = make_table()
    write_table(table, tmp_path / "table.parq")
    again = arrow_to_astropy(pq.read_table(tmp_path / "table.parq"))
    assert_same(again, table)
    assert again.meta == table.meta


def test_column_names_are_read_without_the_columns(butler: Butler, monkeypatch: pytest.MonkeyPatch) -> None:
    butler.put(make_table(), "table")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the columns were read")

    monkeypatch.setattr(pq, "read_table", refuse)
    assert butler.get("table.columns")[:2] == ["flux", "area"]
    assert butler.get("table.rowcount") == 3


def test_masked_and_shaped_columns_of_other_tables_survive(butler: Butler) -> None:
    table = make_table()
    table["masked"] = MaskedColumn([1.0, 2.0, 3.0], mask=[False, True, False], unit="pix")
    table["vector"] = Column(np.arange(6.0).reshape(3, 2), unit="mm")
    butler.put(table, "table")
    again = butler.get("table")
    assert again["masked"].mask.tolist() == [False, True, False]
    assert again["masked"].unit == u.pix
    np.testing.assert_array_equal(again["vector"], table["vector"])


def test_pieces_are_written_one_after_the_other(butler: Butler) -> None:
    taken = []

    def pieces() -> Iterator[Table]:
        for detector in (1, 2, 3):
            taken.append(detector)
            table = make_table(detector - 1)
            table["detector"] = np.int16(detector)
            yield table

    header = make_table(0)
    ref = butler.put(TableStream(header, pieces()), "table")
    assert taken == [1, 2, 3]
    again = butler.get("table")
    assert again["detector"].tolist() == [2, 3, 3]
    assert again["flux"].unit == u.nJy
    assert again["flux"].meta == {"ucd": "phot.flux"}
    assert again.meta["LSST.BUTLER.ID"] == str(ref.id)
    assert again.meta["visit"] == 12
    assert butler.get("table.rowcount") == 3
    assert Table.read(path_of(butler, ref), format="parquet")["flux"].description == "a flux: 'so' # called"


def test_small_pieces_share_row_groups(tmp_path: Path) -> None:
    pieces = (make_table(20_000) for _ in range(5))
    write_table(TableStream(make_table(0), pieces), tmp_path / "table.parq")
    metadata = pq.read_metadata(tmp_path / "table.parq")
    assert [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)] == [80_000, 20_000]


def test_pieces_with_other_columns_are_refused_and_nothing_is_left(butler: Butler) -> None:
    other = make_table()
    other["more"] = 1
    with pytest.raises(Exception, match="table") as caught:
        butler.put(TableStream(make_table(0), iter([make_table(), other])), "table")
    messages, error = [], caught.value
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    assert any("differ in their columns: more" in message for message in messages)
    assert not butler.exists("table", collections="test")


def test_source_catalog_tells_as_much(butler: Butler) -> None:
    catalog = make_catalog()
    ref = butler.put(catalog, "catalog")
    again = butler.get("catalog")
    assert again.schema == catalog.schema
    assert again.schema["id"].ucd == "meta.id;src"
    assert again.footprints == catalog.footprints
    assert again.metadata["visit"] == 12
    assert again.metadata["LSST.BUTLER.ID"] == str(ref.id)
    path = path_of(butler, ref)
    by_astropy = Table.read(path, format="parquet")
    assert by_astropy["coord_ra"].unit == u.rad
    assert by_astropy["coord_ra"].meta["ucd"] == "pos.eq.ra;meta.main"
    assert by_astropy["footprint_span_y"].description == "row of each span, in pixels of the detector"
    assert by_astropy.meta["visit"] == 12
    assert pd.read_parquet(path).attrs["units"]["coord_ra"] == "rad"


def test_inputs_of_a_catalog_are_recorded(butler: Butler) -> None:
    first = butler.put(make_table(), "table")
    provenance = DatasetProvenance()
    provenance.add_input(first)
    butler.put(make_catalog(), "catalog", provenance=provenance)
    again = butler.get("catalog")
    assert str(first.id) in {str(value) for value in again.metadata.values()}


def test_footprints_without_our_code(butler: Butler) -> None:
    """The layout in words: row k of each list column is footprint k; spans are inclusive at both ends."""
    catalog = make_catalog()
    path = path_of(butler, butler.put(catalog, "catalog"))
    names = ["id", "footprint_span_y", "footprint_span_x0", "footprint_span_x1"]
    rows = pq.read_table(path, columns=names).to_pylist()
    for k, row in enumerate(rows):
        spans = zip(*(row[name] for name in names[1:]), strict=True)
        pixels = {(x, y) for y, x0, x1 in spans for x in range(x0, x1 + 1)}
        assert len(pixels) == catalog.footprints.areas()[k]
        assert (5 + 10 * k, 5 + k) in pixels


def test_catalog_with_lists_of_64_bits() -> None:
    """As earlier versions wrote them, and as more than two thousand million pixels need."""
    catalog = make_catalog()
    table = catalog.to_arrow()
    fields = [
        field.with_type(pa.large_list(field.type.value_type)) if pa.types.is_list(field.type) else field
        for field in table.schema
    ]
    again = SourceCatalog.from_arrow(table.cast(pa.schema(fields, metadata=table.schema.metadata)))
    assert again.footprints == catalog.footprints


def test_catalog_without_rows_or_footprints(tmp_path: Path) -> None:
    catalog = make_catalog()[:0]
    again = SourceCatalog.from_arrow(catalog.to_arrow())
    assert len(again) == 0
    assert again.schema == catalog.schema
    bare = SourceCatalog(catalog.schema, 2)
    pq.write_table(bare.to_arrow(), tmp_path / "bare.parq")
    assert SourceCatalog.from_arrow(pq.read_table(tmp_path / "bare.parq")).footprints is None
    assert Table.read(tmp_path / "bare.parq", format="parquet")["name"].dtype == "<U5"
