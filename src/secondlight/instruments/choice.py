"""From what a user types to an instrument."""

from __future__ import annotations

__all__ = ("camera_instrument", "choose_instrument", "parse_settings")

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydantic
import yaml
from lsst.utils import doImportType

from . import named
from .base import SurveyInstrument
from .camera_description import CameraDescription
from .decam import DecamCp
from .generic import GenericCamera
from .sdss import SdssImager

_KNOWN: dict[str, type[SurveyInstrument]] = {"sdss": SdssImager, "decam": DecamCp}


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Return the values of ``KEY=VALUE`` texts, values read as YAML.

    Raises
    ------
    ValueError
        Raised if a text has no equals sign, or its value is not YAML.
    """
    values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"Expected KEY=VALUE, found {setting!r}.")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"The value of {setting!r} is not YAML.") from error
    return values


def choose_instrument(
    name: str, *, camera: Path | None = None, settings: Iterable[str] = ()
) -> SurveyInstrument:
    """Return an instrument by short name or by the full name of its class.

    Parameters
    ----------
    name
        ``sdss``, ``decam``, ``generic`` or a class.
    camera
        Description of a generic camera, YAML.
    settings
        ``KEY=VALUE`` texts that replace values of the description.

    Raises
    ------
    ValueError
        Raised if there is no such instrument or its description is not complete.
    """
    if name == "generic":
        return camera_instrument(_describe(camera, parse_settings(settings)))
    if camera is not None or tuple(settings):
        raise ValueError(f"A camera description belongs to the instrument 'generic', not to {name!r}.")
    known = _KNOWN.get(name.lower())
    if known is None and "." not in name:
        raise ValueError(f"Unknown instrument {name!r}; known are {', '.join(_KNOWN)}, generic, or a class.")
    try:
        chosen = known or doImportType(name)
    except (ImportError, TypeError) as error:
        raise ValueError(f"Instrument {name!r} cannot be imported ({error}).") from error
    if not issubclass(chosen, SurveyInstrument):
        raise ValueError(f"{name} is not a SurveyInstrument, so it cannot read images.")
    return chosen()


def _describe(camera: Path | None, settings: dict[str, Any]) -> CameraDescription:
    """Read the description of a camera; settings replace its values."""
    where = "The camera" if camera is None else str(camera)
    if camera is None and "name" not in settings:
        raise ValueError("The instrument 'generic' needs the description of a camera (--camera camera.yaml).")
    try:
        values = {} if camera is None else yaml.safe_load(camera.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: is not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected lines of KEY: VALUE, found {values!r}.")
    try:
        return CameraDescription.model_validate(values | settings)
    except pydantic.ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ValueError(f"{where}: {'; '.join(wrong)}.") from error


def camera_instrument(description: CameraDescription) -> GenericCamera:
    """Return the instrument of a description; its class can be found again by its name."""
    camera: GenericCamera = getattr(named, description.name)()
    camera.description = description
    return camera
