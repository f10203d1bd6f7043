"""Images a band of rows at a time: double precision in little memory."""

from __future__ import annotations

__all__ = ("field_values", "row_strips")

from collections.abc import Iterator

import numpy as np
from lsst.images import Box
from lsst.images.fields import Field

_STRIP = 256


def row_strips(bbox: Box) -> Iterator[tuple[slice, Box]]:
    """Yield bands of rows, as rows of an array and as pixels."""
    for start in range(0, bbox.y.size, _STRIP):
        first, last = bbox.y.start + start, min(bbox.y.start + start + _STRIP, bbox.y.stop)
        yield slice(start, start + _STRIP), Box.factory[first:last, bbox.x.start : bbox.x.stop]


def field_values(field: Field, bbox: Box) -> np.ndarray:
    """Return a field over the pixels of a box, float64 (height, width), or () if it is constant."""
    if field.is_constant:
        return np.asarray(field(x=float(bbox.x.start), y=float(bbox.y.start)), dtype=np.float64)
    return np.asarray(field.render(bbox, dtype=np.float64).array)
