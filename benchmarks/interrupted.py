"""The final pass of a small detector killed at random points, and gone on with until it is complete.

Run as ``python -m benchmarks.interrupted --kills 20``. A run is killed by SIGKILL at a point drawn at
random: while a task runs; before, in the middle of and after the writing of an output; and around its
registration. It is gone on with, and killed again elsewhere, until it comes to its end; then every output
is compared, bit by bit, with that of a run that nobody interrupted. Another run begins, until there were
enough kills.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
from tests.chain.comparison import differences
from tests.chain.interruption import RUN, Point, Stage, final_pass, half_done, prepare, temporary_files

_VISIT = "visit=1001"
_LONGEST_DELAY = 3.0
_KILLS_OF_A_RUN = 8


def draw(points: list[Point], rng: np.random.Generator) -> Point:
    """Draw a point: at every second time in the work of a task, else around one of its outputs."""
    running = rng.random() < 0.5
    choice = [point for point in points if (point.stage is Stage.RUNNING) == running]
    point = choice[rng.integers(len(choice))]
    return point._replace(delay=rng.uniform(0.0, _LONGEST_DELAY)) if running else point


def one_run(prepared: Path, reference: Path, root: Path, draws: Iterable[Point]) -> list[Point]:
    """Kill a run at one point after the other until it ends before; return where it was killed."""
    shutil.copytree(prepared, root)
    killed: list[Point] = []
    for point in draws:
        code, _ = final_pass(root, where=_VISIT, fatal=point)
        if code == 0:
            return killed
        if code != -signal.SIGKILL:
            raise RuntimeError(f"After {killed} the run failed with exit code {code}.")
        killed.append(point)
        if wrong := half_done(root, reference):
            raise RuntimeError(f"Killed at {point}: {wrong}.")
    if final_pass(root, where=_VISIT)[0]:
        raise RuntimeError(f"After {killed} the run could not be completed.")
    return killed


@click.command()
@click.option("--kills", default=20, show_default=True, help="Number of times that a run is killed.")
@click.option("--seed", default=1, show_default=True, help="Seed of the points where it is killed.")
def main(kills: int, seed: int) -> None:
    """Kill the final pass at random points, go on with it, and compare what comes out in the end."""
    rng = np.random.default_rng(seed)
    stages: Counter[str] = Counter()
    runs, lost, temporary = 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        prepared, reference = prepare(Path(folder) / "prepared"), Path(folder) / "reference"
        shutil.copytree(prepared, reference)
        code, points = final_pass(reference, where=_VISIT)
        if code:
            raise RuntimeError("The run that is not interrupted failed.")
        while (left := kills - stages.total()) > 0:
            root = Path(folder) / f"run{runs}"
            draws = [draw(points, rng) for _ in range(min(left, _KILLS_OF_A_RUN))]
            order = [(point.name, point.stage) for point in points]
            killed = one_run(prepared, reference, root, sorted(draws, key=lambda p: order.index(p[:2])))
            wrong = differences(root, reference, RUN)
            lost_here = [text for text in wrong if "_log of" in text and text.endswith("is missing")]
            click.echo(f"Run {runs}: killed {len(killed)} times; {wrong or 'every output is the same'}")
            if len(lost_here) < len(wrong):
                raise RuntimeError(f"Killed at {killed}: {wrong}.")
            runs, lost, temporary = runs + 1, lost + len(lost_here), temporary + len(temporary_files(root))
            stages.update(point.stage for point in killed)
            shutil.rmtree(root)
    where = ", ".join(f"{stage}: {number}" for stage, number in stages.items())
    click.echo(
        f"{runs} runs were killed {stages.total()} times ({where}) and then completed; all outputs are "
        f"those of a run that was not. {lost} logs are missing, {temporary} temporary files were left."
    )


if __name__ == "__main__":
    main()
