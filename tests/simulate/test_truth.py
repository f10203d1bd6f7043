"""What the truth table says about objects is what a measurement without noise finds."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from secondlight.simulate.detector import SimulatedDetector, simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.psf import make_psf
from secondlight.simulate.render import Light, add_light, draw_stamps, stamp_origin, stamp_sizes
from secondlight.simulate.scene import Scene, load_scene
from secondlight.simulate.truth import light_statistics
from tests.measurement.scene import measure_at
from tests.scenes import make_visit_image


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_scene("tiny")


@pytest.fixture(scope="module")
def objects(scene: Scene) -> Table:
    return make_objects(scene)


@pytest.fixture(scope="module")
def simulated(scene: Scene, objects: Table) -> SimulatedDetector:
    return simulate_detector(scene, objects, visit=scene.visits[0].id, detector=1)


def stars(scene: Scene, x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> Light:
    psf = make_psf(scene, scene.visits[0], 0)
    none = np.zeros((len(x), 2, 2))
    return Light(x, y, flux, psf.parameters(x=x, y=y), np.zeros(len(x)), none, none)


def test_psf_flux_without_noise(scene: Scene) -> None:
    # The goal is 1e-4 in the mean; stars of all subpixel positions, in a PSF that varies.
    rng = np.random.default_rng(5)
    x, y = (g.ravel() + rng.uniform(-0.5, 0.5, g.size) for g in np.mgrid[70:560:90, 70:560:90].astype(float))
    flux = rng.uniform(1e3, 1e6, len(x))
    light = stars(scene, x, y, flux)
    exposure = make_visit_image(
        width=600, height=600, psf=make_psf(scene, scene.visits[0], 0), noise=10.0, add_noise=False
    )
    image = np.zeros((600, 600))
    add_light(image, light, sizes=stamp_sizes(light, surface_brightness=0.5))
    exposure.image.array[...] = image
    measured = measure_at(exposure, ["base_PsfFlux"], x=x, y=y)
    ratio = measured["base_PsfFlux_instFlux"] / flux
    assert abs(np.mean(ratio) - 1) < 1e-4
    assert np.std(ratio) < 3e-4


def test_counts_are_in_the_image(simulated: SimulatedDetector) -> None:
    # An aperture about a lone bright star holds what the truth says, times the share of the PSF inside.
    truth, image = simulated.truth, simulated.images[0]
    bright = (truth["snr"] > 300) & ~truth["saturated"] & (truth["contamination"] < 0.002) & truth["is_star"]
    inside = bright & (truth["x"] > 40) & (truth["x"] < 560) & (truth["y"] > 40) & (truth["y"] < 520)
    assert inside.sum() > 3
    background = simulated.background["subtracted"].field.render(image.bbox).array
    pixels = image.image.array - background
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    for row in truth[inside]:
        aperture = np.hypot(columns - row["x"], rows - row["y"]) < 8
        star = simulated.psf.compute_stellar_image(x=row["x"], y=row["y"])
        j, i = np.indices(star.array.shape)
        near = np.hypot(i + star.bbox.x.start - row["x"], j + star.bbox.y.start - row["y"]) < 8
        expected = row["counts"] * star.array[near].sum()
        error = np.sqrt(image.variance.array[aperture].sum())
        assert pixels[aperture].sum() == pytest.approx(expected, abs=4 * error + 0.005 * expected)


def test_light_statistics_of_a_pair(scene: Scene) -> None:
    x, y, flux = np.array([50.2, 54.6, 150.0]), np.array([60.0, 61.3, 70.4]), np.array([1e4, 5e3, 2e4])
    light = stars(scene, x, y, flux)
    total = np.zeros((120, 200))
    add_light(total, light, sizes=np.full(3, 128))
    snr, contamination = light_statistics(light, total, noise=20.0)
    stamps = draw_stamps(light, 128)
    np.testing.assert_allclose(snr, np.sqrt((stamps**2).sum(axis=(1, 2))) / 20.0, rtol=1e-3)
    own = np.zeros_like(total)
    add_light(own, light[[0]], sizes=np.full(1, 128))
    expected = (own * (total - own)).sum() / (own**2).sum()
    assert contamination[0] == pytest.approx(expected, rel=1e-2)
    assert contamination[1] > contamination[0] > 0.1
    assert abs(contamination[2]) < 1e-3
    x0, y0 = stamp_origin(light, 128)
    assert (x0[0], y0[0]) == (50 - 64, 60 - 64)


def test_faint_objects_are_texture(scene: Scene) -> None:
    light = stars(scene, np.array([50.0, 60.0]), np.array([50.0, 60.0]), np.array([1.0, 1e4]))
    snr, contamination = light_statistics(light, np.zeros((100, 100)), noise=20.0)
    assert np.isnan(snr[0])
    assert np.isnan(contamination[0])
    assert snr[1] > 10


def test_objects_beside_the_detector(simulated: SimulatedDetector) -> None:
    truth = simulated.truth
    outside = (truth["x"] < -1) | (truth["x"] > 600)
    assert outside.any()
    assert np.isnan(truth["peak"][outside]).all()
    assert not truth["saturated"][outside].any()


def test_same_objects_in_overlapping_visits(scene: Scene, objects: Table) -> None:
    first, second = (
        simulate_detector(scene, objects, visit=visit.id, detector=0).truth for visit in scene.visits
    )
    common, i, j = np.intersect1d(first["object_id"], second["object_id"], return_indices=True)
    assert len(common) > 100
    np.testing.assert_array_equal(first["ra"][i], second["ra"][j])
    np.testing.assert_array_equal(first["flux"][i], second["flux"][j])
    assert not np.allclose(first["x"][i], second["x"][j])


def test_repeatable(scene: Scene, objects: Table, simulated: SimulatedDetector) -> None:
    again = simulate_detector(scene, objects, visit=scene.visits[0].id, detector=1)
    np.testing.assert_array_equal(again.images[0].image.array, simulated.images[0].image.array)
    np.testing.assert_array_equal(again.truth["snr"], simulated.truth["snr"])
    other = load_scene("tiny", settings={"seed": 12})
    different = simulate_detector(other, make_objects(other), visit=other.visits[0].id, detector=1)
    assert not np.array_equal(different.images[0].image.array, simulated.images[0].image.array)


def test_two_snaps_are_one_visit() -> None:
    scene = load_scene("tiny", settings={"snaps": 2})
    objects = make_objects(scene)
    both = simulate_detector(scene, objects, visit=scene.visits[0].id, detector=0)
    one = load_scene("tiny")
    whole = simulate_detector(one, objects, visit=one.visits[0].id, detector=0)
    first, second = both.images
    assert (first.obs_info.exposure_id, second.obs_info.exposure_id) == (1001, 1002)
    assert not np.array_equal(first.image.array, second.image.array)
    total = np.median(first.image.array + second.image.array)
    assert total == pytest.approx(np.median(whole.images[0].image.array), rel=0.002)
    # A count of one snap stands for twice the flux.
    scalings = [image.photometric_scaling(x=10.0, y=10.0) for image in (first, whole.images[0])]
    assert scalings[0] == pytest.approx(2 * scalings[1])


def test_illumination_changes_the_stars_not_the_sky() -> None:
    settings = {"sky.illumination": 0.2, "sky.gradient": 0.0, "sky.bowl": 0.0}
    scene, plain = (
        load_scene("tiny", settings=settings),
        load_scene("tiny", settings=settings | {"sky.illumination": 0.0}),
    )
    objects = make_objects(scene)
    lit = simulate_detector(scene, objects, visit=scene.visits[0].id, detector=0)
    flat = simulate_detector(plain, objects, visit=plain.visits[0].id, detector=0)
    assert flat.ratio is None
    assert lit.ratio is not None
    sky = np.median(flat.images[0].image.array)
    assert np.median(lit.images[0].image.array) == pytest.approx(sky, rel=0.002)
    star = flat.images[0].image.array > sky + 3000
    gain = (lit.images[0].image.array[star] - sky) / (flat.images[0].image.array[star] - sky)
    assert np.corrcoef(gain, lit.ratio.array[star])[0, 1] > 0.5


def test_nothing_shines_where_no_light_gets(objects: Table) -> None:
    scene = load_scene("tiny", settings={"camera.vignetting_radius": 0.6})
    simulated = simulate_detector(scene, objects, visit=scene.visits[0].id, detector=0)
    dark = simulated.artifacts[0].get("NO_DATA")
    height, width = dark.shape
    i, j = (np.floor(np.asarray(simulated.truth[name]) + 0.5).astype(int) for name in ("x", "y"))
    # Away from the border of the light, whose brightest pixel may be a neighbour.
    inside = (i >= 1) & (i < width - 1) & (j >= 1) & (j < height - 1)
    lost = np.array(
        [bool(ok) and dark[b - 1 : b + 2, a - 1 : a + 2].all() for ok, a, b in zip(inside, i, j, strict=True)]
    )
    assert lost.sum() > 20
    assert np.all(simulated.truth["peak"][lost] == 0)
    assert np.all(simulated.truth["peak"][inside & ~lost] > 0)
