"""The ``secondlight`` command; its repository commands are also ``butler secondlight-...``."""

from __future__ import annotations

__all__ = ("get_cli_subcommands",)

import click


def get_cli_subcommands() -> list[click.Command]:
    """Return the commands offered to ``butler``; their names begin with ``secondlight-``."""
    from .repository import butler_commands

    return butler_commands()
