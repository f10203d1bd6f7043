"""The final pass of a small survey by one process and by several: time, memory, and where the time goes.

Run as ``python -m benchmarks.parallel``; ``--repo`` keeps the simulated survey, and what comes before the
final pass, for the next time.  The final pass of all visits runs by one process, and then by several in each
of the ways asked for: ``secondlight run``, and plain ``pipetask run`` with either start method.

The efficiency is the time of one process over the number of processes times their time.  On a machine that
does other work it means little; there the growth of the CPU time tells what is lost whatever else happens.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from lsst.daf.butler import Butler
from rich.console import Console
from rich.table import Table

from secondlight.cli.pipeline import PIPELINES
from secondlight.simulate.repository import IMAGES_RUN, SKY_MAP

from .processes import Usage, measure, tool

SCENE = "survey"
PIPELINE = "sim/secondlight"
WAYS = ("secondlight", "pipetask-forkserver", "pipetask-spawn")
_INPUTS = f"{IMAGES_RUN},skymaps,refcats"
_PREPARED = "parallel/prepared"
_METADATA = "_metadata"


class Quantum(NamedTuple):
    """What a quantum took, seconds: CPU of its process before it, CPU of it, wall time of it."""

    before: float
    cpu: float
    wall: float


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of the final pass: what it took, and each of its quanta by task."""

    way: str
    processes: int
    usage: Usage
    quanta: dict[str, list[Quantum]]


@dataclasses.dataclass(frozen=True)
class Survey:
    """A simulated survey, ready for its final pass."""

    repository: Path
    visits: int

    def where(self, visits: int | None = None) -> str:
        """Return the selection of the first visits, by default all."""
        ids = ", ".join(str(1001 + 2 * i) for i in range(visits or self.visits))
        return f"instrument='SimCam' AND skymap='{SKY_MAP}' AND visit IN ({ids})"

    @classmethod
    def prepare(cls, repository: Path, *, size: int, visits: int) -> Survey:
        """Simulate two detectors of the first visits of the scene; run what comes before the final pass."""
        survey = cls(repository, visits)
        settings = {"columns": 2, "rows": 1, "width": size, "height": size, "vignetting_radius": 2}
        camera = [word for name, value in settings.items() for word in ("--set", f"camera.{name}={value}")]
        measure([tool("secondlight"), "simulate", repository, "--scene", SCENE, *camera, "-j", "2"])
        with Butler.from_config(str(repository)) as butler:
            made = butler.collections.query(f"{_PREPARED}/*")
        for subset, inputs in (("first_pass", _INPUTS), ("association", survey.first_pass)):
            output = f"{_PREPARED}/{visits}/{subset}"
            if f"{output}/done" not in made:
                survey._run(subset, inputs, output)
        return survey

    @property
    def first_pass(self) -> str:
        """Input collections for what comes after the first pass."""
        return f"{_PREPARED}/{self.visits}/first_pass,{_INPUTS}"

    @property
    def inputs(self) -> str:
        """Input collections of the final pass."""
        return f"{_PREPARED}/{self.visits}/association,{self.first_pass}"

    def _run(self, subset: str, inputs: str, output: str) -> None:
        measure(
            [tool("secondlight"), "run", self.repository, "-p", f"{PIPELINE}#{subset}", "-i", inputs,
             "-o", output, "-d", self.where(), "-j", "2", "--resume"]
        )  # fmt: skip
        with Butler.from_config(str(self.repository), writeable=True) as butler:
            butler.collections.register(f"{output}/done")

    def final_pass(self, way: str, processes: int, visits: int | None = None) -> Run:
        """Run the final pass of the first visits, by default all, and remove its outputs."""
        run = f"parallel/{way}/{processes}/{datetime.now():%Y%m%dT%H%M%S}"
        command = {
            "secondlight": ["secondlight", "run", self.repository, "-p", f"{PIPELINE}#final_pass"],
            "pipetask-forkserver": [*self._pipetask(), "--start-method", "forkserver"],
            "pipetask-spawn": self._pipetask(),
        }[way]
        usage = measure(
            [tool(str(command[0])), *command[1:], "-i", self.inputs, "-o", f"{run}/all", "--output-run", run,
             "-d", self.where(visits), "-j", str(processes)]
        )  # fmt: skip
        with Butler.from_config(str(self.repository), writeable=True, run=run) as butler:
            result = Run(way, processes, usage, _quanta(butler, run))
            butler.collections.x_remove(f"{run}/all")
            butler.removeRuns([run])
        expected = 2 * (visits or self.visits)
        if (found := len(result.quanta["reprocessVisitImage"])) != expected:
            raise RuntimeError(f"{way}: {found} detectors were reprocessed, not {expected}.")
        return result

    def _pipetask(self) -> list[str | Path]:
        pipeline = f"{PIPELINES}{PIPELINE}.yaml#final_pass"
        return ["pipetask", "run", "-b", self.repository, "-p", pipeline, "--register-dataset-types"]

    def read_all(self) -> None:
        """Read all files once, so that every run finds them in memory."""
        for path in self.repository.rglob("*"):
            if path.is_file():
                path.read_bytes()


def _quanta(butler: Butler, run: str) -> dict[str, list[Quantum]]:
    """Return what every quantum of a run says it took, by task."""
    quanta = defaultdict(list)
    for dataset_type in butler.registry.queryDatasetTypes(f"*{_METADATA}"):
        for ref in butler.query_datasets(dataset_type, collections=run, explain=False, limit=None):
            said = butler.get(ref)["quantum"]
            cpu = said["endCpuTime"] - said["prepCpuTime"]
            begun, ended = (datetime.fromisoformat(said[key]) for key in ("prepUtc", "endUtc"))
            label = dataset_type.name.removesuffix(_METADATA)
            quanta[label].append(Quantum(said["prepCpuTime"], cpu, (ended - begun).total_seconds()))
    return quanta


def show(console: Console, runs: list[Run]) -> None:
    """Print the runs beside each other, and what their quanta took."""
    alone = runs[0]
    table = Table(title=f"The final pass, {sum(map(len, alone.quanta.values()))} quanta")
    for heading in ("way", "processes", "wall, s", "efficiency", "user, s", "system, s", "CPU of one / CPU",
                    "CPU of others, s", "memory of a worker, GB", "all together, GB"):  # fmt: skip
        table.add_column(heading, justify="right" if heading != "way" else "left")
    for run in runs:
        usage = run.usage
        table.add_row(
            run.way, str(run.processes), f"{usage.wall:.1f}",
            f"{alone.usage.wall / run.processes / usage.wall:.3f}",
            f"{usage.user:.1f}", f"{usage.system:.1f}",
            f"{alone.usage.cpu / usage.cpu:.3f}", f"{usage.others:.0f}",
            f"{_typical_peak(run):.2f}, at most {max(usage.peaks.values()):.2f}", f"{usage.together:.2f}",
        )  # fmt: skip
    console.print(table)
    table = Table(title="CPU seconds of a quantum (before it begins), and wall seconds, mean")
    for heading in ("task", "quanta", *(f"{run.way}, {run.processes}" for run in runs)):
        table.add_column(heading, justify="right" if heading != "task" else "left")
    for label, quanta in alone.quanta.items():
        table.add_row(label, str(len(quanta)), *(_mean(run, label) for run in runs))
    console.print(table)


def _typical_peak(run: Run) -> float:
    """Return the median peak memory of the largest tasks' processes."""
    largest = sorted(run.usage.peaks.values())[-len(run.quanta["reprocessVisitImage"]) :]
    return float(np.median(largest)) if run.processes > 1 else largest[-1]


def _mean(run: Run, label: str) -> str:
    before, cpu, wall = np.mean(run.quanta[label], axis=0)
    started = f" ({before:.2f})" if run.processes > 1 else ""
    return f"{cpu:.2f}{started}, {wall:.2f}"


@click.command()
@click.option(
    "--repo", type=click.Path(path_type=Path), help="Folder of the survey, made if it is not there."
)
@click.option("--size", default=2048, show_default=True, help="Columns and rows of a detector, pixels.")
@click.option("--visits", default=20, show_default=True, type=click.IntRange(1, 20), help="Number of visits.")
@click.option("-j", "--processes", default=2, show_default=True, type=click.IntRange(2))
@click.option("--way", "ways", multiple=True, type=click.Choice(WAYS), default=WAYS, show_default=True)
@click.option("--prepare", is_flag=True, help="Make the survey only.")
def main(
    repo: Path | None, size: int, visits: int, processes: int, ways: tuple[str, ...], prepare: bool
) -> None:
    """Measure the final pass of a simulated survey by one process and by several."""
    console = Console(width=200)
    with tempfile.TemporaryDirectory() as folder:
        survey = Survey.prepare(repo or Path(folder) / "repo", size=size, visits=visits)
        if prepare:
            return
        # Kernels are compiled, if they are not yet, before anything counts.
        survey.final_pass("secondlight", 1, visits=1)
        survey.read_all()
        runs = [survey.final_pass("secondlight", 1)]
        for way in ways:
            runs.append(survey.final_pass(way, processes))
        show(console, runs)


if __name__ == "__main__":
    main()
