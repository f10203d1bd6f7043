"""Columns of whole runs against the reference, measured by how much our own runs differ among themselves.

Neighbours are replaced by random noise, so no two runs agree: neither ours with the reference's, nor ours
with each other when the noise has another seed.  A column is in parity if the reference is like one more run
of ours.
"""

from __future__ import annotations

__all__ = ("KINDS", "Spread", "kinds_of", "measure_spread")

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from .agreement import corrected_rows
from .columns import flag_column, is_model_column, tolerance, within

KINDS = ("alone", "blended", "sky")
"""Sources without siblings; parents and children; sky sources."""

_STRICT = 0.99
_STRICT_MODEL = 0.95
_ERRORS = 3.5
_FEWEST = 5

type Columns = Mapping[str, np.ndarray]


def kinds_of(reference: Columns, ours: Columns, *, repaired_alike: bool = False) -> dict[str, np.ndarray]:
    """Return the rows of each of `KINDS`, bool (n).

    Sources with repaired pixels are of no kind, unless ``repaired_alike``.
    """
    sky = np.asarray(reference["sky_source"])
    repaired = np.asarray(reference["base_PixelFlags_flag_cr"]) | np.asarray(ours["base_PixelFlags_flag_cr"])
    blended = (np.asarray(reference["parent"]) != 0) | (np.asarray(reference["deblend_nChild"]) > 0)
    if repaired_alike:
        repaired = np.zeros_like(repaired)
    return {"alone": ~sky & ~blended & ~repaired, "blended": blended & ~repaired, "sky": sky}


@dataclasses.dataclass(frozen=True)
class Spread:
    """How one column of one kind of sources compares.

    Parameters
    ----------
    column, kind
        Name, and one of `KINDS`.
    rows
        Number of sources that are not flagged, and where no listed correction acts on one source.
    agree, seeds
        Fraction within tolerance of the reference, mean of our runs; the same between our runs.
    error
        Statistical error of the difference of the two, from the scatter over the sources.
    offset, offset_error
        Median difference between the mean of our runs and the reference in units of the tolerance, and its
        error; NaN for flags.
    """

    column: str
    kind: str
    rows: int
    agree: float
    seeds: float
    error: float
    offset: float
    offset_error: float

    @property
    def as_often(self) -> bool:
        """Whether we agree with the reference as often as with ourselves.

        Where our runs agree with each other the noise does not matter, and 99 % of the sources have to (95 %
        in columns of models; one may differ).
        """
        if self.seeds == 1:
            least = _STRICT_MODEL if is_model_column(self.column) else _STRICT
            return self.agree * self.rows >= least * self.rows - 1
        return self.agree >= self.seeds - _ERRORS * self.error

    @property
    def unbiased(self) -> bool:
        """Whether the median difference is within the tolerance, or within its error."""
        return not abs(self.offset) > max(1.0, _ERRORS * self.offset_error)

    @property
    def in_parity(self) -> bool:
        """Whether the reference is like one more run of ours."""
        return self.rows == 0 or (self.as_often and self.unbiased)


def measure_spread(
    runs: Sequence[Columns], reference: Columns, names: Sequence[str], kind: str, rows: np.ndarray
) -> list[Spread]:
    """Compare columns of several runs with the reference and with each other.

    Parameters
    ----------
    runs
        Tables that differ in the seed of the noise only.
    reference
        Table with the same sources in its rows.
    names
        Columns to compare.
    kind, rows
        Kind of sources, and which rows are of it, bool (n).
    """
    return [_spread(name, runs, reference, kind, rows) for name in names]


def _spread(name: str, runs: Sequence[Columns], reference: Columns, kind: str, rows: np.ndarray) -> Spread:
    expected = np.asarray(reference[name])
    is_number = expected.dtype.kind == "f"
    usable = rows & ~corrected_rows(name, reference)
    flag = flag_column(name, reference.keys())
    if (
        flag is not None and is_number and kind != "sky"
    ):  # nearly all sky sources are flagged, for their centroids
        usable &= ~np.any([np.asarray(table[flag]) for table in (*runs, reference)], axis=0)
    if not usable.any():
        return Spread(name, kind, 0, *(float("nan"),) * 5)
    ours = [np.asarray(run[name]) for run in runs]
    to_reference = np.mean([within(name, values, reference) for values in ours], axis=0)[usable]
    pairs = itertools.permutations(range(len(runs)), 2)
    among_us = np.mean([within(name, ours[i], runs[j]) for i, j in pairs], axis=0)[usable]
    difference = to_reference - among_us
    offset, offset_error = (
        _offset(ours, expected, tolerance(name, reference), usable) if is_number else (np.nan,) * 2
    )
    return Spread(
        name,
        kind,
        int(usable.sum()),
        float(to_reference.mean()),
        float(among_us.mean()),
        float(difference.std() / np.sqrt(len(difference))),
        offset,
        offset_error,
    )


def _offset(
    ours: Sequence[np.ndarray], expected: np.ndarray, allowed: np.ndarray, rows: np.ndarray
) -> tuple[float, float]:
    """Return the median of the differences in units of the tolerance, and its error."""
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = ((np.mean(ours, axis=0) - expected) / allowed)[rows]
    difference = difference[np.isfinite(difference)]
    if len(difference) < _FEWEST:
        return np.nan, np.nan
    low, median, high = np.percentile(difference, [16, 50, 84])
    return float(median), float(1.253 * 0.5 * (high - low) / np.sqrt(len(difference)))
