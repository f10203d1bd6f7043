"""The truth about every object of a simulated image, and how hard it is to measure."""

from __future__ import annotations

__all__ = ("light_statistics", "make_truth")

from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table

from ..catalog.photo_calib import AB_FLUX_NJY
from .objects import Observed
from .render import Light, draw_stamps, stamp_origin

_STAMP = 48
"""Side of the stamps on which signal-to-noise ratio and contamination are computed, pixels."""

_BATCH = 1000
_MIN_SNR = 2.0
"""Below this signal-to-noise ratio nothing is computed: the object is texture of the sky."""

_BRIGHTEST_REACH = 1
"""The brightest pixel is looked for this far from an object's nearest pixel."""


def light_statistics(light: Light, total: np.ndarray, *, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how well each object can be seen in the total light of an image.

    Parameters
    ----------
    light
        The objects.
    total
        Expected light of all objects without the sky, electrons, float64 (h, w).
    noise
        Standard deviation of an empty pixel, electrons.

    Returns
    -------
    snr
        Signal-to-noise ratio of the matched filter on the noise of the sky alone, ``sqrt(sum s^2) / noise``
        with ``s`` the object's own light; NaN below 2.
    contamination
        ``sum s (total - s) / sum s^2``: the relative change of a matched-filter flux by the other objects;
        NaN where ``snr`` is.
    """
    size = _STAMP
    padded = np.pad(total, size)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    snr, contamination = np.full((2, len(light.x)), np.nan)
    worth = np.nonzero(_upper_limit(light) >= _MIN_SNR * noise)[0]
    for start in range(0, len(worth), _BATCH):
        rows = worth[start : start + _BATCH]
        batch = light[rows]
        stamps = draw_stamps(batch, size)
        x0, y0 = stamp_origin(batch, size)
        # Positions far outside share the empty border of the padded image.
        x0 = np.clip(x0, -size, total.shape[1])
        y0 = np.clip(y0, -size, total.shape[0])
        around = windows[y0 + size, x0 + size]
        squares = np.einsum("nij,nij->n", stamps, stamps)
        snr[rows] = np.sqrt(squares) / noise
        contamination[rows] = np.einsum("nij,nij->n", stamps, around) / squares - 1.0
    faint = ~(snr >= _MIN_SNR)
    snr[faint] = contamination[faint] = np.nan
    return snr, contamination


def _upper_limit(light: Light) -> np.ndarray:
    """Return an upper limit of ``sqrt(sum s^2)``: that of the bare atmosphere, taken as a Gaussian.

    A Gaussian of the same width is more concentrated than the profiles of the atmosphere.
    """
    sigma = light.psf[:, 0] / (2.0 * np.sqrt(2.0 * np.log(2.0)))
    return np.asarray(light.flux / (2.0 * np.sqrt(np.pi) * sigma))


def make_truth(
    objects: Table,
    observed: Observed,
    light: Light,
    expected: np.ndarray,
    *,
    total: np.ndarray,
    gain: float,
    noise: float,
    full_well: float,
    pixel_scale: float,
    meta: dict[str, Any],
) -> Table:
    """Return the truth table of a detector and visit, one row per object whose light is on the detector.

    Parameters
    ----------
    objects, observed, light
        The objects, what they are at the time of the visit, and their light on this detector; aligned.
    expected
        Expected electrons of one snap, sky included, float64 (h, w).
    total
        Expected light of all objects in all snaps without the sky, electrons, float64 (h, w).
    gain, noise, full_well
        Electrons per count, standard deviation of an empty pixel, electrons a pixel holds.
    pixel_scale
        Arcseconds per pixel.
    meta
        What goes into the table's metadata.
    """
    table = Table(meta=meta)
    snr, contamination = light_statistics(light, total, noise=noise)
    peak = _brightest(expected, light.x, light.y)
    _add(table, "object_id", objects["object_id"], None, "id of the object, the same in all visits")
    _add(table, "is_star", objects["is_star"], None, "is the object a star?")
    _add(table, "ra", observed.ra, u.deg, "right ascension at the time of the visit, ICRS")
    _add(table, "dec", observed.dec, u.deg, "declination at the time of the visit, ICRS")
    _add(table, "x", light.x, u.pix, "column of the centre")
    _add(table, "y", light.y, u.pix, "row of the centre")
    _add(table, "mag", observed.mag, u.mag, "AB magnitude above the atmosphere")
    _add(table, "flux", AB_FLUX_NJY * 10 ** (-0.4 * observed.mag), u.nJy, "flux above the atmosphere")
    _add(table, "counts", light.flux / gain, u.ct, "total counts in the image (all snaps)")
    _add(table, "g_i", objects["g_i"], u.mag, "colour g - i")
    radius = np.asarray(objects["half_light_radius"]) / pixel_scale
    _add(table, "half_light_radius", radius, u.pix, "half-light radius before the PSF; 0 for a star")
    for name in ("e1", "e2"):
        _add(table, name, objects[name], None, f"reduced shear of the shape on the sky, component {name[-1]}")
    _add(table, "bulge_fraction", objects["bulge_fraction"], None, "share of the bulge in the light")
    _add(table, "snr", snr, None, "matched-filter signal-to-noise ratio on sky noise alone; NaN below 2")
    _add(
        table, "contamination", contamination, None, "relative change of a matched-filter flux by neighbours"
    )
    _add(table, "peak", peak, u.electron, "brightest expected pixel of a snap at the centre, with the sky")
    _add(table, "saturated", peak >= full_well, None, "does the centre hold more than the full well?")
    return table


def _add(table: Table, name: str, values: Any, unit: u.UnitBase | None, description: str) -> None:
    """Append a column, without the unit it may have had before."""
    table[name] = np.array(values)
    table[name].unit = unit
    table[name].description = description


def _brightest(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the largest pixel near each position; NaN outside the image."""
    height, width = image.shape
    i, j = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    inside = (i >= 0) & (i < width) & (j >= 0) & (j < height)
    brightest = np.full(len(x), np.nan)
    reach = range(-_BRIGHTEST_REACH, _BRIGHTEST_REACH + 1)
    near = [
        image[np.clip(j[inside] + dj, 0, height - 1), np.clip(i[inside] + di, 0, width - 1)]
        for dj in reach
        for di in reach
    ]
    brightest[inside] = np.max(near, axis=0)
    return brightest
