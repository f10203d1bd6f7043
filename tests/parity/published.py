"""Pixels, mask planes and rows of a run next to the reference's."""

from __future__ import annotations

__all__ = ("PLANES", "PixelComparison", "changed_pixels", "compare_pixels", "compare_planes", "compare_rows")

import dataclasses

import numpy as np
from scipy.spatial import KDTree

from secondlight.catalog.mask_planes import mask_of
from secondlight.catalog.source_catalog import SourceCatalog

from .end_to_end import EndToEnd

PLANES = (
    "BAD", "SAT", "INTRP", "CR", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "SUSPECT", "NO_DATA", "VIGNETTED",
    "STREAK", "NOT_DEBLENDED", "SPIKE",
)  # fmt: skip

_SAME_PIXEL = 0.75


def changed_pixels(run: EndToEnd) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels we repaired, and which the reference did, bool (height, width)."""
    ours = mask_of(run.exposure.mask, ["CR"])
    theirs = np.zeros(ours.shape, dtype=bool)
    y, x, _ = run.pack.changed_pixels
    theirs[y, x] = True
    return ours, theirs


@dataclasses.dataclass(frozen=True)
class PixelComparison:
    """Published pixels.

    Parameters
    ----------
    ours_and_theirs, ours_only, theirs_only
        Numbers of repaired pixels.
    elsewhere, equal
        Number of all other pixels, and how many of them are equal to the last bit.
    image_difference, variance_difference
        Largest relative difference: of the image outside repaired pixels, of the variance everywhere.
    """

    ours_and_theirs: int
    ours_only: int
    theirs_only: int
    elsewhere: int
    equal: int
    image_difference: float
    variance_difference: float


def compare_pixels(run: EndToEnd) -> PixelComparison:
    """Compare the published image with the reference's."""
    ours, theirs = changed_pixels(run)
    reference = run.pack.pvi()
    rest = ~(ours | theirs)
    image = run.exposure.image.array[rest], reference.image.array[rest]
    variance = run.exposure.variance.array, reference.variance.array
    return PixelComparison(
        int((ours & theirs).sum()),
        int((ours & ~theirs).sum()),
        int((theirs & ~ours).sum()),
        int(rest.sum()),
        int((image[0] == image[1]).sum()),
        _largest(*image),
        _largest(*variance),
    )


def _largest(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest relative difference; infinite if only one of the two is not a number."""
    differs = (ours != theirs) & ~(np.isnan(ours) & np.isnan(theirs))
    if not differs.any():
        return 0.0
    a, b = (values[differs].astype(np.float64) for values in (ours, theirs))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.nan_to_num(np.abs(a - b) / np.abs(b), nan=np.inf)))


def compare_planes(run: EndToEnd) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return ours and the reference's pixels of each of `PLANES`, bool (height, width)."""
    reference = run.pack.pvi().mask
    return {plane: (mask_of(run.exposure.mask, [plane]), mask_of(reference, [plane])) for plane in PLANES}


def compare_rows(run: EndToEnd) -> dict[str, tuple[int, int, int]]:
    """Return by kind of source how many we and the reference have, and how many are the same.

    Sources are the same if their peaks are: the first one of the footprint of single sources, blends and sky
    sources, the one in the blend of children.
    """
    kinds = [_kinds(catalog) for catalog in (run.catalog, run.pack.sources)]
    peaks = [_peaks(catalog) for catalog in (run.catalog, run.pack.sources)]
    result = {}
    for kind in kinds[0]:
        ours, theirs = (position[rows[kind]] for position, rows in zip(peaks, kinds, strict=True))
        same = 0
        if len(ours) and len(theirs):
            forth, row = KDTree(ours).query(theirs)
            _, back = KDTree(theirs).query(ours)
            same = int(((forth < _SAME_PIXEL) & (back[row] == np.arange(len(theirs)))).sum())
        result[kind] = (len(ours), len(theirs), same)
    return result


def _kinds(catalog: SourceCatalog) -> dict[str, np.ndarray]:
    child, blend, sky = catalog["parent"] != 0, catalog["deblend_nChild"] > 0, catalog["sky_source"]
    return {"single sources": ~child & ~blend & ~sky, "blends": blend, "children": child, "sky sources": sky}


def _peaks(catalog: SourceCatalog) -> np.ndarray:
    """Return the brightest peak of each source, that of the detection for children (n, 2)."""
    assert catalog.footprints is not None
    first = catalog.footprints.peak_offsets[:-1]
    peaks = np.column_stack([catalog.footprints.peak_x[first], catalog.footprints.peak_y[first]])
    child = catalog["parent"] != 0
    peaks[child] = np.column_stack([catalog[f"deblend_peak_center_{axis}"][child] for axis in "xy"])
    return peaks
