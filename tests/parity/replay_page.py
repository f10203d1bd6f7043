"""The page about measurement alone, on the pixels and over the noise that the reference measured."""

from __future__ import annotations

__all__ = ("PACKS", "format_replay_page", "format_replayed_columns", "replay")

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .agreement import Agreement, group_of
from .pack import load_finalize_pack, load_pack
from .replay import Replayed, replay_final, replay_pack

PACKS = ("A", "B", "final")

_INTRODUCTION = """\
# Column by column on the reference's own pixels

Written by `python -m tests.parity.table`; `tests/parity/test_measurement.py` asks for the same numbers.

Here this project's own tasks run on the same footprints as the reference's, over the same replacement noise
and with the same PSF: measurement, normalized calibration flux, aperture corrections, catalog calculations,
flags, local calibrations and calibration to nJy, for the scenes A and B and the stars of B's final
characterization (*final*). Runs of our own from end to end: [parity](../parity.md).

A value agrees if it is within 10⁻³ (positions: 10⁻³ pixels; moments: 10⁻³ of the size), or within 0.02 of its
own error where it has one; flags and integers have to be equal. Counted are sources that are not blended
({rows}); values of a measurement that the reference flagged do not count. *Blends* are
parents and children: the fraction that agrees, and for fluxes the mean difference in units of their error. A
column that we do not have counts as 0; one that a pack does not have is empty.

Shapelets, composite models, GAaP and convolved fluxes (`modelfit_*`, `ext_gaap_*`, `ext_convolved_*`, in
*final* only) agree within 1 % or 0.1 of the error, and 95 % of the stars have to. Shape, size and
ellipticity of a composite model count by what they do to the image, that is after the PSF: the models of
stars are much smaller than it. The reference's composite models are not repeatable: its own fluxes differ
by up to 0.16 % between two runs, the fraction of the de Vaucouleurs model by up to 0.66.
"""


@functools.cache
def replay(data_dir: Path, name: str) -> Replayed:
    """Return ours and the reference's tables of one of `PACKS`."""
    if name == "final":
        return replay_final(load_finalize_pack(data_dir))
    return replay_pack(load_pack(data_dir, name))


def format_replay_page(packs: Mapping[str, Sequence[Agreement]]) -> str:
    """Return the page."""
    rows = ", ".join(f"{max(a.rows for a in columns)} in {name}" for name, columns in packs.items())
    parts = [
        _INTRODUCTION.format(rows=rows),
        _summary(packs),
        _aliases(packs),
        _differences(packs),
        _all(packs),
    ]
    return "\n".join(parts)


def _own(columns: Sequence[Agreement]) -> dict[str, Agreement]:
    """Return the columns that are no aliases and not copied, by name."""
    return {a.column: a for a in columns if a.column == a.target and not a.given}


def _groups(packs: Mapping[str, Sequence[Agreement]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for columns in packs.values():
        for name in _own(columns):
            members = groups.setdefault(group_of(name), [])
            if name not in members:
                members.append(name)
    return dict(sorted(groups.items(), key=lambda item: item[0].lower()))


def _percent(fraction: float) -> str:
    return "" if np.isnan(fraction) else f"{100 * np.floor(1000 * fraction) / 1000:.1f}"


def _worst(columns: Mapping[str, Agreement], names: Sequence[str], attribute: str) -> str:
    values = [getattr(columns[n], attribute) for n in names if n in columns and not columns[n].exempt]
    known = [v for v in values if not np.isnan(v)]
    return _percent(min(known)) if known else ""


def _summary(packs: Mapping[str, Sequence[Agreement]]) -> str:
    """Return one line per plugin or step: the worst of its columns that are to agree."""
    own = {name: _own(columns) for name, columns in packs.items()}
    head = ["columns", "exempt", *(f"{n} (%)" for n in packs), "blends A (%)", "blends B (%)"]
    lines = ["## By plugin and step", "", "The worst column of each.", ""]
    lines += ["| plugin or step | " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(head)]
    for group, names in _groups(packs).items():
        exempt = sum(any(n in c and c[n].exempt for c in own.values()) for n in names)
        cells = [str(len(names)), str(exempt or "")]
        cells += [_worst(columns, names, "fraction") for columns in own.values()]
        cells += [_worst(own[n], names, "blended") if n in own else "" for n in ("A", "B")]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _aliases(packs: Mapping[str, Sequence[Agreement]]) -> str:
    counts = []
    for name, columns in packs.items():
        repeats = [a for a in columns if a.column != a.target]
        counts.append(f"{sum(not a.missing for a in repeats)} of {len(repeats)} in {name}")
    return f"Columns that repeat others (`slot_*`, `*_flag_badCentroid`, ...): {'; '.join(counts)}.\n"


def _differences(packs: Mapping[str, Sequence[Agreement]]) -> str:
    """Return the columns that do not agree, with the reason where there is one."""
    lines = ["## Columns that differ", "", "Reasons are told in [differences](../differences.md).", ""]
    head = ["unblended (%)", "blends (%)", "blends, errors", "ratio"]
    lines += ["The ratio is the median of ours over the reference's.", ""]
    lines += [f"| column | pack | {' | '.join(head)} | why |", "| --- | --- |" + " ---: |" * 4 + " --- |"]
    for pack, columns in packs.items():
        for a in columns:
            if a.good or a.given or a.column != a.target:
                continue
            why = a.exempt or ("**we do not have it**" if a.missing else "**unexplained**")
            cells = [a.column, pack, _percent(a.fraction), _percent(a.blended), _shift(a), _ratio(a), why]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Sources that a correction acts on one by one are left out of all numbers:", ""]
    lines += ["| column | pack | sources left out |", "| --- | --- | ---: |"]
    lines += [
        f"| {a.column} | {pack} | {a.left_out} of {a.rows + a.blended_rows + a.left_out} |"
        for pack, columns in packs.items()
        for a in columns
        if a.left_out and a.column == a.target and a.column.endswith(("_instFlux", "_flag", "_radius"))
    ]
    return "\n".join([*lines, ""])


def _shift(a: Agreement) -> str:
    return "" if np.isnan(a.shift) else f"{a.shift:+.3f}"


def _ratio(a: Agreement) -> str:
    return "" if np.isnan(a.ratio) else f"{a.ratio:.3f}"


def _all(packs: Mapping[str, Sequence[Agreement]]) -> str:
    """Return every column that is no alias and not copied."""
    own = {name: _own(columns) for name, columns in packs.items()}
    head = [*(f"{n} (%)" for n in packs), "blends A (%)", "blends B (%)", "A, errors", "B, errors"]
    lines = ["## Every column", ""]
    for group, names in _groups(packs).items():
        lines += [f"### {group}", "", f"| column | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
        for name in names:
            found = {pack: columns.get(name) for pack, columns in own.items()}
            cells = [_percent(a.fraction) if a else "" for a in found.values()]
            blends = [found.get(n) for n in ("A", "B")]
            cells += [_percent(a.blended) if a else "" for a in blends]
            cells += [_shift(a) if a else "" for a in blends]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def format_replayed_columns(packs: Mapping[str, Sequence[Agreement]], prefixes: tuple[str, ...]) -> str:
    """Return plain lines of the columns that start with one of some prefixes, worst first."""
    chosen = [(pack, a) for pack, columns in packs.items() for a in columns if a.column.startswith(prefixes)]
    return "\n".join(
        f"{pack:6s} {a.column:55s} {'missing' if a.missing else _percent(a.fraction):>7s} of {a.rows:4d}"
        f"  blends {_percent(a.blended):>5s} {_shift(a):>7s}  ratio {_ratio(a):>6s}  {a.exempt or ''}"
        for pack, a in sorted(chosen, key=lambda item: np.nan_to_num(item[1].fraction, nan=2.0))
    )
