"""Stars told from galaxies, of the objects that were found; extendedness below a half is a star."""

from __future__ import annotations

__all__ = ("numbers", "sample")

from collections.abc import Iterator

import numpy as np
from astropy.table import Table

from ..matching import Image
from ..numbers import Bin, Number, Sense, fraction
from ..populations import MAGNITUDES, object_columns

_CLASS = "class:"
_BRIGHT_SNR = 20.0


def sample(image: Image) -> Table:
    """Return the objects that were found, with the extendedness of each classification."""
    objects, sources = image.matches()
    table = object_columns(image.truth, objects)
    measured = image.measured
    for name, values in {"extendedness": measured.extendedness, **measured.classifications}.items():
        table[_CLASS + name] = np.asarray(values, dtype=np.float64)[sources]
    return table


def numbers(table: Table) -> list[Number]:
    """Return completeness of stars and of galaxies, and contamination of the stars by galaxies."""
    result = []
    star = np.asarray(table["is_star"])
    for column in (name for name in table.colnames if name.startswith(_CLASS)):
        value = np.asarray(table[column])
        called_star, known = value < 0.5, np.isfinite(value)
        name = column.removeprefix(_CLASS)
        for label, rows, interval in _groups(table):
            for kind, truly, called, sense in (
                ("stars_found", star, called_star, Sense.LARGER),
                ("galaxies_found", ~star, ~called_star, Sense.LARGER),
                ("stars_false", called_star, ~star, Sense.SMALLER),
            ):
                which = called[rows & known & truly]
                result += fraction(f"classification.{name}.{kind}.{label}", which, sense=sense, bin=interval)
    return result


def _groups(table: Table) -> Iterator[tuple[str, np.ndarray, Bin | None]]:
    yield f"snr_above_{_BRIGHT_SNR:g}", np.asarray(table["snr"]) >= _BRIGHT_SNR, None
    for interval in MAGNITUDES:
        yield interval.label, interval.contains(np.asarray(table["mag"])), interval
