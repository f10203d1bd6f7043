from __future__ import annotations

import numpy as np
import pytest

from secondlight.photometry._aperture_kernels import (
    circle_loop,
    circle_scratch,
    disc_sums,
    lanczos_shift,
    row_span,
    sinc_sums,
)
from secondlight.photometry.apertures import (
    FLAG_COEFFICIENTS,
    FLAG_TRUNCATED,
    aperture_fluxes,
    circle_coefficients,
    make_circles,
    psf_aperture_flux,
    sinc_coefficients,
)

RADII = [3, 4.5, 6, 9, 12, 17, 20.4, 25, 35, 50, 70]
ON_PIXEL = [29, 69, 113, 253, 441, 901, 1313, 1961, 3853, 7845, 15373]
ON_CORNER = [32, 60, 112, 256, 448, 912, 1296, 1976, 3852, 7860, 15380]


def gaussian(x: float, y: float, sigma: float, size: int = 101) -> np.ndarray:
    j, i = np.mgrid[:size, :size]
    return np.exp(-0.5 * ((i - x) ** 2 + (j - y) ** 2) / sigma**2) / (2 * np.pi * sigma**2)


@pytest.mark.parametrize(
    ("radius", "on_pixel", "on_corner"), list(zip(RADII, ON_PIXEL, ON_CORNER, strict=True))
)
def test_pixel_counts(radius: float, on_pixel: int, on_corner: int) -> None:
    ones = np.ones((151, 151), dtype=np.float32)
    result = aperture_fluxes(ones, ones, x=[75, 75.5], y=[75, 74.5], radius=radius, max_sinc_radius=0)
    np.testing.assert_array_equal(result.flux, [on_pixel, on_corner])
    np.testing.assert_allclose(result.error, np.sqrt([on_pixel, on_corner]))


@pytest.mark.parametrize(
    ("radius", "total", "side", "centre", "norm"),
    [
        (3, 28.27433, 15, 1.14702, 5.15697),
        (4.5, 63.61725, 31, 0.99188, 7.81112),
        (6, 113.09734, 31, 0.92404, 10.47299),
        (9, 254.46900, 63, 1.04240, 15.79010),
        (12, 452.38934, 63, 0.96194, 21.10755),
    ],
)
def test_sinc_coefficients(radius: float, total: float, side: int, centre: float, norm: float) -> None:
    c = sinc_coefficients(radius, radius, 0)
    assert c.shape == (side, side)
    assert c.sum() == pytest.approx(np.pi * radius**2, rel=1e-12)
    assert c.sum() == pytest.approx(total, abs=6e-6)
    assert c[side // 2, side // 2] == pytest.approx(centre, abs=6e-6)
    assert np.sqrt((c**2).sum()) == pytest.approx(norm, abs=1e-5)
    flat = np.ones((101, 101), dtype=np.float32)
    result = aperture_fluxes(flat, flat, x=50, y=50, radius=radius, max_sinc_radius=12)
    assert result.error[0] == pytest.approx(norm, abs=1e-5)


def test_elliptical_coefficients() -> None:
    c = sinc_coefficients(6, 4, 0.5)
    assert c.shape == (31, 31)
    assert c.sum() == pytest.approx(75.39822369, abs=1e-8)
    assert c.max() == pytest.approx(1.1558664, abs=1e-7)
    assert np.sqrt((c**2).sum()) == pytest.approx(8.5137303, abs=1e-7)
    with pytest.raises(ValueError, match="Semi-axes"):
        sinc_coefficients(4, 6, 0)


@pytest.mark.parametrize(
    ("sigma", "sinc", "naive"),
    [
        (
            1.5,
            [0.8646651, 0.9888908, 0.9996639, 1.0000007, 0.9999993],
            [0.8674340, 0.9930963, 0.9996508, 1, 1],
        ),
        (
            2.0,
            [0.6753472, 0.9204405, 0.9888910, 0.9999599, 1.0],
            [0.6813237, 0.9376592, 0.9886859, 0.9999566, 1],
        ),
    ],
)
def test_unit_gaussian(sigma: float, sinc: list[float], naive: list[float]) -> None:
    image = gaussian(50, 50, sigma)
    for radius, by_sinc, by_pixels in zip([3, 4.5, 6, 9, 12], sinc, naive, strict=True):
        arguments = {"x": 50, "y": 50, "radius": radius}
        assert aperture_fluxes(image, image, **arguments, max_sinc_radius=12).flux[0] == pytest.approx(
            by_sinc, abs=1e-7
        )
        assert aperture_fluxes(image, image, **arguments, max_sinc_radius=0).flux[0] == pytest.approx(
            by_pixels, abs=1e-7
        )
        assert psf_aperture_flux(image, radius) == pytest.approx(by_sinc, abs=1e-7)


@pytest.mark.parametrize("radius", [3, 4.5, 6, 9])
def test_sub_pixel_positions(radius: float) -> None:
    """The flux of a well-sampled star in a sinc aperture hardly depends on where in a pixel it sits."""
    for x, y in [(50.3, 49.8), (50.45, 50.45), (49.5, 50.5), (50.01, 50)]:
        flux = aperture_fluxes(gaussian(x, y, 2.0), np.ones((101, 101)), x=x, y=y, radius=radius).flux[0]
        assert flux == pytest.approx(1 - np.exp(-(radius**2) / 8), abs=1.2e-3)


def test_shift_matches_direct_interpolation() -> None:
    rng = np.random.default_rng(5)
    source = np.pad(rng.normal(size=(9, 9)), 6)
    for dx, dy in [(0.3, -0.2), (-0.49, 0.5), (0, 0.1), (0, 0)]:
        rows, out = np.empty_like(source), np.empty_like(source)
        lanczos_shift(source, dx, dy, rows, out)

        def matrix(offset: float) -> np.ndarray:
            k = np.arange(21)[None, :] - np.arange(21)[:, None] + offset
            weights = np.where(np.abs(k) < 5, np.sinc(k) * np.sinc(k / 5), 0)
            full = np.arange(-10, 11) + offset
            return weights / np.where(np.abs(full) < 5, np.sinc(full) * np.sinc(full / 5), 0).sum()

        np.testing.assert_allclose(out, matrix(dy) @ source @ matrix(dx).T, atol=1e-12)


def test_rows_of_an_ellipse() -> None:
    xx, yy, xy, x, y = 30.0, 12.0, 9.0, 40.3, 39.9
    j, i = np.mgrid[:80, :80]
    inverse = np.linalg.inv([[xx, xy], [xy, yy]])
    dx, dy = i - x, j - y
    inside = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2 <= 1
    for row in range(80):
        first, last = row_span(x, y, xx, yy, xy, row)
        np.testing.assert_array_equal(np.flatnonzero(inside[row]), np.arange(first, last + 1))


def test_edges() -> None:
    image = np.ones((60, 60), dtype=np.float32)
    sinc = aperture_fluxes(image, image, x=[30, 8, 2, np.nan, 300], y=30.0, radius=6)
    np.testing.assert_array_equal(
        sinc.flags,
        [0, FLAG_COEFFICIENTS, FLAG_COEFFICIENTS | FLAG_TRUNCATED, FLAG_TRUNCATED,
         FLAG_COEFFICIENTS | FLAG_TRUNCATED],
    )  # fmt: skip
    np.testing.assert_array_equal(np.isnan(sinc.flux), [False, False, True, True, True])
    naive = aperture_fluxes(image, image, x=[20.0, 19.4, 39.4, 39.6], y=30.0, radius=20, max_sinc_radius=10)
    np.testing.assert_array_equal(naive.flags, [0, FLAG_TRUNCATED, 0, FLAG_TRUNCATED])


def test_psf_aperture_flux_of_many_and_small_stamps() -> None:
    stamps = np.stack([gaussian(5, 5, 1.0, 11), gaussian(5, 5, 1.5, 11)])
    fluxes = psf_aperture_flux(stamps, 4.0)
    assert fluxes.shape == (2,)
    padded = np.pad(stamps[1], 40)
    expected = aperture_fluxes(padded, padded, x=45, y=45, radius=4.0).flux[0]
    assert fluxes[1] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_discs_summed_together(seed: int) -> None:
    """Rings added up give what each disc gives on its own, also where the larger ones leave the image."""
    rng = np.random.default_rng(seed)
    image = rng.normal(3.0, 1.0, (90, 100)).astype(np.float32)
    variance = rng.uniform(1.0, 2.0, (90, 100)).astype(np.float32)
    x, y = rng.uniform(0, 99), rng.uniform(0, 89)
    radii = np.sort(np.concatenate([rng.uniform(0.1, 60.0, 6), [5.0, 12.0]]))
    flux, noise, flags = np.empty(8), np.empty(8), np.empty(8, dtype=np.int64)
    disc_sums(image, variance, x, y, radii, flux, noise, flags)
    j, i = np.mgrid[:90, :100]
    for k, radius in enumerate(radii):
        inside = (i - x) ** 2 + (j - y) ** 2 <= radius**2
        ends = np.floor([x - radius + 0.5, y - radius + 0.5, 100 - x - radius - 0.5, 90 - y - radius - 0.5])
        if (ends < 0).any() or not inside.any():
            assert flags[k] == FLAG_TRUNCATED
            assert np.isnan(flux[k])
            continue
        assert flags[k] == 0
        assert flux[k] == pytest.approx(image[inside].sum(dtype=np.float64), rel=1e-12)
        assert noise[k] == pytest.approx(variance[inside].sum(dtype=np.float64), rel=1e-12)


def test_circles_measured_together() -> None:
    """All radii in one call, in any order, are those measured one by one; sinc sums have a plain twin."""
    rng = np.random.default_rng(4)
    image = rng.normal(10.0, 3.0, (160, 150)).astype(np.float32)
    variance = rng.uniform(1.0, 2.0, (160, 150)).astype(np.float32)
    x, y = rng.uniform(0.0, 149.0, 30), rng.uniform(0.0, 159.0, 30)
    x[0], x[1], x[2], y[2] = np.nan, np.inf, 75.0, 80.0
    radii = [25.0, 3.0, 12.0, 17.0, 4.5]
    circles, columns = make_circles(radii, max_sinc_radius=12.0)
    flux, noise, flags = circle_loop(image, variance, x, y, circles)
    assert flags[:2].all()
    assert np.isnan(flux[:2]).all()
    for radius, column in zip(radii, columns, strict=True):
        one = aperture_fluxes(image, variance, x=x, y=y, radius=radius, max_sinc_radius=12.0)
        np.testing.assert_array_equal(flux[:, column], one.flux)
        np.testing.assert_array_equal(np.sqrt(noise[:, column]), one.error)
        np.testing.assert_array_equal(flags[:, column], one.flags)
    c = circle_coefficients(4.5).copy()
    rows, shifted = np.empty_like(c), np.empty_like(c)
    f, v, _ = sinc_sums(image, variance, 70.3, 80.8, 4.5, 4.5, c, rows, shifted)
    cut = np.s_[81 - 15 : 81 + 16, 70 - 15 : 70 + 16]
    lanczos_shift(c, 70.3 - 70, 80.8 - 81, rows, shifted)
    assert f == pytest.approx((shifted * image[cut]).sum(), rel=1e-12)
    assert v == pytest.approx((shifted**2 * variance[cut]).sum(), rel=1e-12)
    nothing, _ = make_circles([20.0], max_sinc_radius=1.0)
    assert circle_scratch(nothing).shape == (2, 0)


def test_bad_pixels_in_apertures() -> None:
    """A NaN pixel fails the apertures that have it under a weight, and no other; so does a NaN variance."""
    image = np.ones((120, 120), dtype=np.float32)
    variance = np.ones((120, 120), dtype=np.float32)
    image[60, 75] = np.nan
    variance[60, 45] = np.nan
    for radius, sinc, lost in [(3.0, 12, False), (4.5, 12, True), (10.0, 0, False), (16.0, 0, True)]:
        result = aperture_fluxes(image, variance, x=60, y=60, radius=radius, max_sinc_radius=sinc)
        assert np.isnan(result.flux[0]) == lost
        assert np.isnan(result.error[0]) == lost
