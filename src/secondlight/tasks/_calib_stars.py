"""The flags that say which sources the PSF was made from, carried over from the table of its stars."""

from __future__ import annotations

__all__ = (
    "OTHER_CALIB_FLAGS",
    "PSF_FLAGS",
    "CalibStarMatch",
    "check_calib_sources",
    "flag_calib_sources",
    "read_calib_sources",
)

from typing import Any, NamedTuple

import astropy.table
import astropy.units as u
import numpy as np
from lsst.images import SkyProjection

from ..catalog.source_catalog import SourceCatalog
from ..sky.matching import match_nearest

PSF_FLAGS = {
    "calib_psf_candidate": "candidate for the PSF fit",
    "calib_psf_reserved": "kept out of the PSF fit to test it",
    "calib_psf_used": "used in the PSF fit",
}
"""Flags that are carried over, and what they mean."""

OTHER_CALIB_FLAGS = (
    "calib_photometry_used",
    "calib_photometry_reserved",
    "calib_astrometry_used",
    "calib_astrometry_reserved",
)
"""Flags that the final pass declares and never sets."""

_ID_COLUMNS = ("sourceId", "id")
_PIXEL_COLUMNS = ("slot_Centroid_x", "slot_Centroid_y")
_NEEDED = ("detector", "coord_ra", "coord_dec", *PSF_FLAGS)


class CalibStarMatch(NamedTuple):
    """How many rows the table has of the detector, how many of them repeat a star, and how many matched."""

    n_stars: int
    n_repeated: int
    n_matched: int


def read_calib_sources(handle: Any) -> astropy.table.Table:
    """Read what is needed of a stored table of stars, as far as it is there: a visit has a great many stars.

    Parameters
    ----------
    handle
        Handle of the table.
    """
    wanted = {*_NEEDED, *_ID_COLUMNS, *_PIXEL_COLUMNS}
    columns = [name for name in handle.get(component="columns") if name in wanted]
    return handle.get(parameters={"columns": columns})


def check_calib_sources(where: str, table: astropy.table.Table | None) -> None:
    """Refuse a table of stars that lacks columns, or has coordinates that are no angles.

    Raises
    ------
    ValueError
        Raised for either, or if there is no table.
    """
    if table is None:
        raise ValueError(f"{where}: no calib_sources given; expected a table, if need be an empty one.")
    missing = set(_NEEDED) - set(table.colnames)
    if missing:
        raise ValueError(f"{where}: calib_sources lacks the columns {', '.join(sorted(missing))}.")
    for name in ("coord_ra", "coord_dec"):
        unit = table[name].unit
        if unit is not None and not u.Unit(unit).is_equivalent(u.rad):
            raise ValueError(f"{where}: {name} of calib_sources has the unit {unit}; expected an angle.")


def flag_calib_sources(
    sources: SourceCatalog,
    calib_sources: astropy.table.Table,
    *,
    detector: int,
    radius_arcsec: float,
    wcs: SkyProjection[Any] | None = None,
) -> CalibStarMatch:
    """Copy the flags of stars to the sources they are.

    A star and a source match if each is the nearest of the other on the sphere, within the radius.  Sources
    that were split and sky sources match nothing.  A star that the table has twice, by its id, counts once:
    its first row.

    The coordinates of the table are those of the first pass.  Where it has positions in pixels too, these
    are put on the sky by ``wcs``, so that a new astrometric solution does not part stars from their sources.

    Parameters
    ----------
    sources
        Measured sources; `PSF_FLAGS` are set in place, and cleared for all that do not match.
    calib_sources
        Stars, for `check_calib_sources`.
    detector
        Detector of the sources; stars of others are left out.
    radius_arcsec
        Largest distance of a star to its source, arcsec.
    wcs
        Final sky projection of the detector, which the coordinates of the sources come from.
    """
    for name in PSF_FLAGS:
        sources[name] = False
    stars = calib_sources[np.asarray(calib_sources["detector"]) == detector]
    n_stars = len(stars)
    stars = stars[_first_rows(stars)]
    rows = _candidates(sources)
    star_ra, star_dec = _star_positions(stars, wcs)
    ra, dec = (np.degrees(sources[name][rows]) for name in ("coord_ra", "coord_dec"))
    if not len(stars) or not len(rows):
        return CalibStarMatch(n_stars, n_stars - len(stars), 0)
    nearest_row = match_nearest(star_ra, star_dec, ra, dec, radius_arcsec)
    nearest_star = match_nearest(ra, dec, star_ra, star_dec, radius_arcsec)
    mutual = (nearest_row >= 0) & (nearest_star[nearest_row] == np.arange(len(stars)))
    for name in PSF_FLAGS:
        values = np.ma.filled(stars[name], False)
        sources[name][rows[nearest_row[mutual]]] = np.asarray(values, dtype=bool)[mutual]
    return CalibStarMatch(n_stars, n_stars - len(stars), int(mutual.sum()))


def _star_positions(
    stars: astropy.table.Table, wcs: SkyProjection[Any] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of stars in degrees, by the given projection where their pixels are known."""
    ra, dec = _degrees(stars, "coord_ra"), _degrees(stars, "coord_dec")
    if wcs is not None and all(name in stars.colnames for name in _PIXEL_COLUMNS):
        x, y = (_floats(stars[name]) for name in _PIXEL_COLUMNS)
        known = np.isfinite(x) & np.isfinite(y)
        if known.any():
            sky = wcs.pixel_to_sky(x=x[known], y=y[known])
            ra[known], dec[known] = sky.ra.deg, sky.dec.deg
    return ra, dec


def _candidates(sources: SourceCatalog) -> np.ndarray:
    """Return the rows that may be stars: with a position, not split, no empty sky."""
    candidates = np.isfinite(sources["coord_ra"]) & np.isfinite(sources["coord_dec"])
    if "deblend_nChild" in sources:
        candidates &= sources["deblend_nChild"] == 0
    if "sky_source" in sources:
        candidates &= ~sources["sky_source"]
    return np.flatnonzero(candidates)


def _first_rows(stars: astropy.table.Table) -> np.ndarray:
    """Return the rows of a table in which an id occurs for the first time, or is 0: not known."""
    name = next((name for name in _ID_COLUMNS if name in stars.colnames), None)
    if name is None:
        return np.arange(len(stars))
    ids = np.asarray(np.ma.filled(stars[name], 0))
    first = ids == 0
    first[np.unique(ids, return_index=True)[1]] = True
    return np.flatnonzero(first)


def _degrees(table: astropy.table.Table, name: str) -> np.ndarray:
    """Return an angle column in degrees, NaN where it is masked; radians are assumed where it has no unit."""
    return np.asarray(_floats(table[name]) * u.Unit(table[name].unit or u.rad).to(u.deg))


def _floats(column: astropy.table.Column) -> np.ndarray:
    """Return the numbers of a column, NaN where they are masked."""
    return np.array(np.ma.filled(np.ma.asarray(column, dtype=np.float64), np.nan))
