"""What a user says about a camera and its files, and how such values are looked up."""

from __future__ import annotations

__all__ = ("CameraDescription", "HeaderValues", "Plane")

from pathlib import Path
from typing import Any, Literal

import astropy.io.fits
import pydantic

from .files import InputFileError


class Plane(pydantic.BaseModel, extra="forbid"):
    """Where the pixels of a companion image are.

    ``file`` is the image's name with a part replaced, as ``_sci->_wht``; without it the image's own file.
    """

    file: str | None = None
    hdu: int | str | None = None


class CameraDescription(pydantic.BaseModel, extra="forbid"):
    """What has to be known about a camera and its files.

    A value that is a text names a header key; a number is the value itself.
    """

    name: str = pydantic.Field(pattern="^[A-Za-z][A-Za-z0-9_]{0,30}$")
    files: str = pydantic.Field(default="*.fits*", description="Names of image files below a folder.")
    hdu: int | str = pydantic.Field(default=0, description="Extension of the image.")
    visit: int | str | None = pydantic.Field(default=None, description="Visit; by default from the time.")
    detector: int | str = pydantic.Field(default=0, description="Detector.")
    filter: str = pydantic.Field(default="FILTER", description="Header key of the filter.")
    bands: dict[str, str] = pydantic.Field(default={}, description="Band of each filter; by default itself.")
    exposure_time: float | str = pydantic.Field(default="EXPTIME", description="Seconds.")
    gain: float | str | None = pydantic.Field(default=None, description="Electrons per count.")
    read_noise: float | str = pydantic.Field(default=0.0, description="Electrons per pixel.")
    saturation: float | str | None = pydantic.Field(default=None, description="Counts of saturated pixels.")
    zero_point: float | str | None = pydantic.Field(
        default=None, description="AB magnitude of one count per exposure."
    )
    zero_point_per_second: bool = pydantic.Field(default=False, description="It is per second.")
    seeing: float | str | None = pydantic.Field(default=None, description="FWHM of stars, arcsec.")
    pixel_size: float = pydantic.Field(default=0.015, description="Side of a pixel, mm.", gt=0)
    noise: Plane | None = pydantic.Field(default=None, description="Noise image.")
    noise_kind: Literal["weight", "variance", "sigma"] = pydantic.Field(
        default="weight", description="What the noise image holds; weight is the inverse variance."
    )
    mask: Plane | None = pydantic.Field(default=None, description="Mask image.")
    mask_bits: dict[str, int] = pydantic.Field(
        default={}, description="Bits of the mask image per plane; without them nonzero pixels are BAD."
    )


class HeaderValues:
    """Values that are given as numbers or as names of header keys."""

    def __init__(self, header: astropy.io.fits.Header, path: Path) -> None:
        self.header = header
        self.path = path

    def required(self, setting: float | int | str) -> Any:
        """Return a value; a header key that is absent is an error."""
        if not isinstance(setting, str):
            return setting
        if setting not in self.header:
            raise InputFileError(self.path, f"the header has no {setting}, which the description names.")
        return self.header[setting]

    def number(self, setting: float | str | None) -> float | None:
        """Return a number, or `None` if there is no setting."""
        if setting is None:
            return None
        value = self.required(setting)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise InputFileError(self.path, f"header key {setting} is {value!r}, not a number.") from error
