"""Published summary statistics of each image against what they stand for.

The size of the PSF at the middle of the image, its effective area, the mean sky, the noise of an empty pixel,
the zero point, and the limiting magnitude: where a point source reaches a signal-to-noise ratio of 5 on the
true sky with the true PSF. Differences are published minus true. Counts are those in the aperture that the
calibration flux stands for, so the true zero point is that of the light in it. The limiting magnitude is also
compared with what the published errors of PSF fluxes on empty sky, with the noise of the source, give.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import math

import numpy as np
from astropy.table import Table

from secondlight.catalog.photo_calib import AB_FLUX_NJY
from secondlight.photometry.depth import limiting_magnitude
from secondlight.psf.evaluation import determinant_radius, stamp_shapes

from ..catalogs import Truth
from ..expected import enclosed_fractions, psf_stamps
from ..matching import Image
from ..numbers import Number, Sense, median_of_images, width

_LIMIT_SNR = 5.0
_LARGE_GAIN = 1e9
"""With it the source itself has no noise."""

_STARS = 20
"""The light in the calibration aperture is the mean of this many stars."""
_UNITS = {
    "psfSigma": "%",
    "psfArea": "%",
    "skyBg": "%",
    "skyNoise": "%",
    "zeroPoint": "mmag",
    "magLim": "mmag",
    "magLim_by_sky_objects": "mmag",
}


def sample(image: Image) -> Table:
    """Return one row with the error of every statistic, NaN where it is unknown; none without any."""
    measured, truth = image.measured, image.truth
    if not measured.statistics or truth.psf is None:
        return Table({name: np.empty(0) for name in _UNITS})
    true = true_statistics(truth, measured.calibration_radius)
    row = dict.fromkeys(_UNITS, math.nan)
    for name, value in measured.statistics.items():
        if name in ("zeroPoint", "magLim"):
            row[name] = 1e3 * (value - true[name])
        else:
            row[name] = 1e2 * (value / true[name] - 1.0)
    row["magLim_by_sky_objects"] = 1e3 * (measured.statistics.get("magLim", math.nan) - _sky_limit(image))
    return Table({name: [row[name]] for name in _UNITS})


def true_statistics(truth: Truth, calibration_radius: float | None = None) -> dict[str, float]:
    """Return what the statistics of an image should be; with counts of the light in an aperture, if given."""
    assert truth.psf is not None
    zero_point = truth.zero_point
    if calibration_radius is not None:
        stars = np.flatnonzero(truth["is_star"].astype(bool))[:_STARS]
        zero_point += 2.5 * math.log10(np.mean(enclosed_fractions(truth, stars, [calibration_radius])))
    middle = (np.array([0.5 * (side.min + side.max)]) for side in (truth.bbox.x, truth.bbox.y))
    stamp = psf_stamps(truth.psf, *middle)
    area = float(1.0 / (stamp[0] ** 2).sum())
    sky = math.nan if truth.background is None else float(truth.background.mean())
    limit = _limit(truth, truth.noise * math.sqrt(area), zero_point)
    return {
        "psfSigma": float(determinant_radius(stamp_shapes(stamp)[0])),
        "psfArea": area,
        "skyBg": sky,
        "skyNoise": truth.noise,
        "zeroPoint": zero_point,
        "magLim": limit,
    }


def _limit(truth: Truth, noise: float, zero_point: float) -> float:
    """Return the limiting magnitude where the flux of empty sky has a noise (counts)."""
    # Counts of this gain that have that noise.
    gain = truth.gain if math.isfinite(truth.gain) else _LARGE_GAIN
    return limiting_magnitude(
        psf_area=1.0,
        sky_background=noise**2 * gain,
        zero_point=zero_point,
        read_noise=0.0,
        gain=gain,
        signal_to_noise=_LIMIT_SNR,
    )


def _sky_limit(image: Image) -> float:
    """Return the limiting magnitude by the median error of the PSF flux of sky objects."""
    measured = image.measured
    name, zero_point = measured.psf_flux, measured.zero_point or image.truth.zero_point
    if name is None or name not in measured.sky_fluxes:
        return math.nan
    error = measured.sky_fluxes[name][1]
    error = error[np.isfinite(error) & (error > 0)]
    counts = float(np.median(error)) / AB_FLUX_NJY * 10 ** (0.4 * zero_point) if len(error) else math.nan
    return _limit(image.truth, counts, zero_point)


def numbers(table: Table) -> list[Number]:
    """Return medians and scatters over the images."""
    result = []
    for name, unit in _UNITS.items():
        values, key = np.asarray(table[name]), f"statistics.{name}"
        result += median_of_images(f"{key}.bias", values, sense=Sense.TARGET, unit=unit)
        result += width(f"{key}.scatter", values, unit=unit)
    return result
