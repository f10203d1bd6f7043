"""Exact round trips of our types through a Butler repository, and identifiers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lsst.daf.butler import Butler, Config, DatasetType
from lsst.images import ObservationSummaryStats
from lsst.images.serialization import read_archive, write_archive
from lsst.resources import ResourcePath

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.mask_planes import ensure_planes, mask_of, plane_name
from secondlight.catalog.photo_calib import AB_FLUX_NJY, PhotoCalib
from secondlight.catalog.visit_image import replace_components
from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary

from ..scenes import make_visit_image
from .test_footprints import stack
from .test_source_catalog import make_catalog


@pytest.fixture
def butler(tmp_path: Path) -> Iterator[Butler]:
    config = Config(ResourcePath("resource://secondlight/configs/butler.yaml"))
    Butler.makeRepo(str(tmp_path / "repo"), config=config)
    butler = Butler.from_config(str(tmp_path / "repo"), run="test")
    yield butler
    butler.close()


def round_trip(butler: Butler, storage_class: str, dataset: object) -> object:
    dataset_type = DatasetType(f"a_{storage_class}", (), storage_class, universe=butler.dimensions)
    butler.registry.registerDatasetType(dataset_type)
    butler.put(dataset, dataset_type)
    return butler.get(dataset_type)


def test_footprints(butler: Butler) -> None:
    footprints = stack()
    assert round_trip(butler, "FootprintsV2", footprints) == footprints


def test_source_catalog(butler: Butler) -> None:
    catalog = make_catalog()
    again = round_trip(butler, "SourceCatalogV2", catalog)
    assert again.schema == catalog.schema
    assert again.footprints == catalog.footprints
    np.testing.assert_array_equal(again["slot_Centroid_x"], catalog["slot_Centroid_x"])


def test_visit_summary(butler: Butler) -> None:
    image = make_visit_image()
    calib = PhotoCalib.from_zero_point(27.5, 0.01)
    full = DetectorSummary(
        4,
        bbox=image.bbox,
        psf=image.psf,
        aperture_corrections={"base_PsfFlux_instFlux": calib.to_field(image.bbox, image.unit)},
        sky_projection=image.sky_projection,
        photo_calib=calib,
        valid_polygon=image.bbox.to_polygon(),
        obs_info=image.obs_info,
        summary_stats=ObservationSummaryStats(psfSigma=1.5),
        calibration_sources={"psf": "calexp", "photo_calib": "initial_photoCalib_detector"},
    )
    summary = VisitSummary(100, [full, DetectorSummary(2)], instrument="TestCam", band="r", comment="two")
    again = round_trip(butler, "VisitSummary", summary)
    assert (again.visit, again.instrument, again.band, again.comment) == (100, "TestCam", "r", "two")
    assert again.detectors == [2, 4]
    assert again.find(2) == DetectorSummary(2)
    assert again.find(7) is None
    assert again.find(4) == full


def test_visit_summary_of_one_detector(butler: Butler) -> None:
    records = [DetectorSummary(number, photo_calib=PhotoCalib(1.0 + number)) for number in range(3)]
    round_trip(butler, "VisitSummary", VisitSummary(100, records, band="r"))
    for wanted, found in ((1, [1]), (7, [])):
        again = butler.get("a_VisitSummary", parameters={"detector": wanted})
        assert (again.visit, again.band, again.detectors) == (100, "r", found)
    assert butler.get("a_VisitSummary", parameters={"detector": 1}).find(1) == records[1]


@pytest.mark.parametrize("extension", ["fits", "json"])
def test_visit_summary_keeps_what_is_not_a_number(tmp_path: Path, extension: str) -> None:
    path = str(tmp_path / f"summary.{extension}")
    write_archive(VisitSummary(100, [DetectorSummary(4, summary_stats=ObservationSummaryStats())]), path)
    record = read_archive(path, VisitSummary).find(4)
    assert record is not None
    assert record.summary_stats is not None
    assert np.isnan(record.summary_stats.psfSigma)


def test_visit_summary_from_before_records_were_apart(tmp_path: Path) -> None:
    record = DetectorSummary(4, photo_calib=PhotoCalib(3.0), calibration_sources={"photo_calib": "somewhere"})
    path = tmp_path / "summary.json"
    write_archive(VisitSummary(100, [record]), str(path))
    text = json.loads(path.read_text())
    (old,) = text.pop("indirect")
    del old["calibration_sources"]
    text |= {"records": [old], "detectors": {}, "schema_version": "1.0.0", "min_read_version": 1}
    path.write_text(json.dumps(text))
    again = read_archive(str(path), VisitSummary)
    assert again.find(4) == DetectorSummary(4, photo_calib=PhotoCalib(3.0))


def test_visit_summary_refuses_a_detector_twice() -> None:
    with pytest.raises(ValueError, match="Visit 5: detector 3 appears twice"):
        VisitSummary(5, [DetectorSummary(3), DetectorSummary(3)])


@pytest.mark.parametrize("calib", [PhotoCalib(12.3, 0.4), None])
def test_photo_calib(butler: Butler, calib: PhotoCalib | None) -> None:
    image = make_visit_image()
    if calib is None:
        field = PhotoCalib(3.0).to_field(image.bbox, image.unit)
        calib = PhotoCalib(3.0, 0.1, field)
    assert round_trip(butler, "PhotoCalibV2", calib) == calib


def test_zero_point_inverts() -> None:
    calib = PhotoCalib.from_zero_point(28.1)
    assert calib.zero_point == pytest.approx(28.1, abs=1e-12)
    np.testing.assert_allclose(AB_FLUX_NJY, 3.630780547701e12, rtol=1e-12)
    assert PhotoCalib(1.0).zero_point == pytest.approx(31.4, abs=1e-3)


def test_visit_image_keeps_calibrations(butler: Butler) -> None:
    image = make_visit_image(x=[50], y=[60], flux=[1e4])
    calib = PhotoCalib(12.3).to_field(image.bbox, image.unit)
    attached = replace_components(image, photometric_scaling=calib, metadata={"WHO": "test"})
    assert np.shares_memory(attached.image.array, image.image.array)
    again = round_trip(butler, "VisitImage", attached)
    np.testing.assert_array_equal(again.image.array, image.image.array)
    assert again.photometric_scaling == calib
    assert again.metadata["WHO"] == "test"
    assert again.psf == image.psf


def test_ids() -> None:
    generator = IdGenerator(5, 19)
    assert generator.row_ids(3).tolist() == [(5 << 19) + k for k in (1, 2, 3)]
    assert generator.row_ids(1, start=10).tolist() == [(5 << 19) + 10]
    with pytest.raises(OverflowError, match="524288 rows"):
        generator.row_ids(1 << 19)


def test_mask_planes_by_either_name() -> None:
    mask = make_visit_image().mask
    mask.set("SATURATED", np.eye(180, 200, dtype=bool))
    assert mask_of(mask, ["SAT"]).sum() == mask_of(mask, ["SATURATED", "CR"]).sum() == 180
    assert plane_name("CR") == "COSMIC_RAY"
    with pytest.raises(KeyError, match="no plane STREAK"):
        mask_of(mask, ["STREAK"])
    assert not mask_of(mask, ["STREAK"], missing_ok=True).any()
    assert ensure_planes(mask, ["SAT"]) is mask
    extended = ensure_planes(mask, ["STREAK"])
    assert mask_of(extended, ["SAT"]).sum() == 180


def test_empty_footprints_of_an_empty_catalog(butler: Butler) -> None:
    catalog = make_catalog()[:0]
    again = round_trip(butler, "SourceCatalogV2", catalog)
    assert len(again) == 0
    assert again.footprints == Footprints.empty()
