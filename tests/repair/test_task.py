"""The repair step on small scenes: what is found, what is put in its place, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.mask_planes import mask_of, plane_name
from secondlight.psf.evaluation import InvalidPsfError, kernel_stamps
from secondlight.repair.cosmic_rays import TooManyCosmicRays, sharpness_thresholds
from secondlight.repair.task import RepairConfig, RepairTask
from tests.scenes import make_visit_image


def make_task(**fields: object) -> RepairTask:
    config = RepairConfig()
    for name, value in fields.items():
        setattr(config.cosmicray, name, value)
    return RepairTask(config=config)


def star_field(**kwargs):
    rng = np.random.default_rng(4)
    x, y = np.meshgrid(np.arange(25, 180, 30), np.arange(25, 160, 30))
    x = x.ravel() + rng.uniform(-0.5, 0.5, x.size)
    y = y.ravel() + rng.uniform(-0.5, 0.5, y.size)
    x0, y0 = kwargs.get("x0", 0), kwargs.get("y0", 0)
    return make_visit_image(x=x + x0, y=y + y0, flux=np.geomspace(1e3, 3e6, x.size), **kwargs)


@pytest.mark.parametrize(
    ("sigma", "straight", "diagonal"),
    [(1.5, 0.28026, 0.22441), (2.0, 0.30887, 0.27258), (2.5, 0.32309, 0.29825)],
)
def test_thresholds_of_a_gaussian(sigma: float, straight: float, diagonal: float):
    # Spec 24.2.
    bounds = make_visit_image().bbox
    kernel = kernel_stamps(GaussianPointSpreadFunction(sigma, bounds, 25), x=50.0, y=50.0)[0]
    expected = [straight, straight, diagonal, diagonal]
    np.testing.assert_allclose(sharpness_thresholds(kernel, 0.35), expected, atol=6e-6)


def test_thresholds_tell_directions_apart():
    kernel = np.zeros((5, 5))
    kernel[1:4, 1:4] = [[0.1, 0.3, 0.2], [0.5, 1.0, 0.6], [0.3, 0.5, 0.4]]
    np.testing.assert_allclose(sharpness_thresholds(kernel, 1.0), [0.4, 0.55, 0.25, 0.25])


@pytest.mark.parametrize(
    ("value", "min_dn", "found"), [(149, 150, 0), (151, 150, 1), (65.5, 0, 0), (66.1, 0, 1)]
)
def test_smallest_single_pixel(value: float, min_dn: float, found: int):
    # Spec 24.2: noise sigma 10 and PSF sigma 2 need 65.8 counts in one pixel, and min_DN.
    image = make_visit_image(add_noise=False)
    image.image.array[50, 60] = value
    task = make_task(min_DN=min_dn)
    task.run(image)
    assert task.metadata["cosmic_ray_count"] == found
    assert mask_of(image.mask, ["CR"]).sum() == found


@pytest.mark.parametrize(
    ("fields", "smallest"),
    [
        ({"cond3_fac": 4.0}, 131.6),  # c (sigma + sigma / sqrt(2) / thres), thres = 0.30887
        ({"cond3_fac": 0.0, "minSigma": 3.0}, 30.0),
        ({"cond3_fac2": 0.2}, 100.1),
        ({"minSigma": 9.0}, 90.0),
        ({"minSigma": -80.0}, 80.0),
    ],
)
def test_every_threshold_acts(fields: dict[str, float], smallest: float):
    for value, found in ((smallest - 0.2, 0), (smallest + 0.2, 1)):
        image = make_visit_image(add_noise=False)
        image.image.array[50, 60] = value
        make_task(min_DN=0.0, **fields).run(image)
        assert mask_of(image.mask, ["CR"]).sum() == found


def test_number_of_passes():
    # The scan finds none of the faint pixels of the ray, and each pass adds one at either end.
    image = make_visit_image(add_noise=False)
    image.image.array[50, 60] = 300
    image.image.array[50, [57, 58, 59, 61, 62, 63]] = 59
    found = []
    for passes in (0, 1, 2, 6):
        copy = image.copy()
        make_task(niteration=passes).run(copy)
        found.append(mask_of(copy.mask, ["CR"]).sum())
    assert found == [1, 3, 5, 7]


@pytest.mark.parametrize(("second", "found"), [(66.5, 0), (74, 2)])
def test_sum_of_two_pixels_counts(second: float, found: int):
    image = make_visit_image(add_noise=False)
    image.image.array[50, 60], image.image.array[51, 61] = 80, second
    make_task().run(image)
    assert mask_of(image.mask, ["CR"]).sum() == found


def test_hit_is_marked_and_filled():
    image = make_visit_image(x0=500, y0=300, background=3.0)
    before = image.image.array.copy()
    image.image.array[40:42, 30] += 4000
    image.mask.set("COSMIC_RAY", np.ones(image.bbox.shape, bool))
    task = make_task()
    task.run(image)
    expected = np.zeros(image.bbox.shape, dtype=bool)
    expected[40:42, 30] = True
    np.testing.assert_array_equal(mask_of(image.mask, ["CR"]), expected)
    np.testing.assert_array_equal(mask_of(image.mask, ["INTRP"]), expected)
    np.testing.assert_array_equal(image.image.array[~expected], before[~expected])
    np.testing.assert_allclose(image.image.array[expected], 3, atol=30)
    assert task.metadata["cosmic_ray_count"] == 1


@pytest.mark.parametrize("by_argument", [True, False])
def test_kept_values(by_argument: bool):
    image = make_visit_image()
    image.image.array[40:42, 30] += 4000
    before = image.image.array.copy()
    make_task(keepCRs=not by_argument).run(image, keep_crs=True if by_argument else None)
    np.testing.assert_array_equal(image.image.array, before)
    assert mask_of(image.mask, ["CR"]).sum() == 2
    assert not mask_of(image.mask, ["INTRP"]).any()


@pytest.mark.parametrize("limit", [5, 20])
def test_too_many(limit: int):
    # Ten pixels are found by the scan; twenty-five with their faint wings.
    image = make_visit_image()
    image.image.array[100, 20:30] += 5000
    image.image.array[101, 20:30] += 45
    image.image.array[99, 20:30] += 45
    image.mask.set("COSMIC_RAY", np.eye(*image.bbox.shape, dtype=bool))
    pixels, mask = image.image.array.copy(), image.mask.copy()
    task = make_task(nCrPixelMax=limit)
    with pytest.raises(TooManyCosmicRays, match="visit 100, detector 4") as caught:
        task.run(image)
    assert caught.value.metadata == {"maxCosmicRays": limit}
    np.testing.assert_array_equal(image.image.array, pixels)
    assert image.mask == mask
    make_task(nCrPixelMax=60).run(image)


def test_faint_wings_are_found():
    image = make_visit_image()
    wings = np.zeros(image.bbox.shape, dtype=bool)
    wings[99, 20:40] = wings[101, 20:40] = True
    image.image.array[100, 20:40] += 5000
    image.image.array[wings] += 50
    make_task().run(image)
    rays = mask_of(image.mask, ["CR"])
    assert rays[100, 20:40].all()
    assert (rays & wings).sum() > 0.85 * wings.sum()
    assert (rays & ~wings).sum() < 20 + 4


def test_no_growth_on_blank_sky():
    # A hundred rays of one pixel: the reference's test adds about 0.3 pixels per ray and pass.
    image = make_visit_image(width=230, height=230)
    image.image.array[10:210:20, 10:210:20] += 3000
    make_task().run(image)
    assert 100 <= mask_of(image.mask, ["CR"]).sum() <= 104


def test_nothing_on_a_noiseless_star_field():
    for sigma in (1.2, 2.0, 3.0):
        image = star_field(sigma=sigma, add_noise=False, gain=1.0)
        before = image.image.array.copy()
        make_task().run(image)
        assert not mask_of(image.mask, ["CR"]).any()
        np.testing.assert_array_equal(image.image.array, before)


@settings(max_examples=40, deadline=None)
@given(
    x=st.floats(20, 21), y=st.floats(20, 21), sigma=st.floats(0.7, 3.5), flux=st.floats(1e2, 1e8),
    noise=st.floats(0.1, 50),
)  # fmt: skip
def test_a_noiseless_star_is_never_a_ray(x: float, y: float, sigma: float, flux: float, noise: float):
    # The ratio of neighbours to peak of a Gaussian is smallest when centred on a pixel, as the model is.
    image = make_visit_image(
        width=41, height=41, x=[x], y=[y], flux=[flux], sigma=sigma, noise=noise, add_noise=False, gain=1.0
    )
    make_task(min_DN=0.0).run(image)
    assert not mask_of(image.mask, ["CR"]).any()


def test_nothing_on_a_noisy_star_field():
    image = star_field(sigma=1.6, gain=1.5)
    make_task().run(image)
    assert mask_of(image.mask, ["CR"]).sum() <= 1


def test_filled_pixels_show_the_star_behind():
    image = star_field(sigma=2.0, gain=1.5)
    truth = star_field(sigma=2.0, add_noise=False).image.array
    peaks = (truth == _maximum(truth)) & (truth > 500) & (truth < 5e4)
    hit = np.roll(peaks, (1, 2), (0, 1))
    image.image.array[hit] += 3e5
    make_task().run(image)
    assert (mask_of(image.mask, ["CR"]) & hit).sum() == hit.sum() > 8
    pull = (image.image.array - truth)[hit] / np.sqrt(image.variance.array[hit])
    assert abs(pull.mean()) < 1.0
    assert pull.std() < 1.6


def _maximum(image: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, 1), (3, 3))
    return windows.max(axis=(2, 3))


def test_fill_of_blank_sky_is_unbiased():
    image = make_visit_image(width=410, height=410, background=50.0)
    hit = np.zeros(image.bbox.shape, dtype=bool)
    hit[8:400:10, 8:400:10] = hit[8:400:10, 9:400:10] = True
    image.image.array[hit] += 3000
    make_task().run(image)
    pull = (image.image.array[hit] - 50) / 10
    assert abs(pull.mean()) < 0.25
    assert pull.std() < 1.0


@settings(max_examples=15, deadline=None)
@given(dx=st.integers(-12, 12), dy=st.integers(-12, 12), seed=st.integers(0, 5))
def test_shift_invariance(dx: int, dy: int, seed: int):
    rng = np.random.default_rng(seed)
    image = make_visit_image(width=90, height=80, x=[45.3], y=[40.2], flux=[3e4], seed=seed)
    ys, xs = rng.integers(25, 55, (2, 8))
    image.image.array[ys, xs] += 800
    moved = image.copy()
    moved.image.array[...] = np.roll(image.image.array, (dy, dx), (0, 1))
    for each in (image, moved):
        make_task().run(each)
    inner = (slice(15, -15), slice(15, -15))
    for before, after in (
        (image.image.array, moved.image.array),
        (mask_of(image.mask, ["CR"]), mask_of(moved.mask, ["CR"])),
    ):
        # Compare where neither the roll nor the edge of the image plays a part; the level, a median of all
        # pixels, is the same for both.
        np.testing.assert_array_equal(np.roll(before, (dy, dx), (0, 1))[inner], after[inner])


def test_origin_does_not_matter():
    images = [star_field(x0=x0, y0=y0, seed=3) for x0, y0 in ((0, 0), (1500, -700))]
    for image in images:
        image.image.array[60, 30:36] += 900
        make_task().run(image)
    assert mask_of(images[0].mask, ["CR"]).sum() >= 6
    np.testing.assert_allclose(images[0].image.array, images[1].image.array, rtol=1e-5, atol=1e-3)


def test_background_in_cells():
    # On a slope of 4 sigma per pixel the median of the image says nothing about the level of a pixel.
    image = make_visit_image(width=200, height=200)
    slope = np.linspace(0, 8000, 200, dtype=np.float32)
    image.image.array[...] += slope
    image.image.array[20:180:20, 20:180:20] += 2000
    hit = np.zeros(image.bbox.shape, dtype=bool)
    hit[20:180:20, 20:180:20] = True
    flat = image.copy()
    make_task().run(flat)
    config = RepairConfig()
    config.cosmicray.background.binSize = 50
    RepairTask(config=config).run(image)
    assert "BGMEAN" not in image.metadata  # left by the background of the search on its own copy only
    rays = mask_of(image.mask, ["CR"])
    assert (rays & hit).sum() == hit.sum()
    assert (mask_of(flat.mask, ["CR"]) & hit).sum() < hit.sum()
    assert (rays & ~hit).sum() <= 4
    pull = (image.image.array - slope)[hit] / 10
    assert abs(pull.mean()) < 0.4
    assert pull.std() < 1.2


def test_defaults_of_the_background():
    config = RepairConfig().cosmicray.background
    assert (config.binSize, config.statisticsProperty, config.useApprox) == (100000, "MEDIAN", False)


def test_ray_at_the_edge():
    image = make_visit_image()
    image.image.array[0, 40] += 4000  # found by its neighbours to the left and right
    image.image.array[1, 80:83] += 4000
    make_task().run(image)
    rays = mask_of(image.mask, ["CR"])
    assert rays[0, 40]
    assert rays[1, 80:83].all()
    np.testing.assert_allclose(image.image.array[rays], 0, atol=35)


@pytest.mark.parametrize("plane", ["BAD", "SAT", "INTRP", "NO_DATA"])
def test_masked_pixels_are_no_rays_and_fill_none(plane: str):
    image = make_visit_image()
    image.image.array[50, 60] = 9000
    image.image.array[80, 60] = 9000
    image.image.array[80, 62] = 7000
    masked = np.zeros(image.bbox.shape, dtype=bool)
    masked[50, 60] = masked[80, 62] = True
    image.mask.set(plane_name(plane), masked)
    make_task().run(image)
    rays = mask_of(image.mask, ["CR"])
    assert not rays[50, 60]
    assert image.image.array[50, 60] == 9000
    assert rays[80, 60]
    assert abs(image.image.array[80, 60]) < 50


@pytest.mark.parametrize("plane", ["INTRP", "SAT"])
def test_next_to_an_interpolated_or_saturated_pixel(plane: str):
    # The last pixel of a bleed trail holds what was left of the charge: as sharp as a cosmic ray.
    image = make_visit_image()
    image.image.array[50, 60] = 9000
    masked = np.zeros(image.bbox.shape, dtype=bool)
    masked[51, 61] = True
    image.mask.set(plane_name(plane), masked)
    make_task().run(image)
    assert not mask_of(image.mask, ["CR"]).any()


def test_nan_pixels():
    image = make_visit_image()
    image.image.array[20:25, 20:25] = np.nan
    image.variance.array[70, 70] = np.nan
    image.image.array[50, 60] = 9000
    make_task().run(image)
    assert mask_of(image.mask, ["CR"]).sum() == 1
    assert np.isnan(image.image.array).sum() == 25


def test_all_pixels_masked():
    image = make_visit_image(width=40, height=40)
    image.mask.set("NO_DATA", np.ones(image.bbox.shape, dtype=bool))
    task = make_task()
    task.run(image)
    assert task.metadata["cosmic_ray_count"] == 0


def test_no_psf():
    image = make_visit_image()
    image.psf = None
    with pytest.raises(InvalidPsfError, match="visit 100, detector 4 has no PSF"):
        make_task().run(image)


def test_switched_off():
    image = make_visit_image()
    image.image.array[50, 60] = 9000
    config = RepairConfig()
    config.doCosmicRay = False
    config.doInterpolate = False
    before = image.image.array.copy()
    RepairTask(config=config).run(image, defects=np.ones(image.bbox.shape, dtype=bool))
    np.testing.assert_array_equal(image.image.array, before)


def test_defects_and_defaults():
    config = RepairConfig()
    assert config.interp.fallbackValueType == "MEANCLIP"
    assert config.interp.negativeFallbackAllowed
    image = make_visit_image(x0=10, y0=20)
    column = Footprints.from_mask(np.ones((180, 2), dtype=bool), x0=70, y0=20)
    image.image.array[:, 60:62] = 30000
    RepairTask(config=config).run(image, defects=column)
    assert mask_of(image.mask, ["INTRP"])[:, 60:62].all()
    assert abs(image.image.array[:, 60:62].mean()) < 5
    assert not mask_of(image.mask, ["CR"])[:, 60:62].any()
