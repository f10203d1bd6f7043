from __future__ import annotations

import numpy as np
import pytest

from secondlight.background.statistics import clipped_statistics
from tests.measurement.scene import measure_at
from tests.scenes import make_visit_image

SIGMA = 2.0


def test_annulus_and_ellipse_have_plain_twins() -> None:
    """Clipped statistics of the ring, and the median in the ellipse, of arrays cut out with masks."""
    exposure = make_visit_image(width=160, height=150, noise=10.0, background=3.0, sigma=SIGMA, seed=5)
    rng = np.random.default_rng(6)
    exposure.variance.array[...] = rng.uniform(50.0, 150.0, exposure.variance.array.shape)
    exposure.image.array[70:74, 80:100] = np.nan
    exposure.mask.set("BAD", rng.random((150, 160)) < 0.2)
    bad = (exposure.mask.array & exposure.mask.schema.bitmask("BAD")).any(axis=-1)
    x, y = np.array([80.3, 6.0, 159.0, 79.5]), np.array([70.6, 100.2, 149.0, 74.5])
    moments = (6.0, 3.0, 1.5)
    catalog = measure_at(exposure, ["base_LocalBackground", "base_Variance"], x=x, y=y, moments=moments)
    j, i = np.mgrid[:150, :160]
    inverse = np.linalg.inv([[6.0, 1.5], [1.5, 3.0]])
    for k in range(len(x)):
        dx, dy = i - x[k], j - y[k]
        r = np.hypot(dx, dy)
        ring = exposure.image.array[(r <= 15 * SIGMA) & (r > 7 * SIGMA) & ~bad]
        expected = clipped_statistics(ring)
        assert np.isnan(ring).any() == (k in (0, 3))
        assert catalog["base_LocalBackground_instFlux"][k] == pytest.approx(expected.mean, rel=5e-3)
        assert catalog["base_LocalBackground_instFluxErr"][k] == pytest.approx(expected.stdev, rel=5e-3)
        q = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
        inside = exposure.variance.array[(q <= 25.0) & ~bad]
        assert catalog["base_Variance_value"][k] == pytest.approx(np.median(inside), rel=1e-6)
    assert not catalog["base_LocalBackground_flag"].any()
    assert not catalog["base_Variance_flag"].any()


def test_annulus_without_a_hole() -> None:
    """An inner radius of 0 makes the annulus a disc; the background is a constant in it."""
    exposure = make_visit_image(width=160, height=150, background=3.0, sigma=SIGMA, add_noise=False)
    settings = {"base_LocalBackground": {"annulusInner": 0.0}}
    catalog = measure_at(exposure, ["base_LocalBackground"], x=[80.3], y=[70.0], settings=settings)
    assert catalog["base_LocalBackground_instFlux"][0] == pytest.approx(3.0)
    assert not catalog["base_LocalBackground_flag"].any()


def test_unknown_variances_do_not_count() -> None:
    """Ten of the 21 columns of the ellipse are unknown; the others rise from left to right."""
    exposure = make_visit_image(width=160, height=150, noise=10.0, add_noise=False)
    exposure.variance.array[...] = np.arange(160.0)
    exposure.variance.array[:, 81:] = np.nan
    catalog = measure_at(exposure, ["base_Variance"], x=[80.0], y=[70.0])
    j, i = np.mgrid[:150, :160]
    inside = exposure.variance.array[np.hypot(i - 80, j - 70) <= 10]
    assert catalog["base_Variance_value"][0] == np.nanmedian(inside)
    assert not catalog["base_Variance_flag"][0]
