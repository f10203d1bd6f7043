"""Convolved fluxes: facts of the specification, a slow twin, errors, every flag and configuration field."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import numpy as np
import pytest
import scipy.ndimage
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.schema import minimal_source_schema
from secondlight.measurement.plugins._convolved_kernels import gaussian_taps, smoothed_sums
from secondlight.measurement.plugins.aperture_flux import CircularApertureFluxConfig
from secondlight.measurement.plugins.convolved_flux import ConvolvedFluxConfig, ConvolvedFluxPlugin
from secondlight.measurement.sources import MeasurementSources
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.photometry.ap_corr_names import ap_corr_names
from tests.measurement.scene import make_config, measure_at
from tests.scenes import make_visit_image

CONVOLVED = "ext_convolved_ConvolvedFlux"
KRON = "ext_photometryKron_KronFlux"
FWHM = 2.3548200450309493
SEEINGS = [3.5, 5.0, 6.5, 8.0]


def make_image(
    sources: Any = (), *, sigma: float = 2.0, width: int = 121, height: int = 121, noise: float = 1.0
):
    """Return a visit image with round Gaussian sources ``(x, y, sigma, flux)`` and a Gaussian PSF."""
    psf = GaussianPointSpreadFunction(sigma, Box.factory[0:height, 0:width], 41)
    exposure = make_visit_image(width=width, height=height, psf=psf, noise=noise, add_noise=False)
    j, i = np.indices((height, width))
    pixels = np.zeros((height, width))
    for x, y, s, flux in sources:
        pixels += flux * np.exp(-0.5 * ((i - x) ** 2 + (j - y) ** 2) / s**2) / (2 * np.pi * s**2)
    exposure.image.array[...] = pixels
    return exposure


def measure(exposure, x=60.3, y=59.6, *, moments=(4.0, 4.0, 0.0), kron=True, flag=False, **config):
    """Measure, and return a dictionary of the columns without their prefix, and the Kron radii."""
    settings = {CONVOLVED: {"seeing": SEEINGS} | config}
    plugins = [KRON, CONVOLVED] if kron else [CONVOLVED]
    x, y = np.atleast_1d(x).tolist(), np.atleast_1d(y).tolist()
    catalog = measure_at(exposure, plugins, x=x, y=y, moments=moments, settings=settings, flag=flag)
    columns = [n for n in catalog.schema.names if n.startswith(CONVOLVED)]
    result = {n.removeprefix(f"{CONVOLVED}_"): np.array(catalog[n]) for n in columns}
    if kron:
        result["radius"] = np.array(catalog[f"{KRON}_radius"], dtype=float)
    return result


@pytest.mark.parametrize("sigma", [1.4, 2.0, 2.6])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.3, -0.4), (0.5, 0.25)])
def test_convolved_gaussians(sigma: float, offset: tuple[float, float]) -> None:
    """Fluxes in apertures about a star are those of the Gaussian of the wanted seeing, to 1e-3."""
    x, y = 60 + offset[0], 60 + offset[1]
    exposure = make_image([(x, y, sigma, 1e4)], sigma=sigma)
    result = measure(exposure, x, y, moments=(sigma**2, sigma**2, 0.0))
    assert result["seeing"][0] == pytest.approx(sigma, rel=2e-5)
    for k, seeing in enumerate(SEEINGS):
        width = max(sigma, seeing / FWHM)
        apertures = {"3_3": 3.3, "4_5": 4.5, "6_0": 6.0, "kron": 2.5 * result["radius"][0]}
        for name, radius in apertures.items():
            expected = 1e4 * (1 - np.exp(-0.5 * (radius / width) ** 2))
            assert result[f"{k}_{name}_instFlux"][0] == pytest.approx(expected, rel=1.5e-3)
            assert not result[f"{k}_{name}_flag"][0]


def test_deconvolution_flag() -> None:
    """It is set exactly where the PSF is wider than the seeing asked for; the pixels are used as they are."""
    sigma = 1.9
    exposure = make_image([(60.3, 59.6, sigma, 1e4)], sigma=sigma)
    seeing = float(measure(exposure)["seeing"][0]) * FWHM
    result = measure(exposure, seeing=[0.5, seeing - 1e-5, seeing + 1e-5, 7.0])
    assert [bool(result[f"{k}_deconv"][0]) for k in range(4)] == [True, True, False, False]
    for name in ("3_3", "6_0", "kron"):
        for column in ("instFlux", "instFluxErr"):
            plain, almost, just = (result[f"{k}_{name}_{column}"][0] for k in range(3))
            assert plain == almost == pytest.approx(just, rel=1e-4)
    plain = measure_at(
        exposure, ["base_CircularApertureFlux"], x=[60.3], y=[59.6],
        settings={"base_CircularApertureFlux": {"radii": [6.0]}},
    )  # fmt: skip
    for column in ("instFlux", "instFluxErr"):
        assert result[f"0_6_0_{column}"][0] == pytest.approx(
            plain[f"base_CircularApertureFlux_6_0_{column}"][0], rel=1e-12
        )


def slow_convolve(images: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Return images (..., h, w) convolved along both axes but for a border of half a kernel."""
    half = len(taps) // 2
    smooth = images
    for axis in (-1, -2):
        smooth = scipy.ndimage.convolve1d(smooth, taps, axis=axis, mode="constant")
    out = images.copy()
    if half == 0:
        return smooth
    out[..., half:-half, half:-half] = smooth[..., half:-half, half:-half]
    return out


@pytest.mark.parametrize("half", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("corner", [(9, 8), (0, 0), (3, 12), (-4, -2), (19, 17), (26, 3), (40, 40)])
def test_slow_twin(half: int, corner: tuple[int, int]) -> None:
    """The flux is that of the convolved image; its variance that of the response to each single pixel."""
    rng = np.random.default_rng(7)
    height, width = 27, 31
    image, variance = rng.normal(0, 1, (height, width)), rng.uniform(1, 3, (height, width))
    weights = rng.normal(0, 1, (11, 9))
    taps = gaussian_taps(half / 4, half) if half else np.ones(1)
    assert taps.sum() == pytest.approx(1.0)
    wide = np.zeros((height, width))
    for j in range(11):
        for i in range(9):
            if 0 <= corner[1] + j < height and 0 <= corner[0] + i < width:
                wide[corner[1] + j, corner[0] + i] = weights[j, i]
    impulses = np.eye(height * width).reshape(-1, height, width)
    response = np.tensordot(slow_convolve(impulses, taps), wide, axes=2)
    flux, noise = smoothed_sums(image, variance, weights, *corner, taps)
    assert flux == pytest.approx(np.sum(wide * slow_convolve(image, taps)), abs=1e-12)
    assert flux == pytest.approx(np.sum(response * image.ravel()), abs=1e-12)
    assert noise == pytest.approx(np.sum(response**2 * variance.ravel()), rel=1e-12)


def test_errors_are_the_scatter() -> None:
    """On correlated noise, too: fluxes of empty sky scatter by their errors."""
    rng = np.random.default_rng(5)
    x, y = (v.ravel() for v in np.meshgrid(np.arange(30.0, 1000, 26), np.arange(30.0, 1000, 26)))
    exposure = make_image(width=1030, height=1030, noise=3.0)
    exposure.image.array[...] = rng.normal(0, 3.0, (1030, 1030))
    result = measure(exposure, x, y, kron=False, seeing=[5.0, 8.0])
    for k in range(2):
        for name in ("3_3", "4_5", "6_0"):
            pulls = result[f"{k}_{name}_instFlux"] / result[f"{k}_{name}_instFluxErr"]
            assert len(pulls) > 1400
            assert np.std(pulls) == pytest.approx(1.0, abs=0.06), (k, name)


def test_errors_of_wide_seeing() -> None:
    """The error of an aperture much smaller than the seeing: V sqrt of the area of the kernel's square."""
    exposure = make_image(noise=1.0, sigma=1.0)
    result = measure(exposure, 60, 60, moments=(1.0, 1.0, 0.0), seeing=[8.0])
    s, a = np.sqrt((8.0 / FWHM) ** 2 - 1.0), 3.3
    # Variance of the mean over a disc of Gaussian-smoothed noise, from its power spectrum.
    k = np.linspace(1e-4, 4, 20000)
    disc = 2 * np.pi * a * scipy.special.j1(k * a) / k
    expected = np.trapezoid(k / (2 * np.pi) * disc**2 * np.exp(-((k * s) ** 2)), k)
    assert result["0_3_3_instFluxErr"][0] ** 2 == pytest.approx(expected, rel=5e-3)


def test_apertures_of_whole_pixels() -> None:
    exposure = make_image([(60.3, 59.6, 2.0, 1e4)])
    aperture = CircularApertureFluxConfig()
    aperture.update(radii=[6.0, 12.0, 4.5], maxSincRadius=5.0)
    result = measure(exposure, maxSincRadius=3.0, aperture=aperture)
    for k, seeing in enumerate(SEEINGS[1:], start=1):
        for name, radius in {"4_5": 4.5, "12_0": 12.0, "6_0": 6.0, "kron": 2.5 * result["radius"][0]}.items():
            expected = 1e4 * (1 - np.exp(-0.5 * (radius * FWHM / seeing) ** 2))
            assert result[f"{k}_{name}_instFlux"][0] == pytest.approx(expected, rel=1.5e-2)
    i, j = np.meshgrid(np.arange(121) - 60.3, np.arange(121) - 59.6)
    taps = gaussian_taps(
        *(lambda s: (s, int(4 * s + 0.5)))(np.sqrt((8 / FWHM) ** 2 - result["seeing"][0] ** 2))
    )
    smooth = slow_convolve(exposure.image.array.astype(float), taps)
    assert result["3_12_0_instFlux"][0] == pytest.approx(smooth[np.hypot(i, j) <= 12].sum(), rel=1e-6)


def test_elliptical_kron_aperture() -> None:
    """The aperture has the form of the shape slot, not that of the convolved source."""
    exposure = make_image([(60.3, 59.6, 2.0, 1e4)])
    moments = (9.0, 4.0, 2.0)
    result = measure(exposure, moments=moments)
    scale = (2.5 * result["radius"][0]) ** 2 / np.sqrt(9 * 4 - 4)
    j, i = np.mgrid[-20:20:0.05, -20:20:0.05]
    inside = (4 * i**2 - 2 * 2 * i * j + 9 * j**2) / 32 <= scale
    for k, seeing in enumerate(SEEINGS[1:], start=1):
        s2 = (seeing / FWHM) ** 2
        profile = np.exp(-0.5 * (i**2 + j**2) / s2) / (2 * np.pi * s2)
        expected = 1e4 * profile[inside].sum() * 0.05**2
        assert result[f"{k}_kron_instFlux"][0] == pytest.approx(expected, rel=2e-3)


def test_without_a_kron_radius() -> None:
    """No column, or no radius in it: the Kron fluxes are NaN and flagged, the others are measured."""
    exposure = make_image([(60.3, 59.6, 2.0, 1e4)])
    without = measure(exposure, kron=False)
    no_shape = measure(exposure, moments=(np.nan, 4.0, 0.0))
    for result in (without, no_shape):
        for k in range(4):
            assert result[f"{k}_kron_flag"][0]
            assert np.isnan(result[f"{k}_kron_instFlux"][0])
            assert not result[f"{k}_4_5_flag"][0]
            assert np.isfinite(result[f"{k}_4_5_instFlux"][0])
        assert not result["flag"][0]
    # A radius from any column: the test's own moments serve as one.
    named = measure(exposure, kron=False, kronRadiusName="in_xx", kronRadiusForFlux=1.5)
    expected = 1e4 * (1 - np.exp(-0.5 * (6 / 2.0) ** 2))
    assert named["0_kron_instFlux"][0] == pytest.approx(expected, rel=1e-3)


def test_edges() -> None:
    """Apertures that reach over the edge are flagged one by one; pixels at the edge are not convolved."""
    exposure = make_image([(3.6, 60.0, 1.4, 1e4)], sigma=1.4)
    result = measure(exposure, 3.6, 60, moments=(1.96, 1.96, 0.0), seeing=[5.0, 8.0])
    for k in range(2):
        assert not result[f"{k}_3_3_flag"][0]
        assert result[f"{k}_3_3_flag_sincCoeffsTruncated"][0]
        for name in ("4_5", "6_0"):
            assert result[f"{k}_{name}_flag"][0]
            assert result[f"{k}_{name}_flag_apertureTruncated"][0]
            assert np.isnan(result[f"{k}_{name}_instFlux"][0])
        assert not result[f"{k}_deconv"][0]
    narrow = make_image([(60.0, 10.0, 1.4, 1e4)], sigma=1.4, height=21)
    result = measure(narrow, 60, 10, moments=(1.96, 1.96, 0.0), seeing=[5.0, 8.0])
    assert [bool(result[f"{k}_deconv"][0]) for k in range(2)] == [False, True]


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.3, 0.5, 0.79])
def test_narrow_kernels(sigma: float) -> None:
    """They have the second moment asked for, although they are sampled coarsely."""
    half = max(1, int(4 * sigma + 0.5))
    taps = gaussian_taps(sigma, half)
    assert taps.sum() == pytest.approx(1.0, rel=1e-12)
    assert np.sum(taps * np.arange(-half, half + 1) ** 2) == pytest.approx(sigma**2, rel=1e-8)


def test_kernel_of_no_width() -> None:
    """It leaves the image as it is."""
    exposure = make_image([(60.3, 59.6, 2.0, 1e4)])
    seeing = float(measure(exposure)["seeing"][0]) * FWHM + 1e-9
    result = measure(exposure, seeing=[seeing, 1.0])
    assert not result["0_deconv"][0]
    assert result["0_4_5_instFlux"][0] == result["1_4_5_instFlux"][0]


def test_flagged_position() -> None:
    exposure = make_image([(60.3, 59.6, 2.0, 1e4)])
    result = measure(exposure, flag=True)
    assert result["flag"][0]
    assert all(result[f"{k}_{name}_flag"][0] for k in range(4) for name in ("3_3", "4_5", "6_0", "kron"))
    assert np.isfinite(result["1_4_5_instFlux"][0])


def test_no_seeings_and_one_source_or_none() -> None:
    result = measure(make_image([(60.3, 59.6, 2.0, 1e4)]), seeing=[])
    assert result["seeing"][0] == pytest.approx(2.0, rel=1e-4)


def test_names() -> None:
    config = ConvolvedFluxConfig()
    assert list(config.seeing) == [3.5, 5.0, 6.5]
    assert list(config.aperture.radii) == [3.3, 4.5, 6.0]
    config.seeing.append(8.0)
    names = config.getAllResultNames()
    assert len(names) == len(set(names)) == 16
    assert config.getApertureResultName(6.5, 4.5) == f"{CONVOLVED}_2_4_5" == names[7]
    assert config.getKronResultName(8.0) == f"{CONVOLVED}_3_kron" == names[-1]
    assert config.getAllKronResultNames("mine")[0] == "mine_0_kron"
    assert config.getAllResultNames() == config.getAllApertureResultNames() + config.getAllKronResultNames()
    with pytest.raises(ValueError, match=r"not 4\.0"):
        config.getBaseNameForSeeing(4.0)
    for field, value in (("kernelScale", 0.0), ("seeing", [3.0, -1.0]), ("kronRadiusForFlux", 0.0)):
        bad = ConvolvedFluxConfig()
        with pytest.raises(pex_config.FieldValidationError):
            setattr(bad, field, value)


def make_plugin_task(**config: Any) -> SingleFrameMeasurementTask:
    schema = minimal_source_schema()
    for column in ("in_x", "in_y", "in_xx", "in_yy", "in_xy"):
        schema.add(column, np.float64, "given")
    schema.set_alias("slot_Centroid", "in")
    schema.set_alias("slot_Shape", "in")
    settings = make_config(CONVOLVED)
    settings.plugins[CONVOLVED].update(**config)
    return SingleFrameMeasurementTask(schema, config=settings)


def test_aperture_corrections() -> None:
    """Every flux is registered, unless that is switched off."""
    make_plugin_task(seeing=[3.25, 4.25, 5.25, 6.25, 7.25, 9.0], registerForApCorr=False)
    assert f"{CONVOLVED}_5_kron" not in ap_corr_names()
    task = make_plugin_task(seeing=SEEINGS)
    plugin = task.plugins[0]
    assert isinstance(plugin, ConvolvedFluxPlugin)
    assert set(plugin.config.getAllResultNames()) <= ap_corr_names()
    for name in plugin.config.getAllResultNames():
        assert all(f"{name}_{suffix}" in task.schema for suffix in ("instFlux", "instFluxErr", "flag"))


def test_failure_flags_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: MeasurementSources) -> np.ndarray:
        raise RuntimeError("no shapes")

    monkeypatch.setattr(MeasurementSources, "psf_shapes", property(broken))
    result = measure(make_image([(60.3, 59.6, 2.0, 1e4)]), kron=False)
    assert result["flag"][0]
    assert all(result[f"{k}_{name}_flag"][0] for k in range(4) for name in ("3_3", "4_5", "6_0", "kron"))


def test_needs_a_shape_slot() -> None:
    schema = minimal_source_schema()
    for column in ("in_x", "in_y"):
        schema.add(column, np.float64, "given")
    schema.set_alias("slot_Centroid", "in")
    with pytest.raises(ValueError, match="slot_Shape"):
        SingleFrameMeasurementTask(schema, config=make_config(CONVOLVED))
