"""Writes the columns of docs/source_table.md: ``python -m tests.photometry.source_table_page``."""

from __future__ import annotations

from pathlib import Path

from secondlight.photometry.published_columns import LABELS, PREFIXES, PUBLISHED_COLUMNS, PublishedColumn
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

PAGE = Path(__file__).resolve().parents[2] / "docs" / "source_table.md"
START, END = "<!-- generated: begin -->", "<!-- generated: end -->"


def not_measured() -> list[PublishedColumn]:
    """Return the columns of the public table that the default configuration does not measure."""
    schema = ReprocessVisitImageTask().sources_schema.schema
    return [c for c in PUBLISHED_COLUMNS if c.source not in schema and c.source not in LABELS]


def generated() -> str:
    """Return the generated part of the page."""
    columns = [
        "| column | unit | type | from | UCD | what it holds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for c in PUBLISHED_COLUMNS:
        source = "data id" if c.source in LABELS else f"`{c.source}`"
        dtype = "string" if c.dtype.kind == "U" else c.dtype.name
        ucd = f"`{c.ucd}`" if c.ucd else ""
        columns.append(f"| `{c.name}` | {c.unit} | {dtype} | {source} | {ucd} | {c.description} |")
    missing = not_measured()
    if missing:
        lacking = "Not measured in the default configuration: " + ", ".join(f"`{c.name}`" for c in missing)
    else:
        lacking = "None of them is missing in the default configuration."
    prefixes = ["| measured | published |", "| --- | --- |"]
    prefixes += [
        f"| `{prefix}...` | `{short}...` |" if short else f"| `{prefix}...` | `...` |"
        for prefix, short in PREFIXES.items()
    ]
    return "\n".join(
        [
            "## Columns", "",
            f"{len(PUBLISHED_COLUMNS)} columns, in this order. {lacking}", "",
            *columns, "",
            "## Names of further columns", "",
            "The first prefix that fits counts; then `Flux_flux` and `Flux_fluxErr` at the end",
            "become `Flux` and `FluxErr`.", "",
            *prefixes,
        ]
    )  # fmt: skip


def page_with(text: str, part: str) -> str:
    """Return the page with its generated part replaced."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{part}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), generated()), encoding="utf-8")
