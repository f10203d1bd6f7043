"""Calibrated FITS images of any camera, described in a few lines of YAML (docs/instruments.md)."""

from __future__ import annotations

__all__ = ("GenericCamera",)

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import astropy.io.fits
import astropy.time
import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo, makeObservationInfo
from lsst.images import Box, Image, Mask, SkyProjection, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction

from ..catalog.mask_planes import ensure_planes, make_mask_schema, plane_name
from ..catalog.photo_calib import PhotoCalib
from .base import (
    DetectorObservation,
    InputFile,
    SurveyInstrument,
    observing_day,
    pixels_of,
    sky_projection_of,
)
from .camera import make_detector
from .camera_description import CameraDescription, HeaderValues, Plane
from .files import InputFileError, files_under, read_fits

_EPOCH = astropy.time.Time("2000-01-01T00:00:00", scale="tai")
_DATE_KEYS = ("MJD-OBS", "DATE-BEG", "DATE-OBS")
_SIGMA_PER_FWHM = 1.0 / (2.0 * math.sqrt(2.0 * math.log(2.0)))


class GenericCamera(SurveyInstrument):
    """A camera of which a repository knows only the name, the detectors and filters that were ingested.

    Subclasses are made on demand by `secondlight.instruments.named`.
    """

    name = "Generic"
    visit_max = 1 << 31
    detector_max = 1 << 8
    description: CameraDescription | None = None

    def find(self, paths: Sequence[Path]) -> Iterable[InputFile]:
        """Find images: all named files, and below folders those that match the description."""
        described = self._described()
        named = {Path(path) for path in paths}
        for path in files_under(paths):
            if path in named or (path.match(described.files) and not self._is_companion(path, described)):
                yield self._identify(path, described)

    def read(self, file: InputFile, paths: Sequence[Path]) -> DetectorObservation:
        """Read an image, its noise and mask."""
        described = self._described()
        header, pixels = _image_of(file.path, described.hdu)
        values = HeaderValues(header, file.path)
        bbox = Box.factory[0 : pixels.shape[0], 0 : pixels.shape[1]]
        mask = _mask(described, values, pixels, bbox)
        info = self._observation_info(file, described, values)
        projection = sky_projection_of(header, bbox, file, instrument=self.name)
        scale = _pixel_scale(projection, bbox)
        zero = _zero_point(described, values)
        scaling = None if zero is None else PhotoCalib.from_zero_point(zero).to_field(bbox, u.adu)
        seeing = values.number(described.seeing)
        fwhm = 2.0 / _SIGMA_PER_FWHM if seeing is None else seeing / scale
        sigma = fwhm * _SIGMA_PER_FWHM
        image = VisitImage(
            Image(pixels_of(np.nan_to_num(pixels, nan=0.0)), bbox=bbox, unit=u.adu),
            mask=mask,
            variance=Image(_variance(described, values, pixels, mask), bbox=bbox, unit=u.adu**2),
            sky_projection=projection,
            obs_info=info,
            photometric_scaling=scaling,
            psf=GaussianPointSpreadFunction(sigma, bounds=bbox, stamp_size=2 * math.ceil(6 * sigma) + 1),
            detector=make_detector(
                instrument=self.name,
                detector=file.detector,
                name=str(info.detector_name),
                bbox=bbox,
                pixel_size=described.pixel_size,
                plate_scale=scale / described.pixel_size,
                visit=file.visit,
            ),
            band=described.bands.get(str(info.physical_filter), str(info.physical_filter)),
            metadata={
                "INPUT_FILE": file.path.name,
                "GAIN": _nan_if_none(values.number(described.gain)),
                "READ_NOISE": _nan_if_none(values.number(described.read_noise)),
                "SATURATION": _nan_if_none(values.number(described.saturation)),
                "PSF_SOURCE": "Gaussian guess of 2 pixels"
                if seeing is None
                else "Gaussian guess of the seeing",
                "PSF_FWHM_GUESS": fwhm,
                "ZERO_POINT": _nan_if_none(zero),
                "ZERO_POINT_SOURCE": "none"
                if zero is None
                else f"camera description ({described.zero_point})",
            },
        )
        return DetectorObservation(image)

    def _described(self) -> CameraDescription:
        if self.description is None:
            raise ValueError(f"{self.name}: a description of its files is needed to ingest them (--camera).")
        return self.description

    @staticmethod
    def _is_companion(path: Path, described: CameraDescription) -> bool:
        """Return whether a file is another's noise or mask."""
        replacements = [p.file.partition("->")[2] for p in (described.noise, described.mask) if p and p.file]
        return any(part and part in path.name for part in replacements)

    def _identify(self, path: Path, described: CameraDescription) -> InputFile:
        header = _image_of(path, described.hdu, header_only=True)[0]
        values = HeaderValues(header, path)
        if described.visit is None:
            begin = _begin(values)
            visit = int((begin - _EPOCH).to_value("s"))
        else:
            visit = int(values.required(described.visit))
        detector = int(values.required(described.detector))
        if not (0 <= visit < self.visit_max and 0 <= detector < self.detector_max):
            raise InputFileError(
                path,
                f"visit {visit} and detector {detector} do not fit; visits are below {self.visit_max}, "
                f"detectors below {self.detector_max}.",
            )
        return InputFile(visit, detector, path)

    def _observation_info(
        self, file: InputFile, described: CameraDescription, values: HeaderValues
    ) -> ObservationInfo:
        begin = _begin(values)
        exposure_time = float(values.required(described.exposure_time)) * u.s
        return makeObservationInfo(
            instrument=self.name,
            telescope=str(values.header.get("TELESCOP", "unknown")).strip(),
            exposure_id=file.visit,
            visit_id=file.visit,
            detector_num=file.detector,
            detector_name=f"detector{file.detector}",
            physical_filter=str(values.required(described.filter)).strip(),
            exposure_time=exposure_time,
            datetime_begin=begin,
            datetime_end=begin + exposure_time,
            object=str(values.header.get("OBJECT", "")).strip(),
            observation_type="science",
            observation_id=f"{self.name}-{file.visit}",
            observing_day=observing_day(begin),
            observation_counter=file.visit,
        )


def _image_of(
    path: Path, hdu: int | str, *, header_only: bool = False
) -> tuple[astropy.io.fits.Header, np.ndarray]:
    """Return header (keys of the primary header added) and pixels of an extension."""
    hdus = read_fits(path, only=())
    try:
        index = hdus.index_of(hdu)
        extension = hdus[index]
    except (KeyError, IndexError) as error:
        raise InputFileError(path, f"has no extension {hdu!r}.") from error
    if not extension.is_image or len(extension.shape) != 2:
        raise InputFileError(path, f"extension {hdu!r} is not a two-dimensional image.")
    header = hdus[0].header.copy()
    header.update(extension.header)
    return header, np.zeros(0) if header_only else read_fits(path, only=(index,))[index].data


def _companion(plane: Plane, kind: str, path: Path, described: CameraDescription) -> np.ndarray:
    """Return the pixels of a noise or mask image."""
    source = path
    if plane.file is not None:
        old, arrow, new = plane.file.partition("->")
        if not arrow or old not in path.name:
            raise InputFileError(
                path, f"its {kind} is to be found by {plane.file!r}, which does not fit its name."
            )
        source = path.with_name(path.name.replace(old, new))
        if not source.is_file():
            raise InputFileError(path, f"its {kind} {source.name} is missing.")
    return _image_of(source, plane.hdu if plane.hdu is not None else described.hdu)[1]


def _variance(
    described: CameraDescription, values: HeaderValues, pixels: np.ndarray, mask: Mask
) -> np.ndarray:
    """Return the variance plane; pixels without a usable value get the median and are marked NO_DATA."""
    if described.noise is not None:
        variance = _variance_from_noise(described.noise, described, values, pixels)
    else:
        gain = values.number(described.gain)
        if gain is None or gain <= 0:
            raise InputFileError(
                values.path,
                "neither a noise image nor a positive gain is known, so the noise of its pixels is not.",
            )
        read_noise = values.number(described.read_noise) or 0.0
        variance = np.maximum(pixels, 0.0) / gain + (read_noise / gain) ** 2
    usable = np.isfinite(variance) & (variance > 0)
    if not usable.any():
        raise InputFileError(values.path, "no pixel has a positive variance.")
    mask.set("NO_DATA", mask.get("NO_DATA") | ~usable)
    return pixels_of(np.where(usable, variance, np.median(variance[usable])))


def _variance_from_noise(
    plane: Plane, described: CameraDescription, values: HeaderValues, pixels: np.ndarray
) -> np.ndarray:
    """Return the variance that a noise image of any kind holds."""
    kind = described.noise_kind
    noise = _companion(plane, f"{kind} map", values.path, described).astype(np.float64)
    if noise.shape != pixels.shape:
        raise InputFileError(values.path, f"image has {pixels.shape} pixels, its {kind} map {noise.shape}.")
    if kind == "weight":
        return np.divide(1.0, noise, out=np.zeros_like(noise), where=noise > 0)
    return noise if kind == "variance" else noise**2


def _mask(described: CameraDescription, values: HeaderValues, pixels: np.ndarray, bbox: Box) -> Mask:
    """Return the mask: bits of a mask image, saturated pixels, and pixels that are not numbers."""
    mask = ensure_planes(Mask(schema=make_mask_schema(), bbox=bbox), described.mask_bits)
    mask.set("NO_DATA", ~np.isfinite(pixels))
    if described.mask is not None:
        bits = _companion(described.mask, "mask", values.path, described)
        if bits.shape != pixels.shape:
            raise InputFileError(values.path, f"image has {pixels.shape} pixels, its mask {bits.shape}.")
        for plane, value in (described.mask_bits or {"BAD": -1}).items():
            mask.set(plane_name(plane), (bits.astype(np.int64) & value) != 0)
    saturation = values.number(described.saturation)
    if saturation is not None:
        mask.set(plane_name("SAT"), mask.get(plane_name("SAT")) | (pixels >= saturation))
    return mask


def _zero_point(described: CameraDescription, values: HeaderValues) -> float | None:
    """Return the AB magnitude of one count per exposure."""
    zero = values.number(described.zero_point)
    if zero is not None and described.zero_point_per_second:
        zero += 2.5 * math.log10(float(values.required(described.exposure_time)))
    return zero


def _begin(values: HeaderValues) -> astropy.time.Time:
    """Return the begin of the exposure, TAI."""
    for key in _DATE_KEYS:
        if key in values.header:
            value = values.header[key]
            scale = "utc" if str(values.header.get("TIMESYS", "UTC")).strip().upper() != "TAI" else "tai"
            try:
                time = astropy.time.Time(value, format="mjd" if key == "MJD-OBS" else "isot", scale=scale).tai
            except ValueError as error:
                raise InputFileError(values.path, f"{key} is {value!r}, not a time.") from error
            time.format = "isot"
            return time
    raise InputFileError(values.path, f"the header has no time of observation ({', '.join(_DATE_KEYS)}).")


def _pixel_scale(projection: SkyProjection[Any], bbox: Box) -> float:
    """Return the arcseconds per pixel at the centre of the image."""
    x, y = 0.5 * (bbox.x.min + bbox.x.max), 0.5 * (bbox.y.min + bbox.y.max)
    sky = projection.pixel_to_sky(x=np.array([x, x + 1.0]), y=np.array([y, y]))
    return float(sky[0].separation(sky[1]).to_value("arcsec"))


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else value
