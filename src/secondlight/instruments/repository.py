"""Making a data repository that knows how to store everything this package produces."""

from __future__ import annotations

__all__ = ("make_repository", "open_or_make_repository", "repository_config")

import importlib.resources
from pathlib import Path

from lsst.daf.butler import Butler, Config


def repository_config() -> Config:
    """Return what a repository needs beyond the middleware's defaults."""
    text = importlib.resources.files("secondlight.configs").joinpath("butler.yaml").read_text()
    return Config.fromString(text)


def make_repository(root: str | Path) -> Butler:
    """Make an empty data repository and open it for writing.

    Storage classes and formatters are written into the repository's own ``butler.yaml``, so ``butler`` and
    ``pipetask`` work on it without further options.

    Parameters
    ----------
    root
        Folder of the repository; made if absent.

    Raises
    ------
    FileExistsError
        Raised if the folder holds a repository already.
    """
    if (Path(root) / "butler.yaml").exists():
        raise FileExistsError(f"{root} is a data repository already; it was left as it is.")
    return Butler.from_config(Butler.makeRepo(str(root), config=repository_config()), writeable=True)


def open_or_make_repository(root: str | Path) -> Butler:
    """Open a data repository for writing; an empty one is made if there is none."""
    if (Path(root) / "butler.yaml").exists():
        return Butler.from_config(str(root), writeable=True)
    return make_repository(root)
