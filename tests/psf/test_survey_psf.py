"""Survey PSF models: geometry, interpolation and storage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from lsst.images import Box
from lsst.images.serialization import read_archive, write_archive
from scipy.interpolate import make_interp_spline

from secondlight.psf.evaluation import kernel_stamps, stellar_stamps
from secondlight.psf.survey_psf import SurveyPsf, psf_from_eigen_images, psf_from_psfex

DOMAIN = Box.factory[0:2000, 0:2000]


def gaussian(sigma: float, n: int, *, dx: float = 0.0) -> np.ndarray:
    r = np.arange(n) - n // 2
    return np.exp(-((r[:, None]) ** 2 + (r[None, :] - dx) ** 2) / (2 * sigma**2))


def make_psf(sampling: float = 1.0) -> SurveyPsf:
    """Return a Gaussian that widens linearly with x."""
    basis = np.stack([gaussian(1.6, 31), 0.2 * gaussian(2.0, 31)])
    return SurveyPsf(
        basis=basis,
        powers=np.array([[0, 0], [1, 0]]),
        zero=(1000.0, 1000.0),
        scale=(500.0, 500.0),
        domain=DOMAIN,
        sampling=sampling,
        interpolation="spline",
        stamp_size=25,
    )


def centroid(stamp: np.ndarray) -> tuple[float, float]:
    y, x = np.mgrid[: stamp.shape[0], : stamp.shape[1]]
    return float((stamp * x).sum() / stamp.sum()), float((stamp * y).sum() / stamp.sum())


@pytest.mark.parametrize(("x", "y"), [(100.0, 200.0), (100.3, 200.4), (99.5, 200.5), (1800.49, 7.51)])
def test_stellar_image_is_centred_on_the_star(x, y):
    psf = make_psf()
    image = psf.compute_stellar_image(x=x, y=y)
    assert image.bbox == psf.compute_stellar_bbox(x=x, y=y)
    assert image.array.sum() == pytest.approx(1.0)
    cx, cy = centroid(image.array)
    assert cx + image.bbox.x.start == pytest.approx(x, abs=2e-3)
    assert cy + image.bbox.y.start == pytest.approx(y, abs=2e-3)


def test_kernel_image_is_the_model_at_its_own_sampling():
    psf = make_psf()
    kernel = psf.compute_kernel_image(x=1500.0, y=3.0)
    expected = (gaussian(1.6, 31) + 0.2 * gaussian(2.0, 31))[3:-3, 3:-3]
    np.testing.assert_allclose(kernel.array, expected / expected.sum(), atol=1e-12)
    assert kernel.bbox == psf.kernel_bbox
    assert kernel.bbox.x.start == -12


def test_shift_agrees_with_the_profile_itself():
    psf = make_psf()
    image = psf.compute_stellar_image(x=1000.25, y=1000.0)
    expected = gaussian(1.6, 31, dx=0.25)[3:-3, 3:-3]
    np.testing.assert_allclose(image.array, expected / expected.sum(), atol=3e-4 * image.array.max())


def dense_weights(positions: np.ndarray, n: int, interpolation: str) -> np.ndarray:
    """Return what each of n samples adds at positions (p, n), by the formula; zero beyond the samples."""
    if interpolation == "spline":
        through_units = make_interp_spline(np.arange(n), np.eye(n), k=5)
        return np.nan_to_num(through_units(positions, extrapolate=False))
    weights = np.zeros((len(positions), n))
    for row, position in zip(weights, positions, strict=True):
        index = np.arange(np.floor(position) - 2, np.floor(position) + 4).astype(int)
        values = np.sinc(position - index) * np.sinc((position - index) / 3)
        inside = (index >= 0) & (index < n)
        row[index[inside]] = (values / values.sum())[inside]
    return weights


@pytest.mark.parametrize("interpolation", ["spline", "lanczos"])
@pytest.mark.parametrize("sampling", [1.0, 0.7, 1.4])
def test_batches_match_slow_twin(interpolation, sampling):
    psf = dataclasses.replace(make_psf(sampling), interpolation=interpolation, stamp_size=29)
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 2000, 5), rng.uniform(0, 2000, 5)
    stars = stellar_stamps(psf, x=x, y=y)
    kernels = kernel_stamps(psf, x=x, y=y)
    pixels = np.arange(-14, 15)
    for k in range(5):
        samples = psf.model_image(x=x[k], y=y[k])
        for stamp, dx, dy in (
            (stars.images[k], x[k] - np.floor(x[k] + 0.5), y[k] - np.floor(y[k] + 0.5)),
            (kernels[k], 0.0, 0.0),
        ):
            rows = dense_weights((pixels - dy) / sampling + 15, 31, interpolation)
            columns = dense_weights((pixels - dx) / sampling + 15, 31, interpolation)
            expected = rows @ samples @ columns.T
            np.testing.assert_allclose(stamp, expected / expected.sum(), atol=1e-12)
        image = psf.compute_stellar_image(x=x[k], y=y[k])
        np.testing.assert_allclose(stars.images[k], image.array, atol=1e-15)
        assert (stars.x0[k], stars.y0[k]) == (image.bbox.x.start, image.bbox.y.start)


def test_positions_that_are_none():
    stamps = kernel_stamps(make_psf(), x=[np.nan, 100.0, 1e200], y=[1.0, 2.0, 3.0])
    np.testing.assert_array_equal(np.isnan(stamps).all(axis=(1, 2)), [True, False, True])


def test_sampling_scales_the_width():
    fine = make_psf(sampling=0.5).compute_kernel_image(x=1000.0, y=0.0).array
    expected = gaussian(0.8, 25)
    np.testing.assert_allclose(fine, expected / expected.sum(), atol=1e-10)


@pytest.mark.parametrize("extension", ["fits", "json"])
def test_storage(tmp_path, extension):
    psf = make_psf()
    path = str(tmp_path / f"psf.{extension}")
    write_archive(psf, path)
    back = read_archive(path)
    assert isinstance(back, SurveyPsf)
    assert back.bounds == psf.bounds
    for x, y in ((3.2, 4.9), (1234.5, 987.6)):
        ours, theirs = psf.compute_stellar_image(x=x, y=y), back.compute_stellar_image(x=x, y=y)
        np.testing.assert_array_equal(ours.array, theirs.array)
        assert ours.bbox == theirs.bbox


def test_eigen_images_follow_the_published_formula():
    """The twin evaluates the formula term by term; coefficients outside nrow_b x ncol_b are garbage."""
    rng = np.random.default_rng(5)
    n = 3
    table = np.zeros(
        n,
        dtype=[
            ("nrow_b", "i4"), ("ncol_b", "i4"), ("c", "f8", (5, 5)),
            ("RNROW", "i4"), ("RNCOL", "i4"), ("RROWS", "f8", (81,)),
        ],
    )  # fmt: skip
    table["nrow_b"], table["ncol_b"], table["RNROW"], table["RNCOL"] = 2, 3, 9, 9
    table["c"] = np.nan
    table["c"][:, :2, :3] = rng.uniform(0.5, 1.0, (n, 2, 3))
    table["RROWS"] = rng.uniform(0.1, 1.0, (n, 81))
    psf = psf_from_eigen_images(table, DOMAIN)
    x, y = 700.0, 300.0
    row, column = y + 0.5, x + 0.5
    expected = np.zeros((9, 9))
    for k in range(n):
        for i in range(2):
            for j in range(3):
                weight = table["c"][k, i, j] * (0.001 * row) ** i * (0.001 * column) ** j
                expected += weight * table["RROWS"][k].reshape(9, 9)
    np.testing.assert_allclose(
        psf.compute_kernel_image(x=x, y=y).array, expected / expected.sum(), rtol=1e-10
    )


def test_psfex_component_order():
    """X runs fastest: constant, x, x2, y, xy, y2."""
    components = np.stack([gaussian(2.0 + 0.1 * k, 21) for k in range(6)])
    psf = psf_from_psfex(
        components, degree=2, zero=(101.0, 51.0), scale=(10.0, 20.0), sampling=1.0, domain=DOMAIN
    )
    u, v = (130.0 - 100.0) / 10.0, (110.0 - 50.0) / 20.0
    monomials = [1, u, u**2, v, u * v, v**2]
    expected = sum(m * c for m, c in zip(monomials, components, strict=True))
    np.testing.assert_allclose(psf.model_image(x=130.0, y=110.0), expected)
    assert psf.stamp_size == 21
    with pytest.raises(ValueError, match="expected 10 components, found 6"):
        psf_from_psfex(components, degree=3, zero=(0, 0), scale=(1, 1), sampling=1.0, domain=DOMAIN)


def test_models_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_psf().sampling = 2.0
