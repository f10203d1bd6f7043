"""Which columns of whole runs are in parity with the reference, and why the others are not."""

from __future__ import annotations

__all__ = ("cause_of", "columns_of", "explained", "spreads", "with_rules_explained")

import functools
import re
from pathlib import Path

from .agreement import exemption, target_of
from .end_to_end import SEEDS, run_end_to_end
from .pack import ParityPack
from .yardstick import KINDS, Spread, kinds_of, measure_spread

_KRON = "ext_photometryKron_KronFlux"

# What a column of some kind of sources holds is something else here; patterns match whole names.
_MEANING = (
    (KINDS, r"deblend_(peak_center_[xy]|peakId|nPeaks)", "filled for every source"),
    (("blended",), r"deblend_tooManyPeaks", "set beyond the limit only"),
    (("sky",), rf"{_KRON}_(instFlux|flux|mag|radius)", "the shape of the PSF where the source's failed"),
)

# Listed corrections that act on the pixels of sources: with them taken back, the columns are in parity.
_CORRECTIONS = (
    (
        "A",
        KINDS,
        r"base_PsfFlux_.*|ext_shapeHSM_HsmShapeRegauss_.*",
        "a Gaussian is drawn where the source is",
    ),
    ("AB", ("blended",), r".*", "point sources in blends"),
)


def cause_of(pack: str, spread: Spread) -> str | None:
    """Return the listed correction that a column of a whole run may differ by, or `None`."""
    for packs, kinds, pattern, cause in _CORRECTIONS:
        if pack in packs and spread.kind in kinds and re.fullmatch(pattern, spread.column):
            return cause
    return None


def with_rules_explained(spread: Spread) -> str | None:
    """Return why a column differs although the corrections of `cause_of` are taken back, or `None`."""
    if (reason := exemption(spread.column)) is not None:
        return reason
    for kinds, pattern, reason in _MEANING:
        if spread.kind in kinds and re.fullmatch(pattern, spread.column):
            return reason
    return None


def explained(pack: str, spread: Spread) -> str | None:
    """Return why a column of a whole run may differ, or `None`."""
    return with_rules_explained(spread) or cause_of(pack, spread)


def columns_of(pack: ParityPack) -> list[str]:
    """Return the published columns that do not repeat others."""
    aliases = pack.sources.schema.alias_columns()
    names = pack.sources.to_astropy().colnames
    return [name for name in names if aliases.get(name, target_of(name)) == name]


@functools.cache
def spreads(data_dir: Path, name: str, *, reference_rules: bool) -> dict[tuple[str, str], Spread]:
    """Return how the columns of a pack compare, by kind and column.

    Sources with repaired pixels count only if these are the reference's.
    """
    runs = [run_end_to_end(data_dir, name, seed, reference_rules=reference_rules) for seed in SEEDS]
    pack = runs[0].pack
    tables = [dict(run.sources.items()) for run in runs]
    reference = dict(pack.sources.to_astropy().items())
    kinds = kinds_of(reference, tables[0], repaired_alike=reference_rules)
    columns = columns_of(pack)
    found = [s for kind in KINDS for s in measure_spread(tables, reference, columns, kind, kinds[kind])]
    return {(s.kind, s.column): s for s in found}
