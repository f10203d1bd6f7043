"""SDSS frames against independent knowledge: reference stars, pixel noise, published widths."""

from __future__ import annotations

import dataclasses

import astropy.units as u
import galsim
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.stats import sigma_clip
from astropy.table import Table
from lsst.images import VisitImage
from scipy.optimize import minimize

from secondlight.catalog.ids import DetectorVisitIdGeneratorConfig
from secondlight.catalog.mask_planes import mask_of
from secondlight.instruments.sdss import SdssImager

VISITS = {
    419203001: "g", 419203002: "r", 419203003: "i", 637703991: "g", 637703992: "r", 637703993: "i",
}  # fmt: skip


def get_image(repository, visit: int) -> VisitImage:
    return repository.butler.get("postISRCCD", instrument="SDSS", exposure=visit, detector=4)


def measure_stars(image: VisitImage, stars: Table) -> Table:
    """Return weighted centroids, 8-pixel aperture magnitudes and residuals of bright unsaturated stars."""
    stars = stars[(stars["starnotgal"] == 1) & (stars[image.band] > 16) & (stars[image.band] < 19)]
    predicted = image.sky_projection.sky_to_pixel(SkyCoord(stars["ra"], stars["dec"], unit="deg"))
    saturated = mask_of(image.mask, ["SAT"])
    dy, dx = np.mgrid[-30:31, -30:31]
    rows = []
    for x, y, magnitude in zip(predicted.x, predicted.y, stars[image.band], strict=True):
        i, j = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        if not (40 < i < 2000 and 40 < j < 1440) or saturated[j - 3 : j + 4, i - 3 : i + 4].any():
            continue
        stamp = image.image.array[j - 30 : j + 31, i - 30 : i + 31].astype(np.float64)
        radius = np.hypot(dx - (x - i), dy - (y - j))
        stamp -= np.median(stamp[(radius > 18) & (radius < 28)])
        cx, cy = x - i, y - j
        for _ in range(10):
            weighted = stamp * np.exp(-((dx - cx) ** 2 + (dy - cy) ** 2) / (2 * 1.5**2))
            cx += 2 * np.sum(weighted * (dx - cx)) / weighted.sum()
            cy += 2 * np.sum(weighted * (dy - cy)) / weighted.sum()
        flux = stamp[radius < 8].sum()
        rows.append((i + cx - x, j + cy - y, magnitude + 2.5 * np.log10(flux), i + cx, j + cy, flux))
    return Table(rows=rows, names=["dx", "dy", "zero_point", "x", "y", "flux"])


@pytest.fixture(scope="module")
def stars(data_dir) -> Table:
    return Table.read(data_dir / "sdss_stripe82" / "refcat" / "stars.fits")


@pytest.mark.realdata
@pytest.mark.parametrize("visit", VISITS)
def test_positions_and_zero_point_agree_with_reference_stars(sdss_repository, stars, visit):
    image = get_image(sdss_repository, visit)
    measured = measure_stars(image, stars)
    assert len(measured) >= 15
    offset = np.hypot(np.median(measured["dx"]), np.median(measured["dy"])) * 0.396
    assert offset < 0.12
    assert np.percentile(np.hypot(measured["dx"], measured["dy"]), 90) * 0.396 < 0.3
    assert np.median(measured["zero_point"]) == pytest.approx(image.metadata["ZERO_POINT"], abs=0.03)
    scaling = image.photometric_scaling
    assert scaling.unit == u.nJy / u.adu
    njy = float(scaling(x=np.array([100.0]), y=np.array([200.0]))[0])
    assert (njy * u.nJy).to_value(u.ABmag) == pytest.approx(image.metadata["ZERO_POINT"], abs=1e-6)


@pytest.mark.realdata
@pytest.mark.parametrize("visit", VISITS)
def test_variance_is_the_pixel_noise(sdss_repository, visit):
    image = get_image(sdss_repository, visit)
    pixels, variance = image.image.array.astype(np.float64), image.variance.array
    clean = ~mask_of(image.mask, image.mask.schema.names)
    clean &= pixels < np.median(pixels) + 5 * np.sqrt(np.median(variance))
    clean[[0, -1]] = False
    pair = clean[:, :-1] & clean[:, 1:]
    difference = sigma_clip((pixels[:, :-1] - pixels[:, 1:])[pair], sigma=4)
    expected = np.median(variance[clean])
    # Rounding to whole counts adds 1/12 to the variance of a pixel.
    ratio = (0.5 * difference.var() - 1 / 12) / expected
    assert ratio == pytest.approx(1.0, abs=0.1)


WIDTHS = {
    419203001: 1.20, 419203002: 1.03, 419203003: 0.99, 637703991: 1.18, 637703992: 0.97, 637703993: 0.95,
}  # fmt: skip


@pytest.mark.realdata
@pytest.mark.parametrize("visit", WIDTHS)
def test_survey_psf_has_the_width_of_the_stars(sdss_repository, visit):
    psf = sdss_repository.butler.get("survey_psf", instrument="SDSS", visit=visit, detector=4)
    kernel = psf.compute_kernel_image(x=1000.0, y=700.0)
    assert kernel.array.sum() == pytest.approx(1.0)
    assert kernel.bbox == psf.kernel_bbox
    sigma = galsim.hsm.FindAdaptiveMom(galsim.Image(kernel.array, scale=1.0)).moments_sigma
    assert sigma * 2.3548 * 0.396 == pytest.approx(WIDTHS[visit], abs=0.02)


@pytest.mark.realdata
def test_survey_psf_fits_the_stars_better_than_any_other_orientation(sdss_repository, stars):
    image = get_image(sdss_repository, 637703991)
    psf = sdss_repository.butler.get("survey_psf", instrument="SDSS", visit=637703991, detector=4)
    measured = measure_stars(image, stars)
    bright = measured[measured["flux"] > np.percentile(measured["flux"], 50)]

    def residual(psf) -> float:
        result = []
        for row in bright:
            i, j = int(np.floor(row["x"] + 0.5)), int(np.floor(row["y"] + 0.5))
            stamp = image.image.array[j - 8 : j + 9, i - 8 : i + 9] - np.median(image.image.array)

            # The centroid of a lopsided star is not the origin of its model, so the position is fitted.
            def misfit(position, stamp=stamp, i=i, j=j):
                model = psf.compute_stellar_image(x=position[0], y=position[1]).array
                center = psf.compute_stellar_bbox(x=position[0], y=position[1])
                r = psf.stamp_size // 2
                dy, dx = center.y.start + r - j, center.x.start + r - i
                if max(abs(dx), abs(dy)) > 2:
                    return np.inf
                cut = model[r - 8 - dy : r + 9 - dy, r - 8 - dx : r + 9 - dx]
                flux = np.sum(stamp * cut) / np.sum(cut**2)
                return np.sum((stamp - flux * cut) ** 2) / np.sum(stamp**2)

            result.append(minimize(misfit, (row["x"], row["y"]), method="Nelder-Mead", tol=1e-4).fun)
        return float(np.median(result))

    right = residual(psf)
    assert right < 4e-3
    assert right < residual(dataclasses.replace(psf, basis=psf.basis.transpose(0, 2, 1)))
    assert right < residual(dataclasses.replace(psf, basis=psf.basis[:, ::-1]))
    assert right < residual(dataclasses.replace(psf, basis=psf.basis[:, :, ::-1]))


@pytest.mark.realdata
def test_masks_and_metadata(sdss_repository):
    image = get_image(sdss_repository, 419203002)
    assert mask_of(image.mask, ["SAT"]).sum() == pytest.approx(560, abs=200)
    assert mask_of(image.mask, ["INTRP"])[:, 119].all()
    assert mask_of(image.mask, ["EDGE"])[:, :5].all()
    assert not mask_of(image.mask, ["EDGE"])[200:1200, 200:1800].any()
    saturated = mask_of(image.mask, ["SAT"])
    # SDSS interpolated over saturated pixels, but they still lie in the brightest stars.
    assert image.image.array[saturated].max() > 20000
    assert mask_of(image.mask, ["INTRP"])[saturated].mean() > 0.9
    assert image.metadata["PSF_SOURCE"].startswith("Gaussian guess")
    assert image.obs_info.exposure_time.to_value("s") == pytest.approx(53.907456)
    assert image.obs_info.datetime_begin.tai.isot.startswith("2003-10-19T04:43:34.68")
    assert image.detector.id == 4
    assert np.median(image.image.array) == pytest.approx(145, abs=2)


@pytest.mark.realdata
def test_ids_fit(sdss_repository):
    data_id = sdss_repository.butler.registry.expandDataId(instrument="SDSS", visit=419203002, detector=4)
    generator = DetectorVisitIdGeneratorConfig().apply(data_id)
    assert generator.counter_bits == 24
    assert (generator.row_ids(3) > 0).all()


def test_visit_ids_are_reversible():
    visit = SdssImager.visit_id(run=8162, field=1023, band="z")
    assert SdssImager.unpack_visit(visit) == (8162, 1023, "z")
    assert visit < SdssImager.visit_max
