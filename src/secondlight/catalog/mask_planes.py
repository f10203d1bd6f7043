"""Mask planes by name: the stored public names, and the short names that configurations and flags use."""

from __future__ import annotations

__all__ = ("SHORT_TO_PUBLIC", "ensure_planes", "make_mask_schema", "mask_of", "plane_name")

import functools
from collections.abc import Iterable

import numpy as np
from lsst.images import Mask, MaskPlane, MaskSchema, get_legacy_visit_image_mask_planes

_EXTRA_PLANES = {
    "DETECTED_NEGATIVE": MaskPlane("DETECTED_NEGATIVE", "Pixel was part of a detected negative source."),
    "STREAK": MaskPlane("STREAK", "Pixel was crossed by a satellite or aircraft trail."),
}


@functools.cache
def _planes() -> dict[str, MaskPlane]:
    """Map short names to planes with their public name and description."""
    return get_legacy_visit_image_mask_planes() | _EXTRA_PLANES


SHORT_TO_PUBLIC: dict[str, str] = {short: plane.name for short, plane in _planes().items()}
"""Short plane name of configurations (SAT, CR, ...) to the public name stored in files (SATURATED, ...)."""

_DEFAULT_PLANES = (
    "BAD", "SAT", "INTRP", "CR", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "SUSPECT", "NO_DATA",
    "NOT_DEBLENDED", "SPIKE",
)  # fmt: skip


def plane_name(name: str) -> str:
    """Return the public name of a plane given by its short or public name; an unknown name is kept."""
    return SHORT_TO_PUBLIC.get(name, name)


def make_mask_schema(planes: Iterable[str] = _DEFAULT_PLANES) -> MaskSchema:
    """Return a mask schema with the named planes (short or public names)."""
    return MaskSchema([_plane(name) for name in planes])


def _plane(name: str) -> MaskPlane:
    known = {plane.name: plane for plane in _planes().values()}
    public = plane_name(name)
    return known.get(public) or MaskPlane(public, f"User-defined plane {public}.")


def ensure_planes(mask: Mask, planes: Iterable[str]) -> Mask:
    """Return a mask that has the named planes: the same object if none is missing, else an extended copy."""
    missing = [_plane(name) for name in planes if plane_name(name) not in mask.schema.names]
    return mask.add_planes(missing) if missing else mask


def mask_of(mask: Mask, planes: Iterable[str], *, missing_ok: bool = False) -> np.ndarray:
    """Return a boolean image: True where any of the named planes is set.

    Parameters
    ----------
    mask
        Mask to look into.
    planes
        Plane names, short or public.
    missing_ok
        Whether a plane the mask does not have counts as set nowhere.

    Raises
    ------
    KeyError
        Raised if the mask lacks a plane and ``missing_ok`` is not set.
    """
    names = [plane_name(name) for name in planes]
    absent = [name for name in names if name not in mask.schema.names]
    if absent and not missing_ok:
        raise KeyError(f"Mask has no plane {', '.join(absent)}; it has {', '.join(mask.schema.names)}.")
    result = np.zeros(mask.bbox.shape, dtype=np.bool_)
    bits = mask.schema.bitmask(*(name for name in names if name not in absent))
    # One byte plane at a time: ten times faster than a reduction over the short last axis.
    for k in np.nonzero(bits)[0]:
        result |= (mask.array[..., k] & bits[k]) != 0
    return result
