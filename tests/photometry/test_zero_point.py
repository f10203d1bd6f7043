from __future__ import annotations

import numpy as np
import pytest

from secondlight.photometry.zero_point import ZeroPointError, fit_zero_point


def make_stars(
    n: int, *, zero_point: float = 27.3, scatter: float = 0.0, seed: int = 1
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mag = rng.uniform(16, 20, n)
    flux = 10 ** (-0.4 * (mag - zero_point))
    error = 0.01 * flux
    measured = flux + error * rng.normal(size=n)
    return {"inst_flux": measured, "inst_flux_err": error, "ref_mag": mag + scatter * rng.normal(size=n)}


def test_recovers_the_zero_point_with_an_honest_error() -> None:
    pulls = []
    for seed in range(200):
        fit = fit_zero_point(**make_stars(40, scatter=0.02, seed=seed))
        pulls.append((fit.value - 27.3) / fit.error)
    assert abs(np.mean(pulls)) < 3 / np.sqrt(200)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)


def test_outliers_and_bad_values_are_not_used() -> None:
    stars = make_stars(60)
    stars["ref_mag"][:5] += 1.0
    stars["inst_flux"][5] = -3.0
    stars["ref_mag"][6] = np.nan
    fit = fit_zero_point(**stars, ref_mag_err=np.full(60, 0.005))
    assert not fit.used[:7].any()
    assert fit.n_used == fit.used.sum() > 45
    assert fit.value == pytest.approx(27.3, abs=4 * fit.error)
    assert fit.scatter == pytest.approx(0.0109, rel=0.35)


def test_photo_calib() -> None:
    fit = fit_zero_point(**make_stars(30))
    assert fit.photo_calib.zero_point == pytest.approx(fit.value)
    assert fit.photo_calib.error / fit.photo_calib.mean == pytest.approx(fit.error * np.log(10) / 2.5)


def test_identical_stars_without_errors() -> None:
    fit = fit_zero_point(inst_flux=np.full(4, 10.0), inst_flux_err=np.zeros(4), ref_mag=np.full(4, 20.0))
    assert (fit.value, fit.error, fit.scatter, fit.n_used) == (22.5, 0.0, 0.0, 4)


def test_too_few() -> None:
    with pytest.raises(ZeroPointError, match="1 of 2 matched stars") as caught:
        fit_zero_point(
            inst_flux=np.array([1.0, -1.0]), inst_flux_err=np.ones(2), ref_mag=np.zeros(2), min_stars=2
        )
    assert caught.value.metadata["n_required"] == 2
    with pytest.raises(ZeroPointError, match="0 of 0"):
        fit_zero_point(inst_flux=np.zeros(0), inst_flux_err=np.zeros(0), ref_mag=np.zeros(0))
