"""Published summary statistics of each image against what they stand for.

The size of the PSF at the middle of the image, its effective area, the mean sky, the noise of an empty pixel,
the zero point, and the limiting magnitude: where a point source reaches a signal-to-noise ratio of 5 on the
true sky with the true PSF. Differences are published minus true. Beside it the limiting magnitude by the
published errors of PSF fluxes on empty sky: published minus that.
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
from ..expected import psf_stamps
from ..matching import Image
from ..numbers import Number, Sense, median_of_images, width

_LIMIT_SNR = 5.0
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
    true = true_statistics(truth)
    row = dict.fromkeys(_UNITS, math.nan)
    for name, value in measured.statistics.items():
        if name in ("zeroPoint", "magLim"):
            row[name] = 1e3 * (value - true[name])
        else:
            row[name] = 1e2 * (value / true[name] - 1.0)
    row["magLim_by_sky_objects"] = 1e3 * (measured.statistics.get("magLim", math.nan) - _sky_limit(image))
    return Table({name: [row[name]] for name in _UNITS})


def true_statistics(truth: Truth) -> dict[str, float]:
    """Return what the statistics of an image should be."""
    assert truth.psf is not None
    middle = (np.array([0.5 * (side.min + side.max)]) for side in (truth.bbox.x, truth.bbox.y))
    stamp = psf_stamps(truth.psf, *middle)
    area = float(1.0 / (stamp[0] ** 2).sum())
    sky = math.nan if truth.background is None else float(truth.background.mean())
    # On a unit gain a background of the square of the noise has that noise.
    unit = 1.0 if math.isinf(truth.gain) else truth.gain
    limit = limiting_magnitude(
        psf_area=area,
        sky_background=truth.noise**2 * unit,
        zero_point=truth.zero_point,
        read_noise=0.0,
        gain=unit,
        signal_to_noise=_LIMIT_SNR,
    )
    return {
        "psfSigma": float(determinant_radius(stamp_shapes(stamp)[0])),
        "psfArea": area,
        "skyBg": sky,
        "skyNoise": truth.noise,
        "zeroPoint": truth.zero_point,
        "magLim": limit,
    }


def _sky_limit(image: Image) -> float:
    """Return the magnitude of 5 times the median error of the PSF flux of sky objects."""
    name = image.measured.psf_flux
    if name is None or name not in image.measured.sky_fluxes:
        return math.nan
    error = image.measured.sky_fluxes[name][1]
    error = error[np.isfinite(error) & (error > 0)]
    return -2.5 * math.log10(_LIMIT_SNR * float(np.median(error)) / AB_FLUX_NJY) if len(error) else math.nan


def numbers(table: Table) -> list[Number]:
    """Return medians and scatters over the images."""
    result = []
    for name, unit in _UNITS.items():
        values, key = np.asarray(table[name]), f"statistics.{name}"
        result += median_of_images(f"{key}.bias", values, sense=Sense.TARGET, unit=unit)
        result += width(f"{key}.scatter", values, unit=unit)
    return result
