"""Comparing two source tables column by column, each kind of column with its own tolerance."""

from __future__ import annotations

__all__ = ("ColumnAgreement", "compare_columns", "format_agreement")

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class ColumnAgreement:
    """How one column compares: the fraction of rows within tolerance; 0 if we do not have the column."""

    name: str
    rows: int
    fraction: float
    missing: bool = False


def _error_of(name: str, reference: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the error column that belongs to a value column, if there is one."""
    for candidate in (
        f"{name}Err",
        name.replace("_flux", "_fluxErr"),
        name.replace("_instFlux", "_instFluxErr"),
    ):
        if candidate != name and candidate in reference:
            return np.asarray(reference[candidate], dtype=float)
    return None


def _within(name: str, ours: np.ndarray, reference: np.ndarray, error: np.ndarray | None) -> np.ndarray:
    """Return which values agree: flags and integers exactly, positions to 1e-3 px, the rest to 1e-3."""
    if reference.dtype.kind in "biuUS":
        return np.asarray(ours == reference)
    both_nan = np.isnan(ours) & np.isnan(reference)
    with np.errstate(invalid="ignore"):
        difference = np.abs(ours - reference)
        tolerance = 1e-3 * np.abs(reference)
        if name.endswith(("_x", "_y")):
            tolerance = np.full(reference.shape, 1e-3)
        elif name in ("coord_ra", "coord_dec"):
            tolerance = np.full(reference.shape, 1e-3 * 0.2 / 206265)
        elif name.endswith("_xy"):
            tolerance = np.maximum(tolerance, 1e-3)
        if error is not None:
            tolerance = np.fmax(tolerance, 0.02 * error)
        return np.asarray(both_nan | (difference <= tolerance + 1e-12))


def compare_columns(
    ours: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    names: Iterable[str],
    *,
    rows: np.ndarray | None = None,
) -> list[ColumnAgreement]:
    """Compare columns of two tables whose rows correspond.

    Parameters
    ----------
    ours, reference
        Columns of the same length.
    names
        Columns to compare.
    rows
        Which rows count, bool; by default all.
    """
    result = []
    for name in names:
        expected = np.asarray(reference[name])
        count = int(len(expected) if rows is None else rows.sum())
        if name not in ours:
            result.append(ColumnAgreement(name, count, 0.0, missing=True))
            continue
        agree = _within(name, np.asarray(ours[name]), expected, _error_of(name, reference))
        agree = agree if rows is None else agree[rows]
        result.append(ColumnAgreement(name, count, float(agree.mean()) if count else np.nan))
    return result


def format_agreement(columns: Iterable[ColumnAgreement]) -> str:
    """Return a readable table, worst columns first, missing ones last."""
    present = sorted((c for c in columns if not c.missing), key=lambda c: c.fraction)
    lines = [f"{c.fraction:7.4f}  {c.name}" for c in present]
    absent = [c.name for c in columns if c.missing]
    return "\n".join([*lines, f"{len(absent)} columns we do not have: {', '.join(absent)}"])
