"""Calibrations fitted to pieces of the sky: each detector takes that of the nearest, also in a repository."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hpgeom
import numpy as np
import pytest
from lsst.daf.butler import Butler, DatasetType
from lsst.pipe.base import InMemoryDatasetHandle
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
from lsst.sphgeom import ConvexPolygon

from secondlight.background.fields import make_background
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.visit_summary import VisitSummary
from secondlight.instruments.records import corner_polygon
from secondlight.instruments.repository import make_repository
from secondlight.photometry.sky_statistics import box_corners
from secondlight.sky.registration import register_sky_map
from secondlight.sky.sky_map import RingsSkyMap, RingsSkyMapConfig
from secondlight.tasks.update_visit_summary import UpdateVisitSummaryConfig, UpdateVisitSummaryTask
from tests.scenes import make_visit_image

from .visit_summary_scenes import (
    BBOX,
    DETECTORS,
    STEP,
    VISIT,
    characterization,
    external_calib,
    external_wcs,
    first_pass,
    projection,
    run,
    stars,
)

SKY_MAP = RingsSkyMap(RingsSkyMapConfig(numRings=119, pixelScale=0.5, tractOverlap=0.25))
LEFT = SKY_MAP.find_tract(150.0, 2.0)
RIGHT = SKY_MAP.find_tract((LEFT.ra + 1.5) % 360, 2.0)
# The first two detectors are nearer to the tract of lower right ascension, by a little.
RA = 0.5 * (LEFT.ra + RIGHT.ra) - 1.2 * STEP


def configure(**values: object) -> UpdateVisitSummaryConfig:
    config = UpdateVisitSummaryConfig()
    for name, value in values.items():
        setattr(config, name, value)
    return config


def zero_points(summary: VisitSummary) -> list[float]:
    return [round(record.photo_calib.zero_point, 6) for record in summary]


def test_the_nearest_tract(caplog: pytest.LogCaptureFixture) -> None:
    assert RIGHT.ra - LEFT.ra == pytest.approx(1.5, rel=0.1)
    config = configure(photo_calib_provider="tract", wcs_provider="tract")
    calibs = {
        LEFT.id: external_calib(zero_point=28.0),
        RIGHT.id: InMemoryDatasetHandle(external_calib(zero_point=29.0)),
    }
    wcs = {RIGHT.id: external_wcs(shift=0.1), LEFT.id: external_wcs((4, 9), shift=0.2)}
    inputs: dict[str, Any] = {
        "input_summary": first_pass(ra=RA),
        "photo_calib_overrides_tract": calibs,
        "wcs_overrides_tract": wcs,
        "sky_map": SKY_MAP,
    }
    result = run(config, **inputs)
    assert zero_points(result) == [28.0, 28.0, 29.0]
    assert [record.calibration_sources["photo_calib"] for record in result] == [
        f"tract {tract.id} fgcmPhotoCalibCatalog" for tract in (LEFT, LEFT, RIGHT)
    ]
    # A detector that the nearest fit lacks, or has without the calibration, is taken from the other one.
    calibs[LEFT.id] = external_calib((4, 11), zero_point=28.0)
    wcs[LEFT.id].find(4).sky_projection = None
    with caplog.at_level(logging.WARNING):
        result = run(config, **inputs)
    assert zero_points(result) == [28.0, 29.0, 29.0]
    assert result.find(4).sky_projection == projection(4, shift=0.1)
    assert result.find(4).calibration_sources["sky_projection"] == (
        f"tract {RIGHT.id} gbdesAstrometricFitSkyWcsCatalog"
    )
    assert "has nothing of" not in caplog.text
    # One that no fit has goes without.
    del calibs[RIGHT.id]
    result = run(config, **inputs)
    assert [record.photo_calib is None for record in result] == [False, True, False]


def test_position_of_a_detector_without_a_sky_projection() -> None:
    """It comes from the statistics of the first pass; without those the lowest number is taken."""
    before = first_pass(ra=RA)
    for record in before:
        record.summary_stats.ra, record.summary_stats.dec = LEFT.ra, 2.0
        record.sky_projection = None
    before.find(9).summary_stats.ra = RIGHT.ra
    before.find(11).summary_stats.ra = np.nan
    result = run(
        configure(photo_calib_provider="tract"),
        input_summary=before,
        sky_map=SKY_MAP,
        photo_calib_overrides_tract={
            RIGHT.id: external_calib(zero_point=29.0),
            LEFT.id: external_calib(zero_point=28.0),
        },
    )
    assert zero_points(result) == [28.0, 29.0, 28.0 if LEFT.id < RIGHT.id else 29.0]


@pytest.mark.parametrize("order", [0, 3, 7])
def test_the_nearest_healpix_pixel(order: int) -> None:
    nside = 2**order
    pixels = hpgeom.query_circle(nside, 150.0, 2.0, 1.0, inclusive=True, nest=True)
    pixels = np.unique([*pixels, *hpgeom.neighbors(nside, pixels, nest=True).ravel()])
    calibs = {int(p): external_calib(zero_point=25 + i / 100) for i, p in enumerate(pixels[pixels >= 0])}
    result = run(configure(photo_calib_provider=f"healpix{order}"), photo_calib_overrides_healpix=calibs)
    for i, record in enumerate(result):
        ra, dec = hpgeom.pixel_to_angle(nside, np.array(list(calibs)), nest=True)
        position = np.radians([150.0 + STEP * i, 2.0])
        cosine = np.sin(np.radians(dec)) * np.sin(position[1]) + np.cos(np.radians(dec)) * np.cos(
            position[1]
        ) * np.cos(np.radians(ra) - position[0])
        nearest = list(calibs)[int(np.argmax(cosine))]
        assert record.photo_calib == calibs[nearest].find(record.detector).photo_calib
        assert record.calibration_sources["photo_calib"] == f"healpix{order} {nearest} fgcmPhotoCalibCatalog"


# In a data repository --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with one visit of three detectors that lies across the border of two tracts."""
    root = tmp_path_factory.mktemp("visit") / "repo"
    make_repository(root).close()
    with Butler.from_config(str(root), writeable=True, run="input") as butler:
        register_sky_map(SKY_MAP, butler, "rings", tracts=[LEFT.id, RIGHT.id])
        register_visit(butler)
        for name, storage_class, dimensions in (
            ("visitSummary", "VisitSummary", ()),
            ("finalized_psf_ap_corr_catalog", "VisitSummary", ()),
            ("finalized_src_table", "ArrowAstropy", ()),
            ("globalSkyWcsCatalog", "VisitSummary", ()),
            ("globalPhotoCalibCatalog", "VisitSummary", ()),
            ("tractSkyWcsCatalog", "VisitSummary", ("tract",)),
            ("tractPhotoCalibCatalog", "VisitSummary", ("tract",)),
            ("hpxSkyWcsCatalog", "VisitSummary", ("healpix3",)),
            ("calexp", "VisitImage", ("detector",)),
            ("calexpBackground", "BackgroundMap", ("detector",)),
            ("skyCorr", "BackgroundMap", ("detector",)),
        ):
            register(butler, name, storage_class, dimensions)
        put_inputs(butler)
    return root


def register(butler: Butler, name: str, storage_class: str, dimensions: tuple[str, ...]) -> None:
    """Register a dataset type of a visit with some more dimensions."""
    butler.registry.registerDatasetType(
        DatasetType(name, ("instrument", "visit", *dimensions), storage_class, universe=butler.dimensions)
    )


def regions() -> list[ConvexPolygon]:
    """Return the regions of the sky that the detectors see."""
    x, y = box_corners(BBOX)
    corners = [projection(d, ra=RA).pixel_to_sky(x=x, y=y) for d in DETECTORS]
    return [corner_polygon(sky.ra.deg, sky.dec.deg) for sky in corners]


def register_visit(butler: Butler) -> None:
    """Insert what the middleware wants to know of the visit."""
    insert = butler.registry.insertDimensionData
    insert("instrument", {"name": "TestCam", "visit_max": 999, "exposure_max": 999, "detector_max": 20})
    insert("day_obs", {"instrument": "TestCam", "id": 20260101})
    insert("physical_filter", {"instrument": "TestCam", "name": "test_r", "band": "r"})
    for detector in DETECTORS:
        insert("detector", {"instrument": "TestCam", "id": detector, "full_name": f"D{detector}"})
    hull = ConvexPolygon.convexHull([vertex for region in regions() for vertex in region.getVertices()])
    labels = {"instrument": "TestCam", "physical_filter": "test_r", "day_obs": 20260101}
    insert("visit", labels | {"id": VISIT, "name": "one", "region": hull})
    for detector, region in zip(DETECTORS, regions(), strict=True):
        insert(
            "visit_detector_region",
            {"instrument": "TestCam", "visit": VISIT, "detector": detector, "region": region},
        )


def put_inputs(butler: Butler) -> None:
    """Store everything that any of the providers reads; detector 11 has no image and no backgrounds."""
    data_id = {"instrument": "TestCam", "visit": VISIT}
    butler.put(first_pass(ra=RA), "visitSummary", data_id)
    butler.put(characterization(), "finalized_psf_ap_corr_catalog", data_id)
    butler.put(stars(ra=RA), "finalized_src_table", data_id)
    butler.put(external_wcs(shift=0.1), "globalSkyWcsCatalog", data_id)
    butler.put(external_calib(zero_point=27.5), "globalPhotoCalibCatalog", data_id)
    for tract, shift, zero_point in ((LEFT.id, 0.2, 28.0), (RIGHT.id, 0.3, 29.0)):
        where = data_id | {"skymap": "rings", "tract": tract}
        butler.put(external_wcs(shift=shift), "tractSkyWcsCatalog", where)
        butler.put(external_calib(zero_point=zero_point), "tractPhotoCalibCatalog", where)
    butler.put(external_wcs((4, 11), shift=0.4), "hpxSkyWcsCatalog", data_id | {"healpix3": healpix()})
    for detector in DETECTORS[:2]:
        image = make_visit_image(
            x0=BBOX.x.start, y0=BBOX.y.start, width=BBOX.x.size, height=BBOX.y.size, visit=VISIT,
            detector=detector,
        )  # fmt: skip
        level = PhotoCalib(3.0).to_field(BBOX, image.unit)
        where = data_id | {"detector": detector}
        butler.put(image, "calexp", where)
        butler.put(make_background(level), "calexpBackground", where)
        butler.put(make_background(level), "skyCorr", where)


def healpix() -> int:
    """Return the pixel that the first detector lies in."""
    return int(hpgeom.angle_to_pixel(8, RA, 2.0, nest=True))


def execute(
    root: Path, output: str, where: str = "", inputs: Sequence[str] = ("input", "skymaps"), **values: object
) -> tuple[VisitSummary, SimpleNamespace]:
    """Run the task on the visit and return its output, and what it read."""
    config = configure(**{key: v for key, v in values.items() if key.endswith("provider")})
    for key in ("skyWcsName", "photoCalibName"):
        if key in values:
            setattr(config.connections, key, values[key])
    butler = SimplePipelineExecutor.prep_butler(str(root), inputs=inputs, output=output)
    executor = SimplePipelineExecutor.from_task_class(
        UpdateVisitSummaryTask, config=config, where=f"instrument = 'TestCam' {where}", butler=butler
    )
    (quantum,) = executor.run(register_dataset_types=True)
    executor.butler.registry.refresh()
    result = executor.butler.get("finalVisitSummary", instrument="TestCam", visit=VISIT)
    executor.butler.close()
    return result, quantum.inputs


def test_global_wcs_and_calibrations_by_tract(repository: Path) -> None:
    result, inputs = execute(
        repository,
        "one",
        "AND skymap = 'rings'",
        wcs_provider="global",
        photo_calib_provider="tract",
        skyWcsName="global",
        photoCalibName="tract",
    )
    assert zero_points(result) == [28.0, 28.0, 29.0]
    for record in result:
        shift = record.sky_projection.pixel_to_sky(x=200.0, y=150.0).dec.arcsec
        shift -= projection(record.detector).pixel_to_sky(x=200.0, y=150.0).dec.arcsec
        assert shift == pytest.approx(0.1, abs=1e-6)
        assert record.calibration_sources["sky_projection"] == "global globalSkyWcsCatalog"
        assert record.summary_stats.magLim > 20
    assert result.find(4).calibration_sources["photo_calib"] == f"tract {LEFT.id} tractPhotoCalibCatalog"
    assert len(inputs["calexp"]) == 2
    assert "skyCorr" not in inputs


def test_wcs_by_tract_and_global_calibration(repository: Path) -> None:
    result, inputs = execute(
        repository,
        "two",
        "AND skymap = 'rings'",
        wcs_provider="tract",
        photo_calib_provider="global",
        skyWcsName="tract",
        photoCalibName="global",
    )
    decs = [record.summary_stats.dec for record in result]
    np.testing.assert_allclose(decs, 2.0 + np.array([0.2, 0.2, 0.3]) / 3600, atol=1e-9)
    assert zero_points(result) == [27.5] * 3
    assert len(inputs["tractSkyWcsCatalog"]) == 2


def test_wcs_by_healpix_and_other_backgrounds(repository: Path) -> None:
    result, _ = execute(
        repository, "three", wcs_provider="healpix3", background_provider="replacement", skyWcsName="hpx"
    )
    source = f"healpix3 {healpix()} hpxSkyWcsCatalog"
    assert [record.calibration_sources.get("sky_projection") for record in result] == [source, None, source]
    assert [record.summary_stats.skyBg for record in result] == pytest.approx([6.0, 6.0, np.nan], nan_ok=True)
    assert result.find(4).summary_stats.skyNoise == pytest.approx(10.0, rel=0.03)
    assert result.find(11).summary_stats.psfSigma > 0


def test_calibrations_stored_as_the_documentation_says(repository: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "tasks" / "update_visit_summary.md"
    (code,) = re.findall(r"## External calibrations.*?```python\n(.*?)```", page.read_text(), re.DOTALL)
    with Butler.from_config(str(repository), writeable=True) as butler:
        names = {"butler": butler, "instrument": "TestCam", "visit": VISIT}
        exec(code, names | {"zero_points": {4: (26.5, 0.01), 9: (26.25, 0.02)}})
    result, _ = execute(
        repository,
        "documented",
        inputs=["input", "calibrations/myfit"],
        photo_calib_provider="global",
        photoCalibName="myfit",
    )
    assert [r.photo_calib and r.photo_calib.zero_point for r in result] == pytest.approx([26.5, 26.25, None])


def test_a_visit_without_fits(repository: Path) -> None:
    """By HEALPix pixel its detectors go without; in the other cases there is nothing to do for it."""
    names = {"global": "noneGlobal", "tract": "noneTract", "healpix3": "noneHealpix"}
    with Butler.from_config(str(repository), writeable=True) as butler:
        for name, dimensions in zip(names.values(), ((), ("tract",), ("healpix3",)), strict=True):
            register(butler, f"{name}SkyWcsCatalog", "VisitSummary", dimensions)
    result, inputs = execute(repository, "none", wcs_provider="healpix3", skyWcsName="noneHealpix")
    assert [record.sky_projection for record in result] == [None] * 3
    assert not inputs["noneHealpixSkyWcsCatalog"]
    for provider, where in (("global", ""), ("tract", "AND skymap = 'rings'")):
        output = f"none_{provider}"
        with pytest.raises(ValueError, match="expected 1, got 0"):  # no quantum
            execute(repository, output, where, wcs_provider=provider, skyWcsName=names[provider])


def test_tracts_of_two_sky_maps() -> None:
    """Which of them is meant is for the user to say."""

    class Quantum:
        def get(self, refs: object) -> dict[str, Any]:
            """Return the inputs."""
            return {"sky_map": [SKY_MAP, SKY_MAP]}

    refs = SimpleNamespace(sky_map=[SimpleNamespace(dataId={"skymap": name}) for name in ("rings", "other")])
    task = UpdateVisitSummaryTask(config=configure(wcs_provider="tract"))
    with pytest.raises(ValueError, match=r"one sky map, found those of \['other', 'rings'\]"):
        task.runQuantum(Quantum(), refs, None)  # type: ignore[arg-type]
