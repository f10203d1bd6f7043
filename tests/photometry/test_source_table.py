"""Measured sources under their published names: values, units, what is missing and what does not fit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table

from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry.published_columns import PUBLISHED_COLUMNS
from secondlight.photometry.source_table import (
    FIRST_PASS_EXTRAS,
    make_source_table,
    published_sources,
    stack_source_tables,
)
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

LABELS: dict[str, Any] = {"visit": 1 << 40, "detector": 42, "band": "r", "physical_filter": "r_01"}


@pytest.fixture(scope="module")
def task() -> ReprocessVisitImageTask:
    return ReprocessVisitImageTask()


@pytest.fixture
def catalog(task: ReprocessVisitImageTask) -> SourceCatalog:
    """Five sources with numbers in every column."""
    rng = np.random.default_rng(3)
    result = SourceCatalog(task.sources_schema.schema, 5, metadata={"zero_point": 28.5})
    for field in result.schema:
        if field.dtype.kind == "f":
            result[field.name] = rng.normal(size=5)
        elif field.dtype.kind == "b":
            result[field.name] = rng.random(5) < 0.5
        else:
            result[field.name] = rng.integers(0, 100, 5)
    result["base_LocalPhotoCalib"] = 12.0
    result["base_LocalPhotoCalibErr"] = 0.3
    return result


def test_values_and_units(catalog: SourceCatalog) -> None:
    table = make_source_table(catalog, **LABELS)
    assert table.colnames == [column.name for column in PUBLISHED_COLUMNS]
    for column in PUBLISHED_COLUMNS:
        assert table[column.name].dtype == column.dtype
        assert (table[column.name].unit or u.one) == u.Unit(column.unit)
        assert table[column.name].description == column.description
        assert table[column.name].meta.get("ucd", "") == column.ucd
    np.testing.assert_allclose(table["ra"], np.degrees(catalog["coord_ra"]), rtol=1e-15)
    np.testing.assert_array_equal(table["coord_dec"], table["dec"])
    np.testing.assert_allclose(table["raErr"], np.degrees(catalog["coord_raErr"]), rtol=1e-6)
    covariance = catalog["coord_ra_dec_Cov"] * (180 / np.pi) ** 2
    np.testing.assert_allclose(table["ra_dec_Cov"], covariance, rtol=1e-6)
    for name, source in (
        ("sourceId", "id"),
        ("psfFlux", "base_PsfFlux_flux"),
        ("psfFluxErr", "base_PsfFlux_fluxErr"),
        ("calibFlux", "base_NormalizedCompensatedTophatFlux_flux"),
        ("ap03Flux", "base_CircularApertureFlux_3_0_flux"),
        ("sky", "base_LocalBackground_flux"),
        ("apFlux_50_0_instFluxErr", "base_CircularApertureFlux_50_0_instFluxErr"),
        ("ixyPSF", "ext_shapeHSM_HsmPsfMoments_xy"),
        ("invalidPsfFlag", "base_InvalidPsf_flag"),
        ("deblend_nChild", "deblend_nChild"),
    ):
        np.testing.assert_array_equal(table[name], catalog[source], err_msg=name)
    assert set(table["visit"]) == {1 << 40}
    assert set(table["physical_filter"]) == {"r_01"}
    assert table.meta["zero_point"] == 28.5


def test_the_table_gives_the_same_as_the_catalog(catalog: SourceCatalog) -> None:
    one, other = (make_source_table(sources, **LABELS) for sources in (catalog, catalog.to_astropy()))
    assert one.colnames == other.colnames
    for name in one.colnames:
        np.testing.assert_array_equal(one[name], other[name])


def test_the_input_stays_as_it_is(catalog: SourceCatalog) -> None:
    table = make_source_table(catalog, **LABELS, extras=["base_PsfFlux_chi2"])
    before = catalog["base_PsfFlux_chi2"].copy()
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            table[name][:] = -7.0
    np.testing.assert_array_equal(catalog["base_PsfFlux_chi2"], before)
    assert not (catalog["base_PsfFlux_flux"] == -7.0).any()


def test_further_columns(catalog: SourceCatalog) -> None:
    extras = ["ext_photometryKron_*", "detect_fromBlend", "nothing_*"]
    table = make_source_table(catalog, **LABELS, extras=extras)
    assert len(table.colnames) > 157 + 10
    np.testing.assert_array_equal(table["kronFlux"], catalog["ext_photometryKron_KronFlux_flux"])
    assert table["kronFlux"].unit == u.nJy
    assert table["kronFlux_radius"].unit == u.pix
    assert table["detect_fromBlend"].dtype == np.bool_


def test_the_first_pass_has_every_flux_to_choose_stars_by(catalog: SourceCatalog) -> None:
    table = make_source_table(catalog, **LABELS, extras=FIRST_PASS_EXTRAS)
    assert set(table.colnames) > {
        "pixelFlags", "pixelFlags_edgeCenter", "shape_flag", "psfFlux_instFlux", "psfFlux_instFluxErr",
        "gaussianFlux_instFlux", "apFlux_4_5_instFlux", "compTophatFlux_12_flag", "kronFlux_instFlux",
        "normCompTophatFlux_instFlux", "localBackground_instFlux",
    }  # fmt: skip
    assert not any("badCentroid" in name for name in table.colnames)


def test_further_columns_must_not_share_a_name(catalog: SourceCatalog) -> None:
    catalog.schema.add("base_PsfFlux_extra", np.float64, "")
    catalog.schema.add("psfFlux_extra", np.float64, "")
    text = "psfFlux_extra and base_PsfFlux_extra would both be published as psfFlux_extra"
    with pytest.raises(ValueError, match=text):
        make_source_table(catalog, **LABELS, extras=["*Flux_extra"])


def test_errors_can_include_that_of_the_calibration(catalog: SourceCatalog) -> None:
    plain = make_source_table(catalog, **LABELS)
    table = make_source_table(catalog, **LABELS, include_calibration_error=True)
    expected = np.sqrt(plain["psfFluxErr"] ** 2 + (plain["psfFlux"] * 0.3 / 12.0) ** 2)
    np.testing.assert_allclose(table["psfFluxErr"], expected, rtol=1e-14)
    assert table["psfFluxErr"].description.endswith("calibration is included.")
    np.testing.assert_array_equal(table["psfFlux"], plain["psfFlux"])
    np.testing.assert_array_equal(table["apFlux_12_0_instFluxErr"], plain["apFlux_12_0_instFluxErr"])
    np.testing.assert_array_equal(table["raErr"], plain["raErr"])
    without = catalog.to_astropy()
    without.remove_column("base_LocalPhotoCalibErr")
    with pytest.raises(ValueError, match="base_LocalPhotoCalibErr"):
        make_source_table(without, **LABELS, include_calibration_error=True)


def test_what_was_not_measured_is_left_out(catalog: SourceCatalog, caplog: pytest.LogCaptureFixture) -> None:
    sources = catalog.to_astropy()
    sources.remove_columns(["base_CircularApertureFlux_70_0_flux", "base_Variance_value"])
    with caplog.at_level(logging.INFO):
        table = make_source_table(sources, **LABELS)
    assert len(table.colnames) == 155
    assert "left out of the source table: ap70Flux, variance_value." in caplog.text


def test_patterns_that_fit_nothing_are_said(catalog: SourceCatalog, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        make_source_table(catalog, **LABELS, extras=["base_PsfFluxx_*", "base_PsfFlux_*"])
    assert "base_PsfFluxx_*" in caplog.text
    assert "base_PsfFlux_*" not in caplog.text


def test_what_every_source_has_must_be_there(catalog: SourceCatalog) -> None:
    sources = catalog.to_astropy()
    sources.remove_columns(["detect_isPrimary", "slot_Centroid_y"])
    with pytest.raises(ValueError, match=r"no y .from slot_Centroid_y., detect_isPrimary .from detect_"):
        make_source_table(sources, **LABELS)
    with pytest.raises(ValueError, match="not measured sources"):
        make_source_table(SourceCatalog(minimal_source_schema(), 2), **LABELS)
    with pytest.raises(ValueError, match="sourceId"):
        published_sources([])


def test_a_unit_that_does_not_fit(catalog: SourceCatalog) -> None:
    sources = catalog.to_astropy()
    sources["slot_PsfFlux_flux"].unit = "mag"
    with pytest.raises(ValueError, match="slot_PsfFlux_flux is in mag; psfFlux is published in nJy"):
        make_source_table(sources, **LABELS)
    sources = catalog.to_astropy()
    sources["slot_PsfFlux_flux"].unit = None
    assert make_source_table(sources, **LABELS)["psfFlux"].unit == u.nJy
    sources["coord_ra"].unit = None
    with pytest.raises(ValueError, match="coord_ra has no unit; ra is published in deg"):
        make_source_table(sources, **LABELS)


def test_another_unit_of_the_same_kind_is_converted(catalog: SourceCatalog) -> None:
    sources = catalog.to_astropy()
    sources["slot_PsfFlux_flux"].unit = "uJy"
    table = make_source_table(sources, **LABELS)
    np.testing.assert_allclose(table["psfFlux"], 1000 * catalog["base_PsfFlux_flux"], rtol=1e-14)


@pytest.mark.parametrize("name", ["band", "physical_filter"])
def test_a_label_that_is_too_long(catalog: SourceCatalog, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} 'xxx.*' is longer than 32 characters"):
        make_source_table(catalog, **LABELS | {name: "x" * 33})


def test_no_sources(catalog: SourceCatalog) -> None:
    full, empty = (make_source_table(sources, **LABELS) for sources in (catalog, catalog[:0]))
    assert len(empty) == 0
    assert empty.dtype == full.dtype
    assert [c.unit for c in empty.columns.values()] == [c.unit for c in full.columns.values()]
    assert len(stack_source_tables({1: full, 2: empty})) == 5


@pytest.mark.parametrize("what", ["name", "dtype", "unit"])
def test_detectors_must_have_the_same_columns(catalog: SourceCatalog, what: str) -> None:
    one = make_source_table(catalog, **LABELS)
    other: Table = one.copy()
    if what == "name":
        other.rename_column("psfFlux", "flux")
    elif what == "dtype":
        other["psfFlux"] = other["psfFlux"].astype(np.float32)
    else:
        other["psfFlux"].unit = "Jy"
    with pytest.raises(ValueError, match=r"detector 9 and 4 differ in the columns .*psfFlux"):
        stack_source_tables({9: other, 4: one})


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["A", "B"])
def test_what_the_reference_measured_can_be_published(data_dir: Path, name: str) -> None:
    """Every public column comes from one that the reference has under the same name, in a unit that fits."""
    folder = data_dir / "parity" / name
    measured = Table.read(folder / "sources.parquet", format="parquet")
    said = json.loads((folder / "units.json").read_text(encoding="utf-8"))
    for column in measured.columns.values():
        alias = next((a for a in said["aliases"] if column.name.startswith(a)), None)
        target = column.name.replace(alias, said["aliases"][alias]) if alias else column.name
        entry = said["columns"][target]
        column.unit = "rad" if entry["type"] == "Angle" else entry["unit"].replace("mag(AB)", "mag") or None
    table = make_source_table(measured, **LABELS)
    assert table.colnames == [column.name for column in PUBLISHED_COLUMNS]
    for column in PUBLISHED_COLUMNS:
        if column.name not in LABELS:
            expected = np.asarray(measured[column.source])
            if column.unit.startswith("deg"):
                expected = expected * (180 / np.pi) ** (2 if column.unit.endswith("2") else 1)
            np.testing.assert_allclose(table[column.name], expected, rtol=1e-6, err_msg=column.name)
