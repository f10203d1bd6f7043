"""The pages about whole runs: what is published, next to the reference's."""

from __future__ import annotations

__all__ = ("format_columns_page", "format_summary_page")

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from secondlight.catalog.mask_planes import mask_of

from . import end_to_end_words as words
from .agreement import exemption, group_of
from .characterization import characterize, final_columns, final_spreads
from .end_to_end import SEEDS, run_end_to_end
from .end_to_end_columns import cause_of, columns_of, explained, spreads, with_rules_explained
from .pack import load_finalize_pack, load_pack
from .published import PLANES, changed_pixels, compare_pixels, compare_planes, compare_rows
from .summary_statistics import compare_statistics
from .yardstick import KINDS, Spread

_PACKS = ("A", "B")
_KINDS = {"alone": "sources without siblings", "blended": "blends", "sky": "sky sources"}
_CALIBRATED = ("_flux", "_fluxErr", "_mag", "_magErr")


def format_summary_page(data_dir: Path) -> str:
    """Return the page that sums up whole runs."""
    sections = {
        "In short": _in_short,
        "Repaired pixels": _repaired,
        "Mask planes": _planes,
        "Sources": _sources,
        "Columns by plugin and step": _by_plugin,
        "Columns that differ": _different,
        "Columns of one side only": _not_shared,
        "Summary statistics": _statistics,
        "Final characterization": _characterization,
    }
    parts = [words.INTRODUCTION.format(n_seeds=len(SEEDS))]
    return "\n".join([*parts, *(f"## {title}\n\n{make(data_dir)}" for title, make in sections.items())])


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], *, text: int = 1) -> str:
    """Return a table whose first ``text`` columns, and one called "why", are words."""
    align = ["---" if k < text or name == "why" else "---:" for k, name in enumerate(head)]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(align) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * np.floor(1000 * value + 1e-9) / 1000:.1f}"


def _pair(spread: Spread | None) -> str:
    """Return the fractions that agree with the reference and between seeds."""
    return "" if spread is None or not spread.rows else f"{_percent(spread.agree)} / {_percent(spread.seeds)}"


def _marked(spread: Spread | None) -> str:
    return _pair(spread) + ("" if spread is None or spread.in_parity else " †")


def _offset(spread: Spread | None) -> str:
    if spread is None or np.isnan(spread.offset):
        return ""
    return f"{spread.offset:+.2f} ± {spread.offset_error:.2f}"


def _counts(found: Iterable[Spread]) -> str:
    """Return how many columns are in parity, of those that have any source."""
    known = [s for s in found if s.rows]
    return f"{sum(s.in_parity for s in known)} of {len(known)}" if known else ""


def _in_short(data_dir: Path) -> str:
    runs = [run_end_to_end(data_dir, name) for name in _PACKS]
    pixels = [compare_pixels(run) for run in runs]
    planes = [sum(np.array_equal(*pair) for pair in compare_planes(run).values()) for run in runs]
    sources = [list(compare_rows(run).values()) for run in runs]
    tables = [(set(r.sources.colnames), set(r.pack.sources.to_astropy().colnames)) for r in runs]
    stats = [compare_statistics(data_dir, name) for name in _PACKS]
    known = [[s for s in found if s.unknown is None] for found in stats]
    rows = [
        (
            "largest relative difference of pixels that nobody repaired",
            [f"{p.image_difference:.1e}" for p in pixels],
        ),
        ("the same of the variance, all pixels", [f"{p.variance_difference:.1e}" for p in pixels]),
        ("mask planes that are equal (others: by the repair)", [f"{n} of {len(PLANES)}" for n in planes]),
        (
            "sources of the reference that are ours, in the same rows with the same ids",
            [f"{sum(m for *_, m in s)} of {sum(n for _, n, _ in s)}" for s in sources],
        ),
        ("columns of the reference that we have", [f"{len(a & b)} of {len(b)}" for a, b in tables]),
        *(
            (f"columns of {what}: {words.VERDICTS}", [_verdicts(data_dir, name, kind) for name in _PACKS])
            for kind, what in _KINDS.items()
        ),
        (words.WITH_RULES, [_with_rules(data_dir, name) for name in _PACKS]),
        ("summary statistics within 1 %", [f"{sum(x.agrees for x in s)} of {len(s)}" for s in stats]),
        (
            "the same with the rules of the reference, of those that the packs tell enough for",
            [f"{sum(x.agrees_with_rules for x in s)} of {len(s)}" for s in known],
        ),
    ]
    return f"{_table(['', *_PACKS], ((what, *cells) for what, cells in rows))}\n{words.CALIBRATED}"


def _verdicts(data_dir: Path, name: str, kind: str) -> str:
    """Return how many columns are in parity, different for a reason, and unexplained."""
    every = spreads(data_dir, name, reference_rules=False).values()
    found = [s for s in every if s.kind == kind and s.rows]
    reasons = [explained(name, s) is not None for s in found if not s.in_parity]
    return f"{len(found) - len(reasons)}, {sum(reasons)}, {len(reasons) - sum(reasons)}"


def _with_rules(data_dir: Path, name: str) -> str:
    found = spreads(data_dir, name, reference_rules=True).values()
    return _counts(s for s in found if with_rules_explained(s) is None)


def _repaired(data_dir: Path) -> str:
    rows, lists = [], []
    for name in _PACKS:
        run = run_end_to_end(data_dir, name)
        ours, theirs = changed_pixels(run)
        reference = run.pack.pvi()
        images, sigma = (run.exposure.image.array, reference.image.array), np.sqrt(reference.variance.array)
        source = mask_of(reference.mask, ["DETECTED"])
        for where, inside in (("sky", ~source), ("sources", source)):
            for by, marked in (("both", ours & theirs), ("the reference only", theirs & ~ours)):
                pulls = [(image / sigma)[marked & inside] for image in images]
                means = (f"{p.mean():+.2f} ± {p.std():.2f}" if len(p) else "" for p in pulls)
                rows.append([name, by, where, int((marked & inside).sum()), *means])
        y, x = np.nonzero(theirs & ~ours)
        x0, y0 = run.pack.xy0
        places = ", ".join(f"({i + x0}, {j + y0})" for j, i in zip(y, x, strict=True))
        lists.append(f"- {name}: {places}.\n")
    head = ["pack", "repaired by", "where", "pixels", "ours", "theirs"]
    return f"{_table(head, rows, text=3)}\n{words.REPAIRED}\n{''.join(lists)}"


def _planes(data_dir: Path) -> str:
    found = [compare_planes(run_end_to_end(data_dir, name)) for name in _PACKS]
    ruled = [compare_planes(run_end_to_end(data_dir, name, reference_rules=True)) for name in _PACKS]
    rows = []
    for plane in PLANES:
        cells = []
        for pack, rules in zip(found, ruled, strict=True):
            ours, theirs = pack[plane]
            cells += [int(n.sum()) for n in (ours, theirs, ours & theirs, np.logical_xor(*rules[plane]))]
        rows.append([plane, *cells, words.WHY_PLANES.get(plane, "")])
    whats = ("ours", "theirs", "both", "different with rules")
    head = [f"{name} {what}" for name in _PACKS for what in whats]
    return f"Numbers of pixels.\n\n{_table(['plane', *head, 'why'], rows)}"


def _sources(data_dir: Path) -> str:
    found = [compare_rows(run_end_to_end(data_dir, name)) for name in _PACKS]
    rows = [[kind, *(n for pack in found for n in pack[kind])] for kind in found[0]]
    head = [f"{name} {what}" for name in _PACKS for what in ("ours", "theirs", "matched")]
    flagged = []
    for name in _PACKS:
        reference, ours = load_pack(data_dir, name).sources, run_end_to_end(data_dir, name).catalog
        repaired = reference["base_PixelFlags_flag_cr"] | ours["base_PixelFlags_flag_cr"]
        flagged.append(f"{int((repaired & ~reference['sky_source']).sum())} in {name}")
    return f"{_table(['', *head], rows)}\n{words.SOURCES.format(flagged=', '.join(flagged))}"


def _groups(names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(name), []).append(name)
    return dict(sorted(groups.items(), key=lambda item: item[0].lower()))


def _by_plugin(data_dir: Path) -> str:
    columns = columns_of(load_pack(data_dir, "A"))
    found = {(n, r): spreads(data_dir, n, reference_rules=r) for n in _PACKS for r in (False, True)}
    which = (("alone", False), ("blended", False), ("blended", True), ("sky", False))
    rows = []
    for group, names in _groups(columns).items():
        free = [name for name in names if exemption(name) is None]
        cells = [_counts(found[pack, r][kind, n] for n in free) for kind, r in which for pack in _PACKS]
        rows.append([group, len(names), len(names) - len(free) or "", *cells])
    kinds = ("alone", "blends", "blends with rules", "sky")
    head = [
        "plugin or step",
        "columns",
        "corrected",
        *(f"{pack} {kind}" for kind in kinds for pack in _PACKS),
    ]
    return f"{words.BY_PLUGIN}\n{_table(head, rows)}"


def _different(data_dir: Path) -> str:
    packs = {name: spreads(data_dir, name, reference_rules=False) for name in _PACKS}
    rows = []
    for kind, name in packs["A"]:
        pair = {pack: found[kind, name] for pack, found in packs.items()}
        different = {pack: s for pack, s in pair.items() if not s.in_parity}
        reasons = {explained(pack, s) or "**unexplained**" for pack, s in different.items()}
        # Blends and sky sources repeat the list of sources without siblings.
        repeated = name.endswith(_CALIBRATED) or (kind != "alone" and exemption(name) is not None)
        if different and not repeated and reasons != {"point sources in blends"}:
            rows.append([name, kind, *map(_pair, pair.values()), "; ".join(sorted(reasons))])
    return f"{words.DIFFERENT}\n{_table(['column', 'sources', *_PACKS, 'why'], rows, text=2)}"


def _not_shared(data_dir: Path) -> str:
    run, final = run_end_to_end(data_dir, "A"), load_finalize_pack(data_dir)
    stars = characterize(data_dir).output_table
    pairs = {
        "final pass": (run.sources.colnames, run.pack.sources.to_astropy().colnames),
        "characterization": (stars.colnames, final.finalized_src.to_astropy().colnames),
    }

    def listed(names: set[str]) -> str:
        return ", ".join(f"`{name}`" for name in sorted(names)) or "none"

    lines = []
    for task, (ours, theirs) in pairs.items():
        lines.append(f"- {task}, only in the reference: {listed(set(theirs) - set(ours))}.\n")
        lines.append(f"- {task}, only here: {listed(set(ours) - set(theirs))}.\n")
    return "".join(lines)


def _statistics(data_dir: Path) -> str:
    packs = [{s.name: s for s in compare_statistics(data_dir, name)} for name in _PACKS]
    rows = []
    for name in packs[0]:
        both = [pack[name] for pack in packs]
        reasons = {s.cause or "**unexplained**" for s in both if not s.agrees}
        cells = [f"{v:.5g}" for s in both for v in (s.reference, s.ours, s.with_rules)]
        rows.append([name, *cells, "; ".join(sorted(reasons))])
    head = [f"{name} {what}" for name in _PACKS for what in ("theirs", "ours", "with rules")]
    return f"{words.STATISTICS}\n{_table(['statistic', *head, 'why'], rows)}"


def _characterization(data_dir: Path) -> str:
    found = final_spreads(data_dir)
    rows = []
    for group, names in _groups(final_columns(load_finalize_pack(data_dir))).items():
        free = [name for name in names if exemption(name) is None]
        counts = _counts(found[name] for name in free if name in found)
        rows.append([group, len(names), len(names) - len(free) or "", counts])
    head = ["plugin or step", "columns", "corrected", "in parity"]
    return f"{words.CHARACTERIZATION}\n{_table(head, rows)}"


def format_columns_page(data_dir: Path) -> str:
    """Return the page with every column of whole runs."""
    found = {(n, r): spreads(data_dir, n, reference_rules=r) for n in _PACKS for r in (False, True)}
    final = final_spreads(data_dir)
    columns = columns_of(load_pack(data_dir, "A"))
    every = [*columns, *(name for name in final_columns(load_finalize_pack(data_dir)) if name not in columns)]
    which = [
        (kind, r, pack) for kind in KINDS for r in (False, True) if kind != "sky" or not r for pack in _PACKS
    ]
    head = [f"{pack} {kind}{' with rules' if rules else ''}" for kind, rules, pack in which]
    head = ["column", *(f"{pack} offset" for pack in _PACKS), *head, "characterization", "why"]
    parts = [words.COLUMNS]
    for group, names in _groups(every).items():
        rows = []
        for name in names:
            cells = {key: found[key[2], key[1]].get((key[0], name)) for key in which}
            reasons = {_why(pack, s, rules) for (_, rules, pack), s in cells.items()} | {
                _why("B", final.get(name), True)
            }
            offsets = [_offset(cells["alone", False, pack]) for pack in _PACKS]
            values = [_marked(s) for s in (*cells.values(), final.get(name))]
            rows.append([name, *offsets, *values, "; ".join(sorted(reasons - {""}))])
        parts.append(f"## {group}\n\n{_table(head, rows)}")
    return "\n".join(parts)


def _why(pack: str, spread: Spread | None, rules: bool) -> str:
    """Return why a column is not in parity; nothing if it is."""
    if spread is None or spread.in_parity:
        return ""
    return with_rules_explained(spread) or (not rules and cause_of(pack, spread)) or "**unexplained**"
