"""Colours of stars against the true ones.

Isolated stars (contamination below 0.01) with a signal-to-noise ratio above 50 in a visit; in each band the
mean of the published PSF magnitudes of all visits. Expected is the scatter by the published errors alone, and
excess what there is beyond it. The offset holds the zero points of both bands.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import itertools

import numpy as np
from astropy.table import Table

from ..matching import Image
from ..numbers import Number, Sense, expected_width, intrinsic_scatter, median, width
from ..populations import CROWDING
from .repeatability import magnitude_errors

_MIN_SNR = 50.0
_BANDS = "ugrizy"
"""From blue to red; others follow in the order of the alphabet."""


def sample(image: Image) -> Table:
    """Return errors of the magnitudes of bright isolated stars (mmag), and what they are expected to be."""
    truth = image.truth
    objects, sources = image.matches()
    good = truth["is_star"][objects].astype(bool) & (truth["snr"][objects] >= _MIN_SNR)
    good &= truth["contamination"][objects] < CROWDING["isolated"][1]
    objects, sources = objects[good], sources[good]
    table = Table()
    table["object_id"] = truth["object_id"][objects]
    table["band"] = np.full(len(objects), image.measured.band, dtype="U16")
    table["error"], table["expected"] = magnitude_errors(image, image.measured.psf_flux, objects, sources)
    return table[np.isfinite(np.asarray(table["error"]))]


def numbers(table: Table) -> list[Number]:
    """Return offset and scatter of the colour of each pair of neighbouring bands."""
    band = np.asarray(table["band"])
    bands = sorted(set(band.tolist()), key=lambda name: (_BANDS.find(name) % (len(_BANDS) + 1), name))
    means = {name: _means(table[band == name]) for name in bands}
    result = []
    for blue, red in itertools.pairwise(bands):
        both = sorted(means[blue].keys() & means[red].keys())
        error = np.array([means[blue][star][0] - means[red][star][0] for star in both])
        variance = np.array([means[blue][star][1] + means[red][star][1] for star in both])
        key = f"colors.{blue}_{red}"
        result += median(f"{key}.bias", error, unit="mmag")
        result += width(f"{key}.scatter", error, unit="mmag")
        expected = expected_width(np.sqrt(variance))
        if np.isfinite(expected):
            result.append(Number(f"{key}.expected", expected, len(both), None, Sense.NONE, unit="mmag"))
        middle = float(np.median(error)) if len(error) else 0.0
        result += intrinsic_scatter(
            f"{key}.excess", error - middle, variance, np.ones(len(error)), unit="mmag"
        )
    return result


def _means(table: Table) -> dict[int, tuple[float, float]]:
    """Return by star the mean error of its magnitude, and the variance expected of that."""
    stars, row = np.unique(np.asarray(table["object_id"]), return_inverse=True)
    count = np.bincount(row)
    mean = np.bincount(row, weights=table["error"]) / count
    variance = np.bincount(row, weights=np.asarray(table["expected"]) ** 2) / count**2
    return {int(s): (float(m), float(v)) for s, m, v in zip(stars, mean, variance, strict=True)}
