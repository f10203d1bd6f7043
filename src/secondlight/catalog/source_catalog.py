"""A column store of sources with a declared schema, slot aliases and row-aligned footprints."""

from __future__ import annotations

__all__ = ("SourceCatalog",)

import json
from collections.abc import Mapping, Sequence
from typing import Any

import astropy.table
import numpy as np
import pyarrow as pa

from .arrow_tables import table_to_arrow
from .footprints import Footprints
from .schema import Schema

type Rows = np.ndarray | slice | Sequence[int]
"""What selects rows: a boolean mask, an index array or a slice."""

_ARROW_KEY = b"secondlight.source_catalog"


class SourceCatalog:
    """Sources as columns.

    Parameters
    ----------
    schema
        Declared columns; kept by reference, so columns added to it later are filled with defaults on access.
    size
        Number of rows; all start with the defaults of their fields.
    footprints
        Footprints of the rows, in row order.
    metadata
        JSON-like values stored with the table.

    Notes
    -----
    ``catalog["slot_PsfFlux_instFlux"]`` resolves aliases at read time and returns the stored array itself,
    so assigning into it changes the catalog.  ``catalog[rows]`` with a mask, index array or slice returns a
    new catalog.
    """

    def __init__(
        self,
        schema: Schema,
        size: int = 0,
        *,
        footprints: Footprints | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if footprints is not None and len(footprints) != size:
            raise ValueError(f"{len(footprints)} footprints for {size} rows.")
        self.schema = schema
        self.footprints = footprints
        self.metadata: dict[str, Any] = dict(metadata or {})
        self._size = size
        self._columns: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"SourceCatalog({self._size} rows, {len(self.schema)} columns)"

    def _column(self, name: str) -> np.ndarray:
        field = self.schema[name]
        column = self._columns.get(field.name)
        if column is None:
            column = np.full(self._size, field.default, dtype=field.dtype)
            self._columns[field.name] = column
        return column

    def __contains__(self, name: object) -> bool:
        return name in self.schema

    def __getitem__(self, key: str | Rows) -> Any:
        if isinstance(key, str):
            return self._column(key)
        return self._take(key)

    def __setitem__(self, name: str, values: Any) -> None:
        self._column(name)[...] = values

    def _take(self, rows: Rows) -> SourceCatalog:
        index = np.arange(self._size)[rows]
        result = SourceCatalog(
            self.schema,
            len(index),
            footprints=self.footprints.take(index) if self.footprints is not None else None,
            metadata=self.metadata,
        )
        result._columns = {name: column[index] for name, column in self._columns.items()}
        return result

    def copy(self) -> SourceCatalog:
        """Return an independent copy (schema included; footprints are immutable and shared)."""
        result = self._take(slice(None))
        result.schema = self.schema.copy()
        return result

    def with_schema(self, schema: Schema) -> SourceCatalog:
        """Return the same rows under another schema; only columns that both have are copied."""
        result = SourceCatalog(schema, self._size, footprints=self.footprints, metadata=self.metadata)
        for field in schema:
            if field.name in self.schema.names:
                result[field.name] = self[field.name]
        return result

    @staticmethod
    def concatenate(catalogs: Sequence[SourceCatalog]) -> SourceCatalog:
        """Stack catalogs of one schema.

        Raises
        ------
        ValueError
            Raised if there is none, if schemas differ, or if only some have footprints.
        """
        if not catalogs:
            raise ValueError("Nothing to concatenate.")
        schema = catalogs[0].schema
        for other in catalogs[1:]:
            if other.schema != schema:
                raise ValueError("Catalogs to concatenate have different schemas.")
        have = [c.footprints for c in catalogs if c.footprints is not None]
        if have and len(have) != len(catalogs):
            raise ValueError("Some catalogs to concatenate have footprints and some have not.")
        result = SourceCatalog(
            schema,
            sum(len(c) for c in catalogs),
            footprints=Footprints.concatenate(have) if have else None,
            metadata=catalogs[0].metadata,
        )
        for field in schema:
            result[field.name] = np.concatenate([c[field.name] for c in catalogs])
        return result

    def find(self, source_id: int) -> int:
        """Return the row number of an id.

        Raises
        ------
        KeyError
            Raised if no row has this id.
        """
        (rows,) = np.nonzero(self["id"] == source_id)
        if not len(rows):
            raise KeyError(f"No source with id {source_id}.")
        return int(rows[0])

    def to_astropy(self, *, aliases: bool = True) -> astropy.table.Table:
        """Return the published table: one column per field, and one per alias that matches.

        Units, descriptions and UCDs (``column.meta["ucd"]``) are attached; angles are radians.
        """
        table = astropy.table.Table(meta=dict(self.metadata))
        names = {field.name: field.name for field in self.schema}
        if aliases:
            names.update(self.schema.alias_columns())
        for name, real in names.items():
            field = self.schema[real]
            doc = field.doc if name == real else f"alias of {real}: {field.doc}"
            meta = {"ucd": field.ucd} if field.ucd else None
            table.add_column(
                astropy.table.Column(
                    self[real], name=name, unit=field.unit, description=doc, meta=meta, copy=True
                )
            )
        return table

    @staticmethod
    def from_astropy(
        table: astropy.table.Table,
        *,
        aliases: Mapping[str, str] | None = None,
        footprints: Footprints | None = None,
    ) -> SourceCatalog:
        """Make a catalog from a table; columns whose names are aliases are dropped and become aliases again.

        Parameters
        ----------
        table
            Table with one row per source.
        aliases
            Alias to target prefix; columns of the table that such an alias explains are not stored again.
        footprints
            Footprints in row order.
        """
        schema = Schema()
        repeats = Schema()
        repeats.aliases = dict(aliases or {})
        for name in table.colnames:
            if repeats.resolve(name) == name:
                column = table[name]
                unit, ucd = str(column.unit or "") or None, column.meta.get("ucd")
                schema.add(name, column.dtype, column.description or "", unit=unit, ucd=ucd)
        schema.aliases = dict(aliases or {})
        result = SourceCatalog(schema, len(table), footprints=footprints, metadata=table.meta)
        for name in schema.names:
            result[name] = np.asarray(table[name])
        return result

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table with footprints as list columns; `from_arrow` restores everything exactly.

        Units, descriptions and UCDs are told in the ways of `secondlight.catalog.arrow_tables`.
        """
        header = {
            "dtypes": {field.name: field.dtype.str for field in self.schema},
            "units": {field.name: field.unit for field in self.schema if field.unit},
            "aliases": self.schema.aliases,
            "metadata": self.metadata,
            "footprints": self.footprints is not None,
        }
        lists = None if self.footprints is None else self.footprints.to_arrow()
        table = table_to_arrow(self.to_astropy(aliases=False), lists=lists)
        metadata = table.schema.metadata | {_ARROW_KEY: json.dumps(header).encode()}
        return table.replace_schema_metadata(metadata)

    @staticmethod
    def from_arrow(table: pa.Table) -> SourceCatalog:
        """Make a catalog from what `to_arrow` returned.

        Raises
        ------
        ValueError
            Raised if the table was not written by `to_arrow`.
        """
        raw = (table.schema.metadata or {}).get(_ARROW_KEY)
        if raw is None:
            raise ValueError(
                "The Arrow table carries no source-catalog header; was it written by to_arrow()?"
            )
        header = json.loads(raw)
        schema = Schema()
        for name, dtype in header["dtypes"].items():
            said = table.schema.field(name).metadata or {}
            doc, ucd = said.get(b"description", b"").decode(), said.get(b"ucd", b"").decode()
            schema.add(name, dtype, doc, unit=header["units"].get(name), ucd=ucd or None)
        schema.aliases = dict(header["aliases"])
        footprints = Footprints.from_arrow(table) if header["footprints"] else None
        result = SourceCatalog(schema, len(table), footprints=footprints, metadata=header["metadata"])
        for field in schema:
            column = table.column(field.name)
            values = column.to_pylist() if field.dtype.kind == "U" else column.to_numpy(zero_copy_only=False)
            result[field.name] = np.asarray(values, dtype=field.dtype)
        return result
