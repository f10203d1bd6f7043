"""Errors match the scatter: isolated stars and galaxies, and what the formulas of the errors claim."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from benchmarks import pulls
from secondlight.measurement.plugins._kron_error_kernels import radius_variance
from secondlight.measurement.plugins.moment_errors import moment_covariance
from secondlight.psf.adaptive_moments import adaptive_moments

NOISE = pulls.Noise()
ROUNDS = 3
CELLS = 16
STAR, GALAXY = pulls.Kind("star"), pulls.Kind("galaxy", radius=3.0)


@functools.cache
def measured(kind: pulls.Kind, ratio: int) -> dict[str, dict[str, float]]:
    """Return the summary of all columns for objects of a signal-to-noise ratio."""
    field, truth = field_and_truth(kind)
    electrons = pulls.flux_of(field, ratio, NOISE)
    found = pulls.pulls(field, truth, electrons=electrons, noise=NOISE, rounds=ROUNDS, seed=5)
    return {name: pulls.summarize(*rows, relative=False) for name, rows in found.items()}


@functools.cache
def field_and_truth(kind: pulls.Kind):
    field = pulls.make_field(kind, cells=CELLS, seed=3)
    return field, pulls.measure_truth(field, NOISE)


@pytest.mark.parametrize("ratio", [25, 300])
@pytest.mark.parametrize("kind", [STAR, GALAXY], ids=["star", "galaxy"])
def test_pulls_of_everything(kind: pulls.Kind, ratio: int) -> None:
    """No bias, unit width: 768 objects give them to 0.04 and 0.03."""
    summaries = measured(kind, ratio)
    assert set(pulls.MEASURED) == set(summaries)
    wrong = {
        name: (s["bias"], s["width"], s["failed"])
        for name, s in summaries.items()
        if abs(s["bias"]) > 0.15 or abs(s["width"] - 1.0) > 0.1 or s["failed"] > 0.06
    }
    assert not wrong


def test_a_given_shape_or_radius_claims_too_little() -> None:
    """The same scatter over the errors for given shapes and radii, which are those of the reference."""
    field, truth = field_and_truth(STAR)
    electrons = pulls.flux_of(field, 25, NOISE)
    given = {
        "base_GaussianFlux": {"marginalizeShape": False},
        "ext_photometryKron_KronFlux": {"marginalizeRadius": False},
    }
    found = pulls.pulls(field, truth, electrons=electrons, noise=NOISE, rounds=1, seed=5, settings=given)
    for name, width in (("base_GaussianFlux_instFlux", 1.35), ("ext_photometryKron_KronFlux_instFlux", 1.08)):
        assert pulls.summarize(*found[name], relative=False)["width"] > width


@pytest.mark.parametrize("exponent", [1.0, 0.5], ids=["Gaussian", "exponential"])
def test_covariance_of_the_moments(exponent: float) -> None:
    """The covariance is that of the measurement's response to every single pixel."""
    size, x, y = 33, 16.2, 15.9
    j, i = np.indices((size, size))
    inverse = np.linalg.inv([[7.0, 1.5], [1.5, 4.0]])
    dx, dy = i - x, j - y
    q = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
    image = 1000.0 * np.exp(-0.5 * (q + 0.1) ** exponent * (1.0 if exponent == 1.0 else 2.5))
    variance = 20.0 + image

    def measure(images: np.ndarray) -> np.ndarray:
        m = adaptive_moments(images, x=x, y=y, tol1=1e-9, tol2=1e-9)
        return np.column_stack([2 * m.weighted_sum, m.xx, m.yy, m.xy])

    step = 0.5
    touched = image + step * np.eye(size * size).reshape(-1, size, size)
    response = (measure(touched) - measure(image[None])) / step
    expected = np.einsum("nk,n,nm->km", response, variance.ravel(), response)
    covariance = np.empty((4, 4))
    moments = measure(image[None])[0, 1:]
    moment_covariance(image, variance, x, y, moments, covariance)
    scale = np.sqrt(np.diagonal(expected))
    np.testing.assert_allclose(
        covariance / np.outer(scale, scale), expected / np.outer(scale, scale), atol=0.02
    )
    assert covariance[0, 1] > 0


def test_covariance_that_cannot_be_worked_out() -> None:
    image, variance = np.ones((21, 21)), np.ones((21, 21))
    covariance = np.empty((4, 4))
    for moments in ((4.0, 4.0, 4.0), (np.nan, 4.0, 0.0), (-4.0, -4.0, 0.0)):
        moment_covariance(image, variance, 10.0, 10.0, np.array(moments), covariance)
        assert np.isnan(covariance).all()
    moment_covariance(-image, variance, 10.0, 10.0, np.array([4.0, 4.0, 0.0]), covariance)
    assert np.isnan(covariance).all()


def test_variance_of_a_narrow_weight() -> None:
    """A weight narrower than a pixel is sampled inside pixels: the flux is that of a share of one pixel."""
    image, variance = np.zeros((21, 21)), np.full((21, 21), 4.0)
    image[10, 10] = 100.0
    covariance = np.empty((4, 4))
    moment_covariance(image, variance, 10.0, 10.0, np.array([0.1, 0.1, 0.0]), covariance)
    assert np.isfinite(covariance).all()
    assert 0 < covariance[0, 0] < 100 * 4.0


def test_variance_of_the_radius() -> None:
    """The kernel is the sum over pixels of the difference to the variance of a fixed aperture."""
    rng = np.random.default_rng(1)
    size, x, y, shape = 61, 30.3, 29.8, (5.0, 4.0, 1.0)
    j, i = np.indices((size, size))
    inverse = np.linalg.inv([[shape[0], shape[2]], [shape[2], shape[1]]])
    q = inverse[0, 0] * (i - x) ** 2 + 2 * inverse[0, 1] * (i - x) * (j - y) + inverse[1, 1] * (j - y) ** 2
    r = np.sqrt(q) * (20 - 1) ** 0.25
    image, variance = 50 * np.exp(-0.5 * q), rng.uniform(1, 3, (size, size))
    radius, window, flux = 2.6, 12.5, 1234.0
    aperture = 2.5 * radius
    inside, within = r <= window, r <= aperture
    own = (r - radius) * inside * 0.16 * flux / radius / image[inside].sum()
    expected = ((within + own) ** 2 * variance).sum() - variance[within].sum()
    result = radius_variance(image, variance, x, y, shape, flux, radius, window, aperture)
    assert result == pytest.approx(expected, rel=1e-9)
    assert radius_variance(-image, variance, x, y, shape, flux, radius, window, aperture) == 0.0
