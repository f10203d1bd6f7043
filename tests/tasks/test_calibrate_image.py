"""The first pass in memory, on scenes with truth, and on images it cannot work with."""

from __future__ import annotations

from typing import Any

import astropy.table
import numpy as np
import pytest
from lsst.images import VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper
from lsst.pipe.base import AlgorithmError, Struct
from scipy.spatial import KDTree

from secondlight.background.fields import render_background
from secondlight.background.task import TooManyMaskedPixelsError
from secondlight.catalog.mask_planes import ensure_planes, mask_of
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components
from secondlight.photometry.calibrate import photo_calib_of
from secondlight.tasks.calibrate_image import CalibrateImageTask

from ..scenes import make_visit_image

ZERO_POINT = 27.0
SKY = 500.0
N = 64

type Calibrated = tuple[Struct, astropy.table.Table, VisitImage]
"""What the task returned, the truth, and the image before."""


def make_task() -> CalibrateImageTask:
    config = CalibrateImageTask.ConfigClass()
    # A small grid keeps the fit of the PSF quick; the stars are Gaussians of sigma 2.
    config.psf_measure_psf.psfDeterminer["piff"].modelSize = 17
    config.psf_measure_psf.psfDeterminer["piff"].stampSize = 21
    return CalibrateImageTask(config=config)


def make_scene(*, n: int = N, flux_max: float = 2e5) -> tuple[VisitImage, astropy.table.Table]:
    """An image of isolated stars on a jittered grid, over a sloping sky, and the truth about them."""
    rng = np.random.default_rng(11)
    side = int(np.ceil(np.sqrt(n)))
    grid = 45 + 60 * np.arange(side)
    x, y = (a.ravel()[:n] + rng.uniform(-5, 5, n) for a in np.meshgrid(grid, grid))
    flux = np.exp(rng.uniform(np.log(3e3), np.log(flux_max), n))
    size = int(grid[-1] + 45)
    image = make_visit_image(
        width=size, height=size, x=x, y=y, flux=flux, noise=10.0, gain=2.0, background=SKY
    )
    slope = np.linspace(-20, 20, size, dtype=np.float32)
    image.image.array[...] += slope[None, :] + slope[:, None] / 2
    sky = image.sky_projection.pixel_to_sky(x=x, y=y)
    truth = astropy.table.Table(
        {
            "x": x,
            "y": y,
            "flux": flux,
            "ra": sky.ra.deg,
            "dec": sky.dec.deg,
            "mag_r": ZERO_POINT - 2.5 * np.log10(flux),
            "mag_err_r": np.full(n, 0.001),
            "is_star": np.ones(n, bool),
        }
    )
    return image, truth


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    image, truth = make_scene()
    original = image.copy()
    return make_task().run(exposures=[image], reference_catalog=truth), truth, original


def matched(calibrated: Calibrated) -> tuple[np.ndarray, astropy.table.Table]:
    """Return the row of each true star, and the truth."""
    result, truth, _ = calibrated
    positions = np.column_stack([result.stars["slot_Centroid_x"], result.stars["slot_Centroid_y"]])
    distance, rows = KDTree(positions).query(np.column_stack([truth["x"], truth["y"]]))
    assert (distance < 1).all()
    return rows, truth


def test_finds_every_star_and_nothing_else(calibrated: Calibrated) -> None:
    rows, _ = matched(calibrated)
    assert len(set(rows)) == N
    assert N <= len(calibrated[0].stars) <= N + 3  # noise peaks above 5 sigma are rare


def test_fluxes_and_positions_are_unbiased_with_honest_errors(calibrated: Calibrated) -> None:
    rows, truth = matched(calibrated)
    stars = calibrated[0].stars
    pull = (stars["base_PsfFlux_instFlux"][rows] - truth["flux"]) / stars["base_PsfFlux_instFluxErr"][rows]
    # The flux scale is that of the 12-pixel aperture of the brightest stars, known to a few 1e-4.
    assert abs(np.median(stars["base_PsfFlux_instFlux"][rows] / truth["flux"]) - 1) < 0.003
    assert 0.6 < np.std(pull) < 1.5
    for axis in "xy":
        offset = stars[f"slot_Centroid_{axis}"][rows] - truth[axis]
        pull = offset / stars[f"slot_Centroid_{axis}Err"][rows]
        assert abs(np.mean(offset)) < 0.005
        assert 0.7 < np.std(pull) < 1.4


def test_zero_point(calibrated: Calibrated) -> None:
    calib = calibrated[0].initial_photo_calib
    assert calib.zero_point == pytest.approx(ZERO_POINT, abs=0.003)
    exposure = calibrated[0].exposure
    assert exposure.photometric_scaling(x=100.0, y=100.0) == pytest.approx(calib.mean)
    assert photo_calib_of(exposure) == PhotoCalib(calib.mean, calib.error)
    assert exposure.metadata["provenance_label"] == "calibrateImage"
    assert calibrated[0].stars["calib_photometry_used"].sum() > 20


def test_psf_is_fitted_to_the_stars(calibrated: Calibrated) -> None:
    exposure, stars = calibrated[0].exposure, calibrated[0].stars
    assert isinstance(exposure.psf, PiffWrapper)
    assert exposure.summary_stats.psfSigma == pytest.approx(2.0, rel=0.01)
    used, reserved = stars["calib_psf_used"], stars["calib_psf_reserved"]
    assert used.sum() > 20
    assert reserved.sum() == int(0.1 * stars["calib_psf_candidate"].sum())
    assert not (used & reserved).any()


def test_background_is_the_sky(calibrated: Calibrated) -> None:
    result, _, original = calibrated
    sky = render_background(result.background, original.bbox)
    slope = np.linspace(-20, 20, sky.shape[1])
    np.testing.assert_allclose(sky, SKY + slope[None, :] + slope[:, None] / 2, atol=1.5)
    # Pixels that no cosmic ray touched are the original less the background.
    untouched = result.exposure.image.array + sky - original.image.array
    assert np.percentile(np.abs(untouched), 99.5) < 1e-3


def test_ids_count_from_one_and_rows_carry_footprints(calibrated: Calibrated) -> None:
    stars = calibrated[0].stars
    assert stars["id"].tolist() == list(range(1, len(stars) + 1))
    assert len(stars.footprints) == len(stars)
    assert (stars["visit"] == 100).all()
    assert (stars["detector"] == 4).all()


def test_same_input_gives_the_same_table() -> None:
    tables = []
    for _ in range(2):
        image, truth = make_scene(n=25)
        tables.append(make_task().run(exposures=[image], reference_catalog=truth).stars.to_astropy())
    for name in tables[0].colnames:
        np.testing.assert_array_equal(np.asarray(tables[0][name]), np.asarray(tables[1][name]), err_msg=name)


def test_without_reference_stars_the_scaling_of_the_image_is_kept() -> None:
    image, _ = make_scene(n=25)
    scaling = PhotoCalib.from_zero_point(26.5).to_field(image.bbox, image.unit)
    result = make_task().run(exposures=[replace_components(image, photometric_scaling=scaling)])
    assert result.initial_photo_calib.zero_point == pytest.approx(26.5, abs=1e-6)


def test_entirely_masked_image_is_an_algorithm_error() -> None:
    image, _ = make_scene(n=25)
    image.mask.set("NO_DATA", ...)
    with pytest.raises(TooManyMaskedPixelsError):
        make_task().run(exposures=[image])


@pytest.mark.parametrize("name", ["psf_subtract_background", "star_background"])
def test_unmasked_nan_pixels_cost_no_background_cell(name: str) -> None:
    """Dead pixels that nobody masked, some in every cell, are left out alone."""
    image, _ = make_scene(n=25)
    image.image.array[15::60, 15::60] = np.nan
    background = getattr(make_task(), name).run(image).background
    assert np.median(render_background(background, image.bbox)) == pytest.approx(SKY, abs=20)


def test_image_of_nan_is_an_algorithm_error() -> None:
    image, _ = make_scene(n=25)
    image.image.array[...] = np.nan
    with pytest.raises(AlgorithmError):
        make_task().run(exposures=[image])


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_stars_are_an_algorithm_error(n: int) -> None:
    image, _ = make_scene(n=25) if n == 0 else make_scene(n=n)
    if n == 0:
        rng = np.random.default_rng(1)
        image.image.array[...] = SKY + 10 * rng.normal(size=image.image.array.shape)
    with pytest.raises(AlgorithmError):
        make_task().run(exposures=[image])


def test_psf_of_the_survey_is_an_input_only_if_it_is_used() -> None:
    config = CalibrateImageTask.ConfigClass()
    assert "survey_psf" in config.ConnectionsClass(config=config).inputs
    config.use_survey_psf = False
    assert "survey_psf" not in config.ConnectionsClass(config=config).inputs


@pytest.mark.parametrize("used", [False, True])
def test_fit_starts_from_the_psf_of_the_survey_only_if_it_is_used(
    monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    image, _ = make_scene(n=4)
    survey = GaussianPointSpreadFunction(2.5, bounds=image.bbox, stamp_size=25)
    own = image.psf
    config = CalibrateImageTask.ConfigClass()
    config.use_survey_psf = used
    task = CalibrateImageTask(config=config)

    def stop(exposure: VisitImage, **kwargs: object) -> None:
        assert exposure.psf is (survey if used else own)
        raise StopIteration

    monkeypatch.setattr(task.psf_repair, "run", stop)
    with pytest.raises(StopIteration):
        task.run(exposures=[image], survey_psf=survey)


def test_every_re_estimated_background_is_recorded() -> None:
    """What any of the detections subtracts is part of the background that can be put back."""
    image, _ = make_scene(n=25)
    original = image.copy()
    config = make_task().config.copy()
    for detection in (config.psf_detection, config.star_detection):
        detection.reEstimateBackground = True
        detection.adjustBackground = 7.0
        detection.background.useApprox = False
    config.star_repair.doCosmicRay = False
    image = replace_components(
        image, photometric_scaling=PhotoCalib.from_zero_point(27.0).to_field(image.bbox, image.unit)
    )
    result = CalibrateImageTask(config=config).run(exposures=[image])
    total = result.exposure.image.array + render_background(result.background, original.bbox)
    np.testing.assert_allclose(total, original.image.array, rtol=2e-6, atol=2e-3)


def test_blends_of_the_search_for_psf_stars_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plane NOT_DEBLENDED shows blends of the published sources only."""
    image, truth = make_scene(n=25)
    task = make_task()
    search = task.psf_deblend.run

    def mark(exposure: VisitImage, sources: SourceCatalog, **kwargs: Any) -> SourceCatalog:
        exposure.mask = ensure_planes(exposure.mask, ["NOT_DEBLENDED"])
        exposure.mask.set("NOT_DEBLENDED", ...)
        return search(exposure, sources, **kwargs)

    monkeypatch.setattr(task.psf_deblend, "run", mark)
    result = task.run(exposures=[image], reference_catalog=truth)
    assert not mask_of(result.mask, ["NOT_DEBLENDED"]).all()
