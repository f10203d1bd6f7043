"""The peers of the accuracy benchmark find stars of known flux where they are."""

from __future__ import annotations

import shutil
import sys

import galsim
import numpy as np
import pytest
import scipy.ndimage
from benchmarks.accuracy.catalogs import Measured
from benchmarks.accuracy.peers import (
    APERTURE_RADII,
    PeerUnavailable,
    measure_with_sep,
    measure_with_source_extractor,
)
from benchmarks.accuracy.peers._common import Exposure, filtered_threshold, gaussian_kernel
from benchmarks.accuracy.peers._programs import Programs
from lsst.images import VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.photo_calib import AB_FLUX_NJY
from secondlight.psf.adaptive_moments import adaptive_moments
from tests.scenes import make_visit_image

SIZE, SPACING, FWHM = 512, 60, 4.0
FIRST = (200, 1000)
SKY, GAIN, SATURATION = 400.0, 1.5, 40_000.0
ZERO_POINT = 30.0
N_JY = AB_FLUX_NJY * 10 ** (-0.4 * ZERO_POINT)
PROFILE = galsim.Moffat(beta=3.2, fwhm=FWHM, trunc=25.0)
"""Truncated, so that all the light is inside the aperture of 25 pixels."""


@pytest.fixture(scope="module")
def stars() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y (parent pixels) and flux (counts) of stars off the pixel centres, half of them bright."""
    rng = np.random.default_rng(3)
    corner = np.arange(45.0, SIZE - 40, SPACING)
    x, y = (grid.ravel() + rng.uniform(-0.5, 0.5, grid.size) for grid in np.meshgrid(corner, corner))
    flux = np.where(np.arange(x.size) % 2 == 0, 60_000.0, 8_000.0)
    return x + FIRST[0], y + FIRST[1], flux


def make_image(x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> VisitImage:
    image = make_visit_image(
        width=SIZE, height=SIZE, x0=FIRST[0], y0=FIRST[1], add_noise=False, sigma=FWHM / 2.355
    )
    drawn = galsim.ImageD(galsim.BoundsI(FIRST[0], FIRST[0] + SIZE - 1, FIRST[1], FIRST[1] + SIZE - 1))
    for xs, ys, fs in zip(x, y, flux, strict=True):
        PROFILE.withFlux(fs).drawImage(drawn, center=galsim.PositionD(xs, ys), scale=1.0, add_to_image=True)
    expected = drawn.array + SKY
    variance = expected / GAIN + (7.0 / GAIN) ** 2
    counts = expected + np.random.default_rng(8).normal(size=expected.shape) * np.sqrt(variance)
    image.image.array[...] = counts
    image.variance.array[...] = np.maximum(counts, 0) / GAIN + (7.0 / GAIN) ** 2
    image.metadata["GAIN"], image.metadata["SATURATION"] = GAIN, SATURATION
    return image


@pytest.fixture(scope="module")
def image(stars) -> VisitImage:
    return make_image(*stars)


def matched(measured: Measured, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the nearest source of every star, which must be within a pixel."""
    distance = np.hypot(measured.x - x[:, None], measured.y - y[:, None])
    assert distance.min(axis=1).max() < 1.0
    return np.argmin(distance, axis=1)


def check_measurements(measured: Measured, stars: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Check positions, aperture fluxes, background and flags of bright isolated stars."""
    x, y, flux = stars
    rows = matched(measured, x, y)
    bright = flux > 50_000
    np.testing.assert_allclose(measured.x[rows][bright], x[bright], atol=0.05)
    np.testing.assert_allclose(measured.y[rows][bright], y[bright], atol=0.05)
    assert len(measured) < 1.1 * len(x)
    assert measured.primary.all()
    assert measured.good[rows].all()
    pulls = []
    for radius in APERTURE_RADII[3:6]:
        contained = 1.0 if radius >= 25 else aperture_fraction(radius)
        value, error = measured.fluxes[f"aperture_{radius}"]
        assert measured.aperture_radii[f"aperture_{radius}"] == radius
        assert measured.usable(f"aperture_{radius}")[rows].all()
        pulls.append((value[rows] - contained * N_JY * flux) / error[rows])
    # What is left in the background under a star is a small part of the noise of the smaller apertures only.
    assert np.abs(pulls[0]).max() < 4.0
    assert 0.7 < np.std(pulls[0]) < 1.3
    assert abs(np.mean(pulls[0])) < 1.0
    value, _ = measured.fluxes["auto"]
    np.testing.assert_allclose(value[rows][bright] / (N_JY * flux[bright]), 0.96, atol=0.05)
    edge = np.min([x - FIRST[0], y - FIRST[1], FIRST[0] + SIZE - x, FIRST[1] + SIZE - y], axis=0)
    np.testing.assert_array_equal(measured.flux_flags["aperture_50"][rows], edge < 49.5)
    assert measured.background is not None
    assert measured.background.shape == (SIZE, SIZE)
    assert np.median(measured.background) == pytest.approx(SKY, abs=2.0)
    assert measured.cpu_seconds > 0


def aperture_fraction(radius: float) -> float:
    drawn = PROFILE.drawImage(nx=401, ny=401, scale=0.25, method="sb").array
    r = np.hypot(*np.meshgrid(np.arange(401) - 200, np.arange(401) - 200)) * 0.25
    return float(drawn[r < radius].sum() / drawn.sum())


def test_sep_finds_stars_where_they_are(image, stars):
    pytest.importorskip("sep")
    measured = measure_with_sep(image, zero_point=ZERO_POINT, seeing_pixels=FWHM)
    assert (measured.system, measured.visit, measured.detector, measured.band) == ("sep", 100, 4, "r")
    check_measurements(measured, stars)


@pytest.fixture(scope="module")
def by_source_extractor(image, tmp_path_factory) -> Measured:
    if not (shutil.which("source-extractor") and shutil.which("psfex")):
        pytest.skip("source-extractor or psfex is absent")
    folder = tmp_path_factory.mktemp("peer")
    measured = measure_with_source_extractor(image, zero_point=ZERO_POINT, seeing_pixels=FWHM, workdir=folder)
    assert not list(folder.iterdir())
    return measured


def test_source_extractor_finds_stars_where_they_are(by_source_extractor, stars):
    measured = by_source_extractor
    assert measured.system == "source-extractor"
    check_measurements(measured, stars)


def test_psf_fluxes_errors_of_positions_and_classes_of_stars(by_source_extractor, stars):
    measured = by_source_extractor
    x, y, flux = stars
    rows = matched(measured, x, y)
    bright = flux > 50_000
    value, error = measured.fluxes["psf"]
    ratio = value[rows][bright] / (N_JY * flux[bright])
    np.testing.assert_allclose(ratio, aperture_fraction(12), atol=0.02)
    assert np.mean(ratio) == pytest.approx(aperture_fraction(12), abs=0.005)
    assert (error[rows] > 0).all()
    pull = (measured.x[rows] - x) / measured.x_err[rows]
    assert 0.7 < np.std(pull) < 1.4
    assert np.median(measured.extendedness[rows]) < 0.1


def test_model_of_psfex_has_the_size_of_the_stars_everywhere(by_source_extractor):
    truth = PROFILE.drawImage(nx=25, ny=25, scale=1.0, dtype=float).array
    positions = [(230.0, 1030.0), (456.0, 1256.0), (700.0, 1480.0)]
    models = [by_source_extractor.psf.compute_kernel_image(x=x, y=y).array for x, y in positions]
    size = [_trace(stamp) for stamp in [truth, *models]]
    np.testing.assert_allclose(size[1:], size[0], rtol=0.03)


def _trace(stamp: np.ndarray) -> float:
    moments = adaptive_moments(stamp[None], x=np.array([12.0]), y=np.array([12.0]))
    return float(moments.xx[0] + moments.yy[0])


def test_few_stars_get_a_psf_of_lower_order(by_source_extractor, stars):
    assert len(by_source_extractor.psf.basis) == 6
    few = make_image(*(column[::8] for column in stars))
    measured = measure_with_source_extractor(few, zero_point=ZERO_POINT, seeing_pixels=FWHM)
    assert len(measured.psf.basis) == 1


@pytest.mark.parametrize("peer", ["sep", "source-extractor"])
def test_centres_on_saturated_and_interpolated_pixels_are_not_good(peer, image, stars):
    x, y, _ = stars
    image = image.copy()
    for star, plane in ((0, "SATURATED"), (2, "INTERPOLATED")):
        i, j = int(x[star] + 0.5) - FIRST[0], int(y[star] + 0.5) - FIRST[1]
        marked = np.zeros((SIZE, SIZE), dtype=bool)
        marked[j, i] = True
        image.mask.set(plane, marked)
    measured = _measure(peer, image)
    good = measured.good[matched(measured, x, y)]
    assert not good[[0, 2]].any()
    assert np.delete(good, [0, 2]).all()


def _measure(peer: str, image: VisitImage) -> Measured:
    if peer == "sep":
        pytest.importorskip("sep")
        return measure_with_sep(image, zero_point=ZERO_POINT, seeing_pixels=FWHM)
    try:
        return measure_with_source_extractor(image, zero_point=ZERO_POINT, seeing_pixels=FWHM)
    except PeerUnavailable as error:
        pytest.skip(str(error))


def test_variance_of_the_sky_has_no_stars_in_it(image):
    exposure = Exposure.of(image, seeing_pixels=FWHM)
    expected = SKY / GAIN + (7.0 / GAIN) ** 2
    assert exposure.variance.max() > 3 * expected
    np.testing.assert_allclose(exposure.sky_variance, expected, rtol=0.02)


def test_kernel_is_that_of_source_extractor_for_the_seeing():
    kernel = gaussian_kernel(4.0)
    assert kernel.shape == (7, 7)
    assert kernel.sum() == pytest.approx(1.0)
    # gauss_4.0_7x7.conv, which comes with the program, has these values.
    np.testing.assert_allclose(kernel[3, :3] / kernel[3, 3], [0.220945, 0.511223, 0.845587], atol=0.015)


def test_threshold_is_five_times_the_noise_of_the_filtered_image():
    kernel = gaussian_kernel(4.75)
    noise = np.random.default_rng(4).normal(size=(600, 600))
    filtered = scipy.ndimage.convolve(noise, kernel, mode="wrap")
    assert filtered_threshold(kernel) == pytest.approx(5 * filtered.std(), rel=0.02)


def test_absent_programs_are_named(image, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PeerUnavailable, match="source-extractor and psfex not found on the path"):
        measure_with_source_extractor(image, zero_point=ZERO_POINT, seeing_pixels=FWHM)


def test_absent_library_is_named(image, monkeypatch):
    monkeypatch.setitem(sys.modules, "sep", None)
    with pytest.raises(PeerUnavailable, match="sep is not installed"):
        measure_with_sep(image, zero_point=ZERO_POINT, seeing_pixels=FWHM)


def test_failing_program_shows_what_it_said(tmp_path):
    try:
        programs = Programs.find(tmp_path, "Visit 7, detector 3")
    except PeerUnavailable as error:
        pytest.skip(str(error))
    with pytest.raises(RuntimeError, match=r"(?s)Visit 7, detector 3: source-extractor failed.*nowhere"):
        programs.extract("image.fits", {"PARAMETERS_NAME": "nowhere.param", "VERBOSE_TYPE": "QUIET"})


def test_image_that_hides_its_gain_is_refused(image):
    image = image.copy()
    del image.metadata["GAIN"]
    with pytest.raises(ValueError, match=r"Visit 100, detector 4.*expected a positive number GAIN"):
        measure_with_sep(image, zero_point=ZERO_POINT, seeing_pixels=FWHM)


def test_image_without_a_seeing_is_refused(image):
    image = image.copy()
    image.psf = PROFILE
    with pytest.raises(ValueError, match="expected a seeing or a Gaussian PSF, found Moffat"):
        measure_with_sep(image, zero_point=ZERO_POINT, seeing_pixels=None)


def test_seeing_is_taken_from_the_psf_of_the_image(image):
    assert isinstance(image.psf, GaussianPointSpreadFunction)
    assert Exposure.of(image, seeing_pixels=None).fwhm == pytest.approx(FWHM, rel=1e-3)
