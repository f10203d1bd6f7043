"""What the steps of the deblender work on: pixels with their owners, and blends with their peaks."""

from __future__ import annotations

__all__ = ("Blends", "Pixels")

import dataclasses
from typing import NamedTuple, Self

import numpy as np
from lsst.images import VisitImage

from ..catalog.footprints import Footprints


class Pixels(NamedTuple):
    """Pixels of an image and the footprint that each belongs to.

    Attributes
    ----------
    image, variance
        Pixels, float32 (h, w).
    owner
        Catalog row of the footprint that holds a pixel, int32 (h, w); -1 for none.  ``-2 - row`` marks pixels
        outside all footprints that a template of this row was extended over.
    x0, y0
        Parent pixel of the first array element.
    """

    image: np.ndarray
    variance: np.ndarray
    owner: np.ndarray
    x0: int
    y0: int

    @staticmethod
    def from_exposure(exposure: VisitImage, footprints: Footprints) -> Pixels:
        """Return the pixels of an image; where footprints overlap, the later row owns the pixel."""
        x0, y0 = exposure.bbox.x.start, exposure.bbox.y.start
        return Pixels(
            image=np.asarray(exposure.image.array, dtype=np.float32),
            variance=np.asarray(exposure.variance.array, dtype=np.float32),
            owner=footprints.to_labels(exposure.bbox.shape, x0=x0, y0=y0),
            x0=x0,
            y0=y0,
        )


@dataclasses.dataclass(frozen=True)
class Blends:
    """n blends and their p peaks; all positions are array indices of the image.

    Parameters
    ----------
    rows
        Catalog row of each blend, int64 (n).
    boxes
        Inclusive boxes (x0, y0, x1, y1) of the footprints within the image, int64 (n, 4).
    centres
        Mean positions (x, y) of the footprints, float64 (n, 2).
    offsets
        First peak of each blend, int64 (n + 1).
    x, y
        Pixel of each peak, int64 (p).
    peaks
        Index of each peak in the footprints of the catalog, int64 (p).
    """

    rows: np.ndarray
    boxes: np.ndarray
    centres: np.ndarray
    offsets: np.ndarray
    x: np.ndarray
    y: np.ndarray
    peaks: np.ndarray

    @staticmethod
    def from_footprints(
        footprints: Footprints, rows: np.ndarray, pixels: Pixels, *, max_peaks: int = 0
    ) -> Blends:
        """Return the blends in some rows of a catalog.

        Parameters
        ----------
        footprints
            Footprints of the catalog.
        rows
            Rows of the blends.
        pixels
            Image the indices are to be of.
        max_peaks
            Keep this many of the first, brightest peaks of each blend; 0 for all.
        """
        height, width = pixels.owner.shape
        taken = footprints.take(rows).shifted(dx=-pixels.x0, dy=-pixels.y0)
        boxes = taken.clipped(x0=0, y0=0, x1=width - 1, y1=height - 1).bounding_boxes()
        first = footprints.peak_offsets[rows]
        counts = footprints.peak_offsets[rows + 1] - first
        if max_peaks > 0:
            counts = np.minimum(counts, max_peaks)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        peaks = np.repeat(first - offsets[:-1], counts) + np.arange(offsets[-1])
        return Blends(
            rows=np.asarray(rows, dtype=np.int64),
            boxes=boxes.astype(np.int64),
            centres=taken.centroids(),
            offsets=offsets,
            x=footprints.peak_x[peaks].astype(np.int64) - pixels.x0,
            y=footprints.peak_y[peaks].astype(np.int64) - pixels.y0,
            peaks=peaks,
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def blend(self) -> np.ndarray:
        """Blend of each peak, int64 (p)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def take(self, blends: np.ndarray | slice) -> Self:
        """Return some blends, selected by a mask, an index array or a slice."""
        index = np.arange(len(self))[blends]
        chosen = np.zeros(len(self), dtype=bool)
        chosen[index] = True
        part = self.without_peaks(~np.repeat(chosen, np.diff(self.offsets)))
        return dataclasses.replace(
            part,
            rows=self.rows[index],
            boxes=self.boxes[index],
            centres=self.centres[index],
            offsets=np.concatenate([[0], np.cumsum(np.diff(self.offsets)[index])]).astype(np.int64),
        )

    def without_peaks(self, dropped: np.ndarray) -> Self:
        """Return the same blends without some of their peaks (mask)."""
        kept = ~dropped
        return dataclasses.replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)[self.offsets],
            x=self.x[kept],
            y=self.y[kept],
            peaks=self.peaks[kept],
        )
