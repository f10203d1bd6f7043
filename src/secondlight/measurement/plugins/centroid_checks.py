"""What every centroid plugin checks at its end: the centre must not run away from its peak."""

from __future__ import annotations

__all__ = ("check_centroids",)

import numpy as np

from ..sources import MeasurementSources


def check_centroids(
    sources: MeasurementSources, name: str, *, do_footprint_check: bool, max_distance: float
) -> None:
    """Put centres that left their footprint, or went too far from the first peak, back on the peak.

    Parameters
    ----------
    sources
        Sources with the columns ``<name>_x``, ``_y``, ``_flag`` and ``_flag_resetToPeak``.
    name
        Plugin that measured them.
    do_footprint_check
        Whether the nearest pixel must belong to the footprint.
    max_distance
        Largest distance from the first peak, pixels; any if not positive.
    """
    catalog = sources.catalog
    x, y = catalog[f"{name}_x"], catalog[f"{name}_y"]
    peak_x, peak_y = sources.first_peaks
    known = np.isfinite(x) & np.isfinite(y) & np.isfinite(peak_x)
    lost = np.zeros(len(sources), dtype=bool)
    if do_footprint_check:
        xi = np.floor(np.where(known, x, 0.0) + 0.5)
        yi = np.floor(np.where(known, y, 0.0) + 0.5)
        lost |= ~sources.footprints.contains(xi, yi)
    if max_distance > 0:
        lost |= np.hypot(x - peak_x, y - peak_y) > max_distance
    lost &= known
    x[lost], y[lost] = peak_x[lost], peak_y[lost]
    catalog[f"{name}_flag_resetToPeak"] |= lost
    catalog[f"{name}_flag"] |= lost
