"""Isolated stars of many tracts as one table for one band, reserved ones marked (spec finalize 2.4)."""

from __future__ import annotations

__all__ = ("IsolatedStars", "concatenate_isolated_stars", "match_ids", "source_columns")

import logging
from collections.abc import Mapping
from typing import NamedTuple

import astropy.table
import numpy as np
import numpy.typing as npt

from .reservation import ReserveIsolatedStarsTask

_LOG = logging.getLogger(__name__)


class IsolatedStars(NamedTuple):
    """Stars and their sources, both with a ``reserved`` column; `None` if there are none."""

    stars: astropy.table.Table | None
    sources: astropy.table.Table | None


def source_columns(id_column: str, *, visit: int | None, detector: int | None) -> list[str]:
    """Return the columns that are needed of a table of isolated-star sources."""
    columns = [id_column, "obj_index"]
    if visit is not None:
        columns.append("visit")
        if detector is not None:
            columns.append("detector")
    return columns


def match_ids(ids: np.ndarray, among: np.ndarray) -> npt.NDArray[np.int64]:
    """Return the position of each id among others: the first if there are more, -1 if there is none."""
    result = np.full(len(ids), -1, dtype=np.int64)
    distinct, first = np.unique(among, return_index=True)
    if len(distinct):
        place = np.minimum(np.searchsorted(distinct, ids), len(distinct) - 1)
        found = distinct[place] == ids
        result[found] = first[place[found]]
    return result


def concatenate_isolated_stars(
    band: str,
    stars: Mapping[int, astropy.table.Table],
    sources: Mapping[int, astropy.table.Table],
    *,
    reserve: ReserveIsolatedStarsTask,
    visit: int | None = None,
    detector: int | None = None,
) -> IsolatedStars:
    """Stack the isolated stars that are seen in a band, and their sources, over tracts.

    Stars are reserved among all stars of the band in their tract, so a star's flag does not depend on the
    visit and detector asked for.

    Parameters
    ----------
    band
        Band label.
    stars
        By tract, one row per star with ``nsource_<band>`` and ``source_cat_index_<band>``.
    sources
        By tract, one row per source with the columns of `source_columns`; ``obj_index`` is the row of its
        star.
    reserve
        Draws the reserved stars.
    visit, detector
        Keep only the sources of this visit, and this detector of it.

    Returns
    -------
    IsolatedStars
        ``obj_index`` of a source is the row of its star in the result; ``source_cat_index_<band>`` of a star
        is the row of its first source in the result (-1 without any) and ``nsource_<band>`` their number.
    """
    star_parts: list[astropy.table.Table] = []
    source_parts: list[astropy.table.Table] = []
    n_stars = n_sources = 0
    for tract in sorted(stars):
        part = _one_tract(band, tract, stars[tract], sources[tract], visit=visit, detector=detector)
        if part is None:
            continue
        star, source = part
        identities = star["isolated_star_id"] if "isolated_star_id" in star.colnames else None
        reserved = reserve.run(len(star), extra=f"{band}_{tract}", identities=identities)
        star["reserved"] = reserved
        source["reserved"] = reserved[source["obj_index"]]
        index = np.asarray(star[f"source_cat_index_{band}"])
        star[f"source_cat_index_{band}"][index >= 0] += n_sources
        source["obj_index"] += n_stars
        n_stars += len(star)
        n_sources += len(source)
        star_parts.append(star)
        source_parts.append(source)
    if not star_parts:
        return IsolatedStars(None, None)
    return IsolatedStars(_stack(star_parts), _stack(source_parts))


def _stack(parts: list[astropy.table.Table]) -> astropy.table.Table:
    return astropy.table.vstack(parts, join_type="exact", metadata_conflicts="silent")


def _one_tract(
    band: str,
    tract: int,
    stars: astropy.table.Table,
    sources: astropy.table.Table,
    *,
    visit: int | None,
    detector: int | None,
) -> tuple[astropy.table.Table, astropy.table.Table] | None:
    """Return the stars of a band in one tract and their sources, with indices into each other."""
    keep = np.ones(len(sources), dtype=np.bool_)
    if visit is not None:
        keep &= np.asarray(sources["visit"]) == visit
        if detector is not None:
            keep &= np.asarray(sources["detector"]) == detector
    if not keep.any():
        _LOG.info("Tract %d has no isolated sources in visit %s (detector %s).", tract, visit, detector)
        return None
    in_band = np.asarray(stars[f"nsource_{band}"]) > 0
    if not in_band.any():
        _LOG.info("Tract %d has no isolated stars in band %s.", tract, band)
        return None
    new_index = np.where(in_band, np.cumsum(in_band) - 1, -1)
    star_of_source = new_index[np.asarray(sources["obj_index"])]
    keep &= star_of_source >= 0
    source = sources[keep]
    source["obj_index"] = star_of_source[keep].astype(source["obj_index"].dtype)
    star = stars[in_band]
    seen, first = np.unique(np.asarray(source["obj_index"]), return_index=True)
    star[f"source_cat_index_{band}"] = np.int32(-1)
    star[f"source_cat_index_{band}"][seen] = first
    counts = np.bincount(np.asarray(source["obj_index"]), minlength=len(star))
    star[f"nsource_{band}"] = counts.astype(stars[f"nsource_{band}"].dtype)
    return star, source
