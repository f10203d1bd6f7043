"""Fluxes of every column: magnitude offset from what is expected, and difference over the quoted error.

Expected is, for an aperture without correction, what the object's own noiseless image has in that aperture,
in counts, so that no zero point enters; for every other flux the total true flux times the error of the
image's zero point (see `calibration`). PSF fluxes of galaxies are listed but not judged: they are not meant
to be total. Biases are of objects with a signal-to-noise ratio of at least 20, pulls of those from 10 to 100
(see `centroids`).

Apertures count as isolated by the matched filter, too: in wide ones there is light of neighbours that were
left whole or not found, and it is part of what is measured here. Programs that add up fractions of pixels
differ from the light within the circle where the circle is small.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import numpy as np
from astropy.table import Table

from ..calibration import zero_point_factor
from ..catalogs import Measured
from ..expected import enclosed_fractions
from ..matching import Image
from ..numbers import Number, Sense, median, width
from ..populations import View, object_columns, views
from .centroids import BIAS_SNR, PULL_SNRS

MIN_SNR = 5.0
_SMALLEST_RATIO = 1e-4
"""Ratios that have no magnitude are taken as this; medians do not care."""

_OFFSET, _PULL = "offset:", "pull:"


def sample(image: Image) -> Table:
    """Return the objects that were found, with magnitude offset (mmag) and pull of each flux or NaN."""
    objects, sources = image.matches()
    bright = image.truth["snr"][objects] >= MIN_SNR
    objects, sources = objects[bright], sources[bright]
    table = object_columns(image.truth, objects)
    if image.measured.psf_flux is not None:
        table.meta["psf_flux"] = image.measured.psf_flux
    for name, expected in _expected(image, objects).items():
        table[_OFFSET + name], table[_PULL + name] = _compare(image.measured, name, sources, expected)
    return table


def _compare(
    measured: Measured, name: str, sources: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    flux, error = (values[sources] for values in measured.fluxes[name])
    usable = measured.usable(name)[sources]
    with np.errstate(invalid="ignore", divide="ignore"):
        offset = -2.5e3 * np.log10(np.maximum(flux / expected, _SMALLEST_RATIO))
        pull = (flux - expected) / error
    return np.where(usable, offset, np.nan), np.where(usable, pull, np.nan)


def _expected(image: Image, objects: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a perfect measurement of each flux gives in the units of the system's fluxes (n)."""
    measured, truth = image.measured, image.truth
    flux = truth["flux"][objects]
    total = flux * zero_point_factor(image)
    expected = {name: total for name in measured.fluxes if name not in measured.aperture_radii}
    if measured.aperture_radii:
        zero_point = truth.zero_point if measured.zero_point is None else measured.zero_point
        scale = 10 ** (-0.4 * (zero_point - truth.zero_point))
        fractions = enclosed_fractions(truth, objects, list(measured.aperture_radii.values()))
        expected |= {
            name: scale * flux * fraction
            for name, fraction in zip(measured.aperture_radii, fractions.T, strict=True)
        }
    return expected


def numbers(table: Table) -> list[Number]:
    """Return biases, scatters, and means and widths of pulls."""
    result = []
    names = [name.removeprefix(_OFFSET) for name in table.colnames if name.startswith(_OFFSET)]
    biased = list(views(table, min_snr=BIAS_SNR))
    pulled = list(views(table, min_snr=PULL_SNRS[0], max_snr=PULL_SNRS[1]))
    for name in names:
        offset, pull = np.asarray(table[_OFFSET + name]), np.asarray(table[_PULL + name])
        key = f"flux.{name}"
        for view in biased:
            judged = _judged(table, name, view)
            sense = Sense.TARGET if judged else Sense.NONE
            part = offset[view.rows]
            result += median(f"{key}.bias.{view.name}", part, sense=sense, unit="mmag", bin=view.bin)
            sense = Sense.SMALLER if judged else Sense.NONE
            result += width(f"{key}.scatter.{view.name}", part, sense=sense, unit="mmag", bin=view.bin)
        for view in pulled:
            sense = Sense.TARGET if _judged(table, name, view) else Sense.NONE
            part = pull[view.rows]
            result += median(f"{key}.pull_mean.{view.name}", part, sense=sense, bin=view.bin)
            result += width(f"{key}.pull_width.{view.name}", part, sense=sense, target=1.0, bin=view.bin)
    return result


def _judged(table: Table, name: str, view: View) -> bool:
    return not (name == table.meta.get("psf_flux") and view.name.startswith("galaxies"))
