"""The aperture correction of the PSF flux against the right one.

Right is the factor that makes the PSF flux of a noiseless star equal to what it has within the aperture that
the calibration flux stands for. Both are worked out on the stamp of the true PSF: the PSF flux with the
system's own model. So the difference is that of the fitted map alone, and not that of the model.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import numpy as np
from astropy.table import Table

from secondlight.photometry.apertures import psf_aperture_flux

from ..expected import psf_stamps, true_psf_fluxes
from ..matching import Image
from ..numbers import Number, median, width

_MOST = 200
"""Stars per image; more tell nothing new of a smooth map."""


def sample(image: Image) -> Table:
    """Return applied and right corrections at the matched stars."""
    measured, truth = image.measured, image.truth
    table = Table({"applied": np.empty(0), "right": np.empty(0)})
    name = measured.psf_flux
    if name not in measured.corrections or None in (measured.psf, truth.psf, measured.calibration_radius):
        return table
    objects, sources = image.matches()
    stars = truth["is_star"][objects].astype(bool) & np.isfinite(measured.corrections[name][sources])
    sources = sources[stars][:: max(1, int(stars.sum()) // _MOST)]
    if not len(sources):
        return table
    x, y = measured.x[sources], measured.y[sources]
    true = psf_stamps(truth.psf, x, y)
    enclosed = psf_aperture_flux(true, measured.calibration_radius)
    right = enclosed / true_psf_fluxes(psf_stamps(measured.psf, x, y), true)
    return Table({"applied": measured.corrections[name][sources], "right": right})


def numbers(table: Table) -> list[Number]:
    """Return the median and scatter of the magnitude difference."""
    difference = -2.5e3 * np.log10(np.asarray(table["applied"]) / np.asarray(table["right"]))
    result = median("aperture_correction.psf.bias", difference, unit="mmag")
    return result + width("aperture_correction.psf.scatter", difference, unit="mmag")
