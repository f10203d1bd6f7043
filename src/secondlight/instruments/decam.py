"""DECam images of the NOIRLab Community Pipeline, as the Legacy Surveys use them."""

from __future__ import annotations

__all__ = ("DecamCp", "quality_planes")

import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import astropy.io.fits
import astropy.time
import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo, makeObservationInfo
from astropy.coordinates import EarthLocation, SkyCoord
from lsst.images import Box, Image, Mask, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction

from ..catalog.mask_planes import ensure_planes, make_mask_schema, plane_name
from ..catalog.photo_calib import PhotoCalib
from ..psf.survey_psf import SurveyPsf, psf_from_psfex
from .base import (
    DetectorObservation,
    InputFile,
    SurveyInstrument,
    observing_day,
    pixels_of,
    sky_projection_of,
)
from .camera import make_detector
from .files import InputFileError, file_of, files_under, read_fits

_LOG = logging.getLogger(__name__)

PIXEL_SIZE = 0.015
"""Side of a pixel, mm."""

PIXEL_SCALE = 0.262
"""Arcseconds per pixel."""

_IMAGE_MARK = "_ooi_"
# Files derived from an image (PSF models, sky) repeat its name and add words after a hyphen.
_IMAGE = re.compile(r"[^-]*_ooi_[^-]*\.fits(\.[fg]z)?")
_FIRST_VERSION_WITH_CODES = (3, 5)
# Values of the data-quality image: one code per pixel (the most important defect) since version 3.5, bits
# before. Code 7 (differs from other exposures) is left out: it is set in the cores of bright stars.
_CODES = {1: "BAD", 2: "NO_DATA", 3: "SAT", 4: "SAT", 5: "CR", 6: "SUSPECT", 8: "STREAK"}
_BITS = {1: "BAD", 2: "SAT", 4: "INTRP", 16: "CR", 64: "SAT", 128: "SUSPECT"}
_SIGMA_PER_FWHM = 1.0 / (2.0 * math.sqrt(2.0 * math.log(2.0)))


class DecamCp(SurveyInstrument):
    """The Dark Energy Camera; files of the Community Pipeline: image (ooi), weight (oow), quality (ood).

    A visit is an exposure number, a detector a CCD number.
    """

    name = "DECam"
    filters = {}
    visit_max = 1 << 24
    detector_max = 64

    def find(self, paths: Sequence[Path]) -> Iterable[InputFile]:
        """Find image files (``..._ooi_...fits[.fz]``) and their CCDs."""
        named = {Path(path) for path in paths}
        for path in files_under(paths):
            if _IMAGE.fullmatch(path.name):
                yield from _detectors_in(path)
            elif path in named:
                raise InputFileError(path, f"a Community Pipeline image has {_IMAGE_MARK} in its name.")

    def read(self, file: InputFile, paths: Sequence[Path]) -> DetectorObservation:
        """Read one CCD with its weight, quality, PSF and zero point."""
        hdus = read_fits(file.path, only=(file.hdu,))
        primary, header, pixels = hdus[0].header, hdus[file.hdu].header, hdus[file.hdu].data
        weight = _companion(file, "_oow_", pixels.shape)
        quality = _companion(file, "_ood_", pixels.shape)
        bbox = Box.factory[0 : pixels.shape[0], 0 : pixels.shape[1]]
        mask = quality_planes(quality, str(primary.get("PLVER", "")), bbox)
        variance = _variance(weight, mask, file)
        folders = [file.path.parent, *(Path(p) for p in paths if Path(p).is_dir())]
        zero, source = _zero_point(file, primary, header, folders)
        scaling = None if zero is None else PhotoCalib.from_zero_point(zero).to_field(bbox, u.adu)
        fwhm = float(header.get("FWHM", primary.get("FWHM", 4.0)))
        sigma = fwhm * _SIGMA_PER_FWHM
        name = str(header.get("EXTNAME", f"CCD{file.detector}")).strip()
        info = _observation_info(primary, file, name)
        image = VisitImage(
            Image(pixels_of(pixels), bbox=bbox, unit=u.adu),
            mask=mask,
            variance=Image(variance, bbox=bbox, unit=u.adu**2),
            sky_projection=sky_projection_of(header, bbox, file, instrument=self.name),
            obs_info=info,
            photometric_scaling=scaling,
            psf=GaussianPointSpreadFunction(sigma, bounds=bbox, stamp_size=2 * math.ceil(6 * sigma) + 1),
            detector=make_detector(
                instrument=self.name,
                detector=file.detector,
                name=name,
                bbox=bbox,
                pixel_size=PIXEL_SIZE,
                plate_scale=PIXEL_SCALE / PIXEL_SIZE,
                visit=file.visit,
            ),
            band=str(info.physical_filter)[0],
            metadata={
                "INPUT_FILE": file.path.name,
                "GAIN": float(header.get("ARAWGAIN", np.nan)),
                "SATURATION": float(header.get("SATURATE", np.nan)),
                "PSF_SOURCE": "Gaussian guess of the width FWHM in the header",
                "PSF_FWHM_GUESS": fwhm,
                "ZERO_POINT": np.nan if zero is None else zero,
                "ZERO_POINT_SOURCE": source,
            },
        )
        return DetectorObservation(image, _survey_psf(file, name, folders, bbox))


def quality_planes(quality: np.ndarray, version: str, bbox: Box) -> Mask:
    """Return the mask of a data-quality image.

    Parameters
    ----------
    quality
        Codes (pipeline version 3.5 and later) or bits (before), int (h, w).
    version
        PLVER, as ``V4.8.2a``.
    bbox
        Pixels of the image.
    """
    mask = ensure_planes(Mask(schema=make_mask_schema(), bbox=bbox), ["STREAK"])
    planes: dict[str, np.ndarray] = {}
    if _has_codes(version):
        flagged = {value: quality == value for value in _CODES}
    else:
        flagged = {value: (quality & value) != 0 for value in _BITS}
    for value, plane in (_CODES if _has_codes(version) else _BITS).items():
        planes[plane] = planes.get(plane, np.zeros(bbox.shape, dtype=bool)) | flagged[value]
    for plane, pixels in planes.items():
        mask.set(plane_name(plane), pixels)
    return mask


def _has_codes(version: str) -> bool:
    """Return whether a pipeline version writes codes; a version that cannot be read is taken as recent."""
    numbers = version.strip().lstrip("V").split(".")[:2]
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers):
        return True
    return tuple(map(int, numbers)) >= _FIRST_VERSION_WITH_CODES


def _detectors_in(path: Path) -> Iterator[InputFile]:
    """Yield the CCDs of an image file."""
    hdus = read_fits(path, only=())
    visit = hdus[0].header.get("EXPNUM")
    if visit is None:
        raise InputFileError(path, "the primary header has no EXPNUM.")
    for index, hdu in enumerate(hdus[1:], start=1):
        if hdu.is_image and "CCDNUM" in hdu.header:
            yield InputFile(int(visit), int(hdu.header["CCDNUM"]), path, index)


def _companion(file: InputFile, mark: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels of the weight or quality file of an image."""
    path = file.path.with_name(file.path.name.replace(_IMAGE_MARK, mark))
    if not path.is_file():
        kind = {"_oow_": "weight map", "_ood_": "data-quality mask"}[mark]
        raise InputFileError(file.path, f"its {kind} {path.name} is missing.")
    hdus = read_fits(path, only=(file.hdu,))
    pixels = hdus[file.hdu].data
    if pixels.shape != shape:
        raise InputFileError(path, f"has {pixels.shape} pixels, expected {shape} like {file.path.name}.")
    return np.asarray(pixels)


def _variance(weight: np.ndarray, mask: Mask, file: InputFile) -> np.ndarray:
    """Return the variance of inverse-variance weights.

    Pixels without weight get the median variance, so that nothing divides by zero; those that the
    data-quality mask does not explain are marked BAD.
    """
    usable = np.isfinite(weight) & (weight > 0)
    if not usable.any():
        raise InputFileError(file.path, "its weight map has no pixel above zero.")
    variance = np.full(weight.shape, np.median(1.0 / weight[usable]), dtype=np.float32)
    variance[usable] = 1.0 / weight[usable]
    explained = mask.array.any(axis=-1)
    mask.set("BAD", mask.get("BAD") | (~usable & ~explained))
    return variance


def _zero_point(
    file: InputFile, primary: astropy.io.fits.Header, header: astropy.io.fits.Header, folders: list[Path]
) -> tuple[float | None, str]:
    """Return the magnitude of one count per exposure and where it came from.

    A survey-ccds table has the magnitude of one count per second (``ccdzpt``).
    """
    exposure_time = float(primary["EXPTIME"])
    table = file_of(folders, "survey-ccds*.fits*")
    if table is not None:
        rows = read_fits(table)[1].data
        same = (rows["expnum"] == file.visit) & (
            np.char.strip(rows["ccdname"]) == str(header["EXTNAME"]).strip()
        )
        if same.any():
            zero = float(rows["ccdzpt"][same][0])
            return zero + 2.5 * math.log10(exposure_time), f"{table.name} ccdzpt and exposure time"
    magnitude = header.get("MAGZERO", primary.get("MAGZERO"))
    if magnitude is not None:
        return float(magnitude), "header MAGZERO"
    _LOG.warning("%s: no survey-ccds table and no MAGZERO, so %s has no zero point.", file.path, file)
    return None, "none"


def _survey_psf(file: InputFile, ccd: str, folders: list[Path], bbox: Box) -> SurveyPsf | None:
    """Return the PSFEx model of a CCD from the Legacy Surveys' tables, if there is one."""
    path = file_of(folders, f"{file.path.name.split('.')[0]}*-psfex.fits*")
    if path is None:
        return None
    rows = read_fits(path)[1].data
    same = _rows_of(rows, file, ccd)
    if not same.any():
        return None
    row = rows[same][0]
    return psf_from_psfex(
        np.asarray(row["psf_mask"]),
        degree=int(row["poldeg1"]),
        zero=(float(row["polzero1"]), float(row["polzero2"])),
        scale=(float(row["polscal1"]), float(row["polscal2"])),
        sampling=float(row["psf_samp"]),
        domain=bbox,
    )


def _rows_of(rows: astropy.io.fits.FITS_rec, file: InputFile, ccd: str) -> np.ndarray:
    """Return which rows of a Legacy Surveys table are about an exposure's CCD."""
    return np.asarray((rows["expnum"] == file.visit) & (np.char.strip(rows["ccdname"]) == ccd))


def _observation_info(primary: astropy.io.fits.Header, file: InputFile, ccd: str) -> ObservationInfo:
    """Return observation metadata from the primary header."""
    begin = astropy.time.Time(primary["MJD-OBS"], format="mjd", scale="utc").tai
    begin.format = "isot"
    exposure_time = float(primary["EXPTIME"]) * u.s
    return makeObservationInfo(
        instrument=DecamCp.name,
        telescope="CTIO 4.0-m telescope",
        location=EarthLocation.from_geodetic(-70.81489 * u.deg, -30.16606 * u.deg, 2215.0 * u.m),
        exposure_id=file.visit,
        visit_id=file.visit,
        detector_num=file.detector,
        detector_name=ccd,
        physical_filter=str(primary["FILTER"]).strip(),
        exposure_time=exposure_time,
        datetime_begin=begin,
        datetime_end=begin + exposure_time,
        boresight_airmass=float(primary["AIRMASS"]) if "AIRMASS" in primary else None,
        tracking_radec=SkyCoord(primary["RA"], primary["DEC"], unit=(u.hourangle, u.deg), frame="icrs"),
        object=str(primary.get("OBJECT", "")).strip(),
        science_program=str(primary.get("PROPID", "")).strip(),
        observation_type="science",
        observation_id=str(primary.get("OBSID", file.visit)).strip(),
        observing_day=observing_day(begin),
        observation_counter=file.visit,
    )
