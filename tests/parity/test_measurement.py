"""Every published column of the packs, measured on exactly the pixels that the reference measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from .agreement import NOT_YET, Agreement
from .table import DOCS, agreements

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def packs(data_dir: Path) -> dict[str, list[Agreement]]:
    return agreements(data_dir)


@pytest.mark.parametrize("name", ["A", "B", "final"])
def test_every_column(packs: dict[str, list[Agreement]], name: str) -> None:
    """At least 99 % of the sources agree in every column that no listed correction touches."""
    bad = [a for a in packs[name] if not a.good and not a.exempt and not a.missing]
    for a in packs[name]:
        if not a.good and a.exempt and a.column == a.target and not a.missing:
            print(f"{name} {a.column:50s} {a.fraction:.4f} {a.blended:.4f}  {a.exempt}")
    assert not bad, "\n".join(f"{a.column}: {'missing' if a.missing else a}" for a in bad)


def test_the_page_names_every_column(packs: dict[str, list[Agreement]]) -> None:
    page = DOCS.read_text()
    for columns in packs.values():
        for a in columns:
            if a.column == a.target and not a.given and a.exempt != NOT_YET:
                assert f"| {a.column} |" in page, f"{a.column}: run python -m tests.parity.table"
