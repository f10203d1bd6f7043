"""Gauss-Hermite expansions: basis, moments, convolution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import eval_hermite

from secondlight.measurement.modelfit.shapelets import (
    MAX_ORDER,
    fill_basis,
    square_root,
    term_count,
)

from .shapelet_algebra import component_moments, convolve_with_gaussian
from .shapelet_twins import basis_twin, draw_expansion, grid, matrix_root

ELLIPSES = [(3.0, 3.0, 0.0), (4.0, 2.5, 1.1), (2.2, 5.0, -1.9)]


def coefficients(order: int, seed: int = 1) -> np.ndarray:
    """Return an expansion with a positive flux and higher terms a fifth as large."""
    values = 0.2 * np.random.default_rng(seed).normal(size=term_count(order))
    values[0] = 1.0
    return values


@pytest.mark.parametrize("ellipse", ELLIPSES)
@pytest.mark.parametrize("order", range(MAX_ORDER + 1))
def test_basis_is_that_of_the_formula(order: int, ellipse: tuple[float, float, float]) -> None:
    x, y = (v.ravel() for v in grid(10.0, 21))
    basis = np.full((term_count(order), len(x)), np.nan)
    fill_basis(order, *ellipse, x, y, basis)
    np.testing.assert_allclose(basis, basis_twin(order, ellipse, x, y), atol=1e-14)


def test_recursion_gives_normalised_hermite_polynomials() -> None:
    t = np.linspace(-3, 3, 13)
    basis = np.empty((term_count(4), len(t)))
    fill_basis(4, 1.0, 1.0, 0.0, t, np.zeros_like(t), basis)
    for n, k in ((0, 0), (1, 2), (2, 5), (3, 9), (4, 14)):
        norm = math.sqrt(2.0**n * math.factorial(n) * math.sqrt(math.pi))
        expected = eval_hermite(n, t) * np.exp(-0.5 * t * t) / norm * math.pi**-0.25
        np.testing.assert_allclose(basis[k], expected, atol=1e-14)


def test_basis_is_orthonormal_but_for_the_size_of_the_ellipse() -> None:
    """The integral of a product is det(T) for equal functions, 0 for others."""
    x, y = grid(25.0, 401)
    basis = np.empty((term_count(4), x.size))
    fill_basis(4, 4.0, 2.5, 1.1, x.ravel(), y.ravel(), basis)
    gram = basis @ basis.T * (50.0 / 400) ** 2
    np.testing.assert_allclose(gram, np.eye(len(gram)) / math.sqrt(4.0 * 2.5 - 1.1**2), atol=1e-12)


def test_square_root_of_moments() -> None:
    for ellipse in ELLIPSES:
        xx, yy, xy = square_root(*ellipse)
        np.testing.assert_allclose([[xx, xy], [xy, yy]], matrix_root(ellipse), rtol=1e-14)


@pytest.mark.parametrize("ellipse", ELLIPSES)
@pytest.mark.parametrize("order", range(MAX_ORDER + 1))
def test_moments_are_sums_over_the_drawn_expansion(order: int, ellipse: tuple[float, float, float]) -> None:
    x, y = grid(30.0, 301)
    c = coefficients(order)
    image = draw_expansion(order, ellipse, c, x, y) * 0.2**2
    expected = [(image * m).sum() for m in (1.0, x, y, x * x, y * y, x * y)]
    result = np.empty(6)
    component_moments(order, *ellipse, c, result)
    np.testing.assert_allclose(result, expected, atol=1e-10)
    if order == 0:
        assert result[0] == pytest.approx(2 * math.sqrt(math.pi))


@pytest.mark.parametrize("gaussian", [(1.7, 3.1, 0.8), (9.0, 1.0, -2.0)])
@pytest.mark.parametrize("ellipse", ELLIPSES)
@pytest.mark.parametrize("order", range(MAX_ORDER + 1))
def test_convolution_is_that_of_the_fourier_transforms(
    order: int, ellipse: tuple[float, float, float], gaussian: tuple[float, float, float]
) -> None:
    n, half = 240, 36.0
    x, y = grid(half, n, endpoint=False)
    step = 2 * half / n
    c = coefficients(order)
    narrow = draw_expansion(order, ellipse, c, x, y)
    kernel = draw_expansion(0, gaussian, np.array([0.5 / math.sqrt(math.pi)]), x, y)
    product = np.fft.fft2(np.fft.ifftshift(narrow)) * np.fft.fft2(np.fft.ifftshift(kernel))
    expected = np.fft.fftshift(np.fft.ifft2(product).real) * step**2
    wide = np.empty_like(c)
    convolve_with_gaussian(order, np.array(ellipse), c, np.array(gaussian), wide)
    drawn = draw_expansion(order, tuple(np.add(ellipse, gaussian)), wide, x, y)
    np.testing.assert_allclose(drawn, expected, atol=1e-9 * np.abs(expected).max())


@given(
    order=st.integers(0, MAX_ORDER),
    seed=st.integers(0, 10**6),
    size=st.floats(0.3, 30.0),
    ratio=st.floats(0.1, 1.0),
    angle=st.floats(0, math.pi),
)
@settings(deadline=None, max_examples=60)
def test_convolution_adds_moments_and_keeps_flux_and_centroid(
    order: int, seed: int, size: float, ratio: float, angle: float
) -> None:
    """And two convolutions are one with the sum of the moments."""
    rng = np.random.default_rng(seed)
    c, ellipse = coefficients(order, seed), np.array(ELLIPSES[seed % 3])
    mean, half = 0.5 * size * (1 + ratio), 0.5 * size * (1 - ratio)
    first = np.array(
        [mean + half * math.cos(2 * angle), mean - half * math.cos(2 * angle), half * math.sin(2 * angle)]
    )
    second = np.array(ELLIPSES[rng.integers(3)])
    once, twice, both = np.empty_like(c), np.empty_like(c), np.empty_like(c)
    convolve_with_gaussian(order, ellipse, c, first, once)
    convolve_with_gaussian(order, ellipse + first, once, second, twice)
    convolve_with_gaussian(order, ellipse, c, first + second, both)
    np.testing.assert_allclose(twice, both, atol=1e-12)
    before, after = np.empty(6), np.empty(6)
    component_moments(order, *ellipse, c, before)
    component_moments(order, *(ellipse + first), once, after)
    np.testing.assert_allclose(after[:3], before[:3], atol=1e-11)
    np.testing.assert_allclose(after[3:], before[3:] + before[0] * first, atol=1e-10)


def test_convolution_in_place_and_with_nothing() -> None:
    c = coefficients(4)
    result = c.copy()
    convolve_with_gaussian(4, np.array(ELLIPSES[1]), result, np.zeros(3), result)
    np.testing.assert_allclose(result, c, atol=1e-14)
