"""The image as Source Extractor (Bertin & Arnouts 1996, A&AS 117, 393) and PSFEx (Bertin 2011) measure it."""

from __future__ import annotations

__all__ = ("measure_with_source_extractor",)

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits
from lsst.images import VisitImage

from secondlight.psf.survey_psf import SurveyPsf, psf_from_psfex

from ..catalogs import Measured
from ._common import (
    APERTURE_RADII,
    BACKGROUND_CELL,
    DEBLEND_CONTRAST,
    DEBLEND_LEVELS,
    MIN_AREA,
    Exposure,
    aperture_name,
    filtered_threshold,
    gaussian_kernel,
    leaves_image,
    nanojansky_per_count,
    sky_positions,
    sound_centers,
)
from ._programs import Programs, write_image, write_lines

_IMAGE, _VARIANCE, _FLAGS = "image.fits", "variance.fits", "flags.fits"
_STARS, _PSF, _SOURCES, _BACKGROUND = "stars.cat", "stars.psf", "sources.fits", "background.fits"
_KERNEL, _NETWORK, _COLUMNS = "detection.conv", "stars.nnw", "columns.param"

_FIRST_PIXEL = 1.0
"""Position of the centre of the first pixel."""

_NO_WEIGHT = 1e31
"""A variance above 1e30 means that a pixel has no weight."""

_NEARLY_FULL = 0.99
"""Full pixels scatter around the saturation level by the read noise; they are all above this part of it."""

_PSF_SIZE = 25
_VIGNET_SIZE = 35
_PSF_ORDER = 2
_STARS_PER_COEFFICIENT = 5
_NORMALIZATION_DIAMETER = 24
"""Model of the PSF: side in pixels at a sampling of one, side of the stars' images, order of the polynomial,
stars that each of its coefficients needs (with fewer, bright stars in the corners err by tenths), and
the aperture that its flux is normalised to, pixels; a faint star is mostly noise in a wider one."""

_TRUNCATED = 8
_INCOMPLETE_APERTURE = 16
"""Bits of FLAGS."""

_STAR_COLUMNS = (
    "X_IMAGE",
    "Y_IMAGE",
    "FLUX_RADIUS",
    "ELONGATION",
    "FLAGS",
    "IMAFLAGS_ISO",
    "FLUX_MAX",
    "SNR_WIN",
    "FLUX_APER(1)",
    "FLUXERR_APER(1)",
    f"VIGNET({_VIGNET_SIZE},{_VIGNET_SIZE})",
)
_SOURCE_COLUMNS = (
    "XWIN_IMAGE",
    "YWIN_IMAGE",
    "ERRX2WIN_IMAGE",
    "ERRY2WIN_IMAGE",
    # Asked for so that the PSF is fitted with a free position.
    "XPSF_IMAGE",
    "YPSF_IMAGE",
    "FLUX_PSF",
    "FLUXERR_PSF",
    "FLUX_AUTO",
    "FLUXERR_AUTO",
    f"FLUX_APER({len(APERTURE_RADII)})",
    f"FLUXERR_APER({len(APERTURE_RADII)})",
    "FLAGS",
)


def measure_with_source_extractor(
    image: VisitImage, *, zero_point: float, seeing_pixels: float | None, workdir: Path | None = None
) -> Measured:
    """Measure an image with Source Extractor, a PSF by PSFEx, and Source Extractor again with that PSF.

    The peer is treated kindly: it is told the variance of the sky, and its fluxes are converted with the true
    zero point instead of one that was fitted. They are as the programs give them; the PSF flux is normalised
    to what is in an aperture of 12 pixels radius.

    Parameters
    ----------
    image
        Image after the removal of the instrument's signature, counts.
    zero_point
        True AB magnitude of one count.
    seeing_pixels
        FWHM of the Gaussian detection filter, pixels; by default that of the PSF the image claims.
    workdir
        Folder in which a temporary folder is made; by default that of the system.

    Raises
    ------
    PeerUnavailable
        Raised if one of the programs is not installed.
    ValueError
        Raised if the image does not say its gain, saturation or seeing; names visit and detector.
    RuntimeError
        Raised if a program fails; shows what it said.
    """
    exposure = Exposure.of(image, seeing_pixels=seeing_pixels)
    with tempfile.TemporaryDirectory(prefix="source_extractor_", dir=workdir) as folder:
        programs = Programs.find(Path(folder), exposure.name)
        _write_inputs(exposure, programs)
        settings = _extractor_settings(exposure, programs)
        _find_stars(programs, settings)
        psf = _fit_psf(programs, image)
        _measure_sources(programs, settings)
        sources = fits.getdata(programs.folder / _SOURCES, 1)
        background = np.asarray(fits.getdata(programs.folder / _BACKGROUND), dtype=np.float32)
        return _measured(exposure, sources, psf, background, zero_point, programs.cpu_seconds)


def _write_inputs(exposure: Exposure, programs: Programs) -> None:
    """Write pixels, variances, flags and the detection kernel."""
    folder = programs.folder
    write_image(folder / _IMAGE, np.where(exposure.lost, np.float32(0), exposure.counts))
    write_image(folder / _VARIANCE, np.where(exposure.lost, np.float32(_NO_WEIGHT), exposure.sky_variance))
    write_image(folder / _FLAGS, exposure.suspect.astype(np.int16))
    rows = (" ".join(f"{value:.6e}" for value in row) for row in gaussian_kernel(exposure.fwhm))
    write_lines(folder / _KERNEL, ["CONV NORM", "# Gaussian of the seeing", *rows])
    if programs.network is not None:
        (folder / _NETWORK).write_bytes(programs.network.read_bytes())


def _extractor_settings(exposure: Exposure, programs: Programs) -> dict[str, object]:
    """Return the settings that both passes share."""
    threshold = filtered_threshold(gaussian_kernel(exposure.fwhm))
    return {
        "PARAMETERS_NAME": _COLUMNS,
        "DETECT_THRESH": f"{threshold:.5f}",
        "ANALYSIS_THRESH": f"{threshold:.5f}",
        "DETECT_MINAREA": MIN_AREA,
        "FILTER": "Y",
        "FILTER_NAME": _KERNEL,
        "DEBLEND_NTHRESH": DEBLEND_LEVELS,
        "DEBLEND_MINCONT": DEBLEND_CONTRAST,
        "BACK_SIZE": BACKGROUND_CELL,
        "BACK_FILTERSIZE": 3,
        "WEIGHT_TYPE": "MAP_VAR",
        "WEIGHT_IMAGE": _VARIANCE,
        # The variances are right as they are, and they do not follow the gain.
        "RESCALE_WEIGHTS": "N",
        "WEIGHT_GAIN": "N",
        "FLAG_IMAGE": _FLAGS,
        "FLAG_TYPE": "OR",
        "SATUR_LEVEL": f"{_NEARLY_FULL * exposure.saturation:.1f}",
        "SATUR_KEY": "NONE",
        "GAIN": exposure.gain,
        "GAIN_KEY": "NONE",
        "PIXEL_SCALE": 1.0,
        "SEEING_FWHM": f"{exposure.fwhm:.3f}",
        "STARNNW_NAME": _NETWORK,
        "MEMORY_OBJSTACK": 30_000,
        "MEMORY_PIXSTACK": 5_000_000,
        "MEMORY_BUFSIZE": min(4096, exposure.counts.shape[0]),
        "VERBOSE_TYPE": "QUIET",
        "WRITE_XML": "N",
        "NTHREADS": 1,
    }


def _find_stars(programs: Programs, settings: Mapping[str, object]) -> None:
    """Make the catalogue with images of the sources that PSFEx fits."""
    write_lines(programs.folder / _COLUMNS, _STAR_COLUMNS)
    programs.extract(
        _IMAGE,
        {
            **settings,
            "CATALOG_NAME": _STARS,
            "CATALOG_TYPE": "FITS_LDAC",
            "PHOT_APERTURES": _NORMALIZATION_DIAMETER,
        },
    )


def _fit_psf(programs: Programs, image: VisitImage) -> SurveyPsf:
    """Fit a PSF of the highest order that there are stars for; its file stays in the folder."""
    for order in range(_PSF_ORDER, -1, -1):
        programs.fit_psf(_STARS, _psfex_settings(order))
        psf, n_stars = _read_psf(programs.folder / _PSF, image)
        if n_stars >= _STARS_PER_COEFFICIENT * len(psf.basis):
            break
    return psf


def _psfex_settings(order: int) -> dict[str, object]:
    """Return the settings of PSFEx; what is not named here is as the program has it."""
    return {
        "BASIS_TYPE": "PIXEL",
        "PSF_SAMPLING": 1.0,
        "PSF_SIZE": f"{_PSF_SIZE},{_PSF_SIZE}",
        "PSFVAR_KEYS": "X_IMAGE,Y_IMAGE",
        "PSFVAR_GROUPS": "1,1",
        "PSFVAR_DEGREES": order,
        "SAMPLE_IMAFLAGMASK": "0xff",
        "CHECKPLOT_DEV": "NULL",
        "CHECKPLOT_TYPE": "NONE",
        "CHECKIMAGE_TYPE": "NONE",
        "VERBOSE_TYPE": "QUIET",
        "WRITE_XML": "N",
        "NTHREADS": 1,
    }


def _measure_sources(programs: Programs, settings: Mapping[str, object]) -> None:
    """Make the catalogue of all sources, with the PSF, and the map of the background."""
    columns = [*_SOURCE_COLUMNS, *(["CLASS_STAR"] if programs.network is not None else [])]
    write_lines(programs.folder / _COLUMNS, columns)
    programs.extract(
        _IMAGE,
        {
            **settings,
            "CATALOG_NAME": _SOURCES,
            "CATALOG_TYPE": "FITS_1.0",
            "PHOT_APERTURES": ",".join(str(2 * radius) for radius in APERTURE_RADII),
            "PSF_NAME": _PSF,
            "CHECKIMAGE_TYPE": "BACKGROUND",
            "CHECKIMAGE_NAME": _BACKGROUND,
        },
    )


def _read_psf(path: Path, image: VisitImage) -> tuple[SurveyPsf, int]:
    """Return the model that PSFEx wrote, in parent pixels, and the number of stars it was fitted to."""
    with fits.open(path) as file:
        header = file["PSF_DATA"].header
        components = np.asarray(file["PSF_DATA"].data["PSF_MASK"][0], dtype=np.float64)
    # A constant model names no axes.
    axes = range(1, int(header["POLNAXIS"]) + 1)
    zero = [header[f"POLZERO{axis}"] for axis in axes] or [0.0, 0.0]
    scale = [header[f"POLSCAL{axis}"] for axis in axes] or [1.0, 1.0]
    psf = psf_from_psfex(
        components,
        degree=int(header["POLDEG1"]) if axes else 0,
        zero=(zero[0] + image.bbox.x.start, zero[1] + image.bbox.y.start),
        scale=(scale[0], scale[1]),
        sampling=float(header["PSF_SAMP"]),
        domain=image.bbox,
    )
    return psf, int(header["ACCEPTED"])


def _measured(
    exposure: Exposure,
    sources: np.ndarray,
    psf: SurveyPsf,
    background: np.ndarray,
    zero_point: float,
    cpu_seconds: float,
) -> Measured:
    """Return a catalogue of Source Extractor in the units and conventions of the benchmark."""
    image = exposure.image
    # Big-endian as in the file, and counted from one.
    x, y = (_column(sources, name) - _FIRST_PIXEL for name in ("XWIN_IMAGE", "YWIN_IMAGE"))
    x_parent, y_parent = x + image.bbox.x.start, y + image.bbox.y.start
    ra, dec = sky_positions(image, x_parent, y_parent)
    flags = np.asarray(sources["FLAGS"])
    fluxes, unusable = _fluxes(exposure, sources, x, y, nanojansky_per_count(zero_point))
    is_classified = "CLASS_STAR" in (sources.dtype.names or ())
    return Measured(
        system="source-extractor",
        visit=exposure.visit,
        detector=image.detector.id,
        band=image.band,
        x=x_parent,
        y=y_parent,
        x_err=np.sqrt(_column(sources, "ERRX2WIN_IMAGE")),
        y_err=np.sqrt(_column(sources, "ERRY2WIN_IMAGE")),
        ra=ra,
        dec=dec,
        fluxes=fluxes,
        flux_flags=unusable,
        extendedness=1.0 - _column(sources, "CLASS_STAR") if is_classified else np.full(len(x), np.nan),
        primary=np.ones(len(x), dtype=np.bool_),
        good=sound_centers(exposure, x, y) & (flags & _TRUNCATED == 0),
        aperture_radii={aperture_name(radius): float(radius) for radius in APERTURE_RADII},
        psf=psf,
        psf_flux="psf",
        background=background,
        cpu_seconds=cpu_seconds,
    )


def _fluxes(
    exposure: Exposure, sources: np.ndarray, x: np.ndarray, y: np.ndarray, scale: float
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray]]:
    """Return fluxes with errors in nJy, and where they are not to be used, by name."""
    flags = np.asarray(sources["FLAGS"])
    names = {"psf": "PSF", "auto": "AUTO"}
    fluxes = {
        name: (scale * _column(sources, f"FLUX_{column}"), scale * _column(sources, f"FLUXERR_{column}"))
        for name, column in names.items()
    }
    psf_flux, psf_error = fluxes["psf"]
    unusable = {
        # A fit that failed is reported as zero.
        "psf": ~(np.isfinite(psf_flux) & (psf_flux != 0) & (psf_error > 0)),
        "auto": flags & (_TRUNCATED | _INCOMPLETE_APERTURE) != 0,
    }
    values, errors = _column(sources, "FLUX_APER"), _column(sources, "FLUXERR_APER")
    for k, radius in enumerate(APERTURE_RADII):
        fluxes[aperture_name(radius)] = scale * values[:, k], scale * errors[:, k]
        unusable[aperture_name(radius)] = leaves_image(exposure, x, y, radius)
    return fluxes, unusable


def _column(sources: np.ndarray, name: str) -> np.ndarray:
    """Return a column as native float64."""
    return np.asarray(sources[name], dtype=np.float64)
