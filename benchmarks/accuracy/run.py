"""From a repository to the numbers of every system."""

from __future__ import annotations

__all__ = ("OUTPUT", "PEERS", "MissingInputError", "SystemNumbers", "examine", "make_survey")

import contextlib
import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from astropy.table import Table
from lsst.daf.butler import Butler
from rich.console import Console
from rich.progress import Progress

from secondlight.cli.demo import OUTPUT, run_demo
from secondlight.instruments.sim_cam import SimCam
from secondlight.simulate.repository import IMAGES_RUN, SCENE_RUN

from .catalogs import Measured
from .chain import ImageId, Survey
from .matching import Image
from .metrics import all_numbers, all_samples
from .numbers import Number

CHAIN = "secondlight"
"""Name of the system whose outputs are in the repository."""

PEERS = ("sep", "source-extractor")
"""Other systems, which measure the images here and now."""


class MissingInputError(ValueError):
    """What was asked for is not there."""


@dataclasses.dataclass(frozen=True)
class SystemNumbers:
    """The results of one system.

    Parameters
    ----------
    images
        Number of images.
    subjects
        Numbers by subject.
    cpu_seconds
        User CPU time per image, where it was taken.
    """

    images: int
    subjects: dict[str, list[Number]]
    cpu_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class _Sampled:
    """Samples of one image by every system, and what they cost."""

    samples: dict[str, dict[str, Table]]
    cpu_seconds: dict[str, float]
    missing: dict[str, str]


def make_survey(repository: Path, scene: str, *, processes: int, console: Console) -> None:
    """Simulate a scene and run the chain, unless the repository has its outputs."""
    if (repository / "butler.yaml").exists():
        with _open(repository, OUTPUT) as survey:
            if survey is not None and survey.images():
                console.print(f"Using the outputs that are in {repository}.")
                return
    code = run_demo(repository, scene=scene, processes=processes, console=console)
    if code:
        console.print(f"[bold]The chain ended with code {code}; what there is will be examined.[/bold]")


@contextlib.contextmanager
def _open(repository: Path, collection: str) -> Iterator[Survey | None]:
    """Open a repository for reading; `None` if it does not have the collection."""
    with Butler.from_config(str(repository)) as butler:
        known = set(butler.collections.query("*"))
        if collection not in known:
            yield None
            return
        collections = [name for name in (collection, IMAGES_RUN, SCENE_RUN) if name in known]
        yield Survey(butler.clone(collections=collections), SimCam.name)


def examine(
    repository: Path,
    *,
    collection: str = OUTPUT,
    peers: Sequence[str] = (),
    processes: int = 1,
    console: Console | None = None,
) -> dict[str, SystemNumbers]:
    """Compare the chain's outputs, and the peers' measurements of the same images, with the truth.

    Parameters
    ----------
    repository, collection
        Where the outputs are.
    peers
        Some of `PEERS`; one that is not installed is left out with a message.
    processes
        Number of processes.
    console
        Where to print.

    Raises
    ------
    MissingInputError
        Raised if there are no outputs, or an unknown peer is named.
    """
    console = console or Console()
    if unknown := set(peers) - set(PEERS):
        raise MissingInputError(
            f"There is no peer {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}."
        )
    with _open(repository, collection) as survey:
        images = survey.images() if survey is not None else []
    if not images:
        raise MissingInputError(
            f"Collection {collection} of {repository} has no source tables (sources_detector)."
        )
    tasks = [(repository, collection, image, tuple(peers)) for image in images]
    sampled = list(_sample_all(tasks, processes, console))
    for system, why in sorted({item for one in sampled for item in one.missing.items()}):
        console.print(f"{system}: {why}")
    return {
        system: _system_numbers(system, [one for one in sampled if system in one.samples])
        for system in (CHAIN, *peers)
        if any(system in one.samples for one in sampled)
    }


def _system_numbers(system: str, sampled: list[_Sampled]) -> SystemNumbers:
    spent = [one.cpu_seconds[system] for one in sampled if system in one.cpu_seconds]
    return SystemNumbers(
        images=len(sampled),
        subjects=all_numbers(one.samples[system] for one in sampled),
        cpu_seconds=sum(spent) / len(spent) if spent else None,
    )


type _Task = tuple[Path, str, ImageId, tuple[str, ...]]


def _sample_all(tasks: list[_Task], processes: int, console: Console) -> Iterator[_Sampled]:
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("Comparing with the truth", total=len(tasks))
        if processes == 1:
            for task in tasks:
                yield _sample_image(task)
                progress.advance(bar)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            for one in pool.map(_sample_image, tasks):
                yield one
                progress.advance(bar)


def _sample_image(task: _Task) -> _Sampled:
    repository, collection, image, peers = task
    result = _Sampled({}, {}, {})
    with _open(repository, collection) as survey:
        assert survey is not None
        truth = survey.truth(image)
        measurements: dict[str, Callable[[], Measured]] = {CHAIN: lambda: survey.measured(image)}
        measurements |= {peer: _peer(peer, survey, image, truth.zero_point) for peer in peers}
        for system, measure in measurements.items():
            try:
                measured = measure()
            except _peer_unavailable() as error:
                result.missing[system] = str(error)
                continue
            result.samples[system] = all_samples(Image(measured, truth))
            if measured.cpu_seconds == measured.cpu_seconds:
                result.cpu_seconds[system] = measured.cpu_seconds
    return result


def _peer_unavailable() -> type[Exception]:
    from .peers import PeerUnavailable

    return PeerUnavailable


def _peer(name: str, survey: Survey, image: ImageId, zero_point: float) -> Callable[[], Measured]:
    """Return what measures an image with a peer."""
    from . import peers

    measure = {"sep": peers.measure_with_sep, "source-extractor": peers.measure_with_source_extractor}[name]
    return lambda: measure(survey.post_isr_image(image), zero_point=zero_point, seeing_pixels=None)
