"""Reading FITS files so that every defect is one clear error that names the file."""

from __future__ import annotations

__all__ = ("InputFileError", "file_of", "files_under", "read_fits")

import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import astropy.io.fits
from astropy.utils.exceptions import AstropyUserWarning

_DEFECTS = (OSError, EOFError, zlib.error, ValueError, TypeError, IndexError, KeyError, AstropyUserWarning)


class InputFileError(RuntimeError):
    """An input file that is absent, broken, incomplete or not what it should be.

    Parameters
    ----------
    path
        The file.
    problem
        What was expected and what was found.
    """

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = Path(path)


def read_fits(path: str | Path, *, only: Iterable[int] | None = None) -> astropy.io.fits.HDUList:
    """Read a FITS file, compressed or not, into memory.

    Everything is read at once: a truncated file shows itself here and not in the middle of the work.

    Parameters
    ----------
    path
        The file.
    only
        Indices of the HDUs whose data are needed; by default all. Headers are always read.

    Raises
    ------
    InputFileError
        Raised if the file is absent, truncated or not FITS.
    """
    if not Path(path).is_file():
        raise InputFileError(path, "the file does not exist.")
    try:
        with warnings.catch_warnings():
            # A file shorter than its headers say is only a warning to astropy.
            warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
            # Opened here, so that the file is closed whatever astropy finds wrong with it.
            with Path(path).open("rb") as stream, astropy.io.fits.open(stream, memmap=False) as hdus:
                n_hdus = len(hdus)
                for index in range(n_hdus) if only is None else only:
                    hdus[index].data  # noqa: B018  reads the pixels
                return hdus
    except _DEFECTS as error:
        raise InputFileError(path, f"cannot be read, it is truncated or broken ({error}).") from error


def files_under(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the files among the paths and, in sorted order, all files in the folders among them.

    Raises
    ------
    InputFileError
        Raised if a path does not exist.
    """
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file())
        elif path.is_file():
            yield path
        else:
            raise InputFileError(path, "there is no such file or folder.")


def file_of(folders: Iterable[Path], name: str) -> Path | None:
    """Return the first file with a name (or a pattern of one) below some folders, or `None`."""
    for folder in folders:
        found = next(iter(sorted(folder.rglob(name))), None)
        if found is not None:
            return found
    return None
