from __future__ import annotations

import math

import astropy.units as u
import numpy as np
import pytest
from lsst.images.fields import ChebyshevField, SplineField

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry.calibrate import (
    calibrate_catalog,
    calibrate_image,
    photo_calib_of,
    scaling_to_photo_calib,
    total_flux_error,
)
from tests.scenes import make_visit_image


def make_catalog() -> SourceCatalog:
    schema = minimal_source_schema()
    for axis in "xy":
        schema.add(f"pos_{axis}", np.float64, "position", unit="pix")
    schema.add("psf_instFlux", np.float64, "PSF flux", unit="ct")
    schema.add("psf_instFluxErr", np.float64, "error of PSF flux", unit="ct")
    schema.add("lonely_instFlux", np.float64, "flux without error", unit="ct")
    schema.set_alias("slot_Centroid", "pos")
    schema.set_alias("slot_PsfFlux", "psf")
    catalog = SourceCatalog(schema, 3)
    catalog["pos_x"] = [10.0, 50.0, 90.0]
    catalog["pos_y"] = [20.0, 20.0, 20.0]
    catalog["psf_instFlux"] = [100.0, 200.0, -5.0]
    catalog["psf_instFluxErr"] = [1.0, 2.0, 3.0]
    catalog["lonely_instFlux"] = 7.0
    return catalog


def test_catalog_constant() -> None:
    catalog = make_catalog()
    before = catalog.schema.names
    result = calibrate_catalog(catalog, PhotoCalib.from_zero_point(27.0))
    assert catalog.schema.names == before
    new = ["psf_flux", "psf_fluxErr", "psf_mag", "psf_magErr", "lonely_flux", "lonely_mag"]
    assert result.schema.names == before + new
    # One nJy is 31.4 mag, so a zero point of 27 means 10**(0.4 * 4.4) nJy per count.
    assert result["slot_PsfFlux_flux"][0] == pytest.approx(100 * 10 ** (0.4 * 4.4), rel=1e-6)
    assert result["psf_mag"][0] == pytest.approx(22.0)
    assert result["psf_magErr"][1] == pytest.approx(2.5 / math.log(10) * 0.01)
    assert math.isnan(result["psf_mag"][2])
    assert math.isnan(result["psf_magErr"][2])
    assert result["psf_flux"][2] < 0
    assert result.schema["psf_flux"].unit == "nJy"
    assert result.schema["psf_flux"].doc == "PSF flux"


def test_catalog_twice() -> None:
    calib = PhotoCalib(2.0)
    with pytest.raises(ValueError, match="calibrated already: it has psf_flux, lonely_flux"):
        calibrate_catalog(calibrate_catalog(make_catalog(), calib), calib)


@pytest.mark.parametrize("mean", [0.0, -2.0, math.nan, math.inf])
def test_calibration_that_is_no_positive_number(mean: float) -> None:
    with pytest.raises(ValueError, match="expected a positive number of nJy per count"):
        calibrate_catalog(make_catalog(), PhotoCalib(mean))
    with pytest.raises(ValueError, match="expected a positive number of nJy per count"):
        calibrate_image(make_visit_image(width=30, height=30), PhotoCalib(mean))


def test_catalog_keeps_rows_footprints_and_aliases() -> None:
    catalog = make_catalog()
    catalog["id"], catalog["parent"] = [7, 8, 9], [0, 7, 7]
    catalog.footprints = Footprints.empty(3)
    result = calibrate_catalog(catalog, PhotoCalib(2.0))
    for name in catalog.schema.names:
        np.testing.assert_array_equal(result[name], catalog[name])
        assert result.schema[name] == catalog.schema[name]
    assert result.footprints == catalog.footprints
    assert result.schema.aliases == catalog.schema.aliases
    assert "slot_PsfFlux_mag" in result.to_astropy().colnames
    result["psf_instFlux"][0] = 1.0
    assert catalog["psf_instFlux"][0] == 100.0


def test_only_real_instrumental_fluxes_are_calibrated() -> None:
    catalog = make_catalog()
    catalog.schema.add("psf_instFlux_like", np.float64, "not a flux")
    catalog.schema.add("other_instFluxErr", np.float64, "an error without a flux")
    result = calibrate_catalog(catalog, PhotoCalib(2.0))
    new = set(result.schema.names) - set(catalog.schema.names)
    assert new == {"psf_flux", "psf_fluxErr", "psf_mag", "psf_magErr", "lonely_flux", "lonely_mag"}


def test_catalog_varying_without_position() -> None:
    image = make_visit_image()
    nodes = np.array([[12.0, 12.5], [12.1, 12.9]])
    for field in (
        ChebyshevField(image.bbox, np.array([[12.3, 1.0]])),
        SplineField(image.bbox, nodes, y=np.array([0.0, 179.0]), x=np.array([0.0, 199.0])),
    ):
        catalog = make_catalog()
        catalog["pos_x"][1] = np.nan
        result = calibrate_catalog(catalog, PhotoCalib(12.3, field=field))
        np.testing.assert_array_equal(np.isfinite(result["psf_flux"]), [True, False, True])
        np.testing.assert_array_equal(np.isfinite(result["psf_fluxErr"]), [True, False, True])
    catalog.schema.aliases.clear()
    with pytest.raises(ValueError, match="varies over the image, but the catalog has no slot_Centroid"):
        calibrate_catalog(catalog, PhotoCalib(12.3, field=field))
    assert np.isfinite(calibrate_catalog(catalog, PhotoCalib(12.3))["psf_flux"]).all()


def test_calibration_is_in_the_metadata() -> None:
    calib = PhotoCalib.from_zero_point(27.0, 0.01)
    image = make_visit_image()
    image.metadata["GAIN"] = 1.5
    metadata = calibrate_image(image, calib).metadata
    assert metadata["GAIN"] == 1.5
    assert "zero_point" not in image.metadata
    assert metadata["photo_calib_mean"] == calib.mean
    assert metadata["photo_calib_error"] == calib.error
    assert u.Unit(metadata["photo_calib_unit"]) == u.nJy / u.adu
    assert metadata["photo_calib_varies"] is False
    assert metadata["zero_point"] == pytest.approx(27.0)
    assert metadata["zero_point_error"] == pytest.approx(0.01)
    field = ChebyshevField(image.bbox, np.array([[calib.mean, 1.0]]))
    catalog = make_catalog()
    result = calibrate_catalog(catalog, PhotoCalib(calib.mean, calib.error, field))
    assert not catalog.metadata
    assert result.metadata["photo_calib_varies"] is True
    assert u.Unit(result.metadata["photo_calib_unit"]) == u.nJy / u.ct
    assert result.to_astropy().meta["zero_point_error"] == pytest.approx(0.01)


@pytest.mark.parametrize("varying", [False, True])
def test_calibration_of_a_published_image(varying: bool) -> None:
    image = make_visit_image()
    with pytest.raises(ValueError, match="visit 100 has no photometric scaling"):
        photo_calib_of(image)
    field = ChebyshevField(image.bbox, np.array([[12.3, 1.0], [0.5, 0.1]])) if varying else None
    calib = PhotoCalib(12.0 if varying else 12.3, 0.1, field)
    published = calibrate_image(image, calib)
    found = photo_calib_of(published)
    assert (found.mean, found.error) == (calib.mean, calib.error)
    x, y = np.array([3.0, 90.0]), np.array([100.0, 7.0])
    np.testing.assert_array_equal(found.evaluate(x=x, y=y), calib.evaluate(x=x, y=y))
    assert photo_calib_of(published.convert_unit(u.Jy)).mean == calib.mean
    assert photo_calib_of(published.convert_unit(u.adu)).error == calib.error


def test_scaling_that_was_replaced() -> None:
    """What the image carries counts, not what its metadata tell of an earlier one."""
    image = make_visit_image()
    image.metadata |= calibrate_image(image, PhotoCalib(12.3, 0.1)).metadata
    image.photometric_scaling = PhotoCalib(24.6).to_field(image.bbox, image.unit)
    assert photo_calib_of(image) == PhotoCalib(24.6)


@pytest.mark.parametrize("coefficients", [[[12.3e-9]], [[12.3e-9, 1e-9]]])
def test_scaling_in_another_unit_of_flux(coefficients: list[list[float]]) -> None:
    """What an image in Jy per count is published with leads back to its counts."""
    image = make_visit_image()
    scaling = ChebyshevField(image.bbox, np.array(coefficients), unit=u.Jy / u.adu)
    calib = scaling_to_photo_calib(scaling, image.unit)
    published = calibrate_image(image, calib)
    assert calib.mean == pytest.approx(12.3, rel=1e-3)
    pixels = calib.to_field(image.bbox, image.unit).render().array
    assert np.mean(pixels) == pytest.approx(calib.mean, rel=1e-3)
    back = published.convert_unit(u.adu)
    np.testing.assert_allclose(back.image.array, image.image.array, rtol=1e-6)


def test_total_error_of_simulated_fluxes() -> None:
    """Scatter of fluxes whose noise, calibration and aperture correction are all drawn anew."""
    rng = np.random.default_rng(8)
    counts, noise, calib, calib_err, corr, corr_err = 1e4, 150.0, 12.3, 0.15, 1.08, 0.012
    draws = rng.normal(size=(3, 200_000))
    flux = (counts + noise * draws[0]) * (calib + calib_err * draws[1]) * (corr + corr_err * draws[2])
    truth = counts * calib * corr
    error = total_flux_error(
        np.array([truth, np.nan, 0.0]),
        np.array([noise * calib * corr, 1.0, 2.0]),
        calib=calib,
        calib_err=calib_err,
        ap_corr=corr,
        ap_corr_err=corr_err,
    )
    assert error[0] == pytest.approx(flux.std(), rel=0.01)
    assert np.isnan(error[1])
    assert error[2] == 2.0
    np.testing.assert_array_equal(total_flux_error(np.array([5.0]), np.array([3.0])), [3.0])
    row_by_row = total_flux_error(
        np.full(2, 10.0), np.zeros(2), calib=np.array([1.0, 2.0]), calib_err=np.array([0.1, 0.1])
    )
    np.testing.assert_allclose(row_by_row, [1.0, 0.5])


def test_catalog_varying() -> None:
    image = make_visit_image()
    field = ChebyshevField(image.bbox, np.array([[12.3, 1.0]]))
    catalog = make_catalog()
    result = calibrate_catalog(catalog, PhotoCalib(12.3, field=field))
    expected = catalog["psf_instFlux"] * field(x=catalog["pos_x"], y=catalog["pos_y"])
    np.testing.assert_allclose(result["psf_flux"], expected)
    assert len(np.unique(result["psf_flux"] / catalog["psf_instFlux"])) == 3


@pytest.mark.parametrize("varying", [False, True])
def test_image(varying: bool) -> None:
    image = make_visit_image(x0=5, y0=4, height=300, x=[80], y=[90], flux=[1e4])
    field = ChebyshevField(image.bbox, np.array([[12.3, 1.0], [0.5, 0.0]])) if varying else None
    calib = PhotoCalib(12.3, field=field)
    counts = image.image.array.copy()
    result = calibrate_image(image, calib)
    assert result.unit == u.nJy
    assert result.variance.unit == u.nJy**2
    scale = field.render(image.bbox).array if field is not None else np.float64(12.3)
    # To the last bit: computed in double precision, rounded once.
    np.testing.assert_array_equal(result.image.array, (counts * scale).astype(np.float32))
    expected = (image.variance.array * scale**2).astype(np.float32)
    np.testing.assert_array_equal(result.variance.array, expected)
    np.testing.assert_array_equal(image.image.array, counts)
    assert result.bbox == image.bbox
    assert result.psf is image.psf
    np.testing.assert_allclose(result.convert_unit(u.adu).image.array, counts, rtol=1e-5)
    with pytest.raises(ValueError, match="calibrated already"):
        calibrate_image(result, calib)
