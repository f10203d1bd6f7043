from __future__ import annotations

import logging
import math

import astropy.table
import numpy as np
import pytest
from lsst.images import ObservationSummaryStats
from lsst.images.fields import ChebyshevField
from lsst.images.psfs import GaussianPointSpreadFunction
from lsst.pex.config import FieldValidationError

from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary
from secondlight.tasks.update_visit_summary import UpdateVisitSummaryConfig, UpdateVisitSummaryTask
from tests.scenes import make_sky_projection, make_visit_image

VISIT = 321
IMAGE = make_visit_image(visit=VISIT)


def make_input() -> VisitSummary:
    records = [
        DetectorSummary(
            detector,
            bbox=IMAGE.bbox,
            psf=IMAGE.psf,
            aperture_corrections={},
            sky_projection=IMAGE.sky_projection,
            photo_calib=PhotoCalib(10.0),
            obs_info=IMAGE.obs_info,
            summary_stats=ObservationSummaryStats(psfSigma=9.0, skyBg=5.0, starEMedian=0.5, zeroPoint=27.0),
        )
        for detector in (4, 9, 11)
    ]
    return VisitSummary(VISIT, records, instrument="TestCam", band="r", physical_filter="test_r")


def make_overrides() -> VisitSummary:
    """Final PSF and aperture corrections of detector 4, the PSF only of 9, nothing of 11."""
    psf = GaussianPointSpreadFunction(1.7, bounds=IMAGE.bbox, stamp_size=31)
    field = ChebyshevField(IMAGE.bbox, np.array([[1.0, 0.1]]))
    return VisitSummary(
        VISIT,
        [
            DetectorSummary(4, psf=psf, aperture_corrections={"base_PsfFlux_instFlux": field}),
            DetectorSummary(9, psf=psf),
        ],
    )


def make_stars() -> astropy.table.Table:
    rng = np.random.default_rng(2)
    n = 8
    table = astropy.table.Table({"detector": np.full(n, 4)})
    table["calib_psf_used"] = np.arange(n) < 6
    table["slot_Centroid_x"] = rng.uniform(10, 190, n)
    table["slot_Centroid_y"] = rng.uniform(10, 170, n)
    for name in ("slot_Shape", "slot_PsfShape"):
        for suffix, value in (("xx", 2.9), ("yy", 2.8), ("xy", 0.1)):
            table[f"{name}_{suffix}"] = value
    table["slot_Shape_flag"] = False
    table["slot_PsfFlux_flag"] = False
    table["slot_PsfFlux_instFlux"] = 1e4
    table["slot_PsfFlux_instFluxErr"] = 100.0
    return table


def run(config: UpdateVisitSummaryConfig | None = None, **extra: VisitSummary) -> VisitSummary:
    task = UpdateVisitSummaryTask(config=config)
    overrides = make_overrides()
    return task.run(
        input_summary=make_input(),
        psf_overrides=overrides,
        ap_corr_overrides=overrides,
        psf_star_catalog=make_stars(),
        **extra,
    ).output_summary


def test_replaces_psf_and_aperture_corrections(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = run()
    assert result.detectors == [4, 9, 11]
    assert (result.visit, result.instrument, result.band) == (VISIT, "TestCam", "r")
    four, nine, eleven = result
    assert four.psf.sigma == 1.7
    assert set(four.aperture_corrections) == {"base_PsfFlux_instFlux"}
    assert nine.psf.sigma == 1.7
    assert nine.aperture_corrections is None
    assert eleven.psf is None
    assert eleven.aperture_corrections is None
    assert "Detector 9 has no final aperture corrections" in caplog.text
    assert "Detector 11 has no final PSF" in caplog.text
    for record in result:
        assert record.photo_calib == PhotoCalib(10.0)
        assert record.sky_projection == IMAGE.sky_projection
        assert record.summary_stats.skyBg == 5.0


def test_statistics_of_the_psf_are_those_of_the_new_one() -> None:
    four, nine, eleven = (record.summary_stats for record in run())
    assert four.psfSigma == pytest.approx(1.7, rel=1e-3)
    assert four.nPsfStar == 6
    assert four.starEMedian == pytest.approx(math.hypot(0.1, 0.2) / 5.7)
    assert four.psfStarDeltaSizeMedian == 0
    assert four.psfApCorrSigmaScaledDelta > 0
    assert four.maxDistToNearestPsf > 0
    assert nine.psfSigma == pytest.approx(1.7, rel=1e-3)
    assert nine.nPsfStar == 0
    assert math.isnan(nine.starEMedian)
    assert math.isnan(eleven.psfSigma)
    assert math.isnan(eleven.starEMedian)


def test_the_input_is_left_alone() -> None:
    summary, overrides = make_input(), make_overrides()
    UpdateVisitSummaryTask().run(
        input_summary=summary,
        psf_overrides=overrides,
        ap_corr_overrides=overrides,
        psf_star_catalog=make_stars(),
    )
    assert summary.find(4).summary_stats.psfSigma == 9.0
    assert summary.find(4).psf is IMAGE.psf


def test_wcs_and_photo_calib_of_a_global_fit(caplog: pytest.LogCaptureFixture) -> None:
    config = UpdateVisitSummaryConfig()
    config.wcs_provider = "global"
    config.photo_calib_provider = "global"
    config.wcs_consistency_threshold = 0.5
    near = make_sky_projection(IMAGE.bbox, visit=VISIT, dec=2.0 + 0.1 / 3600)
    far = make_sky_projection(IMAGE.bbox, visit=VISIT, dec=2.0 + 1.0 / 3600)
    wcs = VisitSummary(
        VISIT, [DetectorSummary(4, sky_projection=near), DetectorSummary(9, sky_projection=far)]
    )
    calib = VisitSummary(VISIT, [DetectorSummary(4, photo_calib=PhotoCalib.from_zero_point(28.0))])
    with caplog.at_level(logging.WARNING):
        four, nine, eleven = run(config, wcs_overrides_global=wcs, photo_calib_overrides_global=calib)
    assert four.sky_projection == near
    assert four.calibration_sources == {
        "psf": "finalized_psf_ap_corr_catalog",
        "aperture_corrections": "finalized_psf_ap_corr_catalog",
        "sky_projection": "global gbdesAstrometricFitSkyWcsCatalog",
        "photo_calib": "global fgcmPhotoCalibCatalog",
        "background": "input_summary visitSummary",
    }
    assert four.summary_stats.dec == pytest.approx(2.0 + 0.1 / 3600, abs=1e-8)
    assert four.summary_stats.zeroPoint == pytest.approx(28.0)
    assert nine.sky_projection is None
    assert math.isnan(nine.summary_stats.dec)
    assert "moved by 1.00 arcsec" in caplog.text
    assert eleven.sky_projection is None
    assert eleven.photo_calib is None
    assert math.isnan(eleven.summary_stats.zeroPoint)
    with pytest.raises(ValueError, match="wcs_overrides_global was not given"):
        run(config)


def test_providers() -> None:
    config = UpdateVisitSummaryConfig()
    with pytest.raises(FieldValidationError, match=r"healpix30.*\n*.*input_summary"):
        config.wcs_provider = "healpix30"
    names = set(config.connections.ConnectionsClass(config=config).inputs)
    always = {"input_summary", "input_exposures", "psf_overrides", "ap_corr_overrides", "psf_star_catalog"}
    assert names == always
    config.wcs_provider = "global"
    config.photo_calib_provider = "tract"
    names = set(config.connections.ConnectionsClass(config=config).inputs)
    assert names == always | {"wcs_overrides_global", "photo_calib_overrides_tract", "sky_map"}
    config.wcs_provider = "healpix5"
    config.photo_calib_provider = "healpix3"
    config.background_provider = "replacement"
    connections = config.connections.ConnectionsClass(config=config)
    assert set(connections.inputs) == always | {
        "wcs_overrides_healpix", "photo_calib_overrides_healpix", "background_originals",
        "background_overrides",
    }  # fmt: skip
    assert set(connections.wcs_overrides_healpix.dimensions) == {"instrument", "visit", "healpix5"}
    assert set(connections.photo_calib_overrides_healpix.dimensions) == {"instrument", "visit", "healpix3"}


def test_wrong_visit() -> None:
    with pytest.raises(ValueError, match="psf_overrides is of visit 5, expected visit 321"):
        UpdateVisitSummaryTask().run(
            input_summary=make_input(),
            psf_overrides=VisitSummary(5),
            ap_corr_overrides=VisitSummary(5),
            psf_star_catalog=make_stars(),
        )
