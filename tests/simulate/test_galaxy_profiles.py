"""Sizes and shapes of simulated galaxies."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlight.simulate.galaxy_profiles import (
    MAX_ELLIPTICITY,
    component_radii,
    enclosed_flux,
    intrinsic_ellipticities,
    lens,
)


@pytest.mark.parametrize(("index", "truncation"), [(1.0, 5.0), (4.0, 5.0), (2.5, 2.0)])
def test_enclosed_light_is_that_of_the_profile(index, truncation):
    profile = galsim.Sersic(index, half_light_radius=1.0, trunc=truncation)
    radius = np.linspace(0, truncation, 200_001)
    middle = 0.5 * (radius[1:] + radius[:-1])
    rings = 2 * np.pi * middle * [profile.xValue(r, 0.0) for r in middle] * np.diff(radius)
    numerical = np.concatenate([[0.0], np.cumsum(rings)])
    found = enclosed_flux(radius, index=index, truncation=truncation)
    np.testing.assert_allclose(found, numerical, atol=2e-5)
    assert enclosed_flux(np.array([1.0]), index=index, truncation=truncation)[0] == pytest.approx(
        0.5, abs=1e-6
    )
    assert enclosed_flux(np.array([9.0]), index=index, truncation=truncation)[0] == 1


@given(
    fraction=st.floats(0, 1),
    ratio=st.floats(0.1, 2.0),
    size=st.floats(0.05, 5.0),
    index=st.sampled_from([0.5, 1.0, 2.5, 4.0]),
    truncation=st.sampled_from([2.0, 5.0]),
)
def test_sum_of_components_has_the_half_light_radius(fraction, ratio, size, index, truncation):
    bulge, disk = component_radii(
        np.array([size]),
        bulge_fraction=np.array([fraction]),
        ratio=np.array([ratio]),
        index=index,
        truncation=truncation,
    )
    assert bulge[0] == pytest.approx(ratio * disk[0])
    inside = fraction * enclosed_flux(size / bulge, index=index, truncation=truncation)
    inside += (1 - fraction) * enclosed_flux(size / disk, index=1.0, truncation=truncation)
    assert inside[0] == pytest.approx(0.5, abs=1e-5)


def test_ellipticities_follow_the_truncated_normal():
    found = intrinsic_ellipticities(200_000, 0.25, np.random.default_rng(3))
    assert np.abs(found).max() < MAX_ELLIPTICITY
    drawn = np.random.default_rng(4).normal(scale=0.25, size=(2, 200_000))
    twin = (drawn[0] + 1j * drawn[1])[np.hypot(*drawn) < MAX_ELLIPTICITY]
    assert np.std(found.real) == pytest.approx(np.std(twin.real), rel=0.01)
    assert np.std(found.imag) == pytest.approx(np.std(twin.imag), rel=0.01)
    assert np.median(np.abs(found)) == pytest.approx(np.median(np.abs(twin)), rel=0.01)
    assert not intrinsic_ellipticities(5, 0.0, np.random.default_rng(3)).any()


@given(size=st.floats(0, 0.69), angle=st.floats(0, 7), g1=st.floats(-0.5, 0.5), g2=st.floats(-0.5, 0.5))
def test_lensing_is_galsims_composition_of_shears(size, angle, g1, g2):
    intrinsic = galsim.Shear(g=size, beta=angle * galsim.radians)
    shear = galsim.Shear(g1=g1, g2=g2)
    found = lens(np.array([complex(intrinsic.g1, intrinsic.g2)]), complex(g1, g2))[0]
    expected = shear + intrinsic
    assert found == pytest.approx(complex(expected.g1, expected.g2), abs=1e-9)
