"""Source Extractor and PSFEx as programs: where they are, how they are told what to do, what they cost."""

from __future__ import annotations

__all__ = ("Programs", "write_image", "write_lines")

import dataclasses
import resource
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
from astropy.io import fits

from ._common import PeerUnavailable

_EXTRACTORS = ("source-extractor", "sex", "sextractor")
_NETWORKS = ("source-extractor", "sextractor")
_LINES_SHOWN = 8


@dataclasses.dataclass
class Programs:
    """The two programs, run in one folder.

    Parameters
    ----------
    extractor, psfex
        The executables.
    folder
        Where they run.
    purpose
        What is measured, for messages.
    cpu_seconds
        User CPU time spent so far.
    """

    extractor: str
    psfex: str
    folder: Path
    purpose: str
    cpu_seconds: float = 0.0

    @classmethod
    def find(cls, folder: Path, purpose: str) -> Self:
        """Look for the programs on the path.

        Raises
        ------
        PeerUnavailable
            Raised if one of them is absent; says which.
        """
        extractor = next((path for name in _EXTRACTORS if (path := shutil.which(name))), None)
        psfex = shutil.which("psfex")
        if extractor is None or psfex is None:
            absent = [n for n, path in (("source-extractor", extractor), ("psfex", psfex)) if path is None]
            raise PeerUnavailable(
                f"{' and '.join(absent)} not found on the path (Debian: apt-get install {' '.join(absent)})."
            )
        return cls(extractor, psfex, folder, purpose)

    @property
    def network(self) -> Path | None:
        """The weights of the star/galaxy network that came with the extractor, if they can be found."""
        share = Path(self.extractor).resolve().parent.parent / "share"
        files = (share / name / "default.nnw" for name in _NETWORKS)
        return next((file for file in files if file.is_file()), None)

    def extract(self, image: str, settings: Mapping[str, object]) -> None:
        """Run Source Extractor on an image of the folder."""
        self._run([self.extractor, image], settings)

    def fit_psf(self, catalog: str, settings: Mapping[str, object]) -> None:
        """Run PSFEx on a catalogue of the folder."""
        self._run([self.psfex, catalog], settings)

    def _run(self, command: list[str], settings: Mapping[str, object]) -> None:
        """Run a program with a configuration of just these settings.

        Raises
        ------
        RuntimeError
            Raised if it fails; shows what it wrote last.
        """
        name = Path(command[0]).name
        configuration = f"{name}.conf"
        write_lines(self.folder / configuration, (f"{key} {value}" for key, value in settings.items()))
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(
            [*command, "-c", configuration],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        self.cpu_seconds += resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        if done.returncode != 0:
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_LINES_SHOWN:])
            raise RuntimeError(f"{self.purpose}: {name} failed (exit code {done.returncode}):\n{said}")


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image as FITS."""
    fits.PrimaryHDU(pixels).writeto(path)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text."""
    path.write_text("".join(f"{line}\n" for line in lines))
