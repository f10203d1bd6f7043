from __future__ import annotations

import logging
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.table import MaskedColumn, QTable, Table
from lsst.daf.butler import Butler, Config, DatasetType
from lsst.pipe.base import InMemoryDatasetHandle
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

import secondlight
from secondlight.sky.registration import register_sky_map
from secondlight.sky.sky_map import RingsSkyMap, RingsSkyMapConfig
from secondlight.tasks.isolated_star_association import (
    IsolatedStarAssociationConfig,
    IsolatedStarAssociationTask,
)

ARCSEC = 1 / 3600
SKY_MAP = RingsSkyMap(RingsSkyMapConfig(numRings=119, pixelScale=0.5, tractOverlap=0.25))
TRACT = SKY_MAP.find_tract(0.0, 0.0).id
BAD_FLAGS = [
    "pixelFlags_edge",
    "pixelFlags_interpolatedCenter",
    "pixelFlags_saturatedCenter",
    "pixelFlags_crCenter",
    "pixelFlags_bad",
    "pixelFlags_interpolated",
    "pixelFlags_saturated",
    "centroid_flag",
    "normCompTophatFlux_flag",
]


def visit_table(visit: int, band: str, ra: np.ndarray, dec: np.ndarray) -> Table:
    """A visit's source table of good stars."""
    n = len(ra)
    rng = np.random.default_rng(visit)
    table = Table(
        {
            "sourceId": visit * 1000 + np.arange(n, dtype=np.int64),
            "visit": np.full(n, visit, dtype=np.int64),
            "detector": np.full(n, 3, dtype=np.int16),
            "ra": np.asarray(ra, dtype=np.float64) % 360 * u.deg,
            "dec": np.asarray(dec, dtype=np.float64) * u.deg,
            "physical_filter": np.full(n, f"{band}-filter"),
            "band": np.full(n, band),
            "normCompTophatFlux_instFlux": np.full(n, 5000.0),
            "normCompTophatFlux_instFluxErr": np.full(n, 50.0),
            "sizeExtendedness": np.zeros(n),
            "parentSourceId": np.zeros(n, dtype=np.int64),
            "deblend_nChild": np.zeros(n, dtype=np.int32),
            "detect_isPrimary": np.ones(n, dtype=bool),
        }
    )
    for name in BAD_FLAGS:
        table[name] = np.zeros(n, dtype=bool)
    for name in IsolatedStarAssociationConfig().extra_columns:
        table[name] = np.zeros(n, dtype=bool) if name.endswith("_flag") else rng.normal(size=n)
    table["unused"] = 1.0
    return table


def star_grid(n: int = 5, step: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Positions around RA 0, Dec 0, degrees (RA may be negative)."""
    x, y = np.meshgrid(*[(np.arange(n) - n // 2) * step * ARCSEC] * 2)
    return x.ravel(), y.ravel()


def make_visits(
    ra: np.ndarray, dec: np.ndarray, bands: tuple[str, ...] = ("i", "i", "r")
) -> dict[int, Table]:
    tables = {}
    for visit, band in enumerate(bands, start=1):
        noise = np.random.default_rng(100 + visit).normal(0, 0.05 * ARCSEC, (2, len(ra)))
        tables[visit] = visit_table(visit, band, ra + noise[0], dec + noise[1])
    return tables


def run(tables: dict[int, Table], tract: int = TRACT, **config: object) -> tuple[Table, Table]:
    result = IsolatedStarAssociationTask(config=IsolatedStarAssociationConfig(**config)).run(
        skymap=SKY_MAP, tract=tract, source_tables=tables
    )
    return result.star_cat, result.star_source_cat


def check_consistency(stars: Table, sources: Table, bands: tuple[str, ...]) -> None:
    """Slices of stars, overall and per band, hold exactly the sources that point back."""
    assert stars["nsource"].sum() == len(sources)
    for i, star in enumerate(stars):
        start = star["source_cat_index"]
        mine = sources[start : start + star["nsource"]]
        assert np.all(mine["obj_index"] == i)
        assert len(set(mine["visit"])) == len(mine)
        assert sum(star[f"nsource_{b}"] for b in bands) == star["nsource"]
        for band in bands:
            start = star[f"source_cat_index_{band}"]
            in_band = sources[start : start + star[f"nsource_{band}"]]
            assert np.all(in_band["band"] == band)
            assert np.all(in_band["obj_index"] == i)


def check_empty(stars: Table, sources: Table) -> None:
    full_stars, full_sources = run(make_visits(*star_grid()))
    assert (len(stars), len(sources)) == (0, 0)
    assert stars.dtype == full_stars.dtype
    assert sources.dtype == full_sources.dtype


def test_defaults() -> None:
    config = IsolatedStarAssociationConfig()
    assert (config.match_radius, config.isolation_radius, config.nside_split) == (1.0, 2.0, 32)
    assert list(config.band_order) == ["i", "z", "r", "g", "y", "u"]
    science = config.source_selector["science"]
    assert list(science.flags.bad) == BAD_FLAGS
    assert (science.signalToNoise.minimum, science.signalToNoise.maximum) == (8.0, 1000.0)
    assert science.signalToNoise.fluxField == "normCompTophatFlux_instFlux"
    assert (science.doFluxLimit, science.doSkySources, science.doCentroidErrorLimit) == (False,) * 3


def test_selector_follows_the_flux_column() -> None:
    config = IsolatedStarAssociationConfig()
    config.inst_flux_field = "psfFlux_instFlux"
    science = config.source_selector["science"]
    assert science.signalToNoise.fluxField == "psfFlux_instFlux"
    assert science.signalToNoise.errField == "psfFlux_instFluxErr"
    assert "psfFlux_flag" in science.flags.bad
    assert "normCompTophatFlux_flag" not in science.flags.bad


def test_a_selector_flux_chosen_on_purpose_stays() -> None:
    config = IsolatedStarAssociationConfig()
    science = config.source_selector["science"]
    science.signalToNoise.fluxField = "calibFlux_instFlux"
    science.signalToNoise.errField = "calibFlux_instFluxErr"
    config.inst_flux_field = "psfFlux_instFlux"
    assert science.signalToNoise.fluxField == "calibFlux_instFlux"
    science.signalToNoise.fluxField = "normCompTophatFlux_instFlux"
    config.validate()
    assert science.signalToNoise.fluxField == "normCompTophatFlux_instFlux"


def test_saved_configuration_reads_back(tmp_path: Path) -> None:
    config = IsolatedStarAssociationConfig(inst_flux_field="psfFlux_instFlux")
    config.source_selector["science"].signalToNoise.fluxField = "normCompTophatFlux_instFlux"
    config.save(str(tmp_path / "config.py"))
    loaded = IsolatedStarAssociationConfig()
    loaded.load(str(tmp_path / "config.py"))
    assert loaded == config


def test_another_flux_is_selected_on_and_kept() -> None:
    tables = make_visits(*star_grid())
    for table in tables.values():
        for suffix in ("instFlux", "instFluxErr", "flag"):
            table.rename_column(f"normCompTophatFlux_{suffix}", f"psfFlux_{suffix}")
    tables[1]["psfFlux_instFlux"][:5] = 1.0
    _, sources = run(tables, inst_flux_field="psfFlux_instFlux")
    assert len(sources) == 3 * 25 - 5
    assert "psfFlux_instFluxErr" in sources.colnames


@pytest.mark.parametrize("wrong", [{"band_order": ["i", "i"]}, {"nside_split": 31}, {"match_radius": -1.0}])
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IsolatedStarAssociationConfig(**wrong).validate()


def test_stars_with_their_sources() -> None:
    ra, dec = star_grid()
    tables = make_visits(ra, dec, bands=("r", "i", "i", "z"))
    stars, sources = run(tables)
    assert len(stars) == 25
    assert np.all(stars["nsource"] == 4)
    assert np.all(stars["nsource_i"] == 2)
    assert np.all(stars["primary_band"] == "i")
    assert sources["band"][:4].tolist() == ["i", "i", "z", "r"]
    assert sources["visit"][:4].tolist() == [2, 3, 4, 1]
    check_consistency(stars, sources, ("i", "z", "r", "g", "y", "u"))
    for visit, table in tables.items():
        mine = sources[sources["visit"] == visit]
        original = table[mine["source_row"]]
        for name in ("sourceId", "ra", "xErr", "apFlux_12_0_flag"):
            np.testing.assert_array_equal(mine[name], original[name])
    truth = (ra - 0.1 * ARCSEC) % 360
    for star in stars:
        d_ra = (star["ra"] - truth + 180) % 360 - 180
        assert np.hypot(d_ra, star["dec"] - dec).min() < 0.3 * ARCSEC


def test_types_and_units_of_the_tables() -> None:
    stars, sources = run(make_visits(*star_grid()), band_order=["i", "r"])
    expected = {
        "isolated_star_id": np.int64,
        "ra": np.float64,
        "dec": np.float64,
        "primary_band": np.dtype("U1"),
        "source_cat_index": np.int32,
        "nsource": np.int32,
    }
    for band in ("i", "r"):
        expected |= {f"source_cat_index_{band}": np.int32, f"nsource_{band}": np.int32}
    assert {name: stars.dtype[name] for name in stars.colnames} == expected
    assert stars["ra"].unit == stars["dec"].unit == sources["ra"].unit == u.deg
    assert sources.dtype["source_row"] == sources.dtype["obj_index"] == np.int32
    assert sources.dtype["detector"] == np.int16
    config = IsolatedStarAssociationConfig()
    assert sources.colnames == [
        *("sourceId", "visit", "detector", "ra", "dec", "physical_filter", "band"),
        *("normCompTophatFlux_instFlux", "normCompTophatFlux_instFluxErr"),
        *config.extra_columns,
        *("source_row", "obj_index"),
    ]


def test_ids_are_unique_over_tracts() -> None:
    neighbour = SKY_MAP.find_tract(SKY_MAP[TRACT].ra + 1.6, 0.0)
    border = float(np.degrees(neighbour.inner_region.getLon().getA().asRadians()))
    ra, dec = star_grid()
    tables = make_visits(ra + border + 3 * ARCSEC, dec)
    first, _ = run(tables)
    second, _ = run(tables, tract=neighbour.id)
    assert len(first) > 0
    assert len(second) > 0
    assert len(first) + len(second) == 25
    ids = [*first["isolated_star_id"], *second["isolated_star_id"]]
    assert len(set(ids)) == 25
    digits = len(str(len(SKY_MAP)))
    assert first["isolated_star_id"].tolist() == [n * 10**digits + TRACT for n in range(1, len(first) + 1)]


@pytest.mark.parametrize("gap", [1.4, 2.4])
def test_neighbours_across_ra_zero_are_both_removed(gap: float) -> None:
    ra = np.array([-gap / 2 * ARCSEC, gap / 2 * ARCSEC, 30 * ARCSEC])
    stars, sources = run(make_visits(ra, np.zeros(3)))
    assert len(stars) == (1 if gap < 2 else 3)
    assert len(sources) == 3 * len(stars)
    assert stars["ra"].max() < 360
    check_consistency(stars, sources, ("i", "r"))


def test_primary_band_is_the_most_preferred_that_sees_a_star() -> None:
    ra, dec = star_grid()
    tables = make_visits(ra, dec)
    for visit in (1, 2):
        tables[visit] = tables[visit][:20]
    stars, _ = run(tables)
    assert np.count_nonzero(stars["primary_band"] == "i") == 20
    assert np.count_nonzero(stars["primary_band"] == "r") == 5
    assert np.all(stars["nsource_i"][stars["primary_band"] == "r"] == 0)
    stars, _ = run(tables, band_order=["r", "i"])
    assert np.all(stars["primary_band"] == "r")


def test_secondary_band_without_overlap() -> None:
    ra, dec = star_grid()
    tables = {1: visit_table(1, "i", ra[:10], dec[:10]), 2: visit_table(2, "r", ra[10:], dec[10:])}
    stars, sources = run(tables)
    assert len(stars) == len(sources) == 25
    assert stars["primary_band"].tolist() == ["i"] * 10 + ["r"] * 15
    check_consistency(stars, sources, ("i", "r"))


def test_band_that_is_not_listed_is_reported_and_not_used(caplog: pytest.LogCaptureFixture) -> None:
    ra, dec = star_grid()
    with caplog.at_level(logging.WARNING):
        stars, sources = run(make_visits(ra, dec, bands=("i", "N921")))
    assert "N921" in caplog.text
    assert set(sources["band"]) == {"i"}
    assert len(stars) == 25


def test_order_of_the_visits_does_not_matter() -> None:
    tables = make_visits(*star_grid())
    first = run(tables)
    second = run({visit: tables[visit] for visit in (3, 1, 2)})
    for one, other in zip(first, second, strict=True):
        assert (one == other).all()


def test_duplicate_detections_of_a_visit_give_one_source() -> None:
    ra, dec = star_grid()
    tables = make_visits(ra, dec)
    double = visit_table(4, "i", np.append(ra, ra + 0.5 * ARCSEC), np.append(dec, dec))
    stars, sources = run(tables | {4: double})
    assert np.all(stars["nsource"] == 4)
    check_consistency(stars, sources, ("i", "r"))
    assert set(sources["source_row"][sources["visit"] == 4]) <= set(range(50))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("normCompTophatFlux_instFlux", 8.0 * 50),
        ("normCompTophatFlux_instFlux", 1000.0 * 50),
        ("normCompTophatFlux_instFlux", np.nan),
        ("sizeExtendedness", 0.1),
        ("parentSourceId", 7),
        ("deblend_nChild", 2),
        ("detect_isPrimary", False),
        ("ra", np.nan),
        *((flag, True) for flag in BAD_FLAGS),
    ],
)
def test_each_criterion_of_the_selection(column: str, value: object) -> None:
    tables = make_visits(*star_grid(3))
    tables[2][column][4] = value
    stars, sources = run(tables)
    assert len(stars) == 9
    assert len(sources) == 26
    assert 4 not in sources["source_row"][sources["visit"] == 2]


def test_inner_tract_only_and_sources_from_the_outer_one() -> None:
    tract = SKY_MAP[TRACT]
    border = float(np.degrees(tract.inner_region.getLon().getB().asRadians()))
    ra = border + np.array([-60.0, -0.2, 0.2, 60.0]) * ARCSEC
    # The second star lies inside, but one of its detections is on the other side of the border.
    tables = {v: visit_table(v, "i", ra + d * ARCSEC, np.zeros(4)) for v, d in ((1, -0.2), (2, 0.3))}
    tables = {v: t[[0, 1, 3]] for v, t in tables.items()}
    stars, sources = run(tables)
    assert len(stars) == 2
    assert len(sources) == 4
    assert tract.outer_contains(sources["ra"], sources["dec"]).all()
    assert not tract.inner_contains(sources["ra"], sources["dec"]).all()


def test_empty_results_have_all_columns() -> None:
    ra, dec = star_grid()
    pairs = make_visits(np.append(ra, ra + 1.4 * ARCSEC), np.append(dec, dec))
    check_empty(*run(pairs))
    check_empty(*run(make_visits(ra + 90.0, dec)))
    just_outside = float(np.degrees(SKY_MAP[TRACT].inner_region.getLon().getB().asRadians())) + 0.1
    tables = make_visits(ra + just_outside, dec)
    assert SKY_MAP[TRACT].outer_contains(tables[1]["ra"], tables[1]["dec"]).all()
    check_empty(*run(tables))
    check_empty(*run({visit: table[:0] for visit, table in make_visits(ra, dec).items()}))


def test_masked_values_are_not_selected() -> None:
    tables = make_visits(*star_grid(3))
    table = tables[1]
    table["ra"] = MaskedColumn(table["ra"], mask=np.arange(9) == 2, unit=u.deg)
    _, sources = run(tables)
    assert len(sources) == 26
    assert np.isfinite(sources["ra"]).all()


def test_tables_of_quantities_work_too() -> None:
    tables = make_visits(*star_grid(3))
    for one, other in zip(run(tables), run({v: QTable(t) for v, t in tables.items()}), strict=True):
        assert (one == other).all()


def test_a_missing_column_is_named_with_its_visit() -> None:
    tables = make_visits(*star_grid(3))
    tables[2].remove_columns(["ixx", "centroid_flag"])
    with pytest.raises(ValueError, match=r"Visit 2: .* no column ixx, centroid_flag"):
        run(tables)


def test_coordinates_that_are_not_degrees_are_refused() -> None:
    tables = make_visits(*star_grid(3))
    tables[3]["dec"].unit = u.rad
    with pytest.raises(ValueError, match="Visit 3: dec is in rad"):
        run(tables)


def test_no_tables_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match=f"Tract {TRACT}: no source tables"):
        run({})


def test_handles_are_read_with_only_the_columns_that_are_needed() -> None:
    tables = make_visits(*star_grid())
    handles = {
        visit: InMemoryDatasetHandle(table, storageClass="ArrowAstropy", visit=visit)
        for visit, table in tables.items()
    }
    for one, other in zip(run(tables), run(handles), strict=True):
        assert (one == other).all()
    task = IsolatedStarAssociationTask()
    assert "unused" not in task._read(handles[1]).colnames


def test_another_selector_works_without_knowing_its_columns() -> None:
    config = IsolatedStarAssociationConfig()
    config.source_selector.name = "null"
    result = IsolatedStarAssociationTask(config=config).run(
        skymap=SKY_MAP, tract=TRACT, source_tables=make_visits(*star_grid())
    )
    assert len(result.star_cat) == 25


def test_in_a_data_repository(tmp_path: Path) -> None:
    defaults = Path(secondlight.__file__).parent / "configs" / "butler.yaml"
    Butler.makeRepo(str(tmp_path), config=Config(str(defaults)))
    tables = make_visits(*star_grid())
    with Butler.from_config(str(tmp_path), writeable=True, run="input") as butler:
        register_sky_map(SKY_MAP, butler, "test")
        register_visits(butler, tables)
        for visit, table in tables.items():
            butler.put(table, "preSourceTable_visit", instrument="Cam", visit=visit)
        executor = SimplePipelineExecutor.from_task_class(
            IsolatedStarAssociationTask,
            where=f"skymap = 'test' AND tract = {TRACT} AND instrument = 'Cam'",
            butler=SimplePipelineExecutor.prep_butler(
                str(tmp_path), inputs=["input", "skymaps"], output="out"
            ),
        )
        (quantum,) = executor.run(register_dataset_types=True)
        assert len(quantum.inputs["preSourceTable_visit"]) == 3
        where = {"instrument": "Cam", "skymap": "test", "tract": TRACT}
        executor.butler.registry.refresh()
        stars = executor.butler.get("isolated_star_presource_associations", where)
        sources = executor.butler.get("isolated_star_presources", where)
    expected_stars, expected_sources = run(tables)
    assert (stars == expected_stars).all()
    assert (sources == expected_sources).all()
    assert stars.dtype == expected_stars.dtype


def register_visits(butler: Butler, tables: dict[int, Table]) -> None:
    """Insert what the middleware wants to know of visits, each covering a small square around RA 0."""
    corners = [(-0.1, -0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, 0.1)]
    square = ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*corner)) for corner in corners])
    insert = butler.registry.insertDimensionData
    insert("instrument", {"name": "Cam", "visit_max": 100, "exposure_max": 100, "detector_max": 10})
    insert("day_obs", {"instrument": "Cam", "id": 20260101})
    for band in ("i", "r"):
        insert("physical_filter", {"instrument": "Cam", "name": f"{band}-filter", "band": band})
    for visit, table in tables.items():
        insert(
            "visit",
            {
                "instrument": "Cam",
                "id": visit,
                "name": f"visit {visit}",
                "physical_filter": table["physical_filter"][0],
                "day_obs": 20260101,
                "region": square,
            },
        )
    butler.registry.registerDatasetType(
        DatasetType(
            "preSourceTable_visit", ["instrument", "visit"], "ArrowAstropy", universe=butler.dimensions
        )
    )
