"""Compensated fluxes: facts of the specification, slow twins, and sources that cannot be measured."""

from __future__ import annotations

import lsst.pex.config as pex_config
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.mask_planes import ensure_planes
from secondlight.catalog.visit_image import replace_components
from secondlight.measurement.plugins.compensated_flux import (
    CompensatedGaussianFluxConfig,
    CompensatedTophatFluxConfig,
)
from tests.measurement.scene import measure_at
from tests.scenes import make_visit_image

TOPHAT = "base_CompensatedTophatFlux"
GAUSSIAN = "base_CompensatedGaussianFlux"
PREFIXES = [f"{TOPHAT}_12", f"{GAUSSIAN}_3", f"{GAUSSIAN}_5"]
SIZE = 121


def star(x: float, y: float, sigma: float, flux: float = 1e4, **kwargs):
    psf = GaussianPointSpreadFunction(sigma, Box.factory[0:SIZE, 0:SIZE], 61)
    return make_visit_image(
        width=SIZE, height=SIZE, x=[x], y=[y], flux=[flux], psf=psf, noise=1.0, add_noise=False, **kwargs
    )


def noise_image(seed: int = 1):
    """Return an image of unrelated pixels and variances, with an origin of its own."""
    rng = np.random.default_rng(seed)
    exposure = make_visit_image(width=SIZE, height=SIZE, x0=500, y0=-300, add_noise=False)
    exposure.image.array[...] = rng.normal(3, 2, (SIZE, SIZE))
    exposure.variance.array[...] = rng.uniform(1, 4, (SIZE, SIZE))
    return exposure


def tophat_twin(image, variance, x, y, radius, inner=1.0, outer=1.7):
    j, i = np.indices(image.shape)
    square = (i - x) ** 2 + (j - y) ** 2
    disc = square <= radius**2
    ring = (square > (inner * radius) ** 2) & (square <= (outer * radius) ** 2)
    weights = disc / 1.0 - ring * (disc.sum() / ring.sum())
    return (weights * image).sum(), np.sqrt((weights**2 * variance).sum())


def gaussian_twin(image, variance, x, y, sigma, t=2.0):
    half = int(np.ceil(2.5758293 * sigma * t))
    i0, j0 = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    j, i = np.indices(image.shape)
    box = (abs(i - i0) <= half) & (abs(j - j0) <= half)
    square = (i - x) ** 2 + (j - y) ** 2
    narrow = box * np.exp(-square / (2 * sigma**2))
    wide = box * np.exp(-square / (2 * (sigma * t) ** 2))
    ratio = narrow.sum() / wide.sum()
    weights = (narrow - ratio * wide) / (0.5 - ratio * t**2 / (1 + t**2))
    return (weights * image).sum(), np.sqrt((weights**2 * variance).sum())


@pytest.mark.parametrize(("sigma", "expected"), [(1.5, 10000.000), (2.0, 9999.99965), (2.5, 9999.803)])
def test_tophat_of_a_star(sigma: float, expected: float) -> None:
    catalog = measure_at(star(60, 60, sigma), [TOPHAT], x=[60.0], y=[60.0])
    assert catalog[f"{TOPHAT}_12_instFlux"][0] == pytest.approx(expected, abs=2e-3)
    # 441 pixels less the mean of 872.
    assert catalog[f"{TOPHAT}_12_instFluxErr"][0] == pytest.approx(np.sqrt(441 * (1 + 441 / 872)), rel=1e-6)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.3, -0.2), (0.499, 0.499)])
@pytest.mark.parametrize("sigma", [3, 5])
def test_gaussian_of_a_source_of_its_width(offset: tuple[float, float], sigma: int) -> None:
    x, y = 60 + offset[0], 60 + offset[1]
    catalog = measure_at(star(x, y, sigma), [GAUSSIAN], x=[x], y=[y])
    assert catalog[f"{GAUSSIAN}_{sigma}_instFlux"][0] == pytest.approx(1e4, rel=1e-4)
    # Spec 17.7 for pixels without end, of unit variance.
    expected = np.sqrt(4 * np.pi * sigma**2 * 5 / 4)
    assert catalog[f"{GAUSSIAN}_{sigma}_instFluxErr"][0] == pytest.approx(expected, rel=0.02)


@given(
    x=st.floats(-0.5, 0.5), y=st.floats(-0.5, 0.5), level=st.floats(-1e4, 1e4, width=32), t=st.floats(1.5, 3)
)
@settings(max_examples=25, deadline=None)
def test_a_constant_has_no_effect(x: float, y: float, level: float, t: float) -> None:
    exposure = make_visit_image(width=SIZE, height=SIZE, add_noise=False)
    exposure.image.array[...] = level
    catalog = measure_at(
        exposure, [TOPHAT, GAUSSIAN], x=[60 + x], y=[60 + y], settings={GAUSSIAN: {"t": t}}, radius=2
    )
    for prefix in PREFIXES:
        assert catalog[f"{prefix}_instFlux"][0] == 0.0


def test_an_annulus_inside_the_disc_does_not_hide_the_edge() -> None:
    """The disc must lie inside the image too where it is the larger one."""
    settings = {TOPHAT: {"inner_scale": 0.2, "outer_scale": 0.5}}
    catalog = measure_at(noise_image(), [TOPHAT], x=[511.0, 512.0], y=[-240.0, -240.0], settings=settings)
    np.testing.assert_array_equal(catalog[f"{TOPHAT}_12_flag_bounds"], [True, False])
    np.testing.assert_array_equal(catalog[f"{TOPHAT}_12_flag"], [True, False])


@given(x=st.floats(-0.5, 0.5), y=st.floats(-0.5, 0.5), inner=st.sampled_from([0.0, 0.6, 1.0, 1.2]))
@settings(max_examples=25, deadline=None)
def test_slow_twins(x: float, y: float, inner: float) -> None:
    exposure = noise_image()
    x, y = 560 + x, -240 + y
    catalog = measure_at(
        exposure, [TOPHAT, GAUSSIAN], x=[x], y=[y], settings={TOPHAT: {"inner_scale": inner}}, radius=2
    )
    image, variance = exposure.image.array.astype(float), exposure.variance.array.astype(float)
    twins = {f"{TOPHAT}_12": tophat_twin(image, variance, x - 500, y + 300, 12, inner=inner)}
    for sigma in (3, 5):
        twins[f"{GAUSSIAN}_{sigma}"] = gaussian_twin(image, variance, x - 500, y + 300, sigma)
    for prefix, (flux, error) in twins.items():
        assert catalog[f"{prefix}_instFlux"][0] == pytest.approx(flux, rel=1e-8, abs=1e-6)
        assert catalog[f"{prefix}_instFluxErr"][0] == pytest.approx(error, rel=1e-8)


def test_errors_match_the_scatter() -> None:
    rng = np.random.default_rng(4)
    x, y = np.meshgrid(np.arange(50, 1000, 60.0), np.arange(50, 1000, 60.0))
    x, y = (v.ravel() + rng.uniform(-0.5, 0.5, v.size) for v in (x, y))
    exposure = make_visit_image(width=1050, height=1050, noise=5.0, seed=6)
    catalog = measure_at(exposure, [TOPHAT, GAUSSIAN], x=x, y=y, radius=2)
    for prefix in PREFIXES:
        pulls = catalog[f"{prefix}_instFlux"] / catalog[f"{prefix}_instFluxErr"]
        assert np.std(pulls) == pytest.approx(1.0, abs=0.13)
        assert abs(np.mean(pulls)) < 3.5 / np.sqrt(len(pulls))


def test_bounds() -> None:
    """The box about the nearest pixel must fit; others are measured."""
    x = [21.0, 20.4, 99.4, 99.6, 16.0, 15.4, 60.0, np.nan, 1e9, -1e9]
    catalog = measure_at(star(60, 60, 2.0), [TOPHAT, GAUSSIAN], x=x, y=[60.0] * len(x), radius=2)
    expected = {
        f"{TOPHAT}_12": [False, True, False, True, True, True, False, False, True, True],
        f"{GAUSSIAN}_3": [False, False, False, False, False, True, False, False, True, True],
    }
    for prefix, bounds in expected.items():
        np.testing.assert_array_equal(catalog[f"{prefix}_flag_bounds"], bounds)
        failed = np.array(bounds) | np.isnan(x)
        np.testing.assert_array_equal(catalog[f"{prefix}_flag"], failed)
        np.testing.assert_array_equal(np.isnan(catalog[f"{prefix}_instFlux"]), failed)
        np.testing.assert_array_equal(np.isnan(catalog[f"{prefix}_instFluxErr"]), failed)


def test_pixels_that_are_not_numbers() -> None:
    exposure = star(60, 60, 2.0)
    exposure.image.array[60, 65] = np.nan
    exposure.variance.array[60, 20] = -1e6
    catalog = measure_at(exposure, [TOPHAT, GAUSSIAN], x=[60.0, 30.0, 98.0], y=[60.0] * 3, radius=2)
    for prefix in PREFIXES[:2]:
        assert catalog[f"{prefix}_flag"].tolist() == [True, True, False]


def test_mask_bits() -> None:
    exposure = star(60, 60, 2.0)
    mask = ensure_planes(exposure.mask, {f"PLANE{k}": "for the test" for k in range(9)})
    exposure = replace_components(exposure, mask=mask)
    far = mask.schema.bit("PLANE8")
    mask.array[60, 60 + 21, 0] |= 2
    mask.array[60 - 21, 60, far.index] |= far.mask
    mask.array[60, 60 - 22, 0] |= 4
    catalog = measure_at(exposure, [TOPHAT, GAUSSIAN], x=[60.0, 59.4, 5.0], y=[60.0, 60.0, 60.0], radius=2)
    far_bit = int(far.mask) << (8 * far.index)
    assert catalog[f"{TOPHAT}_12_mask_bits"].tolist() == [2 | far_bit, 4 | far_bit, 0]
    assert catalog[f"{GAUSSIAN}_3_mask_bits"].tolist() == [0, 0, 0]


def test_configurations_that_make_no_sense() -> None:
    for settings_, kind in (
        ({"inner_scale": 1.7}, CompensatedTophatFluxConfig),
        ({"apertures": [0]}, CompensatedTophatFluxConfig),
        ({"t": 1.0}, CompensatedGaussianFluxConfig),
        ({"kernel_widths": [-1]}, CompensatedGaussianFluxConfig),
    ):
        with pytest.raises((pex_config.FieldValidationError, ValueError)):
            kind(**settings_).validate()
