"""Operations on background datasets: rendering, adding, sky level, and the flat-ratio context."""

from __future__ import annotations

__all__ = (
    "background_flat_context",
    "combine_backgrounds",
    "make_background",
    "render_background",
    "render_fields",
    "sky_level",
    "subtracted_field",
    "with_unit",
)

import contextlib
from collections.abc import Iterator

import astropy.units as u
import numpy as np
from lsst.images import BackgroundMap, Box, Image, VisitImage
from lsst.images.fields import Field, SplineField, SumField

from .model import cell_edges
from .rendering import add_field

_ENTRY = "subtracted"
_SKY_CELL = 128


def make_background(field: Field, description: str = "") -> BackgroundMap:
    """Return a background dataset that holds one field, marked as subtracted."""
    result = BackgroundMap()
    result.add(_ENTRY, field, description, is_subtracted=True)
    return result


def subtracted_field(background: BackgroundMap) -> Field:
    """Return the field a background dataset marks as subtracted, or its only field.

    Raises
    ------
    ValueError
        Raised if the dataset is empty, or has several fields and none is marked.
    """
    if background.subtracted is not None:
        return background.subtracted.field
    if len(background) != 1:
        raise ValueError(
            f"A background with {len(background)} fields ({', '.join(background) or 'none'}) does not say "
            "which one is subtracted."
        )
    return next(iter(background.values())).field


def _operands(field: Field) -> tuple[Field, ...]:
    return tuple(field.operands) if isinstance(field, SumField) else (field,)


def _unit_factor(field: Field, unit: u.UnitBase | None) -> float:
    return 1.0 if unit is None or field.unit is None else float(field.unit.to(unit))


def render_background(background: BackgroundMap, bbox: Box) -> np.ndarray:
    """Return the subtracted background over the pixels of a box, float32 (height, width).

    Each field is evaluated in double precision and rounded, and the rounded images are added.
    """
    total = np.zeros(bbox.shape, dtype=np.float32)
    for field in _operands(subtracted_field(background)):
        add_field(total, field, bbox)
    return total


def render_fields(background: BackgroundMap, bbox: Box, *, unit: u.UnitBase | None = None) -> np.ndarray:
    """Return the subtracted background over the pixels of a box, float64 (height, width).

    As `render_background`, but the sum of the rounded images is not rounded again, so that fields may have
    been subtracted one after another or all at once.

    Parameters
    ----------
    background
        What was subtracted.
    bbox
        Pixels.
    unit
        Unit of the result; fields without a unit are taken to have it.
    """
    total = np.zeros(bbox.shape)
    for field in _operands(subtracted_field(background)):
        values = np.zeros(bbox.shape, dtype=np.float32)
        add_field(values, field, bbox)
        factor = _unit_factor(field, unit)
        total += values if factor == 1.0 else values * np.float64(factor)
    return total


def combine_backgrounds(first: BackgroundMap, second: BackgroundMap) -> BackgroundMap:
    """Return the sum of two backgrounds, the fields of the first before those of the second.

    Fields without a unit get that of the others.
    """
    fields = (*_operands(subtracted_field(first)), *_operands(subtracted_field(second)))
    unit = next((field.unit for field in fields if field.unit is not None), None)
    if unit is not None:
        fields = tuple(field * unit if field.unit is None else field for field in fields)
    return make_background(SumField(fields))


def with_unit(background: BackgroundMap, unit: u.UnitBase) -> BackgroundMap:
    """Return a background that marks its field as subtracted and says its unit, by default the given one."""
    field = subtracted_field(background)
    if field.unit is not None and background.subtracted is not None:
        return background
    described = background.subtracted.description if background.subtracted is not None else ""
    return make_background(field if field.unit is not None else field * unit, described)


def sky_level(background: BackgroundMap, *, unit: u.UnitBase | None = None) -> float:
    """Return the sum over the fields of the median of their cells (spec reprocess 20.2, skyBg).

    A spline field knows its cells; any other field is evaluated at the centres of cells of at most 128
    pixels.

    Parameters
    ----------
    background
        What was subtracted.
    unit
        Unit of the result; fields without a unit are taken to have it.
    """
    fields = _operands(subtracted_field(background))
    return float(sum(_median_of_cells(field) * _unit_factor(field, unit) for field in fields))


def _median_of_cells(field: Field) -> float:
    if isinstance(field, SplineField):
        return float(np.nanmedian(field.data))
    box = field.bounds.bbox
    x_edges, y_edges = (cell_edges(interval.size, _SKY_CELL) for interval in (box.x, box.y))
    x = box.x.min + 0.5 * (x_edges[1:] + x_edges[:-1]) - 0.5
    y = box.y.min + 0.5 * (y_edges[1:] + y_edges[:-1]) - 0.5
    xs, ys = np.meshgrid(x, y)
    return float(np.median(field(x=xs, y=ys)))


@contextlib.contextmanager
def background_flat_context(exposure: VisitImage, on: bool, ratio: Image | None) -> Iterator[None]:
    """Multiply an image by the background-to-photometric flat ratio while the context lasts.

    The sky is smooth on a background-flattened image, sources are right on a photometrically flattened one.
    Variance follows with the square of the ratio; the division on exit happens after exceptions too.

    Parameters
    ----------
    exposure
        Image, changed in place.
    on
        Whether to do anything.
    ratio
        Background flat over photometric flat, covering the image.

    Raises
    ------
    RuntimeError
        Raised if the context is on and there is no ratio.
    ValueError
        Raised if the ratio is not an `lsst.images.Image` or does not cover the image.
    """
    if not on:
        yield
        return
    if ratio is None:
        raise RuntimeError(
            "doApplyFlatBackgroundRatio is set, but background_to_photometric_ratio is missing."
        )
    if not isinstance(ratio, Image):
        raise ValueError(f"background_to_photometric_ratio must be an Image, not {type(ratio).__name__}.")
    if not ratio.bbox.contains(exposure.bbox):
        raise ValueError(
            f"background_to_photometric_ratio covers {ratio.bbox}, but the image has {exposure.bbox}."
        )
    factor = ratio[exposure.bbox].array
    exposure.image.array[...] *= factor
    exposure.variance.array[...] *= factor**2
    try:
        yield
    finally:
        exposure.image.array[...] /= factor
        exposure.variance.array[...] /= factor**2
