"""Tables as Parquet files that tell units, descriptions and UCDs to whoever reads them."""

from __future__ import annotations

__all__ = (
    "TableStream",
    "arrow_to_table",
    "read_table",
    "table_to_arrow",
    "write_arrow",
    "write_table",
)

import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Column, Table
from astropy.table.meta import get_header_from_yaml, get_yaml_from_header
from lsst.daf.butler.formatters.parquet import arrow_to_astropy, astropy_to_arrow, numpy_dict_to_arrow

_YAML = b"table_meta_yaml"
_PANDAS = b"PANDAS_ATTRS"
_ROW_COUNT = b"lsst::arrow::rowcount"
_ROWS_PER_GROUP = 1 << 16


class TableStream(NamedTuple):
    """A table whose rows come in pieces, so that all of them are never in memory at once.

    Parameters
    ----------
    header
        Table with the columns of every piece, and the metadata of the whole; its rows do not count.
    pieces
        Tables with rows, taken once and in order.
    """

    header: Table
    pieces: Iterable[Table]


class _Snapshot(Table):  # type: ignore[misc]
    """A table whose dtype is computed once, and not at every look (a second of it for 600 columns)."""

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = super().dtype
        return dtype


def table_to_arrow(table: Table, lists: pa.Table | None = None) -> pa.Table:
    """Return an Arrow table with unit, description and UCD in the metadata of each column.

    Beside what the Butler writes (and reads), so that astropy finds units, descriptions and metadata, pandas
    finds units and descriptions in ``DataFrame.attrs``.

    Parameters
    ----------
    table
        Table of numbers, flags, strings and quantities; the UCD of a column is ``column.meta["ucd"]``.
    lists
        Columns of lists to append, with their descriptions in the metadata of their fields.
    """
    table = _Snapshot(table, copy=False)
    arrow = astropy_to_arrow(table)
    metadata = arrow.schema.metadata
    columns = list(table.columns.values())
    attrs = {
        "units": {column.name: str(column.unit) for column in columns if column.unit},
        "descriptions": {column.name: column.description for column in columns if column.description},
    }
    metadata |= {_PANDAS: json.dumps(attrs).encode()}
    fields = [_with_ucd(field, column.meta) for field, column in zip(arrow.schema, columns, strict=True)]
    arrays = arrow.columns
    if lists is not None:
        metadata |= {_YAML: _describe_lists(metadata[_YAML], lists.schema)}
        fields += list(lists.schema)
        arrays += lists.columns
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))


def _describe_lists(yaml: bytes, lists: pa.Schema) -> bytes:
    """Add columns of lists to the description of a table that astropy reads."""
    columns = [
        Column(np.zeros(0, dtype=object), field.name, description=field.metadata[b"description"].decode())
        for field in lists
    ]
    lines = get_yaml_from_header({"cols": columns})
    return yaml.replace(lines[0].encode(), "\n".join(lines).encode(), 1)


def _with_ucd(field: pa.Field, column_meta: dict[str, Any]) -> pa.Field:
    ucd = column_meta.get("ucd")
    return field.with_metadata((field.metadata or {}) | {b"ucd": ucd.encode()}) if ucd else field


def arrow_to_table(arrow: pa.Table) -> Table:
    """Return the table that `table_to_arrow` turned into an Arrow table, or some of its columns.

    Tables that the Butler's own formatter or astropy wrote are read too.
    """
    metadata = arrow.schema.metadata or {}
    if not metadata.keys() & {_PANDAS, _ROW_COUNT}:  # written by astropy, which describes no field apart
        return arrow_to_astropy(arrow)
    # To parse the description of all columns would take longer than all the rest; each field has its own.
    plain = arrow.replace_schema_metadata({key: value for key, value in metadata.items() if key != _YAML})
    table = arrow_to_astropy(plain)
    for field in arrow.schema:
        if ucd := (field.metadata or {}).get(b"ucd"):
            table[field.name].meta["ucd"] = ucd.decode()
    table.meta.update(_table_meta(metadata.get(_YAML, b"").decode()))
    return table


def _table_meta(yaml: str) -> dict[str, Any]:
    """Return the metadata of a table from its description, without what that says of columns."""
    lines = yaml.split("\n")
    if "meta: !!omap" not in lines:
        return {}
    start = lines.index("meta: !!omap")
    end = next((i for i in range(start + 1, len(lines)) if lines[i][:1].isalpha()), len(lines))
    return dict(get_header_from_yaml(lines[start:end])["meta"])


def write_table(table: Table | TableStream, path: str | os.PathLike[str]) -> None:
    """Write a table, or the pieces of one as they come, to a Parquet file.

    Parameters
    ----------
    table
        The table.
    path
        File to write; an existing one is replaced.

    Raises
    ------
    ValueError
        Raised if the columns of a piece differ from those of the header.
    """
    if isinstance(table, Table):
        write_arrow(table_to_arrow(table), path)
        return
    schema = table_to_arrow(table.header).schema
    # How many rows there will be is not known yet; readers count them where this is missing.
    schema = schema.with_metadata({key: value for key, value in schema.metadata.items() if key != _ROW_COUNT})
    with _writer(path, schema) as writer:
        for group in _row_groups(table.pieces, schema):
            writer.write_table(group)


def write_arrow(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write an Arrow table of numbers to a Parquet file, small and fast."""
    with _writer(path, table.schema) as writer:
        writer.write_table(table)


def _writer(path: str | os.PathLike[str], schema: pa.Schema) -> pq.ParquetWriter:
    # A dictionary of values makes columns of numbers larger and slower.
    strings = [field.name for field in schema if pa.types.is_string(field.type)]
    return pq.ParquetWriter(path, schema, compression="zstd", compression_level=1, use_dictionary=strings)


def _row_groups(pieces: Iterable[Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the pieces, small ones together: every group of rows costs a few hundred bytes per column."""
    waiting: list[pa.Table] = []
    for piece in pieces:
        rows = numpy_dict_to_arrow({name: column.data for name, column in piece.columns.items()})
        if different := set(rows.schema) ^ set(schema):
            names = ", ".join(sorted({field.name for field in different}))
            raise ValueError(f"Rows to be written to one table differ in their columns: {names}.")
        waiting.append(pa.Table.from_arrays(rows.select(schema.names).columns, schema=schema))
        if sum(len(group) for group in waiting) >= _ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def read_table(path: str | os.PathLike[str], columns: list[str] | None = None) -> Table:
    """Read a table of `write_table`, a Butler or astropy, with units, descriptions, UCDs and metadata.

    Parameters
    ----------
    path
        Parquet file.
    columns
        Columns to read; all by default.
    """
    return arrow_to_table(pq.read_table(path, columns=columns, use_threads=False))
