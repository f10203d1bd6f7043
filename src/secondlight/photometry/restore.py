"""Between post-ISR counts and published pixels: subtracting the background, and the way back.

Published pixels are ``round(round((counts - background) / ratio) * calibration)``, where everything is
computed in double precision and ``round`` is to single precision.  Undoing this with one rounding at the end
gives the counts to the last bit wherever less than a quarter of them is light of sources: then their last bit
is worth more than all roundings of the rest.  Where sources outshine the background, single precision cannot
hold every value (two counts can share one flux), and some of these pixels come back one unit in the last
place off.  `unrestorable_pixels` lists them, and the pixels that were repaired, so that nothing is lost.
"""

from __future__ import annotations

__all__ = ("Flattening", "restore_counts", "subtract_background", "unrestorable_pixels")

from collections.abc import Iterator
from typing import TypedDict

import astropy.table
import astropy.units as u
import numpy as np
from lsst.images import BackgroundMap, Box, Image, VisitImage

from ..background.fields import render_fields, subtracted_field
from ..catalog.photo_calib import PhotoCalib
from ..catalog.strips import field_values, row_strips
from ..catalog.visit_image import replace_components
from .calibrate import count_unit

_ROUNDING = 1e-3  # a difference below this fraction of the noise is one of rounding
_LARGEST_FRACTION = 0.1


class Flattening(TypedDict, total=False):
    """Arguments that the functions here share."""

    background_to_photometric_ratio: Image | None
    """Background flat over photometric flat, if the image is flattened for sources."""

    initial_photo_calib: PhotoCalib | None
    """Calibration that the background was fitted with, if it is in nJy."""


def subtract_background(
    image: VisitImage,
    background: BackgroundMap,
    *,
    background_to_photometric_ratio: Image | None = None,
    initial_photo_calib: PhotoCalib | None = None,
) -> None:
    """Subtract a background from post-ISR counts and flatten them for sources, in place.

    Parameters
    ----------
    image
        Image in counts, flattened for the background if there is a ratio.
    background
        What to subtract, in counts; in nJy if there is an ``initial_photo_calib``.
    background_to_photometric_ratio
        Background flat over photometric flat: pixels are divided by it, the variance by its square.
    initial_photo_calib
        Calibration that the background was fitted with.  Dividing the background by it is exact also where
        it varies over the image.

    Raises
    ------
    ValueError
        Raised if the background is in other units than expected, or the ratio does not cover the image.
    """
    unit = _background_unit(image.unit, background, initial_photo_calib)
    ratio = _covering(background_to_photometric_ratio, image.bbox)
    pixels, variance = image.image.array, image.variance.array
    for rows, strip in row_strips(image.bbox):
        values = pixels[rows] - _background_counts(background, strip, unit, initial_photo_calib)
        if ratio is not None:
            factor = ratio[strip].array.astype(np.float64)
            values /= factor
            variance[rows] = variance[rows] / factor**2
        pixels[rows] = values


def restore_counts(
    image: VisitImage,
    background: BackgroundMap,
    *,
    background_to_photometric_ratio: Image | None = None,
    initial_photo_calib: PhotoCalib | None = None,
    replaced_pixels: astropy.table.Table | None = None,
) -> VisitImage:
    """Return the post-ISR counts that a published image was made from.

    Parameters
    ----------
    image
        Published image (or a cutout of it), in the units its ``photometric_scaling`` leads to; or an image
        in counts, to which only the background is added.
    background
        What was subtracted, as published with the image.
    background_to_photometric_ratio
        The ratio that the image was flattened with, if any.
    initial_photo_calib
        Calibration that the background was fitted with; needed if the background is in nJy.
    replaced_pixels
        Original values of pixels that cannot be computed, as `unrestorable_pixels` lists them.

    Returns
    -------
    counts
        Image and variance in counts, background included and flattened for the background.  Everything else,
        the mask too, is that of ``image``, but no background is marked as subtracted.  Without
        ``replaced_pixels``, repaired pixels (planes CR and INTRP) keep their repaired values.

    Raises
    ------
    ValueError
        Raised if the image or the background is in other units than expected, or the ratio does not cover
        the image.
    """
    steps = Flattening(
        background_to_photometric_ratio=background_to_photometric_ratio,
        initial_photo_calib=initial_photo_calib,
    )
    pixels, variance = np.empty_like(image.image.array), np.empty_like(image.variance.array)
    for rows, values, factor in _restored_strips(image, background, **steps):
        pixels[rows] = values
        variance[rows] = image.variance.array[rows] / factor**2
    if replaced_pixels is not None:
        _put(pixels, image.bbox, replaced_pixels)
    unit, _ = count_unit(image)
    return replace_components(
        image,
        image=Image(pixels, bbox=image.bbox, unit=unit),
        variance=Image(variance, bbox=image.bbox, unit=unit**2),
        backgrounds=BackgroundMap(image.backgrounds.values()),
    )


def unrestorable_pixels(
    counts: np.ndarray,
    image: VisitImage,
    background: BackgroundMap,
    *,
    background_to_photometric_ratio: Image | None = None,
    initial_photo_calib: PhotoCalib | None = None,
) -> astropy.table.Table:
    """Return the pixels of post-ISR counts that `restore_counts` does not give back to the last bit.

    Parameters
    ----------
    counts
        Post-ISR counts, float32 (height, width).
    image, background, background_to_photometric_ratio, initial_photo_calib
        Arguments of `restore_counts`.

    Returns
    -------
    table
        One row per pixel, ordered by ``y`` and ``x`` (parent pixels), with its ``counts``, and ``replaced``:
        whether another value was put in its place (as opposed to a difference in the last bit).  Where more
        than 10 % of the pixels differ in the last bit, as in images without sky, these are left out, and
        ``exact`` in the metadata is False.
    """
    steps = Flattening(
        background_to_photometric_ratio=background_to_photometric_ratio,
        initial_photo_calib=initial_photo_calib,
    )
    found = [
        _differences(counts[rows], values.astype(np.float32), image.variance.array[rows], factor, rows.start)
        for rows, values, factor in _restored_strips(image, background, **steps)
    ]
    rows, columns, before, rounding = (np.concatenate(parts) for parts in zip(*found, strict=True))
    exact = int(rounding.sum()) <= _LARGEST_FRACTION * counts.size
    listed = np.full(len(rows), True) if exact else ~rounding
    x, y = columns[listed] + image.bbox.x.start, rows[listed] + image.bbox.y.start
    column = astropy.table.Column
    return astropy.table.Table(
        [
            column(x.astype(np.int32), "x", unit=u.pix, description="pixel column"),
            column(y.astype(np.int32), "y", unit=u.pix, description="pixel row"),
            column(before[listed], "counts", unit=count_unit(image)[0], description="post-ISR value"),
            column(~rounding[listed], "replaced", description="another value was put in its place"),
        ],
        meta={"exact": exact},
    )


def _restored_strips(
    image: VisitImage,
    background: BackgroundMap,
    *,
    background_to_photometric_ratio: Image | None,
    initial_photo_calib: PhotoCalib | None,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield rows, their counts (float64), and by what counts were multiplied to get the published pixels."""
    scaling = image.photometric_scaling if image.unit.is_equivalent(u.nJy) else None
    post_isr_unit, unit_factor = count_unit(image)
    unit = _background_unit(post_isr_unit, background, initial_photo_calib)
    ratio = _covering(background_to_photometric_ratio, image.bbox)
    for rows, strip in row_strips(image.bbox):
        factor = np.asarray(1.0) if scaling is None else field_values(scaling, strip)
        if unit_factor != 1.0:
            factor = factor * unit_factor
        if ratio is not None:
            with np.errstate(divide="ignore", invalid="ignore"):  # of pixels that are NaN for that reason
                factor = factor / ratio[strip].array
        values = image.image.array[rows] / factor
        values += _background_counts(background, strip, unit, initial_photo_calib)
        yield rows, values, factor


def _differences(
    before: np.ndarray, after: np.ndarray, variance: np.ndarray, factor: np.ndarray, first_row: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return row, column and original value of pixels that differ, and whether it is by rounding alone."""
    rows, columns = np.nonzero(before != after)
    # What is not a number in both is the same, for once.
    listed = ~(np.isnan(before[rows, columns]) & np.isnan(after[rows, columns]))
    rows, columns = rows[listed], columns[listed]
    noise = np.sqrt(variance[rows, columns]) / np.broadcast_to(factor, before.shape)[rows, columns]
    with np.errstate(invalid="ignore"):
        rounding = np.abs(after[rows, columns] - before[rows, columns]) <= _ROUNDING * noise
    return rows + first_row, columns, before[rows, columns], rounding


def _background_unit(
    counts: u.UnitBase, background: BackgroundMap, initial_photo_calib: PhotoCalib | None
) -> u.UnitBase:
    """Return the unit that a background is expected in, after a check that it can be."""
    expected = counts if initial_photo_calib is None else u.nJy
    unit = subtracted_field(background).unit
    if unit is not None and not unit.is_equivalent(expected):
        hint = "; is initial_photo_calib missing?" if unit.is_equivalent(u.nJy) else ""
        raise ValueError(f"The background is in {unit}, expected {expected}{hint}.")
    return expected


def _covering(ratio: Image | None, bbox: Box) -> Image | None:
    if ratio is not None and not ratio.bbox.contains(bbox):
        raise ValueError(f"background_to_photometric_ratio covers {ratio.bbox}, but the image has {bbox}.")
    return ratio


def _background_counts(
    background: BackgroundMap, strip: Box, unit: u.UnitBase, initial_photo_calib: PhotoCalib | None
) -> np.ndarray:
    """Return the background over some rows in counts, float64."""
    values = render_fields(background, strip, unit=unit)
    return values if initial_photo_calib is None else values / initial_photo_calib.render(strip)


def _put(pixels: np.ndarray, bbox: Box, table: astropy.table.Table) -> None:
    """Write the counts of a table of pixels, as far as they are in a box."""
    columns = np.asarray(table["x"]) - bbox.x.start
    rows = np.asarray(table["y"]) - bbox.y.start
    inside = (columns >= 0) & (columns < bbox.x.size) & (rows >= 0) & (rows < bbox.y.size)
    pixels[rows[inside], columns[inside]] = np.asarray(table["counts"])[inside]
