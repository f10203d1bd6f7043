"""Association of the detections of many visits into isolated stars (spec finalize 12)."""

from __future__ import annotations

__all__ = ("StarAssociation", "associate_isolated_stars", "is_isolated", "mean_stars")

import dataclasses
from collections.abc import Callable

import numpy as np

from .matching import friends_of_friends, match_nearest, match_pairs, mean_position


@dataclasses.dataclass(frozen=True)
class StarAssociation:
    """Isolated stars and the detections of each.

    Parameters
    ----------
    ra, dec
        Positions of the stars, degrees.
    primary_band
        Index, in the order of bands, of the band each star was found in.
    source_rows
        Rows of the detections that belong to a star: star by star, in a star band by band, in a band in
        their original order.
    star_index
        Star of each entry of ``source_rows``.
    counts
        Number of detections by star and band, shape (n_stars, n_bands).
    """

    ra: np.ndarray
    dec: np.ndarray
    primary_band: np.ndarray
    source_rows: np.ndarray
    star_index: np.ndarray
    counts: np.ndarray


def associate_isolated_stars(
    ra: np.ndarray,
    dec: np.ndarray,
    *,
    band: np.ndarray,
    visit: np.ndarray,
    n_bands: int,
    match_radius: float,
    isolation_radius: float,
    keep: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> StarAssociation:
    """Find the isolated stars among detections and gather the detections of each.

    Parameters
    ----------
    ra, dec
        Positions of the detections, shape (n,), degrees.
    band
        Index of the band of each detection in the order of preference; negative for a band that is not used.
    visit
        Visit of each detection; a star has at most one detection of a visit, the nearest.
    n_bands
        Number of bands.
    match_radius
        Largest distance between detections of a star, arcsec.
    isolation_radius
        A star with another one within this distance, arcsec, is dropped (and so is the other).
    keep
        Tells which positions (RA and Dec, degrees) of stars are wanted.
    """
    star_ra, star_dec, primary = mean_stars(ra, dec, band=band, n_bands=n_bands, match_radius=match_radius)
    kept = is_isolated(star_ra, star_dec, isolation_radius)
    kept &= keep(star_ra, star_dec)
    star_ra, star_dec, primary = star_ra[kept], star_dec[kept], primary[kept]
    rows, star = _gather(star_ra, star_dec, ra, dec, band=band, visit=visit, match_radius=match_radius)
    counts = np.bincount(star * n_bands + band[rows], minlength=len(star_ra) * n_bands)
    return StarAssociation(star_ra, star_dec, primary, rows, star, counts.reshape(-1, n_bands))


def mean_stars(
    ra: np.ndarray, dec: np.ndarray, *, band: np.ndarray, n_bands: int, match_radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find stars as groups of detections in the most preferred band that has any.

    Parameters
    ----------
    ra, dec, band, n_bands, match_radius
        As for `associate_isolated_stars`.

    Returns
    -------
    ra, dec
        Mean positions of the stars, degrees.
    primary_band
        Index of the band each star was found in.
    """
    star_ra, star_dec, primary = np.empty(0), np.empty(0), np.empty(0, dtype=np.int64)
    for i in range(n_bands):
        in_band = (band == i) & np.isfinite(ra) & np.isfinite(dec)
        if not in_band.any():
            continue
        labels = friends_of_friends(ra[in_band], dec[in_band], match_radius)
        new_ra, new_dec = mean_position(ra[in_band], dec[in_band], labels, int(labels.max()) + 1)
        new = match_nearest(new_ra, new_dec, star_ra, star_dec, match_radius) < 0
        star_ra, star_dec = np.append(star_ra, new_ra[new]), np.append(star_dec, new_dec[new])
        primary = np.append(primary, np.full(np.count_nonzero(new), i))
    return star_ra, star_dec, primary


def is_isolated(ra: np.ndarray, dec: np.ndarray, radius: float) -> np.ndarray:
    """Tell which positions (degrees) have no other one within a radius in arcsec."""
    labels = friends_of_friends(ra, dec, radius)
    return np.asarray(np.bincount(labels, minlength=len(ra))[labels] == 1)


def _gather(
    star_ra: np.ndarray,
    star_dec: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    *,
    band: np.ndarray,
    visit: np.ndarray,
    match_radius: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the detections of each star, sorted by star, band and row, and their stars."""
    used = np.flatnonzero(band >= 0)
    row, star, separation = match_pairs(ra[used], dec[used], star_ra, star_dec, match_radius)
    nearest_star = _first_of_each(row)
    row, star, separation = used[row[nearest_star]], star[nearest_star], separation[nearest_star]
    order = np.lexsort([row, separation, visit[row], star])
    row, star = row[order], star[order]
    nearest_of_visit = _first_of_each(star, visit[row])
    row, star = row[nearest_of_visit], star[nearest_of_visit]
    order = np.lexsort([row, band[row], star])
    return row[order], star[order]


def _first_of_each(*keys: np.ndarray) -> np.ndarray:
    """Tell which entries of sorted keys start a run of equal ones."""
    first: np.ndarray = np.ones(len(keys[0]), dtype=np.bool_)
    first[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return first
