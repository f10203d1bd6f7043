"""Pulls in a field of stars and galaxies that overlap, by how much their neighbours disturb them.

A field of stars and exponential galaxies with counts as on the sky is detected, deblended and measured. The
truth of every flux is that of the object alone on an image without noise, at its true position.

Run as ``python -m benchmarks.blended_pulls [--density N] [--fields N] [--seed N] [--no-replacement]
[--output FILE]``.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from lsst.images import VisitImage
from rich.console import Console
from rich.table import Table
from scipy.spatial import KDTree

from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.deblend.task import SourceDeblendTask
from secondlight.detection.sky_objects import SkyObjectsTask
from secondlight.detection.task import SourceDetectionTask
from secondlight.simulate.render import Light, add_light
from secondlight.simulate.truth import light_statistics

from . import pulls
from .pulls import CELL, Field, Noise, cell_grid, make_exposure, make_psf

SIDE = 2304
_FAINTEST, _BRIGHTEST = 1.0, 2000.0
"""Limits of the signal-to-noise ratio of a star of the same flux."""

_COUNTS_SLOPE = 0.85
"""Objects brighter than F are as F to minus this."""

_GALAXIES = 0.6
_EDGE = 40
"""Objects closer than this to the edge are left out, pixels."""

_MATCH = 1.5
"""Greatest distance of a source from its object, pixels."""

_LIMITS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, np.inf)
MEASURES = {"contamination": _LIMITS, "blendedness": _LIMITS, "split": (0.0, 0.5, np.inf)}
"""What tells how blended an object is, and the limits of its bins; ``split`` is 1 for children of blends."""

REGIMES = {"S/N 10 to 30": (10.0, 30.0), "S/N 30 to 100": (30.0, 100.0), "S/N above 100": (100.0, np.inf)}


def make_light(*, density: float, noise: Noise, seed: int) -> Light:
    """Return stars and galaxies, ``density`` of them per 100 x 100 pixels brighter than 5 sigma."""
    rng = np.random.default_rng(seed)
    n = rng.poisson(density * (SIDE / 100) ** 2 * (5.0 / _FAINTEST) ** _COUNTS_SLOPE)
    x, y = rng.uniform(0.0, SIDE, (2, n))
    share = rng.uniform((_FAINTEST / _BRIGHTEST) ** _COUNTS_SLOPE, 1.0, n)
    ratio = _FAINTEST * share ** (-1.0 / _COUNTS_SLOPE)
    psf = make_psf(SIDE)
    flux = ratio * star_flux(noise)
    radius = np.where(rng.uniform(size=n) < _GALAXIES, np.exp(rng.normal(np.log(2.0), 0.4, n)), 0.0)
    return Light(
        x=x, y=y, flux=flux, psf=psf.parameters(x=x, y=y), bulge_fraction=np.zeros(n),
        bulge_matrix=np.zeros((n, 2, 2)),
        disk_matrix=pulls.disks(radius, rng.uniform(0.4, 1.0, n), rng.uniform(0.0, np.pi, n)),
        profile="moffat", beta=3.2,
    )  # fmt: skip


def make_blended(light: Light, noise: Noise, seed: int) -> tuple[VisitImage, np.ndarray]:
    """Return the image with noise, and the light alone (electrons)."""
    image = np.zeros((SIDE, SIDE))
    add_light(image, light, sizes=np.where(light.flux > np.percentile(light.flux, 90), 256, 96))
    field = Field(light, make_psf(SIDE), image, footprint_radius=0)
    exposure = make_exposure(field, 1.0, noise, np.random.default_rng([seed, 3]))
    # A background model takes the mean light of objects too faint to be found for sky.
    faint = light.flux < 5.0 * star_flux(noise)
    exposure.image.array[...] -= np.float32(light.flux[faint].sum() / SIDE**2 / noise.gain)
    return exposure, image


def star_flux(noise: Noise) -> float:
    """Return the electrons of a Gaussian star with a signal-to-noise ratio of 1 on the sky."""
    sigma = make_psf(SIDE).fwhm / 2.355
    return float(np.sqrt(4.0 * np.pi * sigma**2 * (noise.sky + noise.read_noise**2)))


def measure_blended(exposure: VisitImage, *, replace: bool) -> SourceCatalog:
    """Detect, deblend and measure, sky sources too; return the sources that are not blends."""
    schema = minimal_source_schema()
    detection = SourceDetectionTask(schema=schema, config=_detection_config())
    sky = SkyObjectsTask(schema=schema)
    deblend = SourceDeblendTask(schema=schema)
    measurement = pulls.make_task(schema, at_truth=False, blendedness=True, replace=replace)
    ids = IdGenerator()
    found = detection.run(exposure, id_generator=ids).sources
    found = sky.run(exposure.mask, 1, found, id_generator=ids)
    sources = deblend.run(exposure, found, id_generator=ids)
    measurement.run(sources, exposure, seed=1)
    return sources[np.asarray(sources["deblend_nChild"]) == 0]


def _detection_config() -> Any:
    config = SourceDetectionTask.ConfigClass()
    config.reEstimateBackground = False
    return config


def measure_alone(light: Light, noise: Noise) -> SourceCatalog:
    """Measure every object in a cell of its own, without noise, at its sub-pixel position."""
    cells = int(np.ceil(len(light) ** 0.5))
    side, *middles = cell_grid(cells)
    middle_x, middle_y = (v[: len(light)] for v in middles)
    x, y = (m + v - np.floor(v + 0.5) for m, v in ((middle_x, light.x), (middle_y, light.y)))
    moved = Light(**{name: getattr(light, name) for name in light.__dataclass_fields__} | {"x": x, "y": y})
    image = np.zeros((side, side))
    add_light(image, moved, sizes=2 * CELL)
    field = Field(moved, make_psf(side), image, footprint_radius=18)
    return pulls.measure(field, make_exposure(field, 1.0, noise, None), at_truth=True)


def match(light: Light, snr: np.ndarray, sources: SourceCatalog) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of objects and of their sources: the brightest object near a source, and once only."""
    x, y = np.asarray(sources["slot_Centroid_x"]), np.asarray(sources["slot_Centroid_y"])
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & ~np.asarray(sources["sky_source"]))
    near = KDTree(np.column_stack([light.x, light.y])).query_ball_point(
        np.column_stack([x[known], y[known]]), _MATCH
    )
    best: dict[int, int] = {}
    for row, around in zip(known.tolist(), near, strict=True):
        if around:
            k = max(around, key=lambda i: light.flux[i])
            other = best.get(k)
            closer = other is None or np.hypot(x[row] - light.x[k], y[row] - light.y[k]) < np.hypot(
                x[other] - light.x[k], y[other] - light.y[k]
            )
            if closer:
                best[k] = row
    objects = np.array([k for k in best if snr[k] >= REGIMES["S/N 10 to 30"][0]])
    return objects, np.array([best[k] for k in objects])


def differences(
    light: Light, alone: SourceCatalog, objects: np.ndarray, sources: SourceCatalog
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the difference from the truth and the error of every column, for matched rows."""
    result = {}
    for name in pulls.MEASURED:
        if name not in sources.schema:
            continue
        axis = pulls.POSITIONS.get(name)
        true = getattr(light, axis)[objects] if axis else np.asarray(alone[name])
        good = ~np.asarray(sources[f"{name.rsplit('_', 1)[0]}_flag"])
        value = np.where(good, np.asarray(sources[name]), np.nan)
        result[name] = value - true, np.asarray(sources[f"{name}Err"], dtype=float)
    return result


def summarize(difference: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Return number, median bias and robust width in errors, and the fraction beyond three errors."""
    pull = (difference / error)[np.isfinite(difference / error)]
    if len(pull) < 20:
        return {"n": len(pull)}
    low, middle, high = np.percentile(pull, [16, 50, 84])
    return {
        "n": len(pull),
        "bias": round(float(middle), 3),
        "width": round(float(0.5 * (high - low)), 3),
        "beyond_3": round(float(np.mean(np.abs(pull - middle) > 3)), 4),
    }


def sky_fluxes(sources: SourceCatalog) -> dict[str, np.ndarray]:
    """Return flux and error (2, m) of the sources on empty sky, whose true flux is zero."""
    sky = sources[np.asarray(sources["sky_source"])]
    return {
        f"sky {name}": np.stack([np.asarray(sky[name]), np.asarray(sky[f"{name}Err"])])
        for name in pulls.MEASURED
        if name.endswith("_instFlux")
    }


def run_field(*, density: float, seed: int, replace: bool, noise: Noise) -> dict[str, np.ndarray]:
    """Return differences and errors (2, n) of every column, and what tells how blended the n objects are.

    The columns of sky sources have names that start with ``sky``.
    """
    light = make_light(density=density, noise=noise, seed=seed)
    exposure, image = make_blended(light, noise, seed)
    sigma = (noise.sky + noise.read_noise**2) ** 0.5
    snr, contamination = light_statistics(light, image, noise=sigma)
    sources = measure_blended(exposure, replace=replace)
    inside = (np.abs(light.x - SIDE / 2) < SIDE / 2 - _EDGE) & (np.abs(light.y - SIDE / 2) < SIDE / 2 - _EDGE)
    objects, rows = match(light, np.where(inside, snr, 0.0), sources)
    matched = sources[rows]
    found = differences(light, measure_alone(light[objects], noise), objects, matched)
    return {
        "snr": snr[objects],
        "contamination": contamination[objects],
        "blendedness": np.asarray(matched["base_Blendedness_abs"], dtype=float),
        "split": np.asarray(matched["parent"] != 0, dtype=float),
        **{name: np.stack(pair) for name, pair in found.items()},
        **sky_fluxes(sources),
    }


def run(*, density: float, fields: int, seed: int, replace: bool, noise: Noise) -> dict[str, Any]:
    """Return summaries by measure of the blending, regime, its bins, and column."""
    parts = [run_field(density=density, seed=seed + k, replace=replace, noise=noise) for k in range(fields)]
    found = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    snr = found.pop("snr")
    measures = {name: np.maximum(found.pop(name), 0.0) for name in MEASURES}
    result: dict[str, Any] = {"density": density, "objects": len(snr)}
    result["sky"] = {
        name.removeprefix("sky "): summarize(*found.pop(name))
        for name in list(found)
        if name.startswith("sky ")
    }
    for measure, values in measures.items():
        for regime, (least, most) in REGIMES.items():
            bins = result.setdefault(measure, {}).setdefault(regime, {})
            for low, high in itertools.pairwise(MEASURES[measure]):
                chosen = (snr >= least) & (snr < most) & (values >= low) & (values < high)
                bins[f"{low:g} to {high:g}"] = {
                    name: summarize(*pair[:, chosen]) for name, pair in found.items()
                }
    return result


def print_tables(console: Console, result: dict[str, Any]) -> None:
    """Print a table for each measure of blending and regime."""
    for measure in MEASURES:
        for regime, bins in result[measure].items():
            table = Table("", *bins, title=f"{measure}, {regime}: bias, width, beyond 3 (number)")
            for name in next(iter(bins.values())):
                table.add_row(name.removesuffix("_instFlux"), *(_cell(by[name]) for by in bins.values()))
            console.print(table)


def print_sky(console: Console, sky: dict[str, dict[str, float]]) -> None:
    """Print a table of the sources on empty sky."""
    table = Table("sky sources", "bias, width, beyond 3 (number)")
    for name, summary in sky.items():
        table.add_row(name.removesuffix("_instFlux"), _cell(summary))
    console.print(table)


def _cell(summary: dict[str, float]) -> str:
    """Return the text of one cell of the tables."""
    if "bias" not in summary:
        return "-"
    return "{bias:+.2f} {width:.2f} {beyond_3:.0%} ({n})".format(**summary)


@click.command()
@click.option("--density", default=3.0, show_default=True, help="Objects above 5 sigma per 100 x 100 pixels.")
@click.option("--fields", default=4, show_default=True, help="How many fields to add up.")
@click.option("--seed", default=1, show_default=True)
@click.option("--no-replacement", is_flag=True, help="Leave the neighbours as they are.")
@click.option("--output", type=click.Path(path_type=Path))
def main(density: float, fields: int, seed: int, no_replacement: bool, output: Path | None) -> None:
    """Print tables, and write them as JSON if asked to."""
    result = run(density=density, fields=fields, seed=seed, replace=not no_replacement, noise=Noise())
    console = Console(width=190)
    console.print(f"{result['objects']} objects above S/N 10 matched")
    print_tables(console, result)
    print_sky(console, result["sky"])
    if output is not None:
        output.write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
