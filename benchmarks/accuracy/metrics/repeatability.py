"""How well visits agree on the same stars, and with their true positions.

Isolated stars (contamination below 0.01) with a signal-to-noise ratio above 100; magnitudes by the PSF flux.
The truth is taken from each measurement first, so that motion and variability do not count as scatter.
Absolute offsets on the sky are the errors of the images' WCS where nobody fits it.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

from collections.abc import Iterator

import numpy as np
from astropy.table import Table

from ..matching import Image
from ..numbers import Number, median, width
from ..populations import CROWDING

MIN_SNR = 100.0
_MAS_PER_DEGREE = 3.6e6


def sample(image: Image) -> Table:
    """Return the measurements of bright isolated stars: errors of magnitude (mmag) and position (mas)."""
    measured, truth = image.measured, image.truth
    objects, sources = image.matches()
    good = truth["is_star"][objects].astype(bool) & (truth["snr"][objects] >= MIN_SNR)
    good &= truth["contamination"][objects] < CROWDING["isolated"][1]
    objects, sources = objects[good], sources[good]
    table = Table()
    table["object_id"] = truth["object_id"][objects]
    table["visit"] = np.full(len(objects), measured.visit)
    table["detector"] = np.full(len(objects), measured.detector)
    table["band"] = np.full(len(objects), measured.band, dtype="U16")
    dec = truth["dec"][objects]
    # The shorter way around the circle.
    difference = (measured.ra[sources] - truth["ra"][objects] + 180.0) % 360.0 - 180.0
    table["ra"] = difference * np.cos(np.radians(dec)) * _MAS_PER_DEGREE
    table["dec"] = (measured.dec[sources] - dec) * _MAS_PER_DEGREE
    table["mag"] = np.full(len(objects), np.nan)
    if measured.psf_flux is not None:
        usable = measured.usable(measured.psf_flux)[sources]
        flux = measured.fluxes[measured.psf_flux][0][sources]
        with np.errstate(invalid="ignore", divide="ignore"):
            magnitude_error = -2.5e3 * np.log10(flux / truth["flux"][objects])
        table["mag"] = np.where(usable, magnitude_error, np.nan)
    return table


def numbers(table: Table) -> list[Number]:
    """Return scatters of single measurements about the mean of their star, and offsets of visits."""
    result = []
    for band in np.unique(table["band"]):
        part = table[np.asarray(table["band"]) == band]
        scatter = _about_mean(part, np.asarray(part["mag"]))
        result += width(f"repeatability.{band}.mag", scatter, unit="mmag")
        for axis in ("ra", "dec"):
            offset = np.asarray(part[axis])
            result += width(f"repeatability.{band}.{axis}", _about_mean(part, offset), unit="mas")
            relative = _about_mean(part, offset - _image_medians(part, offset))
            result += width(f"repeatability.{band}.{axis}_relative", relative, unit="mas")
    return result + list(_offsets(table))


def _about_mean(table: Table, values: np.ndarray) -> np.ndarray:
    """Return deviations from the mean of each star seen at least twice, scaled for that mean."""
    finite = np.isfinite(values)
    values = values[finite]
    _, star = np.unique(np.asarray(table["object_id"])[finite], return_inverse=True)
    count = np.bincount(star)
    mean = np.bincount(star, weights=values) / np.maximum(count, 1)
    several = count[star] >= 2
    n = count[star][several]
    return np.asarray((values - mean[star])[several] * np.sqrt(n / (n - 1)))


def _images(table: Table) -> Iterator[tuple[int, int, np.ndarray]]:
    visit, detector = np.asarray(table["visit"]), np.asarray(table["detector"])
    for v, d in np.unique(np.stack([visit, detector], axis=-1), axis=0).reshape(-1, 2):
        yield int(v), int(d), (visit == v) & (detector == d)


def _image_medians(table: Table, values: np.ndarray) -> np.ndarray:
    """Return the median of the image that each row belongs to."""
    result = np.zeros(len(values))
    for _, _, rows in _images(table):
        finite = rows & np.isfinite(values)
        if finite.any():
            result[rows] = np.median(values[finite])
    return result


def _offsets(table: Table) -> Iterator[Number]:
    for axis in ("ra", "dec"):
        values = np.asarray(table[axis])
        for visit in np.unique(table["visit"]):
            rows = np.asarray(table["visit"]) == visit
            yield from median(f"astrometry.offset.visit_{visit}.{axis}", values[rows], unit="mas")
        yield from width(f"astrometry.relative.{axis}", values - _image_medians(table, values), unit="mas")
