"""The numbers as pictures."""

from __future__ import annotations

__all__ = ("draw_plots",)

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .numbers import Number
from .run import SystemNumbers


class Panel(NamedTuple):
    """One panel: which numbers it shows.

    Attributes
    ----------
    subject
        Subject of the numbers.
    prefix
        Their keys begin with this, up to the bin.
    axis
        Axis of their bins.
    title
        Title.
    ideal
        Where a line is drawn; `None` for no line.
    """

    subject: str
    prefix: str
    axis: str
    title: str
    ideal: float | None = None


_AXIS_LABELS = {
    "mag": "magnitude",
    "snr": "signal-to-noise ratio",
    "size": "half-light radius / that of the PSF",
}

_FIXED = {
    "completeness": (
        Panel("completeness", "completeness.stars", "mag", "Stars found", 1.0),
        Panel("completeness", "completeness.galaxies", "mag", "Galaxies found", 1.0),
        Panel("completeness", "completeness.all", "snr", "Objects found", 1.0),
        Panel("purity", "purity", "mag", "Sources that are real", 1.0),
    ),
    "centroids": tuple(
        Panel(
            "centroids",
            f"centroid.{axis}.{statistic}.{kind}.isolated",
            "mag",
            f"{kind}, {axis}: {what}",
            ideal,
        )
        for kind in ("stars", "galaxies")
        for axis in ("x", "y")
        for statistic, what, ideal in (("bias", "offset (mpix)", 0.0), ("pull_width", "pull width", 1.0))
    ),
    "classification": (
        Panel("classification", "classification.extendedness.stars_found", "mag", "Stars called stars", 1.0),
        Panel(
            "classification",
            "classification.extendedness.galaxies_found",
            "mag",
            "Galaxies called galaxies",
            1.0,
        ),
        Panel(
            "classification",
            "classification.extendedness.stars_false",
            "mag",
            "Galaxies among the stars",
            0.0,
        ),
    ),
}
_FLUX_PANELS = (
    ("bias.stars.isolated", "mag", "isolated stars: offset (mmag)", 0.0),
    ("pull_width.stars.isolated", "mag", "isolated stars: pull width", 1.0),
    ("bias.galaxies.isolated", "mag", "isolated galaxies: offset (mmag)", 0.0),
    ("pull_width.galaxies.isolated", "mag", "isolated galaxies: pull width", 1.0),
    ("bias.stars.blended", "mag", "blended stars: offset (mmag)", 0.0),
    ("bias.galaxies.isolated", "size", "isolated galaxies: offset (mmag)", 0.0),
)


def draw_plots(folder: Path, systems: Mapping[str, SystemNumbers]) -> list[Path]:
    """Save a picture of every kind that there are numbers for, and return their paths."""
    saved = []
    for name, panels in (_FIXED | _flux_pictures(systems)).items():
        figure = _draw(panels, systems)
        if figure is not None:
            saved.append(folder / f"{name}.png")
            figure.savefig(saved[-1], dpi=90)
    return saved


def _flux_pictures(systems: Mapping[str, SystemNumbers]) -> dict[str, tuple[Panel, ...]]:
    """Return the panels of the picture of each flux."""
    keys = [number.key for one in systems.values() for number in one.subjects.get("fluxes", [])]
    return {
        f"flux_{name}": tuple(
            Panel("fluxes", f"flux.{name}.{suffix}", axis, title, ideal)
            for suffix, axis, title, ideal in _FLUX_PANELS
        )
        for name in sorted({key.split(".")[1] for key in keys})
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
    columns = min(2, len(content))
    rows = -(-len(content) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (panel, lines) in zip(axes, content.items(), strict=False):
        _fill(ax, panel, lines)
    for ax in axes[len(content) :]:
        ax.set_axis_off()
    return figure


def _select(one: SystemNumbers, panel: Panel) -> list[Number]:
    """Return the numbers of a panel, in the order of their bins."""
    numbers = [
        number
        for number in one.subjects.get(panel.subject, [])
        if number.bin is not None
        and number.bin.axis == panel.axis
        and number.key.rpartition(".")[0] == panel.prefix
    ]
    return sorted(numbers, key=lambda number: number.bin.low if number.bin else 0.0)


def _fill(ax: Axes, panel: Panel, lines: Mapping[str, list[Number]]) -> None:
    """Draw one panel: a line with error bars per system."""
    for system, numbers in lines.items():
        centers = [_center(number) for number in numbers]
        errors = [number.error or 0.0 for number in numbers]
        ax.errorbar(centers, [number.value for number in numbers], yerr=errors, fmt="o-", ms=3, label=system)
    if panel.ideal is not None:
        ax.axhline(panel.ideal, color="0.6", lw=0.8, zorder=0)
    if panel.axis == "snr":
        ax.set_xscale("log")
    ax.set_title(panel.title, fontsize="medium")
    ax.set_xlabel(_AXIS_LABELS[panel.axis])
    ax.legend(fontsize="small")


def _center(number: Number) -> float:
    """Return where a number is drawn: at the middle of its bin, or at the closed end of an open one."""
    assert number.bin is not None
    ends = [end for end in (number.bin.low, number.bin.high) if math.isfinite(end)]
    return sum(ends) / len(ends)
