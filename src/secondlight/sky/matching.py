"""Matching of positions on the sphere.

Positions are degrees, radii and separations arcsec. Distances are those of unit vectors, so neither RA 0 nor
the poles are special. Positions that are not numbers never match.
"""

from __future__ import annotations

__all__ = (
    "angular_separation",
    "friends_of_friends",
    "match_nearest",
    "match_pairs",
    "mean_position",
    "unit_vectors",
)

import numpy as np
from numba import njit
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return the unit vectors, shape (n, 3), of positions in degrees."""
    lon = np.radians(np.asarray(ra, dtype=np.float64))
    lat = np.radians(np.asarray(dec, dtype=np.float64))
    cos = np.cos(lat)
    return np.stack([cos * np.cos(lon), cos * np.sin(lon), np.sin(lat)], axis=-1)


def angular_separation(chord: np.ndarray) -> np.ndarray:
    """Return the angles in arcsec between unit vectors that are ``chord`` apart."""
    return np.degrees(2 * np.arcsin(np.clip(0.5 * chord, 0.0, 1.0))) * 3600


def match_pairs(
    ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray, radius_arcsec: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find all pairs of positions within a radius.

    Parameters
    ----------
    ra1, dec1
        First positions, shape (n,), degrees.
    ra2, dec2
        Second positions, shape (m,), degrees.
    radius_arcsec
        Largest separation of a pair, arcsec.

    Returns
    -------
    index1, index2
        Rows of each pair, int64, ordered by the first row, then the separation, then the second row.
    separation
        Separation of each pair, arcsec.
    """
    rows1, tree1 = _tree(ra1, dec1)
    rows2, tree2 = _tree(ra2, dec2)
    found = tree1.sparse_distance_matrix(tree2, _chord(radius_arcsec), output_type="ndarray")
    index1, index2, chord = rows1[found["i"]], rows2[found["j"]], found["v"]
    order = np.lexsort([index2, chord, index1])
    return index1[order], index2[order], angular_separation(chord[order])


def match_nearest(
    ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray, radius_arcsec: float
) -> np.ndarray:
    """Find the nearest second position of each first one.

    Parameters
    ----------
    ra1, dec1, ra2, dec2, radius_arcsec
        As for `match_pairs`.

    Returns
    -------
    index2
        Row of the nearest second position, shape (n,), int64; the first of those equally near, -1 where none
        is within the radius.
    """
    index1, index2, _ = match_pairs(ra1, dec1, ra2, dec2, radius_arcsec)
    matched, first = np.unique(index1, return_index=True)
    nearest = np.full(len(np.atleast_1d(ra1)), -1, dtype=np.int64)
    nearest[matched] = index2[first]
    return nearest


def friends_of_friends(ra: np.ndarray, dec: np.ndarray, radius_arcsec: float) -> np.ndarray:
    """Group positions that are linked by steps no longer than a radius.

    Groups are transitive: two positions are in the same group if and only if some chain of positions, each
    within the radius of the next, joins them.

    Parameters
    ----------
    ra, dec
        Positions, shape (n,), degrees.
    radius_arcsec
        Length of a link, arcsec.

    Returns
    -------
    labels
        Group of each position, shape (n,), int64, numbered from 0 in the order of their first members. A
        position that is not a number is a group of its own.

    Notes
    -----
    A survey sees the same star hundreds of times, which makes the number of pairs explode. So positions are
    first put into cubic cells whose diagonal is the radius: all in a cell are friends. Then only cells whose
    first members are within three radii can be linked, and one pair of friends links them.
    """
    n = len(np.atleast_1d(ra))
    labels = np.arange(n, dtype=np.int64)
    vectors = unit_vectors(np.atleast_1d(ra), np.atleast_1d(dec))
    rows = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    if len(rows) == 0:
        return labels
    chord = _chord(radius_arcsec)
    vectors = vectors[rows]
    # The cell is a little small, so that rounding cannot make strangers friends.
    key = np.floor(vectors / (chord / np.sqrt(3.0) * (1 - 1e-9))).astype(np.int64) if chord > 0 else vectors
    _, first, cell = np.unique(key, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(cell, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(cell))])
    candidates = cKDTree(vectors[first]).query_pairs(3 * chord * (1 + 1e-9), output_type="ndarray")
    linked = _linked_cells(vectors[order], starts, candidates, chord)
    i, j = candidates[linked].T
    graph = coo_array((np.ones(len(i), dtype=np.bool_), (i, j)), shape=(len(first), len(first)))
    groups = connected_components(graph, directed=False)[1]
    earliest = np.full(groups.max() + 1, n, dtype=np.int64)
    np.minimum.at(earliest, groups, first)
    labels[rows] = rows[earliest[groups[cell]]]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def mean_position(
    ra: np.ndarray, dec: np.ndarray, labels: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the unweighted mean direction of groups of positions.

    Parameters
    ----------
    ra, dec
        Positions, shape (n,), degrees.
    labels
        Group of each position, from 0.
    n_groups
        Number of groups; each must have a member.

    Returns
    -------
    ra, dec
        Means, shape (n_groups,), degrees; RA in [0, 360).
    """
    x, y, z = (np.bincount(labels, weights=v, minlength=n_groups) for v in unit_vectors(ra, dec).T)
    mean_ra = np.degrees(np.arctan2(y, x)) % 360.0
    return np.where(mean_ra < 360.0, mean_ra, 0.0), np.degrees(np.arctan2(z, np.hypot(x, y)))


def _chord(radius_arcsec: float) -> float:
    """Return the distance of two unit vectors at an angle in arcsec."""
    if not radius_arcsec >= 0:
        raise ValueError(f"A match radius must be a number of arcsec, zero or more, not {radius_arcsec}.")
    return float(2 * np.sin(0.5 * np.radians(min(radius_arcsec / 3600, 180.0))))


def _tree(ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, cKDTree]:
    """Return the rows whose positions are numbers and a tree of their unit vectors."""
    vectors = unit_vectors(np.atleast_1d(ra), np.atleast_1d(dec))
    rows = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    return rows, cKDTree(vectors[rows])


@njit(cache=True, nogil=True)
def _linked_cells(vectors, starts, candidates, chord):  # type: ignore[no-untyped-def]
    """Tell which pairs of cells hold two points, one in each, within a distance.

    Parameters
    ----------
    vectors
        Points in the order of their cells, float64 (n, 3).
    starts
        First point of each cell and, last, n; int64 (n_cells + 1,).
    candidates
        Pairs of cells, int64 (n_pairs, 2).
    chord
        Largest distance.

    Returns
    -------
    linked
        bool (n_pairs,).
    """
    linked = np.zeros(len(candidates), dtype=np.bool_)
    limit = chord * chord
    for pair in range(len(candidates)):
        a, b = candidates[pair, 0], candidates[pair, 1]
        for i in range(starts[a], starts[a + 1]):
            for j in range(starts[b], starts[b + 1]):
                dx = vectors[i, 0] - vectors[j, 0]
                dy = vectors[i, 1] - vectors[j, 1]
                dz = vectors[i, 2] - vectors[j, 2]
                if dx * dx + dy * dy + dz * dz <= limit:
                    linked[pair] = True
                    break
            if linked[pair]:
                break
    return linked
