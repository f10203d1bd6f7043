"""Whether the inputs of `UpdateVisitSummaryTask` belong together."""

from __future__ import annotations

__all__ = ("check_same_visit", "check_stars", "warn_of_detectors")

from collections.abc import Collection, Iterable

import numpy as np
from astropy.table import Table
from lsst.utils.logging import LsstLogAdapter

from ..catalog.visit_summary import VisitSummary


def check_same_visit(name: str, other: VisitSummary, summary: VisitSummary) -> None:
    """Check that an input describes the visit of the input summary.

    Raises
    ------
    ValueError
        Raised if visit, instrument or filter differ; names that either does not tell are not compared.
    """
    if other.visit != summary.visit:
        raise ValueError(f"{name} is of visit {other.visit}, expected visit {summary.visit}.")
    for what in ("instrument", "physical_filter"):
        found, expected = getattr(other, what), getattr(summary, what)
        if found and expected and found != expected:
            raise ValueError(
                f"{name} of visit {summary.visit} has {what} {found!r}, the input summary has {expected!r}."
            )


def check_stars(stars: Table, columns: Iterable[str], summary: VisitSummary) -> None:
    """Check that a table of stars has certain columns and is of the visit of the input summary.

    Raises
    ------
    ValueError
        Raised if not.
    """
    missing = sorted({"detector", *columns} - set(stars.colnames))
    if missing:
        raise ValueError(f"psf_star_catalog of visit {summary.visit} lacks the columns {', '.join(missing)}.")
    if "visit" in stars.colnames:
        others = set(np.unique(np.asarray(stars["visit"])).tolist()) - {summary.visit}
        if others:
            raise ValueError(
                f"psf_star_catalog has stars of visit {min(others)}, expected visit {summary.visit}."
            )


def warn_of_detectors(
    log: LsstLogAdapter, name: str, detectors: Collection[int], summary: VisitSummary
) -> None:
    """Warn if an input lacks detectors of the input summary, or has others, which nothing uses."""
    missing = sorted(set(summary.detectors) - set(detectors))
    extra = sorted(set(detectors) - set(summary.detectors))
    if missing:
        log.warning("Visit %d: %s has nothing of the detectors %s.", summary.visit, name, missing)
    if extra:
        log.warning(
            "Visit %d: %s has detectors %s, which the input summary lacks; they are left out.",
            summary.visit, name, extra,
        )  # fmt: skip
