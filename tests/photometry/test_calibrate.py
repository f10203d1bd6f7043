from __future__ import annotations

import math

import astropy.units as u
import numpy as np
import pytest
from lsst.images.fields import ChebyshevField

from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry.calibrate import calibrate_catalog, calibrate_image
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
    image = make_visit_image(x0=5, y0=4, x=[80], y=[90], flux=[1e4])
    field = ChebyshevField(image.bbox, np.array([[12.3, 1.0], [0.5, 0.0]])) if varying else None
    calib = PhotoCalib(12.3, field=field)
    counts = image.image.array.copy()
    result = calibrate_image(image, calib)
    assert result.unit == u.nJy
    assert result.variance.unit == u.nJy**2
    scale = field.render(image.bbox).array if field is not None else 12.3
    np.testing.assert_allclose(result.image.array, counts * scale, rtol=1e-6)
    np.testing.assert_allclose(result.variance.array, image.variance.array * scale**2, rtol=1e-6)
    np.testing.assert_array_equal(image.image.array, counts)
    assert result.bbox == image.bbox
    assert result.psf is image.psf
    np.testing.assert_allclose(result.convert_unit(u.adu).image.array, counts, rtol=1e-5)
    with pytest.raises(ValueError, match="calibrated already"):
        calibrate_image(result, calib)
