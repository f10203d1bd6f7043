"""Summary statistics of the final pass, computed again from what it publishes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lsst.images import ObservationSummaryStats
from lsst.images.fields import ChebyshevField
from lsst.pipe.base import Struct

from secondlight.catalog.mask_planes import mask_of
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .reprocess_scenes import (
    CALIB,
    GAIN,
    NOISE,
    READ_NOISE,
    SIGMA,
    X0,
    Y0,
    make_config,
    make_inputs,
    make_scene,
)

BAD = ["BAD", "CR", "EDGE", "INTRP", "NO_DATA", "SAT", "SUSPECT"]
TIME = 30.0


@pytest.fixture(scope="module")
def result() -> Struct:
    """A scene all of whose stars the PSF was made from, with an aperture correction that varies."""
    config = make_config()
    stats = config.compute_summary_stats
    stats.fiducialPsfSigma["r"], stats.fiducialSkyBackground["r"] = 1.8, 3.0
    stats.fiducialZeroPoint["r"], stats.fiducialMagLim["r"] = 24.0, 21.0
    stats.psfGridSampling = 30
    image = make_scene()
    inputs = make_inputs(image)
    inputs["calib_sources"]["calib_psf_used"] = True
    ramp, zero = (ChebyshevField(image.bbox, np.array([c])) for c in ([1.0, 0.02], [0.0]))
    inputs["ap_corr"] = {"base_PsfFlux_instFlux": ramp, "base_PsfFlux_instFluxErr": zero}
    result = ReprocessVisitImageTask(config=config).run(**inputs)
    result.ramp, result.counts = ramp, image
    return result


@pytest.fixture(scope="module")
def stats(result: Struct) -> ObservationSummaryStats:
    return result.exposure.summary_stats


@pytest.fixture(scope="module")
def stars(result: Struct) -> np.ndarray:
    """Rows of the stars whose signal-to-noise ratio is between 50 and 1000."""
    table = result.sources
    ratio = table["slot_PsfFlux_instFlux"] / table["slot_PsfFlux_instFluxErr"]
    rows = np.flatnonzero(table["calib_psf_used"] & (ratio > 50) & (ratio < 1000))
    assert len(rows) >= 2
    return rows


def test_psf(stats: ObservationSummaryStats) -> None:
    assert stats.psfSigma == pytest.approx(SIGMA, rel=1e-3)
    assert (stats.psfIxx, stats.psfIyy) == pytest.approx((SIGMA**2, SIGMA**2), rel=2e-3)
    assert stats.psfIxy == pytest.approx(0, abs=1e-6)
    assert stats.psfArea == pytest.approx(4 * math.pi * SIGMA**2, rel=1e-3)


def test_stars(result: Struct, stats: ObservationSummaryStats, stars: np.ndarray) -> None:
    table = result.sources
    assert stats.nPsfStar == table["calib_psf_used"].sum() == 6

    def ellipticity(slot: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        xx, yy, xy = (np.asarray(table[f"{slot}_{axes}"])[stars] for axes in ("xx", "yy", "xy"))
        return (xx - yy) / (xx + yy), 2 * xy / (xx + yy), np.sqrt((xx + yy) / 2)

    star, psf = ellipticity("slot_Shape"), ellipticity("slot_PsfShape")
    for name, ours, model in zip(("E1", "E2", "Size"), star, psf, strict=True):
        delta = ours - model
        median = np.median(delta)
        scatter = 1.4826 * np.median(np.abs(delta - median))
        assert getattr(stats, f"psfStarDelta{name}Median") == pytest.approx(median)
        assert getattr(stats, f"psfStarDelta{name}Scatter") == pytest.approx(scatter, rel=1e-4)
    expected = stats.psfStarDeltaSizeScatter / np.median(star[2])
    assert stats.psfStarScaledDeltaSizeScatter == pytest.approx(expected)
    assert stats.starEMedian == pytest.approx(np.median(np.hypot(star[0], star[1])))
    moments = {o: table[f"ext_shapeHSM_HigherOrderMomentsSource_{o}"][stars] for o in ("40", "22", "04")}
    kurtosis = np.nanmedian(moments["40"] + 2 * moments["22"] + moments["04"])
    assert stats.starKurtosisMedian == pytest.approx(kurtosis)


def test_distances_and_ranges(result: Struct, stats: ObservationSummaryStats, stars: np.ndarray) -> None:
    good = ~mask_of(result.exposure.mask, BAD)
    rows, columns = np.nonzero(good[::8, ::8])
    x, y = columns * 8 + X0, rows * 8 + Y0
    star_x, star_y = (np.asarray(result.sources[f"slot_Centroid_{axis}"])[stars] for axis in "xy")
    distance = np.hypot(x[:, None] - star_x, y[:, None] - star_y).min(axis=1)
    assert stats.maxDistToNearestPsf == pytest.approx(distance.max())
    rows, columns = np.nonzero(good[::30, ::30])
    correction = result.ramp(x=columns * 30.0 + X0, y=rows * 30.0 + Y0)
    assert stats.psfApCorrSigmaScaledDelta == pytest.approx(np.ptp(correction) / stats.psfSigma)
    assert stats.psfTraceRadiusDelta == pytest.approx(0, abs=1e-9)
    assert stats.psfApFluxDelta == pytest.approx(0, abs=1e-9)


def test_sky_and_noise(result: Struct, stats: ObservationSummaryStats) -> None:
    pixels = result.counts.image.array[~mask_of(result.exposure.mask, ["NO_DATA", "SUSPECT"])].astype(float)
    low, centre, high = np.percentile(pixels, [25, 50, 75])
    width = 3 * 0.741301109252802 * (high - low)
    for _ in range(2):
        kept = pixels[np.abs(pixels - centre) <= width]
        centre, width = kept.mean(), 3 * kept.std(ddof=1)
    assert stats.skyNoise == pytest.approx(kept.std(ddof=1), rel=1e-5)
    assert stats.meanVar == pytest.approx(NOISE**2)
    assert stats.skyBg == pytest.approx(100, abs=1)


def test_depth(stats: ObservationSummaryStats) -> None:
    assert stats.zeroPoint == pytest.approx(CALIB.zero_point)
    area = stats.psfArea
    noise = (stats.skyBg / GAIN + (READ_NOISE / GAIN) ** 2) * area
    counts = 25 / (2 * GAIN) + math.sqrt(625 / (4 * GAIN**2) + 25 * noise)
    assert stats.magLim == pytest.approx(stats.zeroPoint - 2.5 * math.log10(counts))
    assert stats.expTime == TIME
    assert stats.effTimePsfSigmaScale == pytest.approx((stats.psfSigma / 1.8) ** -2)
    assert stats.effTimeSkyBgScale == pytest.approx(3.0 / (stats.skyBg / TIME))
    rate = stats.zeroPoint - 2.5 * math.log10(TIME)
    assert stats.effTimeZeroPointScale == pytest.approx(10 ** (-2 * (24.0 - rate) / 2.5))
    assert stats.effTime == pytest.approx(10 ** (0.8 * (stats.magLim - 21.0)) * 30.0)


def test_place(result: Struct, stats: ObservationSummaryStats) -> None:
    box, sky = result.exposure.bbox, result.exposure.sky_projection
    x0, x1, y0, y1 = box.x.min - 0.5, box.x.max + 0.5, box.y.min - 0.5, box.y.max + 0.5
    corners = sky.pixel_to_sky(x=np.array([x0, x1, x1, x0]), y=np.array([y0, y0, y1, y1]))
    np.testing.assert_allclose(stats.raCorners, corners.ra.deg)
    np.testing.assert_allclose(stats.decCorners, corners.dec.deg)
    centre = sky.pixel_to_sky(x=(x0 + x1) / 2, y=(y0 + y1) / 2)
    assert (stats.ra, stats.dec) == pytest.approx((centre.ra.deg, centre.dec.deg))
    assert stats.pixelScale == pytest.approx(0.2, rel=1e-5)
    assert 0 < stats.zenithDistance < 180
