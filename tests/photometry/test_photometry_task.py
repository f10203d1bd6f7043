"""The zero point of an image from reference stars, and from what came with the image."""

from __future__ import annotations

import astropy.table
import numpy as np
import pytest

from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components
from secondlight.photometry.photometry_task import NoPhotometricCalibrationError, PhotometryTask

from ..scenes import make_visit_image

ZERO_POINT = 27.3
N = 40


def make_task_and_stars() -> tuple[PhotometryTask, SourceCatalog, astropy.table.Table]:
    """Forty stars with 1 % fluxes, their reference magnitudes in shuffled order, and five strangers."""
    rng = np.random.default_rng(3)
    schema = minimal_source_schema()
    schema.add("deblend_nChild", np.int32, "")
    schema.add("slot_CalibFlux_instFlux", np.float64, "")
    schema.add("slot_CalibFlux_instFluxErr", np.float64, "")
    schema.add("base_ClassificationSizeExtendedness_value", np.float64, "")
    for name in ("edge", "nodata", "interpolatedCenter", "saturated", "bad"):
        schema.add_flag(f"base_PixelFlags_flag_{name}", "")
    schema.add_flag("slot_CalibFlux_flag", "")
    schema.add_flag("slot_Centroid_flag", "")
    task = PhotometryTask(schema=schema, config=PhotometryTask.ConfigClass())
    stars = SourceCatalog(schema, N)
    ra, dec = 150 + rng.uniform(-0.05, 0.05, N), 2 + rng.uniform(-0.05, 0.05, N)
    magnitude = rng.uniform(17, 20, N)
    flux = 10 ** (-0.4 * (magnitude - ZERO_POINT)) * rng.normal(1, 0.01, N)
    stars["coord_ra"], stars["coord_dec"] = np.radians(ra), np.radians(dec)
    stars["slot_CalibFlux_instFlux"], stars["slot_CalibFlux_instFluxErr"] = flux, 0.01 * flux
    stars["base_ClassificationSizeExtendedness_value"] = 0.01
    order = rng.permutation(N)
    reference = astropy.table.Table(
        {
            "ra": np.concatenate([ra[order], np.full(5, 151.0)]),
            "dec": np.concatenate([dec[order], np.linspace(1, 2, 5)]),
            "mag_r": np.concatenate([magnitude[order], np.full(5, 15.0)]),
            "mag_err_r": np.full(N + 5, 0.005),
            "is_star": np.ones(N + 5, bool),
        }
    )
    return task, stars, reference


def test_zero_point_from_reference_stars() -> None:
    task, stars, reference = make_task_and_stars()
    stars["slot_CalibFlux_instFlux"][3] *= 3.0  # a variable star must not count
    result = task.run(make_visit_image(), stars, reference)
    assert result.photo_calib.zero_point == pytest.approx(ZERO_POINT, abs=0.006)
    assert result.zero_point.scatter == pytest.approx(0.0108, rel=0.35)
    assert not stars["calib_photometry_used"][3]
    assert stars["calib_photometry_used"].sum() > 30
    assert task.metadata["zero_point_stars"] == stars["calib_photometry_used"].sum()


def test_galaxies_and_uncertain_references_are_left_out() -> None:
    task, stars, reference = make_task_and_stars()
    reference["is_star"][:20] = False
    reference["mag_err_r"][20:30] = 0.5
    result = task.run(make_visit_image(), stars, reference)
    assert result.zero_point.n_used <= 10


def test_too_few_stars_fall_back_to_the_image() -> None:
    task, stars, reference = make_task_and_stars()
    image = make_visit_image()
    image = replace_components(
        image, photometric_scaling=PhotoCalib.from_zero_point(26.0).to_field(image.bbox, image.unit)
    )
    reference["ra"] += 1.0
    result = task.run(image, stars, reference)
    assert result.zero_point is None
    assert result.photo_calib.zero_point == pytest.approx(26.0, abs=1e-9)


def test_no_way_to_a_calibration_is_said_clearly() -> None:
    task, stars, _ = make_task_and_stars()
    with pytest.raises(NoPhotometricCalibrationError, match="no reference catalog is registered"):
        task.run(make_visit_image(), stars, None)


def test_masked_reference_values_are_not_used() -> None:
    """A missing magnitude is not the number that happens to lie under its mask."""
    task, stars, reference = make_task_and_stars()
    reference["mag_r"] = astropy.table.MaskedColumn(reference["mag_r"], mask=np.arange(N + 5) < 15)
    reference["mag_r"].data.data[:15] = 12.0
    reference["mag_err_r"] = astropy.table.MaskedColumn(reference["mag_err_r"], mask=np.arange(N + 5) == 20)
    result = task.run(make_visit_image(), stars, reference)
    assert result.photo_calib.zero_point == pytest.approx(ZERO_POINT, abs=0.006)
    assert result.zero_point.n_used <= N - 16
    reference["ra"] = astropy.table.MaskedColumn(reference["ra"], mask=True)
    with pytest.raises(NoPhotometricCalibrationError, match="0 of 0 matched stars"):
        task.run(make_visit_image(), stars, reference)


def test_stars_without_coordinates_match_nothing() -> None:
    task, stars, reference = make_task_and_stars()
    stars["coord_ra"][:10] = np.nan
    task.run(make_visit_image(), stars, reference)
    assert not stars["calib_photometry_used"][:10].any()


@pytest.mark.parametrize("name", ["ra", "dec"])
def test_reference_catalog_without_positions_is_refused(name: str) -> None:
    task, stars, reference = make_task_and_stars()
    reference.remove_column(name)
    with pytest.raises(ValueError, match=f"reference catalog has no column '{name}'"):
        task.run(make_visit_image(), stars, reference)


def test_failure_names_visit_and_detector() -> None:
    task, stars, reference = make_task_and_stars()
    with pytest.raises(NoPhotometricCalibrationError, match="visit 100, detector 4"):
        task.run(make_visit_image(), stars[:2], reference)


def test_flags_of_an_earlier_fit_are_cleared() -> None:
    task, stars, reference = make_task_and_stars()
    stars["calib_photometry_used"] = True
    reference["is_star"][:20] = False
    result = task.run(make_visit_image(), stars, reference)
    assert stars["calib_photometry_used"].sum() == result.zero_point.n_used
