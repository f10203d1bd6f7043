"""Cosmic rays: which of them were found, and what else was called one.

A true hit is a connected group of pixels with more charge than one sigma of the sky; it is found if any of
its pixels is marked. A marked pixel is not a cosmic ray if no pixel within one of it is truly hit: then it is
either on another artefact (at most one pixel from it; the ends of bleed trails, say) or false. A star is
harmed if a false pixel is within 3 pixels of its centre, of those that are not saturated and have a signal-
to-noise ratio of at least 20.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import numpy as np
from astropy.table import Table
from scipy import ndimage

from secondlight.catalog.mask_planes import mask_of

from ..matching import Image, nearest_pixels
from ..numbers import Number, Sense, fraction

_RAYS = "COSMIC_RAY"
_EIGHT = np.ones((3, 3), dtype=int)
_LARGE = 4
"""Pixels of a large hit."""

_STAR_SNR = 20.0
_STAR_REACH = 3


def sample(image: Image) -> Table:
    """Return one row per true hit, marked pixel, true pixel and star, with `kind` and `yes`."""
    marked, artifacts = image.measured.cosmic_rays, image.truth.artifacts
    if marked is None or artifacts is None:
        return Table({"kind": np.empty(0, dtype="U16"), "yes": np.empty(0, dtype=bool)})
    true = mask_of(artifacts, [_RAYS])
    labels, n = ndimage.label(true, structure=_EIGHT)
    sizes = np.bincount(labels[true], minlength=n + 1)[1:]
    found = np.bincount(labels[true & marked], minlength=n + 1)[1:] > 0
    other = mask_of(artifacts, [name for name in artifacts.schema.names if name != _RAYS])
    near_true, near_other = (ndimage.binary_dilation(which, structure=_EIGHT) for which in (true, other))
    false = marked & ~near_true & ~near_other
    columns = {
        "hits": found,
        "large_hits": found[sizes >= _LARGE],
        "pixels": marked[true],
        "marked_false": false[marked],
        "marked_other": (near_other & ~near_true)[marked],
        "stars_harmed": _harmed(image, false),
    }
    return Table(
        {
            "kind": np.concatenate([np.full(len(yes), name, dtype="U16") for name, yes in columns.items()]),
            "yes": np.concatenate(list(columns.values())),
        }
    )


def _harmed(image: Image, false: np.ndarray) -> np.ndarray:
    """Return which bright stars have falsely marked pixels near the centre."""
    truth = image.truth
    stars = image.on_image & truth["is_star"].astype(bool) & ~truth["saturated"].astype(bool)
    stars &= truth["snr"] >= _STAR_SNR
    x, y = nearest_pixels(truth, truth["x"][stars], truth["y"][stars])
    return np.asarray(ndimage.maximum_filter(false, size=2 * _STAR_REACH + 1)[y, x])


def numbers(table: Table) -> list[Number]:
    """Return fractions of hits and pixels found, and of what was marked falsely."""
    kind, yes = np.asarray(table["kind"]), np.asarray(table["yes"])
    result = []
    for name, key, sense in (
        ("hits", "hits_found", Sense.LARGER),
        ("large_hits", "large_hits_found", Sense.LARGER),
        ("pixels", "pixels_found", Sense.LARGER),
        ("marked_false", "marked_false", Sense.SMALLER),
        ("marked_other", "marked_other_artifacts", Sense.SMALLER),
        ("stars_harmed", "stars_harmed", Sense.SMALLER),
    ):
        result += fraction(f"cosmic_rays.{key}", yes[kind == name], sense=sense)
    return result
