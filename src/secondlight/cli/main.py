"""The ``secondlight`` command."""

from __future__ import annotations

__all__ = ("cli",)

import logging

import click

from .repository import REPOSITORY_COMMANDS
from .run import PROCESSING_COMMANDS


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="secondlight")
@click.option(
    "--log-level",
    default="WARNING",
    show_default=True,
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
    help="Level of the messages shown.",
)
def cli(log_level: str) -> None:
    """Final measurement of survey visit images, from ingest to calibrated images and source tables."""
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s: %(message)s")


for _command in (*REPOSITORY_COMMANDS, *PROCESSING_COMMANDS):
    cli.add_command(_command)
