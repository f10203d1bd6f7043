"""Sinc apertures of ellipses against the slow transform, and against analytic fluxes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlight.photometry._aperture_kernels import lanczos_shift
from secondlight.photometry._elliptical_sinc_kernels import (
    JINC_TABLE,
    _jinc,
    ellipse_coefficients,
    ellipse_sums,
)
from secondlight.photometry.apertures import sinc_coefficients

MARGIN = 8


def matrix(a: float, b: float, theta: float) -> tuple[float, float, float]:
    """Return xx, yy, xy of an ellipse."""
    c, s = np.cos(theta), np.sin(theta)
    return a**2 * c**2 + b**2 * s**2, a**2 * s**2 + b**2 * c**2, (a**2 - b**2) * c * s


def slow_coefficients(dx: float, dy: float, xx: float, yy: float, xy: float) -> np.ndarray:
    """Return the inverse DFT of the ellipse's transform, then shifted with the same Lanczos kernel."""
    half_x, half_y = (int(np.ceil(np.sqrt(v))) + MARGIN for v in (xx, yy))
    kx, ky = np.fft.fftfreq(2 * half_x + 1)[None, :], np.fft.fftfreq(2 * half_y + 1)[:, None]
    z = 2 * np.pi * np.sqrt(xx * kx**2 + yy * ky**2 + 2 * xy * kx * ky)
    z[0, 0] = 1.0
    jinc = 2 * scipy.special.j1(z) / z
    jinc[0, 0] = 1.0
    image = np.pi * np.sqrt(xx * yy - xy**2) * np.fft.fftshift(np.fft.ifft2(jinc).real)
    periodic = np.pad(image, 6, mode="wrap")
    rows, out = np.empty_like(periodic), np.empty_like(periodic)
    lanczos_shift(periodic, round(dx, 9), round(dy, 9), rows, out)
    return out[6:-6, 6:-6]


def test_jinc() -> None:
    z = np.concatenate([np.linspace(1e-6, 70, 3001), np.linspace(70, 2000, 301), [64.0]])
    ours = np.array([_jinc(v, JINC_TABLE) for v in z])
    np.testing.assert_allclose(ours, 2 * scipy.special.j1(z) / z, atol=1e-8)
    assert _jinc(0.0, JINC_TABLE) == 1.0


@given(
    a=st.floats(0.3, 14),
    ratio=st.floats(0.1, 1),
    theta=st.floats(-4, 4),
    dx=st.floats(-0.5, 0.5),
    dy=st.floats(-0.5, 0.5),
)
@settings(max_examples=60, deadline=None)
def test_slow_twin(a: float, ratio: float, theta: float, dx: float, dy: float) -> None:
    xx, yy, xy = matrix(a, a * ratio, theta)
    ours = ellipse_coefficients(dx, dy, xx, yy, xy, JINC_TABLE)
    np.testing.assert_allclose(ours, slow_coefficients(dx, dy, xx, yy, xy), atol=2e-6)
    assert ours.sum() == pytest.approx(np.pi * a * a * ratio, rel=1e-9)


def test_numbers_of_the_specification() -> None:
    """Reprocess 24.2: a 6, b 4, theta 0.5; the box here is not the 31 x 31 of those numbers."""
    ours = ellipse_coefficients(0.0, 0.0, *matrix(6, 4, 0.5), JINC_TABLE)
    assert ours.sum() == pytest.approx(24 * np.pi, abs=1e-9)
    assert ours.max() == pytest.approx(1.1558664, abs=2e-3)
    assert np.sqrt((ours**2).sum()) == pytest.approx(8.5137303, rel=1e-4)


@pytest.mark.parametrize(("a", "b"), [(5, 4), (7, 5), (9, 8.5), (15, 9.5), (30, 4)])
@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (0.5, -0.5), (0.2, 0.35)])
def test_smaller_box_gives_the_same_flux_and_error(a: float, b: float, dx: float, dy: float) -> None:
    """What the box of `sinc_coefficients` has beyond ours changes neither flux nor error by 0.1 %."""
    full = np.pad(sinc_coefficients(a, b, 0.7), 6)
    rows, shifted = np.empty_like(full), np.empty_like(full)
    lanczos_shift(full, dx, dy, rows, shifted)
    ours = ellipse_coefficients(dx, dy, *matrix(a, b, 0.7), JINC_TABLE)
    assert (ours**2).sum() == pytest.approx((shifted**2).sum(), rel=2e-4)
    size = max(full.shape[0], *ours.shape) + 2
    both = np.zeros((2, size, size))
    for image, c in zip(both, (shifted, ours), strict=True):
        h, w = c.shape
        j0, i0 = size // 2 - h // 2, size // 2 - w // 2
        image[j0 : j0 + h, i0 : i0 + w] = c
    # On noise, the flux changes by so much of its error.
    assert np.sqrt(((both[0] - both[1]) ** 2).sum()) < 0.02 * np.sqrt((shifted**2).sum())


@given(
    x=st.floats(59.5, 60.5),
    y=st.floats(59.5, 60.5),
    sigma=st.floats(1.8, 3),
    ratio=st.floats(0.75, 1),
    theta=st.floats(0, 3.2),
)
@settings(max_examples=40, deadline=None)
def test_flux_of_a_gaussian(x: float, y: float, sigma: float, ratio: float, theta: float) -> None:
    """An elliptical Gaussian within 3.133 sigma: 0.99262 of the flux, wherever in its pixel it is."""
    xx, yy, xy = matrix(sigma, sigma * ratio, theta)
    det = xx * yy - xy**2
    j, i = np.indices((121, 121))
    dx, dy = i - x, j - y
    image = np.exp(-0.5 * (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / det) / (2 * np.pi * np.sqrt(det))
    r = 2.5 * np.sqrt(np.pi / 2)
    flux, noise = ellipse_sums(image, np.ones_like(image), x, y, r**2 * xx, r**2 * yy, r**2 * xy, JINC_TABLE)
    assert flux == pytest.approx(1 - np.exp(-(r**2) / 2), abs=1e-3)
    assert noise == pytest.approx(np.pi * r**2 * np.sqrt(det), rel=0.15)


def test_edges() -> None:
    image = np.ones((60, 70))
    ellipse = (36.0, 16.0, 0.0)
    for x, y, fits in [(30, 30, True), (6, 30, True), (5.4, 30, False), (63.4, 30, True), (63.6, 30, False)]:
        flux, noise = ellipse_sums(image, image, float(x), float(y), *ellipse, JINC_TABLE)
        assert np.isfinite(flux) == np.isfinite(noise) == fits
        if fits:
            # Near an edge the weights beyond it are missing.
            assert flux == pytest.approx(24 * np.pi, rel=1e-9 if x == 30 else 0.05)
