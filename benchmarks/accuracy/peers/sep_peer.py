"""The image as `sep` measures it: Source Extractor's algorithms as a library (Barbary 2016, JOSS 1, 58)."""

from __future__ import annotations

__all__ = ("measure_with_sep",)

import importlib
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
    MIN_AREA,
    Exposure,
    PeerUnavailable,
    aperture_name,
    filtered_threshold,
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
_KRON_MIN_SCALE = 3.5
_LARGEST_RADIUS = 50.0
"""Kron apertures as Source Extractor makes them: where the radius is measured, its multiple and the least of
it, all in units of the ellipse's axes; and the largest mean radius, pixels."""

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
    sources, segments = _detect(sep, pixels, sky_noise, exposure)
    x, y = _centers(sep, pixels, sources, exposure)
    counts, flags = _fluxes(sep, pixels, noise, sources, segments, x, y, exposure)
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
        return importlib.import_module("sep")
    except ImportError as error:
        raise PeerUnavailable("sep is not installed (pip install 'secondlight[bench]').") from error


def _detect(
    sep: Any, pixels: np.ndarray, sky_noise: np.ndarray, exposure: Exposure
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sources that sep finds with a filter of the seeing, and the map of their pixels (h, w)."""
    kernel = gaussian_kernel(exposure.fwhm)
    limits = sep.get_extract_pixstack(), sep.get_sub_object_limit()
    sep.set_extract_pixstack(_PIXEL_STACK)
    sep.set_sub_object_limit(_SUB_OBJECTS)
    try:
        sources, segments = sep.extract(
            pixels,
            filtered_threshold(kernel),
            err=sky_noise,
            mask=exposure.lost,
            minarea=MIN_AREA,
            filter_kernel=kernel.astype(np.float32),
            # With filter_type="matched" sep 1.4.1 leaves blends whole that it splits with this, and cleaning
            # drops real sources, although both are the same filter where the noise is uniform.
            filter_type="conv",
            deblend_nthresh=DEBLEND_LEVELS,
            deblend_cont=DEBLEND_CONTRAST,
            segmentation_map=True,
        )
    finally:
        sep.set_extract_pixstack(limits[0])
        sep.set_sub_object_limit(limits[1])
    return sources, segments


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
    segments: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    exposure: Exposure,
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray]]:
    """Return fluxes with errors in counts, and where they are not to be used, by name.

    Pixels of other sources are left out and made up for, which keeps the wide apertures usable.
    """
    masks = {"mask": exposure.lost, "segmap": segments, "seg_id": np.arange(1, len(sources) + 1)}
    fluxes, flags = {}, {}
    for radius in APERTURE_RADII:
        flux, error, _ = sep.sum_circle(pixels, x, y, radius, err=noise, **masks)
        fluxes[aperture_name(radius)] = flux, error
        flags[aperture_name(radius)] = leaves_image(exposure, x, y, radius)
    a, b = np.maximum(sources["a"], 0.1), np.maximum(sources["b"], 0.1)
    theta = np.clip(sources["theta"], -0.5 * np.pi, 0.5 * np.pi)
    radius, _ = sep.kron_radius(pixels, x, y, a, b, theta, _KRON_REACH, **masks)
    # A Kron radius of noise can be anything, and there is none if all pixels are lost.
    scale = np.maximum(np.nan_to_num(_KRON_FACTOR * radius), _KRON_MIN_SCALE)
    scale = np.minimum(scale, _LARGEST_RADIUS / np.sqrt(a * b))
    flux, error, flag = sep.sum_ellipse(pixels, x, y, a, b, theta, scale, err=noise, **masks)
    fluxes["auto"], flags["auto"] = (flux, error), (flag & sep.APER_TRUNC) != 0
    return fluxes, flags
