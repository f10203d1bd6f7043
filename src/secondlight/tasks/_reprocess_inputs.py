"""What the final pass asks of its inputs; every error names visit and detector."""

from __future__ import annotations

__all__ = (
    "Calibrations",
    "check_background",
    "check_calibrations",
    "check_id_generator",
    "check_ids",
    "check_image",
    "check_preliminary_mask",
    "final_calibrations",
    "flattening",
    "image_name",
    "read_summary",
)

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import astropy.units as u
import numpy as np
from lsst.images import BackgroundMap, Box, Image, Mask, SkyProjection, VisitImage
from lsst.images.fields import BaseField, SumField
from lsst.images.psfs import PointSpreadFunction
from lsst.pipe.base import UpstreamFailureNoWorkFound

from ..background.fields import sky_level, subtracted_field
from ..catalog.ids import IdGenerator
from ..catalog.photo_calib import PhotoCalib
from ..catalog.visit_image import visit_of
from ..catalog.visit_summary import VisitSummary
from ..photometry.restore import Flattening
from ._reprocess_config import ReprocessVisitImageConfig

_ID_BITS = 63
"""Bits of a positive int64."""

_CALIBRATIONS_ACROSS = 5
"""Positions along each side of an image at which a photometric calibration is tried."""


def image_name(image: VisitImage) -> str:
    """Return what to call an image in messages."""
    return f"Visit {visit_of(image)}, detector {image.detector.id}"


def check_image(where: str, image: VisitImage) -> None:
    """Refuse an image that is no post-ISR image any more.

    Raises
    ------
    ValueError
        Raised if it is calibrated, or says that a background was subtracted from it.
    """
    if image.unit.is_equivalent(u.nJy):
        raise ValueError(f"{where}: the unit is {image.unit}; expected an image in counts.")
    if image.backgrounds.subtracted is not None:
        raise ValueError(f"{where}: its background is subtracted already; expected a post-ISR image.")


class Calibrations(NamedTuple):
    """Final calibrations of a detector, none of them missing."""

    psf: PointSpreadFunction
    wcs: SkyProjection[Any]
    ap_corr: Mapping[str, BaseField]
    photo_calib: PhotoCalib
    sources: Mapping[str, str]
    """Where they came from."""


def read_summary(handle: Any, detector: int) -> VisitSummary:
    """Read the record of one detector of a stored visit summary, if there is one.

    Parameters
    ----------
    handle
        Handle of the summary.
    detector
        Which record to read; a repository whose storage classes do not know records gives all of them.
    """
    try:
        summary: VisitSummary = handle.get(parameters={"detector": detector})
    except KeyError:  # the parameter is unknown to repositories made by earlier versions
        summary = handle.get()
    return summary


def final_calibrations(summary: VisitSummary, *, visit: int, detector: int) -> Calibrations:
    """Return the calibrations of a detector of a visit.

    Raises
    ------
    lsst.pipe.base.UpstreamFailureNoWorkFound
        Raised if the detector is not in the summary, or lacks a calibration; the message names each.
    """
    record = summary.find(detector)
    reasons = ["the visit summary has no row for it"]
    if record is not None:
        psf, wcs = record.psf, record.sky_projection
        ap_corr, photo_calib = record.aperture_corrections, record.photo_calib
        if psf is not None and wcs is not None and ap_corr is not None and photo_calib is not None:
            return Calibrations(psf, wcs, ap_corr, photo_calib, record.calibration_sources)
        needed = {
            "PSF": psf,
            "WCS": wcs,
            "aperture-correction map": ap_corr,
            "photometric calibration": photo_calib,
        }
        reasons = [f"its {name} is missing" for name, value in needed.items() if value is None]
    lines = "\n".join(f"- {reason}" for reason in reasons)
    raise UpstreamFailureNoWorkFound(f"Detector {detector} of visit {visit} cannot be processed:\n{lines}")


def check_calibrations(where: str, image: VisitImage, **calibrations: Any) -> None:
    """Refuse to start without a final calibration, or with a photometric one that is of no use.

    Parameters
    ----------
    where
        What to call the image in messages.
    image
        What they calibrate; a photometric calibration that varies is tried at a few of its pixels.
    **calibrations
        Calibrations by name.

    Raises
    ------
    ValueError
        Raised if one is missing, or if a photometric one is no positive number of nJy, or not per what the
        image is in.
    """
    bbox = image.bbox
    missing = [name for name, value in calibrations.items() if value is None]
    if missing:
        raise ValueError(f"{where}: no {', '.join(missing)} given; every final calibration is needed.")
    for name, calibration in calibrations.items():
        if not isinstance(calibration, PhotoCalib):
            continue
        try:
            calibration.to_field(bbox, image.unit)
        except ValueError as error:
            raise ValueError(f"{where}: {name}: {error}") from error
        x, y = np.meshgrid(*(np.linspace(i.min, i.max, _CALIBRATIONS_ACROSS) for i in (bbox.x, bbox.y)))
        values = [calibration.mean, *calibration.evaluate(x=x.ravel(), y=y.ravel())]
        wrong = [float(value) for value in values if not 0 < value < math.inf]
        if wrong:
            raise ValueError(f"{where}: {name} is {wrong[0]}; expected a positive number of nJy per count.")


def check_background(where: str, background: BackgroundMap | None, bbox: Box, *, unit: u.UnitBase) -> None:
    """Refuse a background that is missing or empty, was made for other pixels, or is in another unit.

    Raises
    ------
    ValueError
        Raised if there is no field that says it was subtracted, or one does not cover the image, is no number
        or has a unit that does not lead to ``unit``; without a unit it is taken to have the right one.
    """
    if background is None:
        raise ValueError(f"{where}: no background given.")
    try:
        field = subtracted_field(background)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for part in field.operands if isinstance(field, SumField) else (field,):
        if not part.bounds.bbox.contains(bbox):
            raise ValueError(f"{where}: the background covers {part.bounds.bbox}, but the image has {bbox}.")
        if part.unit is not None and not part.unit.is_equivalent(unit):
            raise ValueError(
                f"{where}: the background is in {part.unit}; expected {unit}, as it is "
                f"{'' if unit == u.nJy else 'not '}to be divided by an initial photometric calibration."
            )
    if not math.isfinite(level := sky_level(background)):
        raise ValueError(f"{where}: the background is {level}; expected numbers.")


def check_preliminary_mask(where: str, mask: Mask | None, bbox: Box) -> None:
    """Refuse a mask to copy planes from that was made for other pixels.

    Raises
    ------
    ValueError
        Raised if there is a mask that does not cover the image.
    """
    if mask is not None and not mask.bbox.contains(bbox):
        raise ValueError(f"{where}: preliminary_mask covers {mask.bbox}, but the image has {bbox}.")


def flattening(
    where: str,
    image: VisitImage,
    config: ReprocessVisitImageConfig,
    *,
    initial_photo_calib: PhotoCalib | None,
    background_to_photometric_ratio: Image | None,
) -> Flattening:
    """Return the initial photometric calibration and the flat ratio, each if the configuration wants it.

    Parameters
    ----------
    where
        What to call the image in messages.
    image
        Image to flatten.
    config
        Configuration of the task.
    initial_photo_calib, background_to_photometric_ratio
        What was given.

    Returns
    -------
    flattening
        Both or `None`; the ratio on the pixels of the image, NaN where it is not a positive number.

    Raises
    ------
    ValueError
        Raised if one that is wanted is missing or not usable at all.
    """
    if not config.remove_initial_photo_calib:
        initial_photo_calib = None
    elif initial_photo_calib is None:
        raise ValueError(f"{where}: remove_initial_photo_calib is set, but no initial_photo_calib was given.")
    else:
        check_calibrations(where, image, initial_photo_calib=initial_photo_calib)
    ratio = None
    if config.do_apply_flat_background_ratio:
        ratio = _usable_ratio(
            f"{where}: background_to_photometric_ratio", background_to_photometric_ratio, image.bbox
        )
    return Flattening(background_to_photometric_ratio=ratio, initial_photo_calib=initial_photo_calib)


def _usable_ratio(name: str, ratio: Image | None, bbox: Box) -> Image:
    if ratio is None:
        raise ValueError(f"{name} was not given, but do_apply_flat_background_ratio is set.")
    if not isinstance(ratio, Image):
        raise ValueError(f"{name} must be an Image, not {type(ratio).__name__}.")
    if not ratio.bbox.contains(bbox):
        raise ValueError(f"{name} covers {ratio.bbox}, but the image has {bbox}.")
    ratio = ratio[bbox]
    good = np.isfinite(ratio.array) & (ratio.array > 0)
    if not good.any():
        raise ValueError(f"{name} has no positive finite pixel.")
    return ratio if good.all() else Image(np.where(good, ratio.array, np.nan), bbox=bbox)


def check_id_generator(where: str, generator: IdGenerator) -> None:
    """Refuse ids that do not fit an int64.

    Raises
    ------
    ValueError
        Raised if there are no bits for the counter, or too few for the catalog id.
    """
    bits = generator.counter_bits
    if not 1 <= bits <= _ID_BITS or not 0 <= generator.catalog_id < 1 << (_ID_BITS - bits):
        raise ValueError(
            f"{where}: catalog id {generator.catalog_id} and a counter of {bits} bits do not fit the "
            f"{_ID_BITS} bits of a source id."
        )


def check_ids(where: str, ids: np.ndarray) -> None:
    """Refuse a catalog in which two sources have the same id.

    Raises
    ------
    ValueError
        Raised if an id is not unique; the message has the first one.
    """
    unique, counts = np.unique(ids, return_counts=True)
    repeated = unique[counts > 1]
    if len(repeated):
        raise ValueError(
            f"{where}: {len(repeated)} source ids are not unique, {repeated[0]} is the first; "
            "the id generator must give every row its own."
        )
