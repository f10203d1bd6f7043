from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lsst.daf.butler import Butler, Config

import secondlight
from secondlight.sky.registration import SKY_MAP_COLLECTION, register_sky_map, tracts_of_visits
from secondlight.sky.sky_map import RingsSkyMap, RingsSkyMapConfig


@pytest.fixture
def butler(tmp_path: Path) -> Iterator[Butler]:
    defaults = Path(secondlight.__file__).parent / "configs" / "butler.yaml"
    Butler.makeRepo(str(tmp_path / "repo"), config=Config(str(defaults)))
    with Butler.from_config(str(tmp_path / "repo"), writeable=True) as butler:
        yield butler


@pytest.fixture
def sky_map() -> RingsSkyMap:
    return RingsSkyMap(RingsSkyMapConfig(numRings=3, pixelScale=36.0, patchInnerDimensions=[2000, 2000]))


def test_registered_map_reads_back_with_its_tracts(butler: Butler, sky_map: RingsSkyMap) -> None:
    register_sky_map(sky_map, butler, "small", patches_of=[4])
    assert butler.get("skyMap", skymap="small", collections=SKY_MAP_COLLECTION) == sky_map
    (record,) = butler.query_dimension_records("skymap")
    assert (record.hash, record.tract_max) == (sky_map.sha1, len(sky_map))
    assert (record.patch_nx_max, record.patch_ny_max) == sky_map.n_patches
    tracts = {r.id: r.region for r in butler.query_dimension_records("tract", skymap="small")}
    assert tracts == {i: sky_map[i].outer_polygon for i in range(len(sky_map))}
    patches = butler.query_dimension_records("patch", skymap="small")
    assert {(r.tract, r.id, r.cell_x, r.cell_y) for r in patches} == {
        (4, p.id, p.x, p.y) for p in sky_map[4].patches()
    }
    assert {r.id: r.region for r in patches} == {p.id: p.outer_polygon for p in sky_map[4].patches()}


def test_registering_again_adds_only_patches(butler: Butler, sky_map: RingsSkyMap) -> None:
    register_sky_map(sky_map, butler, "small")
    register_sky_map(sky_map, butler, "small", patches_of=[4])
    register_sky_map(sky_map, butler, "small", patches_of=[4, 5])
    assert len(butler.query_dimension_records("tract", skymap="small")) == len(sky_map)
    assert {r.tract for r in butler.query_dimension_records("patch", skymap="small")} == {4, 5}
    assert len(butler.query_datasets("skyMap", collections=SKY_MAP_COLLECTION)) == 1


def test_another_map_of_the_same_name_is_refused(butler: Butler, sky_map: RingsSkyMap) -> None:
    register_sky_map(sky_map, butler, "small")
    other = RingsSkyMap(RingsSkyMapConfig(numRings=4))
    with pytest.raises(ValueError, match="different sky map named 'small'"):
        register_sky_map(other, butler, "small")
    register_sky_map(other, butler, "other")
    assert butler.get("skyMap", skymap="other", collections=SKY_MAP_COLLECTION) == other


def test_a_tract_that_does_not_exist_changes_nothing(butler: Butler, sky_map: RingsSkyMap) -> None:
    with pytest.raises(IndexError, match="not 999"):
        register_sky_map(sky_map, butler, "small", patches_of=[999])
    assert not butler.query_dimension_records("skymap", explain=False)


def test_tracts_are_found_by_position(butler: Butler, sky_map: RingsSkyMap) -> None:
    register_sky_map(sky_map, butler, "small")
    tract = sky_map.find_tract(100.0, 20.0)
    where = "tract.region OVERLAPS POINT(100.0, 20.0)"
    found = {r.id for r in butler.query_dimension_records("tract", skymap="small", where=where)}
    assert tract.id in found
    assert len(found) < len(sky_map) // 2


def test_some_tracts_first_and_more_later(butler: Butler, sky_map: RingsSkyMap) -> None:
    def registered() -> set[int]:
        return {r.id for r in butler.query_dimension_records("tract", skymap="small", explain=False)}

    register_sky_map(sky_map, butler, "small", tracts=[3, 1])
    assert registered() == {1, 3}
    register_sky_map(sky_map, butler, "small", tracts=[3, 4], patches_of=[6])
    assert registered() == {1, 3, 4, 6}
    register_sky_map(sky_map, butler, "small")
    assert registered() == set(range(len(sky_map)))


def test_without_visits_no_tract_is_covered(butler: Butler, sky_map: RingsSkyMap) -> None:
    assert tracts_of_visits(sky_map, butler) == []
