"""Small deterministic images for tests."""

from __future__ import annotations

from collections.abc import Sequence

import astropy.time
import astropy.units as u
import astropy.wcs
import numpy as np
from astro_metadata_translator import ObservationInfo, makeObservationInfo
from astropy.coordinates import EarthLocation
from lsst.images import Box, DetectorFrame, Image, Mask, SkyProjection, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction, PointSpreadFunction

from secondlight.catalog.mask_planes import make_mask_schema
from secondlight.instruments.camera import make_detector

PIXEL_SCALE = 0.2


def make_obs_info(*, visit: int = 100, detector: int = 4, exposure_time: float = 30.0) -> ObservationInfo:
    """Return observation metadata of a made-up instrument."""
    begin = astropy.time.Time("2025-10-01T03:00:00", scale="tai")
    return makeObservationInfo(
        instrument="TestCam",
        telescope="Test Telescope",
        exposure_id=visit,
        visit_id=visit,
        detector_num=detector,
        detector_name=f"D{detector}",
        physical_filter="test_r",
        exposure_time=exposure_time * u.s,
        datetime_begin=begin,
        datetime_end=begin + exposure_time * u.s,
        location=EarthLocation.from_geodetic(-70.7 * u.deg, -30.2 * u.deg, 2600 * u.m),
    )


def make_sky_projection(
    bbox: Box, *, visit: int = 100, detector: int = 4, ra: float = 150.0, dec: float = 2.0
) -> SkyProjection[DetectorFrame]:
    """Return a TAN projection with its reference point at the centre of the box, north up, east left."""
    wcs = astropy.wcs.WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [0.5 * bbox.x.size + 0.5, 0.5 * bbox.y.size + 0.5]
    wcs.wcs.cd = np.diag([-PIXEL_SCALE / 3600, PIXEL_SCALE / 3600])
    frame = DetectorFrame(instrument="TestCam", visit=visit, detector=detector, bbox=bbox)
    return SkyProjection.from_fits_wcs(wcs, frame, pixel_bounds=bbox, x0=bbox.x.start, y0=bbox.y.start)


def make_visit_image(
    *,
    width: int = 200,
    height: int = 180,
    x0: int = 0,
    y0: int = 0,
    x: Sequence[float] | np.ndarray = (),
    y: Sequence[float] | np.ndarray = (),
    flux: Sequence[float] | np.ndarray = (),
    psf: PointSpreadFunction | None = None,
    sigma: float = 2.0,
    noise: float = 10.0,
    add_noise: bool = True,
    background: float = 0.0,
    gain: float | None = None,
    seed: int = 1,
    visit: int = 100,
    detector: int = 4,
    band: str = "r",
) -> VisitImage:
    """Return an image of point sources drawn from its own PSF.

    Parameters
    ----------
    width, height, x0, y0
        Size and first pixel.
    x, y, flux
        Sources: positions in parent pixels and fluxes in counts.
    psf
        PSF to draw and attach; by default a Gaussian of ``sigma`` pixels in a stamp 25 (or 12 sigma) wide.
    noise
        Standard deviation of the noise per pixel, counts; the variance plane is its square.
    add_noise
        Whether the noise is put into the pixels.
    background
        Constant added to the pixels.
    gain
        Electrons per count; adds the sources' photon noise to variance and pixels.
    """
    bbox = Box.factory[y0 : y0 + height, x0 : x0 + width]
    if psf is None:
        psf = GaussianPointSpreadFunction(
            sigma, bounds=bbox, stamp_size=max(25, 2 * int(np.ceil(6 * sigma)) + 1)
        )
    rng = np.random.default_rng(seed)
    pixels = Image(np.zeros(bbox.shape, dtype=np.float32), bbox=bbox, unit=u.adu)
    for xs, ys, fs in zip(x, y, flux, strict=True):
        stamp = psf.compute_stellar_image(x=float(xs), y=float(ys))
        overlap = stamp.bbox.intersection(bbox)
        pixels[overlap].array[...] += (fs * stamp[overlap].array).astype(np.float32)
    variance = np.full(bbox.shape, noise**2, dtype=np.float32)
    if gain is not None:
        variance += np.maximum(pixels.array, 0) / np.float32(gain)
    if add_noise:
        pixels.array[...] += (rng.normal(size=bbox.shape) * np.sqrt(variance)).astype(np.float32)
    pixels.array[...] += np.float32(background)
    projection = make_sky_projection(bbox, visit=visit, detector=detector)
    return VisitImage(
        pixels,
        mask=Mask(schema=make_mask_schema(), bbox=bbox),
        variance=Image(variance, bbox=bbox, unit=u.adu**2),
        sky_projection=projection,
        obs_info=make_obs_info(visit=visit, detector=detector),
        psf=psf,
        detector=make_detector(
            instrument="TestCam",
            detector=detector,
            name=f"D{detector}",
            bbox=bbox,
            pixel_size=0.010,
            plate_scale=PIXEL_SCALE / 0.010,
            visit=visit,
        ),
        band=band,
    )
