"""Running pipelines: the options people need most, handed on to ``pipetask``."""

from __future__ import annotations

__all__ = ("PIPELINES", "run_pipeline")

import contextlib
import sys
from collections.abc import Sequence

import click
from lsst.ctrl.mpexec.cli.pipetask import cli as pipetask
from lsst.daf.butler import Butler, MissingCollectionError
from lsst.daf.butler.cli.progress import ClickProgressHandler
from lsst.daf.butler.progress import Progress
from lsst.resources import ResourcePath

from .workers import end_with_workers, keep_freed_memory, prepare_workers

PIPELINES = "resource://secondlight/pipelines/"
"""Where the pipelines that come with the package are."""

_EMPTY = "QuantumGraph was empty"


def run_pipeline(
    repository: str,
    *,
    pipeline: str,
    inputs: str,
    output: str,
    where: str = "",
    processes: int = 1,
    extend_run: bool = False,
    resume: bool = False,
    extra: Sequence[str] = (),
    log_level: str = "INFO",
) -> int:
    """Build the quantum graph of a pipeline and execute it, exactly as ``pipetask run`` does.

    Parameters
    ----------
    repository
        Data repository.
    pipeline
        Pipeline file, or the name of one that comes with the package (``secondlight``, ``sdss/secondlight``),
        with an optional ``#subset`` of tasks.
    inputs, output
        Comma-separated input collections, and the collection for the outputs: a chain of each run's own.
    where
        Selection of data, as for ``pipetask run -d``.
    processes
        Number of processes.
    extend_run
        Whether ``output`` is an existing RUN collection itself, to which only what is missing is added.
    resume
        Whether to go on with the last run of ``output``: what is complete is kept, what was left half done
        is done again.  If there is no run yet, one is started.
    extra
        More arguments for ``pipetask run``.
    log_level
        Level of the messages shown.

    Returns
    -------
    int
        Exit code of ``pipetask``: 0 if everything succeeded.
    """
    if sys.stderr.isatty():
        Progress.set_handler(ClickProgressHandler())
    keep_freed_memory()
    resume = _has_runs(repository, output) and resume
    if processes > 1:
        prepare_workers(repository)
    # The middleware looks for optional packages that nothing here uses, once per process.
    quiet = "lsst.daf.butler._storage_class=ERROR"
    arguments = [
        "--log-level",
        log_level,
        "--log-level",
        quiet,
        "run",
        "-b",
        repository,
        "-p",
        find_pipeline(pipeline),
    ]
    arguments += ["-i", inputs, "-j", str(processes), "--register-dataset-types"]
    arguments += ["--start-method", "forkserver"]
    arguments += ["--output-run" if extend_run else "-o", output]
    if extend_run or resume:
        arguments += ["--extend-run", "--clobber-outputs"]
    if where:
        arguments += ["-d", where]
    try:
        with end_with_workers() if processes > 1 else contextlib.nullcontext():
            result = pipetask.main(args=[*arguments, *extra], prog_name="pipetask", standalone_mode=False)
    except click.ClickException as error:
        if not resume or _EMPTY not in error.message:
            raise
        click.echo(f"Nothing was left to do in {output}.")
        return 0
    return int(result or 0)


def _has_runs(repository: str, output: str) -> bool:
    """Return whether a chain of collections exists and holds any."""
    # Opened for writing: SQLite then undoes what a process was writing when it was killed.  Until that is
    # done whoever wants to read only is refused, the builder of the quantum graph among them.
    with (
        Butler.from_config(repository, writeable=True) as butler,
        contextlib.suppress(MissingCollectionError),
    ):
        return bool(butler.collections.get_info(output).children)
    return False


def find_pipeline(name: str) -> str:
    """Return the location of a pipeline: a path or address as it is, else one that comes with the package.

    Raises
    ------
    click.ClickException
        Raised if no pipeline of that name comes with the package.
    """
    location, _, subset = name.partition("#")
    if not location.endswith((".yaml", ".yml")):
        folder = ResourcePath(PIPELINES, forceDirectory=True)
        packaged = folder.join(f"{location}.yaml")
        if not packaged.exists():
            files = ResourcePath.findFileResources([folder], file_filter=r"\.yaml$")
            known = sorted(str(file.relative_to(folder)).removesuffix(".yaml") for file in files)
            raise click.ClickException(
                f"There is no pipeline {location!r}; there are {', '.join(known)}, or a YAML file's path."
            )
        location = f"{PIPELINES}{location}.yaml"
    return f"{location}#{subset}" if subset else location
