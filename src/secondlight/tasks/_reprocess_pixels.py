"""What the final pass does to the pixels before it looks for sources (spec reprocess 6, steps 2 to 6)."""

from __future__ import annotations

__all__ = ("copy_mask_planes", "flatten_for_sources", "subtract_background")

from collections.abc import Iterable

import numpy as np
from lsst.images import BackgroundMap, Image, Mask, VisitImage

from ..background.fields import background_flat_context, render_background
from ..catalog.mask_planes import ensure_planes, mask_of, plane_name
from ..catalog.photo_calib import PhotoCalib


def copy_mask_planes(exposure: VisitImage, mask: Mask | None, planes: Iterable[str]) -> None:
    """Add planes of another mask to those of the image, in place; planes it lacks are not made.

    Parameters
    ----------
    exposure
        Image whose mask gets the planes.
    mask
        Mask to copy from, covering the image; planes go by name.
    planes
        Short or public names.
    """
    if mask is None:
        return
    names = [name for name in map(plane_name, planes) if name in mask.schema.names]
    exposure.mask = ensure_planes(exposure.mask, names)
    for name in names:
        exposure.mask.set(name, mask_of(mask[exposure.bbox], [name]))


def flatten_for_sources(exposure: VisitImage, ratio: Image) -> int:
    """Divide an image that was flattened for its background by the flat ratio, in place.

    Parameters
    ----------
    exposure
        Image to change; pixels without a ratio become NaN and get the plane NO_DATA.
    ratio
        Background flat over photometric flat on the pixels of the image, NaN where it is unknown.

    Returns
    -------
    n_bad
        Number of pixels without a ratio.
    """
    exposure.image.array[...] /= ratio.array
    exposure.variance.array[...] /= ratio.array**2
    bad = np.isnan(ratio.array)
    if bad.any():
        exposure.mask = ensure_planes(exposure.mask, ["NO_DATA"])
        exposure.mask.set(plane_name("NO_DATA"), bad)
    return int(bad.sum())


def subtract_background(
    exposure: VisitImage,
    background: BackgroundMap,
    *,
    ratio: Image | None,
    initial_photo_calib: PhotoCalib | None,
) -> None:
    """Subtract a background from an image, in place.

    The background belongs to the image flattened for the background, after ``initial_photo_calib`` if there
    is one.  Dividing the background instead of multiplying the image is the same, and exact also where the
    calibration varies over the image.

    Parameters
    ----------
    exposure
        Image in counts, flattened for sources if there is a ratio.
    background
        What to subtract, in nJy if there is an ``initial_photo_calib``, else in counts.
    ratio
        Background flat over photometric flat.
    initial_photo_calib
        Calibration that the background was fitted with.
    """
    pixels = render_background(background, exposure.bbox)
    if initial_photo_calib is not None:
        pixels = pixels / initial_photo_calib.render(exposure.bbox)
    with background_flat_context(exposure, ratio is not None, ratio):
        exposure.image.array[...] -= pixels
