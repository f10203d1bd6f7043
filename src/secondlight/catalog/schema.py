"""Declared columns of a source catalog: name, dtype, unit, UCD, description, and slot aliases."""

from __future__ import annotations

__all__ = ("Field", "Schema", "minimal_source_schema")

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Field:
    """One declared column.

    Parameters
    ----------
    name
        Column name.
    dtype
        NumPy dtype of the values.
    doc
        Description, published with the table.
    unit
        Unit string understood by `astropy.units`, or `None`.
    ucd
        Unified content descriptor of the IVOA, or `None`.
    """

    name: str
    dtype: np.dtype[Any]
    doc: str
    unit: str | None = None
    ucd: str | None = None

    @property
    def default(self) -> Any:
        """Value of an unset row: NaN for floats, 0 for integers, False for flags, '' for strings."""
        if self.dtype.kind == "f":
            return np.nan
        return self.dtype.type()


class Schema:
    """Ordered fields plus aliases.

    An alias maps a name to another; it matches a whole column name, or a prefix that ends at an underscore,
    so ``slot_Centroid -> base_SdssCentroid`` makes ``slot_Centroid_x`` mean ``base_SdssCentroid_x``.
    """

    def __init__(self) -> None:
        self._fields: dict[str, Field] = {}
        self.aliases: dict[str, str] = {}

    def add(
        self, name: str, dtype: npt.DTypeLike, doc: str, *, unit: str | None = None, ucd: str | None = None
    ) -> str:
        """Declare a column and return its name.

        Raises
        ------
        ValueError
            Raised if the name is taken, by a field or by an alias.
        """
        if name in self._fields or name in self.aliases:
            raise ValueError(f"Column {name!r} is already in the schema.")
        self._fields[name] = Field(name, np.dtype(dtype), doc, unit, ucd)
        return name

    def add_flag(self, name: str, doc: str) -> str:
        """Declare a boolean column and return its name."""
        return self.add(name, np.bool_, doc)

    def add_field(self, field: Field) -> str:
        """Declare a copy of a field of another schema and return its name."""
        return self.add(field.name, field.dtype, field.doc, unit=field.unit, ucd=field.ucd)

    def set_alias(self, alias: str, target: str) -> None:
        """Point an alias at a column or column prefix, replacing an earlier one."""
        if alias in self._fields:
            raise ValueError(f"{alias!r} is a column; it cannot be an alias.")
        self.aliases[alias] = target

    def resolve(self, name: str) -> str:
        """Return the real column name behind a name that may use an alias.

        The longest alias that matches wins; a name that is a column, or matches no alias, is returned as is.

        Raises
        ------
        ValueError
            Raised if the aliases form a circle.
        """
        for _ in range(len(self.aliases) + 1):
            if name in self._fields:
                return name
            matches = [a for a in self.aliases if name == a or name.startswith(a + "_")]
            if not matches:
                return name
            longest = max(matches, key=len)
            name = self.aliases[longest] + name[len(longest) :]
        raise ValueError(f"Aliases of {name!r} form a circle.")

    def alias_columns(self) -> dict[str, str]:
        """Return every alias column name with the real column it repeats, in alias then field order.

        An alias of a column stands also for those whose names continue it: what repeats ``base_X_flag``
        repeats ``base_X_flag_edge``.
        """
        result: dict[str, str] = {}
        for alias in self.aliases:
            whole = self.resolve(alias)
            if whole in self._fields:
                result[alias] = whole
            prefix = whole + "_"
            for name in self._fields:
                if name.startswith(prefix):
                    result[alias + name[len(whole) :]] = name
        return result

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.resolve(name) in self._fields

    def __getitem__(self, name: str) -> Field:
        try:
            return self._fields[self.resolve(name)]
        except KeyError:
            raise KeyError(
                f"No column {name!r} in the schema (resolved to {self.resolve(name)!r})."
            ) from None

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schema):
            return NotImplemented
        return list(self) == list(other) and self.aliases == other.aliases

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Schema({len(self)} columns, {len(self.aliases)} aliases)"

    @property
    def names(self) -> list[str]:
        """Real column names, in order."""
        return list(self._fields)

    def copy(self) -> Schema:
        """Return an independent copy."""
        result = Schema()
        result._fields = dict(self._fields)
        result.aliases = dict(self.aliases)
        return result


def minimal_source_schema() -> Schema:
    """Return the columns every source catalog starts with: id, coordinates in radians, and parent id."""
    schema = Schema()
    schema.add("id", np.int64, "unique id of the source", ucd="meta.id;src")
    schema.add("coord_ra", np.float64, "right ascension (ICRS)", unit="rad", ucd="pos.eq.ra;meta.main")
    schema.add("coord_dec", np.float64, "declination (ICRS)", unit="rad", ucd="pos.eq.dec;meta.main")
    schema.add("parent", np.int64, "id of the blend this source was split from; 0 if none")
    return schema
