"""User CPU seconds of the final characterization of one large simulated detector, step by step, one thread.

Run as ``python -m benchmarks.finalize``, or with the names of scenes.  The first pass makes the sources;
stars that are isolated in truth stand for those that several visits would have found.  The task runs twice;
the first time compiles the kernels, the second counts.  Reading and writing is timed apart.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import astropy.table
import lsst.images.fits
import numpy as np
import pyarrow.parquet as pq
from lsst.daf.butler.formatters.parquet import arrow_to_astropy, astropy_to_arrow
from lsst.images import VisitImage
from lsst.images.serialization import read_archive
from rich.console import Console
from rich.table import Table

from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.psf.reservation import ReserveIsolatedStarsTask
from secondlight.simulate.detector import simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.scene import load_scene
from secondlight.sky.matching import match_nearest
from secondlight.tasks.calibrate_image import CalibrateImageTask
from secondlight.tasks.finalize_characterization import FinalizeCharacterizationDetectorTask

from .detection import peak_memory
from .steps import time_subtasks, user_seconds

SCENES = ("ccd",)
_SUBTASKS = {
    "source_selector": "select_sources",
    "make_psf_candidates": "run",
    "psf_determiner": "determine_psf",
    "measurement": "run",
    "measure_ap_corr": "run",
    "apply_ap_corr": "run",
}
_ISOLATED = 1e-2
_MATCH_ARCSEC = 0.2


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the first pass left of a detector, and which of its sources are isolated stars."""

    visit: int
    exposure: VisitImage
    sources: SourceCatalog
    isolated: astropy.table.Table

    @classmethod
    def simulate(cls, name: str) -> Inputs:
        """Simulate the first detector of a scene and run the first pass on it."""
        scene = load_scene(name)
        visit = scene.visits[0].id
        simulated = simulate_detector(scene, make_objects(scene), visit=visit, detector=0)
        first = CalibrateImageTask().run(exposures=list(simulated.images))
        return cls(visit, first.exposure, first.stars, _isolated_stars(simulated.truth, first.stars))


def _isolated_stars(truth: astropy.table.Table, sources: SourceCatalog) -> astropy.table.Table:
    """Return sources that are stars without neighbours, some of them reserved."""
    alone = truth["is_star"] & ~truth["saturated"] & (np.abs(truth["contamination"]) < _ISOLATED)
    stars = truth[alone]
    whole = np.flatnonzero(sources["detect_isPrimary"])
    ra, dec = (np.degrees(sources[f"coord_{axis}"][whole]) for axis in ("ra", "dec"))
    nearest = match_nearest(np.asarray(stars["ra"]), np.asarray(stars["dec"]), ra, dec, _MATCH_ARCSEC)
    ids = np.unique(sources["id"][whole[nearest[nearest >= 0]]])
    reserved = ReserveIsolatedStarsTask().run(len(ids))
    return astropy.table.Table({"sourceId": ids, "reserved": reserved})


def run(inputs: Inputs) -> tuple[dict[str, float], float, float, object]:
    """Run the task twice; return the seconds of each step, the total, the peak memory (GB) and the result."""
    task = FinalizeCharacterizationDetectorTask()

    def characterize() -> object:
        return task.compute_psf_and_ap_corr_map(
            inputs.visit, 0, inputs.exposure, inputs.sources, inputs.isolated
        )

    characterize()
    steps = time_subtasks(task, _SUBTASKS)
    start = user_seconds()
    _, peak, result = peak_memory(characterize)
    return dict(steps), user_seconds() - start, peak, result


def storage(inputs: Inputs) -> dict[str, float]:
    """Return the seconds to write and read the image and the sources."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], object]) -> None:
        start = user_seconds()
        step()
        seconds[name] = user_seconds() - start

    with tempfile.TemporaryDirectory() as folder:
        image, table = str(Path(folder) / "image.fits"), str(Path(folder) / "sources.parquet")
        sources = inputs.sources.to_astropy()
        # As a repository stores images that only the next task reads.
        plain = dict.fromkeys(("image", "mask", "variance"))
        timed(
            "write the image",
            lambda: lsst.images.fits.write(inputs.exposure, image, compression_options=plain),
        )
        timed("read the image", lambda: read_archive(image, VisitImage))
        timed("write the table", lambda: pq.write_table(astropy_to_arrow(sources), table))
        timed("read the table", lambda: arrow_to_astropy(pq.read_table(table)))
    return seconds


def main(names: tuple[str, ...] = SCENES) -> None:
    """Characterize scenes and print tables."""
    console = Console()
    for name in names:
        inputs = Inputs.simulate(name)
        steps, total, peak, result = run(inputs)
        table = Table(
            title=f"{name}: {len(inputs.sources)} sources, {len(inputs.isolated)} isolated stars, "
            f"{len(result.measured_src)} measured, {result.measured_src['calib_psf_used'].sum()} in the fit"
        )
        table.add_column("step")
        table.add_column("user CPU, s", justify="right")
        for step, seconds in steps.items():
            table.add_row(step, f"{seconds:.2f}")
        table.add_section()
        table.add_row("the whole task", f"{total:.2f}")
        table.add_section()
        for step, seconds in storage(inputs).items():
            table.add_row(step, f"{seconds:.2f}")
        console.print(table)
        console.print(f"Peak memory of the process, the simulation included: {peak:.2f} GB")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or SCENES)
