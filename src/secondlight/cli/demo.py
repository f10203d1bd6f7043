"""The whole chain on simulated images or SDSS frames, from an empty folder to a summary."""

from __future__ import annotations

__all__ = ("OUTPUT", "QUANTUM_GRAPH", "SKY_MAP", "run_demo")

import dataclasses
from pathlib import Path

import click
from lsst.daf.butler import Butler
from rich.console import Console

from ..instruments.ingest import default_run, ingest
from ..instruments.reference_catalog import ingest_reference_catalog
from ..instruments.repository import open_or_make_repository
from ..instruments.sdss import SdssImager
from ..instruments.sim_cam import SimCam
from ..report.pictures import draw_visit
from ..report.summary import print_summary, repeatability, visit_numbers
from ..simulate.repository import IMAGES_RUN, SKY_MAP, stored_scene
from ..simulate.scene import load_scene
from ..sky.registration import register_sky_map, tracts_of_visits
from ..sky.sky_map import RingsSkyMap, RingsSkyMapConfig
from .errors import errors_for_people
from .pipeline import run_pipeline
from .simulate import prepare, simulate_images

OUTPUT = "demo/run"
"""Collection of the demonstration's outputs."""

QUANTUM_GRAPH = "demo.qg"
"""Name of the file with the quantum graph, in the repository's folder; ``pipetask report`` reads it."""

_ILLUMINATED = (
    "-c",
    "reprocessVisitImage:do_apply_flat_background_ratio=True",
    "-c",
    "reprocessVisitImage:detection.doApplyFlatBackgroundRatio=True",
)
"""Settings for images whose flat for the background is not that for the stars."""


@dataclasses.dataclass(frozen=True)
class _Images:
    """Images in a repository, and how they are to be processed."""

    instrument: str
    run: str
    pipeline: str
    settings: tuple[str, ...] = ()


def run_demo(
    root: Path,
    *,
    data: Path | None = None,
    scene: str | Path = "demo",
    processes: int,
    console: Console | None = None,
) -> int:
    """Make a repository, put images into it, run the whole chain and print what came out.

    Parameters
    ----------
    root
        Folder of the repository; made if it does not exist, else images that are in it already are kept.
    data
        Folder with SDSS frames, their companions, and ``refcat/stars.fits``; by default a scene is simulated.
    scene
        The scene to simulate, by name or file.
    processes
        Number of processes.
    console
        Where to print.

    Returns
    -------
    int
        0 if everything succeeded.

    Raises
    ------
    click.ClickException
        Raised if there are no frames, or the scene cannot be simulated.
    """
    console = console or Console()
    images = _ingest_sdss(root, data, console) if data else _simulate(root, scene, processes, console)
    code = run_pipeline(
        str(root),
        pipeline=images.pipeline,
        inputs=f"{images.run},skymaps,refcats",
        output=OUTPUT,
        where=f"instrument='{images.instrument}' AND skymap='{SKY_MAP}'",
        processes=processes,
        extra=("--save-qgraph", str(root / QUANTUM_GRAPH), *images.settings),
    )
    _sum_up(root, console)
    return code


def _sum_up(root: Path, console: Console) -> None:
    """Print the numbers of the run and draw its images."""
    with Butler.from_config(str(root)) as butler:
        print_summary(
            visit_numbers(butler, collections=OUTPUT),
            repeatability(butler, collections=OUTPUT, skymap=SKY_MAP),
            console=console,
        )
        pictures = _draw_pictures(butler, root / "pictures")
    console.print(
        f"Images (pvi) and source tables (sources_detector, and source under public names) are in collection "
        f"{OUTPUT} of {root}, {pictures} pictures of them in {root / 'pictures'}."
    )


def _draw_pictures(butler: Butler, folder: Path) -> int:
    """Save a picture of every published image and return how many there are."""
    folder.mkdir(exist_ok=True)
    refs = butler.query_datasets("pvi", collections=OUTPUT, explain=False)
    for ref in refs:
        sources = butler.get("sources_detector", ref.dataId, collections=OUTPUT)
        name = f"visit_{ref.dataId['visit']}_detector_{ref.dataId['detector']}.png"
        draw_visit(butler.get(ref), sources).savefig(folder / name, dpi=110)
    return len(refs)


def _simulate(root: Path, scene: str | Path, processes: int, console: Console) -> _Images:
    """Simulate a scene."""
    with errors_for_people():
        described = load_scene(scene)
        prepare(root, described, say=console.print)
    if simulate_images(root, processes=processes):
        raise click.ClickException(f"Scene {described.name} was not simulated completely; see the log above.")
    settings = _ILLUMINATED if described.sky.illumination else ()
    return _Images(SimCam.name, IMAGES_RUN, "sim/secondlight", settings)


def _ingest_sdss(root: Path, data: Path, console: Console) -> _Images:
    """Put SDSS frames, a sky map and the reference catalog into the repository."""
    if not data.is_dir():
        raise click.ClickException(f"There is no folder {data} with SDSS frames; name one with --data.")
    instrument = SdssImager()
    with errors_for_people(), open_or_make_repository(root) as butler:
        if stored_scene(butler) is not None:
            raise click.ClickException(
                f"{root} holds a simulated scene; SDSS frames need another repository."
            )
        report = ingest(
            butler, instrument, [data], progress=lambda file: console.print(f"Ingesting {file.path.name}")
        )
        console.print(f"{len(report.ingested)} frames ingested, {len(report.skipped)} were there already.")
        sky_map = RingsSkyMap(RingsSkyMapConfig(numRings=120))
        register_sky_map(sky_map, butler, SKY_MAP, tracts=tracts_of_visits(sky_map, butler))
        reference = data / "refcat" / "stars.fits"
        if reference.exists():
            ingest_reference_catalog(butler, reference)
    return _Images(instrument.name, default_run(instrument), "sdss/secondlight")
