"""Command line of the accuracy benchmark."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from .compare import print_changes

_FILE_WIDTH = 140
"""Width of tables that are not printed to a terminal, characters."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Compare what is measured on simulated surveys with the truth."""


@main.command()
@click.option("--scene", default="demo", show_default=True, help="Scene to simulate, by name or file.")
@click.option(
    "--repo", "repository", type=click.Path(path_type=Path), required=True,
    help="Data repository; outputs that it has are used, else the scene is simulated and processed there.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--collection", help="Collection with the outputs, if it is not that of the demonstration.")
@click.option("--processes", "-j", default=1, show_default=True, type=click.IntRange(1))
@click.option("--peers", default="", help="Comma-separated: sep, source-extractor.")
def run(
    scene: str, repository: Path, out: Path | None, collection: str | None, processes: int, peers: str
) -> None:
    """Simulate and process a scene, unless that is done, and write numbers, tables and plots."""
    # Imported late: the middleware takes seconds to import, and --help should not.
    from .plots import draw_plots
    from .report import write_report
    from .results import write_results
    from .run import OUTPUT, MissingInputError, examine, make_survey

    console = Console()
    if collection is None:
        make_survey(repository, scene, processes=processes, console=console)
    names = [name.strip() for name in peers.split(",") if name.strip()]
    try:
        systems = examine(
            repository, collection=collection or OUTPUT, peers=names, processes=processes, console=console
        )
    except MissingInputError as error:
        raise click.ClickException(str(error)) from error
    folder = out or Path("benchmarks") / "results" / Path(scene).stem
    folder.mkdir(parents=True, exist_ok=True)
    command = f"python -m benchmarks.accuracy run --scene {scene}" + (f" --peers {peers}" if peers else "")
    write_results(folder / "summary.json", systems, scene=scene, command=command)
    write_report(folder / "tables.md", systems, scene=scene)
    plots = draw_plots(folder, systems)
    console.print(f"summary.json, tables.md and {len(plots)} plots are in {folder}.")


@main.command()
@click.argument("old", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("new", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--sigmas", default=1.0, show_default=True, help="Smallest change that counts, standard errors."
)
@click.option("--most", default=40, show_default=True, help="Longest table.")
def compare(old: Path, new: Path, sigmas: float, most: int) -> None:
    """Print what got better or worse from the results OLD to the results NEW."""
    from .results import read_results

    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    try:
        before, after = read_results(old), read_results(new)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if before.scene != after.scene:
        console.print(f"The scenes differ: {before.scene} and {after.scene}.")
    print_changes(before.numbers, after.numbers, sigmas=sigmas, most=most, console=console)


if __name__ == "__main__":
    main()
