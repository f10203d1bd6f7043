"""Small FITS images of a made-up camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import astropy.io.fits
import numpy as np

from secondlight.instruments.camera_description import CameraDescription
from secondlight.instruments.choice import camera_instrument
from secondlight.instruments.generic import GenericCamera

SHAPE = (50, 60)


def camera(**settings: Any) -> GenericCamera:
    """Return the instrument of the files below, with a weight map unless told otherwise."""
    values: dict[str, Any] = {
        "name": "MyCam",
        "files": "*_sci.fits",
        "visit": "EXPNUM",
        "detector": "CCD",
        "bands": {"Sloan r": "r"},
        "noise": {"file": "_sci->_wht"},
        "zero_point": "MAGZP",
        "seeing": "SEEING",
    }
    return camera_instrument(CameraDescription.model_validate(values | settings))


def write_image(folder: Path, *, visit: int = 7, detector: int = 1, celestial: bool = True) -> Path:
    """Write an image and its weight map; returns the image's path."""
    rng = np.random.default_rng(visit * 100 + detector)
    header = astropy.io.fits.Header()
    header.update(
        {"EXPNUM": visit, "CCD": detector, "FILTER": "Sloan r", "EXPTIME": 20.0, "MAGZP": 27.5, "SEEING": 1.2}
    )
    header["DATE-OBS"] = "2024-03-01T05:00:00"
    header.update(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"} if celestial else {"CTYPE1": "WAVE", "CTYPE2": "SLIT"}
    )
    header.update({"CRVAL1": 30.0 + 0.006 * detector, "CRVAL2": -5.0, "CRPIX1": 30.5, "CRPIX2": 25.5})
    header.update({"CDELT1": -0.3 / 3600, "CDELT2": 0.3 / 3600})
    path = folder / f"v{visit}_d{detector}_sci.fits"
    pixels = rng.normal(100.0, 4.0, SHAPE).astype(np.float32)
    astropy.io.fits.PrimaryHDU(pixels, header).writeto(path)
    weight = np.full(SHAPE, 1 / 16.0, dtype=np.float32)
    weight[0, :3] = 0
    astropy.io.fits.PrimaryHDU(weight).writeto(path.with_name(path.name.replace("_sci", "_wht")))
    return path
