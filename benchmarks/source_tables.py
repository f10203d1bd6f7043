"""User CPU seconds and megabytes of source tables: writing and reading, standardizing, consolidating.

Run as ``python -m benchmarks.source_tables``.  The numbers in the tables are random, so that they compress
badly; a third of the sources have heavy footprints.  Beside ours is what the Butler does by default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from astropy.table import Table
from lsst.daf.butler.formatters.parquet import arrow_to_astropy, astropy_to_arrow
from rich.console import Console
from rich.table import Table as Listing

from secondlight.catalog.arrow_tables import read_table, write_arrow, write_table
from secondlight.catalog.footprints import Footprints
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.tasks.consolidate_source import ConsolidateSourceTask
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask
from secondlight.tasks.standardize_source import StandardizeSourceTask

from .timing import peak_memory, user_seconds

ROWS = (3_500, 20_000)
DETECTORS, ROWS_OF_DETECTOR = 189, 4_000
_MEGABYTE = 1e6


def make_catalog(n: int) -> SourceCatalog:
    """Return sources with random numbers and flags in every column, and footprints of some 150 pixels."""
    rng = np.random.default_rng(1)
    catalog = SourceCatalog(ReprocessVisitImageTask().sources_schema.schema, n)
    for field in catalog.schema:
        if field.dtype.kind == "f":
            catalog[field.name] = rng.normal(size=n)
        elif field.dtype.kind == "b":
            catalog[field.name] = rng.random(n) < 0.02
        else:
            catalog[field.name] = rng.integers(0, 10, n)
    catalog["id"] = np.arange(n)
    x, y = rng.integers(20, 4000, (2, n))
    footprints = Footprints.from_circles(x, y, 7)
    image = rng.normal(size=(4100, 4100)).astype(np.float32)
    heavy = footprints.take(np.arange(0, n, 3)).with_heavy(image)
    plain = footprints.take(np.arange(n - len(heavy)))
    catalog.footprints = Footprints.concatenate([heavy, plain])
    return catalog


def measure[T](label: str, work: Callable[[], T], listing: Listing, path: Path | None = None) -> T:
    """Add a row with the time that some work takes, and the size of the file it writes."""
    since = user_seconds()
    result = work()
    size = "" if path is None else f"{path.stat().st_size / _MEGABYTE:.1f}"
    listing.add_row(label, f"{user_seconds() - since:.3f}", size)
    return result


def measure_files(n: int, folder: Path) -> Listing:
    """Measure the tables of one detector with n sources."""
    catalog = make_catalog(n)
    table = catalog.to_astropy()
    columns = f"{len(catalog.schema)} columns, {len(table.colnames)} with those of slots"
    listing = Listing("step", "s", "MB", title=f"{n} sources, {columns}")
    own, theirs, heavy = (folder / f"{name}.parq" for name in ("own", "theirs", "heavy"))
    measure(
        "Butler's default: write", lambda: pq.write_table(astropy_to_arrow(table), theirs), listing, theirs
    )
    measure("Butler's default: read", lambda: arrow_to_astropy(pq.read_table(theirs)), listing)
    measure("write", lambda: write_table(table, own), listing, own)
    measure("read", lambda: read_table(own), listing)
    measure("read 5 columns", lambda: read_table(own, columns=table.colnames[:5]), listing)
    measure("astropy Table.read", lambda: Table.read(own, format="parquet"), listing)
    measure("pandas.read_parquet", lambda: pd.read_parquet(own), listing)
    measure("with footprints: write", lambda: write_arrow(catalog.to_arrow(), heavy), listing, heavy)
    listing.add_row("footprints per source, bytes", "", f"{footprint_size(heavy) / n:.0f}")
    measure("with footprints: read", lambda: SourceCatalog.from_arrow(pq.read_table(heavy)), listing)
    standardized = measure("standardize", lambda: standardize(table, 1), listing)
    measure("standardized: write", lambda: write_table(standardized, own), listing, own)
    return listing


def footprint_size(path: Path) -> int:
    """Return how many bytes of a file are footprints."""
    metadata = pq.read_metadata(path)
    columns = (
        metadata.row_group(group).column(k)
        for group in range(metadata.num_row_groups)
        for k in range(metadata.num_columns)
    )
    return sum(c.total_compressed_size for c in columns if c.path_in_schema.startswith("footprint_"))


def standardize(table: Table, detector: int) -> Table:
    """Return the published table of a detector."""
    labels = {"visit": 1, "detector": detector, "band": "r", "physical_filter": "r_01"}
    return StandardizeSourceTask().run(inputCatalog=table, **labels).outputCatalog


def measure_visit(folder: Path) -> Listing:
    """Measure the table of a visit of many detectors, written piece by piece."""
    one = standardize(make_catalog(ROWS_OF_DETECTOR).to_astropy(), 0)

    class Handle:
        """Makes the table of a detector when it is asked for."""

        def __init__(self, detector: int) -> None:
            self.detector = detector

        def get(self) -> Table:
            """Return the table."""
            table = one.copy()
            table["sourceId"] += self.detector * ROWS_OF_DETECTOR
            return table

    listing = Listing("step", "s", "MB", title=f"{DETECTORS} detectors with {ROWS_OF_DETECTOR} sources each")
    path = folder / "visit.parq"
    handles = {detector: Handle(detector) for detector in range(DETECTORS)}

    def write() -> None:
        write_table(ConsolidateSourceTask().stream(inputCatalogs=handles, visit=1), path)

    before, peak, _ = peak_memory(lambda: measure("consolidate", write, listing, path))
    listing.add_row("memory beyond what was there", "", f"{1000 * (peak - before):.0f}")
    return listing


def listings() -> Iterator[Listing]:
    """Yield what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        yield measure_visit(Path(folder))  # first, while the process is small
        for n in ROWS:
            yield measure_files(n, Path(folder))


if __name__ == "__main__":
    for listing in listings():
        Console().print(listing)
