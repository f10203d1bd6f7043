"""Which objects were found.

Objects of a matched-filter signal-to-noise ratio of at least 5 with their centre on the image count,
saturated ones too. Inside are those at least 12 pixels from the edge.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

from collections.abc import Iterator

import numpy as np
from astropy.table import Table

from ..matching import Image
from ..numbers import Bin, Number, Sense, fraction
from ..populations import CROWDING, MAGNITUDES, SNRS, crowding_bins, inside, object_columns

MIN_SNR = 5.0
WELL_SEEN = 10.0
"""Signal-to-noise ratio above which nothing but its neighbours hides an object."""


def sample(image: Image) -> Table:
    """Return the objects that could be found, and whether they were."""
    rows = np.flatnonzero(image.on_image & (image.truth["snr"] >= MIN_SNR))
    table = object_columns(image.truth, rows)
    table["inside"] = inside(image.truth)[rows]
    table["found"] = image.source_of_object[rows] >= 0
    return table


def numbers(table: Table) -> list[Number]:
    """Return fractions of objects found."""
    found = np.asarray(table["found"])
    result = []
    for name, rows, interval in _groups(table):
        result += fraction(f"completeness.{name}", found[rows], sense=Sense.LARGER, bin=interval)
    return result


def _groups(table: Table) -> Iterator[tuple[str, np.ndarray, Bin | None]]:
    snr, mag, contamination = (np.asarray(table[name]) for name in ("snr", "mag", "contamination"))
    star = np.asarray(table["is_star"])
    well_seen = snr >= WELL_SEEN
    far = np.asarray(table["inside"])
    isolated = contamination < CROWDING["isolated"][1]
    for kind, of_kind in (("all", np.ones_like(star)), ("stars", star), ("galaxies", ~star)):
        yield f"{kind}.snr_above_{MIN_SNR:g}", of_kind, None
        yield f"{kind}.snr_above_{WELL_SEEN:g}", of_kind & well_seen, None
        yield f"{kind}.inside.snr_above_{MIN_SNR:g}", of_kind & far, None
        yield f"{kind}.inside.snr_above_{WELL_SEEN:g}", of_kind & well_seen & far, None
        yield f"{kind}.inside.isolated", of_kind & well_seen & far & isolated, None
        for interval in MAGNITUDES:
            yield f"{kind}.{interval.label}", of_kind & interval.contains(mag), interval
        for interval in SNRS:
            yield f"{kind}.{interval.label}", of_kind & interval.contains(snr), interval
        for name, interval in crowding_bins():
            rows = of_kind & well_seen & interval.contains(contamination)
            yield f"{kind}.crowding_{name}", rows, interval
