"""Kron fluxes: facts of the specification, a slow twin, every flag and every configuration field."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.schema import minimal_source_schema
from secondlight.measurement.plugins import kron_flux
from secondlight.measurement.plugins.kron_flux import KronFluxConfig, _footprint_sizes
from secondlight.measurement.sources import MeasurementSources
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.photometry.ap_corr_names import ap_corr_names
from secondlight.photometry.apertures import sinc_coefficients
from tests.measurement.scene import make_config, measure_at, round_footprints
from tests.scenes import make_visit_image

KRON = "ext_photometryKron_KronFlux"
SIZE = 161
GAUSSIAN_RADIUS = np.sqrt(np.pi / 2)


def gaussian(x: float, y: float, moments: tuple[float, float, float], flux: float = 1e4) -> np.ndarray:
    """Return a point-sampled elliptical Gaussian."""
    xx, yy, xy = moments
    det = xx * yy - xy**2
    j, i = np.indices((SIZE, SIZE))
    dx, dy = i - x, j - y
    q = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / det
    return flux * np.exp(-0.5 * q) / (2 * np.pi * np.sqrt(det))


def image_of(pixels: np.ndarray | None = None, *, sigma: float = 2.0, noise: float = 1.0, **kwargs: Any):
    """Return a visit image with given pixels and a Gaussian PSF."""
    psf = GaussianPointSpreadFunction(sigma, Box.factory[0:SIZE, 0:SIZE], 41)
    exposure = make_visit_image(width=SIZE, height=SIZE, psf=psf, noise=noise, add_noise=False, **kwargs)
    if pixels is not None:
        exposure.image.array[...] = pixels
    return exposure


def kron(exposure, x=80.0, y=80.0, moments=(4.0, 4.0, 0.0), *, radius=10, flag=False, **config):
    """Measure, and return a dictionary of the columns without their prefix; errors are for given radii."""
    given = {"marginalizeRadius": False}
    x, y = np.atleast_1d(x).tolist(), np.atleast_1d(y).tolist()
    catalog = measure_at(
        exposure, [KRON], x=x, y=y, moments=moments, settings={KRON: given | config}, radius=radius,
        flag=flag,
    )  # fmt: skip
    columns = [n for n in catalog.schema.names if n.startswith(KRON)]
    return {n.removeprefix(f"{KRON}_"): np.array(catalog[n]) for n in columns}


def flags(result: dict[str, np.ndarray], row: int = 0) -> set[str]:
    """Return the flags set in a row."""
    return {n.removeprefix("flag_") for n, v in result.items() if n.startswith("flag") and v[row]}


def slow_kron(image, variance, x, y, moments, psf_radius):
    """Return flux, error and radius, with the default configuration, of a source far from the edges."""
    matrix = np.array([[moments[0], moments[2]], [moments[2], moments[1]]])
    size = np.linalg.det(matrix) ** 0.25
    form = np.linalg.inv(matrix / size**2)
    values, vectors = np.linalg.eigh(matrix)
    j, i = np.indices(image.shape)
    d = np.stack([i - x, j - y], axis=-1)
    rho = np.sqrt(np.einsum("...i,ij,...j", d, form, d))
    distance = np.hypot(d[..., 0], d[..., 1])
    centre = 0.38259771140356325 * (1 + distance / np.sqrt(2)) * (values[0] / values[1]) ** 0.25
    inside = rho <= 6 * size
    weighted = np.where(distance < 0.5, np.hypot(rho, centre), rho)
    radius = (weighted * image)[inside].sum() / image[inside].sum()
    radius = max(radius, size, psf_radius)
    a, b = 2.5 * radius / size * np.sqrt(values[::-1])
    if b > 10:
        inside = rho <= 2.5 * radius
        return image[inside].sum(), np.sqrt(variance[inside].sum()), radius
    weights = sinc_coefficients(a, b, np.arctan2(vectors[1, 1], vectors[0, 1]))
    i0, j0 = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    wide = np.zeros_like(image)
    half = weights.shape[0] // 2
    wide[j0 - half : j0 + half + 1, i0 - half : i0 + half + 1] = weights
    for axis, offset in ((0, y - j0), (1, x - i0)):
        k = np.arange(-6, 7) - offset
        taps = np.where(abs(k) < 5, np.sinc(k) * np.sinc(k / 5), 0)
        wide = scipy.ndimage.convolve1d(wide, taps / taps.sum(), axis=axis)
    return (wide * image).sum(), np.sqrt((wide**2 * variance).sum()), radius


@pytest.mark.parametrize(
    ("sigma", "radius", "psf_radius"),
    [(1.5, 1.890355, 1.879971), (2.0, 2.512595, 2.506628), (2.5, 3.137140, 3.133285)],
)
def test_star_on_a_pixel(sigma: float, radius: float, psf_radius: float) -> None:
    """Numbers of reprocess 24.2, finalize T14; those of the PSF come from its adaptive moments."""
    exposure = image_of(gaussian(80, 80, (sigma**2, sigma**2, 0)), sigma=sigma)
    result = kron(exposure, moments=(sigma**2, sigma**2, 0.0))
    assert result["radius"][0] == pytest.approx(radius, abs=2e-6)
    assert result["psf_radius"][0] == pytest.approx(psf_radius, rel=3e-5)
    assert result["radius_for_radius"][0] == pytest.approx(6 * sigma)
    share = 1 - np.exp(-((2.5 * radius) ** 2) / (2 * sigma**2))
    assert share == pytest.approx(0.99262, abs=6e-4)
    assert result["instFlux"][0] == pytest.approx(1e4 * share, rel=1e-5)
    assert result["instFluxErr"][0] == pytest.approx(np.sqrt(np.pi) * 2.5 * radius, rel=0.03)
    assert flags(result) == set()


@given(
    x=st.floats(79.5, 80.5),
    y=st.floats(79.5, 80.5),
    size=st.floats(1.5, 4.5),
    ratio=st.floats(0.5, 1),
    theta=st.floats(0, 3.2),
)
@settings(max_examples=30, deadline=None)
def test_slow_twin(x: float, y: float, size: float, ratio: float, theta: float) -> None:
    """Flux, error and radius of ellipses on noise, with sinc weights or whole pixels."""
    rng = np.random.default_rng(3)
    c, s = np.cos(theta), np.sin(theta)
    a, b = size / np.sqrt(ratio), size * np.sqrt(ratio)
    moments = (a**2 * c**2 + b**2 * s**2, a**2 * s**2 + b**2 * c**2, (a**2 - b**2) * c * s)
    exposure = image_of(gaussian(x, y, moments, 3000.0) + rng.normal(0, 1, (SIZE, SIZE)), sigma=1.5)
    exposure.variance.array[...] = rng.uniform(1, 3, (SIZE, SIZE))
    result = kron(exposure, x, y, moments)
    image, variance = exposure.image.array.astype(float), exposure.variance.array.astype(float)
    flux, error, radius = slow_kron(image, variance, x, y, moments, result["psf_radius"][0])
    assert result["radius"][0] == pytest.approx(radius, rel=1e-5)
    assert result["instFlux"][0] == pytest.approx(flux, rel=1e-4, abs=0.03 * error)
    assert result["instFluxErr"][0] == pytest.approx(error, rel=5e-4)


def test_large_sources_sum_whole_pixels() -> None:
    moments = (30.0, 25.0, 4.0)
    exposure = image_of(gaussian(80, 80, moments))
    by_pixels, by_sinc = kron(exposure, moments=moments), kron(exposure, moments=moments, maxSincRadius=20.0)
    for result in (by_pixels, by_sinc):
        r = 2.5 * result["radius"][0] / (30 * 25 - 16) ** 0.25
        assert result["instFlux"][0] == pytest.approx(1e4 * (1 - np.exp(-(r**2) / 2)), rel=1e-3)
    assert by_pixels["instFluxErr"][0] ** 2 == pytest.approx(round(by_pixels["instFluxErr"][0] ** 2))
    assert by_pixels["instFlux"][0] != by_sinc["instFlux"][0]


def test_radius_below_that_of_the_shape() -> None:
    """Light more concentrated than the shape says: the shape's size is kept, not six times it."""
    exposure = image_of(gaussian(80, 80, (4, 4, 0)))
    result = kron(exposure, moments=(16.0, 9.0, 0.0))
    assert result["radius"][0] == pytest.approx(np.sqrt(12))
    assert result["radius_for_radius"][0] == pytest.approx(6 * np.sqrt(12))
    assert result["instFlux"][0] == pytest.approx(1e4, rel=3e-4)
    assert flags(result) == set()


def test_no_radius() -> None:
    """Without light to measure, the radius is that of the PSF or the configured one."""
    exposure = image_of(-gaussian(80, 80, (4, 4, 0)))
    result = kron(exposure, moments=(6.0, 4.0, 1.0))
    assert flags(result) == {"bad_radius", "used_psf_radius"}
    assert result["radius"][0] == result["psf_radius"][0] == pytest.approx(2.5066, abs=1e-3)
    assert np.isnan(result["radius_for_radius"][0])
    assert result["instFlux"][0] == pytest.approx(-1e4, rel=0.02)
    result = kron(exposure, minimumRadius=4.0)
    assert flags(result) == {"bad_radius", "used_minimum_radius"}
    assert result["radius"][0] == 4.0
    exposure = image_of(gaussian(80, 80, (4, 4, 0)))
    assert flags(kron(exposure, maxRadius=2.51)) == {"bad_radius", "used_psf_radius"}
    assert flags(kron(exposure, maxRadius=2.52)) == set()


def test_minimum_radius() -> None:
    narrow = image_of(gaussian(80, 80, (1, 1, 0)))
    result = kron(narrow, moments=(1.0, 1.0, 0.0))
    assert flags(result) == {"small_radius", "used_psf_radius"}
    assert result["radius"][0] == result["psf_radius"][0]
    result = kron(narrow, moments=(1.0, 1.0, 0.0), minimumRadius=1.7)
    assert flags(result) == {"small_radius", "used_minimum_radius"}
    assert result["radius"][0] == pytest.approx(1.7)
    result = kron(narrow, moments=(1.0, 1.0, 0.0), enforceMinimumRadius=False)
    assert flags(result) == set()
    assert result["radius"][0] == pytest.approx(GAUSSIAN_RADIUS, rel=0.02)


def test_more_iterations() -> None:
    """The second window is six Kron radii; the radius of a Gaussian hardly grows."""
    result = kron(image_of(gaussian(80, 80, (4, 4, 0))), nIterForRadius=2)
    once = kron(image_of(gaussian(80, 80, (4, 4, 0))))
    assert result["radius_for_radius"][0] == pytest.approx(6 * once["radius"][0])
    assert result["radius"][0] == pytest.approx(once["radius"][0], rel=1e-5)
    wide = gaussian(80, 80, (4, 4, 0)) + gaussian(80, 80, (150, 150, 0), 3e3)
    assert kron(image_of(wide), nIterForRadius=2)["radius"][0] > 1.1 * kron(image_of(wide))["radius"][0]


def test_fixed_radius() -> None:
    exposure = image_of(gaussian(80, 80, (4, 4, 0)))
    result = kron(exposure, fixed=True, moments=(16.0, 9.0, 0.0))
    assert result["radius"][0] == pytest.approx(np.sqrt(12))
    assert np.isnan(result["radius_for_radius"][0])
    # From a column of the input: the test's own moments serve as one.
    result = kron(exposure, fixed=True, refRadiusName="in_xx", moments=(3.0, 3.0, 0.0))
    assert result["radius"][0] == pytest.approx(3.0)
    measured = kron(exposure)
    given_ = kron(
        exposure, fixed=True, refRadiusName="in_xx", moments=[float(measured["radius"][0])] * 2 + [0]
    )
    assert given_["instFlux"][0] == pytest.approx(measured["instFlux"][0], rel=1e-6)


def test_footprint_radius() -> None:
    exposure = image_of(gaussian(80, 80, (4, 4, 0)))
    for radius in (10, 30):
        # The moments of a disc of radius r are r^2 / 4.
        size = np.sqrt(2) * radius / 2
        sizes = _footprint_sizes(round_footprints([80.0, 3.0], [80.0, 5.0], radius))
        np.testing.assert_allclose(sizes, size, rtol=0.01)
        result = kron(exposure, useFootprintRadius=True, radius=radius)
        assert result["radius_for_radius"][0] == pytest.approx(max(sizes[0], 12.0), rel=1e-6)
    one = _footprint_sizes(round_footprints([3.0], [5.0], 0))
    assert one.tolist() == [0.0]
    assert flags(kron(exposure, useFootprintRadius=True, radius=0)) == set()


def test_smoothing() -> None:
    """The radius is that of the smoothed image, and so is that of the PSF; the flux is not smoothed."""
    result = kron(image_of(gaussian(80, 80, (4, 4, 0))), smoothingSigma=1.5)
    assert result["psf_radius"][0] == pytest.approx(GAUSSIAN_RADIUS * np.hypot(2, 1.5), rel=1e-4)
    taps = np.exp(-0.5 * (np.arange(-3, 4) / 1.5) ** 2)
    taps /= taps.sum()
    pixels = gaussian(80, 80, (4, 4, 0))
    smooth = scipy.ndimage.convolve1d(scipy.ndimage.convolve1d(pixels, taps, axis=0), taps, axis=1)
    by_hand = kron(image_of(smooth), enforceMinimumRadius=False)
    measured = kron(image_of(pixels), smoothingSigma=1.5, enforceMinimumRadius=False)
    assert measured["radius"][0] == pytest.approx(by_hand["radius"][0], rel=1e-6)
    r = 2.5 * measured["radius"][0] / 2
    assert measured["instFlux"][0] == pytest.approx(1e4 * (1 - np.exp(-(r**2) / 2)), rel=1e-4)
    # The kernel must find its pixels too.
    for x, ok in ((14.1, True), (14.0, False)):
        assert ("edge" in flags(kron(image_of(pixels), x, 80.0, smoothingSigma=1.5))) != ok


def test_edges() -> None:
    """An ellipse that reaches over the edge: a flag and no numbers, at every border."""
    last = SIZE - 1
    for near, far in ((11.0, 11.1), (last - 11.0, last - 11.1)):
        for x, y, ok in (
            (near, 80, 0),
            (far, 80, 1),
            (80, near, 0),
            (80, far, 1),
            (near, near, 0),
            (far, far, 1),
        ):
            result = kron(image_of(gaussian(x, y, (4, 4, 0))), x, y)
            assert flags(result) == (set() if ok else {"flag", "edge"})
            for name in ("instFlux", "instFluxErr", "radius", "radius_for_radius", "psf_radius"):
                assert np.isfinite(result[name][0]) == ok
    exposure = image_of(gaussian(13, 80, (4, 4, 0)))
    outside = kron(exposure, [-50.0, 1e9, 80.0], [80.0, 80.0, -1e9])
    assert outside["flag_edge"].all()
    # The window fits, the aperture does not: truncated sinc weights, and whole pixels.
    for limit in (10.0, 0.0):
        result = kron(exposure, 13.0, 80.0, maxSincRadius=limit, minimumRadius=5.5)
        assert flags(result) == {"flag", "edge", "used_minimum_radius", "small_radius"}
        assert np.isnan(result["instFlux"][0])


@pytest.mark.parametrize("moments", [(np.nan, np.nan, np.nan), (4.0, 4.0, 4.0), (4.0, -1.0, 0.0), (0, 0, 0)])
def test_shape_that_is_not_usable(moments: tuple[float, float, float]) -> None:
    """The PSF takes its place; the flux is good but flagged."""
    result = kron(image_of(gaussian(80, 80, (4, 4, 0))), moments=moments)
    assert flags(result) == {"flag", "bad_shape"}
    assert result["instFlux"][0] == pytest.approx(9926.2, rel=1e-3)


@pytest.mark.parametrize("moments", [(1e-170, 1e-150, 0.0), (np.inf, 4.0, 0.0), (1e300, 1e300, 0.0)])
def test_shape_of_no_size(moments: tuple[float, float, float]) -> None:
    result = kron(image_of(gaussian(80, 80, (4, 4, 0))), moments=moments)
    assert "flag" in flags(result)
    assert np.isnan(result["instFlux"][0])


def test_long_trails_sum_whole_pixels() -> None:
    """Sinc weights of an ellipse 500 pixels long would take more time than all other sources together."""
    exposure = make_visit_image(width=700, height=700, add_noise=False, noise=1.0)
    exposure.image.array[...] = 1.0
    moments = (100.0**2, 100.0**2, 100.0**2 - 2.0)
    result = measure_at(
        exposure, [KRON], x=[350.0], y=[350.0], moments=moments, settings={KRON: {"fixed": True}}
    )
    pixels = result[f"{KRON}_instFlux"][0]
    assert pixels == round(pixels)
    assert pixels == pytest.approx(np.pi * 2.5**2 * np.sqrt(100.0**4 - moments[2] ** 2), rel=0.05)


def test_flags_of_the_slots() -> None:
    """The shape slot's flag counts, the centroid slot's does not; a peak replaces a missing position."""
    exposure = image_of(gaussian(80, 80, (4, 4, 0)))
    result = kron(exposure, flag=True)
    assert flags(result) == {"flag", "bad_shape"}
    config = make_config(
        KRON, "base_NaiveCentroid", "base_SdssShape", centroid="base_NaiveCentroid", shape="base_SdssShape"
    )
    schema = minimal_source_schema()
    SingleFrameMeasurementTask(schema, config=config)
    assert schema.aliases[f"{KRON}_flag_badInitialCentroid"] == "base_NaiveCentroid_flag"
    assert f"{KRON}_flag_badCentroid" not in schema.aliases
    # `measure_at` puts the footprint of a position that is NaN at (50, 50).
    at_peak = kron(image_of(gaussian(50, 50, (4, 4, 0))), np.nan, np.nan)
    assert at_peak["instFlux"][0] == pytest.approx(9926.2, rel=1e-3)
    assert flags(at_peak) == set()


def test_psf_that_cannot_be_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what needs the PSF fails, and only where it fails."""
    shapes = np.array([[4.0, 4.0, 0.0], [np.nan] * 3])
    monkeypatch.setattr(MeasurementSources, "psf_shapes", property(lambda self: shapes))
    pixels = gaussian(80, 80, (4, 4, 0)) + gaussian(40, 80, (4, 4, 0))
    x, y = [80.0, 40.0], [80.0, 80.0]
    result = kron(image_of(pixels), x, y)
    assert flags(result, 0) == set()
    assert flags(result, 1) == {"flag", "no_minimum_radius"}
    result = kron(image_of(pixels), x, y, minimumRadius=1.0)
    assert flags(result, 1) == set()
    assert result["instFlux"][1] == pytest.approx(result["instFlux"][0], rel=1e-6)
    result = kron(image_of(-pixels), x, y)
    assert flags(result, 1) == {"flag", "bad_radius", "no_fallback_radius"}
    monkeypatch.setattr(kron_flux, "psf_shapes", lambda psf, x, y: np.full((1, 3), np.nan))
    result = kron(image_of(pixels), x, y, moments=(np.nan,) * 3)
    assert flags(result, 0) == {"flag", "bad_shape_no_psf"}
    assert np.isnan(result["instFlux"]).all()


def test_pixels_that_are_not_numbers() -> None:
    exposure = image_of(sum(gaussian(x, 80, (4, 4, 0)) for x in (40, 80, 120)))
    exposure.image.array[80, 82] = np.nan
    exposure.variance.array[80, 40] = -1e9
    result = kron(exposure, [80.0, 40.0, 120.0], [80.0, 80.0, 80.0])
    assert result["flag"].tolist() == [True, True, False]
    assert not result["flag_edge"].any()
    assert np.isnan(result["instFlux"][:2]).all()
    # In the window of the radius, beyond the aperture.
    plain = kron(exposure, 120.0, 80.0, maxSincRadius=0.0)
    exposure.variance.array[80, 130] = np.nan
    result = kron(exposure, 120.0, 80.0, maxSincRadius=0.0, marginalizeRadius=True)
    assert not result["flag"][0]
    assert result["instFluxErr"][0] == plain["instFluxErr"][0]


def test_errors_match_the_scatter() -> None:
    """Of apertures that do not depend on the pixels."""
    x, y = (v.ravel() for v in np.meshgrid(np.arange(40, 1000, 40.0), np.arange(40, 1000, 40.0)))
    exposure = make_visit_image(width=1040, height=1040, noise=5.0, seed=8)
    result = measure_at(
        exposure, [KRON], x=x + 0.3, y=y, moments=(6.0, 4.0, 1.0), settings={KRON: {"fixed": True}}, radius=2
    )
    pulls = result[f"{KRON}_instFlux"] / result[f"{KRON}_instFluxErr"]
    assert np.std(pulls) == pytest.approx(1.0, abs=0.08)


def test_it_is_aperture_corrected() -> None:
    assert KRON in ap_corr_names()


def test_configurations_that_make_no_sense() -> None:
    for values in (
        {"nIterForRadius": 0},
        {"nSigmaForRadius": 0.0},
        {"minimumRadius": -1.0},
        {"maxRadius": 0.0},
    ):
        with pytest.raises((pex_config.FieldValidationError, ValueError)):
            KronFluxConfig(**values).validate()
    config = make_config(KRON, "base_NaiveCentroid", centroid="base_NaiveCentroid")
    with pytest.raises(ValueError, match="needs slot_Shape"):
        SingleFrameMeasurementTask(minimal_source_schema(), config=config)
