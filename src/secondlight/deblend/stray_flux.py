"""Giving the pixels of a blend that no template claims to its children (spec reprocess 15.4)."""

from __future__ import annotations

__all__ = ("assign_stray_flux",)

import numpy as np

from ..catalog.footprints import Footprints
from . import _stray_kernels as kernels
from .blend import Blends, Pixels
from .config import SourceDeblendConfig

_RULES = {
    "r-to-peak": kernels.TO_PEAK,
    "r-to-footprint": kernels.TO_FOOTPRINT,
    "nearest-footprint": kernels.NEAREST,
}


def assign_stray_flux(
    children: Footprints,
    claimed: Footprints,
    is_point: np.ndarray,
    pixels: Pixels,
    blends: Blends,
    config: SourceDeblendConfig,
) -> tuple[Footprints, np.ndarray]:
    """Return children with the stray flux of their blends, and which children got some, bool (p).

    Parameters
    ----------
    children
        Heavy footprints of all peaks, array indices; a peak without template has no pixels.
    claimed
        Pixels where a template of each peak is positive.
    is_point
        Which peaks are point sources, bool (p).
    pixels, blends
        Image and blends.
    config
        ``strayFluxRule``, ``strayFluxToPointSources`` and ``clipStrayFluxFraction``.
    """
    has_stray = np.zeros(len(children), dtype=bool)
    if config.strayFluxRule == "trim" or not config.assignStrayFlux:
        return children, has_stray
    rows = []
    for b in range(len(blends)):
        peaks = np.arange(blends.offsets[b], blends.offsets[b + 1])
        parts = children.take(peaks)
        takers = _takers(is_point[peaks], parts.areas() > 0, config.strayFluxToPointSources)
        x, y = _stray_pixels(pixels, blends, b, claimed.take(peaks))
        if not len(takers) or not len(x):
            rows.append(parts)
            continue
        chosen = parts.take(takers)
        child, stray, share = kernels.share_stray_pixels(
            x, y, pixels.image[y, x], blends.x[peaks[takers]], blends.y[peaks[takers]],
            chosen.span_offsets, chosen.span_y, chosen.span_x0, chosen.span_x1,
            _RULES[config.strayFluxRule], config.clipStrayFluxFraction,
        )  # fmt: skip
        has_stray[peaks[takers[child]]] = True
        rows.append(_with_pixels(parts, takers[child], x[stray], y[stray], share))
    return Footprints.concatenate(rows), has_stray


def _takers(is_point: np.ndarray, present: np.ndarray, to_point_sources: str) -> np.ndarray:
    """Return which children of a blend get stray flux, as indices."""
    extended = present & ~is_point
    if to_point_sources == "always" or (to_point_sources == "necessary" and not extended.any()):
        return np.flatnonzero(present)
    return np.flatnonzero(extended)


def _stray_pixels(
    pixels: Pixels, blends: Blends, b: int, claimed: Footprints
) -> tuple[np.ndarray, np.ndarray]:
    """Return array indices (x, y) of the positive pixels of a blend that no template claims."""
    x0, y0, x1, y1 = blends.boxes[b]
    part = slice(y0, y1 + 1), slice(x0, x1 + 1)
    image = pixels.image[part]
    stray = (pixels.owner[part] == blends.rows[b]) & np.isfinite(image) & (image > 0)
    stray &= ~claimed.to_mask(image.shape, x0=int(x0), y0=int(y0))
    y, x = np.nonzero(stray)
    return x + x0, y + y0


def _with_pixels(
    parts: Footprints, row: np.ndarray, x: np.ndarray, y: np.ndarray, values: np.ndarray
) -> Footprints:
    """Return heavy footprints with more pixels; a pixel that a footprint has already adds to its value."""
    ys, x0s, x1s = parts.span_y, parts.span_x0, parts.span_x1
    widths = x1s - x0s + 1
    starts = np.cumsum(widths) - widths
    own_x = np.repeat(x0s - starts, widths) + np.arange(widths.sum())
    own_row = np.repeat(np.arange(len(parts)), parts.areas())
    all_row = np.concatenate([own_row, row])
    all_y = np.concatenate([np.repeat(ys, widths), y])
    all_x = np.concatenate([own_x, x])
    all_values = np.concatenate([parts.heavy, values])
    places, inverse = np.unique(np.column_stack([all_row, all_y, all_x]), axis=0, return_inverse=True)
    heavy = np.bincount(inverse.ravel(), weights=all_values, minlength=len(places))
    new_run = np.ones(len(places), dtype=bool)
    new_run[1:] = (np.diff(places[:, :2], axis=0) != 0).any(axis=1) | (np.diff(places[:, 2]) != 1)
    first = np.flatnonzero(new_run)
    last = np.append(first[1:], len(places)) - 1
    n_spans = np.bincount(places[first, 0], minlength=len(parts))
    counts = np.bincount(places[:, 0], minlength=len(parts))
    return Footprints.from_spans(
        np.concatenate([[0], np.cumsum(n_spans)]),
        places[first, 1],
        places[first, 2],
        places[last, 2],
        heavy=(np.concatenate([[0], np.cumsum(counts)]), heavy),
    )
