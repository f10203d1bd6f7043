from __future__ import annotations

import logging
import math
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astro_metadata_translator import makeObservationInfo
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from lsst.images import Box, Image, ObservationSummaryStats, VisitImage
from lsst.images.fields import ChebyshevField, SplineField
from lsst.images.psfs import GaussianPointSpreadFunction, PointSpreadFunction
from lsst.images.serialization import read_archive, write_archive

from secondlight.background.fields import combine_backgrounds, make_background
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components
from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary
from secondlight.photometry.depth import effective_time_scales, limiting_magnitude
from secondlight.photometry.psf_statistics import distance_to_nearest_star, good_samples, grid_statistics
from secondlight.photometry.summary_stats import (
    ComputeExposureSummaryStatsConfig,
    ComputeExposureSummaryStatsTask,
)
from tests.scenes import make_sky_projection, make_visit_image


@pytest.fixture(scope="module")
def task() -> ComputeExposureSummaryStatsTask:
    return ComputeExposureSummaryStatsTask()


def make_image(**values: object) -> VisitImage:
    image = make_visit_image(x0=50, y0=30, width=300, height=240, **values)  # type: ignore[arg-type]
    scaling = ChebyshevField(image.bbox, np.array([[20.0, 0.5]]), unit=u.nJy / u.adu)
    return replace_components(image, photometric_scaling=scaling)


def make_stars(n: int = 12, *, higher: bool = True) -> SourceCatalog:
    schema = minimal_source_schema()
    for name, shape in (("hsm", "slot_Shape"), ("psf_hsm", "slot_PsfShape")):
        for suffix in ("xx", "yy", "xy"):
            schema.add(f"{name}_{suffix}", np.float64, "moment")
        schema.add_flag(f"{name}_flag", "bad")
        schema.set_alias(shape, name)
    for axis in "xy":
        schema.add(f"pos_{axis}", np.float64, "position")
    schema.set_alias("slot_Centroid", "pos")
    schema.add("psfflux_instFlux", np.float64, "flux")
    schema.add("psfflux_instFluxErr", np.float64, "error")
    schema.add_flag("psfflux_flag", "bad")
    schema.set_alias("slot_PsfFlux", "psfflux")
    schema.add_flag("calib_psf_used", "used")
    orders = ("30", "21", "12", "03", "40", "31", "22", "13", "04")
    if higher:
        for order in orders:
            schema.add(f"ext_shapeHSM_HigherOrderMomentsSource_{order}", np.float64, "moment")
    rng = np.random.default_rng(8)
    catalog = SourceCatalog(schema, n)
    catalog["pos_x"] = rng.uniform(60, 340, n)
    catalog["pos_y"] = rng.uniform(40, 260, n)
    catalog["calib_psf_used"] = True
    catalog["psfflux_instFlux"] = 1e4
    catalog["psfflux_instFluxErr"] = 100.0
    for suffix, value in (("xx", 4.0), ("yy", 4.2), ("xy", 0.1)):
        catalog[f"psf_hsm_{suffix}"] = value
        catalog[f"hsm_{suffix}"] = value + 0.05 * rng.normal(size=n)
    if higher:
        for order in orders:
            catalog[f"ext_shapeHSM_HigherOrderMomentsSource_{order}"] = rng.normal(size=n)
    return catalog


def mad(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def test_psf_area_of_a_small_stamp(task: ComputeExposureSummaryStatsTask) -> None:
    bbox = Box.factory[0:50, 0:60]
    stats = ObservationSummaryStats()
    task.update_psf_stats(stats, GaussianPointSpreadFunction(2.0, bounds=bbox, stamp_size=5), bbox, None)
    assert stats.psfArea == pytest.approx(23.088975164455444, rel=1e-6)


def test_psf_of_the_image(task: ComputeExposureSummaryStatsTask) -> None:
    image = make_image(sigma=2.0)
    stats = task.run(image, None, 5.0)
    assert stats.psfSigma == pytest.approx(2.0, rel=1e-4)
    assert (stats.psfIxx, stats.psfIyy) == pytest.approx((4.0, 4.0), rel=1e-3)
    assert stats.psfIxy == pytest.approx(0, abs=1e-6)
    assert stats.psfArea == pytest.approx(4 * math.pi * 4, rel=1e-4)
    assert stats.psfTraceRadiusDelta == pytest.approx(0, abs=1e-9)
    assert stats.psfApFluxDelta == pytest.approx(0, abs=1e-9)
    assert stats.nPsfStar == 0
    assert math.isnan(stats.starEMedian)
    assert math.isnan(stats.psfApCorrSigmaScaledDelta)
    assert math.isnan(stats.psfTE1e1)


def test_star_statistics(task: ComputeExposureSummaryStatsTask) -> None:
    image = make_image()
    stars = make_stars()
    stars["hsm_flag"][0] = True
    stars["psfflux_flag"][1] = True
    stars["psfflux_instFlux"][2] = 5000.0  # signal-to-noise of exactly 50 is not enough
    stars["psfflux_instFlux"][3] = 1e5  # nor is 1000
    stars["calib_psf_used"][4] = False
    stats = task.run(image, stars, None)
    assert stats.nPsfStar == 11
    good = slice(5, None)
    xx, yy, xy = (stars[f"hsm_{s}"][good] for s in ("xx", "yy", "xy"))
    e1, e2, size = (xx - yy) / (xx + yy), 2 * xy / (xx + yy), np.sqrt((xx + yy) / 2)
    e1_psf, e2_psf, size_psf = -0.2 / 8.2, 0.2 / 8.2, math.sqrt(4.1)
    expected = {
        "psfStarDeltaE1Median": np.median(e1 - e1_psf),
        "psfStarDeltaE2Median": np.median(e2 - e2_psf),
        "psfStarDeltaE1Scatter": mad(e1),
        "psfStarDeltaE2Scatter": mad(e2),
        "psfStarDeltaSizeMedian": np.median(size - size_psf),
        "psfStarDeltaSizeScatter": mad(size),
        "psfStarScaledDeltaSizeScatter": mad(size) / np.median(size),
        "starEMedian": np.median(np.sqrt(e1**2 + e2**2)),
        "starUnNormalizedEMedian": np.median(np.sqrt((xx - yy) ** 2 + 4 * xy**2)),
    }
    m = {
        o: stars[f"ext_shapeHSM_HigherOrderMomentsSource_{o}"][good]
        for o in ("30", "21", "12", "03", "40", "31", "22", "13", "04")
    }
    expected |= {
        "starComa1Median": np.median(m["30"] + m["12"]),
        "starComa2Median": np.median(m["21"] + m["03"]),
        "starTrefoil1Median": np.median(m["30"] - 3 * m["12"]),
        "starTrefoil2Median": np.median(3 * m["21"] - m["03"]),
        "starKurtosisMedian": np.median(m["40"] + 2 * m["22"] + m["04"]),
        "starE41Median": np.median(m["40"] - m["04"]),
        "starE42Median": np.median(2 * (m["31"] + m["13"])),
    }
    for name, value in expected.items():
        assert getattr(stats, name) == pytest.approx(value, rel=1e-5), name


def test_no_good_star_leaves_the_rest(task: ComputeExposureSummaryStatsTask) -> None:
    stars = make_stars(higher=False)
    stars["psfflux_flag"] = True
    stats = task.run(make_image(), stars, None)
    assert stats.nPsfStar == 12
    assert math.isnan(stats.psfStarDeltaE1Median)
    assert math.isnan(stats.maxDistToNearestPsf)
    assert stats.psfTraceRadiusDelta == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("slot", ["slot_Shape", "slot_PsfShape", "slot_Centroid"])
def test_stars_without_what_is_compared_leave_the_rest(
    task: ComputeExposureSummaryStatsTask, slot: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who does not measure shapes has no statistics of them, but an image."""
    stars = make_stars()
    stars.schema.set_alias(slot, "nobody_measures_this")
    stats = task.run(make_image(), stars, None)
    assert stats.nPsfStar == 12
    assert math.isnan(stats.psfStarDeltaE1Median)
    assert stats.psfTraceRadiusDelta == pytest.approx(0, abs=1e-9)
    assert f"No columns {slot}" in caplog.text


def test_distance_to_stars_follows_origin_and_mask(task: ComputeExposureSummaryStatsTask) -> None:
    image = make_image()
    stars = make_stars(1)
    stars["pos_x"], stars["pos_y"] = 50.0, 30.0  # the first pixel of the image
    farthest = math.hypot(296, 232)  # the last pixels of a grid with step 8
    assert task.run(image, stars, None).maxDistToNearestPsf == pytest.approx(farthest)
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[:, 1:] = True
    image.mask.set("BAD", bad)
    assert task.run(image, stars, None).maxDistToNearestPsf == pytest.approx(232)
    assert math.isnan(distance_to_nearest_star(x=np.zeros(0), y=np.zeros(0), star_x=bad[0], star_y=bad[0]))


class GrowingPsf(PointSpreadFunction):
    """A Gaussian whose sigma grows from 1.5 at x = 50 to 2.1 at x = 338."""

    def _at(self, x: float) -> GaussianPointSpreadFunction:
        return GaussianPointSpreadFunction(1.5 + 0.6 * (x - 50) / 288, bounds=self.bounds, stamp_size=41)

    @property
    def bounds(self) -> Box:
        """Everywhere."""
        return Box.factory[0:1000, 0:1000]

    @property
    def kernel_bbox(self) -> Box:
        """Box of the stamps."""
        return self._at(50).kernel_bbox

    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        """Return a centred stamp."""
        return self._at(x).compute_kernel_image(x=x, y=y)

    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        """Return a stamp of a star."""
        return self._at(x).compute_stellar_image(x=x, y=y)

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
        """Return the box of that stamp."""
        return self._at(x).compute_stellar_bbox(x=x, y=y)


def test_grid_statistics_of_a_varying_psf() -> None:
    image = make_image()
    x, y = good_samples(image.bbox, image.mask, step=96, bad_planes=["BAD"])
    assert (x.min(), x.max(), y.min(), y.max()) == (50, 338, 30, 222)
    result = grid_statistics(GrowingPsf(), x=x, y=y, radius=5.0)
    narrow, wide = (1 - math.exp(-12.5 / sigma**2) for sigma in (1.5, 2.1))
    assert result["psfTraceRadiusDelta"] == pytest.approx(0.6, abs=1e-3)
    assert result["psfApFluxDelta"] == pytest.approx(narrow - wide, abs=2e-3)


def test_all_pixels_bad(task: ComputeExposureSummaryStatsTask) -> None:
    image = make_image()
    for plane in ("NO_DATA", "BAD"):
        image.mask.set(plane, np.ones(image.bbox.shape, dtype=bool))
    stats = task.run(image, make_stars(), None)
    for name in ("psfTraceRadiusDelta", "psfApFluxDelta", "maxDistToNearestPsf", "skyNoise", "meanVar"):
        assert math.isnan(getattr(stats, name)), name
    assert stats.psfSigma > 0


def test_aperture_correction_range(task: ComputeExposureSummaryStatsTask) -> None:
    image = make_image()
    field = ChebyshevField(image.bbox, np.array([[1.0, 0.1]]))
    image = replace_components(image, aperture_corrections={"base_PsfFlux_instFlux": field})
    stats = task.run(image, None, None)
    expected = field(x=338.0, y=0.0) - field(x=50.0, y=0.0)
    assert stats.psfApCorrSigmaScaledDelta == pytest.approx(expected / stats.psfSigma)


def test_wcs(task: ComputeExposureSummaryStatsTask) -> None:
    image = make_image()
    stats = task.run(image, None, None)
    assert (stats.ra, stats.dec) == pytest.approx((150.0, 2.0), abs=1e-9)
    assert stats.pixelScale == pytest.approx(0.2, rel=1e-6)
    # Lower left, lower right, upper right, upper left; north is up and east is left.
    half_width = 150 * 0.2 / 3600 / math.cos(math.radians(2))
    np.testing.assert_allclose(
        stats.raCorners, 150 + half_width * np.array([1, -1, -1, 1]), atol=half_width * 1e-4
    )
    np.testing.assert_allclose(stats.decCorners, 2 + 120 * 0.2 / 3600 * np.array([-1, -1, 1, 1]), atol=1e-6)
    info = image.obs_info
    middle = info.datetime_begin + 0.5 * (info.datetime_end - info.datetime_begin)
    sky = SkyCoord(150 * u.deg, 2 * u.deg)
    altitude = sky.transform_to(AltAz(obstime=middle, location=info.location)).alt.deg
    assert stats.zenithDistance == pytest.approx(90 - altitude, abs=1e-3)


def test_zenith_distance_of_the_reference(task: ComputeExposureSummaryStatsTask) -> None:
    box = Box.factory[0:100, 0:100]
    info = makeObservationInfo(
        location=EarthLocation.from_geodetic(-70.7366 * u.deg, -30.2407 * u.deg, 2650 * u.m),
        datetime_begin=Time(59234.7083333334, format="mjd", scale="utc"),
    )
    stats = ObservationSummaryStats()
    task.update_wcs_stats(stats, make_sky_projection(box, ra=300.0, dec=0.0), box, info)
    assert stats.zenithDistance == pytest.approx(30.57112, abs=5e-5)
    task.update_wcs_stats(stats, make_sky_projection(box, ra=300.0, dec=0.0), None, info)
    assert math.isnan(stats.zenithDistance)


def test_zenith_distance_needs_no_network(task: ComputeExposureSummaryStatsTask) -> None:
    image = make_image()
    site = EarthLocation.from_geodetic(-70.7 * u.deg, -30.2 * u.deg, 2600 * u.m)
    stats = ObservationSummaryStats()
    future = Time("2035-03-01T00:00:00", scale="tai")
    info = makeObservationInfo(location=site, datetime_begin=future, datetime_end=future)
    task.update_wcs_stats(stats, image.sky_projection, image.bbox, info)
    assert 0 < stats.zenithDistance < 180
    task.update_wcs_stats(stats, image.sky_projection, image.bbox, makeObservationInfo(location=site))
    assert math.isnan(stats.zenithDistance)
    task.update_wcs_stats(stats, None, image.bbox, info)
    assert math.isnan(stats.ra)


def test_zero_point_is_that_of_the_mean(task: ComputeExposureSummaryStatsTask) -> None:
    image = make_image()
    assert task.run(image, None, None).zeroPoint == pytest.approx(31.4 - 2.5 * math.log10(20), abs=1e-4)
    calibrated = image.convert_unit(u.nJy)
    assert task.run(calibrated, None, None).zeroPoint == pytest.approx(31.4, abs=1e-4)
    stats = ObservationSummaryStats()
    task.update_photo_calib_stats(stats, PhotoCalib.from_zero_point(28.5))
    assert stats.zeroPoint == pytest.approx(28.5)
    for unusable in (PhotoCalib(0.0), PhotoCalib(math.nan), None):
        task.update_photo_calib_stats(stats, unusable)
        assert math.isnan(stats.zeroPoint)


def test_background(task: ComputeExposureSummaryStatsTask) -> None:
    image = make_image()
    cells = np.arange(12.0).reshape(3, 4)
    field = SplineField(
        image.bbox, cells, y=np.array([50.0, 130.0, 220.0]), x=np.array([60.0, 150.0, 220.0, 320.0])
    )
    assert task.run(image, None, make_background(field)).skyBg == np.median(cells)
    other = ChebyshevField(image.bbox, np.array([[5.0]]))
    both = combine_backgrounds(make_background(field), make_background(other))
    assert task.run(image, None, both).skyBg == np.median(cells) + 5.0
    assert task.run(image, None, 7.5).skyBg == 7.5
    assert math.isnan(task.run(image, None, None).skyBg)


def test_pixel_statistics(task: ComputeExposureSummaryStatsTask) -> None:
    image = make_image(noise=10.0, seed=4)
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[:20] = True
    image.mask.set("NO_DATA", bad)
    image.image.array[:20] = 1e6
    image.image.array[30, 30] = np.nan
    image.image.array[40:44, 40:44] = 1e5
    stats = task.run(image, None, None)
    values = image.image.array[20:].astype(float).ravel()
    values = values[np.isfinite(values)]
    q1, center, q3 = np.percentile(values, [25, 50, 75])
    sigma = 0.741301109252802 * (q3 - q1)
    for _ in range(2):
        kept = values[np.abs(values - center) <= 3 * sigma]
        center, sigma = kept.mean(), kept.std(ddof=1)
    assert stats.skyNoise == pytest.approx(sigma, rel=1e-6)
    assert stats.meanVar == pytest.approx(100)
    assert stats.expTime == 30


def test_limiting_magnitude_formula() -> None:
    values = {
        "psf_area": 50.2655,
        "sky_background": 1000.0,
        "zero_point": 31.0,
        "read_noise": 9.0,
        "gain": 1.0,
    }
    assert limiting_magnitude(**values) == pytest.approx(23.322061, abs=1e-6)
    # At the limit, the signal-to-noise ratio with photon noise is what was asked for.
    counts = 10 ** (-0.4 * (limiting_magnitude(**values | {"gain": 2.0}) - 31.0))
    noise = math.sqrt(counts / 2.0 + (1000 / 2.0 + (9 / 2.0) ** 2) * 50.2655)
    assert counts / noise == pytest.approx(5.0)
    for name in values:
        assert math.isnan(limiting_magnitude(**values | {name: math.nan}))
    assert math.isnan(limiting_magnitude(**values | {"gain": 0.0}))


def test_magnitude_limit_of_an_image(
    task: ComputeExposureSummaryStatsTask, caplog: pytest.LogCaptureFixture
) -> None:
    image = make_image()
    assert math.isnan(task.run(image, None, 1000.0).magLim)  # no amplifier tells the gain
    image.metadata["LSST ISR UNITS"] = "electron"
    with caplog.at_level(logging.WARNING):
        stats = task.run(image, None, 1000.0)
    assert "read noise unknown" in caplog.text
    expected = limiting_magnitude(
        psf_area=stats.psfArea, sky_background=1000.0, zero_point=stats.zeroPoint, read_noise=0.0, gain=1.0
    )
    assert stats.magLim == pytest.approx(expected)


def test_magnitude_limit_from_statistics_alone(task: ComputeExposureSummaryStatsTask, tmp_path: Path) -> None:
    """Gain and read noise of the image stay with its statistics, also in a file."""
    image = make_image()
    image.metadata |= {"GAIN": 1.7, "READ_NOISE": 6.0}
    stats = task.run(image, None, 1000.0)
    assert task.knows_electronics(stats)
    path = tmp_path / "summary.fits"
    write_archive(VisitSummary(1, [DetectorSummary(4, summary_stats=stats)]), path)
    again = read_archive(path, VisitSummary).find(4).summary_stats
    assert again == stats
    again.magLim = math.nan
    task.update_magnitude_limit_stats(again)
    assert again.magLim == stats.magLim
    again.psfArea *= 2
    again.zeroPoint += 1
    task.update_magnitude_limit_stats(again)
    assert again.magLim == pytest.approx(
        limiting_magnitude(
            psf_area=2 * stats.psfArea, sky_background=1000.0, zero_point=stats.zeroPoint + 1,
            read_noise=6.0, gain=1.7,
        )
    )  # fmt: skip
    blank = ObservationSummaryStats()
    assert not task.knows_electronics(blank)
    task.update_magnitude_limit_stats(blank)
    assert math.isnan(blank.magLim)


def test_effective_time(caplog: pytest.LogCaptureFixture) -> None:
    config = ComputeExposureSummaryStatsConfig()
    config.fiducialPsfSigma["r"] = 1.56
    config.fiducialSkyBackground["r"] = 32.95
    config.fiducialZeroPoint["r"] = 28.36
    config.fiducialMagLim["r"] = 24.52
    task = ComputeExposureSummaryStatsTask(config=config)
    stats = ObservationSummaryStats(
        psfSigma=3.12,
        skyBg=2 * 32.95 * 30,
        zeroPoint=28.36 + 2.5 * math.log10(30),
        expTime=30.0,
        magLim=24.02,
    )
    task.update_effective_time_stats(stats, "r")
    assert stats.effTimePsfSigmaScale == pytest.approx(0.25)
    assert stats.effTimeSkyBgScale == pytest.approx(0.5)
    assert stats.effTimeZeroPointScale == pytest.approx(1.0)
    assert stats.effTime == pytest.approx(30 * 10**-0.4)
    unknown = ObservationSummaryStats(psfSigma=1.0, skyBg=1.0, zeroPoint=25.0, expTime=30.0, magLim=24.0)
    task.update_effective_time_stats(unknown, "N708")
    assert math.isnan(unknown.effTime)
    assert math.isnan(unknown.effTimePsfSigmaScale)
    with caplog.at_level(logging.WARNING):
        task.update_effective_time_stats(stats, "")
    assert "no band" in caplog.text
    for name in ("effTime", "effTimePsfSigmaScale", "effTimeSkyBgScale", "effTimeZeroPointScale"):
        assert math.isnan(getattr(stats, name)), name


def test_effective_time_limits() -> None:
    values = {
        "psf_sigma": 1.0, "sky_background": 30.0, "zero_point": 30.0, "exposure_time": 30.0,
        "fiducial_psf_sigma": 1.0, "fiducial_sky_background": 1.0, "fiducial_zero_point": 25.0,
    }  # fmt: skip
    assert effective_time_scales(**values, max_transparency=1.2).zero_point == 1.2
    assert effective_time_scales(**values).zero_point > 1.2
    assert all(math.isnan(v) for v in effective_time_scales(**values | {"exposure_time": 0.0})[1:])
