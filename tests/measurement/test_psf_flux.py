"""base_PsfFlux: bad pixels, the weighted flux, colours, and what sources keep of the PSF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from lsst.images import Box, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper

from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components
from secondlight.measurement.pixels import SourcePixels
from secondlight.measurement.plugins._psf_flux_kernels import weighted_flux_loop
from secondlight.measurement.plugins.psf_flux import PsfFluxConfig, PsfFluxPlugin
from secondlight.measurement.plugins.sdss_centroid import SdssCentroidConfig, SdssCentroidPlugin
from secondlight.measurement.sources import MeasurementSources
from secondlight.photometry.ap_corr_names import ap_corr_names
from secondlight.psf.evaluation import kernel_stamps, psf_shapes, stellar_stamps

from ..psf.test_evaluation import make_piff
from ..scenes import make_visit_image
from .scene import fixed_slots, make_catalog, measure_at, round_footprints

NAME = "base_PsfFlux"
WEIGHTED = f"{NAME}_weighted"


def measure(exposure: VisitImage, *, x: Any, y: Any, **settings: Any) -> SourceCatalog:
    settings = {"doWeighted": True} | settings
    return measure_at(exposure, [NAME], x=x, y=y, settings={NAME: settings})


def stars(x: list[float], y: list[float], flux: float = 1e4, **settings: Any) -> VisitImage:
    return make_visit_image(width=120, height=110, x=x, y=y, flux=[flux] * len(x), **settings)


def bare_pixels(image: np.ndarray, variance: np.ndarray, n: int) -> SourcePixels:
    """Return pixels of n sources without own pixels."""
    none, offsets = np.zeros(0, np.int32), np.zeros(n + 1, np.int64)
    values = np.zeros(0, np.float32)
    return SourcePixels(image, variance, 0, 0, offsets, none, none, none, offsets, values, values)


def weighted_twin(phi: np.ndarray, data: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """Fit with weights from a straight line through the variances of the usable pixels."""
    usable = np.isfinite(data) & np.isfinite(variance) & (variance > 0)
    m, d, v = phi[usable].astype(float), data[usable].astype(float), variance[usable].astype(float)
    slope, level = np.polyfit(m, v, 1)
    if slope < 0:
        slope, level = 0.0, v.mean()
    expected = np.maximum(level + slope * m, v.min())
    weight = 1 / np.where(v > 2 * expected, v, expected)
    alpha = (weight * m**2).sum()
    return (weight * m * d).sum() / alpha, np.sqrt((weight**2 * m**2 * v).sum()) / alpha


# The weighted flux ------------------------------------------------------------------------------------------


def test_weighted_flux_matches_slow_twin() -> None:
    exposure = stars([60.2], [50.7], noise=12.0, gain=2.0)
    variance, image = exposure.variance.array, exposure.image.array
    variance[50, 60], variance[51, 60], variance[52, 61], variance[49, 58] = np.nan, np.inf, 0.0, -3.0
    variance[40, 52] = 1e9
    image[48, 60] = np.nan
    catalog = measure(exposure, x=[60.2], y=[50.7])
    phi = exposure.psf.compute_stellar_image(x=60.2, y=50.7)
    rows, columns = phi.bbox.slice_within(exposure.bbox)
    flux, error = weighted_twin(phi.array, image[rows, columns], variance[rows, columns])
    assert catalog[f"{WEIGHTED}_instFlux"][0] == pytest.approx(flux, rel=1e-6)
    assert catalog[f"{WEIGHTED}_instFluxErr"][0] == pytest.approx(error, rel=1e-6)
    assert not catalog[f"{WEIGHTED}_flag"][0]
    assert abs(flux - 1e4) < 4 * error
    assert catalog[f"{NAME}_flag"][0]


def test_bad_planes_are_left_out_of_both() -> None:
    exposure = stars([60.2], [50.7], noise=12.0)
    bad = np.zeros((110, 120), bool)
    bad[45:55, 61] = True
    exposure.mask.set("SATURATED", bad)
    exposure.image.array[bad] = 1e6
    catalog = measure(exposure, x=[60.2], y=[50.7], badMaskPlanes=["SAT"])
    for name in (NAME, WEIGHTED):
        assert abs(catalog[f"{name}_instFlux"][0] - 1e4) < 4 * catalog[f"{name}_instFluxErr"][0]
        assert not catalog[f"{name}_flag"][0]
    without = measure(exposure, x=[60.2], y=[50.7])
    assert without[f"{WEIGHTED}_instFlux"][0] > 2e4


def test_uniform_noise_gives_the_same_flux() -> None:
    exposure = stars([60.2], [50.7], noise=12.0)
    catalog = measure(exposure, x=[60.2], y=[50.7])
    for part in ("instFlux", "instFluxErr"):
        assert catalog[f"{WEIGHTED}_{part}"][0] == pytest.approx(catalog[f"{NAME}_{part}"][0], rel=1e-5)


def test_weighted_flux_of_bright_stars() -> None:
    """Unbiased although the variances hold the noise of the pixels, less scatter, and an honest error."""
    rng = np.random.default_rng(11)
    n, flux, sky, size = 1500, 2e6, 400.0, 41
    psf = GaussianPointSpreadFunction(2.0, Box.factory[0:100, 0:100], 25)
    stamps = stellar_stamps(psf, x=np.full(n, 20.3), y=np.full(n, 19.6))
    unweighted, weighted = np.empty((2, n, 2))
    for k in range(n):
        scene = np.full((size, size), sky)
        scene[8:33, 8:33] += flux * stamps.images[k]
        counts = rng.normal(scene, np.sqrt(scene))
        pixels = bare_pixels((counts - sky).astype(np.float32), counts.astype(np.float32), 1)
        one = stamps.images[:1].astype(np.float32)
        weighted[k] = weighted_flux_loop(pixels, one, stamps.x0[:1], stamps.y0[:1], np.zeros((0, 0), bool))[0]
        phi, data, v = stamps.images[k], pixels.image[8:33, 8:33], pixels.variance[8:33, 8:33]
        alpha = (phi**2).sum()
        unweighted[k] = (phi * data).sum() / alpha, np.sqrt((phi**2 * v).sum()) / alpha
    pulls = (weighted[:, 0] - flux) / weighted[:, 1]
    assert abs(pulls.mean()) < 0.1
    assert pulls.std() == pytest.approx(1.0, abs=0.06)
    assert weighted[:, 0].std() < 0.9 * unweighted[:, 0].std()
    assert weighted[:, 1].mean() < 0.9 * unweighted[:, 1].mean()


def test_weighted_flux_is_an_option() -> None:
    catalog = measure(stars([60.0], [50.0]), x=[60.0], y=[50.0], doWeighted=False)
    assert not any(name.startswith(WEIGHTED) for name in catalog.schema.names)
    assert WEIGHTED in ap_corr_names()


# Bad input --------------------------------------------------------------------------------------------------


def test_pixels_that_are_no_numbers_fail_one_source_only() -> None:
    x, y = [30.0, 80.0, 30.0, 80.0], [30.0, 30.0, 80.0, 80.0]
    exposure = stars(x, y, noise=1.0)
    exposure.image.array[31, 30] = np.nan
    exposure.variance.array[30, 81] = np.nan
    exposure.variance.array[81, 30] = np.inf
    catalog = measure(exposure, x=x, y=y)
    np.testing.assert_array_equal(catalog[f"{NAME}_flag"], [True, True, True, False])
    assert np.isnan(catalog[f"{NAME}_instFlux"][0])
    assert np.isnan(catalog[f"{NAME}_instFluxErr"][1])
    np.testing.assert_array_equal(catalog[f"{WEIGHTED}_flag"], False)
    np.testing.assert_allclose(catalog[f"{WEIGHTED}_instFlux"], 1e4, rtol=0.01)


def test_no_usable_variance() -> None:
    for value in (0.0, -1.0, np.nan, np.inf):
        exposure = stars([60.0], [50.0])
        exposure.variance.array[:] = value
        catalog = measure(exposure, x=[60.0], y=[50.0])
        assert catalog[f"{WEIGHTED}_flag"][0]
        assert np.isnan(catalog[f"{WEIGHTED}_instFlux"][0])
        assert catalog[f"{NAME}_flag"][0] == (value != 0.0)


def test_edges_and_missing_positions() -> None:
    x, y = [60.0, 3.0, 300.0, np.nan, 0.0, 119.0], [50.0, 50.0, 50.0, 50.0, 0.0, 109.0]
    catalog = measure(stars([60.0], [50.0], noise=1.0), x=x, y=y)
    expected = [False, True, True, True, True, True]
    np.testing.assert_array_equal(catalog[f"{NAME}_flag"], expected)
    np.testing.assert_array_equal(catalog[f"{WEIGHTED}_flag"], expected)
    assert np.isfinite(catalog[f"{WEIGHTED}_instFlux"][[0, 1, 4, 5]]).all()
    assert np.isnan(catalog[f"{WEIGHTED}_instFlux"][2])


class Broken(GaussianPointSpreadFunction):
    """Cannot be evaluated right of x = 70."""

    def compute_stellar_image(self, *, x: float, y: float) -> Any:  # noqa: D102
        if x > 70:
            raise RuntimeError("no PSF here")
        return super().compute_stellar_image(x=x, y=y)


def test_psf_that_cannot_be_evaluated() -> None:
    psf = Broken(2.0, Box.factory[0:110, 0:120], 25)
    exposure = make_visit_image(width=120, height=110, x=[30, 60], y=[50, 50], flux=[1e4, 1e4], psf=psf)
    catalog = measure(exposure, x=[30.0, 90.0, 60.0], y=[50.0, 50.0, 50.0])
    for name in (NAME, WEIGHTED):
        np.testing.assert_array_equal(catalog[f"{name}_flag"], [False, True, False])
        assert np.isnan(catalog[f"{name}_instFlux"][1])
    np.testing.assert_array_equal(catalog["base_InvalidPsf_flag"], [False, True, False])


# The PSF of the sources -------------------------------------------------------------------------------------


def sources_of(
    exposure: VisitImage, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, **columns: Any
) -> MeasurementSources:
    schema = fixed_slots()
    schema.add("psf_color_value", np.float32, "colour", unit="mag")
    schema.add_flag("base_InvalidPsf_flag", "no PSF")
    catalog = make_catalog(schema, round_footprints(x, y), in_x=x, in_y=y, **columns)
    image = exposure.image.array
    return MeasurementSources(catalog, exposure, bare_pixels(image, exposure.variance.array, len(x)))


def test_psf_is_worked_out_once_in_single_precision() -> None:
    x, y = [30.4, 60.5], [50.2, 71.0]
    exposure = stars(x, y)
    sources = sources_of(exposure, x, y)
    assert sources.psf_images is sources.psf_images
    assert sources.psf_kernels is sources.psf_kernels
    assert sources.psf_images.images.dtype == sources.psf_kernels.dtype == np.float32
    np.testing.assert_allclose(
        sources.psf_images.images, stellar_stamps(exposure.psf, x=x, y=y).images, atol=1e-8
    )
    np.testing.assert_allclose(sources.psf_kernels, kernel_stamps(exposure.psf, x=x, y=y), atol=1e-8)
    np.testing.assert_array_equal(sources.psf_shapes, psf_shapes(exposure.psf, x=x, y=y))
    peaks = sources.first_peaks
    np.testing.assert_allclose(
        sources.psf_kernels_at_peaks, kernel_stamps(exposure.psf, x=peaks[0], y=peaks[1]), atol=1e-8
    )


def test_psf_of_the_colour_of_each_source() -> None:
    """Stars of different colours have their true flux if the PSF that takes colours is asked with them."""
    psf = PiffWrapper(make_piff(keys=("x", "y", "colorValue")), Box.factory[0:110, 0:120], 25)
    x, y, color = np.array([30.4, 80.5]), np.array([50.2, 50.2]), np.array([0.0, 2.0])
    exposure = replace_components(stars([], [], add_noise=False), psf=psf)
    stamps = stellar_stamps(psf, x=x, y=y, color=color)
    for image, x0, y0 in zip(stamps.images, stamps.x0, stamps.y0, strict=True):
        exposure.image.array[y0 : y0 + 25, x0 : x0 + 25] += 1e4 * image
    sources = sources_of(exposure, x, y, psf_color_value=color)
    np.testing.assert_array_equal(sources.psf_colors, color)
    PsfFluxPlugin(PsfFluxConfig(), NAME, sources.catalog.schema).measure(sources)
    np.testing.assert_allclose(sources.catalog[f"{NAME}_instFlux"], 1e4, rtol=1e-5)
    np.testing.assert_allclose(sources.psf_kernels, kernel_stamps(psf, x=x, y=y, color=color), atol=1e-8)
    np.testing.assert_array_equal(sources.psf_shapes, psf_shapes(psf, x=x, y=y, color=color))
    assert sources.psf_shapes[1, 0] > sources.psf_shapes[0, 0] + 0.01


def test_centroids_smooth_with_the_psf_of_the_colour_of_each_source() -> None:
    """The wider PSF of the redder source smooths more, which changes the error of the centre."""
    psf = PiffWrapper(make_piff(keys=("x", "y", "colorValue")), Box.factory[0:110, 0:120], 25)
    exposure = replace_components(stars([30.4, 80.5], [50.2, 50.2], add_noise=False), psf=psf)
    errors = []
    for color in ([0.0, 2.0], [2.0, 2.0]):
        sources = sources_of(exposure, [30.4, 80.5], [50.2, 50.2], psf_color_value=color)
        SdssCentroidPlugin(SdssCentroidConfig(), "centre", sources.catalog.schema).measure(sources)
        assert not sources.catalog["centre_flag"].any()
        errors.append(np.array(sources.catalog["centre_xErr"]))
    assert errors[0][0] != pytest.approx(errors[1][0], rel=1e-3)
    assert errors[0][1] == errors[1][1]


def test_colours_are_for_psfs_that_take_them() -> None:
    sources = sources_of(stars([], []), [30.0], [50.0], psf_color_value=1.0)
    assert sources.psf_colors is None
