"""DECam Community Pipeline cut-outs: geometry against Gaia, noise, PSF against GalSim's PSFEx reader."""

from __future__ import annotations

from pathlib import Path

import astropy.io.fits
import galsim.des
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from lsst.daf.butler import Butler
from lsst.images import Box

from secondlight.catalog.mask_planes import mask_of
from secondlight.instruments.decam import DecamCp, quality_planes
from secondlight.instruments.ingest import ingest
from secondlight.instruments.repository import make_repository


@pytest.fixture(scope="module")
def repository(data_dir, tmp_path_factory) -> Butler:
    root = tmp_path_factory.mktemp("decam") / "repo"
    butler = make_repository(root)
    for case, n in (("testcase8", 1), ("testcase6", 6)):
        assert len(ingest(butler, DecamCp(), [data_dir / "decam_cp" / case]).ingested) == n
    return Butler.from_config(str(root), collections="DECam/images")


@pytest.mark.realdata
def test_what_is_registered(repository):
    visits = {v.id: v for v in repository.query_dimension_records("visit", instrument="DECam")}
    assert set(visits) == {695765, 802955, 803291, 803277, 790643, 695773, 396388}
    bands = [r.band for r in repository.query_dimension_records("physical_filter", instrument="DECam")]
    assert sorted(bands) == ["g", "r", "z"]
    detectors = {
        d.id: d.full_name for d in repository.query_dimension_records("detector", instrument="DECam")
    }
    assert detectors == {20: "S9", 28: "S4", 37: "N6"}
    assert visits[695765].day_obs == 20171112
    assert visits[695765].exposure_time == 45.0


@pytest.mark.realdata
def test_gaia_stars_are_where_the_image_has_them(repository, data_dir):
    image = repository.get("postISRCCD", instrument="DECam", exposure=695765, detector=37)
    folder = data_dir / "decam_cp" / "testcase8" / "gaia"
    gaia = [Table.read(path) for path in sorted(folder.glob("chunk-*.fits"))]
    ra = np.concatenate([t["ra"] for t in gaia])
    dec = np.concatenate([t["dec"] for t in gaia])
    magnitude = np.concatenate([t["phot_g_mean_mag"] for t in gaia])
    xy = image.sky_projection.sky_to_pixel(SkyCoord(ra, dec, unit="deg"))
    height, width = image.bbox.shape
    inside = (xy.x > 12) & (xy.x < width - 12) & (xy.y > 12) & (xy.y < height - 12)
    inside &= (magnitude > 15) & (magnitude < 20.5)
    pixels = image.image.array - np.median(image.image.array)
    offsets = []
    for x, y in zip(xy.x[inside], xy.y[inside], strict=True):
        i, j = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        dy, dx = np.mgrid[-10:11, -10:11]
        cx, cy = x - i, y - j
        for _ in range(15):
            weighted = pixels[j - 10 : j + 11, i - 10 : i + 11] * np.exp(
                -((dx - cx) ** 2 + (dy - cy) ** 2) / (2 * 2.0**2)
            )
            cx += 2 * (weighted * (dx - cx)).sum() / weighted.sum()
            cy += 2 * (weighted * (dy - cy)).sum() / weighted.sum()
        offsets.append(np.hypot(i + cx - x, j + cy - y))
    assert len(offsets) >= 4
    assert np.median(offsets) * 0.262 < 0.15


@pytest.mark.realdata
def test_noise_and_zero_point(repository):
    image = repository.get("postISRCCD", instrument="DECam", exposure=695765, detector=37)
    pixels = image.image.array
    difference = (pixels[:, 1:] - pixels[:, :-1]) / np.sqrt(2)
    noise = 1.4826 * np.median(np.abs(difference - np.median(difference)))
    assert noise == pytest.approx(np.sqrt(np.median(image.variance.array)), rel=0.05)
    assert image.metadata["ZERO_POINT"] == pytest.approx(25.168465 + 2.5 * np.log10(45.0), abs=1e-5)
    assert image.photometric_scaling is not None


@pytest.mark.realdata
def test_saturation_and_finite_variance(repository):
    image = repository.get("postISRCCD", instrument="DECam", exposure=790643, detector=28)
    assert mask_of(image.mask, ["SAT"]).sum() == 999 + 761
    assert mask_of(image.mask, ["BAD"]).sum() >= 1
    assert np.isfinite(image.variance.array).all()
    assert (image.variance.array > 0).all()


@pytest.mark.realdata
def test_psfex_model_agrees_with_galsim(repository, data_dir, tmp_path):
    psf = repository.get("survey_psf", instrument="DECam", visit=695765, detector=37)
    source = next((data_dir / "decam_cp" / "testcase8").rglob("*-psfex.fits"))
    theirs = galsim.des.DES_PSFEx(str(as_psfex_file(source, tmp_path)))
    for x, y in ((3.0, 5.0), (140.25, 200.6), (279.0, 374.5)):
        ours = psf.compute_stellar_image(x=x, y=y)
        box = ours.bbox
        stamp = galsim.Image(box.x.size, box.y.size, xmin=box.x.start + 1, ymin=box.y.start + 1, scale=1.0)
        position = galsim.PositionD(x + 1, y + 1)
        theirs.getPSF(position).drawImage(stamp, method="no_pixel", center=position)
        expected = stamp.array / stamp.array.sum()
        assert np.abs(ours.array - expected).max() < 1e-5 * expected.max()


def as_psfex_file(table: Path, folder: Path) -> Path:
    """Write a row of a Legacy Surveys table the way PSFEx writes a model."""
    row = Table.read(table)[0]
    hdu = astropy.io.fits.BinTableHDU.from_columns(
        [
            astropy.io.fits.Column(
                "PSF_MASK", "23814E", dim="(63,63,6)", array=np.asarray(row["psf_mask"])[None]
            )
        ],
        name="PSF_DATA",
    )
    for key in (
        "polnaxis",
        "polngrp",
        "psfnaxis",
        "poldeg1",
        "polgrp1",
        "polgrp2",
        "psfaxis1",
        "psfaxis2",
        "psfaxis3",
    ):
        hdu.header[key.upper()] = int(row[key])
    for key in ("polzero1", "polzero2", "polscal1", "polscal2", "psf_samp", "psf_fwhm"):
        hdu.header[key.upper()] = float(row[key])
    for key in ("polname1", "polname2"):
        hdu.header[key.upper()] = str(row[key]).strip()
    path = folder / "model.psf"
    hdu.writeto(path)
    return path


def test_quality_codes_and_bits():
    bbox = Box.factory[0:1, 0:6]
    codes = quality_planes(np.array([[0, 1, 3, 4, 5, 7]]), "V4.8.2a", bbox)
    assert mask_of(codes, ["SAT"]).tolist() == [[False, False, True, True, False, False]]
    assert mask_of(codes, ["BAD"]).tolist() == [[False, True, False, False, False, False]]
    assert mask_of(codes, ["CR"]).sum() == 1
    bits = quality_planes(np.array([[0, 1, 3, 64, 16, 128]]), "V3.2.0", bbox)
    assert mask_of(bits, ["SAT"]).tolist() == [[False, False, True, True, False, False]]
    assert mask_of(bits, ["BAD"]).tolist() == [[False, True, True, False, False, False]]
