"""How well two epochs of SDSS agree on isolated stars, and how well their errors say they should.

Run as ``python -m benchmarks.sdss_repeatability REPO``, with what ``secondlight demo --data`` made. For every
flux: the median difference of the epochs; the robust scatter of one measurement, about zero and about that
median; the scatter that the published errors alone make; and what there is beyond them. An error that both
epochs have alike is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import astropy.table
import numpy as np
from lsst.daf.butler import Butler
from rich.console import Console
from rich.table import Table

from secondlight.photometry.measure_ap_corr import MAD_TO_SIGMA
from secondlight.sky.matching import match_nearest

from .accuracy.numbers import expected_width, intrinsic_scatter

FLUXES = (
    "base_PsfFlux",
    "base_GaussianFlux",
    "base_NormalizedCompensatedTophatFlux",
    "ext_photometryKron_KronFlux",
    *(f"base_CircularApertureFlux_{radius}_0" for radius in (6, 9, 12)),
)
_COLLECTION = "demo/run"
_SNR = 100.0
_RADIUS = 0.5
"""Largest distance of a measurement from its star, arcsec."""

_BAD = ("base_PsfFlux_flag", "base_PixelFlags_flag_saturated", "base_PixelFlags_flag_interpolatedCenter")
_MMAG = 2.5e3 / np.log(10.0)


def isolated_stars(butler: Butler) -> tuple[np.ndarray, np.ndarray]:
    """Return right ascension and declination of the isolated stars of a run, degrees."""
    refs = butler.query_datasets("isolated_star_presource_associations", explain=False)
    tables = [table for table in map(butler.get, refs) if len(table)]
    ra, dec = (np.concatenate([np.asarray(table[axis]) for table in tables]) for axis in ("ra", "dec"))
    return ra, dec


def rows_of_stars(sources: astropy.table.Table, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return the row of the good bright measurement of each star, -1 where there is none."""
    good = np.asarray(sources["detect_isPrimary"]) & ~np.any([sources[name] for name in _BAD], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        good &= np.asarray(sources["base_PsfFlux_flux"] / sources["base_PsfFlux_fluxErr"]) > _SNR
    rows = np.flatnonzero(good)
    ra2, dec2 = (
        np.degrees(np.asarray(sources[f"coord_{axis}"], dtype=float))[rows] for axis in ("ra", "dec")
    )
    nearest = match_nearest(ra, dec, ra2, dec2, _RADIUS)
    return np.where(nearest >= 0, rows[nearest], -1)


def compare(tables: list[astropy.table.Table], rows: list[np.ndarray], flux: str) -> Iterator[str]:
    """Yield number of stars, offset, scatters, expectation and excess of a flux (mmag)."""
    both = (rows[0] >= 0) & (rows[1] >= 0)
    values = [np.asarray(t[f"{flux}_flux"], dtype=float)[r[both]] for t, r in zip(tables, rows, strict=True)]
    errors = [
        _MMAG * np.asarray(t[f"{flux}_fluxErr"], dtype=float)[r[both]] / value
        for t, r, value in zip(tables, rows, values, strict=True)
    ]
    # A difference over sqrt(2) has the scatter of one measurement.
    difference = -2.5e3 * np.log10(values[0] / values[1]) / np.sqrt(2.0)
    variance = 0.5 * (errors[0] ** 2 + errors[1] ** 2)
    usable = np.isfinite(difference) & np.isfinite(variance)
    difference, variance = difference[usable], variance[usable]
    offset = float(np.median(difference))
    excess = intrinsic_scatter("excess", difference - offset, variance, np.ones(len(difference)))
    yield str(len(difference))
    yield f"{np.sqrt(2.0) * offset:.1f}"
    yield f"{MAD_TO_SIGMA * np.median(np.abs(difference)):.1f}"
    yield f"{MAD_TO_SIGMA * np.median(np.abs(difference - offset)):.1f}"
    yield f"{expected_width(np.sqrt(variance)):.1f}"
    yield f"{excess[0].value:.1f} ± {excess[0].error or 0.0:.1f}" if excess else ""


def main(repository: str) -> None:
    """Print a table for each band."""
    with Butler.from_config(repository, collections=_COLLECTION) as butler:
        ra, dec = isolated_stars(butler)
        epochs: dict[str, list[astropy.table.Table]] = {}
        for ref in sorted(butler.query_datasets("sources_detector", explain=False)):
            band = str(butler.registry.expandDataId(ref.dataId)["band"])
            epochs.setdefault(band, []).append(butler.get(ref))
    console = Console()
    if not console.is_terminal:
        console.width = 110
    for band, tables in sorted(epochs.items()):
        table = Table(title=f"{band}: difference of two epochs, mmag of one measurement")
        table.add_column("flux", no_wrap=True)
        for heading in ("stars", "offset", "scatter", "about offset", "expected", "beyond"):
            table.add_column(heading, justify="right")
        rows = [rows_of_stars(one, ra, dec) for one in tables]
        for flux in FLUXES:
            table.add_row(flux, *compare(tables, rows, flux))
        console.print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
