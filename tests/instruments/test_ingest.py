"""Ingest into a repository: whole or not at all, once, and every defect named."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from lsst.daf.butler import Butler
from lsst.pipe.base import Instrument

from secondlight.catalog.ids import DetectorVisitIdGeneratorConfig
from secondlight.instruments.decam import DecamCp
from secondlight.instruments.files import InputFileError
from secondlight.instruments.ingest import AlreadyIngestedError, ingest
from secondlight.instruments.repository import make_repository
from secondlight.instruments.sdss import SdssImager
from tests.instruments.files import camera, write_image


@pytest.fixture
def butler(tmp_path) -> Butler:
    return make_repository(tmp_path / "repo")


@pytest.fixture
def folder(tmp_path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    return images


def contents(butler: Butler) -> tuple[int, int, int, int]:
    """Return the numbers of visits, exposures, images and stored files."""
    known = [t.name for t in butler.registry.queryDatasetTypes("postISRCCD")]
    return (
        len(butler.query_dimension_records("visit", explain=False)),
        len(butler.query_dimension_records("exposure", explain=False)),
        sum(len(butler.query_datasets(t, collections="*", find_first=False, explain=False)) for t in known),
        len(list(Path(butler._config.configDir.ospath).rglob("*.fits"))),
    )


def test_a_visit_of_two_detectors(butler, folder):
    for detector in (1, 2):
        write_image(folder, detector=detector)
    report = ingest(butler, camera(), [folder])
    assert [(f.visit, f.detector) for f in report.ingested] == [(7, 1), (7, 2)]
    assert contents(butler) == (1, 1, 2, 2)
    visit = butler.query_dimension_records("visit", instrument="MyCam")[0]
    assert visit.day_obs == 20240229
    assert visit.exposure_time == 20.0
    regions = butler.query_dimension_records("visit_detector_region", instrument="MyCam")
    assert len(regions) == 2
    for record in regions:
        assert visit.region.contains(record.region)
    assert len(butler.query_dimension_records("visit_definition", instrument="MyCam")) == 1


def test_a_detector_that_comes_later_enlarges_the_visit(butler, folder):
    ingest(butler, camera(), [write_image(folder, detector=1)])
    small = butler.query_dimension_records("visit", instrument="MyCam")[0].region
    ingest(butler, camera(), [write_image(folder, detector=2)])
    large = butler.query_dimension_records("visit", instrument="MyCam")[0].region
    assert large.contains(small)
    assert not small.contains(large)
    assert len(butler.query_dimension_records("visit_detector_region", instrument="MyCam")) == 2


def test_second_ingest_is_skipped_with_a_message(butler, folder, caplog):
    path = write_image(folder)
    ingest(butler, camera(), [path])
    with caplog.at_level(logging.WARNING):
        report = ingest(butler, camera(), [path], run="elsewhere")
    assert report.ingested == []
    assert [f.path for f in report.skipped] == [path]
    assert "v7_d1_sci.fits" in caplog.text
    assert "MyCam/images already" in caplog.text
    assert contents(butler) == (1, 1, 1, 1)
    with pytest.raises(AlreadyIngestedError, match=r"visit 7 detector 1 \(v7_d1_sci.fits\) is in collection"):
        ingest(butler, camera(), [path], fail_on_existing=True)


def test_a_visit_with_a_broken_detector_leaves_nothing_and_can_be_repeated(butler, folder):
    write_image(folder, detector=1)
    broken = write_image(folder, detector=2)
    weight = broken.with_name("v7_d2_wht.fits")
    kept = weight.read_bytes()
    weight.unlink()
    with pytest.raises(InputFileError, match=r"v7_d2_sci.fits: its weight map v7_d2_wht.fits is missing"):
        ingest(butler, camera(), [folder])
    assert contents(butler) == (0, 0, 0, 0)
    assert not list(butler.query_dimension_records("visit_detector_region", explain=False))
    weight.write_bytes(kept)
    assert len(ingest(butler, camera(), [folder]).ingested) == 2
    assert contents(butler) == (1, 1, 2, 2)


def test_earlier_visits_stay_when_a_later_one_fails(butler, folder):
    write_image(folder, visit=7)
    write_image(folder, visit=8).with_name("v8_d1_wht.fits").unlink()
    with pytest.raises(InputFileError, match="v8_d1"):
        ingest(butler, camera(), [folder])
    assert contents(butler) == (1, 1, 1, 1)


def test_wcs_without_celestial_axes(butler, folder):
    path = write_image(folder, celestial=False)
    with pytest.raises(InputFileError, match=r"v7_d1_sci.fits: .*celestial axes; its axes are WAVE, SLIT"):
        ingest(butler, camera(), [path])
    assert contents(butler) == (0, 0, 0, 0)


@pytest.mark.parametrize("which", ["_sci", "_wht"])
def test_file_truncated_half_way(butler, folder, which):
    path = write_image(folder)
    broken = path.with_name(path.name.replace("_sci", which))
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(InputFileError, match=rf"v7_d1{which}.fits: .*truncated"):
        ingest(butler, camera(), [path])
    assert contents(butler) == (0, 0, 0, 0)


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["fpC-004192-r4-0300.fit.gz", "fpM-004192-r4-0300.fit", "psField-004192-4-0300.fit"]
)
def test_truncated_sdss_file(butler, folder, data_dir, name):
    for pattern in ("fpC-*-r4-0300.fit.gz", "fpM-*-r4-0300.fit", "psField-*.fit", "tsField-*.fit"):
        source = next((data_dir / "sdss_stripe82" / "4192").rglob(pattern))
        data = source.read_bytes()
        (folder / source.name).write_bytes(data[: len(data) // 2] if source.name == name else data)
    with pytest.raises(InputFileError, match=rf"{name}: .*truncated"):
        ingest(butler, SdssImager(), [folder])
    assert contents(butler) == (0, 0, 0, 0)


@pytest.mark.realdata
@pytest.mark.parametrize("absent", ["fpM", "psField", "tsField"])
def test_sdss_companion_is_missing(butler, folder, data_dir, absent):
    for kind in {"fpC-*-r4", "fpM-*-r4", "psField", "tsField"} - {absent, f"{absent}-*-r4"}:
        source = next((data_dir / "sdss_stripe82" / "4192").rglob(f"{kind}-*"))
        shutil.copy(source, folder)
    with pytest.raises(InputFileError, match=rf"fpC-004192-r4-0300.fit.gz: there is no {absent}-004192-"):
        ingest(butler, SdssImager(), [folder])
    assert contents(butler) == (0, 0, 0, 0)


@pytest.mark.realdata
def test_decam_weight_map_is_missing(butler, folder, data_dir):
    for path in (data_dir / "decam_cp" / "testcase8" / "images").rglob("*_oo[id]_*"):
        shutil.copy(path, folder)
    with pytest.raises(InputFileError, match=r"_ooi_r_ls9.N6.fits: its weight map c4d_.*_oow_r_ls9.N6.fits"):
        ingest(butler, DecamCp(), [folder])
    assert contents(butler) == (0, 0, 0, 0)


def test_nothing_found(butler, folder):
    with pytest.raises(InputFileError, match="no images of MyCam"):
        ingest(butler, camera(), [folder])
    with pytest.raises(InputFileError, match="no such file or folder"):
        ingest(butler, camera(), [folder / "absent"])


def test_the_middleware_finds_a_generic_instrument_by_name(butler, folder):
    ingest(butler, camera(), [write_image(folder)])
    instrument = Instrument.fromName("MyCam", butler.registry)
    assert instrument.getName() == "MyCam"
    assert type(instrument) is type(camera())
    data_id = butler.registry.expandDataId(instrument="MyCam", visit=7, detector=1)
    assert DetectorVisitIdGeneratorConfig().apply(data_id).counter_bits == 18
    with pytest.raises(ValueError, match="a description of its files is needed"):
        ingest(butler, instrument, [folder])
