"""Numbers, magnitudes and positions of simulated objects."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import scipy.stats
from astropy.coordinates import SkyCoord
from hypothesis import given
from hypothesis import strategies as st

from secondlight.simulate.counts import (
    PowerLaw,
    circle_area,
    clustered_in_circle,
    displace,
    uniform_in_circle,
)

LAW = PowerLaw(density=3.0, slope=0.3, pivot=22.0, bright=16.0, faint=25.0)


def test_number_brighter_than_the_pivot_is_the_density():
    expected = 3.0 * (1 - 10 ** (0.3 * (16 - 22)))
    assert LAW.cumulative(22.0) == pytest.approx(expected)
    assert LAW.cumulative(16.0) == LAW.cumulative(10.0) == 0
    assert LAW.mean_number(2.0) == pytest.approx(2 * float(LAW.cumulative(30.0)))


def test_magnitudes_follow_the_law():
    magnitudes = LAW.magnitudes(20_000, np.random.default_rng(1))
    assert magnitudes.min() >= LAW.bright
    assert magnitudes.max() <= LAW.faint
    result = scipy.stats.kstest(magnitudes, lambda m: LAW.cumulative(m) / LAW.mean_number(1.0))
    assert result.pvalue > 0.01


def test_area_of_circles():
    assert circle_area(1 / 60) == pytest.approx(np.pi, rel=1e-6)
    assert circle_area(180.0) == pytest.approx((4 * np.pi * u.sr).to_value(u.arcmin**2))


@pytest.mark.parametrize("dec", [-90.0, -29.3, 60.0, 89.99])
def test_positions_are_even_over_the_circle(dec):
    rng = np.random.default_rng(2)
    ra, dec_found = uniform_in_circle(20_000, ra=0.0, dec=dec, radius=4.0, rng=rng)
    assert np.all((ra >= 0) & (ra < 360))
    center, found = SkyCoord(0.0, dec, unit="deg"), SkyCoord(ra, dec_found, unit="deg")
    distance = center.separation(found).rad
    assert distance.max() <= np.radians(4.0) * (1 + 1e-9)
    share = (1 - np.cos(distance)) / (1 - np.cos(np.radians(4.0)))
    assert scipy.stats.kstest(share, "uniform").pvalue > 0.01
    angle = center.position_angle(found).rad / (2 * np.pi)
    assert scipy.stats.kstest(angle, "uniform").pvalue > 0.01


def test_groups_do_not_deplete_the_edge():
    numbers, outer = [], []
    for seed in range(30):
        ra, dec = clustered_in_circle(
            400.0,
            members=5,
            group_radius=60.0,
            ra=10.0,
            dec=40.0,
            radius=0.2,
            rng=np.random.default_rng(seed),
        )
        distance = SkyCoord(10.0, 40.0, unit="deg").separation(SkyCoord(ra, dec, unit="deg")).deg
        assert distance.max() <= 0.2
        numbers.append(len(ra))
        outer.append(np.sum(distance > 0.17))
    # Groups make the numbers scatter about as much as if there were sqrt(1 + members) times fewer objects.
    assert np.mean(numbers) == pytest.approx(400, abs=4 * np.sqrt(400 * 6 / 30))
    share = 1 - (0.17 / 0.2) ** 2
    assert np.mean(outer) == pytest.approx(400 * share, abs=4 * np.sqrt(400 * share * 6 / 30))


@given(
    ra=st.floats(0, 360, exclude_max=True),
    dec=st.floats(-89.9, 89.9),
    east=st.floats(-3600, 3600),
    north=st.floats(-3600, 3600),
)
def test_displacement_is_gnomonic(ra, dec, east, north):
    moved_ra, moved_dec = displace(
        ra=np.array([ra]), dec=np.array([dec]), east=np.array([east]), north=np.array([north])
    )
    assert 0 <= moved_ra[0] < 360
    frame = SkyCoord(ra, dec, unit="deg").skyoffset_frame()
    x, y, z = SkyCoord(moved_ra[0], moved_dec[0], unit="deg").transform_to(frame).cartesian.xyz.value
    offsets = np.degrees([y / x, z / x]) * 3600
    np.testing.assert_allclose(offsets, [east, north], rtol=0, atol=1e-6)
