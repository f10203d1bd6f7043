"""Where half of the stars are found, against the published limiting magnitude.

Isolated stars at least 12 pixels from the edge, by true magnitude minus the limiting magnitude that the image
claims. The fraction found is fitted with an integrated Gaussian. A detection at a signal-to-noise ratio of 5
finds half of the stars that have just that.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import math

import numpy as np
from astropy.table import Table
from scipy.optimize import minimize
from scipy.special import log_ndtr

from ..matching import Image
from ..numbers import Number, Sense
from ..populations import CROWDING, inside

_REACH = 1.5
"""Stars this close to the limit are looked at, mag."""

_MIN_STARS = 30


def sample(image: Image) -> Table:
    """Return magnitudes relative to the limit, and whether each star was found."""
    limit = image.measured.statistics.get("magLim", math.nan)
    truth = image.truth
    stars = image.on_image & inside(truth) & truth["is_star"].astype(bool)
    stars &= truth["contamination"] < CROWDING["isolated"][1]
    difference = truth["mag"] - limit
    rows = np.flatnonzero(stars & (np.abs(difference) < _REACH))
    return Table({"difference": difference[rows], "found": image.source_of_object[rows] >= 0})


def numbers(table: Table) -> list[Number]:
    """Return where half are found (mag), and the width of the transition."""
    difference, found = np.asarray(table["difference"]), np.asarray(table["found"])
    n = len(found)
    if n < _MIN_STARS or found.all() or not found.any():
        return []

    def minus_log_likelihood(parameters: np.ndarray) -> float:
        z = (parameters[0] - difference) / math.exp(parameters[1])
        return -float(np.sum(log_ndtr(np.where(found, z, -z))))

    fit = minimize(minus_log_likelihood, [0.0, math.log(0.3)], method="BFGS")
    where, log_width = fit.x
    where_error, log_width_error = np.sqrt(np.diag(fit.hess_inv))
    width = math.exp(log_width)
    return [
        Number("depth.half_found", float(where), n, float(where_error), Sense.TARGET, 0.0, "mag"),
        Number("depth.width", width, n, width * float(log_width_error), Sense.NONE, 0.0, "mag"),
    ]
