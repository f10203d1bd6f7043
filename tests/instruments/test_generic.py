"""Generic cameras: what the description says is what the image has."""

from __future__ import annotations

from pathlib import Path

import astropy.io.fits
import astropy.units as u
import numpy as np
import pytest
import yaml

from secondlight.catalog.mask_planes import mask_of
from secondlight.instruments.camera_description import CameraDescription
from secondlight.instruments.choice import choose_instrument, parse_settings
from secondlight.instruments.files import InputFileError
from tests.instruments.files import SHAPE, camera, write_image


def read(path, **settings):
    instrument = camera(**settings)
    (file,) = instrument.find([path])
    return instrument.read(file, [path]).image


def test_weight_map(tmp_path):
    image = read(write_image(tmp_path))
    np.testing.assert_allclose(image.variance.array, 16.0)
    assert mask_of(image.mask, ["NO_DATA"]).sum() == 3
    assert image.band == "r"
    assert image.psf.sigma == pytest.approx(1.2 / 0.3 / 2.3548, rel=1e-3)
    njy = float(image.photometric_scaling(x=np.array([5.0]), y=np.array([5.0]))[0]) * u.nJy
    assert njy.to_value(u.ABmag) == pytest.approx(27.5)
    sky = image.sky_projection.pixel_to_sky(x=np.array([29.5]), y=np.array([24.5]))
    assert sky.ra.deg[0] == pytest.approx(30.006, abs=1e-9)


def test_noise_from_gain_and_read_noise(tmp_path):
    path = write_image(tmp_path)
    image = read(path, noise=None, gain=2.0, read_noise=6.0)
    np.testing.assert_allclose(image.variance.array, image.image.array / 2 + 9.0, rtol=1e-6)
    with pytest.raises(InputFileError, match=r"v7_d1_sci.fits: neither a noise image nor a positive gain"):
        read(path, noise=None)


def test_mask_image_saturation_and_nan(tmp_path):
    path = write_image(tmp_path)
    with astropy.io.fits.open(path, mode="update") as hdus:
        hdus[0].data[3, 4] = np.nan
        hdus[0].data[5, 6] = 70000.0
    bits = np.zeros(SHAPE, dtype=np.int16)
    bits[10, 11], bits[12, 13] = 1, 6
    astropy.io.fits.PrimaryHDU(bits).writeto(tmp_path / "v7_d1_msk.fits")
    settings = {"mask": {"file": "_sci->_msk"}, "saturation": 60000}
    image = read(path, mask_bits={"BAD": 1, "CR": 4, "GHOST": 2}, **settings)
    assert mask_of(image.mask, ["BAD"]).nonzero() == (10, 11)
    assert mask_of(image.mask, ["CR"]).nonzero() == (12, 13)
    assert mask_of(image.mask, ["GHOST"]).nonzero() == (12, 13)
    assert mask_of(image.mask, ["SAT"]).nonzero() == (5, 6)
    assert mask_of(image.mask, ["NO_DATA"])[3, 4]
    assert np.isfinite(image.image.array).all()
    assert mask_of(read(path, **settings).mask, ["BAD"]).sum() == 2


def test_extensions_in_one_file(tmp_path):
    path = write_image(tmp_path)
    pixels, header = astropy.io.fits.getdata(path, header=True)
    science = astropy.io.fits.ImageHDU(pixels, header, name="SCI")
    sigma = astropy.io.fits.ImageHDU(np.full(SHAPE, 3.0, np.float32), name="ERR")
    both = tmp_path / "both_sci.fits"
    astropy.io.fits.HDUList([astropy.io.fits.PrimaryHDU(), science, sigma]).writeto(both)
    image = read(both, hdu="SCI", noise={"hdu": "ERR"}, noise_kind="sigma")
    np.testing.assert_allclose(image.variance.array, 9.0)
    with pytest.raises(InputFileError, match=r"both_sci.fits: has no extension 'NONE'"):
        read(both, hdu="NONE")
    with pytest.raises(InputFileError, match="not a two-dimensional image"):
        read(both, hdu=0)


def test_zero_point_per_second_and_default_visit(tmp_path):
    path = write_image(tmp_path)
    image = read(path, zero_point=25.0, zero_point_per_second=True, visit=None)
    assert image.metadata["ZERO_POINT"] == pytest.approx(25.0 + 2.5 * np.log10(20.0))
    assert image.obs_info.visit_id == 762584437


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"visit": "NOKEY"}, "header has no NOKEY"),
        ({"zero_point": "FILTER"}, "FILTER is 'Sloan r', not a number"),
        ({"visit": -4}, "visit -4 and detector 1 do not fit"),
        ({"noise": {"file": "_raw->_wht"}}, "does not fit its name"),
    ],
)
def test_errors_name_the_file(tmp_path, settings, message):
    with pytest.raises(InputFileError, match=rf"v7_d1_sci.fits.*{message}"):
        read(write_image(tmp_path), **settings)


def test_choice_by_name(tmp_path):
    description = tmp_path / "camera.yaml"
    description.write_text("name: MyCam\ngain: 2.0\nfiles: '*.fits'\n")
    instrument = choose_instrument("generic", camera=description, settings=["gain=3.5"])
    assert instrument.description.gain == 3.5
    assert choose_instrument("sdss").name == "SDSS"
    assert choose_instrument("secondlight.instruments.decam.DecamCp").name == "DECam"
    for wrong in ("nothing", "no.such.Class", "secondlight.instruments.ingest.IngestReport"):
        with pytest.raises(ValueError, match=wrong):
            choose_instrument(wrong)
    with pytest.raises(ValueError, match="belongs to the instrument 'generic'"):
        choose_instrument("sdss", camera=description)
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_settings(["gain"])
    with pytest.raises(ValueError, match="gian"):
        choose_instrument("generic", settings=["name=MyCam", "gian=3"])


def test_the_documented_description_is_valid():
    text = (Path(__file__).parents[2] / "docs" / "instruments.md").read_text()
    example = yaml.safe_load(text.partition("```yaml")[2].partition("```")[0])
    assert set(example) == set(CameraDescription.model_fields)
    assert CameraDescription.model_validate(example).noise.file == "_sci->_wht"
