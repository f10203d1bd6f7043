from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from benchmarks.accuracy.expected import enclosed_fractions
from benchmarks.accuracy.matching import Image
from benchmarks.accuracy.metrics import SUBJECTS, all_numbers, all_samples
from benchmarks.accuracy.metrics.summary_statistics import true_statistics
from benchmarks.accuracy.numbers import Number, median, with_errors_between_images

from secondlight.catalog.photo_calib import AB_FLUX_NJY
from secondlight.photometry.apertures import psf_aperture_flux
from secondlight.psf.evaluation import kernel_stamps
from secondlight.simulate.render import Light

from .scenes import BBOX, SIDE, SIGMA, gaussian_psf, make_image, make_measured, make_truth


def numbers_of(*images: Image, subject: str) -> dict[str, Number]:
    one = SUBJECTS[subject]
    from astropy.table import vstack

    table = vstack([one.sample(image) for image in images], metadata_conflicts="silent")
    return {number.key: number for number in one.numbers(table)}


def assert_close(number: Number, expected: float, sigmas: float = 4.0) -> None:
    assert number.error is not None
    assert number.error > 0
    assert abs(number.value - expected) < sigmas * number.error, number


def test_centroid_bias_and_pull_come_back() -> None:
    numbers = numbers_of(make_image(offset=0.02, error_scale=1.5), subject="centroids")
    assert_close(numbers["centroid.x.bias.stars.isolated.all"], 20.0)
    assert_close(numbers["centroid.y.bias.stars.isolated.all"], 0.0)
    assert_close(numbers["centroid.y.pull_width.stars.isolated.all"], 1.5)
    assert_close(numbers["centroid.y.pull_mean.galaxies.isolated.all"], 0.0)
    assert numbers["centroid.y.pull_width.stars.isolated.all"].n > 100
    assert "centroid.y.bias.stars.blended.all" not in numbers


def test_blended_objects_are_counted_apart() -> None:
    truth = make_truth(contamination=0.5)
    numbers = numbers_of(Image(make_measured(truth), truth), subject="centroids")
    assert "centroid.x.bias.stars.blended.all" in numbers
    assert "centroid.x.bias.stars.crowding_blended" in numbers
    assert "centroid.x.bias.stars.isolated.all" not in numbers


def test_flux_bias_is_free_of_the_zero_point_and_the_zero_point_is_found() -> None:
    image = make_image(flux_factor=1.05, zero_point_factor=0.98, error_scale=1.2)
    numbers = numbers_of(image, subject="fluxes")
    tolerance = 2.0
    assert abs(numbers["flux.psf.bias.stars.isolated.all"].value + 2500 * np.log10(1.05)) < tolerance
    assert abs(numbers["flux.calibration.bias.stars.isolated.all"].value) < tolerance
    assert_close(numbers["flux.calibration.pull_width.galaxies.isolated.all"], 1.2)
    assert numbers["flux.psf.bias.galaxies.isolated.all"].sense == "none"
    zero = numbers_of(image, subject="zero_points")["zero_point.visit_1.detector_0"]
    assert_close(zero, -2500 * np.log10(0.98))


def test_apertures_are_compared_in_counts_with_what_is_in_them() -> None:
    truth = make_truth()
    fraction = float(psf_aperture_flux(kernel_stamps(truth.psf, x=0.0, y=0.0), 3.0)[0])
    flux = truth["flux"] * fraction * 10 ** (-0.4 * (27.1 - 27.0))
    measured = make_measured(
        truth,
        fluxes={"aperture": (flux, flux / truth["snr"])},
        aperture_radii={"aperture": 3.0},
        calibration_flux=None,
        psf_flux=None,
        zero_point=27.1,
    )
    numbers = numbers_of(Image(measured, truth), subject="fluxes")
    assert abs(numbers["flux.aperture.bias.stars.isolated.all"].value) < 1e-6
    assert "flux.aperture.bias.galaxies.isolated.all" not in numbers


def test_light_in_an_aperture_of_a_galaxy_is_that_of_its_image() -> None:
    truth = make_truth(n_side=2)
    n = len(truth)
    matrix = 3.0 * np.broadcast_to(np.eye(2), (n, 2, 2))
    matrix = np.where(truth["is_star"][:, None, None], 0.0, matrix)
    light = Light(
        x=truth["x"], y=truth["y"], flux=np.ones(n),
        psf=np.tile([4.0, 0.0, 0.0, 0.25, 0.25, 0.0], (n, 1)),
        bulge_fraction=np.zeros(n), bulge_matrix=0 * matrix, disk_matrix=matrix,
    )  # fmt: skip
    truth = dataclasses.replace(truth, light=light)
    rows = np.arange(n)
    small, large = enclosed_fractions(truth, rows, [3.0, 25.0]).T
    star = truth["is_star"].astype(bool)
    assert np.all(small[~star] < 0.8 * small[star][0])
    assert small[star] == pytest.approx(small[star][0], abs=1e-3)
    assert np.all((large > 0.98) & (large < 1.001))


def test_completeness_and_purity() -> None:
    truth = make_truth()
    n = len(truth)
    lost = truth["is_star"] & (np.arange(n) % 8 == 0)
    keep = np.flatnonzero(~lost)
    whole = make_measured(truth)
    fields = ("x", "y", "x_err", "y_err", "ra", "dec", "extendedness", "primary", "good")
    false = np.full(100, 33.0)
    parts = {
        name: np.concatenate([getattr(whole, name)[keep], false.astype(getattr(whole, name).dtype)])
        for name in fields
    }
    parts["x"][-100:] = (np.arange(100) + 1) * 15.0
    parts["y"][-100:] = 1.0
    fluxes = {name: tuple(np.append(v[keep], false) for v in pair) for name, pair in whole.fluxes.items()}
    image = Image(dataclasses.replace(whole, fluxes=fluxes, **parts), truth)
    numbers = numbers_of(image, subject="completeness")
    assert numbers["completeness.stars.snr_above_5"].value == pytest.approx(
        1 - lost.sum() / truth["is_star"].sum()
    )
    assert numbers["completeness.galaxies.snr_above_5"].value == 1.0
    purity = numbers_of(image, subject="purity")
    assert purity["purity.all"].value == pytest.approx(len(keep) / (len(keep) + 100))
    assert purity["purity.false_on_artifact"].value == 0.0
    # All false ones are in the first row of pixels, those that are near no bright star.
    assert purity["purity.inside.all"].value == 1.0
    assert purity["purity.false_at_edge"].value > 0.04
    assert purity["purity.false_elsewhere"].value == 0.0


def test_the_brighter_object_takes_the_source() -> None:
    truth = make_truth(n_side=2)
    table = truth.table.copy()
    table["x"], table["y"] = [100.0, 101.0, 500.0, 900.0], [100.0, 100.0, 500.0, 900.0]
    table["flux"] = [1.0, 10.0, 5.0, 5.0]
    table["snr"] = [10.0, 100.0, 50.0, 1.0]
    truth = dataclasses.replace(truth, table=table)
    measured = make_measured(truth, error_scale=0.0)
    measured = dataclasses.replace(
        measured, x=np.array([100.2, 1.0, 501.0, 900.0]), y=np.array([100.0, 1.0, 500.0, 900.0])
    )
    image = Image(measured, truth)
    # The fainter of the first two finds its source taken; the last is too faint to count.
    assert image.source_of_object.tolist() == [-1, 0, 2, -1]
    assert image.object_of_source.tolist() == [1, -1, 2, -1]


def test_psf_of_the_wrong_size() -> None:
    truth = make_truth()
    rng = np.random.default_rng(1)
    measured = make_measured(
        truth,
        psf=gaussian_psf(SIGMA * 1.01),
        first_psf=gaussian_psf(SIGMA * 0.97),
        reserved_x=rng.uniform(0, SIDE, 20),
        reserved_y=rng.uniform(0, SIDE, 20),
    )
    numbers = numbers_of(Image(measured, truth), subject="psf")
    assert numbers["psf.final.random.size.bias"].value == pytest.approx(100 * (1.01**2 - 1), abs=0.05)
    assert numbers["psf.first.reserved.size.bias"].value == pytest.approx(100 * (0.97**2 - 1), abs=0.1)
    assert numbers["psf.final.reserved.e1.bias"].value == pytest.approx(0.0, abs=1e-3)
    # A model 1 % too wide gives 2 s^2 / (s^2 + t^2) = 1 % more... of the flux of a Gaussian star.
    expected = -2500 * np.log10(2 * 1.01**2 / (1 + 1.01**2))
    assert numbers["psf.final.random.flux.bias"].value == pytest.approx(expected, abs=0.1)


def test_aperture_correction_against_the_right_one() -> None:
    truth = make_truth()
    model = gaussian_psf(SIGMA * 1.05)
    stamp, true = (kernel_stamps(p, x=0.0, y=0.0)[0] for p in (model, truth.psf))
    right = psf_aperture_flux(true, 12.0) / ((stamp * true).sum() / (stamp**2).sum())
    measured = make_measured(truth, psf=model, corrections={"psf": np.full(len(truth), 1.002 * right)})
    numbers = numbers_of(Image(measured, truth), subject="aperture_corrections")
    assert numbers["aperture_correction.psf.bias"].value == pytest.approx(-2500 * np.log10(1.002), abs=1e-3)


def test_background() -> None:
    truth = make_truth()
    assert truth.background is not None
    background = truth.background + 2.0
    numbers = numbers_of(Image(make_measured(truth, background=background), truth), subject="background")
    assert numbers["background.bias"].value == pytest.approx(2.0)
    assert numbers["background.bias_sigma"].value == pytest.approx(0.2)
    assert numbers["background.near_bright_sigma"].value == pytest.approx(0.2)


def test_classification() -> None:
    truth = make_truth()
    extendedness = np.where(truth["is_star"] | (np.arange(len(truth)) % 4 == 1), 0.0, 1.0)
    numbers = numbers_of(
        Image(make_measured(truth, extendedness=extendedness), truth), subject="classification"
    )
    prefix = "classification.extendedness"
    assert numbers[f"{prefix}.stars_found.snr_above_20"].value == 1.0
    assert numbers[f"{prefix}.galaxies_found.snr_above_20"].value == pytest.approx(0.5, abs=0.06)
    assert numbers[f"{prefix}.stars_false.snr_above_20"].value == pytest.approx(1 / 3, abs=0.06)


def test_repeatability_and_offsets_on_the_sky() -> None:
    images = []
    for visit in range(4):
        truth = make_truth(visit=visit)
        rng = np.random.default_rng(visit)
        n = len(truth)
        flux = truth["flux"] * 10 ** (-0.4 * 0.01 * rng.standard_normal(n))
        shift = 50.0 * visit + 5.0 * rng.standard_normal(n)
        images.append(
            Image(
                make_measured(
                    truth,
                    error_scale=0.0,
                    fluxes={"psf": (flux, 1e-3 * flux)},
                    ra=(truth["ra"] + shift / 3.6e6 / np.cos(np.radians(truth["dec"]))) % 360,
                ),
                truth,
            )
        )
    numbers = numbers_of(*images, subject="repeatability")
    assert_close(numbers["repeatability.r.mag"], 10.0)
    assert_close(numbers["repeatability.r.ra_relative"], 5.0, sigmas=5)
    assert numbers["repeatability.r.ra"].value > 30
    assert_close(numbers["astrometry.offset.visit_3.ra"], 150.0)
    assert numbers["astrometry.offset.visit_3.dec"].value == pytest.approx(0.0, abs=1e-6)


def noisy_visits(*, intrinsic: float, bands: str = "rrrr") -> list[Image]:
    """Visits whose stars scatter by 3 mmag of noise, as claimed, and by something that is not claimed."""
    images = []
    for visit, band in enumerate(bands):
        truth = dataclasses.replace(make_truth(visit=visit), band=band)
        rng = np.random.default_rng(50 + visit)
        n = len(truth)
        magnitude = 0.003 * rng.standard_normal(n) + intrinsic * rng.standard_normal(n)
        flux = truth["flux"] * 10 ** (-0.4 * magnitude)
        error = 0.003 * np.log(10) / 2.5 * flux
        measured = make_measured(
            truth,
            band=band,
            fluxes={"psf": (flux, error)},
            psf_used=np.arange(n) % 10 < 8,
            psf_reserved=np.arange(n) % 10 == 8,
        )
        images.append(Image(measured, truth))
    return images


def test_scatter_beyond_the_errors() -> None:
    numbers = numbers_of(*noisy_visits(intrinsic=0.01), subject="repeatability")
    assert numbers["repeatability.r.mag_expected"].value == pytest.approx(3.0, rel=1e-4)
    for part in ("", ".fitted", ".reserved"):
        assert_close(numbers[f"repeatability.r.mag_excess{part}"], 10.0)
    assert_close(numbers["repeatability.r.mag_relative_excess"], 10.0)
    assert numbers["repeatability.r.mag_excess.reserved"].n < numbers["repeatability.r.mag_excess.fitted"].n
    assert not any("calibration_mag" in key for key in numbers)


def test_no_scatter_beyond_the_errors() -> None:
    excess = numbers_of(*noisy_visits(intrinsic=0.0), subject="repeatability")["repeatability.r.mag_excess"]
    assert_close(excess, 0.0)
    assert excess.value < 1.0


def test_scatter_that_a_visit_adds_to_all_stars_is_not_within_images() -> None:
    images = noisy_visits(intrinsic=0.0)
    for k, factor in enumerate((1.02, 1.0, 0.98, 1.01)):
        flux, error = images[k].measured.fluxes["psf"]
        other = dataclasses.replace(images[k].measured, fluxes={"psf": (factor * flux, factor * error)})
        images[k] = Image(other, images[k].truth)
    numbers = numbers_of(*images, subject="repeatability")
    assert numbers["repeatability.r.mag_excess"].value > 5
    assert_close(numbers["repeatability.r.mag_relative_excess"], 0.0)


def test_colors() -> None:
    images = noisy_visits(intrinsic=0.008, bands="rrgg")
    numbers = numbers_of(*images, subject="colors")
    assert_close(numbers["colors.g_r.bias"], 0.0)
    # Two visits in each of two bands.
    assert numbers["colors.g_r.expected"].value == pytest.approx(3.0, rel=1e-4)
    assert_close(numbers["colors.g_r.scatter"], np.hypot(3.0, 8.0))
    assert_close(numbers["colors.g_r.excess"], 8.0)


def test_summary_statistics() -> None:
    truth = dataclasses.replace(make_truth(), gain=1.5)
    radius = 7.0
    enclosed = float(psf_aperture_flux(kernel_stamps(truth.psf, x=0.0, y=0.0), radius)[0])
    true = true_statistics(truth, radius)
    assert true["zeroPoint"] == pytest.approx(27.0 + 2.5 * np.log10(enclosed), abs=1e-4)
    assert true["zeroPoint"] < 26.999
    assert true_statistics(truth)["zeroPoint"] == 27.0
    assert true["psfSigma"] == pytest.approx(SIGMA, rel=2e-3)
    area = 4 * np.pi * SIGMA**2
    limit = true["zeroPoint"] - 2.5 * np.log10(5 * 10.0 * np.sqrt(area))
    # A little less deep, as the source has noise, too.
    assert limit - 0.03 < true["magLim"] < limit - 0.01
    published = {
        "psfSigma": 1.02 * true["psfSigma"],
        "skyBg": 97.0,
        "skyNoise": 10.1,
        "zeroPoint": true["zeroPoint"] + 0.003,
        "magLim": limit,
    }
    error = np.full(100, AB_FLUX_NJY * 10 ** (-0.4 * limit) / 5)
    measured = make_measured(
        truth,
        statistics=published,
        sky_fluxes={"psf": (0 * error, error)},
        calibration_radius=radius,
        zero_point=true["zeroPoint"],
    )
    numbers = numbers_of(Image(measured, truth), subject="summary_statistics")
    assert numbers["statistics.psfSigma.bias"].value == pytest.approx(2.0)
    assert numbers["statistics.skyBg.bias"].value == pytest.approx(-3.0)
    assert numbers["statistics.skyNoise.bias"].value == pytest.approx(1.0)
    assert numbers["statistics.zeroPoint.bias"].value == pytest.approx(3.0)
    assert numbers["statistics.magLim.bias"].value == pytest.approx(1e3 * (limit - true["magLim"]))
    by_sky = numbers["statistics.magLim_by_sky_objects.bias"].value
    assert by_sky == pytest.approx(numbers["statistics.magLim.bias"].value, abs=0.1)
    assert "statistics.psfArea.bias" not in numbers


def test_depth_is_where_half_of_the_stars_are_found() -> None:
    truth = make_truth()
    table = truth.table.copy()
    rng = np.random.default_rng(8)
    table["mag"] = rng.uniform(23.0, 26.0, len(table))
    table["is_star"] = True
    truth = dataclasses.replace(truth, table=table)
    found = rng.normal(24.6, 0.2, len(table)) > table["mag"]
    measured = make_measured(truth, error_scale=0.0, primary=found, statistics={"magLim": 24.5})
    numbers = numbers_of(Image(measured, truth), subject="depth")
    assert_close(numbers["depth.half_found"], 0.1)
    assert_close(numbers["depth.width"], 0.2)


def test_sources_that_are_not_quite_where_the_object_is() -> None:
    truth = make_truth()
    measured = make_measured(truth, error_scale=0.0)
    x = measured.x + np.where(np.arange(len(truth)) % 2 == 0, 3.0, 0.0)
    numbers = numbers_of(Image(dataclasses.replace(measured, x=x), truth), subject="purity")
    assert numbers["purity.all"].value == pytest.approx(0.5)
    assert numbers["purity.false_misplaced"].value + numbers["purity.false_near_bright"].value == 0.5
    assert numbers["purity.false_elsewhere"].value == 0.0
    assert "purity.inside.snr_10_20" in numbers


def test_objects_at_the_edge_are_counted_apart() -> None:
    truth = make_truth()
    table = truth.table.copy()
    table["x"][:40] = 5.0
    truth = dataclasses.replace(truth, table=table)
    measured = make_measured(truth, error_scale=0.0, primary=np.arange(len(truth)) >= 40)
    numbers = numbers_of(Image(measured, truth), subject="completeness")
    assert numbers["completeness.all.snr_above_5"].value == pytest.approx(1 - 40 / len(truth))
    assert numbers["completeness.all.inside.snr_above_5"].value == 1.0
    assert numbers["completeness.all.inside.isolated"].value == 1.0


def test_errors_of_what_is_smooth_over_an_image_come_from_the_images() -> None:
    rng = np.random.default_rng(4)
    images = np.repeat(np.arange(50), 20)
    values = rng.standard_normal(50)[images] + 1e-3 * rng.standard_normal(len(images))

    def numbers(v: np.ndarray) -> list[Number]:
        return median("a", v)

    (number,) = with_errors_between_images(numbers, values, images)
    assert number.value == numbers(values)[0].value
    assert number.error == pytest.approx(1.25 / np.sqrt(50), rel=0.4)
    (few,) = with_errors_between_images(numbers, values[:40], images[:40])
    assert few.error is None


def test_cosmic_rays() -> None:
    truth = make_truth()
    assert truth.artifacts is not None
    true = np.zeros((SIDE, SIDE), dtype=bool)
    for k in range(10):
        true[100 * k + 30, 40:46] = True
    truth.artifacts.set("COSMIC_RAY", true)
    marked = true.copy()
    marked[30] = False
    marked[100 + 30, 46] = True
    truth.artifacts.set("NO_DATA", np.arange(SIDE * SIDE).reshape(SIDE, SIDE) == 1999)
    marked[0, 1998] = True
    star = int(np.flatnonzero(truth["is_star"] & (truth["snr"] > 50))[0])
    marked[int(truth["y"][star]), int(truth["x"][star])] = True
    numbers = numbers_of(Image(make_measured(truth, cosmic_rays=marked), truth), subject="cosmic_rays")
    assert numbers["cosmic_rays.hits_found"].value == pytest.approx(0.9)
    assert numbers["cosmic_rays.large_hits_found"].n == 10
    assert numbers["cosmic_rays.pixels_found"].value == pytest.approx(0.9)
    assert numbers["cosmic_rays.marked_false"].value == pytest.approx(1 / 57)
    assert numbers["cosmic_rays.marked_other_artifacts"].value == pytest.approx(1 / 57)
    harmed = numbers["cosmic_rays.stars_harmed"]
    assert harmed.value == pytest.approx(1 / harmed.n)


def test_sky_objects() -> None:
    rng = np.random.default_rng(2)
    flux = 2.0 * rng.standard_normal(2000) + 1.0
    image = make_image(sky_fluxes={"aperture": (flux, np.full(2000, 1.0))})
    numbers = numbers_of(image, subject="sky_objects")
    assert_close(numbers["sky_objects.aperture.pull_mean"], 1.0)
    assert_close(numbers["sky_objects.aperture.pull_width"], 2.0)


def test_all_subjects_together_and_no_key_twice() -> None:
    image = make_image(psf=gaussian_psf(), background=np.full((SIDE, SIDE), 100.0))
    subjects = all_numbers([all_samples(image), all_samples(image)])
    keys = [number.key for numbers in subjects.values() for number in numbers]
    assert len(keys) == len(set(keys)) > 100


def test_an_image_without_sources_gives_no_numbers_but_completeness() -> None:
    truth = make_truth()
    image = Image(make_measured(truth, primary=np.zeros(len(truth), dtype=bool)), truth)
    subjects = all_numbers([all_samples(image)])
    assert subjects["completeness"][0].value == 0.0
    assert "centroids" not in subjects
    assert BBOX.shape == (SIDE, SIDE)
