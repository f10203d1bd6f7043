"""The source table of a visit: which columns are published, and under what names (spec finalize 12)."""

from __future__ import annotations

__all__ = ("COLUMN_NAMES", "PREFIX_NAMES", "make_source_table", "stack_source_tables")

import logging
from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.table import Column, Table, vstack

from ..catalog.source_catalog import SourceCatalog

_LOG = logging.getLogger(__name__)

COLUMN_NAMES: dict[str, str] = {
    "id": "sourceId",
    "coord_ra": "ra",
    "coord_dec": "dec",
    "parent": "parentSourceId",
    "deblend_nChild": "deblend_nChild",
    "detect_isPrimary": "detect_isPrimary",
    "sky_source": "sky_source",
    "calib_psf_candidate": "calib_psf_candidate",
    "calib_psf_reserved": "calib_psf_reserved",
    "calib_psf_used": "calib_psf_used",
    "slot_Centroid_x": "x",
    "slot_Centroid_y": "y",
    "slot_Centroid_xErr": "xErr",
    "slot_Centroid_yErr": "yErr",
    "slot_Centroid_flag": "centroid_flag",
    "slot_Shape_xx": "ixx",
    "slot_Shape_yy": "iyy",
    "slot_Shape_xy": "ixy",
    "slot_Shape_flag": "shape_flag",
    "slot_PsfShape_xx": "ixxPSF",
    "slot_PsfShape_yy": "iyyPSF",
    "slot_PsfShape_xy": "ixyPSF",
    "base_ClassificationExtendedness_value": "extendedness",
    "base_ClassificationExtendedness_flag": "extendedness_flag",
    "base_ClassificationSizeExtendedness_value": "sizeExtendedness",
    "base_ClassificationSizeExtendedness_flag": "sizeExtendedness_flag",
}
"""Source column (or slot column) to published column."""

PREFIX_NAMES: dict[str, str] = {
    "base_PixelFlags_flag": "pixelFlags",
    "base_CircularApertureFlux": "apFlux",
    "base_PsfFlux": "psfFlux",
    "base_GaussianFlux": "gaussianFlux",
    "base_NormalizedCompensatedTophatFlux": "normCompTophatFlux",
    "base_CompensatedTophatFlux": "compTophatFlux",
    "base_LocalBackground": "localBackground",
    "ext_photometryKron_KronFlux": "kronFlux",
}
"""Prefix of source columns to the prefix they are published with; the rest of the name stays."""

_TO_DEGREES = ("ra", "dec")


def _published_columns(catalog: SourceCatalog) -> dict[str, str]:
    """Return published name to source column, for what the catalog has."""
    result = {}
    missing = []
    for source, name in COLUMN_NAMES.items():
        if source in catalog:
            result[name] = source
        else:
            missing.append(source)
    for source, name in PREFIX_NAMES.items():
        matches = [c for c in catalog.schema.names if c == source or c.startswith(source + "_")]
        result |= {name + column.removeprefix(source): column for column in matches}
        if not matches:
            missing.append(source + "_*")
    if missing:
        _LOG.info("Columns not measured and left out of the source table: %s.", ", ".join(missing))
    return result


def make_source_table(
    catalog: SourceCatalog, *, visit: int, detector: int, band: str, physical_filter: str
) -> Table:
    """Return the published table of the sources of one detector.

    Columns that were not measured are left out.  Coordinates are in degrees.

    Parameters
    ----------
    catalog
        Measured sources.
    visit, detector
        Ids for the columns of the same names.
    band, physical_filter
        Labels for the columns of the same names.
    """
    n = len(catalog)
    table = Table()
    table["visit"] = Column(np.full(n, visit, dtype=np.int64), description="visit id")
    table["detector"] = Column(np.full(n, detector, dtype=np.int32), description="detector id")
    table["band"] = Column(np.full(n, band, dtype="U32"), description="band label")
    table["physical_filter"] = Column(
        np.full(n, physical_filter, dtype="U32"), description="full name of the filter"
    )
    for name, source in _published_columns(catalog).items():
        field = catalog.schema[source]
        values = catalog[source]
        unit = field.unit
        if name in _TO_DEGREES:
            values, unit = np.degrees(values), u.deg
        table[name] = Column(values, unit=unit, description=field.doc, copy=True)
    return table


def stack_source_tables(tables: Mapping[int, Table]) -> Table:
    """Stack the tables of the detectors of a visit, in order of detector id.

    Raises
    ------
    ValueError
        Raised if the tables have different columns.
    """
    ordered = [tables[detector] for detector in sorted(tables)]
    for detector in sorted(tables):
        if different := set(tables[detector].colnames) ^ set(ordered[0].colnames):
            raise ValueError(
                f"The sources of detector {detector} and {min(tables)} differ in the columns "
                f"{', '.join(sorted(different))}; were they made with the same configuration?"
            )
    return vstack(ordered, join_type="exact", metadata_conflicts="silent")
