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
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from lsst.daf.butler import Butler, DatasetRef, FormatterV2
from lsst.daf.butler.datastores.fileDatastore import FileDatastore
from lsst.daf.butler.direct_butler import DirectButler
from lsst.pipe.base.single_quantum_executor import SingleQuantumExecutor

from secondlight.cli.pipeline import run_pipeline
from secondlight.cli.simulate import simulate_images
from secondlight.simulate.repository import prepare_repository
from secondlight.simulate.scene import load_scene

from .comparison import describes_processes, outputs, path_of, same_content

OUTPUT = "final"
RUN = "final/run"
INPUTS = "prepared/association,prepared/first_pass,SimCam/images,skymaps,refcats"
PIPELINE = "sim/secondlight"
WHERE = "instrument='SimCam' AND skymap='secondlight_rings'"
_SETTINGS = {"camera.columns": 1}


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
    signal
        What the process is sent there; SIGKILL goes to its whole group.
    """

    name: str
    stage: Stage
    time: int = 1
    delay: float = 0.0
    signal: signal.Signals = signal.SIGKILL


class _Execution:
    """Follows the execution of a pipeline in this process, and ends it at a point."""

    def __init__(self, fatal: Point | None) -> None:
        self.fatal = fatal
        self.reached: list[Point] = []

    def reach(self, name: str, stage: Stage) -> bool:
        """Note that a point is reached; return whether it is the fatal one."""
        before = sum(point[:2] == (name, stage) for point in self.reached)
        self.reached.append(Point(name, stage, before + 1))
        return self.fatal is not None and self.reached[-1][:3] == self.fatal[:3]

    def end_if(self, name: str, stage: Stage) -> None:
        if self.reach(name, stage):
            self.end()

    def end(self) -> None:
        """End this process."""
        assert self.fatal is not None
        if self.fatal.signal == signal.SIGKILL:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os.kill(os.getpid(), self.fatal.signal)

    def install(self) -> None:
        """Put the points into the middleware."""
        self._follow_tasks()
        self._follow_files()
        self._follow_datastore()

    def _follow_tasks(self) -> None:
        run = SingleQuantumExecutor._run_quantum

        def run_quantum(executor: Any, task: Any, quantum: Any, node: Any, /, *args: Any, **kw: Any) -> Any:
            if self.reach(node.label, Stage.RUNNING):
                timer = threading.Timer(self.fatal.delay, self.end)
                timer.daemon = True
                timer.start()
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
                    self.end()
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


def prepare(repository: Path) -> Path:
    """Make a repository with two visits of one small detector, ready for its final pass, and return it."""
    assert _in_another_process(_prepare, repository)[0] == 0
    return repository


def _prepare(repository: Path, _: Any) -> int:
    prepare_repository(repository, load_scene("tiny", settings=_SETTINGS))
    code = simulate_images(repository, processes=1, log_level="WARNING")
    done = "SimCam/images,skymaps,refcats"
    for subset in ("first_pass", "association"):
        code = code or run_pipeline(
            str(repository), pipeline=f"{PIPELINE}#{subset}", inputs=done, output=f"prepared/{subset}",
            where=WHERE, log_level="WARNING",
        )  # fmt: skip
        done = f"prepared/{subset},{done}"
    return code


def final_pass(repository: Path, *, where: str = "", fatal: Point | None = None) -> tuple[int, list[Point]]:
    """Run the final pass, or go on with it, in another process.

    Parameters
    ----------
    repository
        Data repository, as `prepare` makes it.
    where
        Selection of data.
    fatal
        The point at which the process is sent a signal.

    Returns
    -------
    code, reached
        Exit code of the process, and the points it reached if it came to an end.
    """
    return _in_another_process(_final_pass, repository, where, fatal)


def _final_pass(repository: Path, where: str, fatal: Point | None, sender: Any) -> int:
    execution = _Execution(fatal)
    execution.install()
    code = run_pipeline(
        str(repository), pipeline=f"{PIPELINE}#final_pass", inputs=INPUTS, output=OUTPUT,
        where=f"{WHERE} AND {where}" if where else WHERE, resume=True, log_level="ERROR",
        extra=("--output-run", RUN),
    )  # fmt: skip
    sender.send(execution.reached)
    return code


def _in_another_process(work: Callable[..., int], *arguments: Any) -> tuple[int, Any]:
    """Return the exit code of what a new process does, and what it sends."""
    context = multiprocessing.get_context("forkserver")
    multiprocessing.set_forkserver_preload(["secondlight.cli.preload", __name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, *arguments, sender))
    process.start()
    sender.close()
    try:
        sent = receiver.recv()
    except EOFError:
        sent = []
    process.join()
    assert process.exitcode is not None
    return process.exitcode, sent


def _work(work: Callable[..., int], *arguments: Any) -> None:
    # A group of its own, which can be killed as a whole.
    os.setsid()
    # What runs in the background of a shell ignores Ctrl-C, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(work(*arguments))


def half_done(repository: Path, reference: Path) -> list[str]:
    """Return in words which stored datasets or files in their places are not as in a complete run."""
    with (
        # SQLite undoes what was being written, which needs the right to write.
        Butler.from_config(str(repository), writeable=True) as ours,
        Butler.from_config(str(reference)) as theirs,
    ):
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
        elif not describes_processes(ref) and not same_content(repository / path, reference / path):
            said.append(f"{path} differs")
    return said


def temporary_files(repository: Path) -> list[Path]:
    """Return the temporary files that killed processes left."""
    return [path for path in _files(repository) if _is_temporary(path)]


def _is_temporary(path: Path) -> bool:
    return ".tmp." in path.name


def _files(repository: Path) -> list[Path]:
    return [path.relative_to(repository) for path in (repository / RUN).rglob("*") if path.is_file()]
