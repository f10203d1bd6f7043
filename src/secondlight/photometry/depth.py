"""Limiting magnitude and effective exposure time (spec reprocess 20.2)."""

from __future__ import annotations

__all__ = ("EffectiveTimeScales", "effective_time_scales", "limiting_magnitude")

import math
from typing import NamedTuple


def limiting_magnitude(
    *,
    psf_area: float,
    sky_background: float,
    zero_point: float,
    read_noise: float,
    gain: float,
    signal_to_noise: float = 5.0,
) -> float:
    """Return the magnitude at which a point source reaches a signal-to-noise ratio.

    NaN for NaN arguments and for a gain that is not positive.

    Parameters
    ----------
    psf_area
        Effective area of the PSF, pixel^2.
    sky_background
        Background per pixel, counts.
    zero_point
        AB magnitude of one count.
    read_noise
        Read noise per pixel, electrons.
    gain
        Electrons per count.
    signal_to_noise
        Ratio to reach.
    """
    if not gain > 0:
        return math.nan
    background = (sky_background / gain + (read_noise / gain) ** 2) * psf_area
    source = signal_to_noise**2 / (2 * gain)
    counts_squared = source**2 + signal_to_noise**2 * background
    if not counts_squared >= 0:
        return math.nan
    counts = source + math.sqrt(counts_squared)
    return zero_point - 2.5 * math.log10(counts) if counts > 0 else math.nan


class EffectiveTimeScales(NamedTuple):
    """Factors by which seeing, sky and throughput change the effective exposure time."""

    psf_sigma: float
    sky_background: float
    zero_point: float


def effective_time_scales(
    *,
    psf_sigma: float,
    sky_background: float,
    zero_point: float,
    exposure_time: float,
    fiducial_psf_sigma: float,
    fiducial_sky_background: float,
    fiducial_zero_point: float,
    max_transparency: float = math.inf,
) -> EffectiveTimeScales:
    """Return the factors relative to fiducial conditions; NaN where an argument is NaN.

    Parameters
    ----------
    psf_sigma, fiducial_psf_sigma
        Determinant radius of the PSF, pixels.
    sky_background
        Background per pixel, counts; its fiducial value is per second.
    zero_point
        AB magnitude of one count; its fiducial value is of one count per second.
    exposure_time
        Exposure time, s.
    fiducial_sky_background, fiducial_zero_point
        Reference values per second.
    max_transparency
        Upper limit of the throughput factor.
    """
    rate = sky_background / exposure_time if exposure_time > 0 else math.nan
    dimming = fiducial_zero_point - zero_point
    dimming += 2.5 * math.log10(exposure_time) if exposure_time > 0 else math.nan
    transparency = 10 ** (-2 * dimming / 2.5)
    return EffectiveTimeScales(
        psf_sigma=(fiducial_psf_sigma / psf_sigma) ** 2 if psf_sigma > 0 else math.nan,
        sky_background=fiducial_sky_background / rate if rate > 0 else math.nan,
        zero_point=transparency if math.isnan(transparency) else min(transparency, max_transparency),
    )
