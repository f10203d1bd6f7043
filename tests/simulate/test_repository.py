"""A repository made ready for a scene: once, whole, and for one scene only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler

from secondlight.instruments.reference_catalog import ingest_reference_catalog
from secondlight.instruments.repository import make_repository
from secondlight.simulate import repository as module
from secondlight.simulate.geometry import nominal_geometry
from secondlight.simulate.objects import make_objects
from secondlight.simulate.repository import IMAGES_RUN, SCENE_RUN, SKY_MAP, prepare_repository, stored_scene
from secondlight.simulate.scene import Scene, SceneError, load_scene
from secondlight.sky.registration import register_sky_map
from secondlight.sky.sky_map import RingsSkyMap, RingsSkyMapConfig

RECORDS = ("instrument", "visit", "exposure", "visit_detector_region", "detector", "tract", "skymap")


def scene(**settings: object) -> Scene:
    return load_scene("tiny", settings={"stars.faint": 20.0, "galaxies.faint": 20.0, "snaps": 2} | settings)


def contents(butler: Butler) -> dict[str, list[object]]:
    """Return all dimension records and the ids of all datasets."""
    found: dict[str, list[object]] = {
        name: sorted(map(str, butler.query_dimension_records(name, explain=False))) for name in RECORDS
    }
    for name in ("sim_scene", "sim_objects", "photometric_refcat", "skyMap"):
        refs = butler.query_datasets(name, collections="*", find_first=False, explain=False)
        found[name] = [ref.id for ref in refs]
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "repo"
    prepared = prepare_repository(root, scene())
    assert prepared.is_new
    assert (prepared.visits, prepared.detectors) == (2, 2)
    return root


@pytest.fixture
def butler(root: Path) -> Iterator[Butler]:
    with Butler.from_config(str(root)) as butler:
        yield butler


def test_records(butler):
    assert [r.id for r in butler.query_dimension_records("detector", order_by="detector")] == [0, 1]
    exposures = [r.id for r in butler.query_dimension_records("exposure", order_by="exposure")]
    assert exposures == [1001, 1002, 1003, 1004]
    regions = {
        (r.visit, r.detector): r.region for r in butler.query_dimension_records("visit_detector_region")
    }
    geometries = {
        (visit.id, detector): nominal_geometry(scene(), visit, detector)
        for visit in scene().visits
        for detector in (0, 1)
    }
    assert regions == {key: geometry.region for key, geometry in geometries.items()}
    sky_map = RingsSkyMap(RingsSkyMapConfig(numRings=120))
    ra, dec = (np.concatenate([g.corners[i] for g in geometries.values()]) for i in (0, 1))
    owners = set(sky_map.find_tract_ids(ra, dec))
    tracts = {r.id for r in butler.query_dimension_records("tract")}
    assert owners <= tracts < set(sky_map.find_overlapping(regions.values()))


def test_scene_and_objects_come_back_exactly(butler):
    assert stored_scene(butler) == scene()
    stored = butler.get("sim_objects", instrument="SimCam", collections=SCENE_RUN)
    objects = make_objects(scene())
    assert stored.colnames == objects.colnames
    for name in objects.colnames:
        assert stored[name].dtype == objects[name].dtype
        assert (stored[name] == objects[name]).all(), name
        assert stored[name].unit == objects[name].unit
        assert stored[name].description == objects[name].description
    reference = butler.get("photometric_refcat", collections="refcats")
    assert {"ra", "dec", "mag_r", "mag_err_r", "is_star"} <= set(reference.colnames)
    assert IMAGES_RUN in butler.collections.query("SimCam/*")


def test_every_field_of_a_scene_comes_back(tmp_path):
    settings = {
        "stars.proper_motion": 0.1 + 0.2, "galaxies.shear": [1e-17, 1 / 3], "field.tracts": None,
        "bands": {"Y4": {"zero_point": 28.36, "sky": 21.1}}, "reference_band": "Y4",
        "visits": [{"id": 2**31 - 2, "band": "Y4", "ra": 52.995, "dec": -29.3, "seeing": 0.7, "mjd": 6e4}],
    }  # fmt: skip
    described = scene(**settings)
    prepare_repository(tmp_path / "repo", described)
    with Butler.from_config(str(tmp_path / "repo")) as butler:
        assert stored_scene(butler) == described


def test_again_changes_nothing(root, butler):
    before = contents(butler)
    again = prepare_repository(root, scene())
    assert not again.is_new
    assert contents(butler) == before


def test_another_scene_is_refused_before_anything_is_written(root, butler):
    before = contents(butler)
    with pytest.raises(SceneError, match=r"holds scene tiny already.* differs from it in seed, stars"):
        prepare_repository(root, scene(**{"seed": 12, "stars.density": 3.0}))
    assert contents(butler) == before


def test_a_detector_off_the_field_makes_no_repository(tmp_path):
    with pytest.raises(SceneError, match=r"[Vv]isit 1001.*detector"):
        prepare_repository(tmp_path / "repo", scene(**{"field.radius": 0.01}))
    assert not (tmp_path / "repo").exists()


def test_another_sky_map_is_refused(tmp_path):
    with make_repository(tmp_path / "repo") as butler:
        register_sky_map(RingsSkyMap(RingsSkyMapConfig(numRings=3)), butler, SKY_MAP)
        with pytest.raises(SceneError, match=r"sky map secondlight_rings.*field\.num_rings"):
            prepare_repository(butler, scene())
        assert not butler.query_dimension_records("instrument", explain=False)


def test_another_reference_catalog_is_refused(tmp_path):
    Table({"ra": [1.0], "dec": [2.0], "mag_r": [20.0]}).write(tmp_path / "stars.ecsv")
    with make_repository(tmp_path / "repo") as butler:
        ingest_reference_catalog(butler, tmp_path / "stars.ecsv")
        with pytest.raises(SceneError, match="reference catalog of another survey in refcats"):
            prepare_repository(butler, scene())
        assert not butler.query_dimension_records("instrument", explain=False)


def test_what_fails_on_the_way_leaves_no_half_a_scene(tmp_path, monkeypatch):
    with make_repository(tmp_path / "repo") as butler:
        with monkeypatch.context() as patch:
            patch.setattr(module, "store_reference_catalog", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                prepare_repository(butler, scene())
        assert not butler.query_dimension_records("visit", explain=False)
        assert stored_scene(butler) is None
        assert prepare_repository(butler, scene()).is_new
        assert stored_scene(butler) == scene()
