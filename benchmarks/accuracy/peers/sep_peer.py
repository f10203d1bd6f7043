"""The image as `sep` measures it: Source Extractor's algorithms as a library (Barbary 2016, JOSS 1, 58)."""

from __future__ import annotations

__all__ = ("measure_with_sep",)

import resource
from typing import TYPE_CHECKING, Any

import numpy as np
from lsst.images import VisitImage

from ..catalogs import Measured
from ._common import (
    APERTURE_RADII,
    BACKGROUND_CELL,
    DEBLEND_CONTRAST,
    DEBLEND_LEVELS,
    DETECTION_SNR,
    MIN_AREA,
    Exposure,
    PeerUnavailable,
    aperture_name,
    gaussian_kernel,
    leaves_image,
    nanojansky_per_count,
    sky_positions,
    sound_centers,
)

if TYPE_CHECKING:
    from types import ModuleType

_PIXEL_STACK = 5_000_000
_SUB_OBJECTS = 20_000
"""Pixels above the threshold, and parts of one blend, that a crowded image may have."""

_KRON_REACH = 6.0
_KRON_FACTOR = 2.5
_KRON_MIN_RADIUS = 3.5
_LARGEST_RADIUS = 50.0
"""Kron apertures as in Source Extractor: where the radius is measured and its multiple, both in units of the
ellipse, and the smallest (diameter 3.5 pixels) and largest radius, pixels."""

_SIGMA_PER_HALF_LIGHT_RADIUS = 2.0 / 2.35
"""Width of the window of a centroid, as recommended by sep's documentation."""


def measure_with_sep(image: VisitImage, *, zero_point: float, seeing_pixels: float | None) -> Measured:
    """Detect and measure the sources of an image with `sep`.

    The peer is treated kindly: it is told the variance of the sky without that of the sources, and its fluxes
    are converted with the true zero point instead of one that was fitted.

    Parameters
    ----------
    image
        Image after the removal of the instrument's signature, counts.
    zero_point
        True AB magnitude of one count.
    seeing_pixels
        FWHM of the Gaussian detection filter, pixels; by default that of the PSF the image claims.

    Raises
    ------
    PeerUnavailable
        Raised if sep is not installed.
    ValueError
        Raised if the image does not say its gain, saturation or seeing; names visit and detector.
    """
    sep = _import_sep()
    exposure = Exposure.of(image, seeing_pixels=seeing_pixels)
    sky_noise = np.sqrt(exposure.sky_variance)
    noise = np.sqrt(exposure.variance)

    start = _user_seconds()
    background = sep.Background(
        exposure.counts, mask=exposure.lost, bw=BACKGROUND_CELL, bh=BACKGROUND_CELL
    ).back(dtype=np.float32)
    pixels = exposure.counts - background
    sources = _detect(sep, pixels, sky_noise, exposure)
    x, y = _centers(sep, pixels, sources, exposure)
    counts, flags = _fluxes(sep, pixels, noise, sources, x, y, exposure)
    cpu_seconds = _user_seconds() - start

    scale = nanojansky_per_count(zero_point)
    x0, y0 = image.bbox.x.start, image.bbox.y.start
    ra, dec = sky_positions(image, x + x0, y + y0)
    undefined = np.full(len(x), np.nan)
    return Measured(
        system="sep",
        visit=exposure.visit,
        detector=image.detector.id,
        band=image.band,
        x=x + x0,
        y=y + y0,
        x_err=undefined,
        y_err=undefined,
        ra=ra,
        dec=dec,
        fluxes={name: (flux * scale, error * scale) for name, (flux, error) in counts.items()},
        flux_flags=flags,
        extendedness=undefined,
        primary=np.ones(len(x), dtype=np.bool_),
        good=sound_centers(exposure, x, y) & (sources["flag"] & sep.OBJ_TRUNC == 0),
        aperture_radii={aperture_name(radius): float(radius) for radius in APERTURE_RADII},
        background=background,
        cpu_seconds=cpu_seconds,
    )


def _user_seconds() -> float:
    """Return the user CPU time of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def _import_sep() -> ModuleType:
    try:
        import sep
    except ImportError as error:
        raise PeerUnavailable("sep is not installed (pip install 'secondlight[bench]').") from error
    return sep


def _detect(sep: Any, pixels: np.ndarray, sky_noise: np.ndarray, exposure: Exposure) -> np.ndarray:
    """Return the sources that sep finds with a matched filter of the seeing."""
    limits = sep.get_extract_pixstack(), sep.get_sub_object_limit()
    sep.set_extract_pixstack(_PIXEL_STACK)
    sep.set_sub_object_limit(_SUB_OBJECTS)
    try:
        return np.asarray(
            sep.extract(
                pixels,
                DETECTION_SNR,
                err=sky_noise,
                mask=exposure.lost,
                minarea=MIN_AREA,
                filter_kernel=gaussian_kernel(exposure.fwhm).astype(np.float32),
                filter_type="matched",
                deblend_nthresh=DEBLEND_LEVELS,
                deblend_cont=DEBLEND_CONTRAST,
                # With a matched filter, cleaning takes two thirds of the real sources away (sep 1.4.1).
                clean=False,
            )
        )
    finally:
        sep.set_extract_pixstack(limits[0])
        sep.set_sub_object_limit(limits[1])


def _centers(
    sep: Any, pixels: np.ndarray, sources: np.ndarray, exposure: Exposure
) -> tuple[np.ndarray, np.ndarray]:
    """Return windowed positions (x, y) counted from the first pixel; sep gives no errors for them."""
    x, y = sources["x"], sources["y"]
    reach = np.maximum(_KRON_REACH * sources["a"], 1.0)
    half_light, _ = sep.flux_radius(
        pixels, x, y, reach, 0.5, normflux=sources["flux"], mask=exposure.lost, subpix=5
    )
    sigma = np.maximum(_SIGMA_PER_HALF_LIGHT_RADIUS * half_light, 0.1)
    x_window, y_window, _ = sep.winpos(pixels, x, y, sigma, mask=exposure.lost)
    wandered = ~(np.hypot(x_window - x, y_window - y) < exposure.fwhm)
    return np.where(wandered, x, x_window), np.where(wandered, y, y_window)


def _fluxes(
    sep: Any,
    pixels: np.ndarray,
    noise: np.ndarray,
    sources: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    exposure: Exposure,
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray]]:
    """Return fluxes with errors in counts, and where they are not to be used, by name."""
    fluxes, flags = {}, {}
    for radius in APERTURE_RADII:
        flux, error, _ = sep.sum_circle(pixels, x, y, radius, err=noise, mask=exposure.lost)
        fluxes[aperture_name(radius)] = flux, error
        flags[aperture_name(radius)] = leaves_image(exposure, x, y, radius)
    flux, error, flag = _kron(sep, pixels, noise, sources, x, y, exposure.lost)
    fluxes["auto"], flags["auto"] = (flux, error), flag
    return fluxes, flags


def _kron(
    sep: Any,
    pixels: np.ndarray,
    noise: np.ndarray,
    sources: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    lost: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Source Extractor's AUTO fluxes, their errors and flags, as sep's documentation builds them."""
    a, b = np.maximum(sources["a"], 0.1), np.maximum(sources["b"], 0.1)
    theta = np.clip(sources["theta"], -0.5 * np.pi, 0.5 * np.pi)
    radius, _ = sep.kron_radius(pixels, x, y, a, b, theta, _KRON_REACH, mask=lost)
    mean = np.sqrt(a * b)
    # A Kron radius in noise can be anything; so can the one of a source whose pixels are all lost.
    scale = np.clip(np.nan_to_num(_KRON_FACTOR * radius), 0.0, _LARGEST_RADIUS / mean)
    small = scale * mean < 0.5 * _KRON_MIN_RADIUS
    a, b = np.where(small, 1.0, a), np.where(small, 1.0, b)
    scale = np.where(small, 0.5 * _KRON_MIN_RADIUS, scale)
    flux, error, flag = sep.sum_ellipse(pixels, x, y, a, b, theta, scale, err=noise, mask=lost)
    return flux, error, (flag & sep.APER_TRUNC) != 0
