"""Commands that process: ``secondlight run`` and ``secondlight demo``."""

from __future__ import annotations

__all__ = ("PROCESSING_COMMANDS",)

import sys
from pathlib import Path

import click


@click.command(name="run", context_settings={"ignore_unknown_options": True})
@click.argument("repository", type=click.Path(exists=True))
@click.option(
    "--pipeline", "-p", default="secondlight", show_default=True,
    help="Pipeline file, or the name of one that comes with the package (secondlight, final-pass, "
    "final-pass-by-visit, rubin-names, sdss/secondlight), with an optional #subset of its tasks.",
)  # fmt: skip
@click.option("--input", "-i", "inputs", required=True, help="Comma-separated input collections.")
@click.option("--output", "-o", required=True, help="Collection for the outputs.")
@click.option("--where", "-d", default="", help="Selection of data, as for pipetask.")
@click.option("--processes", "-j", default=1, show_default=True, type=click.IntRange(1))
@click.option("--log-level", default="INFO", show_default=True, help="Level of the messages shown.")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def run_command(
    repository: str,
    pipeline: str,
    inputs: str,
    output: str,
    where: str,
    processes: int,
    log_level: str,
    more: tuple[str, ...],
) -> None:
    """Run a pipeline on a data repository; MORE options go to ``pipetask run`` as they are."""
    # Imported late: the middleware takes seconds to import, and --help should not.
    from .pipeline import run_pipeline

    code = run_pipeline(
        repository,
        pipeline=pipeline,
        inputs=inputs,
        output=output,
        where=where,
        processes=processes,
        extra=more,
        log_level=log_level,
    )
    sys.exit(code)


@click.command(name="demo")
@click.argument("repository", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder with SDSS frames and companions."
)
@click.option("--processes", "-j", default=1, show_default=True, type=click.IntRange(1))
def demo_command(repository: Path, data: Path, processes: int) -> None:
    """Run the whole chain on a folder of SDSS frames, in a new or existing REPOSITORY, and sum it up."""
    from ..instruments.files import InputFileError
    from .demo import run_demo

    try:
        code = run_demo(repository, data, processes=processes)
    except (InputFileError, OSError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(code)


PROCESSING_COMMANDS = (run_command, demo_command)
"""Commands of this module, for the ``secondlight`` group."""
