"""Templates: the light that each peak of a blend may claim (spec reprocess 15.4)."""

from __future__ import annotations

__all__ = ("Templates", "degenerate_peaks", "make_templates", "weighted")

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import lsqr

from . import _template_windows as windows
from .blend import Blends, Pixels
from .config import SourceDeblendConfig
from .psf_fit import PeakPsfs, PointSources

_EDGES = {"clip": windows.CLIP, "ramp": windows.RAMP, "noclip": windows.NO_CLIP}


class Templates(NamedTuple):
    """Templates of p peaks, each a box of pixels; values below 0 are outside the template's footprint.

    Attributes
    ----------
    boxes
        Inclusive boxes (x0, y0, x1, y1), array indices, int64 (p, 4); x1 < x0 for a peak without template.
    first
        Where the pixels of each template start, int64 (p + 1).
    values
        Pixels, row by row, float32.
    ramped, patched, cut
        Which templates were extended by the PSF, have copied pixels, or end at the largest window, bool (p).
    """

    boxes: np.ndarray
    first: np.ndarray
    values: np.ndarray
    ramped: np.ndarray
    patched: np.ndarray
    cut: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """Which peaks have a template, bool (p)."""
        return np.diff(self.first) > 0

    def image(self, peak: int) -> np.ndarray:
        """Return the pixels of one template (h, w)."""
        x0, _, x1, _ = self.boxes[peak]
        return self.values[self.first[peak] : self.first[peak + 1]].reshape(-1, max(x1 - x0 + 1, 1))

    def matrix(self, peaks: range, shape: tuple[int, int]) -> sparse.csr_matrix:
        """Return the positive pixels of some templates as rows of a sparse matrix over all image pixels."""
        columns, values = [], []
        for k in peaks:
            pixels = self.image(k)
            y, x = np.nonzero(pixels > 0)
            columns.append((y + self.boxes[k, 1]) * shape[1] + x + self.boxes[k, 0])
            values.append(pixels[y, x].astype(np.float64))
        starts = np.concatenate([[0], np.cumsum([len(part) for part in columns])])
        parts = (
            np.concatenate([*values, np.zeros(0)]),
            np.concatenate([*columns, np.zeros(0, dtype=np.int64)]),
        )
        return sparse.csr_matrix((*parts, starts), shape=(len(peaks), shape[0] * shape[1]))


def make_templates(
    pixels: Pixels,
    blends: Blends,
    psfs: PeakPsfs,
    points: PointSources,
    *,
    sigma: float,
    config: SourceDeblendConfig,
) -> Templates:
    """Make the templates of all peaks: the fitted PSF of point sources, a symmetric image of all others.

    Parameters
    ----------
    pixels
        Image; ``pixels.owner`` marks what templates are extended over.
    blends, psfs, points
        Blends, the PSF at their peaks, and which peaks are point sources.
    sigma
        Noise per pixel, counts.
    config
        Treatment of edges, smoothing, and whether every peak gets a template.
    """
    boxes, first, values, flags = windows.make_all(
        pixels.image, pixels.owner, blends.rows, blends.boxes, blends.offsets, blends.x, blends.y,
        points.is_point, points.flux, points.images, points.x0, points.y0, psfs.images, psfs.fwhm,
        sigma, _EDGES[config.edgeHandling], config.medianSmoothTemplate, config.propagateAllPeaks,
    )  # fmt: skip
    return Templates(boxes, first, values, *flags.T)


def weighted(templates: Templates, pixels: Pixels, blends: Blends) -> Templates:
    """Scale the templates of each blend by their coefficients in a least-squares fit of its pixels."""
    values = templates.values.copy()
    for b in range(len(blends)):
        peaks = range(blends.offsets[b], blends.offsets[b + 1])
        matrix = templates.matrix(peaks, pixels.owner.shape)
        inside = np.flatnonzero((pixels.owner == blends.rows[b]) & np.isfinite(pixels.image))
        data = pixels.image.ravel()[inside].astype(np.float64)
        scale = lsqr(matrix[:, inside].T, data, atol=1e-12, btol=1e-12)[0]
        for weight, k in zip(scale, peaks, strict=True):
            part = values[templates.first[k] : templates.first[k + 1]]
            np.multiply(part, np.float32(max(weight, 0.0)), where=part > 0, out=part)
    return templates._replace(values=values)


def degenerate_peaks(
    templates: Templates, points: PointSources, pixels: Pixels, blends: Blends, *, limit: float
) -> np.ndarray:
    """Return which peaks to drop because another template of their blend is nearly the same, bool (p).

    Of two templates whose cosine exceeds ``limit`` the point source goes; if both or neither are, the one
    with the smaller maximum.
    """
    dropped = np.zeros(len(templates.boxes), dtype=bool)
    tops = np.array([templates.image(k).max(initial=0.0) for k in range(len(dropped))])
    for b in range(len(blends)):
        start = blends.offsets[b]
        matrix = templates.matrix(range(start, blends.offsets[b + 1]), pixels.owner.shape)
        norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        products = sparse.triu(matrix @ matrix.T, k=1).tocoo()
        close = products.data > limit * norm[products.row] * norm[products.col]
        for i, j in sorted(zip(start + products.row[close], start + products.col[close], strict=True)):
            if dropped[i] or dropped[j]:
                continue
            if points.is_point[i] != points.is_point[j]:
                dropped[i if points.is_point[i] else j] = True
            else:
                dropped[i if tops[i] < tops[j] else j] = True
    return dropped
