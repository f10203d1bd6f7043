"""Correlations of ellipticity residuals against pairs counted one by one."""

from __future__ import annotations

import math

import astropy.table
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from lsst.images import ObservationSummaryStats

from secondlight.photometry.ellipticity_correlation import (
    EllipticityCorrelationConfig,
    EllipticityCorrelationTask,
)
from secondlight.photometry.psf_statistics import ellipticities
from secondlight.photometry.summary_stats import ComputeExposureSummaryStatsTask

RANGES = {"psfTE1": (0, 1), "psfTE2": (5, 100), "psfTE3": (0, 5), "psfTE4": (5, 20)}


def make_stars(n_detectors: int = 4, n: int = 60, *, dec: float = -70.0) -> astropy.table.Table:
    """Return stars of detectors 10 arcmin wide, side by side across RA 0; neighbours have like residuals."""
    rng = np.random.default_rng(5)
    tables = []
    for detector in range(n_detectors):
        dx, dy = rng.uniform(0, 10, (2, n)) / 60
        dx[: n // 3], dy[: n // 3] = dx[n // 3 : 2 * (n // 3)], dy[n // 3 : 2 * (n // 3)] + 0.005
        dx += (detector - n_detectors / 2) / 6
        table = astropy.table.Table({"detector": np.full(n, detector + 3)})
        table["coord_ra"] = np.radians((dx / math.cos(math.radians(dec))) % 360)
        table["coord_dec"] = np.radians(dec + dy)
        trend = 0.02 * np.sin(6 * dx), 0.02 * np.cos(9 * dy)
        for name, e1, e2, size in (
            ("slot_Shape", 0.05 + trend[0], -0.02 + trend[1], 4.0),
            ("slot_PsfShape", 0.05, -0.02, 3.9),
        ):
            e1 = e1 + 0.001 * rng.normal(size=n)
            e2 = e2 + 0.001 * rng.normal(size=n)
            table[f"{name}_xx"], table[f"{name}_yy"] = size * (1 + e1), size * (1 - e1)
            table[f"{name}_xy"] = size * e2
        table["calib_psf_used"] = True
        table["slot_Shape_flag"] = False
        table["slot_PsfFlux_flag"] = False
        table["slot_PsfFlux_instFlux"] = 1e4
        table["slot_PsfFlux_instFluxErr"] = 100.0
        tables.append(table)
    return astropy.table.vstack(tables)


def count_pairs(stars: astropy.table.Table, low: float, high: float) -> tuple[float, float, float]:
    """Return the mean products over pairs whose distance, arcmin, lies in a range."""
    star, psf = (
        np.array([stars[f"{base}_{axes}"] for axes in ("xx", "yy", "xy")])
        for base in ("slot_Shape", "slot_PsfShape")
    )
    e1 = (star[0] - star[1]) / (star[0] + star[1]) - (psf[0] - psf[1]) / (psf[0] + psf[1])
    e2 = 2 * star[2] / (star[0] + star[1]) - 2 * psf[2] / (psf[0] + psf[1])
    sky = SkyCoord(np.asarray(stars["coord_ra"]), np.asarray(stars["coord_dec"]), unit="rad")
    i, j = np.triu_indices(len(stars), k=1)
    apart = sky[i].separation(sky[j]).arcmin
    near = (apart >= low) & (apart < high)
    i, j = i[near], j[near]
    if not len(i):
        return (math.nan,) * 3
    ex = 0.5 * (e1[i] * e2[j] + e2[i] * e1[j]).mean()
    return float((e1[i] * e1[j]).mean()), float((e2[i] * e2[j]).mean()), float(ex)


def correlate(stars: astropy.table.Table, **limits: float) -> tuple[float, float, float]:
    config = EllipticityCorrelationConfig()
    for name, value in limits.items():
        setattr(config, name, value)
    star, psf = (
        ellipticities(np.column_stack([stars[f"{base}_{axes}"] for axes in ("xx", "yy", "xy")]))
        for base in ("slot_Shape", "slot_PsfShape")
    )
    return EllipticityCorrelationTask(config=config).run(
        ra=np.asarray(stars["coord_ra"]),
        dec=np.asarray(stars["coord_dec"]),
        delta_e1=star.e1 - psf.e1,
        delta_e2=star.e2 - psf.e2,
    )


@pytest.mark.parametrize("limits", RANGES.values())
def test_pairs_of_a_range(limits: tuple[float, float]) -> None:
    stars = make_stars()
    expected = count_pairs(stars, *limits)
    assert np.isfinite(expected).all()
    result = correlate(stars, min_sep=limits[0], max_sep=limits[1])
    assert result == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_stars_that_were_not_measured_do_not_count() -> None:
    stars = make_stars()
    good = count_pairs(stars[5:], 0, 5)
    for row, name in enumerate(
        ("slot_Shape_xx", "slot_PsfShape_xy", "coord_ra", "coord_dec", "slot_Shape_yy")
    ):
        stars[name][row] = math.nan
    assert correlate(stars, max_sep=5.0) == pytest.approx(good, rel=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_without_a_pair(n: int) -> None:
    """Two stars are a pair, but a star is none with itself."""
    stars = make_stars(1)[[0, 20]][:n]
    result = correlate(stars)
    assert result == pytest.approx(count_pairs(stars, 0, 1), rel=1e-6, nan_ok=True)
    assert math.isnan(result[0]) is (n < 2)
    assert np.isnan(correlate(stars, min_sep=2.0, max_sep=3.0)).all()


def test_limits_must_be_in_order() -> None:
    config = EllipticityCorrelationConfig()
    config.min_sep = 5.0
    with pytest.raises(ValueError, match=r"min_sep=5.0, max_sep=1.0"):
        config.validate()


def test_visit_and_medians_of_detectors() -> None:
    stars = make_stars()
    task = ComputeExposureSummaryStatsTask()
    statistics = [ObservationSummaryStats(psfSigma=2.0), ObservationSummaryStats(psfSigma=3.0)]
    task.update_ellipticity_correlations(statistics, stars)
    expected = {name: count_pairs(stars, *RANGES[name]) for name in ("psfTE1", "psfTE2")}
    for name in ("psfTE3", "psfTE4"):
        parts = [
            count_pairs(stars[stars["detector"] == d], *RANGES[name]) for d in np.unique(stars["detector"])
        ]
        expected[name] = tuple(np.median(parts, axis=0))
    for stats in statistics:
        for name, values in expected.items():
            for part, value in zip(("e1", "e2", "ex"), values, strict=True):
                assert getattr(stats, name + part) == pytest.approx(value, rel=1e-6, abs=1e-12), name
    assert [stats.psfSigma for stats in statistics] == [2.0, 3.0]


def test_only_selected_stars() -> None:
    stars = make_stars()
    chosen = stars[np.arange(len(stars)) % 3 > 0]
    stars["calib_psf_used"] = np.arange(len(stars)) % 3 > 0
    stats = ObservationSummaryStats()
    ComputeExposureSummaryStatsTask().update_ellipticity_correlations([stats], stars)
    assert stats.psfTE2ex == pytest.approx(count_pairs(chosen, 5, 100)[2], rel=1e-6)


@pytest.mark.parametrize("case", ["no stars", "no good star", "no positions"])
def test_unknown_correlations(case: str) -> None:
    stars = make_stars()
    if case == "no stars":
        stars = stars[:0]
    elif case == "no good star":
        stars["slot_PsfFlux_flag"] = True
    else:
        stars.remove_column("coord_ra")
    stats = ObservationSummaryStats(psfTE1e1=1.0, psfTE4ex=2.0)
    ComputeExposureSummaryStatsTask().update_ellipticity_correlations([stats], stars)
    assert all(math.isnan(getattr(stats, f"{name}{part}")) for name in RANGES for part in ("e1", "e2", "ex"))
