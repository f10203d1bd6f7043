"""Writes docs/parity.md and the pages below it: how whole runs, and every column, compare with the reference.

``python -m tests.parity.table`` from the top of the repository; the packs are where the tests look for them.
With prefixes of column names as arguments it prints how these columns compare on the reference's own pixels,
worst first, and writes nothing.
"""

from __future__ import annotations

__all__ = ("DOCS",)

import logging
import os
import sys
from pathlib import Path

from .agreement import measure_agreement
from .end_to_end_page import format_columns_page, format_summary_page
from .replay_page import PACKS, format_replay_page, format_replayed_columns, replay

_ROOT = Path(__file__).resolve().parents[2]
DOCS = {
    "summary": _ROOT / "docs" / "parity.md",
    "columns": _ROOT / "docs" / "parity" / "columns.md",
    "replay": _ROOT / "docs" / "parity" / "replay.md",
}
"""Pages by what they tell: whole runs in short, every column of them, measurement alone."""


def main() -> None:
    """Write the pages, or print some columns."""
    logging.disable(logging.WARNING)
    data_dir = Path(os.environ.get("SECONDLIGHT_TEST_DATA", _ROOT.parent / "shared" / "data"))
    if not (data_dir / "parity").is_dir():
        raise SystemExit(
            "The parity packs are not there; set SECONDLIGHT_TEST_DATA to the folder that holds them."
        )
    replayed = {name: measure_agreement(replay(data_dir, name)) for name in PACKS}
    if sys.argv[1:]:
        print(format_replayed_columns(replayed, tuple(sys.argv[1:])))
        return
    DOCS["replay"].parent.mkdir(exist_ok=True)
    DOCS["replay"].write_text(format_replay_page(replayed))
    DOCS["columns"].write_text(format_columns_page(data_dir))
    DOCS["summary"].write_text(format_summary_page(data_dir))


if __name__ == "__main__":
    main()
