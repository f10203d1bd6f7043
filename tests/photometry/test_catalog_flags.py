from __future__ import annotations

import numpy as np
import pytest

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry.catalog_calculation import CatalogCalculationConfig, CatalogCalculationTask
from secondlight.photometry.primary_flags import SetPrimaryFlagsTask


def make_schema() -> Schema:
    schema = minimal_source_schema()
    for name in ("gauss", "psf"):
        schema.add(f"{name}_instFlux", np.float64, "flux")
        schema.add(f"{name}_instFluxErr", np.float64, "error")
        schema.add_flag(f"{name}_flag", "bad")
    schema.set_alias("slot_ModelFlux", "gauss")
    schema.set_alias("slot_PsfFlux", "psf")
    return schema


def test_extendedness_and_area() -> None:
    schema = make_schema()
    task = CatalogCalculationTask(schema)
    footprints = Footprints.from_circles(np.full(5, 20), np.full(5, 30), 2)
    catalog = SourceCatalog(schema, 5, footprints=footprints)
    catalog["psf_instFlux"] = 100.0
    catalog["gauss_instFlux"] = [100.0, 105.2, 105.3, np.nan, 100.0]
    catalog["psf_flag"][4] = True
    task.run(catalog)
    value = catalog["base_ClassificationExtendedness_value"]
    np.testing.assert_array_equal(value, [0, 0, 1, np.nan, np.nan])
    assert catalog["base_ClassificationExtendedness_flag"].tolist() == [False, False, False, True, True]
    np.testing.assert_array_equal(catalog["base_FootprintArea_value"], footprints.areas())
    assert catalog["base_FootprintArea_value"].dtype == np.int32


def test_error_factors_shift_the_limit() -> None:
    config = CatalogCalculationConfig()
    config.plugins.names = ["base_ClassificationExtendedness"]
    config.plugins["base_ClassificationExtendedness"].psfErrFactor = 1.0
    schema = make_schema()
    task = CatalogCalculationTask(schema, config=config)
    assert "base_FootprintArea_value" not in schema
    catalog = SourceCatalog(schema, 1)
    catalog["psf_instFlux"], catalog["gauss_instFlux"] = 100.0, 106.0
    catalog["psf_instFluxErr"] = 1.0
    task.run(catalog)
    assert catalog["base_ClassificationExtendedness_value"][0] == 0


@pytest.mark.parametrize("slot", ["slot_ModelFlux", "slot_PsfFlux"])
def test_extendedness_without_a_flux_is_refused_at_construction(slot: str) -> None:
    schema = make_schema()
    schema.set_alias(slot, "base_NobodyMeasuresThis")
    with pytest.raises(ValueError, match=f"base_ClassificationExtendedness needs {slot}"):
        CatalogCalculationTask(schema)


def test_primary_flags() -> None:
    schema = minimal_source_schema()
    schema.add("deblend_nChild", np.int32, "children")
    schema.add_flag("sky_source", "sky")
    task = SetPrimaryFlagsTask(schema)
    catalog = SourceCatalog(schema, 4)  # isolated, parent, child, sky
    catalog["id"] = [1, 2, 3, 4]
    catalog["parent"] = [0, 0, 2, 0]
    catalog["deblend_nChild"] = [0, 1, 0, 0]
    catalog["sky_source"] = [False, False, False, True]
    task.run(catalog)
    assert catalog["detect_isPrimary"].tolist() == [True, False, True, False]
    assert catalog["detect_isDeblendedSource"].tolist() == [True, False, True, True]
    assert catalog["detect_fromBlend"].tolist() == [False, False, True, False]
    assert catalog["detect_isIsolated"].tolist() == [True, False, False, True]


def test_primary_without_deblending() -> None:
    schema = minimal_source_schema()
    task = SetPrimaryFlagsTask(schema)
    assert "detect_isIsolated" not in schema
    catalog = SourceCatalog(schema, 2)
    task.run(catalog)
    assert catalog["detect_isPrimary"].all()
