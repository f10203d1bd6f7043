"""PSF-corrected shapes against GalSim, one by one, and their kernels against slow twins."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import galsim
import galsim.hsm
import numpy as np
import pytest

from secondlight.measurement.hsm.convolution import add_convolution, fft_size, fill_gaussian
from secondlight.measurement.hsm.estimate import (
    BJ,
    KSB,
    LINEAR,
    OK,
    REGAUSS,
    UNRESOLVED,
    estimate_shape,
)
from secondlight.measurement.hsm.shapes import composed, corrected_bj, corrected_linear

METHODS = {"REGAUSS": REGAUSS, "BJ": BJ, "LINEAR": LINEAR, "KSB": KSB}
PLUGINS = {name: f"ext_shapeHSM_HsmShape{name.capitalize()}" for name in METHODS}
SCALE = 0.2
GALSIM_PRECISION = 2e-7
"""GalSim returns its shapes in single precision."""


class Galaxy(NamedTuple):
    """A galaxy, its weight and PSF, and where one starts to look; array indices."""

    image: np.ndarray
    good: np.ndarray
    psf: np.ndarray
    x: float
    y: float
    sigma: float = 5.0
    psf_sigma: float = 2.0
    variance: float = 0.0


def by_galsim(galaxy: Galaxy, method: str) -> tuple[np.ndarray, str]:
    """Return shape, error and resolution by GalSim, NaN if it fails, and its message."""
    try:
        result = galsim.hsm.EstimateShear(
            galsim.Image(galaxy.image, xmin=0, ymin=0),
            galsim.Image(galaxy.psf, xmin=0, ymin=0),
            weight=galsim.Image(galaxy.good.astype(np.int32), xmin=0, ymin=0),
            sky_var=galaxy.variance,
            shear_est=method,
            recompute_flux="FIT",
            guess_sig_gal=galaxy.sigma,
            guess_sig_PSF=galaxy.psf_sigma,
            precision=1e-6,
            guess_centroid=galsim.PositionD(galaxy.x, galaxy.y),
        )
    except galsim.GalSimError as error:
        return np.full(4, np.nan), str(error)
    assert result.correction_status == 0
    shape = (
        (result.corrected_g1, result.corrected_g2)
        if method == "KSB"
        else (result.corrected_e1, result.corrected_e2)
    )
    return np.array([*shape, result.corrected_shape_err, result.resolution_factor]), ""


def by_kernel(galaxy: Galaxy, method: str) -> tuple[np.ndarray, int]:
    """Return the same by the compiled kernel, and its code."""
    result = np.empty(4)
    g = galaxy
    code = estimate_shape(
        METHODS[method], g.image, g.good, g.psf, g.x, g.y, g.sigma, g.psf_sigma, g.variance, result
    )
    return result, code


def draw(profile: galsim.GSObject, width: int, height: int, offset: Any, **kwargs: Any) -> np.ndarray:
    image = profile.drawImage(nx=width, ny=height, scale=SCALE, offset=tuple(offset), dtype=float, **kwargs)
    return np.ascontiguousarray(image.array)


@functools.cache
def galaxies() -> tuple[Galaxy, ...]:
    """Return 320 galaxies and stars: three profiles, three PSFs, noise, odd boxes and masks."""
    rng = np.random.default_rng(20)
    result = []
    for k in range(64):
        size = rng.uniform(0.2, 1.2)
        profile = (
            galsim.Exponential(half_light_radius=size),
            galsim.DeVaucouleurs(half_light_radius=size, trunc=6 * size),
            galsim.Gaussian(sigma=0.8 * size),
            galsim.Gaussian(sigma=1e-3),
        )[k % 4].shear(g=rng.uniform(0, 0.6), beta=rng.uniform(0, 180) * galsim.degrees)
        psf = (
            galsim.Moffat(3.0, fwhm=0.8),
            galsim.Kolmogorov(fwhm=0.7),
            0.6 * galsim.Gaussian(sigma=0.25) + 0.4 * galsim.Gaussian(sigma=0.4).shift(0.1, 0.05),
        )[k // 4 % 3].shear(g1=0.05 * rng.normal(), g2=0.05 * rng.normal())
        width, height = (int(n) for n in rng.integers(19, 56, 2))
        offset = rng.uniform(-0.5, 0.5, 2)
        clean = draw(galsim.Convolve(profile, psf), width, height, offset)
        stamp = draw(psf, *(int(n) for n in rng.choice([25, 31, 41], 2)), offset)
        for trial in range(5):
            noise = np.sqrt((clean**2).sum()) / 10 ** rng.uniform(0.5, 3)
            image = (clean + noise * rng.normal(size=clean.shape)).astype(np.float32)
            good = np.ones(clean.shape, dtype=bool)
            if trial == 1:
                j, i = rng.integers(0, height), rng.integers(0, width)
                good[j : j + 4, i : i + 3] = False
            if trial == 2:
                good[:3] = good[:, -2:] = False
            if trial == 3:
                image[-2:] = image[:, :1] = 0.0
            x, y = 0.5 * (width - 1) + offset[0], 0.5 * (height - 1) + offset[1]
            result.append(Galaxy(image, good, stamp, x, y, variance=noise**2))
    return tuple(result)


# The kernel against GalSim --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_galaxy_as_galsim(method: str) -> None:
    failed = 0
    for k, galaxy in enumerate(galaxies()):
        expected, message = by_galsim(galaxy, method)
        ours, code = by_kernel(galaxy, method)
        assert (code == OK) == (message == ""), f"galaxy {k}: {code}, {message}"
        assert (code == UNRESOLVED) == message.startswith("Unphysical"), f"galaxy {k}: {code}, {message}"
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6, err_msg=f"galaxy {k}")
        failed += code != OK
    assert 5 < failed < 100


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sigma", [1.2, 2.4])
def test_wide_galaxies_as_galsim(method: str, sigma: float) -> None:
    """The deconvolved Gaussian is larger than the PSF stamp, and reaches over the edge of the image."""
    psf = draw(galsim.Moffat(3.0, fwhm=0.8).shear(g1=0.03), 25, 31, (0.2, 0.1))
    profile = galsim.Gaussian(sigma=sigma).shear(g1=0.1, g2=-0.3)
    image = draw(profile, 91, 77, (0.2, 0.1)).astype(np.float32)
    galaxy = Galaxy(image, np.ones(image.shape, dtype=bool), psf, 45.0, 38.0, variance=1e-9)
    expected, message = by_galsim(galaxy, method)
    ours, code = by_kernel(galaxy, method)
    assert code == OK
    assert not message
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_typical_differences_are_the_rounding_of_galsim() -> None:
    differences = []
    for galaxy in galaxies()[:100]:
        expected, message = by_galsim(galaxy, "REGAUSS")
        if not message:
            differences.append(np.abs(by_kernel(galaxy, "REGAUSS")[0] / expected - 1))
    assert np.percentile(differences, 90, axis=0) == pytest.approx(0.0, abs=GALSIM_PRECISION)


@pytest.mark.parametrize("method", METHODS)
def test_pure_noise_fails_as_in_galsim(method: str) -> None:
    rng = np.random.default_rng(4)
    psf = draw(galsim.Gaussian(sigma=0.4), 25, 25, (0, 0))
    agreeing = 0
    for _ in range(150):
        shape = tuple(rng.integers(5, 30, 2))
        image = rng.normal(size=shape).astype(np.float32)
        galaxy = Galaxy(image, np.ones(shape, dtype=bool), psf, shape[1] / 2, shape[0] / 2, variance=1.0)
        expected, message = by_galsim(galaxy, method)
        ours, code = by_kernel(galaxy, method)
        same = (code == OK) == (message == "")
        agreeing += same and (code != OK or bool(np.allclose(ours, expected, rtol=1e-4, atol=1e-5)))
    # A weight that wanders over noise without converging multiplies rounding errors.
    assert agreeing >= 148


@pytest.mark.parametrize(
    "images",
    [
        {"image": np.zeros((20, 20), dtype=np.float32)},
        {"good": np.zeros((20, 20), dtype=bool)},
        {"image": np.full((20, 20), np.nan, dtype=np.float32)},
        {"psf": np.full((25, 25), np.nan)},
        {"psf": np.zeros((25, 25))},
        {"image": np.ones((1, 1), dtype=np.float32), "good": np.ones((1, 1), dtype=bool), "x": 0.0, "y": 0.0},
        {"x": np.nan},
        {"x": 1e12},
        {"sigma": 1e-9},
        {"sigma": 1e6},
        {"psf_sigma": 0.0},
    ],
    ids=lambda images: "-".join(images),
)
@pytest.mark.parametrize("method", METHODS)
def test_hopeless_input_fails(method: str, images: dict[str, Any]) -> None:
    psf = draw(galsim.Gaussian(sigma=0.4), 25, 25, (0, 0))
    image = draw(galsim.Gaussian(sigma=0.8), 20, 20, (0, 0)).astype(np.float32)
    galaxy = Galaxy(image, np.ones((20, 20), dtype=bool), psf, 9.5, 9.5)._replace(**images)
    result, code = by_kernel(galaxy, method)
    assert code != OK
    assert np.isnan(result).all()


def test_nan_where_masked_does_not_matter() -> None:
    """GalSim multiplies by the mask, which keeps NaN; here masked pixels are not looked at."""
    galaxy = galaxies()[1]
    image = galaxy.image.copy()
    image[~galaxy.good] = np.nan
    for method in METHODS:
        expected, code = by_kernel(galaxy, method)
        assert code == OK
        np.testing.assert_array_equal(by_kernel(galaxy._replace(image=image), method)[0], expected)


# Published and exact values -------------------------------------------------------------------------------


def test_published_example() -> None:
    """The example in the documentation of `galsim.hsm.EstimateShear` (whose drawing has changed since)."""
    psf = galsim.Kolmogorov(flux=1.0, fwhm=0.7)
    gal = galsim.Convolve(galsim.Gaussian(flux=1.0, sigma=1.0).shear(g1=0.05, g2=0.0), psf)
    images = [np.ascontiguousarray(p.drawImage(scale=SCALE).array) for p in (gal, psf)]
    good = np.ones(images[0].shape, dtype=bool)
    middle = 0.5 * (len(good) - 1)
    galaxy = Galaxy(images[0], good, images[1].astype(float), middle, middle, psf_sigma=3.0)
    (e1, e2, _, _), code = by_kernel(galaxy, "REGAUSS")
    assert code == OK
    assert e1 == pytest.approx(0.09934103488922119, abs=1e-5)
    assert e1 == pytest.approx(by_galsim(galaxy, "REGAUSS")[0][0], abs=GALSIM_PRECISION)
    assert e2 == pytest.approx(-3.746108423463568e-10, abs=1e-7)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("g1", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("g2", [0.03, 0.3])
def test_published_gaussians(sigma: float, g1: float, g2: float) -> None:
    """Gaussian galaxies behind Gaussian PSFs, as GalSim tests itself: the true distortion."""
    psf = galsim.Gaussian(sigma=sigma).shear(g1=0.1 * g1, g2=0.05 * g2)
    true = galsim.Shear(g1=g1, g2=g2)
    final = galsim.Convolve(galsim.Gaussian(sigma=sigma).shear(true), psf)
    images = [p.drawImage(scale=SCALE, method="no_pixel", dtype=float).array.copy() for p in (final, psf)]
    middle = 0.5 * (len(images[0]) - 1)
    galaxy = Galaxy(images[0], np.ones(images[0].shape, dtype=bool), images[1], middle, middle, psf_sigma=3.0)
    for method in ("REGAUSS", "BJ", "LINEAR"):
        (e1, e2, _, resolution), code = by_kernel(galaxy, method)
        assert code == OK
        assert (e1, e2) == pytest.approx((true.e1, true.e2), abs=5e-4)
        assert 0.3 < resolution < 0.8
    (shear1, shear2, _, _), code = by_kernel(galaxy, "KSB")
    assert code == OK
    assert (shear1, shear2) == pytest.approx((g1, g2), rel=0.35 if max(g1, g2) > 0.2 else 0.03)


def test_a_masked_edge_matters_little() -> None:
    """GalSim's own test of masks: a frame of four pixels around a wide image changes next to nothing."""
    psf = galsim.Gaussian(sigma=1.0)
    final = galsim.Convolve(galsim.Gaussian(sigma=1.0).shear(g1=0.15, g2=-0.4), psf)
    image, stamp = (
        p.drawImage(nx=128, ny=128, scale=SCALE, method="no_pixel", dtype=float).array.copy()
        for p in (final, psf)
    )
    galaxy = Galaxy(image, np.ones(image.shape, dtype=bool), stamp, 63.5, 63.5, psf_sigma=3.0)
    inside = np.zeros(image.shape, dtype=bool)
    inside[4:-4, 4:-4] = True
    whole, framed = (by_kernel(g, "REGAUSS")[0] for g in (galaxy, galaxy._replace(good=inside)))
    assert whole[:2] == pytest.approx(framed[:2], abs=5e-5)
    assert whole[3] == pytest.approx(framed[3], abs=5e-5)


def test_regauss_is_right_where_bernstein_and_jarvis_are_not() -> None:
    true = galsim.Shear(e1=0.3, e2=-0.1)
    psf = galsim.Moffat(3.0, fwhm=0.8).shear(g1=0.05)
    gal = galsim.Convolve(galsim.Exponential(half_light_radius=0.8).shear(true), psf)
    stamps = draw(gal, 61, 61, (0, 0)), draw(psf, 41, 41, (0, 0))
    galaxy = Galaxy(stamps[0], np.ones((61, 61), dtype=bool), stamps[1], 30.0, 30.0)
    off = {m: np.hypot(*(by_kernel(galaxy, m)[0][:2] - (true.e1, true.e2))) for m in ("REGAUSS", "BJ")}
    assert off["REGAUSS"] < 0.015
    assert off["BJ"] > 0.025


@pytest.mark.parametrize(("method", "factor"), [("REGAUSS", 2), ("BJ", 2), ("KSB", 1)])
def test_error_is_that_of_a_shear(method: str, factor: float) -> None:
    """The scatter of a round Gaussian: twice the error for a distortion, once for a shear."""
    rng = np.random.default_rng(6)
    psf = galsim.Gaussian(sigma=0.4)
    clean = draw(galsim.Convolve(galsim.Gaussian(sigma=0.6), psf), 41, 41, (0, 0))
    stamp = draw(psf, 31, 31, (0, 0))
    noise = float(np.sqrt((clean**2).sum())) / 60
    good = np.ones(clean.shape, dtype=bool)
    shapes = np.array(
        [
            by_kernel(Galaxy(image, good, stamp, 20.0, 20.0, variance=noise**2), method)[0]
            for image in clean + noise * rng.normal(size=(500, *clean.shape))
        ]
    )
    scatter = np.sqrt((shapes[:, :2] ** 2).mean())
    assert scatter == pytest.approx(factor * np.median(shapes[:, 2]), rel=0.09)


# Pieces against slow twins --------------------------------------------------------------------------------


def test_fft_sizes() -> None:
    sizes = [2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    for n in range(1, 257):
        assert fft_size(n) == galsim.Image.good_fft_size(n) == next(s for s in sizes if s >= n)


def test_convolution_is_periodic_as_by_fourier_transforms() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        kernel, image, out = (rng.normal(size=rng.integers(2, n, 2)) for n in (18, 30, 40))
        shift_x, shift_y = (int(s) for s in rng.integers(-25, 12, 2))
        size = fft_size(
            max(max(kernel.shape) * 4 // 3, max(image.shape) * 4 // 3, max(out.shape)),
        )
        product = np.fft.rfft2(kernel, (size, size)) * np.fft.rfft2(image, (size, size))
        convolved = np.fft.irfft2(product, (size, size))
        expected = out.copy()
        for j, i in np.ndindex(out.shape):
            if 0 <= j - shift_y < size and 0 <= i - shift_x < size:
                expected[j, i] += convolved[j - shift_y, i - shift_x]
        add_convolution(kernel, image, shift_x, shift_y, out)
        np.testing.assert_allclose(out, expected, atol=1e-11)


def test_gaussian_on_pixels() -> None:
    image = np.empty((9, 12))
    moments = np.array([[4.0, 1.1], [1.1, 2.0]])
    total = fill_gaussian(image, 5.2, 3.9, 4.0, 1.1, 2.0)
    y, x = np.mgrid[:9, :12]
    offset = np.stack([x - 5.2, y - 3.9])
    expected = np.exp(-0.5 * np.einsum("kji,kl,lji->ji", offset, np.linalg.inv(moments), offset))
    np.testing.assert_allclose(image, expected, rtol=1e-12)
    assert total == pytest.approx(expected.sum())


def moments_of(shear: galsim.Shear, size: float) -> np.ndarray:
    return size * np.array([[1 + shear.e1, shear.e2], [shear.e2, 1 - shear.e1]])


def distortion_of(moments: np.ndarray) -> tuple[float, float]:
    trace = np.trace(moments)
    return (moments[0, 0] - moments[1, 1]) / trace, 2 * moments[0, 1] / trace


def test_shears_compose_as_matrices() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        a, b = (galsim.Shear(g=rng.uniform(0, 0.7), beta=rng.uniform(0, 7) * galsim.radians) for _ in "ab")
        product = b.getMatrix() @ a.getMatrix()
        assert composed(a.e1, a.e2, b.e1, b.e2) == pytest.approx(
            distortion_of(product @ product.T), abs=1e-12
        )
    assert composed(0.3, -0.2, 0.0, 0.0) == (0.3, -0.2)


@pytest.mark.parametrize("correct", [corrected_bj, corrected_linear])
def test_corrections_of_gaussians_subtract_moments(correct: Any) -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        galaxy, psf = (
            moments_of(galsim.Shear(e=rng.uniform(0, 0.6), beta=rng.uniform(0, 7) * galsim.radians), size)
            for size in rng.uniform(0.5, 2, 2)
        )
        seen = galaxy + psf
        ratio = np.trace(psf) / np.trace(seen)
        corrected = correct(ratio, *distortion_of(psf), 0.0, *distortion_of(seen), 0.0)
        assert corrected == pytest.approx(distortion_of(galaxy), abs=1e-9)


@pytest.mark.parametrize("correct", [corrected_bj, corrected_linear])
def test_round_stays_round(correct: Any) -> None:
    assert correct(0.5, 0.0, 0.0, 0.02, 0.0, 0.0, 0.05) == (0.0, 0.0)
    assert correct(0.5, 0.1, 0.0, 0.02, 0.1, 0.0, 0.05) == pytest.approx((0.1, 0.0))


# Plugins --------------------------------------------------------------------------------------------------
