"""How close fitted PSFs come to the true one of simulated detectors: ours, Piff's own fit, PSFEx.

Run as ``python -m benchmarks.psf_quality``, or with a scene.  All fit polynomials to the same stars, with
their true positions given, on several detectors that differ in everything random.  Models and truth are
compared on a grid of positions by the adaptive moments of their images: ``dT / T``, ``de1`` and ``de2``,
model less truth, with ``T = xx + yy``, ``e1 = (xx - yy) / T`` and ``e2 = 2 xy / T``.  The table has the
medians over the grid, averaged over the detectors with the error of that mean, and the mean scatter.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import astropy.table
import numpy as np
from astropy.io import fits
from lsst.images import VisitImage
from lsst.images.psfs import PointSpreadFunction
from rich.console import Console
from rich.progress import track
from rich.table import Table

from secondlight.background.object_masked import ObjectMaskedBackgroundTask
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.detection.task import SourceDetectionConfig, SourceDetectionTask
from secondlight.psf.candidates import MakePsfCandidatesTask, PsfCandidates
from secondlight.psf.evaluation import kernel_stamps, stamp_shapes
from secondlight.psf.piff_determiner import PiffPsfDeterminerConfig, PiffPsfDeterminerTask
from secondlight.repair.task import RepairTask
from secondlight.simulate.detector import simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.psf import SimulatedPsf
from secondlight.simulate.scene import load_scene

from .accuracy.peers import PeerUnavailable, source_extractor
from .accuracy.peers._common import Exposure
from .accuracy.peers._programs import Programs
from .timing import user_seconds

SCENE = "ccd"
STARS = (80, 160)
DETECTORS = 10
PIFF_DETECTORS = 1
"""Piff's own fit, which gives the same as ours, is made on the first of the detectors only."""

PIFF = "Piff, order 2"
SETTINGS: dict[str, dict[str, object]] = {
    "secondlight, order 2": {},
    "secondlight, order 4": {"spatialOrder": 4},
    "secondlight, order chosen": {"orderSelection": "auto"},
    PIFF: {"solver": "piff", "piffBasisPolynomialSolver": "cpp"},
}
_SNR = (50.0, 1000.0)
_CONTAMINATION = 0.01
_BORDER = 20.0
_GRID = 25
_STAMP = 25
_MATCH = 1.0

type Fit = Callable[[], PointSpreadFunction]


def simulate(scene_name: str, seed: int) -> tuple[VisitImage, astropy.table.Table, SimulatedPsf]:
    """Return an image after the first background, its clean stars in random order, and its true PSF."""
    scene = load_scene(scene_name, settings={"seed": 100 + seed})
    simulated = simulate_detector(scene, make_objects(scene), visit=scene.visits[0].id, detector=0)
    image, truth = simulated.images[0], simulated.truth
    background = ObjectMaskedBackgroundTask.ConfigClass()
    # As in the first pass: the light of objects too faint to be found is sky, and makes no star wider.
    background.doFaintLight = False
    ObjectMaskedBackgroundTask(config=background).run(image)
    RepairTask().run(image)
    config = SourceDetectionConfig()
    config.reEstimateBackground = config.doTempLocalBackground = False
    # What is detected is masked around the stars.
    SourceDetectionTask(schema=minimal_source_schema(), config=config).run(image)
    good = truth["is_star"] & ~truth["saturated"] & (np.abs(truth["contamination"]) < _CONTAMINATION)
    good &= (truth["snr"] > _SNR[0]) & (truth["snr"] < _SNR[1])
    for name, side in (("x", image.bbox.x), ("y", image.bbox.y)):
        good &= (truth[name] > side.min + _BORDER) & (truth[name] < side.max - _BORDER)
    rows = np.random.default_rng(1).permutation(np.flatnonzero(good))
    return image, truth[rows], simulated.psf


def cut_out(image: VisitImage, stars: astropy.table.Table) -> PsfCandidates:
    """Return candidates at the true positions of stars."""
    schema = minimal_source_schema()
    for axis in "xy":
        schema.add(f"true_{axis}", np.float64, "true position", unit="pix")
    schema.set_alias("slot_Centroid", "true")
    catalog = SourceCatalog(schema, len(stars))
    catalog["id"] = np.arange(1, len(stars) + 1)
    catalog["true_x"], catalog["true_y"] = stars["x"], stars["y"]
    candidates: PsfCandidates = MakePsfCandidatesTask().run(catalog, image).candidates
    return candidates


def fit_piff(image: VisitImage, stars: PsfCandidates, **settings: object) -> PointSpreadFunction:
    """Fit Piff's model with our fit or its own."""
    config = PiffPsfDeterminerConfig()
    config.update(**settings)
    psf: PointSpreadFunction = PiffPsfDeterminerTask(config=config).determine_psf(image, stars).psf
    return psf


def fit_psfex(image: VisitImage, stars: astropy.table.Table, *, fwhm: float) -> PointSpreadFunction:
    """Fit a PSF by PSFEx to the same stars, as far as Source Extractor finds them.

    Raises
    ------
    PeerUnavailable
        Raised if the programs are not installed.
    """
    exposure = Exposure.of(image, seeing_pixels=fwhm)
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs.find(Path(folder), exposure.name)
        source_extractor._write_inputs(exposure, programs)
        source_extractor._find_stars(programs, source_extractor._extractor_settings(exposure, programs))
        catalog = programs.folder / source_extractor._STARS
        with fits.open(catalog) as file:
            found = file["LDAC_OBJECTS"].data
            x, y = (np.asarray(found[name], dtype=float) - 1.0 for name in ("X_IMAGE", "Y_IMAGE"))
            distance = np.hypot(x[:, None] - np.asarray(stars["x"]), y[:, None] - np.asarray(stars["y"]))
            file["LDAC_OBJECTS"].data = found[distance.min(axis=1) < _MATCH]
            file.writeto(catalog, overwrite=True)
        programs.cpu_seconds = 0.0
        programs.fit_psf(source_extractor._STARS, source_extractor._psfex_settings(2))
        return source_extractor._read_psf(programs.folder / source_extractor._PSF, image)[0]


def residuals(psf: PointSpreadFunction, truth: SimulatedPsf, image: VisitImage) -> np.ndarray:
    """Return dT/T, de1 and de2 on a grid of positions (n, 3)."""
    sides = (np.linspace(s.min + 50, s.max - 50, _GRID) for s in (image.bbox.x, image.bbox.y))
    x, y = (c.ravel() for c in np.meshgrid(*sides))
    model, true = (_parameters(kernel_stamps(p, x=x, y=y)) for p in (psf, truth))
    return np.column_stack([model[:, 0] / true[:, 0] - 1.0, model[:, 1:] - true[:, 1:]])


def _parameters(stamps: np.ndarray) -> np.ndarray:
    """Return T, e1 and e2 of the middles of stamps (n, 3)."""
    cut = (stamps.shape[1] - _STAMP) // 2
    moments = stamp_shapes(stamps[:, cut : cut + _STAMP, cut : cut + _STAMP])
    trace = moments[:, 0] + moments[:, 1]
    return np.column_stack([trace, (moments[:, 0] - moments[:, 1]) / trace, 2.0 * moments[:, 2] / trace])


def measure(scene: str, seed: int) -> Iterator[tuple[int, str, np.ndarray, float] | str]:
    """Fit the PSF of one detector in all ways; yield stars, fit, statistics (6) and user CPU seconds."""
    image, stars, truth = simulate(scene, seed)
    middle = (np.array([0.5 * (s.min + s.max)]) for s in (image.bbox.x, image.bbox.y))
    (size,) = stamp_shapes(kernel_stamps(truth, **dict(zip("xy", middle, strict=True))))
    fwhm = float(2.35482 * np.sqrt(0.5 * (size[0] + size[1])))
    for n in STARS:
        if n > len(stars):
            yield f"{scene}, seed {seed}: {len(stars)} stars, not {n}"
            continue
        chosen, candidates = stars[:n], cut_out(image, stars[:n])
        ways: dict[str, Fit] = {
            name: functools.partial(fit_piff, image, candidates, **settings)
            for name, settings in SETTINGS.items()
            if name != PIFF or seed < PIFF_DETECTORS
        }
        ways["PSFEx, order 2"] = functools.partial(fit_psfex, image, chosen, fwhm=fwhm)
        for name, fit in ways.items():
            start = user_seconds()
            try:
                psf = fit()
            except PeerUnavailable as reason:
                yield str(reason)
                continue
            seconds = user_seconds() - start
            yield n, name, _statistics(residuals(psf, truth, image)), seconds


def main(scene: str = SCENE) -> None:
    """Fit and print a table."""
    found: dict[tuple[int, str], list[tuple[np.ndarray, float]]] = defaultdict(list)
    for seed in track(range(DETECTORS), description="detectors"):
        for result in measure(scene, seed):
            if isinstance(result, str):
                print(result)
            else:
                n, name, statistics, seconds = result
                found[n, name].append((statistics, seconds))
    table = Table(title=f"{scene}: fitted PSFs less the true one, units of 1e-4")
    for heading in (
        "stars",
        "fit",
        "detectors",
        "dT/T",
        "scatter",
        "de1",
        "scatter",
        "de2",
        "scatter",
        "CPU, s",
    ):
        table.add_column(heading, justify="left" if heading == "fit" else "right", no_wrap=True)
    for (n, name), results in sorted(found.items(), key=lambda item: item[0][0]):
        statistics = np.array([s for s, _ in results])
        seconds = np.mean([s for _, s in results])
        table.add_row(str(n), name, str(len(results)), *_cells(statistics), f"{seconds:.2f}")
    Console().print(table)


def _statistics(values: np.ndarray) -> np.ndarray:
    """Return median and scatter of each column (6); a model may have no moments in a corner without stars."""
    middle = np.nanmedian(values, axis=0)
    scatter = 1.4826 * np.nanmedian(np.abs(values - middle), axis=0)
    return np.column_stack([middle, scatter]).ravel()


def _cells(statistics: np.ndarray) -> list[str]:
    """Return means over detectors (n, 6), those of medians with their errors, in units of 1e-4."""
    mean = 1e4 * statistics.mean(axis=0)
    error = 1e4 * statistics.std(axis=0, ddof=min(1, len(statistics) - 1)) / np.sqrt(len(statistics))
    return [
        f"{m:+.1f} ± {e:.1f}" if k % 2 == 0 else f"{m:.1f}"
        for k, (m, e) in enumerate(zip(mean, error, strict=True))
    ]


if __name__ == "__main__":
    main(*sys.argv[1:2])
