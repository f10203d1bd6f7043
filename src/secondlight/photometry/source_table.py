"""Source tables under their published names (spec finalize 12, reprocess 8.3)."""

from __future__ import annotations

__all__ = (
    "CALIBRATION_COLUMNS",
    "FIRST_PASS_EXTRAS",
    "check_same_columns",
    "make_source_table",
    "published_sources",
    "stack_source_tables",
)

import logging
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import astropy.units as u
import numpy as np
from astropy.table import Column, Table, vstack

from ..catalog.source_catalog import SourceCatalog
from .calibrate import total_flux_error
from .published_columns import LABELS, PUBLISHED_COLUMNS, REQUIRED, PublishedColumn, published_name

_LOG = logging.getLogger(__name__)

FIRST_PASS_EXTRAS = (
    "slot_Shape_flag",
    "base_PixelFlags_flag*",
    "base_CircularApertureFlux_*",
    "base_PsfFlux_*",
    "base_GaussianFlux_*",
    "base_NormalizedCompensatedTophatFlux_*",
    "base_CompensatedTophatFlux_*",
    "base_LocalBackground_*",
    "ext_photometryKron_KronFlux_*",
)
"""What the table of the first pass holds beyond the public one, so that stars can be chosen by any flux."""

CALIBRATION_COLUMNS = ("base_LocalPhotoCalib", "base_LocalPhotoCalibErr")
"""Photometric calibration of each source, and its uncertainty."""


class _Values(NamedTuple):
    """A measured column."""

    array: np.ndarray
    unit: str | None
    description: str
    ucd: str | None


def _names(sources: SourceCatalog | Table) -> list[str]:
    """Return the names of the measured columns and of those of slots; other aliases only repeat columns."""
    if isinstance(sources, Table):
        return list(sources.colnames)
    aliases = sources.schema.alias_columns()
    return [*sources.schema.names, *(name for name in aliases if name.startswith("slot_"))]


def _measured(sources: SourceCatalog | Table, name: str) -> _Values:
    if isinstance(sources, SourceCatalog):
        field = sources.schema[name]
        return _Values(sources[name], field.unit, field.doc, field.ucd)
    column = sources[name]
    unit, ucd = str(column.unit or "") or None, column.meta.get("ucd")
    return _Values(np.asarray(column), unit, column.description or "", ucd)


def published_sources(
    available: Iterable[str], *, extras: Sequence[str] = ()
) -> dict[str, str | PublishedColumn]:
    """Return what can be published of measured columns, by published name.

    Parameters
    ----------
    available
        Names of the measured columns, slot columns included.
    extras
        Patterns (as of file names) of measured columns to publish beyond those of the public table; one that
        would get the name of a public column is left out.

    Returns
    -------
    columns
        Definition of each column of the public table that can be published, and the measured column of each
        further one; labels are always among them.

    Raises
    ------
    ValueError
        Raised if a column that every source table needs is missing, or two would have the same name.
    """
    names = list(dict.fromkeys(available))
    known = {*names, *LABELS}
    result: dict[str, str | PublishedColumn] = {}
    missing = [column for column in PUBLISHED_COLUMNS if column.source not in known]
    if lacking := [f"{c.name} (from {c.source})" for c in missing if c.name in REQUIRED]:
        raise ValueError(f"These are not measured sources: there is no {', '.join(lacking)}.")
    result |= {column.name: column for column in PUBLISHED_COLUMNS if column.source in known}
    public = set(result)
    used = {column.source for column in PUBLISHED_COLUMNS}
    for source in names:
        if source in used or not any(fnmatchcase(source, pattern) for pattern in extras):
            continue
        name = published_name(source)
        if name in public:  # what a slot publishes, measured under its own name
            continue
        if name in result:
            raise ValueError(f"{source} and {result[name]} would both be published as {name}.")
        result[name] = source
    return result


def make_source_table(
    sources: SourceCatalog | Table,
    *,
    visit: int,
    detector: int,
    band: str,
    physical_filter: str,
    extras: Sequence[str] = (),
    include_calibration_error: bool = False,
) -> Table:
    """Return the published table of the sources of one detector.

    What was not measured is left out.  Each column has its unit, description and, in ``column.meta["ucd"]``,
    UCD.

    Parameters
    ----------
    sources
        Measured sources, or the table of them with its slot columns.
    visit, detector
        Ids for the columns of the same names.
    band, physical_filter
        Labels for the columns of the same names.
    extras
        Patterns of further measured columns to publish, under the names of
        `~secondlight.photometry.published_columns.published_name`.
    include_calibration_error
        Whether errors in nJy include the uncertainty of the photometric calibration, which all sources share:
        ``err**2 + (flux * calibErr / calib)**2``.

    Raises
    ------
    ValueError
        Raised if a column that every source table needs is missing, has a unit that does not fit, a label is
        too long, or the calibration error is asked for and was not recorded.
    """
    names = _names(sources)
    labels = dict(zip(LABELS, (visit, detector, band, physical_filter), strict=True))
    table = Table(meta=dict(sources.metadata if isinstance(sources, SourceCatalog) else sources.meta))
    columns = published_sources(names, extras=extras)
    missing = [column.name for column in PUBLISHED_COLUMNS if column.name not in columns]
    missing += [pattern for pattern in extras if not any(fnmatchcase(name, pattern) for name in names)]
    if missing:
        _LOG.info("Not measured, left out of the source table: %s.", ", ".join(missing))
    for name, column in columns.items():
        if isinstance(column, str):
            values = _measured(sources, column)
            meta = {"ucd": values.ucd} if values.ucd else None
            table[name] = Column(
                values.array, unit=values.unit, description=values.description, meta=meta, copy=True
            )
        elif name in labels:
            table[name] = _publish(_label(column, labels[name], len(sources)), column)
        else:
            table[name] = _publish(_measured(sources, column.source), column)
    if include_calibration_error:
        _add_calibration_error(table, sources)
    return table


def _label(column: PublishedColumn, value: Any, n: int) -> _Values:
    array = np.full(n, value)
    if array.dtype.kind == "U" and array.dtype.itemsize > column.dtype.itemsize:
        raise ValueError(f"{column.name} {value!r} is longer than {column.dtype.itemsize // 4} characters.")
    return _Values(array, None, column.description, None)


def _publish(values: _Values, column: PublishedColumn) -> Column:
    """Return values in the unit and with the dtype that they are published with."""
    array = values.array
    # Counts and pixels often come without a unit; an angle that does may be anything.
    if values.unit or column.unit.startswith("deg"):
        try:
            factor = u.Unit(values.unit or "").to(u.Unit(column.unit or values.unit))
        except u.UnitConversionError:
            found = f"is in {values.unit}" if values.unit else "has no unit"
            raise ValueError(
                f"{column.source} {found}; {column.name} is published in {column.unit}."
            ) from None
        array = array if factor == 1.0 else array * factor
    return Column(
        array.astype(column.dtype),
        unit=column.unit or None,
        description=column.description,
        meta={"ucd": column.ucd} if column.ucd else None,
    )


def _add_calibration_error(table: Table, sources: SourceCatalog | Table) -> None:
    try:
        calib, error = (_measured(sources, name).array for name in CALIBRATION_COLUMNS)
    except KeyError:
        raise ValueError(f"There is no {' and '.join(CALIBRATION_COLUMNS)} to take errors from.") from None
    for name in table.colnames:
        if table[name].unit == u.nJy and name.endswith("Err"):
            flux = table[name.removesuffix("Err")]
            table[name][:] = total_flux_error(flux, table[name], calib=calib, calib_err=error)
            table[name].description += " That of the photometric calibration is included."


def stack_source_tables(tables: Mapping[int, Table]) -> Table:
    """Stack the tables of the detectors of a visit, in order of detector id; their metadata are left out.

    Raises
    ------
    ValueError
        Raised if the tables have different columns.
    """
    ordered = [tables[detector] for detector in sorted(tables)]
    for detector in sorted(tables):
        check_same_columns(tables[detector], ordered[0], detector, min(tables))
    stacked = vstack(ordered, join_type="exact", metadata_conflicts="silent")
    return Table(stacked, meta={}, copy=False)


def check_same_columns(table: Table, first: Table, detector: int, first_detector: int) -> None:
    """Check that the sources of two detectors have the same columns.

    Raises
    ------
    ValueError
        Raised if names, dtypes or units differ.
    """
    ours, theirs = _columns(table), _columns(first)
    if different := set(ours.items()) ^ set(theirs.items()):
        names = ", ".join(sorted({name for name, _ in different}))
        raise ValueError(
            f"The sources of detector {detector} and {first_detector} differ in the columns {names}; "
            "were they made with the same configuration?"
        )


def _columns(table: Table) -> dict[str, tuple[str, str]]:
    return {name: (column.dtype.str, str(column.unit)) for name, column in table.columns.items()}
