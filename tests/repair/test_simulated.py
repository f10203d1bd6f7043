"""Cosmic rays on simulated star fields: nearly all are found, and stars are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.cosmic_rays import flux_changes, found_and_false, spread, star_field


@pytest.mark.parametrize("seeing", [0.37, 0.7])  # FWHM of 2.6 and 4.2 pixels with optics and pixel
def test_rays_are_found(seeing: float):
    field = star_field(seeing=seeing, size=600, density=5.0, rate=10.0, seed=1, guess=False)
    counts = found_and_false(field)
    assert counts["rays"] > 1000
    assert counts["found"] > 0.98 * counts["rays"]
    assert counts["others"] < 0.01 * counts["marked"]
    assert counts["false elsewhere"] <= 2


@pytest.mark.parametrize("guess", [True, False])
def test_stars_are_left_alone(guess: bool):
    field = star_field(seeing=0.37, size=500, density=200.0, rate=0.1, seed=2, guess=guess)
    counts = found_and_false(field)
    assert counts["star pixels"] > 2e4
    assert counts["false on stars"] == 0  # none of 1e6 in the benchmark


def test_fluxes_of_stars_that_were_hit():
    field = star_field(seeing=0.7, size=1000, density=60.0, rate=25.0, seed=4, guess=False)
    changes = flux_changes(field)
    assert len(changes["known"]) > 8
    assert spread(changes["before"])[0] > 0.1
    # Charge too faint to be told from noise stays.
    assert abs(spread(changes["known"])[0]) < 0.08
    assert np.median(np.abs(changes["after"])) < 0.3 * np.median(np.abs(changes["before"]))
