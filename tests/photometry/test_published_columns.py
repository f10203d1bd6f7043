"""The definition of the published columns against the public table and what is measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io.votable.ucd import parse_ucd

from secondlight.photometry.published_columns import (
    LABELS,
    PUBLISHED_COLUMNS,
    REQUIRED,
    PublishedColumn,
    published_name,
)
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .source_table_page import PAGE, generated, not_measured, page_with

NAMES_OF_DP2 = Path(__file__).with_name("public_source_columns.txt")
BY_NAME = {column.name: column for column in PUBLISHED_COLUMNS}


def test_the_public_table_is_complete() -> None:
    """The names of the Source table of Data Preview 2, where every row is primary."""
    names = NAMES_OF_DP2.read_text(encoding="utf-8").split()
    assert len(names) == 156
    assert set(BY_NAME) == {*names, "detect_isPrimary"}


def test_units_and_types_are_those_of_the_public_table() -> None:
    """Numbers of columns by unit and by type, counted in the public schema (sdm_schemas, drp_base)."""
    assert len(BY_NAME) == len(PUBLISHED_COLUMNS) == 157
    units = Counter(column.unit for column in PUBLISHED_COLUMNS)
    assert units == {
        "": 97, "nJy": 26, "count": 12, "pixel**2": 9, "deg": 6, "pixel": 6, "deg**2": 1,
    }  # fmt: skip
    kinds = Counter(column.dtype.name for column in PUBLISHED_COLUMNS)
    assert kinds["float32"] == 6  # errors of positions and psfFlux_area
    assert (kinds["int16"], kinds["int32"], kinds["int64"]) == (1, 2, 3)
    assert sum(column.dtype.kind == "U" for column in PUBLISHED_COLUMNS) == 2


@pytest.mark.parametrize("column", PUBLISHED_COLUMNS, ids=lambda column: column.name)
def test_each_definition_is_sound(column: PublishedColumn) -> None:
    if column.unit:
        unit = u.Unit(column.unit)
        assert unit.to_string("vounit") == column.unit
        assert column.dtype.kind in "fi"
    if column.ucd:
        parse_ucd(column.ucd, check_controlled_vocabulary=True)
    if "flag" in column.name.lower() or column.name.startswith(("calib_", "pixelFlags_", "detect_")):
        assert column.dtype == np.bool_
    assert column.description.endswith(".")
    assert len(column.description) < 210
    if column.name.endswith("Err"):
        measured = BY_NAME.get(column.name.removesuffix("Err"))
        assert measured is None or measured.unit == column.unit


def test_one_column_is_the_main_one() -> None:
    for axis in ("ra", "dec"):
        assert [c.name for c in PUBLISHED_COLUMNS if c.ucd == f"pos.eq.{axis};meta.main"] == [axis]
    assert [c.name for c in PUBLISHED_COLUMNS if c.ucd == "meta.id;src"] == ["sourceId"]


def test_the_final_pass_measures_every_column_in_a_unit_that_fits() -> None:
    assert not_measured() == []
    schema = ReprocessVisitImageTask().sources_schema.schema
    for column in PUBLISHED_COLUMNS:
        if column.source in LABELS:
            continue
        field = schema[column.source]
        if column.unit:
            assert field.unit is not None, column.name
            u.Unit(field.unit).to(u.Unit(column.unit))
        if field.dtype.kind == "f":
            assert np.finfo(column.dtype).bits >= np.finfo(field.dtype).bits, column.name
        else:
            assert field.dtype == column.dtype, column.name


def test_every_required_column_is_defined() -> None:
    assert set(REQUIRED) <= set(BY_NAME)
    assert set(LABELS) <= set(BY_NAME)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("base_PixelFlags_flag", "pixelFlags"),
        ("base_PixelFlags_flag_edgeCenter", "pixelFlags_edgeCenter"),
        ("base_CircularApertureFlux_4_5_instFlux", "apFlux_4_5_instFlux"),
        ("ext_photometryKron_KronFlux_flux", "kronFlux"),
        ("ext_photometryKron_KronFlux_fluxErr", "kronFluxErr"),
        ("ext_photometryKron_KronFlux_radius", "kronFlux_radius"),
        ("ext_shapeHSM_HigherOrderMomentsPSF_03", "shapeHSM_HigherOrderMomentsPSF_03"),
        ("ext_shapeHSM_HsmPsfMomentsDebiased_x", "iDebiasedPSF_x"),
        ("ext_shapeHSM_HsmShapeRegauss_e1", "hsmShapeRegauss_e1"),
        ("base_LocalPhotoCalibErr", "localPhotoCalibErr"),
        ("base_ClassificationSizeExtendedness_flag", "sizeExtendedness_flag"),
        ("base_SdssShape_xx", "SdssShape_xx"),
        ("slot_Shape_flag", "shape_flag"),
        ("detect_fromBlend", "detect_fromBlend"),
    ],
)
def test_names_beyond_the_public_table(source: str, name: str) -> None:
    assert published_name(source) == name


def test_further_names_agree_with_the_public_table() -> None:
    """What the public table holds under a short name would get that name from the rule as well."""
    exceptions = {"blendedness_abs", "extendedness", "sizeExtendedness", "sky", "skyErr"}
    for column in PUBLISHED_COLUMNS:
        if column.source.startswith(("base_", "ext_shapeHSM_Hsm")) and column.name not in exceptions:
            if column.source.startswith("base_CircularApertureFlux") and "Flux_flag" in column.name:
                continue  # ap12Flux_flag and apFlux_12_0_flag are the same column
            if column.source.endswith(("_flux", "_fluxErr")) or column.unit == "pixel**2":
                continue
            assert published_name(column.source) == column.name


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page_with(text, generated()) == text, "run python -m tests.photometry.source_table_page"
