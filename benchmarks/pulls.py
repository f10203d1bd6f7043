"""Pulls and biases of everything measured on isolated stars and galaxies, by signal-to-noise ratio.

Stamps of one kind of object at random positions inside their pixels are measured without noise at the true
positions, which is the truth of every flux and shape, and then many times with the noise of sky, photons and
read-out, at the positions and shapes that are measured on it. A pull is the difference over the error that
the measurement claims.

Run as ``python -m benchmarks.pulls [--realisations N] [--seed N] [--quick] [--output FILE]``.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from lsst.images import Box, VisitImage
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq
from tests.scenes import make_visit_image

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.simulate.psf import SimulatedPsf
from secondlight.simulate.render import Light, add_light, draw_stamps
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageConfig

SIGNAL_TO_NOISE = (10, 20, 50, 100, 300, 1000)
RADII = (3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0)
"""Aperture radii; the larger ones of the final pass are sums of pixels like the last two of these."""

FLUXES = (
    "base_PsfFlux",
    "base_GaussianFlux",
    "base_SdssShape",
    "ext_photometryKron_KronFlux",
    *(f"base_CircularApertureFlux_{radius:.1f}".replace(".", "_") for radius in RADII),
    "base_CompensatedTophatFlux_12",
    "base_CompensatedGaussianFlux_3",
    "base_CompensatedGaussianFlux_5",
)
MEASURED = (
    "base_SdssCentroid_x",
    "base_SdssCentroid_y",
    "base_SdssShape_xx",
    "base_SdssShape_yy",
    "base_SdssShape_xy",
    *(f"{name}_instFlux" for name in FLUXES),
)
POSITIONS = {"base_SdssCentroid_x": "x", "base_SdssCentroid_y": "y"}
_WITHOUT_ERROR = (
    "ext_shapeHSM_HsmShapeRegauss",
    "ext_shapeHSM_HigherOrderMoments",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_shapeHSM_HsmSourceMomentsRound",
    "base_LocalBackground",
    "base_Blendedness",
    "base_Variance",
    "base_ClassificationSizeExtendedness",
)
"""Starts of the names of plugins that are left out, as nothing here depends on them."""

CELL = 72
"""Side of the cell that an isolated object has for itself, pixels."""


@dataclasses.dataclass(frozen=True)
class Noise:
    """Sky (electrons per pixel), read noise (electrons) and gain (electrons per count)."""

    sky: float = 900.0
    read_noise: float = 6.0
    gain: float = 1.5


@dataclasses.dataclass(frozen=True)
class Kind:
    """A star, or an exponential galaxy of a half-light radius (pixels) and axis ratio before the seeing."""

    name: str
    radius: float = 0.0
    axis_ratio: float = 0.7


KINDS = (
    Kind("star"),
    Kind("galaxy, 2 pixels", radius=2.0),
    Kind("galaxy, 4 pixels", radius=4.0),
    Kind("galaxy, 8 pixels", radius=8.0),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """Objects of one kind on a grid of cells, one electron each.

    Parameters
    ----------
    light
        The objects.
    psf
        The true PSF, the same everywhere.
    image
        Their image, float64 (side, side).
    footprint_radius
        Of the round footprints, pixels.
    """

    light: Light
    psf: SimulatedPsf
    image: np.ndarray
    footprint_radius: int


def make_psf(side: int, *, fwhm: float = 4.6) -> SimulatedPsf:
    """Return a Moffat PSF that is the same everywhere on a square image."""
    return SimulatedPsf(
        profile="moffat", beta=3.2, fwhm=fwhm, color_slope=0.0, spot=0.5, coefficients=np.zeros((6, 10)),
        boresight=(0.0, 0.0), radius=1e5, domain=Box.factory[0:side, 0:side], stamp_size=41,
    )  # fmt: skip


def cell_grid(cells: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the side of an image and the middle pixels x and y of a square of cells (cells^2) on it.

    Around them is a frame of empty cells, as centroids of wide objects need pixels far out.
    """
    middle = (np.arange(cells) + 1) * CELL + CELL // 2
    x, y = np.meshgrid(middle, middle)
    return (cells + 2) * CELL, x.ravel(), y.ravel()


def disks(radius: np.ndarray, axis_ratio: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return the maps (n, 2, 2) from a round disk of unit half-light radius to inclined ones."""
    cosine, sine = np.cos(angle), np.sin(angle)
    major, minor = radius / np.sqrt(axis_ratio), radius * np.sqrt(axis_ratio)
    columns = cosine * major, -sine * minor, sine * major, cosine * minor
    return np.stack(columns, axis=-1).reshape(-1, 2, 2)


def make_field(kind: Kind, *, cells: int, seed: int) -> Field:
    """Return ``cells**2`` objects at random positions in the middle pixels of their cells."""
    rng = np.random.default_rng([seed, 17])
    n = cells**2
    side, *middles = cell_grid(cells)
    x, y = (middle + rng.uniform(-0.5, 0.5, n) for middle in middles)
    psf = make_psf(side)
    light = Light(
        x=x, y=y, flux=np.ones(n), psf=psf.parameters(x=x, y=y), bulge_fraction=np.zeros(n),
        bulge_matrix=np.zeros((n, 2, 2)),
        disk_matrix=disks(np.full(n, kind.radius), np.full(n, kind.axis_ratio), rng.uniform(0, np.pi, n)),
        profile="moffat", beta=3.2,
    )  # fmt: skip
    image = np.zeros((side, side))
    add_light(image, light, sizes=2 * CELL)
    return Field(light, psf, image, footprint_radius=round(12 + 2 * kind.radius))


def flux_of(field: Field, signal_to_noise: float, noise: Noise) -> float:
    """Return the electrons that give a signal-to-noise ratio with the best of filters."""
    unit = draw_stamps(field.light[:1], 128)[0]

    def excess(log_flux: float) -> float:
        signal = np.exp(log_flux) * unit
        variance = noise.sky + noise.read_noise**2 + signal
        return float(np.sqrt(np.sum(signal**2 / variance))) - signal_to_noise

    return float(np.exp(brentq(excess, 1.0, 25.0)))


def make_exposure(
    field: Field, electrons: float, noise: Noise, rng: np.random.Generator | None
) -> VisitImage:
    """Return a sky-subtracted image in counts, with noise if there is a generator of it.

    Its variance is worked out from the counts, as instruments do, so it has their noise.
    """
    side = len(field.image)
    light = electrons * field.image
    if rng is not None:
        counted = rng.poisson(np.maximum(light, 0.0) + noise.sky).astype(np.float64)
        light = counted - noise.sky + noise.read_noise * rng.standard_normal(light.shape)
    exposure = make_visit_image(width=side, height=side, psf=field.psf, add_noise=False)
    exposure.image.array[...] = light / noise.gain
    exposure.variance.array[...] = (light + noise.sky + noise.read_noise**2) / noise.gain**2
    return exposure


def make_task(
    schema: Schema,
    *,
    at_truth: bool,
    blendedness: bool = False,
    replace: bool = False,
    settings: dict[str, dict[str, Any]] | None = None,
) -> SingleFrameMeasurementTask:
    """Return the measurement of the final pass.

    Parameters
    ----------
    schema
        Schema of the catalog; it gets the columns.
    at_truth
        Whether the centroids come from the columns ``true`` and are not measured.
    blendedness
        Whether to measure `base_Blendedness`.
    replace
        Whether neighbours are replaced by noise.
    settings
        Configuration of plugins by name.
    """
    config = ReprocessVisitImageConfig().measurement.value
    names = {name for name in config.plugins.names if not name.startswith(_WITHOUT_ERROR)}
    names.add("base_CompensatedGaussianFlux")
    if blendedness:
        names.add("base_Blendedness")
    config.plugins.names = sorted(names)
    config.plugins["base_CircularApertureFlux"].radii = list(RADII)
    config.slots.psfShape = "base_SdssShape_psf"
    config.doReplaceWithNoise = replace
    for name, values in (settings or {}).items():
        config.plugins[name].update(**values)
    if at_truth:
        for axis in "xy":
            schema.add(f"true_{axis}", np.float64, "true position", unit="pix")
        schema.set_alias("slot_Centroid", "true")
        config.slots.centroid = None
        config.plugins.names.remove("base_SdssCentroid")
    return SingleFrameMeasurementTask(schema, config=config)


def measure(
    field: Field,
    exposure: VisitImage,
    *,
    at_truth: bool = False,
    settings: dict[str, dict[str, Any]] | None = None,
) -> SourceCatalog:
    """Measure all objects, with peaks where the smoothed image is brightest near their nearest pixels."""
    schema = minimal_source_schema()
    task = make_task(schema, at_truth=at_truth, settings=settings)
    x, y = field.light.x, field.light.y
    n = len(x)
    i, j = brightest(exposure.image.array, x, y, sigma=field.psf.fwhm / 2.355)
    peaks = Peaks(i, j, np.ones(n), np.ones(n), np.arange(n))
    footprints = Footprints.from_circles(i, j, field.footprint_radius).with_peaks(np.arange(n + 1), peaks)
    catalog = SourceCatalog(schema, n, footprints=footprints)
    catalog["id"] = np.arange(1, n + 1)
    if at_truth:
        catalog["true_x"], catalog["true_y"] = x, y
    task.run(catalog, exposure)
    return catalog


def brightest(
    image: np.ndarray, x: np.ndarray, y: np.ndarray, *, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (n) where the smoothed image is brightest, not more than two from positions (n)."""
    smooth = gaussian_filter(image, sigma)
    reach = np.arange(-2, 3)
    i, j = (np.floor(v + 0.5).astype(int) for v in (x, y))
    around = smooth[j[:, None, None] + reach[:, None], i[:, None, None] + reach].reshape(len(x), -1)
    best_j, best_i = np.divmod(around.argmax(axis=1), len(reach))
    return i + best_i - 2, j + best_j - 2


def measure_truth(field: Field, noise: Noise) -> SourceCatalog:
    """Return what is measured at the true positions without noise, fluxes for one electron per object."""
    electrons = 1e6
    truth = measure(field, make_exposure(field, electrons, noise, None), at_truth=True)
    for name in truth.schema.names:
        if name.endswith("_instFlux"):
            truth[name] = np.asarray(truth[name]) / electrons
    return truth


def pulls(
    field: Field,
    truth: SourceCatalog,
    *,
    electrons: float,
    noise: Noise,
    rounds: int,
    seed: int,
    settings: dict[str, dict[str, Any]] | None = None,
) -> dict[str, np.ndarray]:
    """Return differences from the truth, errors and truth (3, n) of every column, over rounds of noise.

    Parameters
    ----------
    field, truth
        The objects, and what `measure_truth` gives for them.
    electrons
        Flux of every object.
    noise
        Levels of the noise.
    rounds
        How many times to draw the noise.
    seed
        Of the noise.
    settings
        Configuration of plugins by name.
    """
    found: dict[str, list[np.ndarray]] = {}
    for k in range(rounds):
        rng = np.random.default_rng([seed, int(electrons), k])
        catalog = measure(field, make_exposure(field, electrons, noise, rng), settings=settings)
        for name in MEASURED:
            good = ~np.asarray(catalog[f"{name.rsplit('_', 1)[0]}_flag"])
            if name in POSITIONS:
                true = getattr(field.light, POSITIONS[name])
            else:
                true = np.asarray(truth[name]) * (electrons if name.endswith("_instFlux") else 1.0)
            difference = np.where(good, np.asarray(catalog[name]) - true, np.nan)
            error = np.asarray(catalog[f"{name}Err"], dtype=float)
            found.setdefault(name, []).append(np.stack([difference, error, true]))
    return {name: np.concatenate(parts, axis=1) for name, parts in found.items()}


def summarize(
    difference: np.ndarray, error: np.ndarray, true: np.ndarray, *, relative: bool
) -> dict[str, Any]:
    """Return number, failures, bias in errors (and its uncertainty), widths of the pulls, relative bias."""
    good = np.isfinite(difference) & np.isfinite(error) & (error > 0)
    d, e = difference[good], error[good]
    pull = d / e
    low, high = np.percentile(pull, [25, 75])
    typical = float(np.mean(e))
    result = {
        "n": int(good.sum()),
        "failed": round(float(np.mean(~good)), 5),
        "bias": round(float(np.mean(d)) / typical, 4),
        "bias_error": round(float(np.std(d)) / typical / len(d) ** 0.5, 4),
        "width": round(float(np.std(pull)), 4),
        "robust_width": round(float(0.7413 * (high - low)), 4),
    }
    if relative:
        result["relative_bias"] = float(f"{np.median(d / true[good]):.3g}")
    return result


def run(
    kind: Kind, *, realisations: int, seed: int, noise: Noise, cells: int = 28
) -> dict[int, dict[str, dict[str, Any]]]:
    """Return the summary of every column for every signal-to-noise ratio."""
    field = make_field(kind, cells=cells, seed=seed)
    truth = measure_truth(field, noise)
    rounds = max(1, round(realisations / cells**2))
    results = {}
    for ratio in SIGNAL_TO_NOISE:
        electrons = flux_of(field, ratio, noise)
        found = pulls(field, truth, electrons=electrons, noise=noise, rounds=rounds, seed=seed)
        results[ratio] = {
            name: summarize(*rows, relative=name.endswith("_instFlux")) for name, rows in found.items()
        }
    return results


def print_table(console: Console, kind: Kind, results: dict[int, dict[str, dict[str, Any]]]) -> None:
    """Print bias and width of the pulls of every column, a column for each signal-to-noise ratio."""
    table = Table("", *(f"S/N {ratio}" for ratio in results), title=f"{kind.name}: bias (errors), pull width")
    for name in next(iter(results.values())):
        cells = []
        for by_name in results.values():
            r = by_name[name]
            bad = abs(r["bias"]) > 0.1 or abs(r["robust_width"] - 1) > 0.05
            style = "red" if bad else "green"
            cells.append(f"[{style}]{r['bias']:+.2f}  {r['robust_width']:.2f} ({r['width']:.2f})")
        table.add_row(name.removesuffix("_instFlux"), *cells)
    console.print(table)


@click.command()
@click.option("--realisations", default=10_000, show_default=True, help="Of each kind and ratio.")
@click.option("--seed", default=1, show_default=True)
@click.option("--quick", is_flag=True, help="A star and a galaxy, 800 realisations.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/pulls.json"))
def main(realisations: int, seed: int, quick: bool, output: Path) -> None:
    """Print tables and write them as JSON."""
    console = Console(width=170)
    noise = Noise()
    everything = {}
    for kind in KINDS[:3:2] if quick else KINDS:
        results = run(kind, realisations=800 if quick else realisations, seed=seed, noise=noise)
        print_table(console, kind, results)
        everything[kind.name] = results
    output.write_text(
        json.dumps({"noise": dataclasses.asdict(noise), "pulls": everything}, separators=(",", ":")) + "\n"
    )


if __name__ == "__main__":
    main()
