"""The numbers of a run: what came out of each visit, and how well the visits agree."""

from __future__ import annotations

__all__ = (
    "Repeatability",
    "VisitNumbers",
    "held_out_sizes",
    "print_summary",
    "repeatability",
    "visit_numbers",
)

import dataclasses
from collections import defaultdict
from collections.abc import Iterable

import astropy.table
import numpy as np
from lsst.daf.butler import Butler, DataCoordinate, DatasetRef
from rich.console import Console
from rich.table import Table

from ..catalog.photo_calib import AB_FLUX_NJY
from ..photometry.measure_ap_corr import MAD_TO_SIGMA, robust_sigma
from ..sky.matching import match_nearest


@dataclasses.dataclass(frozen=True)
class VisitNumbers:
    """What came out of one detector of one visit.

    Parameters
    ----------
    visit, detector, band
        Which image.
    sources
        Number of published sources.
    zero_point
        AB magnitude of one count.
    psf_sigma
        Determinant radius of the final PSF, pixels.
    psf_stars, reserved_stars
        Number of stars used in the final fit, and held out of it.
    size_residual, size_scatter
        Median and robust scatter of (T_star - T_psf) / T_psf of the held-out stars, with T the trace of the
        second moments.
    first_size_residual, first_size_scatter
        The same for the PSF of the first pass.
    """

    visit: int
    detector: int
    band: str
    sources: int
    zero_point: float
    psf_sigma: float
    psf_stars: int
    reserved_stars: int
    size_residual: float
    size_scatter: float
    first_size_residual: float
    first_size_scatter: float


@dataclasses.dataclass(frozen=True)
class Repeatability:
    """How well the visits of a band agree on the same stars.

    Parameters
    ----------
    band
        Band.
    stars
        Number of stars seen at least twice.
    scatter
        Robust scatter of a single calibrated PSF magnitude about the mean of its star, mag.
    """

    band: str
    stars: int
    scatter: float


def visit_numbers(butler: Butler, *, collections: str) -> list[VisitNumbers]:
    """Return the numbers of every published image of a run, sorted by visit and detector."""
    result = []
    for ref in _published(butler, collections):
        data_id = butler.registry.expandDataId(ref.dataId)
        record = butler.get("finalVisitSummary", data_id, collections=collections).find(data_id["detector"])
        stars = _psf_stars(butler, data_id, collections)
        final_sizes, first_sizes = _held_out(butler, data_id, collections, stars)
        result.append(
            VisitNumbers(
                visit=int(data_id["visit"]),
                detector=int(data_id["detector"]),
                band=str(data_id["band"]),
                sources=len(butler.get(ref)),
                zero_point=record.photo_calib.zero_point,
                psf_sigma=float(record.summary_stats.psfSigma),
                psf_stars=int(np.sum(stars["calib_psf_used"])),
                reserved_stars=int(np.sum(stars["calib_psf_reserved"])),
                size_residual=_median(final_sizes),
                size_scatter=robust_sigma(final_sizes),
                first_size_residual=_median(first_sizes),
                first_size_scatter=robust_sigma(first_sizes),
            )
        )
    return result


def held_out_sizes(butler: Butler, *, collections: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (T_star - T_psf) / T_psf of the held-out stars of each image, by the final and the first PSF."""
    return [
        _held_out(butler, ref.dataId, collections, _psf_stars(butler, ref.dataId, collections))
        for ref in _published(butler, collections)
    ]


def _published(butler: Butler, collections: str) -> list[DatasetRef]:
    refs = butler.query_datasets("sources_detector", collections=collections, explain=False)
    return sorted(refs, key=lambda r: (r.dataId["visit"], r.dataId["detector"]))


def _psf_stars(butler: Butler, data_id: DataCoordinate, collections: str) -> astropy.table.Table:
    """Return the stars of the final characterization of one detector."""
    stars = butler.get("finalized_src_table", data_id, collections=collections)
    return stars[np.asarray(stars["detector"]) == data_id["detector"]]


def _held_out(
    butler: Butler, data_id: DataCoordinate, collections: str, stars: astropy.table.Table
) -> tuple[np.ndarray, np.ndarray]:
    """Return the size residuals of the held-out stars against the final PSF and against the first."""
    reserved = stars[np.asarray(stars["calib_psf_reserved"])]
    first = butler.get("src", data_id, collections=collections).to_astropy()
    return _size_residuals(reserved), _size_residuals(first[np.isin(first["id"], reserved["id"])])


def _size_residuals(stars: astropy.table.Table) -> np.ndarray:
    """Return (T_star - T_psf) / T_psf of the stars with good moments."""
    t_star = np.asarray(stars["slot_Shape_xx"] + stars["slot_Shape_yy"])
    t_psf = np.asarray(stars["slot_PsfShape_xx"] + stars["slot_PsfShape_yy"])
    good = ~(np.asarray(stars["slot_Shape_flag"]) | np.asarray(stars["slot_PsfShape_flag"]))
    return np.asarray((t_star[good] - t_psf[good]) / t_psf[good])


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else np.nan


def repeatability(
    butler: Butler,
    *,
    collections: str,
    skymap: str,
    signal_to_noise: float = 100.0,
    radius: float = 0.5,
) -> list[Repeatability]:
    """Compare the calibrated PSF magnitudes of isolated stars between the visits of each band.

    Parameters
    ----------
    butler, collections
        Where the published tables are.
    skymap
        Name of the sky map of the association.
    signal_to_noise
        Smallest signal-to-noise ratio of a measurement that counts.
    radius
        Largest distance of a measurement from its star, arcsec.
    """
    stars = [
        butler.get(ref)
        for ref in butler.query_datasets(
            "isolated_star_presource_associations",
            collections=collections,
            where=f"skymap = '{skymap}'",
            explain=False,
        )
    ]
    stars = [table for table in stars if len(table)]
    if not stars:
        return []
    ra = np.concatenate([np.asarray(t["ra"]) for t in stars])
    dec = np.concatenate([np.asarray(t["dec"]) for t in stars])
    magnitudes: dict[str, list[np.ndarray]] = defaultdict(list)
    for ref in butler.query_datasets("sources_detector", collections=collections, explain=False):
        band = str(butler.registry.expandDataId(ref.dataId)["band"])
        magnitudes[band].append(_star_magnitudes(butler.get(ref), ra, dec, signal_to_noise, radius))
    return [_band_repeatability(band, np.array(values)) for band, values in sorted(magnitudes.items())]


def _star_magnitudes(
    table: astropy.table.Table, ra: np.ndarray, dec: np.ndarray, signal_to_noise: float, radius: float
) -> np.ndarray:
    """Return the PSF magnitude of each star in one table, NaN where it has no good measurement."""
    bad = np.asarray(table["base_PsfFlux_flag"]) | np.asarray(table["base_PixelFlags_flag_saturated"])
    bad |= np.asarray(table["base_PixelFlags_flag_interpolatedCenter"]) | ~np.asarray(
        table["detect_isPrimary"]
    )
    flux = np.asarray(table["base_PsfFlux_flux"], dtype=float)
    error = np.asarray(table["base_PsfFlux_fluxErr"], dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        good = np.nonzero(~bad & (flux / error > signal_to_noise))[0]
    source_ra = np.degrees(np.asarray(table["coord_ra"]))[good]
    source_dec = np.degrees(np.asarray(table["coord_dec"]))[good]
    nearest = match_nearest(ra, dec, source_ra, source_dec, radius)
    result = np.full(len(ra), np.nan)
    found = nearest >= 0
    result[found] = -2.5 * np.log10(flux[good][nearest[found]] / AB_FLUX_NJY)
    return result


def _band_repeatability(band: str, magnitudes: np.ndarray) -> Repeatability:
    """Return the scatter of single magnitudes, from deviations scaled for the mean taken from them."""
    seen = np.isfinite(magnitudes).sum(axis=0)
    twice = seen >= 2
    if not twice.any():
        return Repeatability(band, 0, np.nan)
    m, n = magnitudes[:, twice], seen[twice]
    deviations = (m - np.nanmean(m, axis=0)) * np.sqrt(n / (n - 1))
    return Repeatability(band, int(twice.sum()), MAD_TO_SIGMA * float(np.nanmedian(np.abs(deviations))))


def print_summary(
    visits: Iterable[VisitNumbers], bands: Iterable[Repeatability], *, console: Console | None = None
) -> None:
    """Print both tables to the terminal."""
    console = console or Console()
    table = Table(title="Published images", caption="dT/T: (T_star - T_psf) / T_psf of held-out stars, %")
    for heading in ("visit", "det", "band", "sources", "zero point", "PSF sigma", "used", "held out"):
        table.add_column(heading, justify="right")
    table.add_column("dT/T final", justify="right")
    table.add_column("dT/T first pass", justify="right")
    for v in visits:
        table.add_row(
            str(v.visit), str(v.detector), v.band, str(v.sources),
            f"{v.zero_point:.3f}", f"{v.psf_sigma:.3f}", str(v.psf_stars), str(v.reserved_stars),
            f"{100 * v.size_residual:+.2f} ± {100 * v.size_scatter:.2f}",
            f"{100 * v.first_size_residual:+.2f} ± {100 * v.first_size_scatter:.2f}",
        )  # fmt: skip
    console.print(table)
    table = Table(title="Repeatability of PSF magnitudes between visits (S/N > 100)")
    for heading in ("band", "stars", "scatter (mmag)"):
        table.add_column(heading, justify="right")
    for b in bands:
        table.add_row(b.band, str(b.stars), f"{1000 * b.scatter:.1f}")
    console.print(table)
