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

from ..catalogs import image_number
from ..expected import psf_stamps, true_psf_fluxes
from ..matching import Image
from ..numbers import Number, median, width, with_errors_between_images

_MOST = 200
"""Stars per image; more tell nothing new of a smooth map."""


def sample(image: Image) -> Table:
    """Return applied and right corrections at the matched stars."""
    measured, truth = image.measured, image.truth
    name, model, radius = measured.psf_flux, measured.psf, measured.calibration_radius
    if (
        name is None
        or name not in measured.corrections
        or model is None
        or truth.psf is None
        or radius is None
    ):
        return Table({"applied": np.empty(0), "right": np.empty(0), "image": np.empty(0, dtype=np.int64)})
    corrections = measured.corrections[name]
    objects, sources = image.matches()
    stars = truth["is_star"][objects].astype(bool) & np.isfinite(corrections[sources])
    sources = sources[stars][:: max(1, int(stars.sum()) // _MOST)]
    x, y = measured.x[sources], measured.y[sources]
    true = psf_stamps(truth.psf, x, y)
    right = psf_aperture_flux(true, radius) / true_psf_fluxes(psf_stamps(model, x, y), true)
    images = np.full(len(right), image_number(measured))
    return Table({"applied": corrections[sources], "right": right, "image": images})


def numbers(table: Table) -> list[Number]:
    """Return the median and scatter of the magnitude difference."""
    difference = -2.5e3 * np.log10(np.asarray(table["applied"]) / np.asarray(table["right"]))
    return with_errors_between_images(
        lambda values: (
            median("aperture_correction.psf.bias", values, unit="mmag")
            + width("aperture_correction.psf.scatter", values, unit="mmag")
        ),
        difference,
        np.asarray(table["image"]),
    )
