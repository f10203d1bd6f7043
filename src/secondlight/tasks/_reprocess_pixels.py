"""What the final pass does to the mask before it looks for sources (spec reprocess 6, steps 2 and 3)."""

from __future__ import annotations

__all__ = ("copy_mask_planes", "mark_unknown_ratio")

from collections.abc import Iterable

import numpy as np
from lsst.images import Image, Mask, VisitImage

from ..catalog.mask_planes import ensure_planes, make_mask_schema, mask_of, plane_name


def copy_mask_planes(exposure: VisitImage, mask: Mask | None, planes: Iterable[str]) -> None:
    """Add planes of another mask to those of the image, in place; planes it lacks are not made.

    The image gets the planes that every mask has, without which its own mask could not be looked into.

    Parameters
    ----------
    exposure
        Image whose mask gets the planes.
    mask
        Mask to copy from, covering the image; planes go by name.
    planes
        Short or public names.
    """
    exposure.mask = ensure_planes(exposure.mask, make_mask_schema().names)
    if mask is None:
        return
    names = [name for name in map(plane_name, planes) if name in mask.schema.names]
    exposure.mask = ensure_planes(exposure.mask, names)
    for name in names:
        exposure.mask.set(name, mask_of(mask[exposure.bbox], [name]))


def mark_unknown_ratio(exposure: VisitImage, ratio: Image) -> int:
    """Give pixels without a flat ratio the plane NO_DATA, in place.

    Parameters
    ----------
    exposure
        Image whose mask is changed.
    ratio
        Background flat over photometric flat on the pixels of the image, NaN where it is unknown.

    Returns
    -------
    n_bad
        Number of pixels without a ratio.
    """
    bad = np.isnan(ratio.array)
    if bad.any():
        exposure.mask = ensure_planes(exposure.mask, ["NO_DATA"])
        exposure.mask.set(plane_name("NO_DATA"), bad)
    return int(bad.sum())
