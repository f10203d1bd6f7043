"""The numbers as tables to read."""

from __future__ import annotations

__all__ = ("tables", "write_report")

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import metrics
from .numbers import Number, Sense
from .run import SystemNumbers

_AXES = {
    "mag": "by magnitude",
    "snr": "by signal-to-noise ratio",
    "size": "by half-light radius over that of the PSF",
    "crowding": "by crowding (contamination by neighbours)",
}


def write_report(path: Path, systems: Mapping[str, SystemNumbers], *, scene: str) -> None:
    """Write all tables as Markdown."""
    path.write_text("\n".join(tables(systems, scene=scene)) + "\n")


def tables(systems: Mapping[str, SystemNumbers], *, scene: str) -> Iterator[str]:
    """Yield the lines of the report."""
    yield f"# Accuracy on scene {scene}"
    yield ""
    counts = ", ".join(f"{system} on {one.images} images" for system, one in systems.items())
    yield f"Measured by {counts}. After ± are standard errors; numbers of objects are in brackets."
    for subject in metrics.SUBJECTS:
        parts = {name: one.subjects[subject] for name, one in systems.items() if one.subjects.get(subject)}
        if not parts:
            continue
        yield from ("", f"## {subject.replace('_', ' ').capitalize()}", "")
        yield inspect.cleandoc(metrics.__dict__[subject].__doc__ or "")
        for system, numbers in parts.items():
            if len(systems) > 1:
                yield from ("", f"### {system}")
            yield from _overall([number for number in numbers if number.bin is None])
            for axis, title in _AXES.items():
                binned = [number for number in numbers if number.bin and number.bin.axis == axis]
                if binned:
                    yield from ("", f"{subject.replace('_', ' ').capitalize()} {title}:", "")
                    yield from _binned(binned)


def _overall(numbers: Sequence[Number]) -> Iterator[str]:
    if not numbers:
        return
    yield from _markdown(
        ["number", "value", "should be"],
        [[number.key, f"{_value(number)} ({number.n})", _ideal(number)] for number in numbers],
    )


def _ideal(number: Number) -> str:
    match number.sense:
        case Sense.TARGET:
            return f"{number.target:g}"
        case Sense.NONE:
            return ""
        case _:
            return str(number.sense)


def _binned(numbers: Sequence[Number]) -> Iterator[str]:
    """Yield a table with a row per series and a column per bin."""
    bins = sorted({number.bin for number in numbers if number.bin}, key=lambda interval: interval.low)
    rows: dict[str, dict[object, Number]] = {}
    for number in numbers:
        assert number.bin is not None
        rows.setdefault(series(number), {})[number.bin] = number
    cells = [
        [name, *(_value(row[interval]) if interval in row else "" for interval in bins)]
        for name, row in rows.items()
    ]
    yield from _markdown(["", *(interval.title for interval in bins)], cells)


def series(number: Number) -> str:
    """Return the key of a number without its bin, and with its unit."""
    key = number.key.rpartition(".")[0]
    return f"{key} ({number.unit})" if number.unit else key


def _value(number: Number) -> str:
    if number.error is None:
        return f"{number.value:.3g}"
    digits = 3 if number.unit == "" else 2 if abs(number.value) < 10 else 1
    return f"{number.value:.{digits}f} ± {number.error:.{digits}f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield "| " + " | ".join(header) + " |"
    yield "| " + " | ".join(["---", *["---:"] * (len(header) - 1)]) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
