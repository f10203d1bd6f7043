"""Schema, aliases and the exact storage of source catalogs."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog


def make_catalog() -> SourceCatalog:
    schema = minimal_source_schema()
    schema.add("base_SdssCentroid_x", np.float64, "x position", unit="pix")
    schema.add_flag("base_SdssCentroid_flag", "centroid failed")
    schema.add("name", "U5", "a word")
    schema.add("small", np.float32, "a single-precision number")
    schema.set_alias("slot_Centroid", "base_SdssCentroid")
    schema.set_alias("base_PsfFlux_flag_badCentroid", "base_SdssCentroid_flag")
    catalog = SourceCatalog(
        schema,
        3,
        footprints=Footprints.from_circles(np.array([5, 15, 25]), np.array([5, 6, 7]), 2),
        metadata={"visit": 12},
    )
    catalog["id"] = [1, 2, 2**62 + 1]
    catalog["slot_Centroid_x"] = [1.5, np.nan, 3.25]
    catalog["name"] = ["a", "", "ccccc"]
    return catalog


def test_defaults() -> None:
    catalog = make_catalog()
    assert np.isnan(catalog["coord_ra"]).all()
    assert not catalog["base_SdssCentroid_flag"].any()
    assert catalog["parent"].tolist() == [0, 0, 0]


def test_aliases_resolve_to_the_same_array() -> None:
    catalog = make_catalog()
    assert catalog["slot_Centroid_x"] is catalog["base_SdssCentroid_x"]
    assert catalog["base_PsfFlux_flag_badCentroid"] is catalog["base_SdssCentroid_flag"]
    assert "slot_Centroid_y" not in catalog
    with pytest.raises(KeyError, match="slot_Centroid_y"):
        catalog["slot_Centroid_y"]


def test_longest_alias_wins_and_circles_are_found() -> None:
    schema = Schema()
    schema.add("good_x", np.float64, "")
    schema.set_alias("slot", "bad")
    schema.set_alias("slot_Centroid", "good")
    assert schema.resolve("slot_Centroid_x") == "good_x"
    schema.set_alias("a", "b")
    schema.set_alias("b", "a")
    with pytest.raises(ValueError, match="circle"):
        schema.resolve("a_x")


def test_a_name_is_taken_only_once() -> None:
    schema = minimal_source_schema()
    with pytest.raises(ValueError, match="already in the schema"):
        schema.add("id", np.int64, "again")
    with pytest.raises(ValueError, match="cannot be an alias"):
        schema.set_alias("id", "parent")


def test_columns_added_to_the_schema_later_appear() -> None:
    catalog = make_catalog()
    catalog.schema.add("late", np.int32, "declared after the rows")
    assert catalog["late"].tolist() == [0, 0, 0]


def test_rows_carry_their_footprints() -> None:
    catalog = make_catalog()
    part = catalog[np.array([True, False, True])]
    assert part["id"].tolist() == [1, 2**62 + 1]
    assert part.footprints == catalog.footprints.take([0, 2])
    assert SourceCatalog.concatenate([catalog[:1], catalog[1:]]).footprints == catalog.footprints


def test_concatenate_refuses_different_schemas() -> None:
    other = SourceCatalog(minimal_source_schema(), 1)
    with pytest.raises(ValueError, match="different schemas"):
        SourceCatalog.concatenate([make_catalog(), other])


def test_arrow_round_trip_is_exact() -> None:
    catalog = make_catalog()
    again = SourceCatalog.from_arrow(catalog.to_arrow())
    assert again.schema == catalog.schema
    assert again.metadata == catalog.metadata
    assert again.footprints == catalog.footprints
    for name in catalog.schema.names:
        assert again[name].dtype == catalog[name].dtype
        np.testing.assert_array_equal(again[name], catalog[name])


def test_arrow_table_of_someone_else_is_refused() -> None:
    with pytest.raises(ValueError, match="no source-catalog header"):
        SourceCatalog.from_arrow(Footprints.empty().to_arrow())


def test_astropy_table_has_units_descriptions_and_alias_columns() -> None:
    catalog = make_catalog()
    table = catalog.to_astropy()
    assert table["coord_ra"].unit == u.rad
    assert table["slot_Centroid_x"].description.startswith("alias of base_SdssCentroid_x")
    np.testing.assert_array_equal(table["slot_Centroid_x"], catalog["base_SdssCentroid_x"])
    again = SourceCatalog.from_astropy(table, aliases=catalog.schema.aliases, footprints=catalog.footprints)
    assert again.schema.names == catalog.schema.names
    assert again["slot_Centroid_x"][2] == 3.25


def test_with_schema_keeps_what_both_have() -> None:
    catalog = make_catalog()
    other = catalog.with_schema(minimal_source_schema())
    assert other.schema.names == ["id", "coord_ra", "coord_dec", "parent"]
    assert other["id"].tolist() == catalog["id"].tolist()
