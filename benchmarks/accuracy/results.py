"""Results as a file: every number with its key, its error and what makes it better."""

from __future__ import annotations

__all__ = ("Results", "read_results", "write_results")

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

from .numbers import Number
from .run import SystemNumbers

FORMAT = 1
_PACKAGES = ("secondlight", "numpy", "scipy", "galsim", "piff", "lsst-images")


@dataclasses.dataclass(frozen=True)
class Results:
    """What a file says.

    Parameters
    ----------
    scene, command
        What was simulated, and how the file was made.
    numbers
        All numbers by key; keys begin with the system.
    """

    scene: str
    command: str
    numbers: dict[str, Number]


def write_results(path: Path, systems: Mapping[str, SystemNumbers], *, scene: str, command: str) -> None:
    """Write results; the same results give the same file, but for the times under ``cpu_seconds``."""
    numbers = [
        {**number.to_json(), "key": f"{system}.{number.key}"}
        for system, one in systems.items()
        for subject in one.subjects.values()
        for number in subject
    ]
    plain = {
        "format": FORMAT,
        "scene": scene,
        "command": command,
        "versions": _versions(),
        "images": {system: one.images for system, one in systems.items()},
        "numbers": numbers,
        "cpu_seconds": {
            system: round(one.cpu_seconds, 3)
            for system, one in systems.items()
            if one.cpu_seconds is not None
        },
    }
    path.write_text(_dump(plain))


def _dump(plain: dict[str, object]) -> str:
    """Return JSON with one number per line, so that files can be compared by eye."""
    numbers = plain.pop("numbers")
    head = json.dumps(plain, indent=1)
    lines = ",\n  ".join(json.dumps(number) for number in numbers)  # type: ignore[attr-defined]
    return f'{head[: head.rindex("}")].rstrip()},\n "numbers": [\n  {lines}\n ]\n}}\n'


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def read_results(path: Path) -> Results:
    """Read results.

    Raises
    ------
    ValueError
        Raised if the file is not one of ours; says what is wrong.
    """
    try:
        plain = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ValueError(f"{path} is not a file of results of format {FORMAT}.")
    numbers = [Number.from_json(number) for number in plain["numbers"]]
    return Results(plain["scene"], plain["command"], {number.key: number for number in numbers})
