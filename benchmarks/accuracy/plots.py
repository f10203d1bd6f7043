"""The numbers as pictures."""

from __future__ import annotations

__all__ = ("draw_plots",)

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from .numbers import Number
from .populations import CROWDING
from .report import kind_of_flux
from .run import SystemNumbers


class Panel(NamedTuple):
    """One panel: which numbers it shows.

    Attributes
    ----------
    subject
        Subject of the numbers.
    series
        Keys without their last part, the bin; a system may use any of them.
    axis
        Axis of the bins.
    title
        Title.
    ideal
        Where a line is drawn; `None` for no line.
    """

    subject: str
    series: tuple[str, ...]
    axis: str
    title: str
    ideal: float | None = None


_AXIS_LABELS = {
    "mag": "magnitude",
    "snr": "signal-to-noise ratio",
    "size": "half-light radius / that of the PSF",
    "crowding": "crowding",
}

_FIXED = {
    "completeness": (
        Panel("completeness", ("completeness.stars",), "mag", "Stars found", 1.0),
        Panel("completeness", ("completeness.galaxies",), "mag", "Galaxies found", 1.0),
        Panel("completeness", ("completeness.all",), "snr", "Objects found", 1.0),
        Panel("completeness", ("completeness.all",), "crowding", "Objects found", 1.0),
        Panel("purity", ("purity",), "mag", "Sources that are real", 1.0),
    ),
    "centroids": tuple(
        Panel(
            "centroids", (f"centroid.{axis}.{key}.{kind}.isolated",), "mag", f"{kind}, {axis}: {what}", ideal
        )
        for kind in ("stars", "galaxies")
        for axis in ("x", "y")
        for key, what, ideal in (("bias", "offset (mpix)", 0.0), ("pull_width", "pull width", 1.0))
    ),
    "classification": tuple(
        Panel("classification", (f"classification.{column}.{key}",), "mag", f"{title} ({column})", ideal)
        for column in ("extendedness", "size_extendedness")
        for key, title, ideal in (
            ("stars_found", "Stars called stars", 1.0),
            ("galaxies_found", "Galaxies called galaxies", 1.0),
            ("stars_false", "Galaxies among the stars", 0.0),
        )
    ),
}

_FLUX_PANELS = (
    ("bias.stars.isolated", "mag", "isolated stars: offset (mmag)", 0.0),
    ("pull_width.stars.isolated", "mag", "isolated stars: pull width", 1.0),
    ("bias.galaxies.isolated", "mag", "isolated galaxies: offset (mmag)", 0.0),
    ("pull_width.galaxies.isolated", "mag", "isolated galaxies: pull width", 1.0),
    ("bias.stars", "crowding", "stars: offset (mmag)", 0.0),
    ("bias.galaxies.isolated", "size", "isolated galaxies: offset (mmag)", 0.0),
)

_COLORS = 32

_PSF_BARS = (
    ("size.scatter", "size, scatter (%)"),
    ("size.bias", "size, median (%)"),
    ("e1.scatter", "e1, scatter (1e-3)"),
    ("e2.scatter", "e2, scatter (1e-3)"),
)


def draw_plots(folder: Path, systems: Mapping[str, SystemNumbers]) -> list[Path]:
    """Save a picture of every kind that there are numbers for, and return their paths."""
    pictures = {name: _draw(panels, systems) for name, panels in (_FIXED | _flux_pictures(systems)).items()}
    pictures["psf"] = _draw_psf(systems)
    saved = []
    for name, figure in pictures.items():
        if figure is not None:
            saved.append(folder / f"{name}.png")
            figure.savefig(saved[-1], dpi=90)
            _shrink(saved[-1])
    return saved


def _shrink(path: Path) -> None:
    """Store a picture with few colours, which is all that lines need."""
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(_COLORS).save(path, optimize=True)


def _flux_pictures(systems: Mapping[str, SystemNumbers]) -> dict[str, tuple[Panel, ...]]:
    """Return the panels of the picture of each kind of flux."""
    columns: dict[str, set[str]] = {}
    for one in systems.values():
        for number in one.subjects.get("fluxes", []):
            column = number.key.split(".")[1]
            columns.setdefault(kind_of_flux(column), set()).add(column)
    return {
        f"flux_{kind}": tuple(
            Panel("fluxes", tuple(f"flux.{name}.{key}" for name in sorted(names)), axis, title, ideal)
            for key, axis, title, ideal in _FLUX_PANELS
        )
        for kind, names in sorted(columns.items())
    }


def _draw(panels: Sequence[Panel], systems: Mapping[str, SystemNumbers]) -> Figure | None:
    """Draw panels, those without numbers left out; `None` if none has any."""
    content = {
        panel: {system: _select(one, panel) for system, one in systems.items() if _select(one, panel)}
        for panel in panels
    }
    content = {panel: lines for panel, lines in content.items() if lines}
    if not content:
        return None
    figure, axes = _figure(len(content))
    for ax, (panel, lines) in zip(axes, content.items(), strict=False):
        _fill(ax, panel, lines)
    return figure


def _figure(n: int) -> tuple[Figure, np.ndarray]:
    """Return a figure with two columns of panels."""
    columns = min(2, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(5.5 * columns, 3.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[n:]:
        ax.set_axis_off()
    return figure, axes


def _select(one: SystemNumbers, panel: Panel) -> list[Number]:
    """Return the numbers of a panel, in the order of their bins."""
    numbers = [
        number
        for number in one.subjects.get(panel.subject, [])
        if number.bin is not None
        and number.bin.axis == panel.axis
        and number.key.rpartition(".")[0] in panel.series
    ]
    return sorted(numbers, key=lambda number: number.bin.low if number.bin else 0.0)


def _fill(ax: Axes, panel: Panel, lines: Mapping[str, list[Number]]) -> None:
    """Draw one panel: a line with error bars per system."""
    for system, numbers in lines.items():
        centers = [_center(number) for number in numbers]
        errors = [number.error or 0.0 for number in numbers]
        values = [number.value for number in numbers]
        ax.errorbar(centers, values, yerr=errors, fmt="o-", ms=3, lw=1, label=system)
    if panel.ideal is not None:
        ax.axhline(panel.ideal, color="0.6", lw=0.8, zorder=0)
    if panel.axis == "snr":
        ax.set_xscale("log")
    if panel.axis == "crowding":
        ax.set_xticks(range(len(CROWDING)), list(CROWDING))
    ax.set_title(panel.title, fontsize="medium")
    ax.set_xlabel(_AXIS_LABELS[panel.axis])
    ax.legend(fontsize="small")


def _center(number: Number) -> float:
    """Return where a number is drawn: at the middle of its bin, or at the closed end of an open one."""
    assert number.bin is not None
    if number.bin.axis == "crowding":
        return float([low for low, _ in CROWDING.values()].index(number.bin.low))
    ends = [end for end in (number.bin.low, number.bin.high) if math.isfinite(end)]
    return sum(ends) / len(ends)


def _draw_psf(systems: Mapping[str, SystemNumbers]) -> Figure | None:
    """Draw the errors of the models of all systems as bars."""
    numbers = {
        (system, number.key): number
        for system, one in systems.items()
        for number in one.subjects.get("psf", [])
    }
    if not numbers:
        return None
    figure, axes = _figure(len(_PSF_BARS))
    for ax, (suffix, title) in zip(axes, _PSF_BARS, strict=True):
        bars = dict(_psf_bars(numbers, list(systems), suffix))
        errors = [number.error or 0.0 for number in bars.values()]
        ax.barh(list(bars), [number.value for number in bars.values()], xerr=errors, color="0.7")
        ax.axvline(0.0, color="0.3", lw=0.8)
        ax.set_title(title, fontsize="medium")
    return figure


def _psf_bars(
    numbers: Mapping[tuple[str, str], Number], systems: Sequence[str], suffix: str
) -> Iterator[tuple[str, Number]]:
    """Yield label and number of each bar."""
    for system in systems:
        for model in ("first", "final"):
            for place in ("reserved", "random"):
                if number := numbers.get((system, f"psf.{model}.{place}.{suffix}")):
                    yield f"{system}, {model},\n{place} positions", number
