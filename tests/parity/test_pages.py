"""The pages under docs are what `python -m tests.parity.table` writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .characterization import final_columns
from .end_to_end_columns import columns_of
from .end_to_end_page import format_columns_page, format_summary_page
from .pack import load_finalize_pack, load_pack
from .table import DOCS

pytestmark = pytest.mark.realdata

_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]\d+)?|†")


@pytest.fixture(scope="module")
def summary(data_dir: Path) -> str:
    return format_summary_page(data_dir)


def _words(page: str) -> list[str]:
    """Return the lines of a page without numbers, whose last digits may depend on the machine."""
    return [_NUMBER.sub("#", line) for line in page.splitlines()]


def test_words_of_the_summary(summary: str) -> None:
    page = DOCS["summary"].read_text()
    assert _words(page) == _words(summary), "run python -m tests.parity.table"
    assert "**unexplained**" not in page


def test_numbers_in_short(summary: str) -> None:
    """The table at the top has today's numbers, and tells of nothing unexplained."""
    found, written = (_in_short(page) for page in (summary, DOCS["summary"].read_text()))
    assert written == found, "run python -m tests.parity.table"
    verdicts = [line for line in found if line.startswith("| columns of") and line.count(",") > 2]
    assert len(verdicts) == 3
    for line in verdicts:
        assert len(re.findall(r"\d+, \d+, 0 \|", line)) == 2, line


def _in_short(page: str) -> list[str]:
    return page.split("## In short")[1].split("## ")[0].splitlines()


def test_every_column_has_its_line(data_dir: Path) -> None:
    page = DOCS["columns"].read_text()
    assert _words(page) == _words(format_columns_page(data_dir)), "run python -m tests.parity.table"
    for name in (*columns_of(load_pack(data_dir, "A")), *final_columns(load_finalize_pack(data_dir))):
        assert f"| {name} |" in page, name
    assert "**unexplained**" not in page
