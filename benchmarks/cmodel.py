"""Composite-model fluxes of simulated galaxies of many profiles, sizes and brightnesses beside the truth.

Isolated Sersic galaxies and stars under a Moffat PSF, drawn by GalSim, are measured with the noise of sky,
photons and read-out: magnitude bias, scatter and pull of `modelfit_CModel`, the fraction of flux in the
de Vaucouleurs model, CPU time, and how well PSF flux over model flux tells stars from galaxies.

Run as ``python -m benchmarks.cmodel [--cells N] [--seed N] [--quick] [--output FILE]``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import resource
from pathlib import Path
from typing import Any

import click
import galsim
import numpy as np
from lsst.images import VisitImage
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq
from tests.scenes import make_visit_image

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.task import SingleFrameMeasurementConfig, SingleFrameMeasurementTask

from .pulls import CELL, Noise, brightest, cell_grid, make_psf

SIGNAL_TO_NOISE = (20, 50, 200, 500)
SERSIC = (0.5, 1.0, 2.5, 4.0, 4.5)
RADII = (1.0, 2.5, 6.0)
PSF_FWHM = 4.6
_BETA, _SPOT = 3.2, 0.5
_GROWTH = 2.4
"""Growth of footprints, PSF sigmas, and how far above the noise they begin."""
_THRESHOLD = 5.0
_STAR_SHARE = 0.95
MODEL, PSF_FLUX = "modelfit_CModel", "base_PsfFlux"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A star (radius 0), or a galaxy of a Sersic index, half-light radius (pixels) and axis ratio."""

    sersic: float = 0.0
    radius: float = 0.0
    axis_ratio: float = 0.7

    @property
    def name(self) -> str:
        """Short description."""
        return f"n {self.sersic:g}, {self.radius:g} px" if self.radius else "star"


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """Objects of one kind on a grid of cells, one electron each: positions (n) and image (side, side)."""

    x: np.ndarray
    y: np.ndarray
    image: np.ndarray


@functools.cache
def make_field(kind: Kind, *, cells: int, seed: int) -> Field:
    """Return ``cells**2`` objects at random positions in the middle pixels of their cells."""
    rng = np.random.default_rng([seed, int(10 * kind.sersic), int(10 * kind.radius)])
    side, *middles = cell_grid(cells)
    offsets = rng.uniform(-0.5, 0.5, (2, cells**2))
    psf = galsim.Convolve(galsim.Moffat(beta=_BETA, fwhm=PSF_FWHM), galsim.Gaussian(sigma=_SPOT))
    image = galsim.ImageD(side, side, xmin=0, ymin=0)
    for x, y, dx, dy in zip(*middles, *offsets, strict=True):
        profile = psf
        if kind.radius:
            galaxy = galsim.Sersic(n=kind.sersic, half_light_radius=kind.radius)
            angle = rng.uniform(0, np.pi) * galsim.radians
            profile = galsim.Convolve(galaxy.shear(q=kind.axis_ratio, beta=angle), psf)
        stamp = galsim.ImageD(galsim.BoundsI(x - CELL, x + CELL, y - CELL, y + CELL))
        profile.drawImage(stamp, offset=(dx, dy), scale=1.0)
        image[stamp.bounds & image.bounds] += stamp[stamp.bounds & image.bounds]
    return Field(*(m + d for m, d in zip(middles, offsets, strict=True)), image.array)


def flux_of(field: Field, signal_to_noise: float, noise: Noise) -> float:
    """Return the electrons that give a signal-to-noise ratio with the best of filters."""
    x, y = (int(v[0]) - CELL // 2 for v in (field.x, field.y))
    unit = field.image[y : y + CELL, x : x + CELL]

    def excess(log_flux: float) -> float:
        signal = np.exp(log_flux) * unit
        return (
            float(np.sqrt(np.sum(signal**2 / (noise.sky + noise.read_noise**2 + signal)))) - signal_to_noise
        )

    return float(np.exp(brentq(excess, 1.0, 25.0)))


def footprint_radius(field: Field, electrons: float, noise: Noise) -> int:
    """Return the radius of what is detected and grown, pixels."""
    sigma = PSF_FWHM / 2.355
    smooth = gaussian_filter(electrons * field.image, sigma)
    noise_sigma = np.sqrt((noise.sky + noise.read_noise**2) / (4.0 * np.pi * sigma**2))
    area = float((smooth > _THRESHOLD * noise_sigma).sum()) / len(field.x)
    return max(round(np.sqrt(area / np.pi) + _GROWTH * sigma), 3)


def make_exposure(field: Field, electrons: float, noise: Noise, rng: np.random.Generator) -> VisitImage:
    """Return a sky-subtracted noisy image in counts."""
    side = len(field.image)
    counted = rng.poisson(electrons * np.maximum(field.image, 0.0) + noise.sky).astype(np.float64)
    light = counted - noise.sky + noise.read_noise * rng.standard_normal((side, side))
    psf = make_psf(side, fwhm=PSF_FWHM)
    exposure = make_visit_image(width=side, height=side, psf=psf, add_noise=False)
    exposure.image.array[...] = light / noise.gain
    exposure.variance.array[...] = (light + noise.sky + noise.read_noise**2) / noise.gain**2
    return exposure


def make_task() -> SingleFrameMeasurementTask:
    """Return the measurement of the composite model and of what it needs."""
    config = SingleFrameMeasurementConfig()
    shape = "ext_shapeHSM_HsmSourceMoments"
    config.plugins.names = [
        "base_SdssCentroid",
        shape,
        PSF_FLUX,
        "ext_photometryKron_KronFlux",
        "modelfit_DoubleShapeletPsfApprox",
        MODEL,
    ]
    for slot in config.slots.toDict():
        setattr(config.slots, slot, None)
    config.slots.centroid, config.slots.shape, config.slots.psfFlux = "base_SdssCentroid", shape, PSF_FLUX
    config.doReplaceWithNoise = False
    return SingleFrameMeasurementTask(minimal_source_schema(), config=config)


def measure(field: Field, exposure: VisitImage, radius: int) -> tuple[SourceCatalog, float]:
    """Measure all objects in round footprints; return also the CPU seconds per object that the model took."""
    task = make_task()
    i, j = brightest(exposure.image.array, field.x, field.y, sigma=PSF_FWHM / 2.355)
    n = len(i)
    peaks = Peaks(i, j, np.ones(n), np.ones(n), np.arange(n))
    footprints = Footprints.from_circles(i, j, radius).with_peaks(np.arange(n + 1), peaks)
    catalog = SourceCatalog(task.schema, n, footprints=footprints)
    catalog["id"] = np.arange(1, n + 1)
    order = next(p.order for p in task.plugins if p.name == MODEL)
    task.run(catalog, exposure, end_order=order)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    task.run(catalog, exposure, begin_order=order)
    return catalog, (resource.getrusage(resource.RUSAGE_SELF).ru_utime - start) / n


def run_kind(kind: Kind, signal_to_noise: float, *, cells: int, seed: int) -> dict[str, Any]:
    """Return what is found for objects of one kind and brightness."""
    noise = Noise()
    field = make_field(kind, cells=cells, seed=seed)
    electrons = flux_of(field, signal_to_noise, noise)
    exposure = make_exposure(field, electrons, noise, np.random.default_rng([seed, int(signal_to_noise)]))
    catalog, seconds = measure(field, exposure, footprint_radius(field, electrons, noise))
    true = electrons / noise.gain
    good = ~np.asarray(catalog[f"{MODEL}_flag"])
    flux, error = (np.asarray(catalog[f"{MODEL}_instFlux{e}"])[good] for e in ("", "Err"))
    ratio = np.asarray(catalog[f"{PSF_FLUX}_instFlux"])[good] / flux
    pull = (flux - true) / error
    points = [np.asarray(catalog[f"{MODEL}_{stage}_nIter"]) for stage in ("initial", "exp", "dev")]
    return {
        "kind": kind.name,
        "snr": signal_to_noise,
        "objects": len(good),
        "flagged": int((~good).sum()),
        "bias_mag": float(-2.5 * np.log10(np.median(flux) / true)),
        "scatter_mag": float(1.0857 * _width(flux / true)),
        "error_mag": float(1.0857 * np.median(error / flux)),
        "pull_mean": float(np.median(pull)),
        "pull_width": _width(pull),
        "frac_dev": float(np.mean(np.asarray(catalog[f"{MODEL}_fracDev"])[good])),
        "points": float(np.sum(points, axis=0).mean()),
        "ms": 1e3 * seconds,
        "size_mag": (-2.5 * np.log10(np.maximum(ratio, 1e-3))).tolist(),
    }


def _width(values: np.ndarray) -> float:
    low, high = np.percentile(values, [15.87, 84.13])
    return float(high - low) / 2.0


def separation(rows: list[dict[str, Any]], signal_to_noise: float) -> list[dict[str, Any]]:
    """Return which part of each kind lies beyond the PSF - model magnitude that 95 % of the stars keep."""
    at = {row["kind"]: np.array(row["size_mag"]) for row in rows if row["snr"] == signal_to_noise}
    cut = float(np.quantile(at["star"], _STAR_SHARE))
    return [
        {"snr": signal_to_noise, "kind": kind, "cut": cut, "found": float((values > cut).mean())}
        for kind, values in at.items()
    ]


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Show fluxes, and the separation of stars and galaxies."""
    columns = ("snr", "objects", "flagged", "bias_mag", "scatter_mag", "error_mag", "pull_mean", "pull_width")
    columns += ("frac_dev", "points", "ms")
    table = Table("kind", *columns, title="Composite model against the truth")
    for row in rows:
        values = [f"{row[c]:.3f}" if isinstance(row[c], float) else str(row[c]) for c in columns]
        table.add_row(row["kind"], *values)
    console = Console(width=150)
    console.print(table)
    table = Table("snr", "kind", "cut (mag)", "called galaxies", title="PSF - model magnitude")
    for snr in SIGNAL_TO_NOISE[:2]:
        for row in separation(rows, snr):
            table.add_row(str(snr), row["kind"], f"{row['cut']:.3f}", f"{row['found']:.3f}")
    console.print(table)


@click.command()
@click.option("--cells", default=10, help="Objects of a kind are the square of this.")
@click.option("--seed", default=1, help="Of positions and noise.")
@click.option("--quick", is_flag=True, help="Fewer kinds.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file for the numbers.")
def main(cells: int, seed: int, quick: bool, output: Path | None) -> None:
    """Measure simulated galaxies and stars with the composite model."""
    sersic, radii = ((1.0, 4.0), (2.5,)) if quick else (SERSIC, RADII)
    kinds = [Kind(), *(Kind(n, r) for n in sersic for r in radii)]
    run_kind(kinds[0], SIGNAL_TO_NOISE[0], cells=2, seed=seed)  # compiles
    rows = [run_kind(kind, snr, cells=cells, seed=seed) for kind in kinds for snr in SIGNAL_TO_NOISE]
    print_tables(rows)
    if output is not None:
        output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
