from __future__ import annotations

import dataclasses
import math

import galsim
import numpy as np
import pytest
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.footprints import Footprints
from secondlight.measurement.hsm import moments as kernels
from secondlight.measurement.hsm.gaussian_sums import ellipse_sums
from secondlight.measurement.hsm.moments import find_moments
from tests.measurement.hsm_scene import PSF, ROUND, SOURCE, field, measured
from tests.measurement.scene import make_config, round_footprints


@dataclasses.dataclass
class Stamp:
    """An image, its weight, and a first guess."""

    image: np.ndarray
    weight: np.ndarray
    x: float
    y: float
    sigma: float = 4.0


def own(stamp: Stamp, *, round_moments: bool = False) -> tuple[int, np.ndarray]:
    result = np.empty(kernels.RESULT_SIZE)
    code = find_moments(stamp.image, stamp.weight, stamp.x, stamp.y, stamp.sigma, round_moments, result)
    return code, result


def twin(stamp: Stamp, *, round_moments: bool = False) -> galsim.hsm.ShapeData | str:
    """Return GalSim's result, or its error."""
    try:
        return galsim.hsm.FindAdaptiveMom(
            galsim.Image(stamp.image, xmin=0, ymin=0),
            weight=galsim.Image(stamp.weight.astype(np.int32), xmin=0, ymin=0),
            guess_sig=stamp.sigma,
            precision=1e-6,
            guess_centroid=galsim.PositionD(stamp.x, stamp.y),
            check=False,
            round_moments=round_moments,
        )
    except galsim.GalSimError as error:
        return str(error)


def size_and_shape(result: np.ndarray) -> tuple[float, float, float]:
    """Return sigma, e1 and e2 of our moments."""
    _, _, _, xx, xy, yy = result[:6]
    return (xx * yy - xy * xy) ** 0.25, (xx - yy) / (xx + yy), 2.0 * xy / (xx + yy)


def assert_same(data: galsim.hsm.ShapeData, result: np.ndarray, *, tolerance: float = 1e-6) -> None:
    """Compare in pixels and in relative units; GalSim keeps size, shape and flux in single precision."""
    sigma, e1, e2 = size_and_shape(result)
    assert result[1] == pytest.approx(data.moments_centroid.x, abs=tolerance)
    assert result[2] == pytest.approx(data.moments_centroid.y, abs=tolerance)
    assert sigma == pytest.approx(data.moments_sigma, rel=tolerance)
    assert e1 == pytest.approx(data.observed_e1, abs=tolerance)
    assert e2 == pytest.approx(data.observed_e2, abs=tolerance)
    assert result[0] == pytest.approx(data.moments_amp, rel=tolerance)
    if math.isfinite(result[6]):
        assert result[6] == pytest.approx(data.moments_rho4, abs=10 * tolerance)


def draw(profile: galsim.GSObject, *, width: int = 41, height: int = 41, scale: float = 1.0) -> np.ndarray:
    """Return the profile about the middle of a stamp, sampled at the pixels' centres."""
    image = profile.drawImage(nx=width, ny=height, scale=scale, method="no_pixel", dtype=float)
    return np.ascontiguousarray(image.array)


def random_stamp(rng: np.random.Generator, *, noise: float, snr: float | None = None) -> Stamp:
    """Return an elliptical object off the middle of a stamp of random size, a third of them with masks."""
    width, height = (int(n) for n in rng.integers(15, 46, 2))
    size = rng.uniform(0.8, 4.0)
    profile = (
        galsim.Gaussian(sigma=size),
        galsim.Moffat(beta=rng.uniform(2.0, 4.0), fwhm=2.35 * size),
        galsim.Sersic(n=rng.choice([0.5, 1.0, 2.5, 4.0]), half_light_radius=size),
    )[int(rng.integers(3))]
    profile = profile.shear(g=rng.uniform(0.0, 0.6), beta=rng.uniform(0.0, np.pi) * galsim.radians)
    profile = profile.shift(*rng.uniform(-2.0, 2.0, 2))
    if snr is None:
        profile *= 10.0 ** rng.uniform(2.0, 5.0)
    else:
        profile *= snr * noise * 2.0 * math.sqrt(math.pi) * size
    image = draw(profile, width=width, height=height)
    image += rng.normal(0.0, noise, image.shape)
    weight = np.ones(image.shape, dtype=bool)
    if rng.random() < 1 / 3:
        weight[rng.random(weight.shape) < 0.05] = False
    if rng.random() < 1 / 20:
        weight[: int(rng.integers(1, height)), :] = False
    if rng.random() < 1 / 20:
        image[:, : int(rng.integers(1, width // 2))] = 0.0
    if rng.random() < 1 / 2:
        image = image.astype(np.float32)
    x, y = width / 2 - 0.5 + rng.normal(0.0, 1.5), height / 2 - 0.5 + rng.normal(0.0, 1.5)
    return Stamp(image, weight, float(x), float(y), float(rng.uniform(1.5, 6.0)))


@pytest.mark.parametrize("round_moments", [False, True])
@pytest.mark.parametrize(
    ("noise", "snr", "n", "most_other_ends"),
    [(0.0, None, 300, 0), (3.0, None, 600, 0), (1.0, 10.0, 600, 0), (1.0, 4.0, 1000, 2)],
)
def test_as_galsim_one_by_one(
    noise: float, snr: float | None, n: int, most_other_ends: int, *, round_moments: bool
) -> None:
    """The same objects succeed and the same numbers come out, after the same number of steps.

    Fits that wander for more than fifty steps are the exception: pixels at the rim of the weight come and
    go, so that rounding decides when the fit ends, or whether it does before the limit of 400 steps.
    """
    rng = np.random.default_rng([n, round_moments])
    wandering = other_end = successes = 0
    for _ in range(n):
        stamp = random_stamp(rng, noise=noise, snr=snr)
        data = twin(stamp, round_moments=round_moments)
        code, result = own(stamp, round_moments=round_moments)
        failed = code not in (kernels.OK, kernels.INVALID)
        if isinstance(data, str) or failed:
            if isinstance(data, str) != failed:
                assert "too many iterations" in str(data) or code == kernels.TOO_MANY_STEPS
                other_end += 1
            continue
        squared = data.observed_e1**2 + data.observed_e2**2
        if code == kernels.INVALID:
            assert not squared < 1.0
            continue
        successes += 1
        if data.moments_n_iter == result[7]:
            assert_same(data, result)
        else:
            assert min(data.moments_n_iter, result[7]) > 50
            assert_same(data, result, tolerance=1e-4)
            wandering += 1
    assert successes > n / 4
    assert other_end <= most_other_ends
    assert wandering <= n // 200


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("g1", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("g2", [0.03, 0.3])
def test_published_gaussians(sigma: float, g1: float, g2: float) -> None:
    """Size to 0.01 pixels and distortions to 0.001, elliptical and round, as GalSim's own tests have them."""
    scale, g = 0.2, math.hypot(g1, g2)
    image = galsim.Gaussian(sigma=sigma).shear(g1=g1, g2=g2).drawImage(scale=scale, method="no_pixel").array
    middle = (image.shape[1] - 1) / 2
    stamp = Stamp(image, np.ones(image.shape, dtype=bool), middle, middle, 5.0)
    e = math.tanh(2.0 * math.atanh(g)) / g
    code, result = own(stamp)
    assert code == kernels.OK
    assert size_and_shape(result) == pytest.approx((sigma / scale, e * g1, e * g2), abs=1e-3)
    assert result[6] == pytest.approx(2.0, abs=1e-3)
    q, angle = math.exp(-2.0 * math.atanh(g)), math.atan2(g2, g1)
    e = (1.0 - q * q) / (1.0 + q * q + 2.0 * q)
    code, result = own(stamp, round_moments=True)
    assert code == kernels.OK
    expected = (sigma / scale, e * math.cos(angle), e * math.sin(angle))
    assert size_and_shape(result) == pytest.approx(expected, abs=1e-3)


def test_published_galaxies() -> None:
    """The galaxy of GalSim's documentation and the bulge and disk of its tests, drawn and measured again."""
    galaxy = galsim.Gaussian(sigma=1.0).shear(g1=0.05, g2=0.0)
    seen = galsim.Convolve(galaxy, galsim.Kolmogorov(fwhm=0.7)).drawImage(scale=0.2)
    bulge, disk = galsim.DeVaucouleurs(half_light_radius=0.3), galsim.Exponential(half_light_radius=0.5)
    both = bulge + disk.shear(e1=0.2, e2=-0.3)
    other = galsim.Convolve(both, galsim.Kolmogorov(fwhm=0.6)).drawImage(scale=0.18)
    for image, e1 in ((seen, 0.0876), (other, None)):
        middle = (image.array.shape[1] - 1) / 2
        stamp = Stamp(image.array, np.ones(image.array.shape, dtype=bool), middle, middle, 5.0)
        data = twin(stamp)
        code, result = own(stamp)
        assert code == kernels.OK
        assert_same(data, result)
        if e1 is not None:
            assert size_and_shape(result)[1] == pytest.approx(e1, abs=2e-4)


def test_weights_as_galsim() -> None:
    """Masked edges change nothing much, other weights above zero nothing at all, no weight is a failure."""
    profile = galsim.Gaussian(sigma=1.4).shear(g1=0.15, g2=-0.4)
    image = draw(profile, width=256, height=256, scale=0.1)
    weight = np.zeros(image.shape)
    weight[4:-4, 4:-4] = 2.3
    whole = own(Stamp(image, np.ones(image.shape), 127.5, 127.5, 5.0))[1]
    masked = own(Stamp(image, weight, 127.5, 127.5, 5.0))[1]
    assert size_and_shape(masked) == pytest.approx(size_and_shape(whole), abs=1e-4)
    np.testing.assert_array_equal(own(Stamp(image, weight > 0, 127.5, 127.5, 5.0))[1], masked)
    assert own(Stamp(image, np.zeros(image.shape), 127.5, 127.5, 5.0))[0] == kernels.EMPTY
    assert own(Stamp(0.0 * image, weight, 127.5, 127.5, 5.0))[0] == kernels.EMPTY


def test_masked_pixels_may_hold_anything() -> None:
    """What lies under the mask does not matter, NaN included (which GalSim takes for a failure)."""
    image = draw(1e4 * galsim.Gaussian(sigma=2.0), width=31, height=31)
    weight = np.ones(image.shape, dtype=bool)
    weight[4, 20] = False
    code, expected = own(Stamp(image, weight, 15.0, 15.0))
    assert code == kernels.OK
    image[4, 20] = np.nan
    code, result = own(Stamp(image, weight, 15.0, 15.0))
    assert code == kernels.OK
    np.testing.assert_array_equal(result, expected)


def _single(value: float, *, width: int = 21) -> np.ndarray:
    image = np.zeros((width, width))
    image[width // 2, width // 2] = value
    return image


@pytest.mark.parametrize(
    ("stamp", "code"),
    [
        (Stamp(_single(1.0), np.ones((21, 21), bool), 10.0, 10.0), kernels.COLLAPSED),
        (Stamp(_single(np.nan) + 1.0, np.ones((21, 21), bool), 10.0, 10.0), kernels.NOT_FINITE),
        (Stamp(np.ones((21, 21)), np.ones((21, 21), bool), np.nan, 10.0), kernels.NOT_FINITE),
        (Stamp(np.ones((21, 21)), np.ones((21, 21), bool), 10.0, 10.0, np.inf), kernels.NOT_FINITE),
        (Stamp(np.ones((21, 21)), np.ones((21, 21), bool), 10.0, 10.0, 0.0), kernels.NOT_POSITIVE),
        (Stamp(np.ones((21, 21)), np.ones((21, 21), bool), 10.0, 400.0), kernels.OUTSIDE),
        (
            Stamp(draw(galsim.Gaussian(sigma=2).shift(17, 0)), np.ones((41, 41), bool), 20, 20, 8),
            kernels.RUNAWAY,
        ),
    ],
)
def test_failures(stamp: Stamp, code: int) -> None:
    assert own(stamp)[0] == code
    assert np.isnan(own(stamp)[1]).all()
    if math.isfinite(stamp.x + stamp.sigma):
        assert isinstance(twin(stamp), str)


def test_round_failures() -> None:
    """A distortion above 1, which only pixels below zero allow, and pixels that are not numbers."""
    u, v = np.meshgrid(np.arange(-15, 16) / 2.5, np.arange(-15, 16) / 2.5)
    image = np.exp(-0.5 * (u * u + v * v)) * (1.0 + 1.2 * (u * u - v * v))
    stamp = Stamp(image, np.ones(image.shape, dtype=bool), 15.0, 15.0, 2.3)
    data = twin(stamp, round_moments=True)
    code, result = own(stamp, round_moments=True)
    assert code == kernels.INVALID
    assert data.observed_e1 == pytest.approx(1.2, abs=1e-6)
    assert result[:3] == pytest.approx([data.moments_amp, 15.0, 15.0], rel=1e-6)
    assert np.isnan(result[3:7]).all()
    image[15, 15] = np.nan
    assert math.isnan(twin(stamp, round_moments=True).moments_amp)
    code, result = own(stamp, round_moments=True)
    assert code == kernels.INVALID
    assert np.isnan(result).all()


def test_two_ways_to_sum() -> None:
    """The weight carried from row to row has the sums of that with an exponential for each pixel."""
    rng = np.random.default_rng(3)
    pixels = rng.normal(1.0, 1.0, (90, 70))
    carried, direct = np.empty(7), np.empty(7)
    for _ in range(50):
        xx, yy = rng.uniform(0.1, 300.0, 2)
        m = np.array([*rng.uniform(-5.0, 75.0, 2), xx, rng.uniform(-0.93, 0.93) * math.sqrt(xx * yy), yy])
        columns = np.empty((3, pixels.shape[1]))
        codes = [
            ellipse_sums(pixels, m, columns, fourth, sums)
            for fourth, sums in ((False, carried), (True, direct))
        ]
        assert codes[0] == codes[1]
        if codes[0] == kernels.OK:
            np.testing.assert_allclose(carried[:6], direct[:6], rtol=1e-9, atol=1e-9 * np.abs(direct).max())


def test_a_tilted_weight() -> None:
    """A weight too tilted to be carried from row to row is summed otherwise, to the same end."""
    image = draw(1e4 * galsim.Gaussian(sigma=2.5).shear(g1=0.0, g2=0.75), width=81, height=81)
    stamp = Stamp(image, np.ones(image.shape, dtype=bool), 40.2, 39.9, 2.0)
    code, result = own(stamp)
    assert code == kernels.OK
    assert_same(twin(stamp), result, tolerance=3e-6)


def test_far_pixels_of_a_giant_footprint_do_not_matter() -> None:
    image = np.zeros((40, 3000), dtype=np.float32)
    image[:, 1480:1521] = draw(1e4 * galsim.Gaussian(sigma=2.0), width=41, height=40)
    stamp = Stamp(image, np.ones(image.shape, dtype=bool), 1500.0, 19.5)
    for round_moments in (False, True):
        code, result = own(stamp, round_moments=round_moments)
        assert code == kernels.OK
        assert_same(twin(stamp, round_moments=round_moments), result)


# Plugins --------------------------------------------------------------------------------------------------


X, Y = np.array([520.3, 560.8, 640.0]), np.array([40.2, 90.5, 120.0])


@pytest.mark.parametrize("name", [SOURCE, ROUND])
def test_source_moments_are_galsims_on_the_footprint_box(name: str) -> None:
    exposure = field(x0=500, x=X, y=Y, flux=[3e4, 1e4, 4e3])
    exposure.mask.set("SATURATED", np.eye(160, 180, k=-22, dtype=bool))
    catalog = measured(exposure, [name], x=X + 0.4, y=Y - 0.3, settings={name: {"addFlux": True}})
    boxes = catalog.footprints.bounding_boxes()
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        part = np.s_[y0 : y1 + 1, x0 - 500 : x1 - 499]
        stamp = Stamp(
            exposure.image.array[part].copy(),
            ~np.eye(160, 180, k=-22, dtype=bool)[part],
            X[k] + 0.4 - x0,
            Y[k] - 0.3 - y0,
            2.5 * 2.0,
        )
        data = twin(stamp, round_moments=name == ROUND)
        e1, e2, s2 = data.observed_e1, data.observed_e2, data.moments_sigma**2
        s2 /= math.sqrt(1.0 - e1 * e1 - e2 * e2)
        expected = (
            data.moments_centroid.x + x0, data.moments_centroid.y + y0, s2 * (1 + e1), s2 * (1 - e1), s2 * e2,
        )  # fmt: skip
        got = [catalog[f"{name}_{c}"][k] for c in ("x", "y", "xx", "yy", "xy")]
        assert got == pytest.approx(expected, abs=5e-6)
        assert catalog[f"{name}_Flux"][k] == pytest.approx(data.moments_amp, rel=1e-5)
    assert not catalog[f"{name}_flag"].any()


def test_centre_relative_to_the_guess() -> None:
    exposure = field(x0=500, x=X, y=Y, flux=3e4 * np.ones(3), noise=0.5)
    settings = {SOURCE: {"subtractCenter": True}}
    catalog = measured(exposure, [SOURCE], x=X + 0.25, y=Y - 0.5, settings=settings)
    np.testing.assert_allclose(catalog[f"{SOURCE}_x"], -0.25, atol=0.01)
    np.testing.assert_allclose(catalog[f"{SOURCE}_y"], 0.5, atol=0.01)


def test_each_source_sees_itself_alone() -> None:
    """With neighbours replaced by noise, moments are those of the star alone; the image is left as it was."""
    x, y = np.array([60.0, 84.0]), np.array([60.0, 66.0])
    exposure = field(x=x, y=y, flux=[2e4, 2e5], noise=0.1)
    footprints = round_footprints(x, y, 11)
    alone = measured(exposure, [SOURCE], x=x, y=y, footprints=footprints, replace=True)
    np.testing.assert_allclose(alone[f"{SOURCE}_xx"], 4.0, rtol=5e-3)
    np.testing.assert_allclose(alone[f"{SOURCE}_x"], x, atol=5e-3)


def test_psf_moments() -> None:
    exposure = field(x0=500)
    x, y = [520.3, 560.5, np.nan, 640.0], [40.2, 90.5, 60.0, 120.49]
    catalog = measured(exposure, [PSF], x=x, y=y)
    np.testing.assert_allclose(catalog[f"{PSF}_xx"], 4.0, atol=1e-3)
    np.testing.assert_allclose(catalog[f"{PSF}_x"], 0.0, atol=1e-5)
    assert catalog[f"{PSF}_flag"].tolist() == [False, False, True, False]
    settings = {PSF: {"useSourceCentroidOffset": True, "subtractCenter": False, "addFlux": True}}
    catalog = measured(exposure, [PSF], x=x, y=y, settings=settings)
    good = [0, 1, 3]
    np.testing.assert_allclose(catalog[f"{PSF}_x"][good], np.array(x)[good], atol=1e-3)
    np.testing.assert_allclose(catalog[f"{PSF}_y"][good], np.array(y)[good], atol=1e-3)
    np.testing.assert_allclose(catalog[f"{PSF}_Flux"], 1.0, atol=2e-3)
    settings = {PSF: {"roundMoments": True}}
    catalog = measured(exposure, [PSF], x=x, y=y, settings=settings)
    np.testing.assert_allclose(catalog[f"{PSF}_yy"], 4.0, atol=1e-3)


class HoledPsf(GaussianPointSpreadFunction):
    """A PSF that cannot be evaluated in the left half."""

    def compute_kernel_image(self, *, x, y):
        """Return NaN there."""
        image = super().compute_kernel_image(x=x, y=y)
        image.array[...] *= np.nan if x < 60 else 1.0
        return image

    compute_stellar_image = compute_kernel_image


def test_bad_input_is_flagged_for_its_reason() -> None:
    """Border, no position, one pixel, all masked, no PSF, negative flux, far centre, off the image."""
    exposure = field(x=[90.0, 1.0], y=[60.0, 1.0], flux=[2e4, 2e4], noise=0.5)
    exposure.psf = HoledPsf(2.0, exposure.bbox, 25)
    exposure.image.array[90:115, 90:115] -= draw(2e4 * galsim.Gaussian(sigma=2.0), width=25, height=25)
    exposure.mask.set("SATURATED", np.pad(np.ones((30, 30), bool), ((120, 10), (90, 60))))
    x = np.array([90.0, 1.0, np.nan, 140.0, 105.0, 20.0, 102.0, 100.0, 90.0])
    y = np.array([60.0, 1.0, 60.0, 30.0, 135.0, 60.0, 102.0, 60.0, 60.0])
    circle = round_footprints(
        [90, 70, 90, 140, 105, 20, 102, 70, -300], [60, 1, 60, 30, 135, 60, 102, 60, 60]
    )
    one_pixel = Footprints.from_circles(np.array([140]), np.array([30]), 0)
    footprints = Footprints.concatenate([circle.take([0, 1, 2]), one_pixel, circle.take(np.arange(4, 9))])
    catalog = measured(exposure, [SOURCE, ROUND, PSF], x=x, y=y, footprints=footprints)
    flagged = {
        flag: np.flatnonzero(catalog[f"{SOURCE}_{flag}"]).tolist()
        for flag in ("flag", "flag_not_contained", "flag_no_pixels", "flag_galsim", "flag_no_psf")
    }
    assert flagged["flag_not_contained"] == [1, 7]
    assert flagged["flag_no_pixels"] == [4, 8]
    assert flagged["flag_no_psf"] == [5]
    assert flagged["flag_galsim"] == [3]
    assert flagged["flag"] == [1, 2, 3, 4, 5, 7, 8]
    assert catalog[f"{SOURCE}_xx"][0] == pytest.approx(4.0, rel=0.02)
    assert catalog[f"{SOURCE}_xx"][6] == pytest.approx(4.0, rel=0.02)
    np.testing.assert_array_equal(np.isnan(catalog[f"{SOURCE}_xx"]), [0, 1, 0, 1, 1, 1, 0, 1, 1])
    assert np.flatnonzero(catalog[f"{PSF}_flag_no_psf"]).tolist() == [1, 5]
    assert np.flatnonzero(catalog[f"{PSF}_flag"]).tolist() == [1, 2, 5]
    assert np.flatnonzero(catalog["base_InvalidPsf_flag"]).tolist() == [1, 5]
    assert not catalog[f"{SOURCE}_flag_edge"].any()
    assert not catalog[f"{SOURCE}_flag_parent_source"].any()


def test_round_moments_cannot_be_switched_off() -> None:
    config = make_config(ROUND)
    config.plugins[ROUND].roundMoments = False
    with pytest.raises(ValueError, match="roundMoments"):
        config.validate()
