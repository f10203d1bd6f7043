"""GAaP fluxes: facts of the specification, slow twins, errors, every flag and configuration field."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import numpy as np
import pytest
import scipy.signal
from lsst.images import Box, Image
from lsst.images.psfs import GaussianPointSpreadFunction, PointSpreadFunction

from secondlight.catalog.schema import minimal_source_schema
from secondlight.measurement.plugins._gaap_fit_kernels import (
    autocorrelation,
    convolve,
    fit_kernel,
    kernel_side,
)
from secondlight.measurement.plugins._gaap_kernels import gaussian_sum
from secondlight.measurement.plugins.gaap_flux import GaapFluxConfig, GaapFluxPlugin, GaussianizePsfConfig
from secondlight.measurement.sources import MeasurementSources
from secondlight.measurement.task import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from secondlight.photometry.ap_corr_names import ap_corr_names
from secondlight.psf.evaluation import psf_shapes
from secondlight.tasks.finalize_characterization import FinalizeCharacterizationDetectorConfig
from tests.measurement.scene import make_config, measure_at
from tests.scenes import PIXEL_SCALE, make_visit_image

GAAP = "ext_gaap_GaapFlux"
SIGMAS = [0.5, 0.7, 1.0, 1.5, 2.5, 3.0]
SIZE = 121
SETTINGS = GaussianizePsfConfig().settings()


def gaussian(x: float, y: float, moments: tuple[float, float, float], size: int = SIZE) -> np.ndarray:
    """Return an elliptical Gaussian of unit integral, sampled."""
    xx, yy, xy = moments
    det = xx * yy - xy**2
    j, i = np.indices((size, size))
    dx, dy = i - x, j - y
    q = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / det
    return np.exp(-0.5 * q) / (2 * np.pi * np.sqrt(det))


def coma(x: float, y: float, size: int) -> np.ndarray:
    """Return a strongly asymmetric star: a core with a tail to one side."""
    core = gaussian(x - 0.35, y - 0.2, (2.6, 2.4, 0.0), size)
    return 0.75 * core + 0.25 * gaussian(x + 1.05, y + 0.6, (4.5, 3.8, 0.5), size)


class ComaPsf(PointSpreadFunction):
    """A PSF with coma, the same everywhere."""

    half = 12

    @property
    def bounds(self) -> Box:  # noqa: D102
        return Box.factory[0:SIZE, 0:SIZE]

    @property
    def kernel_bbox(self) -> Box:  # noqa: D102
        return Box.factory[-self.half : self.half + 1, -self.half : self.half + 1]

    def compute_kernel_image(self, *, x: float, y: float) -> Image:  # noqa: D102
        stamp = coma(self.half, self.half, 2 * self.half + 1)
        return Image(stamp / stamp.sum(), bbox=self.kernel_bbox)

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:  # noqa: D102
        i, j = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        return Box.factory[j - self.half : j + self.half + 1, i - self.half : i + self.half + 1]

    def compute_stellar_image(self, *, x: float, y: float) -> Image:  # noqa: D102
        box = self.compute_stellar_bbox(x=x, y=y)
        stamp = coma(x - box.x.start, y - box.y.start, 2 * self.half + 1)
        return Image(stamp / stamp.sum(), bbox=box)


def make_image(pixels: np.ndarray | None = None, *, psf: Any = 2.0, noise: float = 1.0, **kwargs: Any):
    """Return a visit image with given pixels; the PSF is given or the width of a Gaussian."""
    if isinstance(psf, float):
        psf = GaussianPointSpreadFunction(psf, Box.factory[0:SIZE, 0:SIZE], 41)
    kwargs = {"width": SIZE, "height": SIZE} | kwargs
    exposure = make_visit_image(psf=psf, noise=noise, add_noise=False, **kwargs)
    if pixels is not None:
        exposure.image.array[...] = pixels
    return exposure


def measure(exposure, x=60.3, y=59.6, *, moments=(4.0, 4.0, 0.0), radius=30, flag=False, **config):
    """Measure, and return a dictionary of the columns without their prefix."""
    settings = {GAAP: {"sigmas": SIGMAS, "doPsfPhotometry": True} | config}
    x, y = np.atleast_1d(x).tolist(), np.atleast_1d(y).tolist()
    catalog = measure_at(
        exposure, [GAAP], x=x, y=y, moments=moments, settings=settings, radius=radius, flag=flag
    )
    columns = [n for n in catalog.schema.names if n.startswith(GAAP)]
    return {n.removeprefix(f"{GAAP}_"): np.array(catalog[n]) for n in columns}


def names(*, psf: bool = True) -> list[str]:
    """Return the column prefixes of all apertures."""
    return [f"1_15x_{s}".replace(".", "_") for s in [*SIGMAS, "Optimal", *(["PsfFlux"] if psf else [])]]


def slow_kernel(stamp: np.ndarray, psf_sigma: float, target_sigma: float) -> np.ndarray:
    """Return the kernel of side 21 of the default configuration, from plain monomials."""
    sigma = max(0.7, np.sqrt(target_sigma**2 - psf_sigma**2))
    u, v = np.meshgrid(np.arange(-10, 11), np.arange(-10, 11))
    base = np.exp(-0.5 * (u**2 + v**2) / sigma**2)
    base /= base.sum()
    basis = [base * (u / 10.0) ** j * (v / 10.0) ** k for j in range(5) for k in range(5 - j)]
    basis = [b / np.sqrt((b**2).sum()) for b in basis]
    side = max(31, *stamp.shape)
    padded = np.zeros((side, side))
    first = side // 2 - stamp.shape[0] // 2
    padded[first : first + stamp.shape[0], first : first + stamp.shape[1]] = stamp
    target = gaussian(side // 2, side // 2, (target_sigma**2, target_sigma**2, 0.0), side)
    target /= target.sum()
    inner = np.s_[10:-10, 10:-10]
    design = np.stack([scipy.signal.convolve(padded, b, mode="same")[inner].ravel() for b in basis], axis=1)
    solution = np.linalg.lstsq(design, target[inner].ravel(), rcond=1e-14)[0]
    kernel = sum(c * b for c, b in zip(solution, basis, strict=True))
    return kernel + (1 - kernel.sum()) * base


@pytest.mark.parametrize("sigma", [1.3, 2.0, 2.7])
def test_kernel_of_gaussian(sigma: float) -> None:
    stamp = gaussian(12, 12, (sigma**2, sigma**2, 0.0), 25)
    fitted, columns, lines = fit_kernel(stamp, sigma, 1.15 * sigma, SETTINGS)
    assert fitted
    kernel = columns.T @ lines
    assert kernel.sum() == pytest.approx(1.0, rel=1e-12)
    expected = slow_kernel(stamp, sigma, 1.15 * sigma)
    np.testing.assert_allclose(kernel, expected, atol=2e-6 * expected.max())


def test_kernel_of_coma() -> None:
    """One orientation: convolved with its kernel, not the reflected one, the PSF becomes a Gaussian."""
    stamp = coma(12, 12, 25)
    sigma = float(np.sqrt(np.mean(psf_shapes(ComaPsf(), x=60.0, y=60.0)[0, :2])))
    fitted, columns, lines = fit_kernel(stamp, sigma, 1.15 * sigma, SETTINGS)
    assert fitted
    kernel = columns.T @ lines
    np.testing.assert_allclose(kernel, slow_kernel(stamp, sigma, 1.15 * sigma), atol=1e-6 * kernel.max())
    target = gaussian(15, 15, (1.3225 * sigma**2, 1.3225 * sigma**2, 0.0), 31)
    residual = [
        np.abs(scipy.signal.convolve(np.pad(stamp, 3), k, mode="same") - target)[10:-10, 10:-10].max()
        for k in (kernel, kernel[::-1, ::-1])
    ]
    assert residual[0] < 0.02 * target.max()
    assert residual[1] > 3 * residual[0]


def test_convolution_and_autocorrelation() -> None:
    rng = np.random.default_rng(2)
    columns, lines = rng.normal(0, 1, (5, 7)), rng.normal(0, 1, (5, 7))
    kernel, image = columns.T @ lines, rng.normal(0, 1, (19, 23))
    expected = scipy.signal.convolve(image, kernel, mode="valid")
    np.testing.assert_allclose(convolve(image, columns, lines), expected, rtol=1e-11, atol=1e-11)
    expected = scipy.signal.correlate2d(kernel, kernel)
    np.testing.assert_allclose(autocorrelation(columns, lines), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("moments", [(4.0, 4.0, 0.0), (9.0, 2.0, 3.0), (0.6, 0.7, -0.3), (150.0, 90.0, 40.0)])
@pytest.mark.parametrize("centre", [(20.0, 18.0), (20.4, 17.6), (1.2, 37.0)])
def test_sum_slow_twin(moments: tuple[float, float, float], centre: tuple[float, float]) -> None:
    image = np.random.default_rng(4).normal(1, 1, (40, 40))
    j, i = np.indices(image.shape)
    d = np.stack([i - centre[0], j - centre[1]], axis=-1)
    xx, yy, xy = moments
    q = np.einsum("...i,ij,...j", d, np.linalg.inv([[xx, xy], [xy, yy]]), d)
    expected = np.sum((image * np.exp(-0.5 * q))[q <= 14])
    assert gaussian_sum(image, *centre, xx, yy, xy) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    "moments", [(0.4, 0.4, 0.0), (0.1, 0.2, 0.05), (1e-3, 1e-3, 0.0), (3.0, 0.1, 0.2), (0.5, 0.5, 0.0)]
)
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.5, 0.3), (-0.2, 0.1)])
def test_narrow_apertures(moments: tuple[float, float, float], offset: tuple[float, float]) -> None:
    """They give the integral over a smooth image, wherever the pixels are."""
    width = 1.8**2
    x, y = 20 + offset[0], 20 + offset[1]
    image = gaussian(20.1, 19.9, (width, width, 0.0), 41)
    both = np.array([[moments[0] + width, moments[2]], [moments[2], moments[1] + width]])
    d = np.array([20.1 - x, 19.9 - y])
    expected = np.sqrt((moments[0] * moments[1] - moments[2] ** 2) / np.linalg.det(both))
    expected *= np.exp(-0.5 * d @ np.linalg.inv(both) @ d)
    assert gaussian_sum(image, x, y, *moments) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("moments", [(np.nan, 1.0, 0.0), (1.0, 1.0, 1.0), (-1.0, 1.0, 0.0), (0.0, 0.0, 0.0)])
def test_no_aperture(moments: tuple[float, float, float]) -> None:
    assert np.isnan(gaussian_sum(np.ones((9, 9)), 4.0, 4.0, *moments))


@pytest.mark.parametrize("sigma", [1.4, 2.0])
@pytest.mark.parametrize("intrinsic", [(0.0, 0.0, 0.0), (2.0, 2.0, 0.0), (9.0, 4.0, 2.5), (16.0, 20.0, -6.0)])
def test_gaussian_galaxies(sigma: float, intrinsic: tuple[float, float, float]) -> None:
    """The flux under a Gaussian is that of the galaxy as it is without the PSF, to 5e-3."""
    seen = (intrinsic[0] + sigma**2, intrinsic[1] + sigma**2, intrinsic[2])
    exposure = make_image(1e4 * gaussian(60.3, 59.6, seen), psf=sigma)
    result = measure(exposure, moments=seen)
    galaxy = np.array([[intrinsic[0], intrinsic[2]], [intrinsic[2], intrinsic[1]]])
    apertures = {name: np.eye(2) * (s / PIXEL_SCALE) ** 2 for name, s in zip(names(), SIGMAS, strict=False)}
    optimal = np.array([[seen[0], seen[2]], [seen[2], seen[1]]]) + np.eye(2) * sigma**2
    apertures["1_15x_Optimal"] = optimal
    for name, aperture in apertures.items():
        expected = 1e4 * np.sqrt(np.linalg.det(aperture) / np.linalg.det(aperture + galaxy))
        assert result[f"{name}_instFlux"][0] == pytest.approx(expected, rel=5e-3), name
        assert not result[f"{name}_flag"][0]
    for k, c in enumerate(("xx", "yy", "xy")):
        assert result[f"OptimalShape_{c}"][0] == pytest.approx(
            [optimal[0, 0], optimal[1, 1], optimal[0, 1]][k], rel=1e-4
        )


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.5, 0.5), (0.3, -0.4)])
def test_stars_of_an_asymmetric_psf(offset: tuple[float, float]) -> None:
    """All apertures give the flux of a star: the PSF is made Gaussian, not its mirror image."""
    x, y = 60 + offset[0], 60 + offset[1]
    exposure = make_image(1e4 * coma(x, y, SIZE), psf=ComaPsf())
    shape = psf_shapes(ComaPsf(), x=x, y=y)[0]
    result = measure(exposure, x, y, moments=tuple(shape))
    for name, tolerance in zip(names(), [0.02, 0.01, 0.01, 0.01, 0.01, 0.01, 0.02, 0.02], strict=True):
        assert result[f"{name}_instFlux"][0] == pytest.approx(1e4, rel=tolerance), name


def test_psf_flux() -> None:
    """That with the PSF as the aperture is close to the flux of the fitted PSF."""
    rng = np.random.default_rng(8)
    exposure = make_image(2e3 * gaussian(60.3, 59.6, (4, 4, 0)) + rng.normal(0, 1, (SIZE, SIZE)))
    result = measure(exposure)
    catalog = measure_at(exposure, ["base_PsfFlux"], x=[60.3], y=[59.6])
    flux, error = catalog["base_PsfFlux_instFlux"][0], catalog["base_PsfFlux_instFluxErr"][0]
    assert result["1_15x_PsfFlux_instFlux"][0] == pytest.approx(flux, abs=0.5 * error)
    assert result["1_15x_PsfFlux_instFluxErr"][0] == pytest.approx(error, rel=0.1)


def test_error_scaling() -> None:
    """Errors on uniform noise are those of a Gaussian kernel and aperture, to 1e-4."""
    sigma, variance = 2.0, 2.5
    exposure = make_image(psf=sigma)
    exposure.variance.array[...] = variance
    result = measure(exposure, 60, 60, radius=50, moments=(8.0, 6.0, 1.0))
    size = float(np.mean(psf_shapes(exposure.psf, x=60.0, y=60.0)[0, :2]))
    target, widened = 1.3225 * size, 0.3225 * size
    for name, whole in zip(names(), [(s / PIXEL_SCALE) ** 2 for s in SIGMAS[:4]], strict=False):
        weight = whole - target
        # scale^2 4 V pi sqrt(det Q) times the scaling, sqrt(det Q / det(Q + g^2)).
        expected = (whole / weight) ** 2 * variance * np.pi * weight * weight / (weight + widened)
        assert result[f"{name}_instFluxErr"][0] == pytest.approx(np.sqrt(expected), rel=1e-4), name
    expected = 4 * variance * np.pi * target**2 / (target + widened)
    assert result["1_15x_PsfFlux_instFluxErr"][0] == pytest.approx(np.sqrt(expected), rel=1e-4)


def test_no_scaling_without_a_kernel() -> None:
    """The autocorrelation of a kernel of one pixel changes no error."""
    delta = np.zeros((1, 5))
    delta[0, 2] = 1.0
    correlation = autocorrelation(delta, delta)
    assert gaussian_sum(correlation, 4.0, 4.0, 2 * 3.0, 2 * 2.0, 2 * 0.5) == pytest.approx(1.0, rel=1e-12)


def test_errors_are_the_scatter_on_sky() -> None:
    """Noise of the sky, in apertures of all widths."""
    rng = np.random.default_rng(3)
    x, y = (v.ravel() for v in np.meshgrid(np.arange(40.0, 1560, 21), np.arange(40.0, 1560, 21)))
    psf = GaussianPointSpreadFunction(1.7, Box.factory[0:1600, 0:1600], 41)
    exposure = make_image(psf=psf, noise=3.0, width=1600, height=1600)
    exposure.image.array[...] = rng.normal(0, 3.0, (1600, 1600))
    result = measure(exposure, x, y, radius=15, sigmas=SIGMAS[:4])
    assert len(x) > 5000
    for name in ("1_15x_0_5", "1_15x_0_7", "1_15x_PsfFlux", "1_15x_Optimal", "1_15x_1_0", "1_15x_1_5"):
        pulls = result[f"{name}_instFlux"] / result[f"{name}_instFluxErr"]
        assert np.std(pulls) == pytest.approx(1.0, abs=0.02 if name != "1_15x_1_5" else 0.05), name


def test_errors_are_the_scatter_of_a_bright_star() -> None:
    """Noise of the source itself, far above that of the sky."""
    rng = np.random.default_rng(6)
    n, step = 70, 45
    grid = np.arange(n) * step + 22.0
    size = n * step
    x, y = (v.ravel() for v in np.meshgrid(grid, grid))
    star = gaussian(22, 22, (4.0, 4.0, 0.0), step) * 1e5
    variance = np.tile(star + 25.0, (n, n))
    psf = GaussianPointSpreadFunction(2.0, Box.factory[0:size, 0:size], 41)
    exposure = make_image(psf=psf, width=size, height=size)
    exposure.image.array[...] = np.tile(star, (n, n)) + rng.normal(0, 1, (size, size)) * np.sqrt(variance)
    exposure.variance.array[...] = variance
    result = measure(exposure, x, y, radius=15)
    for name in names():
        pulls = (result[f"{name}_instFlux"] - 1e5) / result[f"{name}_instFluxErr"]
        assert np.std(pulls) == pytest.approx(1.0, abs=0.03), name
        assert abs(np.mean(pulls)) < 0.1, name


def test_big_psf() -> None:
    """The flag is set exactly where an aperture is no wider than the PSF made Gaussian."""
    exposure = make_image(1e4 * gaussian(60.3, 59.6, (4, 4, 0)))
    psf = psf_shapes(exposure.psf, x=60.3, y=59.6)[0]
    limit = 1.15 * float(np.sqrt(np.mean(psf[:2]))) * PIXEL_SCALE
    sigmas = [limit * (1 - 1e-3), limit * (1 + 1e-3), 0.1, 3.0]
    result = measure(exposure, sigmas=sigmas)
    found = [
        bool(result[f"{GaapFluxConfig.getGaapResultName(1.15, s, '')}_flag_bigPsf".lstrip("_")][0])
        for s in sigmas
    ]
    assert found == [True, False, True, False]
    for s, big in zip(sigmas, found, strict=True):
        name = GaapFluxConfig.getGaapResultName(1.15, s, "").lstrip("_")
        assert bool(result[f"{name}_flag"][0]) == big
        assert np.isnan(result[f"{name}_instFlux"][0]) == big
    near = GaapFluxConfig.getGaapResultName(1.15, sigmas[1], "").lstrip("_")
    assert result[f"{near}_instFlux"][0] == pytest.approx(1e4, rel=0.01)
    assert not result["flag"][0]


def test_optimal_aperture_smaller_than_the_psf() -> None:
    """A shape that leaves nothing for the weights is flagged; other apertures are measured."""
    exposure = make_image(1e4 * gaussian(60.3, 59.6, (4, 4, 0)))
    result = measure(exposure, moments=(0.5, 6.0, 0.0))
    assert result["1_15x_Optimal_flag_bigPsf"][0]
    assert result["1_15x_Optimal_flag"][0]
    assert not result["1_15x_1_0_flag"][0]
    assert not result["flag"][0]
    without = measure(exposure, moments=(np.nan, 6.0, 0.0))
    assert not without["1_15x_Optimal_flag_bigPsf"][0]
    assert without["1_15x_Optimal_flag"][0]
    assert without["flag"][0]
    assert without["1_15x_1_0_instFlux"][0] == pytest.approx(1e4, rel=5e-3)


def test_scaling_factors() -> None:
    exposure = make_image(1e4 * gaussian(60.3, 59.6, (8, 6, 1)))
    result = measure(exposure, scalingFactors=[1.0, 1.15, 1.4], moments=(8.0, 6.0, 1.0), sigmas=[1.0])
    fluxes = [result[f"{f}x_1_0_instFlux"][0] for f in ("1_0", "1_15", "1_4")]
    assert fluxes == pytest.approx([fluxes[1]] * 3, rel=5e-3)
    assert {"1_0x_flag_gaussianization", "1_15x_PsfFlux_instFlux", "1_4x_Optimal_flag_bigPsf"} <= set(result)


def test_edges_and_pixels() -> None:
    exposure = make_image(1e4 * gaussian(60.3, 59.6, (4, 4, 0)))
    result = measure(exposure, [60.3, 36.0, 5.0, 60.0], [59.6, 60.0, 60.0, 0.0], radius=25)
    assert result["flag_edge"].tolist() == [False, False, True, True]
    assert not result["flag"].any()
    assert np.isfinite(result["1_15x_1_0_instFlux"]).all()
    # One pixel is footprint enough: ten more all round are used.
    result = measure(exposure, radius=0)
    assert result["1_15x_0_7_instFlux"][0] == pytest.approx(1e4, rel=1e-2)
    # A position beside its footprint.
    catalog = measure_at(exposure, [GAAP], x=[-60.0], y=[60.0], radius=5)
    assert catalog[f"{GAAP}_flag_no_pixel"][0]
    assert catalog[f"{GAAP}_flag"][0]
    for name in ("1_15x_0_7", "1_15x_1_0", "1_15x_Optimal"):
        assert catalog[f"{GAAP}_{name}_flag"][0]
        assert not catalog[f"{GAAP}_{name}_flag_bigPsf"][0]


def test_negative_flux() -> None:
    exposure = make_image(-1e4 * gaussian(60.3, 59.6, (4, 4, 0)))
    result = measure(exposure)
    for name in names():
        assert result[f"{name}_instFlux"][0] == pytest.approx(-1e4, rel=5e-3)
        assert result[f"{name}_instFluxErr"][0] > 0
        assert not result[f"{name}_flag"][0]


def test_psf_that_cannot_be_made_gaussian() -> None:
    """Kernels that fit nowhere into the PSF image: the flag of this and of every flux."""
    config = GaapFluxConfig()
    config._modelPsfMatch.doAutoPadPsf = False
    config._modelPsfMatch.kernel["AL"].kernelSizeMin = 35
    config.sigmas, config.doPsfPhotometry = SIGMAS, True
    psf = GaussianPointSpreadFunction(2.0, Box.factory[0:SIZE, 0:SIZE], 25)
    exposure = make_image(1e4 * gaussian(60.3, 59.6, (4, 4, 0)), psf=psf)
    result = measure(exposure, _modelPsfMatch=config._modelPsfMatch)
    assert result["1_15x_flag_gaussianization"][0]
    assert all(result[f"{name}_flag"][0] for name in names())
    config._modelPsfMatch.padPsfBy = 20
    result = measure(exposure, _modelPsfMatch=config._modelPsfMatch)
    assert not result["1_15x_flag_gaussianization"][0]
    assert result["1_15x_1_0_instFlux"][0] == pytest.approx(1e4, rel=5e-3)
    assert not fit_kernel(np.zeros((25, 25)), 2.0, 2.3, SETTINGS)[0]
    assert not fit_kernel(np.full((25, 25), np.nan), 2.0, 2.3, SETTINGS)[0]


def test_kernel_sizes() -> None:
    config = GaussianizePsfConfig()
    sides = [kernel_side(s, config.settings()) for s in (0.7, 3.4, 3.7, 4.0, 50.0)]
    assert sides == [21, 21, 23, 25, 35]
    config.kernel["AL"].scaleByFwhm = False
    config.kernel["AL"].kernelSize = 14
    assert kernel_side(5.0, config.settings()) == 15


def test_flagged_position() -> None:
    result = measure(make_image(1e4 * gaussian(60.3, 59.6, (4, 4, 0))), flag=True)
    assert result["flag"][0]
    assert all(result[f"{name}_flag"][0] for name in names())
    assert np.isfinite(result["1_15x_1_0_instFlux"][0])


def test_names() -> None:
    config = GaapFluxConfig()
    assert list(config.sigmas) == [0.7, 1.0]
    assert config.getAllGaapResultNames() == [f"{GAAP}_1_15x_{s}" for s in ("0_7", "1_0", "Optimal")]
    config.doPsfPhotometry, config.doOptimalPhotometry = True, False
    assert config.getAllGaapResultNames("mine")[-1] == "mine_1_15x_PsfFlux"
    for field, value in (("sigmas", [0.0]), ("scalingFactors", [0.9]), ("_modelPsfDimension", 64)):
        with pytest.raises(pex_config.FieldValidationError):
            setattr(GaapFluxConfig(), field, value)
    kernel = config._modelPsfMatch.kernel["AL"]
    for field, value in (("alardNGauss", 2), ("fitForBackground", True)):
        with pytest.raises(pex_config.FieldValidationError):
            setattr(kernel, field, value)
    kernel.alardDegGauss = [4, 2]
    with pytest.raises(pex_config.FieldValidationError):
        kernel.validate()


def make_plugin_task(**config: Any) -> SingleFrameMeasurementTask:
    schema = minimal_source_schema()
    for column in ("in_x", "in_y"):
        schema.add(column, np.float64, "given")
    schema.set_alias("slot_Centroid", "in")
    if config.get("doOptimalPhotometry", True):
        schema.set_alias("slot_Shape", "in")
    settings = make_config(GAAP)
    settings.plugins[GAAP].update(**config)
    return SingleFrameMeasurementTask(schema, config=settings)


def test_aperture_corrections() -> None:
    """Every flux is registered, unless that is switched off."""
    make_plugin_task(sigmas=[0.77], registerForApCorr=False)
    assert f"{GAAP}_1_15x_0_77" not in ap_corr_names()
    task = make_plugin_task(sigmas=[0.5, 0.7], doPsfPhotometry=True)
    plugin = task.plugins[0]
    assert isinstance(plugin, GaapFluxPlugin)
    assert set(plugin.config.getAllGaapResultNames()) <= ap_corr_names()
    for name in plugin.config.getAllGaapResultNames():
        assert all(f"{name}_{suffix}" in task.schema for suffix in ("instFlux", "instFluxErr", "flag"))
    assert "slot_Shape_xx" not in make_plugin_task(doOptimalPhotometry=False).schema


def test_needs_a_shape_slot() -> None:
    schema = minimal_source_schema()
    for column in ("in_x", "in_y"):
        schema.add(column, np.float64, "given")
    schema.set_alias("slot_Centroid", "in")
    with pytest.raises(ValueError, match="slot_Shape"):
        SingleFrameMeasurementTask(schema, config=make_config(GAAP))


def test_failure_flags_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: MeasurementSources) -> np.ndarray:
        raise RuntimeError("no shapes")

    monkeypatch.setattr(MeasurementSources, "psf_shapes", property(broken))
    result = measure(make_image(1e4 * gaussian(60.3, 59.6, (4, 4, 0))))
    assert result["flag"][0]
    assert all(result[f"{name}_flag"][0] for name in names())


def test_override_files() -> None:
    config = SingleFrameMeasurementConfig()
    config.loadFromString(
        f"""
config.plugins.names |= ["{GAAP}"]
config.plugins["{GAAP}"].sigmas = [0.5, 0.7, 1.0, 1.5, 2.5, 3.0]
config.plugins["{GAAP}"].doPsfPhotometry = True
config.plugins["{GAAP}"]._modelPsfMatch.kernel["AL"].kernelSize = 25
config.plugins["{GAAP}"]._modelPsfMatch.kernel.active.alardDegGauss = [3]
config.plugins["{GAAP}"]._modelPsfMatch.kernel["AL"].fitForBackground = False
config.plugins["{GAAP}"]._modelPsfMatch.kernel["AL"].spatialKernelOrder = 0
config.plugins["{GAAP}"]._modelPsfMatch.convolutionMethod = "overlap-add"
config.plugins["{GAAP}"]._modelPsfDimension = 63
"""
    )
    gaap = config.plugins[GAAP]
    assert gaap.gaussianize.degree == 3
    assert gaap.gaussianize.kernel_size == 25
    assert len(gaap.getAllGaapResultNames()) == 8


def test_the_final_characterization_allows_the_same_names_to_fail() -> None:
    config = FinalizeCharacterizationDetectorConfig()
    convolved = [
        f"ext_convolved_ConvolvedFlux_{k}_{a}" for k in range(4) for a in ("3_3", "4_5", "6_0", "kron")
    ]
    assert {*convolved, *(f"{GAAP}_{name}" for name in names())} == set(config.measure_ap_corr.allowFailure)
