"""Commands that make a data repository and fill it.

What they call is imported when they run: ``butler`` loads this module for its every command.
"""

from __future__ import annotations

__all__ = ("REPOSITORY_COMMANDS", "butler_commands")

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .errors import errors_for_people

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

_N_RINGS = 120
"""Rings of the sky map unless another number is given: tracts 1.5 degrees high."""

_repository = click.argument("repository", metavar="REPO")


@click.command("init")
@_repository
def init(repository: str) -> None:
    """Make an empty data repository in folder REPO."""
    from ..instruments.repository import make_repository

    with errors_for_people(), make_repository(repository):
        click.echo(f"Repository made in {repository}.")


@click.command("ingest")
@_repository
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--instrument",
    required=True,
    help="What took the images: sdss, decam, generic, or the full name of a SurveyInstrument class.",
)
@click.option(
    "--camera",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Description of the camera and its files (YAML), for --instrument generic.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a value of --camera.")
@click.option("--collection", metavar="RUN", help="Collection to write to.  [default: <instrument>/images]")
@click.option("--fail-on-existing", is_flag=True, help="Stop at an image that is there already.")
def ingest(
    repository: str,
    paths: tuple[Path, ...],
    instrument: str,
    camera: Path | None,
    settings: tuple[str, ...],
    collection: str | None,
    fail_on_existing: bool,
) -> None:
    """Bring calibrated single-visit images, files or folders, into REPO."""
    from ..instruments.choice import choose_instrument
    from ..instruments.ingest import default_run
    from ..instruments.ingest import ingest as ingest_images

    with errors_for_people():
        chosen = choose_instrument(instrument, camera=camera, settings=settings)
        with _open(repository) as butler:
            report = ingest_images(
                butler,
                chosen,
                paths,
                run=collection,
                fail_on_existing=fail_on_existing,
                progress=lambda file: click.echo(f"Ingesting {file}"),
            )
    click.echo(
        f"{len(report.ingested)} images ingested into {collection or default_run(chosen)}, "
        f"{len(report.skipped)} were there already."
    )


@click.command("register-skymap")
@_repository
@click.option("--name", default="secondlight_rings", show_default=True, help="Name of the sky map.")
@click.option("--all-tracts", is_flag=True, help="Register the whole sky, not only what the images cover.")
@click.option(
    "-c", "--config", "settings", multiple=True, metavar="FIELD=VALUE", help="Change a field of the sky map."
)
def register_skymap(repository: str, name: str, all_tracts: bool, settings: tuple[str, ...]) -> None:
    """Divide the sky into tracts, in REPO, to associate the stars of overlapping visits.

    Registers the tracts that the images in REPO overlap; run it again after more images came in.
    """
    from ..instruments.choice import parse_settings
    from ..sky.registration import register_sky_map, tracts_of_visits
    from ..sky.sky_map import RingsSkyMap, RingsSkyMapConfig

    with errors_for_people(), _open(repository) as butler:
        fields = {"numRings": _N_RINGS} | parse_settings(settings)
        known = RingsSkyMapConfig().keys()
        if unknown := sorted(fields.keys() - known):
            raise click.ClickException(
                f"A sky map has no field {', '.join(unknown)}; it has {', '.join(known)}."
            )
        sky_map = RingsSkyMap(RingsSkyMapConfig(**fields))
        tracts = range(len(sky_map)) if all_tracts else tracts_of_visits(sky_map, butler)
        if not tracts:
            raise click.ClickException(
                f"{repository} has no visits yet: ingest images first, or register everything (--all-tracts)."
            )
        register_sky_map(sky_map, butler, name, tracts=tracts)
        click.echo(f"{len(tracts)} of {len(sky_map)} tracts of sky map {name} are registered.")


@click.command("ingest-refcat")
@_repository
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--collection", metavar="RUN", default="refcats", show_default=True)
def ingest_refcat(repository: str, file: Path, collection: str) -> None:
    """Bring a table of reference stars (ra, dec, mag_<band>, ...) into REPO."""
    from ..instruments.reference_catalog import ingest_reference_catalog

    with errors_for_people(), _open(repository) as butler:
        if ingest_reference_catalog(butler, file, run=collection):
            click.echo(f"Reference catalog stored in {collection}.")
        else:
            click.echo(f"{file}: {collection} has a reference catalog already; it was left as it is.")


REPOSITORY_COMMANDS: tuple[click.Command, ...] = (init, ingest, register_skymap, ingest_refcat)


def butler_commands() -> list[click.Command]:
    """Return the commands under names that no other package of ``butler`` uses."""
    commands = [copy.copy(command) for command in REPOSITORY_COMMANDS]
    for command in commands:
        command.name = f"secondlight-{command.name}"
    return commands


def _open(repository: str) -> Butler:
    """Open a repository for writing."""
    from lsst.daf.butler import Butler

    try:
        return Butler.from_config(repository, writeable=True)
    except (FileNotFoundError, RuntimeError) as error:
        raise click.ClickException(
            f"{repository} is no data repository; 'secondlight init {repository}' makes one."
        ) from error
