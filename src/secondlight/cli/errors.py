"""Errors that a user can mend, as messages."""

from __future__ import annotations

__all__ = ("errors_for_people",)

import contextlib
from collections.abc import Iterator

import click


@contextlib.contextmanager
def errors_for_people() -> Iterator[None]:
    """Turn errors that a user can mend into a message without a traceback.

    Raises
    ------
    click.ClickException
        Raised instead of them.
    """
    from lsst.daf.butler import ButlerUserError
    from sqlalchemy.exc import DBAPIError

    from ..instruments.files import InputFileError
    from ..instruments.ingest import AlreadyIngestedError

    try:
        yield
    except (InputFileError, AlreadyIngestedError, ButlerUserError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except DBAPIError as error:
        raise click.ClickException(f"The database of the repository cannot be used: {error.orig}.") from error
