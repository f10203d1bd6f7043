"""SDSS imaging: corrected frames (fpC) with their masks, PSF models and photometric zero points."""

from __future__ import annotations

__all__ = ("EXPOSURE_TIME", "FILTERS", "SdssImager", "sdss_mask", "zero_point")

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import astropy.io.fits
import astropy.time
import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo, makeObservationInfo
from astropy.coordinates import EarthLocation, SkyCoord
from lsst.images import Box, Image, Mask, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction

from ..catalog.mask_planes import make_mask_schema, plane_name
from ..catalog.photo_calib import PhotoCalib
from ..psf.survey_psf import psf_from_eigen_images
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

FILTERS = "ugriz"
EXPOSURE_TIME = 53.907456
"""Time a star needs to drift over a CCD, s."""

PIXEL_SIZE = 0.024
"""Side of a pixel, mm."""

PIXEL_SCALE = 0.396
"""Arcseconds per pixel."""

_FRAME = re.compile(r"fpC-(?P<run>\d{6})-(?P<band>[ugriz])(?P<camcol>[1-6])-(?P<field>\d{4})\.fits?(\.gz)?")
_PLANES = {
    "S_MASK_INTERP": "INTRP",
    "S_MASK_SATUR": "SAT",
    # The border of five pixels in which SDSS looked for no objects; see _touches_edge.
    "S_MASK_NOTCHECKED": "EDGE",
    "S_MASK_GHOST": "SUSPECT",
    "S_MASK_CR": "CR",
}
_BORDER = 5
_FIRST_FIELD_DIGIT = 10
_FIRST_RUN_DIGIT = 10**5
_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


class SdssImager(SurveyInstrument):
    """The drift-scan camera of the SDSS 2.5 m telescope.

    A visit is one filter of one field of a run, its detectors are the camera columns 1 to 6.
    """

    name = "SDSS"
    detectors = {camcol: f"camcol{camcol}" for camcol in range(1, 7)}
    filters = {band: band for band in FILTERS}
    visit_max = 10_000 * _FIRST_RUN_DIGIT
    detector_max = 8

    @staticmethod
    def visit_id(*, run: int, field: int, band: str) -> int:
        """Return the visit of a filter of a field: ``run * 100000 + field * 10 + filter`` (u 0 ... z 4)."""
        return run * _FIRST_RUN_DIGIT + field * _FIRST_FIELD_DIGIT + FILTERS.index(band)

    @staticmethod
    def unpack_visit(visit: int) -> tuple[int, int, str]:
        """Return (run, field, band) of a visit."""
        run, rest = divmod(visit, _FIRST_RUN_DIGIT)
        field, band = divmod(rest, _FIRST_FIELD_DIGIT)
        return run, field, FILTERS[band]

    def find(self, paths: Sequence[Path]) -> Iterable[InputFile]:
        """Find corrected frames by their names (``fpC-RRRRRR-bC-FFFF.fit[.gz]``)."""
        named = {Path(path) for path in paths}
        for path in files_under(paths):
            match = _FRAME.fullmatch(path.name)
            if match is None:
                if path in named:
                    raise InputFileError(path, "an SDSS frame is named fpC-RRRRRR-bC-FFFF.fit[.gz].")
                continue
            visit = self.visit_id(run=int(match["run"]), field=int(match["field"]), band=match["band"])
            yield InputFile(visit, int(match["camcol"]), path)

    def read(self, file: InputFile, paths: Sequence[Path]) -> DetectorObservation:
        """Read a frame, its mask (fpM), PSF and noise (psField) and zero point (tsField)."""
        run, field, band = self.unpack_visit(file.visit)
        folders = _companion_folders(file, paths)
        index = FILTERS.index(band)

        def companion(name: str) -> astropy.io.fits.HDUList:
            path = file_of(folders, name)
            if path is None:
                raise InputFileError(file.path, f"there is no {name} next to it or below the given folders.")
            return read_fits(path)

        frame = read_fits(file.path)[0]
        psf_field = companion(f"psField-{run:06d}-{file.detector}-{field:04d}.fit*")
        calibration = companion(f"tsField-{run:06d}-{file.detector}-*-{field:04d}.fit*")[1].data
        planes = companion(f"fpM-{run:06d}-{band}{file.detector}-{field:04d}.fit*")
        _check_header(frame.header, file, run=run, band=band)

        bbox = Box.factory[0 : frame.data.shape[0], 0 : frame.data.shape[1]]
        noise = psf_field[6].data[0]
        counts = frame.data.astype(np.float64) - frame.header["SOFTBIAS"]
        variance = np.maximum(counts, 0.0) / noise["gain"][index] + noise["dark_variance"][index]
        mask = sdss_mask(planes, bbox)
        mask.set("NO_DATA", frame.data == 0)
        fwhm = float(noise["psf_width"][index]) / PIXEL_SCALE
        sigma = fwhm / _FWHM_PER_SIGMA
        zero = zero_point(calibration, index)
        airmass = float(calibration["airmass"][0][index])
        image = VisitImage(
            Image(pixels_of(counts), bbox=bbox, unit=u.adu),
            mask=mask,
            variance=Image(pixels_of(variance), bbox=bbox, unit=u.adu**2),
            sky_projection=sky_projection_of(frame.header, bbox, file, instrument=self.name),
            obs_info=_observation_info(frame.header, file, band=band, airmass=airmass),
            photometric_scaling=PhotoCalib.from_zero_point(zero).to_field(bbox, u.adu),
            psf=GaussianPointSpreadFunction(sigma, bounds=bbox, stamp_size=2 * math.ceil(6 * sigma) + 1),
            detector=make_detector(
                instrument=self.name,
                detector=file.detector,
                name=self.detectors[file.detector],
                bbox=bbox,
                pixel_size=PIXEL_SIZE,
                plate_scale=PIXEL_SCALE / PIXEL_SIZE,
                visit=file.visit,
            ),
            band=band,
            metadata={
                "INPUT_FILE": file.path.name,
                "GAIN": float(noise["gain"][index]),
                "DARK_VARIANCE": float(noise["dark_variance"][index]),
                "SATURATION": float(calibration["saturation_level"][0][index]),
                "PSF_SOURCE": "Gaussian guess of the width psf_width in psField",
                "PSF_FWHM_GUESS": fwhm,
                "ZERO_POINT": zero,
                "ZERO_POINT_SOURCE": "tsField aa, kk and airmass for 53.907456 s",
            },
        )
        return DetectorObservation(image, psf_from_eigen_images(psf_field[1 + index].data, bbox))


def zero_point(calibration: astropy.io.fits.FITS_rec, index: int) -> float:
    """Return the magnitude of one count per exposure in a band of a tsField table.

    ``f/f0 = counts / t * 10**(0.4 (aa + kk * airmass))`` (SDSS DR7, flux calibration).
    """
    row = calibration[0]
    extinction = row["kk"][index] * row["airmass"][index]
    return float(2.5 * math.log10(EXPOSURE_TIME) - row["aa"][index] - extinction)


def sdss_mask(planes: astropy.io.fits.HDUList, bbox: Box) -> Mask:
    """Return the mask of an fpM file: per plane a table of objects with spans (row, first, last column).

    Planes that only repeat what SDSS detected (OBJECT, BRIGHTOBJECT, ...) are left out.
    """
    mask = Mask(schema=make_mask_schema(), bbox=bbox)
    numbers = {str(row["attributeName"]).strip(): int(row["Value"]) for row in planes[-1].data}
    for sdss_name, plane in _PLANES.items():
        objects = planes[1 + numbers[sdss_name]].data
        keep = _touches_edge(objects, bbox) if plane == "EDGE" else np.ones(len(objects), dtype=bool)
        mask.set(plane_name(plane), _paint_spans(itertools.compress(objects["s"], keep), bbox))
    return mask


def _paint_spans(encoded: Iterable[np.ndarray], bbox: Box) -> np.ndarray:
    """Return the pixels of objects whose spans are stored as bytes of big-endian int16 triplets."""
    painted = np.zeros(bbox.shape, dtype=bool)
    for spans in encoded:
        for row, first, last in np.frombuffer(bytes(spans), dtype=">i2").reshape(-1, 3):
            painted[row, max(first, 0) : last + 1] = True
    return painted


def _touches_edge(objects: astropy.io.fits.FITS_rec, bbox: Box) -> np.ndarray:
    """Return which objects lie within five pixels of the border; others are centres of very bright stars."""
    return np.asarray(
        (objects["rmax"] < _BORDER)
        | (objects["cmax"] < _BORDER)
        | (objects["rmin"] >= bbox.y.size - _BORDER)
        | (objects["cmin"] >= bbox.x.size - _BORDER)
    )


def _companion_folders(file: InputFile, paths: Sequence[Path]) -> list[Path]:
    """Return folders to search: the frame's own, its neighbours in an SDSS tree, the given ones."""
    given = [Path(p) for p in paths if Path(p).is_dir()]
    # RERUN/corr/CAMCOL/fpC..., RERUN/objcs/CAMCOL/fpM..., RERUN/calibChunks/CAMCOL/tsField...
    rerun = file.path.parent.parent.parent
    neighbours = [rerun / name / str(file.detector) for name in ("objcs", "calibChunks")]
    return [file.path.parent, *neighbours, *given]


def _check_header(header: astropy.io.fits.Header, file: InputFile, *, run: int, band: str) -> None:
    """Check that a frame is what its name says and has the keys that are needed."""
    expected: dict[str, Any] = {"RUN": run, "FILTER": band, "CAMCOL": file.detector}
    for key, value in expected.items():
        found = header.get(key)
        if (found.strip() if isinstance(found, str) else found) != value:
            raise InputFileError(file.path, f"its name says {key} = {value}, its header {found}.")
    for key in ("SOFTBIAS", "TAI"):
        if key not in header:
            raise InputFileError(file.path, f"the header has no {key}.")


def _observation_info(
    header: astropy.io.fits.Header, file: InputFile, *, band: str, airmass: float
) -> ObservationInfo:
    """Return observation metadata from a frame's header; the time is that of the first row."""
    begin = astropy.time.Time(header["TAI"] / 86400.0, format="mjd", scale="tai")
    begin.format = "isot"
    exposure_time = float(header["EXPTIME"]) * u.s
    run, field, _ = SdssImager.unpack_visit(file.visit)
    return makeObservationInfo(
        instrument=SdssImager.name,
        telescope="SDSS 2.5m",
        location=EarthLocation.from_geodetic(-105.820417 * u.deg, 32.780361 * u.deg, 2788 * u.m),
        exposure_id=file.visit,
        visit_id=file.visit,
        detector_num=file.detector,
        detector_name=SdssImager.detectors[file.detector],
        physical_filter=band,
        exposure_time=exposure_time,
        datetime_begin=begin,
        datetime_end=begin + exposure_time,
        boresight_airmass=airmass,
        tracking_radec=SkyCoord(header["RA"], header["DEC"], unit="deg", frame="icrs"),
        object=str(header["OBJECT"]).strip(),
        science_program="SDSS",
        observation_type="science",
        observation_id=f"{run:06d}-{band}-{field:04d}",
        observing_day=observing_day(begin),
        observation_counter=field,
    )
