"""The whole chain on a folder of SDSS frames, from an empty folder to calibrated images and a summary."""

from __future__ import annotations

__all__ = ("OUTPUT", "QUANTUM_GRAPH", "SKY_MAP", "run_demo")

from pathlib import Path

from lsst.daf.butler import Butler
from rich.console import Console

from ..instruments.ingest import default_run, ingest
from ..instruments.reference_catalog import ingest_reference_catalog
from ..instruments.repository import make_repository
from ..instruments.sdss import SdssImager
from ..report.pictures import draw_visit
from ..report.summary import print_summary, repeatability, visit_numbers
from ..sky.registration import register_sky_map, tracts_of_visits
from ..sky.sky_map import RingsSkyMap, RingsSkyMapConfig
from .pipeline import run_pipeline

OUTPUT = "demo/run"
"""Collection of the demonstration's outputs."""

QUANTUM_GRAPH = "demo.qg"
"""Name of the file with the quantum graph, in the repository's folder; ``pipetask report`` reads it."""

SKY_MAP = "secondlight_rings"
"""Name of the sky map of the demonstration."""


def run_demo(root: Path, data: Path, *, processes: int, console: Console | None = None) -> int:
    """Make a repository, ingest the frames, run the whole chain and print what came out.

    Parameters
    ----------
    root
        Folder of the repository; made if it does not exist, else frames that are in it already are kept.
    data
        Folder with SDSS frames, their companions, and ``refcat/stars.fits``.
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
    FileNotFoundError
        Raised if the data folder does not exist.
    """
    console = console or Console()
    if not data.is_dir():
        raise FileNotFoundError(f"There is no folder {data} with SDSS frames; name one with --data.")
    _fill_repository(root, data, console)
    instrument = SdssImager()
    code = run_pipeline(
        str(root),
        pipeline="sdss/secondlight",
        inputs=f"{default_run(instrument)},skymaps,refcats",
        output=OUTPUT,
        where=f"instrument='{instrument.name}' AND skymap='{SKY_MAP}'",
        processes=processes,
        extra=("--save-qgraph", str(root / QUANTUM_GRAPH)),
    )
    with Butler.from_config(str(root)) as butler:
        print_summary(
            visit_numbers(butler, collections=OUTPUT),
            repeatability(butler, collections=OUTPUT, skymap=SKY_MAP),
            console=console,
        )
        pictures = _draw_pictures(butler, root / "pictures")
    console.print(
        f"Images (pvi) and source tables (sources_detector) are in collection {OUTPUT} of {root}, "
        f"{pictures} pictures of them in {root / 'pictures'}."
    )
    return code


def _draw_pictures(butler: Butler, folder: Path) -> int:
    """Save a picture of every published image and return how many there are."""
    folder.mkdir(exist_ok=True)
    refs = butler.query_datasets("pvi", collections=OUTPUT, explain=False)
    for ref in refs:
        sources = butler.get("sources_detector", ref.dataId, collections=OUTPUT)
        name = f"visit_{ref.dataId['visit']}_detector_{ref.dataId['detector']}.png"
        draw_visit(butler.get(ref), sources).savefig(folder / name, dpi=110)
    return len(refs)


def _fill_repository(root: Path, data: Path, console: Console) -> None:
    """Make the repository and put everything the pipeline reads into it."""
    is_new = not (root / "butler.yaml").exists()
    with make_repository(root) if is_new else Butler.from_config(str(root), writeable=True) as butler:
        instrument = SdssImager()
        report = ingest(
            butler, instrument, [data], progress=lambda file: console.print(f"Ingesting {file.path.name}")
        )
        console.print(f"{len(report.ingested)} frames ingested, {len(report.skipped)} were there already.")
        sky_map = RingsSkyMap(RingsSkyMapConfig(numRings=120))
        register_sky_map(sky_map, butler, SKY_MAP, tracts=tracts_of_visits(sky_map, butler))
        reference = data / "refcat" / "stars.fits"
        if reference.exists():
            ingest_reference_catalog(butler, reference)
