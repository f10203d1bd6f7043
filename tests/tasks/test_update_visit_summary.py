from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from lsst.images import VisitImage
from lsst.images.fields import ChebyshevField
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import InMemoryDatasetHandle

from secondlight.background.fields import make_background
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.visit_summary import DetectorSummary
from secondlight.photometry.depth import effective_time_scales, limiting_magnitude
from secondlight.tasks.update_visit_summary import UpdateVisitSummaryConfig
from tests.scenes import make_visit_image

from .visit_summary_scenes import (
    BBOX,
    DETECTORS,
    VISIT,
    characterization,
    external_calib,
    external_wcs,
    first_pass,
    projection,
    run,
    stars,
    summary_of,
)

PIECES = ("psf", "aperture_corrections", "sky_projection", "photo_calib")
FINALIZED = "finalized_psf_ap_corr_catalog"


def with_providers(**values: object) -> UpdateVisitSummaryConfig:
    config = UpdateVisitSummaryConfig()
    for name, value in values.items():
        setattr(config, name, value)
    return config


# What becomes of the calibrations ------------------------------------------------------------------------


def test_final_psf_and_aperture_corrections_replace_those_of_the_first_pass() -> None:
    before = first_pass()
    result = run(input_summary=before)
    assert result.detectors == list(DETECTORS)
    assert (result.visit, result.instrument, result.band) == (VISIT, "TestCam", "r")
    assert result.physical_filter == "test_r"
    for old, new in zip(before, result, strict=True):
        assert new.psf.sigma == pytest.approx(1.5 + 0.01 * new.detector)
        assert set(new.aperture_corrections) == {"base_PsfFlux_instFlux"}
        assert new.sky_projection is old.sky_projection
        assert new.photo_calib is old.photo_calib
        assert new.bbox == old.bbox
        assert new.obs_info is old.obs_info
        kept = "input_summary visitSummary"
        assert new.calibration_sources == {
            "psf": FINALIZED, "aperture_corrections": FINALIZED,
            "sky_projection": kept, "photo_calib": kept, "background": kept,
        }  # fmt: skip


def test_the_input_is_left_alone() -> None:
    before = first_pass()
    run(input_summary=before)
    assert before.find(4).summary_stats == first_pass().find(4).summary_stats
    assert before.find(4).psf.sigma == 3.0
    assert before.find(4).calibration_sources == {"psf": "calexp"}


def test_global_fits() -> None:
    config = with_providers(wcs_provider="global", photo_calib_provider="global")
    result = run(
        config,
        wcs_overrides_global=external_wcs(shift=0.1),
        photo_calib_overrides_global=external_calib(zero_point=28.0),
    )
    for new in result:
        assert new.sky_projection == projection(new.detector, shift=0.1)
        assert new.photo_calib == PhotoCalib.from_zero_point(28.0)
        assert new.calibration_sources["sky_projection"] == "global gbdesAstrometricFitSkyWcsCatalog"
        assert new.calibration_sources["photo_calib"] == "global fgcmPhotoCalibCatalog"
        assert new.summary_stats.dec == pytest.approx(2.0 + 0.1 / 3600, abs=1e-9)
        assert new.summary_stats.zeroPoint == pytest.approx(28.0)


@pytest.mark.parametrize("lost", PIECES)
@pytest.mark.parametrize("moved", [False, True])
def test_each_piece_missing(lost: str, moved: bool, caplog: pytest.LogCaptureFixture) -> None:
    """With the record there, and without a record; the other pieces and detectors are as ever."""
    config = with_providers(wcs_provider="global", photo_calib_provider="global")
    psf, ap_corr = characterization(), characterization()
    wcs, calib = external_wcs(shift=0.0), external_calib(zero_point=28.0)
    summaries = dict(zip(PIECES, (psf, ap_corr, wcs, calib), strict=True))
    if moved:
        kept = [record for record in summaries[lost] if record.detector != 9]
        summaries[lost] = summary_of(kept)
    else:
        setattr(summaries[lost].find(9), lost, None)
    with caplog.at_level(logging.WARNING):
        result = run(
            config,
            psf_overrides=summaries["psf"],
            ap_corr_overrides=summaries["aperture_corrections"],
            wcs_overrides_global=summaries["sky_projection"],
            photo_calib_overrides_global=summaries["photo_calib"],
        )
    for record in result:
        for piece in PIECES:
            missing = (record.detector, piece) == (9, lost)
            assert (getattr(record, piece) is None) is missing
            assert (piece not in record.calibration_sources) is missing
    assert "Detector 9 has no final" in caplog.text
    assert ("nothing of the detectors [9]" in caplog.text) is moved
    stats = result.find(9).summary_stats
    unknown = {
        "psf": ("psfSigma", "psfArea", "starEMedian", "psfTraceRadiusDelta", "maxDistToNearestPsf"),
        "aperture_corrections": ("psfApCorrSigmaScaledDelta",),
        "sky_projection": ("ra", "dec", "pixelScale", "zenithDistance"),
        "photo_calib": ("zeroPoint", "effTimeZeroPointScale"),
    }
    for piece, names in unknown.items():
        for name in names:
            # The range of the aperture correction is in units of the size of the PSF.
            expected = piece == lost or (name == "psfApCorrSigmaScaledDelta" and lost == "psf")
            assert math.isnan(getattr(stats, name)) is expected, name
    assert math.isnan(stats.magLim) is math.isnan(stats.effTime) is (lost in ("psf", "photo_calib"))
    assert math.isfinite(result.find(4).summary_stats.effTime)


def test_everything_missing() -> None:
    config = with_providers(wcs_provider="global", photo_calib_provider="global")
    result = run(
        config,
        input_summary=summary_of([DetectorSummary(d) for d in DETECTORS]),
        psf_overrides=summary_of([]),
        ap_corr_overrides=summary_of([]),
        psf_star_catalog=stars()[:0],
        wcs_overrides_global=summary_of([]),
        photo_calib_overrides_global=summary_of([]),
    )
    assert result.detectors == list(DETECTORS)
    for record in result:
        assert all(getattr(record, piece) is None for piece in PIECES)
        assert record.calibration_sources == {}
        assert record.summary_stats.nPsfStar == 0
        assert all(math.isnan(getattr(record.summary_stats, n)) for n in ("psfSigma", "ra", "magLim"))


def test_a_first_pass_without_statistics() -> None:
    before = first_pass()
    for record in before:
        record.summary_stats = None
    record = run(input_summary=before).find(9)
    stats, sky = record.summary_stats, record.sky_projection
    assert (stats.zeroPoint, stats.expTime) == (pytest.approx(27.0), 30.0)
    assert stats.psfSigma == pytest.approx(1.59, rel=1e-3)
    centre = sky.pixel_to_sky(x=BBOX.x.center, y=BBOX.y.center)
    assert (stats.ra, stats.dec) == pytest.approx((centre.ra.deg, centre.dec.deg))
    assert math.isfinite(stats.effTimeZeroPointScale)
    assert math.isnan(stats.skyBg)
    assert math.isnan(stats.magLim)


def test_bounding_box_from_the_characterization() -> None:
    before = first_pass()
    for detector in DETECTORS[:2]:
        before.find(detector).bbox = None
    overrides = characterization()
    overrides.find(9).bbox = None
    four, nine, _ = run(input_summary=before, psf_overrides=overrides)
    assert four.bbox == BBOX
    assert four.summary_stats.psfSigma == pytest.approx(1.54, rel=1e-3)
    assert nine.bbox is None
    assert nine.psf is not None
    assert math.isnan(nine.summary_stats.psfSigma)


def test_a_calibration_that_is_no_positive_number(caplog: pytest.LogCaptureFixture) -> None:
    calib = external_calib(zero_point=28.0)
    for detector, mean in ((4, 0.0), (9, math.nan)):
        calib.find(detector).photo_calib = PhotoCalib(mean)
    result = run(with_providers(photo_calib_provider="global"), photo_calib_overrides_global=calib)
    assert [record.photo_calib is None for record in result] == [True, True, False]
    assert "calibration of 0.0 nJy per count is of no use" in caplog.text


# Consistency of the sky projection -----------------------------------------------------------------------


def test_a_sky_projection_that_moved_too_far_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    wcs = external_wcs(shift=0.1)
    wcs.find(9).sky_projection = projection(9, shift=1.0)
    config = with_providers(wcs_provider="global", wcs_consistency_threshold=0.5)
    with caplog.at_level(logging.WARNING):
        four, nine, eleven = run(config, wcs_overrides_global=wcs)
    assert four.sky_projection == projection(4, shift=0.1)
    assert nine.sky_projection is None
    assert "sky_projection" not in nine.calibration_sources
    assert math.isnan(nine.summary_stats.dec)
    assert "Detector 9: a corner moved by 1.00 arcsec, more than 0.50" in caplog.text
    assert eleven.sky_projection is not None
    config.wcs_consistency_threshold = 1.01
    assert run(config, wcs_overrides_global=wcs).find(9).sky_projection is not None


def test_the_corners_compared_are_the_outer_ones() -> None:
    """A stretch that moves the outer corners beyond the limit, but not the centres of the corner pixels."""
    stretched = projection(4, stretch=1.01)
    inner_shift, outer_shift = (
        projection(4).pixel_to_sky(x=x, y=y).separation(stretched.pixel_to_sky(x=x, y=y)).arcsec
        for x, y in ((349.0, 269.0), (349.5, 269.5))
    )
    assert inner_shift < outer_shift
    wcs = summary_of([DetectorSummary(4, sky_projection=stretched)])
    for limit, kept in ((0.5 * (inner_shift + outer_shift), False), (outer_shift + 1e-6, True)):
        config = with_providers(wcs_provider="global", wcs_consistency_threshold=float(limit))
        assert (run(config, wcs_overrides_global=wcs).find(4).sky_projection is not None) is kept


def test_without_an_old_sky_projection_there_is_no_limit() -> None:
    before = first_pass()
    before.find(4).sky_projection = None
    config = with_providers(wcs_provider="global", wcs_consistency_threshold=0.5)
    four, nine, _ = run(config, input_summary=before, wcs_overrides_global=external_wcs(shift=2.0))
    assert four.sky_projection is not None
    assert nine.sky_projection is None


# Statistics ------------------------------------------------------------------------------------------------


def test_statistics_of_the_psf_are_those_of_the_new_one() -> None:
    table = stars()
    four = run().find(4).summary_stats
    used = table[(table["detector"] == 4) & table["calib_psf_used"]]
    trace = used["slot_Shape_xx"] + used["slot_Shape_yy"]
    e1 = (used["slot_Shape_xx"] - used["slot_Shape_yy"]) / trace
    e2 = 2 * used["slot_Shape_xy"] / trace
    assert four.psfSigma == pytest.approx(1.54, rel=1e-3)
    assert four.psfArea == pytest.approx(4 * math.pi * 1.54**2, rel=1e-3)
    assert four.nPsfStar == 6
    assert four.starEMedian == pytest.approx(np.median(np.hypot(e1, e2)))
    assert four.psfApCorrSigmaScaledDelta > 0
    assert four.maxDistToNearestPsf > 0
    assert (four.skyBg, four.skyNoise, four.meanVar, four.expTime) == (500.0, 7.0, 50.0, 30.0)


def test_depth_follows_what_changed() -> None:
    config = with_providers(photo_calib_provider="global")
    config.compute_summary_stats.fiducialMagLim["r"] = 24.0
    config.compute_summary_stats.fiducialPsfSigma["r"] = 1.6
    result = run(config, photo_calib_overrides_global=external_calib(zero_point=28.0))
    for record in result:
        stats = record.summary_stats
        expected = limiting_magnitude(
            psf_area=stats.psfArea, sky_background=500.0, zero_point=28.0, read_noise=6.0, gain=2.0
        )
        assert stats.magLim == pytest.approx(expected)
        assert stats.effTime == pytest.approx(30 * 10 ** (0.8 * (expected - 24.0)))
        scales = effective_time_scales(
            psf_sigma=stats.psfSigma, sky_background=500.0, zero_point=28.0, exposure_time=30.0,
            fiducial_psf_sigma=1.6, fiducial_sky_background=1.0, fiducial_zero_point=25.0,
        )  # fmt: skip
        assert stats.effTimePsfSigmaScale == pytest.approx(scales.psf_sigma)
        assert stats.effTimeSkyBgScale == pytest.approx(scales.sky_background)
        assert stats.effTimeZeroPointScale == pytest.approx(scales.zero_point)


def test_electronics_that_the_statistics_do_not_tell(caplog: pytest.LogCaptureFixture) -> None:
    """They come from the image; without one the depth is unknown."""
    before = first_pass()
    for detector in (9, 11):
        before.find(detector).summary_stats.metadata = {}
    image = masked_image(9)
    image.metadata |= {"GAIN": 3.0, "READ_NOISE": 9.0}
    result = run(input_summary=before, input_exposures={9: image})
    _, nine, eleven = (record.summary_stats for record in result)
    assert nine.magLim == pytest.approx(
        limiting_magnitude(
            psf_area=nine.psfArea, sky_background=500.0, zero_point=27.0, read_noise=9.0, gain=3.0
        )
    )
    assert math.isnan(eleven.magLim)
    assert math.isnan(eleven.effTime)
    assert math.isfinite(eleven.effTimeSkyBgScale)
    assert caplog.text.count("gain and read noise are not known") == 1
    assert "Detector 11: gain" in caplog.text


class Components:
    """A handle that hands out components of an image only."""

    def __init__(self, image: VisitImage) -> None:
        self.image = image

    def get(self, *, component: str) -> object:
        """Return a component."""
        return getattr(self.image, component)


def masked_image(detector: int) -> VisitImage:
    """Return an image of which only the left part is good."""
    image = make_visit_image(
        x0=BBOX.x.start,
        y0=BBOX.y.start,
        width=BBOX.x.size,
        height=BBOX.y.size,
        visit=VISIT,
        detector=detector,
    )
    bad = np.zeros(BBOX.shape, dtype=bool)
    bad[:, 100:] = True
    image.mask.set("BAD", bad)
    return image


def test_masks_of_the_images() -> None:
    """Grid statistics look at good pixels only, where there is an image."""
    four, nine, _ = run(input_exposures={4: Components(masked_image(4)), 11: masked_image(11)})
    # Of the grid with step 96, the columns 0 and 96 remain; the field is linear in x.
    field = ChebyshevField(BBOX, np.array([[1.0, 0.1]]))
    expected = field(x=50.0 + 96, y=30.0) - field(x=50.0, y=30.0)
    assert four.summary_stats.psfApCorrSigmaScaledDelta == pytest.approx(
        expected / four.summary_stats.psfSigma
    )
    expected = field(x=50.0 + 288, y=30.0) - field(x=50.0, y=30.0)
    assert nine.summary_stats.psfApCorrSigmaScaledDelta == pytest.approx(
        expected / nine.summary_stats.psfSigma
    )


def test_replaced_backgrounds(caplog: pytest.LogCaptureFixture) -> None:
    levels = {4: 300.0, 9: 310.0, 11: 320.0}
    gradient = np.array([[5.0, 200.0]])
    images = {d: masked_image(d) for d in (4, 9)}
    for image in images.values():
        image.image.array[...] += ChebyshevField(BBOX, gradient).render(BBOX).array
    pixels = images[4].image.array.copy()
    result = run(
        with_providers(background_provider="replacement"),
        input_exposures=images,
        background_originals={
            d: InMemoryDatasetHandle(make_background(ChebyshevField(BBOX, np.array([[level]]))))
            for d, level in levels.items()
        },
        background_overrides={d: make_background(ChebyshevField(BBOX, gradient)) for d in (4, 11)},
    )
    four, nine, eleven = (record.summary_stats for record in result)
    assert four.skyBg == pytest.approx(305.0, abs=1.0)
    assert four.skyNoise == pytest.approx(10.0, rel=0.03)
    assert four.meanVar == pytest.approx(100.0)
    assert result.find(4).calibration_sources["background"] == ("replacement calexpBackground and skyCorr")
    np.testing.assert_array_equal(images[4].image.array, pixels)
    assert math.isnan(nine.skyBg)
    assert math.isnan(nine.magLim)
    assert "background" not in result.find(9).calibration_sources
    assert "Detector 9 lacks a background" in caplog.text
    assert eleven.skyBg == pytest.approx(325.0, abs=1.0)
    assert math.isnan(eleven.skyNoise)
    expected = limiting_magnitude(
        psf_area=four.psfArea, sky_background=four.skyBg, zero_point=27.0, read_noise=6.0, gain=2.0
    )
    assert four.magLim == pytest.approx(expected)


def test_correlations_of_ellipticity_residuals_are_those_of_the_visit() -> None:
    """All pairs counted one by one; those of a detector only within 72 arcsec here."""
    table = stars()
    table = table[table["calib_psf_used"]]
    residuals = []
    for base in ("slot_Shape", "slot_PsfShape"):
        xx, yy, xy = (np.asarray(table[f"{base}_{axes}"]) for axes in ("xx", "yy", "xy"))
        residuals.append(np.array([xx - yy, 2 * xy]) / (xx + yy))
    e1, e2 = residuals[0] - residuals[1]
    dx = (table["coord_ra"][:, None] - table["coord_ra"]) * np.cos(np.radians(2.0))
    dy = table["coord_dec"][:, None] - table["coord_dec"]
    apart = np.degrees(np.hypot(dx, dy)) * 60
    near = (apart < 1) & ~np.eye(len(table), dtype=bool)

    def mean(first: np.ndarray, second: np.ndarray, rows: np.ndarray) -> float:
        return float((first[:, None] * second)[rows].mean())

    result = run()
    same = {n: np.equal.outer(*[np.asarray(table["detector"] == n)] * 2) for n in DETECTORS}
    within = {
        n: same[n] & np.asarray(table["detector"] == n)[:, None] & ~np.eye(len(table), dtype=bool)
        for n in DETECTORS
    }
    for record in result:
        stats = record.summary_stats
        assert stats.psfTE1e1 == pytest.approx(mean(e1, e1, near), rel=1e-5)
        assert stats.psfTE1e2 == pytest.approx(mean(e2, e2, near), rel=1e-5)
        assert stats.psfTE1ex == pytest.approx(mean(e1, e2, near), rel=1e-4)
        assert math.isnan(stats.psfTE2e1)
        assert stats.psfTE3ex == pytest.approx(
            np.median([mean(e1, e2, r) for r in within.values()]), rel=1e-4
        )
        assert math.isnan(stats.psfTE4e1)


# Inputs that do not belong together ------------------------------------------------------------------------


def test_wrong_visit_instrument_or_filter() -> None:
    for name in ("psf_overrides", "ap_corr_overrides"):
        with pytest.raises(ValueError, match=f"{name} is of visit 5, expected visit 321"):
            run(**{name: characterization(visit=5)})
        with pytest.raises(ValueError, match=f"{name} of visit 321 has instrument 'OtherCam'"):
            run(**{name: characterization(instrument="OtherCam")})
        with pytest.raises(ValueError, match="physical_filter 'test_g', the input summary has 'test_r'"):
            run(**{name: characterization(physical_filter="test_g")})
    assert run(psf_overrides=characterization(instrument="", physical_filter="")).find(4).psf is not None
    config = with_providers(wcs_provider="global")
    with pytest.raises(ValueError, match="wcs_overrides_global is of visit 5"):
        run(config, wcs_overrides_global=external_wcs(shift=0, visit=5))


def test_stars_of_another_visit_or_without_columns() -> None:
    table = stars()
    table["visit"] = 5
    with pytest.raises(ValueError, match="psf_star_catalog has stars of visit 5, expected visit 321"):
        run(psf_star_catalog=table)
    table = stars()
    table.remove_columns(["detector", "slot_PsfShape_xy"])
    with pytest.raises(ValueError, match="visit 321 lacks the columns detector, slot_PsfShape_xy"):
        run(psf_star_catalog=table)


def test_detectors_that_the_first_pass_does_not_have(caplog: pytest.LogCaptureFixture) -> None:
    before = summary_of([record for record in first_pass() if record.detector != 11])
    with caplog.at_level(logging.WARNING):
        result = run(input_summary=before)
    assert result.detectors == [4, 9]
    for name in ("psf_overrides", "ap_corr_overrides", "psf_star_catalog"):
        assert f"{name} has detectors [11], which the input summary lacks" in caplog.text


def test_stars_of_detectors_that_are_left_out_are_in_no_correlation() -> None:
    two = summary_of([r for r in first_pass() if r.detector != 11])
    with_others, without = run(input_summary=two), run(input_summary=two, psf_star_catalog=stars((4, 9)))
    for ours, theirs in zip(with_others, without, strict=True):
        assert ours.summary_stats.psfTE1e1 == theirs.summary_stats.psfTE1e1
        assert ours.summary_stats.psfTE3e2 == theirs.summary_stats.psfTE3e2


def test_a_detector_twice() -> None:
    with pytest.raises(ValueError, match="Visit 321: detector 4 appears twice"):
        summary_of([DetectorSummary(4), DetectorSummary(4)])


@pytest.mark.parametrize("kind", ["wcs", "photo_calib"])
@pytest.mark.parametrize("provider", ["global", "tract", "healpix3"])
def test_an_input_that_the_provider_needs(kind: str, provider: str) -> None:
    config = with_providers(**{f"{kind}_provider": provider})
    name = f"{kind}_overrides_{provider.rstrip('3')}"
    with pytest.raises(ValueError, match=f"{kind}_provider is '{provider}', but {name} was not given"):
        run(config)
    if provider == "tract":
        with pytest.raises(ValueError, match="but sky_map was not given"):
            run(config, **{name: {}})
    with pytest.raises(ValueError, match="'replacement', but background_originals"):
        run(with_providers(background_provider="replacement"))


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
    assert set(connections.inputs) == always | {"background_originals", "background_overrides"}
    assert set(connections.prerequisiteInputs) == {"wcs_overrides_healpix", "photo_calib_overrides_healpix"}
    assert set(connections.wcs_overrides_healpix.dimensions) == {"instrument", "visit", "healpix5"}
    assert set(connections.photo_calib_overrides_healpix.dimensions) == {"instrument", "visit", "healpix3"}
