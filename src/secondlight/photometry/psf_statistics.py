"""How well a PSF model describes its stars, and how much it varies over an image (spec reprocess 20.2)."""

from __future__ import annotations

__all__ = (
    "Ellipticities",
    "distance_to_nearest_star",
    "ellipticities",
    "good_samples",
    "grid_statistics",
    "higher_moment_statistics",
    "median_of_finite",
    "star_statistics",
)

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from lsst.images import Box, Mask
from lsst.images.psfs import PointSpreadFunction
from scipy.spatial import cKDTree

from ..catalog.mask_planes import plane_name
from ..psf.evaluation import kernel_stamps, stamp_shapes, trace_radius
from .apertures import psf_aperture_flux
from .measure_ap_corr import robust_sigma


def median_of_finite(values: np.ndarray) -> float:
    """Return the median of the finite values, NaN if there are none."""
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


class Ellipticities(NamedTuple):
    """Shapes of n objects: ellipticities along the axes of the pixels and sizes in pixels, each (n,)."""

    e1: np.ndarray
    e2: np.ndarray
    size: np.ndarray


def ellipticities(moments: np.ndarray) -> Ellipticities:
    """Return e1 = (xx - yy) / T, e2 = 2 xy / T and size = sqrt(T / 2) with T = xx + yy.

    Parameters
    ----------
    moments
        Moments ``[xx, yy, xy]`` in pixel^2, shape (n, 3).
    """
    xx, yy, xy = moments.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return Ellipticities((xx - yy) / (xx + yy), 2 * xy / (xx + yy), np.sqrt((xx + yy) / 2))


def star_statistics(star: np.ndarray, psf: np.ndarray) -> dict[str, float]:
    """Compare the second moments of stars with those of the PSF at their places.

    Parameters
    ----------
    star, psf
        Moments ``[xx, yy, xy]`` in pixel^2, shape (n, 3); rows that are not finite or of no size are left
        out.

    Returns
    -------
    statistics
        Medians and robust scatters by the names of `lsst.images.ObservationSummaryStats`.
    """
    good = np.isfinite(star).all(axis=1) & np.isfinite(psf).all(axis=1)
    good &= (star[:, 0] + star[:, 1] > 0) & (psf[:, 0] + psf[:, 1] > 0)
    star, psf = star[good], psf[good]
    e1, e2, size = ellipticities(star)
    psf_e1, psf_e2, psf_size = ellipticities(psf)
    size_scatter = robust_sigma(size - psf_size)
    return {
        "psfStarDeltaE1Median": median_of_finite(e1 - psf_e1),
        "psfStarDeltaE2Median": median_of_finite(e2 - psf_e2),
        "psfStarDeltaE1Scatter": robust_sigma(e1 - psf_e1),
        "psfStarDeltaE2Scatter": robust_sigma(e2 - psf_e2),
        "psfStarDeltaSizeMedian": median_of_finite(size - psf_size),
        "psfStarDeltaSizeScatter": size_scatter,
        "psfStarScaledDeltaSizeScatter": size_scatter / median_of_finite(size),
        "starEMedian": median_of_finite(np.hypot(e1, e2)),
        "starUnNormalizedEMedian": median_of_finite(np.hypot(star[:, 0] - star[:, 1], 2 * star[:, 2])),
    }


def higher_moment_statistics(moments: dict[str, np.ndarray]) -> dict[str, float]:
    """Return medians of combinations of standardized higher moments of stars.

    Parameters
    ----------
    moments
        Arrays by the orders in x and y: keys ``30 21 12 03 40 31 22 13 04``.
    """
    m = moments
    return {
        "starComa1Median": median_of_finite(m["30"] + m["12"]),
        "starComa2Median": median_of_finite(m["21"] + m["03"]),
        "starTrefoil1Median": median_of_finite(m["30"] - 3 * m["12"]),
        "starTrefoil2Median": median_of_finite(3 * m["21"] - m["03"]),
        "starKurtosisMedian": median_of_finite(m["40"] + 2 * m["22"] + m["04"]),
        "starE41Median": median_of_finite(m["40"] - m["04"]),
        "starE42Median": median_of_finite(2 * (m["31"] + m["13"])),
    }


def good_samples(
    bbox: Box, mask: Mask | None, *, step: int, bad_planes: Iterable[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (x, y) of every ``step``-th pixel in both directions that no bad plane covers.

    Positions are parent pixels.  Without a mask every pixel of the box is good; with one its own box counts.
    Planes a mask lacks are set nowhere.
    """
    if mask is None:
        good = np.ones((len(range(0, bbox.y.size, step)), len(range(0, bbox.x.size, step))), dtype=bool)
    else:
        present = [name for name in map(plane_name, bad_planes) if name in mask.schema.names]
        # Sample first: looking at every pixel of a large mask takes longer than everything else here.
        good = ~np.any(mask.array[::step, ::step] & mask.schema.bitmask(*present), axis=-1)
        bbox = mask.bbox
    rows, columns = np.nonzero(good)
    return columns * float(step) + bbox.x.start, rows * float(step) + bbox.y.start


def distance_to_nearest_star(
    *, x: np.ndarray, y: np.ndarray, star_x: np.ndarray, star_y: np.ndarray
) -> float:
    """Return the largest distance, pixels, from a position to its nearest star; NaN without either."""
    if not len(x) or not len(star_x):
        return math.nan
    distance, _ = cKDTree(np.column_stack([star_x, star_y])).query(np.column_stack([x, y]))
    return float(distance.max())


def grid_statistics(
    psf: PointSpreadFunction, *, x: np.ndarray, y: np.ndarray, radius: float
) -> dict[str, float]:
    """Return the ranges over a grid of the PSF's trace radius and of its flux within an aperture.

    Parameters
    ----------
    psf
        Model to look at.
    x, y
        Positions of the grid, parent pixels, shape (n,).
    radius
        Radius of the aperture, pixels.

    Returns
    -------
    statistics
        ``psfTraceRadiusDelta`` and ``psfApFluxDelta``; NaN without positions, where a value is not finite,
        and for the flux where one is negative or the radius is NaN.
    """
    if not len(x):
        return {"psfTraceRadiusDelta": math.nan, "psfApFluxDelta": math.nan}
    stamps = kernel_stamps(psf, x=x, y=y)
    radii = trace_radius(stamp_shapes(stamps))
    fluxes = np.full(len(x), math.nan) if math.isnan(radius) else psf_aperture_flux(stamps, radius)
    negative = bool((fluxes < 0).any())
    return {
        "psfTraceRadiusDelta": float(np.ptp(radii)),
        "psfApFluxDelta": math.nan if negative else float(np.ptp(fluxes)),
    }
