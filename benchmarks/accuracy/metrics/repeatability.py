"""How well visits agree on the same stars, and with their true positions.

Isolated stars (contamination below 0.01) with a signal-to-noise ratio above 100, with the published fluxes:
the PSF flux (``mag``) and the one that zero points are fitted with (``calibration_mag``). The truth is taken
from each measurement first, so that motion and variability do not count as scatter.

Expected is the scatter by the published errors alone, and excess what there is beyond it, of one measurement.
It is given for all stars, for those that the PSF was fitted to, for those held out of that fit, and relative:
after the median of each image is taken out, which leaves what varies within images. Absolute offsets on the
sky are the errors of the images' WCS where nobody fits it.
"""

from __future__ import annotations

__all__ = ("MIN_SNR", "numbers", "sample")

from collections.abc import Iterator

import numpy as np
from astropy.table import Table

from ..catalogs import image_number
from ..matching import Image
from ..numbers import Number, Sense, expected_width, intrinsic_scatter, median, width
from ..populations import CROWDING

MIN_SNR = 100.0
_MAS_PER_DEGREE = 3.6e6
_MMAG = 2.5e3 / np.log(10.0)
_KINDS = {"mag": "mmag", "calibration_mag": "mmag", "ra": "mas", "dec": "mas"}
_OTHER, _FITTED, _RESERVED = "other", "fitted", "reserved"


def sample(image: Image) -> Table:
    """Return the measurements of bright isolated stars: errors of magnitudes (mmag) and positions (mas)."""
    measured, truth = image.measured, image.truth
    objects, sources = image.matches()
    good = truth["is_star"][objects].astype(bool) & (truth["snr"][objects] >= MIN_SNR)
    good &= truth["contamination"][objects] < CROWDING["isolated"][1]
    objects, sources = objects[good], sources[good]
    table = Table()
    table["object_id"] = truth["object_id"][objects]
    table["visit"] = np.full(len(objects), measured.visit)
    table["image"] = np.full(len(objects), image_number(measured))
    table["band"] = np.full(len(objects), measured.band, dtype="U16")
    table["role"] = _roles(image)[sources]
    dec = truth["dec"][objects]
    # The shorter way around the circle.
    difference = (measured.ra[sources] - truth["ra"][objects] + 180.0) % 360.0 - 180.0
    table["ra"] = difference * np.cos(np.radians(dec)) * _MAS_PER_DEGREE
    table["dec"] = (measured.dec[sources] - dec) * _MAS_PER_DEGREE
    for axis, errors in (("ra", measured.ra_err), ("dec", measured.dec_err)):
        unknown = np.full(len(objects), np.nan)
        table[f"{axis}_err"] = unknown if errors is None else errors[sources] * _MAS_PER_DEGREE
    for kind, name in (("mag", measured.psf_flux), ("calibration_mag", measured.calibration_flux)):
        table[kind], table[f"{kind}_err"] = magnitude_errors(image, name, objects, sources)
    return table


def _roles(image: Image) -> np.ndarray:
    """Return what each source is to the fit of the PSF."""
    measured = image.measured
    result = np.full(len(measured), _OTHER, dtype="U8")
    for role, which in ((_FITTED, measured.psf_used), (_RESERVED, measured.psf_reserved)):
        if which is not None:
            result[which] = role
    return result


def magnitude_errors(
    image: Image, name: str | None, objects: np.ndarray, sources: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return measured minus true magnitude and its published error, mmag; NaN where there is none."""
    if name is None or name not in image.measured.fluxes:
        return np.full(len(objects), np.nan), np.full(len(objects), np.nan)
    flux, error = (values[sources] for values in image.measured.fluxes[name])
    usable = image.measured.usable(name)[sources] & (flux > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = -2.5e3 * np.log10(flux / image.truth["flux"][objects])
        return np.where(usable, magnitude, np.nan), np.where(usable, _MMAG * error / flux, np.nan)


def numbers(table: Table) -> list[Number]:
    """Return scatters of single measurements about the mean of their star, and offsets of visits."""
    result = []
    role = np.asarray(table["role"])
    for kind, unit in _KINDS.items():
        values = np.asarray(table[kind])
        relative = values - _image_medians(table, values)
        for band in np.unique(table["band"]):
            rows, key = np.asarray(table["band"]) == band, f"repeatability.{band}.{kind}"
            about_mean = _AboutMean.of(table, values, kind, rows)
            result += width(key, about_mean.scaled, unit=unit)
            result += about_mean.expected(f"{key}_expected", unit)
            within = _AboutMean.of(table, relative, kind, rows)
            if unit == "mas":
                result += width(f"{key}_relative", within.scaled, unit=unit)
            else:
                result += about_mean.excess(f"{key}_excess", unit)
                for name in (_FITTED, _RESERVED):
                    part = _AboutMean.of(table, values, kind, rows & (role == name))
                    result += part.excess(f"{key}_excess.{name}", unit)
            result += within.excess(f"{key}_relative_excess", unit)
    return result + list(_offsets(table))


class _AboutMean:
    """Deviations from the mean of each star that is seen at least twice.

    Parameters
    ----------
    deviations
        Deviations (n).
    variances
        What is expected of their squares (n).
    shares
        ``1 - 1/k`` for a star seen k times: the share of a deviation that the mean does not take (n).
    """

    def __init__(self, deviations: np.ndarray, variances: np.ndarray, shares: np.ndarray) -> None:
        self._deviations, self._variances, self._shares = deviations, variances, shares

    @classmethod
    def of(cls, table: Table, values: np.ndarray, kind: str, rows: np.ndarray) -> _AboutMean:
        rows = np.flatnonzero(rows & np.isfinite(values))
        values, variance = values[rows], np.asarray(table[f"{kind}_err"])[rows] ** 2
        _, star = np.unique(np.asarray(table["object_id"])[rows], return_inverse=True)
        count = np.bincount(star)
        mean = np.bincount(star, weights=values) / np.maximum(count, 1)
        of_mean = np.bincount(star, weights=variance) / np.maximum(count, 1) ** 2
        n = count[star]
        several = n >= 2
        expected = variance * (1.0 - 2.0 / n) + of_mean[star]
        return cls((values - mean[star])[several], expected[several], (1.0 - 1.0 / n)[several])

    @property
    def scaled(self) -> np.ndarray:
        """Deviations as wide as those from the true mean would be (n)."""
        return np.asarray(self._deviations / np.sqrt(self._shares))

    def expected(self, key: str, unit: str) -> list[Number]:
        """Return how wide they are by the errors alone."""
        sigmas = np.sqrt(self._variances / self._shares)
        value = expected_width(sigmas)
        return [Number(key, value, len(sigmas), None, Sense.NONE, unit=unit)] if np.isfinite(value) else []

    def excess(self, key: str, unit: str) -> list[Number]:
        """Return the scatter of one measurement beyond its error."""
        return intrinsic_scatter(key, self._deviations, self._variances, self._shares, unit=unit)


def _image_medians(table: Table, values: np.ndarray) -> np.ndarray:
    """Return the median of the image that each row belongs to."""
    result = np.zeros(len(values))
    image = np.asarray(table["image"])
    for one in np.unique(image):
        finite = (image == one) & np.isfinite(values)
        if finite.any():
            result[image == one] = np.median(values[finite])
    return result


def _offsets(table: Table) -> Iterator[Number]:
    for axis in ("ra", "dec"):
        values = np.asarray(table[axis])
        for visit in np.unique(table["visit"]):
            rows = np.asarray(table["visit"]) == visit
            yield from median(f"astrometry.offset.visit_{visit}.{axis}", values[rows], unit="mas")
        yield from width(f"astrometry.relative.{axis}", values - _image_medians(table, values), unit="mas")
