"""Pairs of stars, from overlapping to apart: which are told apart, and what becomes of their fluxes.

A field of pairs of known separation and flux ratio, and of single stars, is simulated with the PSF and the
noise of the scene `ccd`, measured by this package's detection, deblending and PSF flux with the true PSF and
sky, and by Source Extractor with PSFEx (if installed). Fluxes are compared with those of the single stars of
the same system, so that neither zero points nor aperture corrections matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from astropy.table import Table as AstropyTable
from lsst.images import VisitImage
from rich.console import Console
from rich.table import Table
from scipy.spatial import KDTree

from secondlight.background.fields import render_background
from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.schema import minimal_source_schema
from secondlight.deblend.task import SourceDeblendTask
from secondlight.detection.task import SourceDetectionTask
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.simulate.detector import SimulatedDetector, simulate_detector
from secondlight.simulate.geometry import true_geometry
from secondlight.simulate.objects import make_objects
from secondlight.simulate.scene import Scene, load_scene

from .accuracy.peers import PeerUnavailable, measure_with_source_extractor

SEPARATIONS = (0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""In FWHM of the seeing."""

RATIOS = (1.0, 3.0, 10.0)
MAGNITUDE = 19.5
"""Of the brighter star; its signal-to-noise ratio is about 300."""

CELL = 84
_MATCH = 2.0
"""Greatest distance of a source from the star it stands for, pixels."""

type Sources = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Positions x and y (pixels) and fluxes of what a system found."""


def make_field(scene: Scene) -> tuple[AstropyTable, SimulatedDetector]:
    """Return what each cell of the field holds, and the simulated image.

    The table has a row per cell: ``separation`` (FWHM; 0 for a single star), ``ratio``, and the positions and
    magnitudes of the stars ``x1, y1, mag1, x2, y2, mag2``.
    """
    random = np.random.default_rng(8)
    visit = scene.visits[0]
    fwhm = visit.seeing / scene.camera.pixel_scale
    per_axis = scene.camera.width // CELL
    cells = AstropyTable()
    kinds = np.array([(0.0, 1.0), *itertools.product(SEPARATIONS, RATIOS)])
    kind = np.arange(per_axis**2) % len(kinds)
    cells["separation"], cells["ratio"] = kinds[kind].T
    row, column = np.divmod(np.arange(per_axis**2), per_axis)
    angle = random.uniform(0, 2 * np.pi, len(cells))
    for axis, center, direction in (("x", column, np.cos(angle)), ("y", row, np.sin(angle))):
        middle = (center + 0.5) * CELL + random.uniform(-0.5, 0.5, len(cells))
        step = 0.5 * fwhm * cells["separation"] * direction
        cells[f"{axis}1"], cells[f"{axis}2"] = middle - step, middle + step
    cells["mag1"] = MAGNITUDE
    cells["mag2"] = MAGNITUDE + 2.5 * np.log10(cells["ratio"])
    pairs = cells["separation"] > 0
    x = np.concatenate([cells["x1"], cells["x2"][pairs]])
    y = np.concatenate([cells["y1"], cells["y2"][pairs]])
    template = make_objects(scene)
    template = template[np.asarray(template["is_star"])]
    objects = template[np.zeros(len(x), dtype=int)]
    objects["object_id"] = np.arange(1, len(x) + 1)
    objects["ra"], objects["dec"] = true_geometry(scene, visit, 0).pixel_to_sky(x=x, y=y)
    objects[f"mag_{visit.band}"] = np.concatenate([cells["mag1"], cells["mag2"][pairs]])
    return cells, simulate_detector(scene, objects, visit=visit.id, detector=0)


def measure_ours(simulated: SimulatedDetector) -> Sources:
    """Detect, deblend and measure with the true PSF and the true sky."""
    exposure: VisitImage = simulated.images[0].copy()
    exposure.image.array[...] -= render_background(simulated.background, exposure.bbox)
    exposure.psf = simulated.psf
    schema = minimal_source_schema()
    detection = SourceDetectionTask(schema=schema, config=SourceDetectionTask.ConfigClass())
    deblend = SourceDeblendTask(schema=schema, config=SourceDeblendTask.ConfigClass())
    config = SingleFrameMeasurementTask.ConfigClass()
    config.plugins.names = ["base_SdssCentroid", "base_PsfFlux"]
    for slot in config.slots.toDict():
        setattr(config.slots, slot, None)
    config.slots.centroid, config.slots.psfFlux = "base_SdssCentroid", "base_PsfFlux"
    measurement = SingleFrameMeasurementTask(schema, config=config)
    ids = IdGenerator()
    found = detection.run(exposure, id_generator=ids).sources
    sources = deblend.run(exposure, found, id_generator=ids)
    measurement.run(sources, exposure, seed=1)
    kept = sources["deblend_nChild"] == 0
    return tuple(
        np.asarray(sources[name])[kept]
        for name in ("slot_Centroid_x", "slot_Centroid_y", "base_PsfFlux_instFlux")
    )  # type: ignore[return-value]


def measure_theirs(simulated: SimulatedDetector) -> Sources:
    """Measure with Source Extractor and PSFEx."""
    image = simulated.images[0]
    measured = measure_with_source_extractor(
        image,
        zero_point=simulated.truth.meta["zero_point"],
        seeing_pixels=image.metadata["PSF_FWHM_GUESS"],
    )
    return measured.x, measured.y, measured.fluxes["psf"][0]


def compare(cells: AstropyTable, sources: Sources) -> AstropyTable:
    """Return per separation and ratio the fraction told apart, and the flux offsets of both stars (mmag).

    A pair is told apart if each star has a source of its own within two pixels.
    """
    x, y, flux = (values[np.isfinite(sources[0]) & np.isfinite(sources[1])] for values in sources)
    tree = KDTree(np.column_stack([x, y]))

    def nearest(star: int) -> tuple[np.ndarray, np.ndarray]:
        distance, index = tree.query(np.column_stack([cells[f"x{star}"], cells[f"y{star}"]]))
        return distance < _MATCH, index

    near1, index1 = nearest(1)
    near2, index2 = nearest(2)
    single = (cells["separation"] == 0) & near1
    zero = np.median(-2.5 * np.log10(flux[index1[single]])) - MAGNITUDE
    with np.errstate(invalid="ignore", divide="ignore"):
        offset1 = -2.5e3 * np.log10(flux[index1]) - 1e3 * (cells["mag1"] + zero)
        offset2 = -2.5e3 * np.log10(flux[index2]) - 1e3 * (cells["mag2"] + zero)
    apart = near1 & near2 & (index1 != index2)
    rows = []
    for separation, ratio in itertools.product(SEPARATIONS, RATIOS):
        pairs = (cells["separation"] == separation) & (cells["ratio"] == ratio)
        both = pairs & apart
        medians = [np.nanmedian(o[both]) if both.any() else np.nan for o in (offset1, offset2)]
        rows.append((separation, ratio, pairs.sum(), apart[pairs].mean(), *medians))
    return AstropyTable(rows=rows, names=("separation", "ratio", "pairs", "apart", "brighter", "fainter"))


def main() -> None:
    """Print what both systems make of the pairs."""
    scene = load_scene("ccd", settings={"cosmic_rays.rate": 0, "electronics.bad_columns": 0})
    cells, simulated = make_field(scene)
    systems: dict[str, Callable[[SimulatedDetector], Sources]] = {
        "secondlight": measure_ours,
        "Source Extractor + PSFEx": measure_theirs,
    }
    console = Console()
    table = Table("separation (FWHM)", "flux ratio", "pairs")
    results = []
    for name, measure in systems.items():
        try:
            results.append(compare(cells, measure(simulated)))
        except PeerUnavailable as error:
            console.print(f"Skipped {name}: {error}")
            continue
        for heading in ("told apart", "brighter (mmag)", "fainter (mmag)"):
            table.add_column(f"{name}: {heading}", justify="right")
    for parts in zip(*results, strict=True):
        first = parts[0]
        texts = [f"{first['separation']:g}", f"{first['ratio']:g}", str(first["pairs"])]
        for part in parts:
            offsets = [part["brighter"], part["fainter"]]
            texts += [f"{part['apart']:.2f}", *(f"{o:+.0f}" if np.isfinite(o) else "" for o in offsets)]
        table.add_row(*texts)
    console.print(table)


if __name__ == "__main__":
    main()
