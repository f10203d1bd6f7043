"""Cosmic rays on simulated star fields: what is found, what is harmed, what becomes of fluxes, and the time.

Every field is simulated twice, with and without cosmic rays; all other random numbers are the same, so the
second image is the truth below each ray, noise included. Run as ``python -m benchmarks.cosmic_rays``; with
``--no-speed`` the timing on a large detector is left out.

Numbers per field:

- *found*: share of the ray pixels that are marked; a ray pixel has more than 6 sigma of a ray's charge (noise
  without the ray) and is not saturated, interpolated or bad. The same on stars alone.
- *others*: marked pixels with less than 0.5 sigma of a ray's charge, over all marked pixels.
- *false on stars*: marked pixels within one FWHM of stars with a signal-to-noise ratio above 10, on the image
  without rays, over all such pixels.
- *flux*: relative change and pull of PSF fluxes (true PSF, true position) by rays in a star's core, before
  and after repair, for stars with a signal-to-noise ratio above 20: median, and half of the central 68 %; and
  of those stars around which all pixels of rays are found.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from astropy.table import Table as Rows
from lsst.images import VisitImage
from lsst.images.psfs import PointSpreadFunction
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from secondlight.background.fields import render_background
from secondlight.catalog.mask_planes import mask_of
from secondlight.psf.evaluation import determinant_radius, psf_shapes, stellar_stamps
from secondlight.repair.task import RepairConfig, RepairTask
from secondlight.simulate.cosmic_rays import make_cosmic_rays
from secondlight.simulate.detector import SimulatedDetector, simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.scene import Scene, load_scene

from .accuracy.peers._common import (
    BACKGROUND_CELL,
    MIN_AREA,
    PeerUnavailable,
    filtered_threshold,
    gaussian_kernel,
)
from .accuracy.peers._programs import Programs, write_image, write_lines
from .timing import user_seconds

VISIT, DETECTOR, SNAP = 1001, 0, 0
FWHM_OVER_SIGMA = float(np.sqrt(8 * np.log(2)))
DENSITIES = (5.0, 40.0)
"""Stars per square arcminute brighter than 22."""

SEEINGS = (0.37, 0.5, 0.7, 1.0)
"""FWHM of the atmosphere, arcsec; with the optics and the pixel FWHMs from 2.5 to 5.3 pixels."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A simulated image without its sky, and the same without cosmic rays.

    Parameters
    ----------
    hit, clean
        Images with and without cosmic rays, counts, with the PSF to use.
    charge
        What the rays left, counts (h, w).
    truth
        One row per object.
    psf
        The true PSF.
    fwhm
        Its full width at half maximum in the middle, pixels.
    """

    hit: VisitImage
    clean: VisitImage
    charge: np.ndarray
    truth: Rows
    psf: PointSpreadFunction
    fwhm: float


def star_field(*, seeing: float, size: int, density: float, rate: float, seed: int, guess: bool) -> Field:
    """Simulate a field.

    Parameters
    ----------
    seeing
        FWHM of the atmosphere, arcsec.
    size
        Side, pixels.
    density
        Stars per square arcminute brighter than 22.
    rate
        Cosmic rays per square centimetre and second.
    seed
        Seed of the scene.
    guess
        Whether the images come with a Gaussian guess of the PSF, as in the first pass, or with the true one.
    """
    settings = {
        "seed": seed,
        "camera.width": size,
        "camera.height": size,
        "field.radius": 0.2 * size / 3600,
        "stars.density": density,
        "visits": [{"id": VISIT, "band": "r", "ra": 52.995, "dec": -29.3, "seeing": seeing, "mjd": 60950.23}],
    }
    scenes = [load_scene("ccd", settings=settings | {"cosmic_rays.rate": r}) for r in (rate, 0.0)]
    hit, clean = (_simulate(scene) for scene in scenes)
    for simulated in (hit, clean):
        image = simulated.images[SNAP]
        image.image.array[...] -= render_background(simulated.background, image.bbox)
        if not guess:
            image.psf = simulated.psf
    charge = make_cosmic_rays(scenes[0], scenes[0].visit(VISIT), DETECTOR, SNAP)
    sigma = determinant_radius(psf_shapes(hit.psf, x=size / 2, y=size / 2))[0]
    return Field(
        hit=hit.images[SNAP],
        clean=clean.images[SNAP],
        charge=charge / scenes[0].electronics.gain,
        truth=hit.truth,
        psf=hit.psf,
        fwhm=float(sigma * FWHM_OVER_SIGMA),
    )


def _simulate(scene: Scene) -> SimulatedDetector:
    return simulate_detector(scene, make_objects(scene), visit=VISIT, detector=DETECTOR)


def repaired(image: VisitImage) -> tuple[VisitImage, np.ndarray]:
    """Return a repaired copy and which pixels were marked."""
    result = image.copy()
    RepairTask(config=RepairConfig()).run(result)
    return result, mask_of(result.mask, ["CR"])


def near_stars(field: Field, *, snr: float) -> np.ndarray:
    """Return the pixels within one FWHM of stars brighter than a signal-to-noise ratio, bool (h, w)."""
    bright = field.truth["is_star"] & (np.nan_to_num(np.asarray(field.truth["snr"])) > snr)
    away = np.ones(field.charge.shape, dtype=bool)
    x, y = (np.floor(np.asarray(field.truth[n][bright]) + 0.5).astype(int) for n in "xy")
    inside = (x >= 0) & (y >= 0) & (x < away.shape[1]) & (y < away.shape[0])
    away[y[inside], x[inside]] = False
    return np.asarray(ndimage.distance_transform_edt(away) <= field.fwhm)


def usable_pixels(image: VisitImage) -> np.ndarray:
    """Return the pixels that can be cosmic rays, bool (h, w)."""
    return ~mask_of(image.mask, ["BAD", "SAT", "INTRP", "NO_DATA"])


def found_and_false(field: Field) -> dict[str, int]:
    """Count the pixels of rays that are found, and what else is marked."""
    _, marked = repaired(field.hit)
    _, false = repaired(field.clean)
    noise = np.sqrt(field.clean.variance.array)
    bright = (field.charge > 6 * noise) & usable_pixels(field.hit)
    stars = near_stars(field, snr=10.0)
    core = stars & usable_pixels(field.clean)
    counts = {
        "rays": bright.sum(),
        "found": (bright & marked).sum(),
        "rays on stars": (bright & stars).sum(),
        "found on stars": (bright & stars & marked).sum(),
        "marked": marked.sum(),
        "others": (marked & (field.charge < 0.5 * noise)).sum(),
        "star pixels": core.sum(),
        "false on stars": (false & core).sum(),
        "false elsewhere": (false & ~core).sum(),
    }
    return {name: int(n) for name, n in counts.items()}


def flux_changes(field: Field, *, snr: float = 20.0) -> dict[str, np.ndarray]:
    """Return relative changes and pulls of the PSF fluxes of stars with a ray in the core."""
    truth = field.truth
    height, width = field.charge.shape
    x, y = (np.asarray(truth[n], dtype=float) for n in "xy")
    rows = np.asarray(truth["is_star"] & ~truth["saturated"]) & (
        np.nan_to_num(np.asarray(truth["snr"])) > snr
    )
    reach = 20
    rows &= (x > reach) & (y > reach) & (x < width - reach) & (y < height - reach)
    x, y = x[rows], y[rows]
    core = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    struck = field.charge > 6 * np.sqrt(field.clean.variance.array)
    distance = ndimage.distance_transform_edt(~struck)[core[1], core[0]]
    usable = ndimage.minimum_filter(usable_pixels(field.hit), size=9)[core[1], core[0]]
    hit = (distance <= 0.5 * field.fwhm) & usable
    result, marked = repaired(field.hit)
    clean, error = psf_fluxes(field, field.clean, x[hit], y[hit])
    before, after = (psf_fluxes(field, image, x[hit], y[hit])[0] for image in (field.hit, result))
    missed = ndimage.distance_transform_edt(~(struck & ~marked))[core[1], core[0]][hit]
    known = missed > field.fwhm
    return {
        "before": before / clean - 1,
        "pull before": (before - clean) / error,
        "after": after / clean - 1,
        "pull after": (after - clean) / error,
        "known": (after / clean - 1)[known],
        "pull known": ((after - clean) / error)[known],
    }


def psf_fluxes(
    field: Field, image: VisitImage, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return fluxes and errors of stars with the true PSF at their true positions, counts (n)."""
    stamps = stellar_stamps(field.psf, x=x, y=y)
    flux, error = np.empty(len(x)), np.empty(len(x))
    for i, (model, x0, y0) in enumerate(zip(stamps.images, stamps.x0, stamps.y0, strict=True)):
        box = _overlap(image, model, int(x0), int(y0))
        part = model[box[1]]
        norm = (part**2).sum()
        flux[i] = (part * image.image.array[box[0]]).sum() / norm
        error[i] = np.sqrt((part**2 * field.clean.variance.array[box[0]]).sum()) / norm
    return flux, error


def _overlap(image: VisitImage, model: np.ndarray, x0: int, y0: int) -> tuple[tuple[slice, slice], ...]:
    """Return the parts of an image and of a stamp that cover each other."""
    pairs = []
    for start, n, size in zip((y0, x0), model.shape, image.image.array.shape, strict=True):
        first, last = max(start, 0), min(start + n, size)
        pairs.append((slice(first, last), slice(first - start, last - start)))
    return tuple((pairs[0][k], pairs[1][k]) for k in (0, 1))


def spread(values: np.ndarray) -> tuple[float, float]:
    """Return the median and half of the central 68 %; NaN if there are no values."""
    if not len(values):
        return float("nan"), float("nan")
    low, middle, high = np.percentile(values, [16, 50, 84])
    return float(middle), float(0.5 * (high - low))


def accuracy(console: Console, *, size: int = 1024, fields: int = 4) -> None:
    """Print what is found, and what becomes of fluxes, in star fields of several densities and seeings."""
    table = Table(
        "stars", "FWHM", "PSF", "ray pixels", "found", "on stars", "others", "star pixels", "false on stars",
        "false elsewhere",
    )  # fmt: skip
    fluxes = Table(
        "stars",
        "FWHM",
        "stars hit",
        "flux before",
        "pull",
        "flux after",
        "pull",
        "all pixels found",
        "flux",
        "pull",
    )
    for density, guess in itertools.product(DENSITIES, (False, True)):
        for seeing in SEEINGS:
            counts: Counter[str] = Counter()
            changes = []
            for seed in range(fields):
                field = star_field(
                    seeing=seeing, size=size, density=density, rate=10.0, seed=seed, guess=guess
                )
                counts.update(found_and_false(field))
                changes.append(flux_changes(field))
            name = (f"{density:g}", f"{field.fwhm:.2f}")
            table.add_row(*name, "guess" if guess else "true", *_count_row(counts))
            if not guess:
                fluxes.add_row(*name, *_flux_row(changes))
    console.print(table, fluxes)


def _count_row(n: Counter[str]) -> list[str]:
    """Return the cells of a row of the table of pixels."""
    return [
        f"{n['rays']}",
        f"{n['found'] / n['rays']:.2%}",
        f"{n['found on stars'] / max(n['rays on stars'], 1):.1%} of {n['rays on stars']}",
        f"{n['others'] / max(n['marked'], 1):.2%}",
        f"{n['star pixels']}",
        f"{n['false on stars']}",
        f"{n['false elsewhere']}",
    ]


def _flux_row(changes: list[dict[str, np.ndarray]]) -> list[str]:
    """Return the cells of a row of the table of fluxes."""
    merged = {key: np.concatenate([each[key] for each in changes]) for key in changes[0]}
    cells = [f"{len(merged['after'])}"]
    for key, values in merged.items():
        if key == "known":
            cells.append(f"{len(values)}")
        middle, half = spread(values)
        cells.append(f"{middle:+.2f} ± {half:.2f}" if "pull" in key else f"{middle:+.2%} ± {half:.2%}")
    return cells


def speed(console: Console) -> None:
    """Print user CPU seconds of repair and of Source Extractor's detection on a large detector."""
    for name in ("ccd", "ccd-dense"):
        simulated = _simulate(load_scene(name))
        image = simulated.images[SNAP]
        sigma = determinant_radius(psf_shapes(simulated.psf, x=2000.0, y=2000.0))[0]
        extractor = extractor_seconds(image, float(sigma) * FWHM_OVER_SIGMA)
        image.image.array[...] -= render_background(simulated.background, image.bbox)
        seconds = []
        for _ in range(3):
            copy = image.copy()
            start = user_seconds()
            RepairTask(config=RepairConfig()).run(copy)
            seconds.append(user_seconds() - start)
        height, width = image.bbox.shape
        console.print(
            f"{name}, {width} x {height}: repair {min(seconds[1:]):.2f} s, "
            f"Source Extractor's detection {extractor}"
        )


def extractor_seconds(image: VisitImage, fwhm: float) -> str:
    """Return the user CPU seconds Source Extractor takes to find, split and list sources; FWHM in pixels."""
    kernel = gaussian_kernel(fwhm)
    threshold = filtered_threshold(kernel)
    with tempfile.TemporaryDirectory(prefix="cosmic_rays_") as folder:
        try:
            programs = Programs.find(Path(folder), "speed")
        except PeerUnavailable as absent:
            return f"not measured: {absent}"
        write_image(Path(folder) / "image.fits", image.image.array)
        rows = (" ".join(f"{value:.6e}" for value in row) for row in kernel)
        write_lines(Path(folder) / "kernel.conv", ["CONV NORM", "# Gaussian of the seeing", *rows])
        write_lines(Path(folder) / "columns.param", ["X_IMAGE", "Y_IMAGE", "FLUX_ISO"])
        programs.extract(
            "image.fits",
            {
                "CATALOG_NAME": "sources.cat", "PARAMETERS_NAME": "columns.param", "FILTER": "Y",
                "FILTER_NAME": "kernel.conv", "DETECT_THRESH": threshold, "ANALYSIS_THRESH": threshold,
                "DETECT_MINAREA": MIN_AREA, "BACK_SIZE": BACKGROUND_CELL, "VERBOSE_TYPE": "QUIET",
                "MEMORY_PIXSTACK": 5_000_000, "MEMORY_OBJSTACK": 30_000, "NTHREADS": 1, "WRITE_XML": "N",
            },
        )  # fmt: skip
    return f"{programs.cpu_seconds:.2f} s"


def main(arguments: list[str]) -> None:
    """Print all numbers."""
    console = Console(width=150)
    accuracy(console)
    if "--no-speed" not in arguments:
        speed(console)


if __name__ == "__main__":
    main(sys.argv[1:])
