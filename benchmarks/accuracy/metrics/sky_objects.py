"""Fluxes measured where there is nothing: zero on average, and as wide as their errors say.

Flags are not looked at, as they are set where there is no maximum to be the centre: leaving these out would
leave those where the noise is high.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import numpy as np
from astropy.table import Table

from ..matching import Image
from ..numbers import Number, Sense, median, width


def sample(image: Image) -> Table:
    """Return flux over error of every sky object, a column per flux, NaN where it is unusable."""
    table = Table()
    for name, (flux, error) in image.measured.sky_fluxes.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            table[name] = np.where(np.isfinite(flux) & (error > 0), flux / error, np.nan)
    return table


def numbers(table: Table) -> list[Number]:
    """Return means and widths of the pulls."""
    result = []
    for name in table.colnames:
        pull = np.asarray(table[name])
        result += median(f"sky_objects.{name}.pull_mean", pull)
        result += width(f"sky_objects.{name}.pull_width", pull, sense=Sense.TARGET, target=1.0)
    return result
