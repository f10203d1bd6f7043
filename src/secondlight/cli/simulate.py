"""``secondlight simulate``: a scene's images, with the truth about them."""

from __future__ import annotations

__all__ = ("prepare", "ready_scenes", "simulate_command", "simulate_images")

import importlib.resources
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import errors_for_people

if TYPE_CHECKING:
    from ..simulate.scene import Scene


def ready_scenes() -> dict[str, str]:
    """Return the scenes that come with the package and the first line of what each says about itself."""
    from ..simulate.scene import SCENES

    files = [f for f in importlib.resources.files(SCENES).iterdir() if f.name.endswith(".yaml")]
    return {
        Path(file.name).stem: file.read_text().partition("\n")[0].lstrip("# ")
        for file in sorted(files, key=lambda file: file.name)
    }


def prepare(repository: Path, scene: Scene, *, say: Callable[[str], Any] = click.echo) -> None:
    """Prepare a repository for a scene and say what was done.

    Raises
    ------
    SceneError
        Raised, before anything is written, if the scene cannot be simulated there.
    """
    from ..simulate.repository import prepare_repository

    prepared = prepare_repository(repository, scene)
    say(
        f"Scene {scene.name}: {prepared.visits} visits, {prepared.detectors} detectors; "
        + ("the repository is ready." if prepared.is_new else "it was in the repository already.")
    )


def simulate_images(repository: Path, *, processes: int, log_level: str = "INFO") -> int:
    """Simulate the images that are missing in a prepared repository.

    Returns
    -------
    int
        0 if all images are there.
    """
    from lsst.daf.butler import Butler

    from ..simulate.repository import IMAGES_RUN, SCENE_RUN, missing_images
    from .pipeline import run_pipeline

    with Butler.from_config(str(repository)) as butler:
        if not missing_images(butler):
            return 0
    return run_pipeline(
        str(repository),
        pipeline="simulate",
        inputs=SCENE_RUN,
        output=IMAGES_RUN,
        extend_run=True,
        processes=processes,
        log_level=log_level,
    )


def _list_scenes(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the scenes and leave."""
    if not wanted or context.resilient_parsing:
        return
    scenes = ready_scenes()
    width = max(map(len, scenes))
    for name, about in scenes.items():
        click.echo(f"{name:{width}}  {about}")
    context.exit()


@click.command(name="simulate")
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
@click.option(
    "--scene", required=True, metavar="NAME|FILE", help="A scene that comes with the package, or a YAML file."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a value of the scene.")
@click.option("--processes", "-j", default=1, show_default=True, type=click.IntRange(1))
@click.option("--log-level", default="INFO", show_default=True, help="Level of the messages shown.")
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_scenes,
    help="List the scenes that come with the package, and leave.",
)  # fmt: skip
def simulate_command(
    repository: Path, scene: str, settings: tuple[str, ...], processes: int, log_level: str
) -> None:
    """Simulate a survey in a new or existing REPO: images of every visit and detector, and their truth."""
    from ..instruments.choice import parse_settings
    from ..simulate.scene import load_scene

    with errors_for_people():
        prepare(repository, load_scene(scene, settings=parse_settings(settings)))
    code = simulate_images(repository, processes=processes, log_level=log_level)
    if code == 0:
        from ..simulate.repository import IMAGES_RUN

        click.echo(f"Images (postISRCCD) and truth (sim_truth, ...) are in collection {IMAGES_RUN}.")
    sys.exit(code)
