"""Photometric calibrations: values, zero points, over pixels."""

from __future__ import annotations

import math

import astropy.units as u
import numpy as np
import pytest
from lsst.images import Box
from lsst.images.fields import ChebyshevField

from secondlight.catalog.photo_calib import AB_FLUX_NJY, PhotoCalib

BOX = Box.factory[4:24, 5:35]
FIELD = ChebyshevField(BOX, np.array([[12.3, 1.0], [0.5, 0.1]]))


def test_zero_point() -> None:
    calib = PhotoCalib.from_zero_point(27.0, 0.02)
    assert calib.zero_point == pytest.approx(27.0)
    assert calib.zero_point_error == pytest.approx(0.02)
    # One nJy is 31.4 mag; a count of one nJy has that zero point, and one per cent are 0.0109 mag.
    assert PhotoCalib(1.0).zero_point == pytest.approx(31.4, abs=1e-4)
    assert PhotoCalib(1.0, 0.01).zero_point_error == pytest.approx(0.010857, abs=1e-6)
    assert pytest.approx(3.630780547701e12) == AB_FLUX_NJY


def test_values() -> None:
    x, y = np.array([5.0, 34.0, 12.5]), np.array([4.0, 4.0, 20.0])
    np.testing.assert_array_equal(PhotoCalib(2.0).evaluate(x=x, y=y), [2.0, 2.0, 2.0])
    np.testing.assert_array_equal(PhotoCalib(12.3, field=FIELD).evaluate(x=x, y=y), FIELD(x=x, y=y))
    assert PhotoCalib(2.0).evaluate(x=np.array([1.0, 2.0]), y=np.array(3.0)).shape == (2,)


def test_pixels_are_in_double_precision() -> None:
    assert PhotoCalib(math.pi).render(BOX) == math.pi
    pixels = PhotoCalib(12.3, field=FIELD).render(BOX)
    assert isinstance(pixels, np.ndarray)
    assert pixels.dtype == np.float64
    x, y = np.meshgrid(BOX.x.arange.astype(float), BOX.y.arange.astype(float))
    np.testing.assert_allclose(pixels, FIELD(x=x, y=y), rtol=1e-15)


def test_field_of_an_image() -> None:
    field = PhotoCalib(2.5).to_field(BOX, u.electron)
    assert field.unit == u.nJy / u.electron
    assert field.is_constant
    assert field(x=7.0, y=7.0) == 2.5
    varying = PhotoCalib(12.3, field=FIELD).to_field(BOX, u.adu)
    assert varying.unit == u.nJy / u.adu
    assert varying(x=7.0, y=8.0) == FIELD(x=7.0, y=8.0)
    assert PhotoCalib(12.3, field=varying).to_field(BOX, u.adu) is varying
    with pytest.raises(ValueError, match="calibration is in nJy / adu; expected nJy / electron"):
        PhotoCalib(12.3, field=varying).to_field(BOX, u.electron)


@pytest.mark.parametrize("count", [u.adu, u.electron])
def test_field_in_another_unit_of_flux(count: u.UnitBase) -> None:
    field = FIELD * u.Quantity(1e-9, u.Jy / count)
    calib = PhotoCalib(12.3, field=field)
    x, y = np.array([5.0, 34.0]), np.array([4.0, 20.0])
    np.testing.assert_allclose(calib.evaluate(x=x, y=y), FIELD(x=x, y=y), rtol=1e-14)
    assert calib.to_field(BOX, count).unit == u.nJy / count
    assert calib == PhotoCalib(12.3, field=calib.field)
