"""Commands that process: ``secondlight run``, ``secondlight simulate`` and ``secondlight demo``."""

from __future__ import annotations

__all__ = ("PROCESSING_COMMANDS",)

import sys
from pathlib import Path

import click

from .simulate import simulate_command


@click.command(name="run", context_settings={"ignore_unknown_options": True})
@click.argument("repository", type=click.Path(exists=True))
@click.option(
    "--pipeline", "-p", default="secondlight", show_default=True,
    help="Pipeline file, or the name of one that comes with the package (secondlight, final-pass, "
    "final-pass-by-visit, rubin-names, sdss/secondlight, sim/secondlight, simulate), with an optional "
    "#subset of its tasks.",
)  # fmt: skip
@click.option("--input", "-i", "inputs", required=True, help="Comma-separated input collections.")
@click.option("--output", "-o", required=True, help="Collection for the outputs.")
@click.option("--where", "-d", default="", help="Selection of data, as for pipetask.")
@click.option("--processes", "-j", default=1, show_default=True, type=click.IntRange(1))
@click.option(
    "--resume", is_flag=True,
    help="Go on with the last run of OUTPUT, after an interruption or an error: what is complete is kept, "
    "the rest is done. Starts a run if there is none.",
)  # fmt: skip
@click.option("--log-level", default="INFO", show_default=True, help="Level of the messages shown.")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def run_command(
    repository: str,
    pipeline: str,
    inputs: str,
    output: str,
    where: str,
    processes: int,
    resume: bool,
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
        resume=resume,
        extra=more,
        log_level=log_level,
    )
    sys.exit(code)


@click.command(name="demo")
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder with SDSS frames and companions.")
@click.option(
    "--scene", metavar="NAME|FILE",
    help="Scene to simulate: one that comes with the package, or a YAML file.  [default: demo]",
)  # fmt: skip
@click.option("--processes", "-j", default=1, show_default=True, type=click.IntRange(1))
def demo_command(repository: Path, data: Path | None, scene: str | None, processes: int) -> None:
    """Run the whole chain in a new or existing REPO and sum it up: on simulated images, or on SDSS frames."""
    if data is not None and scene is not None:
        raise click.UsageError("Either SDSS frames (--data) or simulated images (--scene), not both.")
    from .demo import run_demo

    sys.exit(run_demo(repository, data=data, scene=scene or "demo", processes=processes))


PROCESSING_COMMANDS = (run_command, demo_command, simulate_command)
"""Commands of this module, for the ``secondlight`` group."""
