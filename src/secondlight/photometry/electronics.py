"""Gain and read noise of an image, from wherever it tells them."""

from __future__ import annotations

__all__ = ("Electronics", "electronics_of", "metadata_number")

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import astropy.units as u
from lsst.images import VisitImage


class Electronics(NamedTuple):
    """Read noise in electrons and gain in electrons per count, means over the amplifiers; NaN if unknown."""

    read_noise: float
    gain: float


def electronics_of(image: VisitImage) -> Electronics:
    """Return the electronics of an image.

    Looks, amplifier by amplifier, for the metadata ``LSST ISR GAIN <amp>`` and ``LSST ISR READNOISE <amp>``,
    then at the amplifiers' nominal values.  For a detector without amplifiers the metadata ``GAIN`` and
    ``READ_NOISE`` (electrons) or ``DARK_VARIANCE`` (counts squared) of the whole image are taken.  The gain
    is 1 if the pixels are in electrons already.

    Parameters
    ----------
    image
        Image with its detector and metadata.
    """
    amplifiers = image.detector.amplifiers
    if amplifiers:
        nominal = [amplifier.nominal_calibrations for amplifier in amplifiers]
        gains = [n.gain if n is not None else math.nan for n in nominal]
        noises = [n.read_noise if n is not None else math.nan for n in nominal]
        for i, amplifier in enumerate(amplifiers):
            gains[i] = metadata_number(image.metadata, f"LSST ISR GAIN {amplifier.name}", gains[i])
            noises[i] = metadata_number(image.metadata, f"LSST ISR READNOISE {amplifier.name}", noises[i])
        gain, read_noise = _mean(gains), _mean(noises)
    else:
        gain = metadata_number(image.metadata, "GAIN")
        dark_variance = max(metadata_number(image.metadata, "DARK_VARIANCE"), 0.0)
        read_noise = metadata_number(image.metadata, "READ_NOISE", gain * math.sqrt(dark_variance))
    if image.metadata.get("LSST ISR UNITS") == "electron" or image.unit == u.electron:
        gain = 1.0
    return Electronics(read_noise, gain)


def metadata_number(metadata: Mapping[str, Any], key: str, default: float = math.nan) -> float:
    """Return a number from the metadata of something; the default if it is absent or NaN."""
    value = metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return default
    return float(value)


def _mean(values: list[float]) -> float:
    """Mean of the finite values, NaN if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
