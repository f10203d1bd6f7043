"""The columns of the published source tables, in one place: ``source_columns.csv`` beside this file.

Names, types, units and UCDs are those of the public Rubin ``Source`` table (157 columns).  What is published
beyond it keeps its measured name, but for the shorter prefixes of `PREFIXES`.
"""

from __future__ import annotations

__all__ = ("LABELS", "PREFIXES", "PUBLISHED_COLUMNS", "REQUIRED", "PublishedColumn", "published_name")

import csv
import re
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

LABELS = ("visit", "detector", "band", "physical_filter")
"""Columns that hold what the sources belong to, not what was measured."""

REQUIRED = ("sourceId", "parentSourceId", "ra", "dec", "x", "y", "detect_isPrimary")
"""Columns without which a table is no source table."""

PREFIXES: dict[str, str] = {
    "base_PixelFlags_flag": "pixelFlags",
    "base_InvalidPsf_flag": "invalidPsfFlag",
    "base_SdssCentroid": "centroid",
    "base_CircularApertureFlux": "apFlux",
    "base_PsfFlux": "psfFlux",
    "base_GaussianFlux": "gaussianFlux",
    "base_NormalizedCompensatedTophatFlux": "normCompTophatFlux",
    "base_CompensatedTophatFlux": "compTophatFlux",
    "base_Blendedness": "blendedness",
    "base_ClassificationExtendedness": "extendedness",
    "base_ClassificationSizeExtendedness": "sizeExtendedness",
    "base_FootprintArea": "footprintArea",
    "base_Jacobian": "jacobian",
    "base_LocalBackground": "localBackground",
    "base_LocalPhotoCalib": "localPhotoCalib",
    "base_LocalWcs": "localWcs",
    "base_Variance": "variance",
    "ext_shapeHSM_HsmPsfMomentsDebiased": "iDebiasedPSF",
    "ext_shapeHSM_Hsm": "hsm",
    "ext_photometryKron_KronFlux": "kronFlux",
    "slot_Shape": "shape",
    "base_": "",
    "ext_": "",
}
"""Prefix of measured columns to the prefix they are published with; the first that fits counts."""

_STRING = "U32"


class PublishedColumn(NamedTuple):
    """One column of the public source table.

    Parameters
    ----------
    name
        Published name.
    source
        Measured column (or slot column) it comes from; one of `LABELS` for those.
    dtype
        NumPy dtype it is published with.
    unit
        Unit it is published in, or an empty string.
    ucd
        Unified content descriptor of the IVOA, or an empty string.
    description
        What it holds.
    """

    name: str
    source: str
    dtype: np.dtype[Any]
    unit: str
    ucd: str
    description: str


def _read_definitions() -> tuple[PublishedColumn, ...]:
    text = resources.files(__package__).joinpath("source_columns.csv").read_text(encoding="utf-8")
    return tuple(
        PublishedColumn(**row | {"dtype": np.dtype(_STRING if row["dtype"] == "str" else row["dtype"])})
        for row in csv.DictReader(text.splitlines())
    )


PUBLISHED_COLUMNS: tuple[PublishedColumn, ...] = _read_definitions()
"""The columns of the public source table, in the order they are published."""


def published_name(source: str) -> str:
    """Return the name that a measured column is published with if it is none of the public table's.

    ``base_PixelFlags_flag_edge`` becomes ``pixelFlags_edge``, ``ext_photometryKron_KronFlux_flux`` becomes
    ``kronFlux``; slot columns but those of the shape keep their names.
    """
    for prefix, short in PREFIXES.items():
        if source.startswith(prefix):
            source = short + source.removeprefix(prefix)
            break
    return re.sub(r"Flux_flux(Err)?$", r"Flux\1", source)
