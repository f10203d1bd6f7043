"""Runs that are killed at a chosen point, and what they leave, compared with a run that was not.

A run happens in a process of its own, forked from one that has imported everything; it ends by SIGKILL sent
to its whole process group, so nothing of it can clean up.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from lsst.daf.butler import Butler, DatasetRef, FormatterV2
from lsst.daf.butler.datastores.fileDatastore import FileDatastore
from lsst.daf.butler.direct_butler import DirectButler
from lsst.pipe.base.single_quantum_executor import SingleQuantumExecutor

from secondlight.cli.pipeline import run_pipeline

from .comparison import outputs, path_of, same_content, tells_times

OUTPUT = "final"
RUN = "final/run"


class Stage(StrEnum):
    """How far an output has come, or that a task runs."""

    RUNNING = "running"
    BEGUN = "begun"
    HALF_WRITTEN = "half written"
    WRITTEN = "written"
    IN_PLACE = "in place"
    RECORDED = "recorded"
    COMMITTED = "committed"


class Point(NamedTuple):
    """A point of a run.

    Parameters
    ----------
    name
        Name of the dataset type, or label of the task that runs.
    stage
        How far the output has come.
    time
        The how many-th time the point is reached: datasets of a type come one after the other.
    delay
        Seconds from when a task runs.
    """

    name: str
    stage: Stage
    time: int = 1
    delay: float = 0.0


class _Execution:
    """Follows the execution of a pipeline in this process, and ends it at a point."""

    def __init__(self, fatal: Point | None) -> None:
        self.fatal = fatal
        self.reached: list[Point] = []

    def reach(self, name: str, stage: Stage) -> bool:
        """Note that a point is reached; return whether it is the fatal one."""
        before = sum(point[:2] == (name, stage) for point in self.reached)
        self.reached.append(Point(name, stage, before + 1))
        return self.fatal is not None and self.reached[-1] == self.fatal._replace(delay=0.0)

    def end_if(self, name: str, stage: Stage) -> None:
        if self.reach(name, stage):
            die()

    def install(self) -> None:
        """Put the points into the middleware."""
        self._follow_tasks()
        self._follow_files()
        self._follow_datastore()

    def _follow_tasks(self) -> None:
        run = SingleQuantumExecutor._run_quantum

        def run_quantum(executor: Any, task: Any, quantum: Any, node: Any, /, *args: Any, **kw: Any) -> Any:
            if self.reach(node.label, Stage.RUNNING):
                threading.Timer(self.fatal.delay, die).start() if self.fatal.delay else die()
            return run(executor, task, quantum, node, *args, **kw)

        SingleQuantumExecutor._run_quantum = run_quantum

    def _follow_files(self) -> None:
        write_then_move = FormatterV2.write_locally_then_move

        def write_locally_then_move(formatter: Any, dataset: Any, uri: Any, *args: Any, **kw: Any) -> None:
            name = formatter.dataset_ref.datasetType.name
            write = formatter.write_local_file

            def write_local_file(dataset: Any, temporary: Any) -> None:
                self.end_if(name, Stage.BEGUN)
                write(dataset, temporary)
                if self.reach(name, Stage.HALF_WRITTEN):
                    os.truncate(temporary.ospath, os.path.getsize(temporary.ospath) // 2)
                    die()
                self.end_if(name, Stage.WRITTEN)

            formatter.write_local_file = write_local_file
            write_then_move(formatter, dataset, uri, *args, **kw)
            self.end_if(name, Stage.IN_PLACE)

        FormatterV2.write_locally_then_move = write_locally_then_move

    def _follow_datastore(self) -> None:
        for owner, stage in ((FileDatastore, Stage.RECORDED), (DirectButler, Stage.COMMITTED)):
            self._tell_after_put(owner, stage)

    def _tell_after_put(self, owner: Any, stage: Stage) -> None:
        put = owner.put

        def put_and_tell(self_: Any, dataset: Any, ref: DatasetRef, /, *args: Any, **kw: Any) -> Any:
            result = put(self_, dataset, ref, *args, **kw)
            self.end_if(ref.datasetType.name, stage)
            return result

        owner.put = put_and_tell


def die() -> None:
    """End this process and all of its group, at once."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def run(repository: Path, *, fatal: Point | None = None, **settings: Any) -> tuple[int, list[Point]]:
    """Run a pipeline, or go on with a run, in another process.

    Parameters
    ----------
    repository
        Data repository.
    fatal
        The point at which the process is killed.
    settings
        As for `run_pipeline`.

    Returns
    -------
    code, reached
        Exit code of the process, and the points it reached if it came to an end.
    """
    context = multiprocessing.get_context("forkserver")
    multiprocessing.set_forkserver_preload(["secondlight.cli.preload", __name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(str(repository), fatal, settings, sender))
    process.start()
    sender.close()
    try:
        reached = receiver.recv()
    except EOFError:
        reached = []
    process.join()
    assert process.exitcode is not None
    return process.exitcode, reached


def _run(repository: str, fatal: Point | None, settings: dict[str, Any], sender: Any) -> None:
    os.setsid()
    execution = _Execution(fatal)
    execution.install()
    extra = ("--output-run", RUN)
    code = run_pipeline(repository, output=OUTPUT, resume=True, extra=extra, log_level="WARNING", **settings)
    sender.send(execution.reached)
    sys.exit(code)


def half_done(repository: Path, reference: Path) -> list[str]:
    """Return in words which stored datasets or files in their places are not as in a complete run."""
    with Butler.from_config(str(repository)) as ours, Butler.from_config(str(reference)) as theirs:
        expected = {path_of(theirs, ref).relative_to(reference): ref for ref in outputs(theirs, RUN)}
        said = [
            f"{ref} is stored, but there is no file"
            for ref in outputs(ours, RUN)
            if ours._datastore.knows(ref) and not path_of(ours, ref).exists()
        ]
    for path in _files(repository):
        ref = expected.get(path)
        if ref is None:
            said += [] if _is_temporary(path) else [f"{path} is unexpected"]
        elif not tells_times(ref) and not same_content(repository / path, reference / path):
            said.append(f"{path} differs")
    return said


def temporary_files(repository: Path) -> list[Path]:
    """Return the temporary files that killed processes left."""
    return [path for path in _files(repository) if _is_temporary(path)]


def _is_temporary(path: Path) -> bool:
    return ".tmp." in path.name


def _files(repository: Path) -> list[Path]:
    return [path.relative_to(repository) for path in (repository / RUN).rglob("*") if path.is_file()]
