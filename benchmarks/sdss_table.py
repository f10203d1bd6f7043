"""Every column of an independent table of SDSS sources beside ours, on the same three frames.

Run as ``python -m benchmarks.sdss_table``.  Both passes run in memory; the final one uses the PSF of the
first.  Sources are compared that neither system flags, within one pixel, by signal-to-noise ratio.
"""

from __future__ import annotations

from itertools import pairwise

import astropy.table
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.spatial import KDTree

from secondlight.tasks.calibrate_image import CalibrateImageTask
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .sdss import DATA, final_pass_config, first_pass_config, frames, run_final_pass, run_first_pass

_FLAGS = (
    "base_SdssCentroid_flag",
    "base_PixelFlags_flag_edge",
    "base_PixelFlags_flag_interpolated",
    "base_PixelFlags_flag_saturated",
)
_SNR_EDGES = (10.0, 50.0, 1e9)
_RUN = "4192"


def compare(ours: astropy.table.Table, theirs: astropy.table.Table, name: str) -> tuple[str, str]:
    """Return what is compared of a column, and its median and scatter (half the 68 % interval)."""
    mine, other = np.asarray(ours[name], dtype=float), np.ma.filled(theirs[name].astype(float), np.nan)
    if ours[name].dtype == bool or name.endswith("Extendedness_value"):
        known = np.isfinite(mine) & np.isfinite(other)
        return "equal", f"{np.mean(mine[known] == other[known]):.3f}"
    if name.startswith("coord_"):
        values, kind = 3.6e6 * (np.rad2deg(mine) - other), "difference, mas"
    elif name.endswith(("Centroid_x", "Centroid_y")):
        values, kind = 1000 * (mine - other), "difference, mpx"
    elif name.endswith("_xy"):
        values, kind = mine - other, "difference, px²"
    else:
        values, kind = mine / other, "ratio"
    low, middle, high = np.percentile(values[np.isfinite(values)], [16, 50, 84])
    return kind, f"{middle:.3f} ± {0.5 * (high - low):.3f}"


def matched(
    ours: astropy.table.Table, theirs: astropy.table.Table
) -> tuple[astropy.table.Table, astropy.table.Table]:
    """Return the clean sources that both systems have."""
    ours = ours[np.asarray(ours["detect_isPrimary"])]
    x, y = "base_SdssCentroid_x", "base_SdssCentroid_y"
    theirs = theirs[np.isfinite(np.asarray(theirs[x]) + np.asarray(theirs[y]))]
    tree = KDTree(np.column_stack([ours[x], ours[y]]))
    distance, nearest = tree.query(np.column_stack([theirs[x], theirs[y]]))
    ours = ours[nearest]
    good = (distance < 1.0) & ~np.asarray(ours["base_PsfFlux_flag"])
    for flag in _FLAGS:
        good &= ~np.asarray(ours[flag]) & ~np.asarray(theirs[flag])
    return ours[good], theirs[good]


def main() -> None:
    """Measure the frames and print a table."""
    path = DATA / "expected" / "lsst_sources_4192_gri.ecsv"
    if not path.is_file():
        print(f"skipped: there is no {path} (set SECONDLIGHT_TEST_DATA)")
        return
    expected = astropy.table.Table.read(path)
    pairs = {}
    for name, observation in frames():
        band = observation.image.band
        if _RUN in name:
            first = run_first_pass(CalibrateImageTask(config=first_pass_config()), observation)
            final = run_final_pass(ReprocessVisitImageTask(config=final_pass_config()), observation, first)
            pairs[band] = matched(final.sources, expected[expected["band"] == band])
    columns = [c for c in expected.colnames if c not in ("id", "band", "flags_negative")]
    console = Console()
    for low, high in pairwise(_SNR_EDGES):
        table = Table(title=f"signal-to-noise ratio {low:g} to {high:g}")
        for heading in ("column", "compared"):
            table.add_column(heading, no_wrap=True)
        chosen = {}
        for band, (ours, theirs) in pairs.items():
            ratio = np.asarray(theirs["base_PsfFlux_instFlux"] / theirs["base_PsfFlux_instFluxErr"])
            rows = (ratio >= low) & (ratio < high)
            chosen[band] = ours[rows], theirs[rows]
            table.add_column(f"{band}: {rows.sum()}", justify="right", no_wrap=True)
        for column in columns:
            cells = [compare(ours, theirs, column) for ours, theirs in chosen.values()]
            table.add_row(column, cells[0][0], *(value for _, value in cells))
        console.print(table)


if __name__ == "__main__":
    main()
