"""Kernels of the composite model beside slow and obvious twins, numerical derivatives and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlight.measurement.modelfit import optimizer, priors, regions
from secondlight.measurement.modelfit.config import CModelConfig, EmpiricalPriorConfig, LinearPriorConfig
from secondlight.measurement.modelfit.mixtures import draw_mixture, fill_offsets
from secondlight.measurement.modelfit.profiles import PROFILES, profile_mixture
from secondlight.measurement.modelfit.shapelet_psf import _moments, shapelets_to_derivatives
from secondlight.measurement.modelfit.shapelets import fill_basis
from secondlight.measurement.modelfit.stages import parameters_of
from secondlight.measurement.pixels import SourcePixels

from .shapelet_algebra import convolve_with_gaussian

SIZE = 61
REGION = regions.RegionSettings(1.5, 4.0, 2.0, 1.0, 3.0, 100000, 0.1)
TO_PIXELS = np.eye(3) / 0.04
"""Moments in pixel^2 from arcsec^2, for pixels of 0.2 arcsec."""

PSF_MOMENTS = np.array([[3.0, 2.2, 0.4], [8.0, 7.0, -0.5]])
PSF_CENTRES = np.array([[0.1, -0.2], [-0.15, 0.05]])
PSF_COEFFICIENTS = np.array([[0.13, 0.01, -0.02, 0.012, -0.006, 0.009], [0.15, -0.01, 0.02, 0.0, 0.0, 0.0]])
PSF = shapelets_to_derivatives(PSF_MOMENTS, centres=PSF_CENTRES, coefficients=PSF_COEFFICIENTS)


def pixels_of(image: np.ndarray, variance: float = 1.0) -> SourcePixels:
    """Return an image without own pixels of sources."""
    none = np.zeros(1, dtype=np.int64)
    data = image.astype(np.float32)
    empty = np.zeros(0, dtype=np.float32)
    spans = np.zeros(0, dtype=np.int32)
    return SourcePixels(
        data, np.full_like(data, variance), 0, 0, none, spans, spans, spans, none, empty, empty
    )


def full_region(image: np.ndarray | None = None, *, radius: float = 25.0, variance: float = 1.0):
    """Return the pixels of a circle about the middle of an image."""
    image = np.zeros((SIZE, SIZE)) if image is None else image
    region = regions.make_region(image.shape, 100000)
    bad = np.zeros(image.shape, dtype=bool)
    ellipse = np.array([radius**2, radius**2, 0.0])
    assert not regions.select_pixels(pixels_of(image, variance), bad, REGION, 30.0, 30.0, ellipse, region)
    regions.set_weights(region, True, 1.0)
    return region


def drawn(region, moments, profile=("lux", 6), centre=(30.2, 29.7), slot=0) -> np.ndarray:
    """Draw a galaxy and its derivatives, (4, n)."""
    fill_offsets(region, *centre)
    mixture = profile_mixture(profile[0], components=profile[1])
    draw_mixture(region, slot, PSF, *mixture, *moments)
    return region.models[slot, :, : region.counts[1]].copy()


def slow_model(region, moments, profile=("lux", 6), centre=(30.2, 29.7)) -> np.ndarray:
    """Draw a galaxy by convolving each expansion of the PSF with each Gaussian."""
    x, y = positions(region)
    total = np.zeros(len(x))
    for amplitude, variance in zip(*profile_mixture(profile[0], components=profile[1]), strict=True):
        for ellipse, offset, coefficients in zip(PSF_MOMENTS, PSF_CENTRES, PSF_COEFFICIENTS, strict=True):
            gaussian = variance * np.asarray(moments)
            convolved = np.empty(6)
            convolve_with_gaussian(2, ellipse, coefficients, gaussian, convolved)
            basis = np.empty((6, len(x)))
            fill_basis(2, *(ellipse + gaussian), x - centre[0] - offset[0], y - centre[1] - offset[1], basis)
            total += amplitude * convolved @ basis
    return total


def positions(region) -> tuple[np.ndarray, np.ndarray]:
    """Return the parent positions of all pixels of a region."""
    rows, n, _ = region.counts
    starts = region.row_start[: rows + 1]
    row = np.repeat(np.arange(rows), np.diff(starts))
    x = region.row_x[:rows][row] + np.arange(n) - starts[row]
    return x.astype(float), region.row_y[:rows][row].astype(float)


@pytest.mark.parametrize("profile", [("lux", 3), ("lux", 6), ("luv", 8)])
@pytest.mark.parametrize("moments", [(0.01, 0.01, 0.0), (9.0, 4.0, 2.5), (200.0, 60.0, -100.0)])
def test_model_is_the_convolution_with_the_shapelets(profile, moments) -> None:
    region = full_region()
    model = drawn(region, moments, profile)[0]
    expected = slow_model(region, moments, profile)
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-11 * expected.max())


@pytest.mark.parametrize("k", [0, 1, 2])
def test_derivatives_by_the_moments(k: int) -> None:
    region, moments, step = full_region(), np.array([9.0, 4.0, 2.5]), np.zeros(3)
    step[k] = 1e-4
    slope = (drawn(region, moments + step)[0] - drawn(region, moments - step)[0]) / 2e-4
    np.testing.assert_allclose(drawn(region, moments)[1 + k], slope, atol=1e-8 * np.abs(slope).max())


def test_model_for_a_psf_of_high_order() -> None:
    region, moments, centre = full_region(), np.array([9.0, 4.0, 2.5]), (30.2, 29.7)
    coefficients = np.random.default_rng(8).normal(size=(1, 15)) * 0.05 + np.eye(15)[:1] * 0.2
    psf = shapelets_to_derivatives(PSF_MOMENTS[:1], centres=np.zeros((1, 2)), coefficients=coefficients)
    fill_offsets(region, *centre)
    draw_mixture(region, 0, psf, np.ones(1), np.ones(1), *moments)
    n = region.counts[1]
    model = region.models[0, :, :n].copy()
    convolved, basis = np.empty(15), np.empty((15, n))
    convolve_with_gaussian(4, PSF_MOMENTS[0], coefficients[0], moments, convolved)
    x, y = positions(region)
    fill_basis(4, *(PSF_MOMENTS[0] + moments), x - centre[0], y - centre[1], basis)
    np.testing.assert_allclose(model[0], convolved @ basis, atol=1e-12)
    for k, step in enumerate(1e-4 * np.eye(3)):
        draw_mixture(region, 0, psf, np.ones(1), np.ones(1), *(moments + step))
        draw_mixture(region, 1, psf, np.ones(1), np.ones(1), *(moments - step))
        slope = (region.models[0, 0, :n] - region.models[1, 0, :n]) / 2e-4
        np.testing.assert_allclose(model[1 + k], slope, atol=1e-8 * np.abs(slope).max())


def test_a_narrow_gaussian_is_not_lost_in_a_wide_region() -> None:
    region = full_region(radius=29.0)
    narrow = shapelets_to_derivatives(
        np.array([[0.07, 0.07, 0.0]]), centres=np.zeros((1, 2)), coefficients=np.eye(6)[:1] / 3.545
    )
    fill_offsets(region, 30.2, 29.7)
    draw_mixture(region, 0, narrow, np.ones(1), np.ones(1), 0.001, 0.001, 0.0)
    x, y = positions(region)
    expected = np.exp(-0.5 * ((x - 30.2) ** 2 + (y - 29.7) ** 2) / 0.071) / (2 * np.pi * 0.071)
    model = region.models[0, 0, : region.counts[1]]
    np.testing.assert_allclose(model, expected / (0.5 / np.sqrt(np.pi) * 3.545), atol=1e-10)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (25.0, 0.0)])
def test_a_long_inclined_galaxy_or_a_shifted_psf_is_not_lost_at_the_ends_of_rows(centre) -> None:
    size, galaxy = 241, np.array([1800.0, 1800.0, 1799.9])
    region = regions.make_region((size, size), 100000)
    ellipse, bad = np.array([115.0**2, 115.0**2, 0.0]), np.zeros((size, size), dtype=bool)
    pixels = pixels_of(np.zeros((size, size)))
    assert not regions.select_pixels(pixels, bad, REGION, 120.0, 120.0, ellipse, region)
    fill_offsets(region, 120.0, 120.0)
    psf = shapelets_to_derivatives(
        np.array([[0.1, 0.1, 0.0]]), centres=np.array([centre]), coefficients=np.eye(6)[:1] / 3.545
    )
    draw_mixture(region, 0, psf, np.ones(1), np.ones(1), *galaxy)
    xx, yy, xy = galaxy + np.array([0.1, 0.1, 0.0])
    det = xx * yy - xy * xy
    x, y = positions(region)
    dx, dy = x - 120.0 - centre[0], y - 120.0 - centre[1]
    square = (yy * dx**2 - 2.0 * xy * dx * dy + xx * dy**2) / det
    expected = np.exp(-0.5 * square) / (2.0 * np.pi * np.sqrt(det)) * (2.0 * np.sqrt(np.pi) / 3.545)
    model = region.models[0, 0, : region.counts[1]]
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-10 * expected.max())


def test_psf_moments_are_those_of_the_drawing() -> None:
    region = full_region()
    fill_offsets(region, 30.0, 30.0)
    draw_mixture(region, 0, PSF, np.ones(1), np.ones(1), 0.0, 0.0, 0.0)
    model = region.models[0, 0, : region.counts[1]]
    dx, dy = region.dx[: region.counts[1]], region.dy[: region.counts[1]]
    x, y = (model * dx).sum() / model.sum(), (model * dy).sum() / model.sum()
    second = [
        (model * (dx - x) ** 2).sum(),
        (model * (dy - y) ** 2).sum(),
        (model * (dx - x) * (dy - y)).sum(),
    ]
    moments, centre = _moments(PSF[None])
    np.testing.assert_allclose(centre[0], [x, y], atol=1e-9)
    np.testing.assert_allclose(moments[0], np.array(second) / model.sum(), atol=1e-7)


@pytest.mark.parametrize("name", ["lux", "luv"])
def test_profiles_have_unit_flux_and_half_of_it_within_the_half_light_radius(name: str) -> None:
    for components in PROFILES[name].mixtures:
        amplitudes, variances = profile_mixture(name, components=components)
        assert amplitudes.sum() == pytest.approx(1.0, abs=1e-12)
        assert (amplitudes * np.exp(-0.5 / variances)).sum() == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ValueError, match="There is no mixture for the profile lux with 5"):
        profile_mixture("lux", components=5)


# Priors -----------------------------------------------------------------------------------------------------

PRIORS = {
    "empirical": EmpiricalPriorConfig().prior(),
    "linear": priors.linear_prior(
        outer=-3.0, inner=-2.0, upper_inner=1.0, upper_outer=2.0, ratio=0.4, shear_inner=0.5, shear_outer=1.5
    ),
}


def log_p(prior, *parameters: float) -> float:
    """Return the logarithm of a prior."""
    return priors.log_prior(prior, np.array([*parameters, 1.0]), np.empty(4), np.empty((4, 4)))


@pytest.mark.parametrize("name", PRIORS)
def test_priors_are_normalised(name: str) -> None:
    prior = PRIORS[name]
    pieces = [-6.001, -6.0, -1.0, 8.0] if name == "empirical" else [-3.0, -2.0, 1.0, 2.0]
    radius = sum(
        scipy.integrate.quad(lambda r: math.exp(log_p(prior, 0.0, 0.0, r)), a, b)[0]
        for a, b in itertools.pairwise(pieces)
    )
    at = -3.0 if name == "empirical" else 0.0
    shear = sum(
        scipy.integrate.quad(lambda e: 2 * np.pi * e * math.exp(log_p(prior, e, 0.0, at)), a, b, limit=200)[0]
        for a, b in ((0.0, 0.01), (0.01, 0.5), (0.5, 1.5), (1.5, 9.0))
    )
    assert radius * shear / math.exp(log_p(prior, 0.0, 0.0, at)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("radius", [-6.0004, -2.6, -1.3, -0.6, 0.9, 1.4])
@pytest.mark.parametrize("shear", [(0.0, 0.0), (0.0005, -0.0003), (0.2, 0.1), (-0.9, 0.4)])
def test_derivatives_of_priors(name: str, radius: float, shear: tuple[float, float]) -> None:
    prior, point = PRIORS[name], np.array([*shear, radius, 1.0])
    gradient, hessian = np.empty(4), np.empty((4, 4))
    if not np.isfinite(priors.log_prior(prior, point, gradient, hessian)):
        return
    h = 1e-7
    above, below, unused = np.empty(4), np.empty(4), np.empty((4, 4))
    for k in range(3):
        step = np.eye(4)[k] * h
        up = priors.log_prior(prior, point + step, above, unused)
        down = priors.log_prior(prior, point - step, below, unused)
        assert gradient[k] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-5)
        slope = (above - below) / (2 * h)
        np.testing.assert_allclose(hessian[k], slope, atol=1e-5 * max(1.0, np.abs(slope).max()))


def test_negative_flux_and_radii_off_the_edge_have_no_probability() -> None:
    prior, g, h = PRIORS["empirical"], np.empty(4), np.empty((4, 4))
    assert priors.log_prior(prior, np.array([0.0, 0.0, -2.0, -1e-9]), g, h) == -np.inf
    assert log_p(prior, 0.0, 0.0, -6.0011) == -np.inf
    assert log_p(PRIORS["linear"], 0.0, 0.0, 2.1) == -np.inf
    assert log_p(PRIORS["linear"], 1.6, 0.0, 0.0) == -np.inf
    assert priors.log_prior(priors.no_prior(), np.array([3.0, 0.0, -9.0, -1.0]), g, h) == 0.0


def test_default_linear_prior() -> None:
    prior = LinearPriorConfig().prior()
    assert log_p(prior, 0.0, 0.0, -5.0) == pytest.approx(log_p(prior, 1.9, 0.0, 2.9))


# Optimiser --------------------------------------------------------------------------------------------------


def make_fit(seed: int = 3, *, flux: float = 4000.0, radius: float = 0.6) -> optimizer.Fit:
    """Return a fit to a noisy exponential galaxy (half-light radius in arcsec)."""
    truth = np.array([0.3, -0.2, math.log(radius), 1.0])
    fit = fit_to(full_region(), flux)
    moments = np.empty(3)
    optimizer.galaxy_moments(truth, TO_PIXELS, moments, np.empty((3, 3)))
    model = flux * drawn(fit.region, moments)[0]
    n = len(model)
    fit.region.data[:n] = model + np.random.default_rng(seed).normal(size=n)
    return fit


def fit_to(region, flux: float) -> optimizer.Fit:
    """Return the fit of an exponential profile to a region."""
    fill_offsets(region, 30.2, 29.7)
    return optimizer.Fit(
        region, PSF, *profile_mixture("lux", components=6), TO_PIXELS, flux, PRIORS["empirical"]
    )


def value_of(fit: optimizer.Fit, parameters: np.ndarray, gradient: np.ndarray | None = None) -> float:
    """Return the objective."""
    g = np.empty(4) if gradient is None else gradient
    return optimizer.objective(fit, 0, parameters, g, np.empty((4, 4)), np.empty(4), np.empty((4, 4)))


def test_gradient_of_the_objective() -> None:
    fit, point, gradient = make_fit(), np.array([0.1, 0.15, -0.8, 0.9]), np.empty(4)
    value_of(fit, point, gradient)
    numerical = scipy.optimize.approx_fprime(point, lambda p: value_of(fit, p), 1e-7)
    np.testing.assert_allclose(gradient, numerical, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("start", [(0.0, 0.0, -2.0, 1.0), (0.8, 0.3, 0.5, 0.5), (-0.5, 1.0, -4.0, 2.0)])
def test_optimiser_finds_the_minimum_of_scipy(seed: int, start) -> None:
    fit = make_fit(seed)
    parameters = np.array(start)
    status, value, points, _ = optimizer.minimise(fit, CModelConfig().exp.optimizer.settings(), parameters)
    assert status in (optimizer.CONVERGED, optimizer.SMALL_RADIUS)
    assert points < 40
    assert value_of(fit, parameters) == pytest.approx(value, rel=1e-12)

    def residuals(p: np.ndarray) -> np.ndarray:
        moments = np.empty(3)
        optimizer.galaxy_moments(p, TO_PIXELS, moments, np.empty((3, 3)))
        model = slow_model(fit.region, moments)
        n = len(model)
        chi = (p[3] * fit.flux_unit * model - fit.region.data[:n]) * fit.region.weight[:n]
        return np.append(chi, math.sqrt(2.0 * (10.0 - log_p(fit.prior, *p[:3]))))

    best = scipy.optimize.least_squares(
        residuals, [0.3, -0.2, math.log(0.6), 1.0], x_scale=[0.1, 0.1, 0.1, 0.1]
    )
    assert value == pytest.approx(best.cost - 10.0, abs=1e-4)
    np.testing.assert_allclose(parameters, best.x, atol=2e-4)


def test_iterations_run_out() -> None:
    config = CModelConfig().exp.optimizer
    config.maxOuterIterations = 2
    status, *_ = optimizer.minimise(make_fit(), config.settings(), np.array([0.9, -0.9, -3.0, 0.1]))
    assert status == optimizer.MAX_ITERATIONS


def test_no_probability_at_the_start() -> None:
    parameters = np.array([0.0, 0.0, -7.0, 1.0])
    status, *_ = optimizer.minimise(make_fit(), CModelConfig().exp.optimizer.settings(), parameters)
    assert status == optimizer.NUMERIC


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100.0), st.booleans())
def test_step_within_the_trust_region(seed: int, radius: float, hard: bool) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(4, 4)) * 10 ** rng.uniform(-2, 2, 4)
    hessian = a + a.T
    gradient = rng.normal(size=4)
    if hard:
        gradient -= (lowest := np.linalg.eigh(hessian)[1][:, 0]) * (lowest @ gradient)
    step = np.empty(4)
    optimizer.trust_step(gradient, hessian, radius, 1e-8, step)
    assert np.linalg.norm(step) <= radius * (1 + 1e-6)

    def model(s: np.ndarray) -> float:
        return float(gradient @ s + 0.5 * s @ hessian @ s)

    values, vectors = np.linalg.eigh(hessian)
    slopes = vectors.T @ gradient

    def length(shift: float) -> float:
        return float(np.linalg.norm(slopes / (values + shift)))

    low = max(0.0, -values[0]) + 1e-13 * np.abs(values).max()
    best = -vectors @ (slopes / (values + low))
    if np.linalg.norm(best) > radius:
        high = low + np.linalg.norm(slopes) / radius + 1e-9
        shift = scipy.optimize.brentq(lambda s: length(s) - radius, low, high, xtol=1e-300, rtol=1e-14)
        best = -vectors @ (slopes / (values + shift))
    elif values[0] < 0:
        best += vectors[:, 0] * math.sqrt(radius**2 - best @ best)
    best *= min(1.0, radius / np.linalg.norm(best))
    assert model(step) <= model(best) + 1e-5 * abs(model(best))


def test_parameters_and_moments_are_inverse() -> None:
    to_sky = np.array([[-0.19, 0.03], [0.02, 0.21]])
    inverse = np.linalg.inv(to_sky)
    a, b, c, d = inverse.ravel()
    to_pixels = np.array(
        [[a * a, b * b, 2 * a * b], [c * c, d * d, 2 * c * d], [a * c, b * d, a * d + b * c]]
    )
    moments, parameters, back = np.array([7.0, 3.0, -2.0]), np.zeros(4), np.empty(3)
    parameters_of(moments, to_sky, parameters)
    slopes = np.empty((3, 3))
    optimizer.galaxy_moments(parameters, to_pixels, back, slopes)
    np.testing.assert_allclose(back, moments, rtol=1e-12)
    above, below = np.empty(3), np.empty(3)
    for k in range(3):
        step = np.eye(4)[k] * 1e-6
        optimizer.galaxy_moments(parameters + step, to_pixels, above, np.empty((3, 3)))
        optimizer.galaxy_moments(parameters - step, to_pixels, below, np.empty((3, 3)))
        np.testing.assert_allclose(slopes[:, k], (above - below) / 2e-6, rtol=1e-6, atol=1e-6)


# Regions ----------------------------------------------------------------------------------------------------


def test_region_holds_the_pixels_whose_centres_are_inside() -> None:
    image = np.arange(SIZE**2, dtype=float).reshape(SIZE, SIZE)
    bad = np.zeros(image.shape, dtype=bool)
    bad[30, 30] = True
    region = regions.make_region(image.shape, 1000)
    ellipse = np.array([60.0, 20.0, 15.0])
    problem = regions.select_pixels(pixels_of(image), bad, REGION, 30.3, 29.6, ellipse, region)
    j, i = np.indices(image.shape)
    dx, dy = i - 30.3, j - 29.6
    inside = (20.0 * dx**2 - 30.0 * dx * dy + 60.0 * dy**2) / (60.0 * 20.0 - 15.0**2) <= 1.0
    x, y = positions(region)
    assert problem == 0
    np.testing.assert_array_equal(x, i[inside])
    np.testing.assert_array_equal(y, j[inside])
    assert region.counts[2] == inside.sum() - 1
    np.testing.assert_array_equal(region.good[: region.counts[1]] == 0, bad[inside])


def test_region_off_the_edge_or_too_large() -> None:
    image, bad = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE), dtype=bool)
    region = regions.make_region(image.shape, 1000)
    circle = np.array([64.0, 64.0, 0.0])

    def select(x: float, ellipse: np.ndarray, limits: regions.RegionSettings = REGION) -> int:
        return regions.select_pixels(pixels_of(image), bad, limits, x, 30.0, ellipse, region)

    assert select(8.0, circle) == 0
    assert select(4.0, circle) == regions.BAD_PIXELS
    assert select(-300.0, circle) == regions.BAD_PIXELS
    assert select(30.0, circle, REGION._replace(max_area=150)) == regions.MAX_AREA
    assert select(30.0, circle * np.nan) == regions.MAX_AREA


def test_initial_ellipse() -> None:
    psf, source, ellipse = np.array([4.0, 4.0, 0.0]), np.array([16.0, 9.0, 2.0]), np.empty(3)
    assert regions.initial_ellipse(REGION, source, psf, 10.0, 50.0, ellipse) == 0
    assert ellipse[0] * ellipse[1] - ellipse[2] ** 2 == pytest.approx(15.0**4)
    np.testing.assert_allclose(ellipse / ellipse[0], source / 16.0)
    assert regions.initial_ellipse(REGION, source, psf, 3.0, 400.0, ellipse) == regions.FOOTPRINT_AREA
    np.testing.assert_allclose(ellipse, [400.0 / np.pi, 400.0 / np.pi, 0.0])
    for kron in (np.nan, -1.0, 3.0):
        assert regions.initial_ellipse(REGION, source, psf, kron, 50.0, ellipse) == regions.PSF_AREA
        np.testing.assert_allclose(ellipse, 16.0 * psf)


def test_final_ellipse_has_the_area_of_the_initial_one() -> None:
    psf, initial, ellipse = np.array([4.0, 3.0, 0.5]), np.array([150.0, 140.0, 10.0]), np.empty(3)
    fitted = np.array([30.0, 25.0, 8.0])
    assert regions.final_ellipse(REGION, fitted, psf, initial, ellipse) == 0
    assert ellipse[0] * ellipse[1] - ellipse[2] ** 2 == pytest.approx(150.0 * 140.0 - 100.0)
    radii = np.sqrt((ellipse - 4.0 * psf) / fitted)
    np.testing.assert_allclose(radii, radii[0])
    assert 1.0 < radii[0] < 3.0
    tiny = 1e-9 * fitted
    assert regions.final_ellipse(REGION, tiny, psf, initial, ellipse) == regions.MAX_ELLIPSE
    np.testing.assert_allclose(ellipse, 9.0 * tiny + 4.0 * psf)
    assert regions.final_ellipse(REGION, 100 * fitted, psf, initial, ellipse) == regions.MIN_ELLIPSE
    np.testing.assert_allclose(ellipse, 100 * fitted + 4.0 * psf)


def test_weights() -> None:
    region = full_region(radius=3.0)
    n = region.counts[1]
    region.variance[:n] = np.linspace(1.0, 9.0, n)
    region.good[5] = 0.0
    region.counts[2] = n - 1
    good = np.arange(n) != 5
    regions.set_weights(region, True, 2.0)
    np.testing.assert_allclose(region.weight[:n], 2.0 * good / np.sqrt(region.variance[:n]))
    regions.set_weights(region, False, 2.0)
    mean = np.exp(np.mean(np.log(1.0 / np.sqrt(region.variance[:n][good]))))
    np.testing.assert_allclose(region.weight[:n], 2.0 * mean * good)
