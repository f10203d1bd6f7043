"""All footprints of a catalog in one structure of arrays (compressed rows)."""

from __future__ import annotations

__all__ = ("Footprints", "Peaks")

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from . import _footprint_kernels as kernels

_PREFIX = "footprint_"
_LISTS = {
    "span_y": "row of each span, in pixels of the detector",
    "span_x0": "first column of each span",
    "span_x1": "last column of each span (inclusive)",
    "peak_x": "column of each peak",
    "peak_y": "row of each peak",
    "peak_value": "value of the smoothed image at each peak",
    "peak_significance": "that value over its standard deviation",
    "peak_id": "id of each peak",
    "heavy": "pixels of a deblended source, span after span; empty if they are those of the image",
}
"""Columns of the Arrow table, and what their lists hold."""


class Peaks(NamedTuple):
    """Peaks of one footprint: integer pixel positions and what detection measured there."""

    x: np.ndarray
    y: np.ndarray
    value: np.ndarray
    significance: np.ndarray
    id: np.ndarray


def _offsets(counts: np.ndarray) -> np.ndarray:
    """Return offsets (n+1) of rows with these numbers of elements."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _take_rows(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets of some rows of a ragged array and the indices of their elements."""
    counts = offsets[rows + 1] - offsets[rows]
    new = _offsets(counts)
    index = np.repeat(offsets[rows] - new[:-1], counts) + np.arange(new[-1])
    return new, index


@dataclasses.dataclass(frozen=True, eq=False)
class Footprints:
    """n footprints: pixel spans, peaks, and optional heavy pixels.

    Coordinates are parent pixels (image origin included).  Spans of a footprint are sorted by (y, x0) and do
    not overlap or touch within a row.  Instances are immutable.

    Parameters
    ----------
    span_offsets
        Row offsets into the spans, int64 (n+1).
    span_y, span_x0, span_x1
        Spans, int32; ``x1`` is the last pixel (inclusive).
    peak_offsets
        Row offsets into the peaks, int64 (n+1).
    peak_x, peak_y
        Integer pixel of each peak, int32.
    peak_value
        Value of the searched (smoothed) image at the peak, float32.
    peak_significance
        Smoothed value over its standard deviation, float32.
    peak_id
        Identifier of the peak, int64.
    heavy_offsets
        Row offsets into ``heavy``, int64 (n+1); a row without heavy pixels has none.
    heavy
        Pixel values over the spans of heavy footprints, in span order, float32.
    """

    span_offsets: np.ndarray
    span_y: np.ndarray
    span_x0: np.ndarray
    span_x1: np.ndarray
    peak_offsets: np.ndarray
    peak_x: np.ndarray
    peak_y: np.ndarray
    peak_value: np.ndarray
    peak_significance: np.ndarray
    peak_id: np.ndarray
    heavy_offsets: np.ndarray
    heavy: np.ndarray

    # Construction -----------------------------------------------------------------------------------------

    @staticmethod
    def from_spans(
        span_offsets: np.ndarray,
        span_y: np.ndarray,
        span_x0: np.ndarray,
        span_x1: np.ndarray,
        *,
        peaks: tuple[np.ndarray, Peaks] | None = None,
        heavy: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Footprints:
        """Make footprints from ragged spans, optional ``(offsets, peaks)`` and ``(offsets, pixels)``.

        Raises
        ------
        ValueError
            Raised if heavy pixels do not fill the spans of the rows that have them.
        """
        n = len(span_offsets) - 1
        if peaks is None:
            none = np.zeros(0)
            peaks = np.zeros(n + 1, dtype=np.int64), Peaks(none, none, none, none, none)
        if heavy is None:
            heavy = np.zeros(n + 1, dtype=np.int64), np.zeros(0)
        peak_offsets, p = peaks
        heavy_offsets, pixels = heavy
        result = Footprints(
            span_offsets=np.asarray(span_offsets, dtype=np.int64),
            span_y=np.asarray(span_y, dtype=np.int32),
            span_x0=np.asarray(span_x0, dtype=np.int32),
            span_x1=np.asarray(span_x1, dtype=np.int32),
            peak_offsets=np.asarray(peak_offsets, dtype=np.int64),
            peak_x=np.asarray(p.x, dtype=np.int32),
            peak_y=np.asarray(p.y, dtype=np.int32),
            peak_value=np.asarray(p.value, dtype=np.float32),
            peak_significance=np.asarray(p.significance, dtype=np.float32),
            peak_id=np.asarray(p.id, dtype=np.int64),
            heavy_offsets=np.asarray(heavy_offsets, dtype=np.int64),
            heavy=np.asarray(pixels, dtype=np.float32),
        )
        counts = np.diff(result.heavy_offsets)
        wrong = (counts != 0) & (counts != result.areas())
        if wrong.any():
            row = int(np.nonzero(wrong)[0][0])
            raise ValueError(
                f"Footprint {row} has {result.areas()[row]} pixels but {counts[row]} heavy values."
            )
        return result

    @staticmethod
    def empty(n: int = 0) -> Footprints:
        """Return n footprints without pixels or peaks."""
        none = np.zeros(0, dtype=np.int32)
        return Footprints.from_spans(np.zeros(n + 1, dtype=np.int64), none, none, none)

    @staticmethod
    def from_mask(mask: np.ndarray, *, x0: int = 0, y0: int = 0) -> Footprints:
        """Return one footprint holding the True pixels of a boolean image whose first pixel is (x0, y0)."""
        y, start, stop = kernels.mask_to_spans(np.ascontiguousarray(mask, dtype=np.bool_))
        return Footprints.from_spans(np.array([0, len(y)]), y + y0, start + x0, stop + x0)

    @staticmethod
    def from_circles(x: np.ndarray, y: np.ndarray, radius: int) -> Footprints:
        """Return circle stencils (spec reprocess 9.8) about integer pixels, without peaks.

        Row ``dy`` of a stencil spans ``|dx| <= int(sqrt(radius**2 - dy**2))``.
        """
        x = np.asarray(x, dtype=np.int32)
        y = np.asarray(y, dtype=np.int32)
        dy = np.arange(-radius, radius + 1, dtype=np.int32)
        half = np.sqrt(radius**2 - dy.astype(np.float64) ** 2).astype(np.int32)
        offsets = np.arange(len(x) + 1, dtype=np.int64) * len(dy)
        return Footprints.from_spans(
            offsets,
            (y[:, None] + dy).ravel(),
            (x[:, None] - half).ravel(),
            (x[:, None] + half).ravel(),
        )

    def with_peaks(self, offsets: np.ndarray, peaks: Peaks) -> Footprints:
        """Return the same pixels with other peaks."""
        return Footprints.from_spans(
            self.span_offsets,
            self.span_y,
            self.span_x0,
            self.span_x1,
            peaks=(offsets, peaks),
            heavy=(self.heavy_offsets, self.heavy),
        )

    def with_heavy(self, image: np.ndarray, *, x0: int = 0, y0: int = 0) -> Footprints:
        """Return heavy footprints that hold the pixels of an image whose first pixel is (x0, y0).

        Raises
        ------
        ValueError
            Raised if a span leaves the image.
        """
        self._check_inside(image.shape, x0, y0)
        heavy = kernels.gather(image, x0, y0, self.span_y, self.span_x0, self.span_x1)
        return Footprints.from_spans(
            self.span_offsets,
            self.span_y,
            self.span_x0,
            self.span_x1,
            peaks=(self.peak_offsets, self.all_peaks),
            heavy=(_offsets(self.areas()), heavy),
        )

    # Rows -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.span_offsets) - 1

    def __repr__(self) -> str:
        return f"Footprints({len(self)} rows, {len(self.span_y)} spans, {len(self.peak_x)} peaks)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Footprints):
            return NotImplemented
        return all(
            np.array_equal(a := getattr(self, f.name), getattr(other, f.name), equal_nan=a.dtype.kind == "f")
            for f in dataclasses.fields(self)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def all_peaks(self) -> Peaks:
        """Peaks of all rows, one after the other."""
        return Peaks(self.peak_x, self.peak_y, self.peak_value, self.peak_significance, self.peak_id)

    def peaks(self, row: int) -> Peaks:
        """Peaks of one row."""
        part = slice(self.peak_offsets[row], self.peak_offsets[row + 1])
        return Peaks(*(values[part] for values in self.all_peaks))

    def spans(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Spans ``(y, x0, x1)`` of one row."""
        part = slice(self.span_offsets[row], self.span_offsets[row + 1])
        return self.span_y[part], self.span_x0[part], self.span_x1[part]

    def heavy_pixels(self, row: int) -> np.ndarray:
        """Heavy pixel values of one row (empty if it has none)."""
        return self.heavy[self.heavy_offsets[row] : self.heavy_offsets[row + 1]]

    def take(self, rows: np.ndarray | slice | Sequence[int]) -> Footprints:
        """Return some rows, selected by a mask, an index array or a slice."""
        index = np.arange(len(self))[rows]
        span_offsets, spans = _take_rows(self.span_offsets, index)
        peak_offsets, peaks = _take_rows(self.peak_offsets, index)
        heavy_offsets, heavy = _take_rows(self.heavy_offsets, index)
        return Footprints.from_spans(
            span_offsets,
            self.span_y[spans],
            self.span_x0[spans],
            self.span_x1[spans],
            peaks=(peak_offsets, Peaks(*(values[peaks] for values in self.all_peaks))),
            heavy=(heavy_offsets, self.heavy[heavy]),
        )

    @staticmethod
    def concatenate(parts: Sequence[Footprints]) -> Footprints:
        """Stack the rows of several `Footprints`."""
        if not parts:
            return Footprints.empty()

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(p, name) for p in parts])

        def joined_offsets(name: str) -> np.ndarray:
            return _offsets(np.concatenate([np.diff(getattr(p, name)) for p in parts]))

        return Footprints.from_spans(
            joined_offsets("span_offsets"),
            joined("span_y"),
            joined("span_x0"),
            joined("span_x1"),
            peaks=(
                joined_offsets("peak_offsets"),
                Peaks(*(joined(f"peak_{f}") for f in Peaks._fields)),
            ),
            heavy=(joined_offsets("heavy_offsets"), joined("heavy")),
        )

    # Geometry ---------------------------------------------------------------------------------------------

    def areas(self) -> np.ndarray:
        """Number of pixels of each row, int64 (n)."""
        widths = np.concatenate([[0], np.cumsum(self.span_x1.astype(np.int64) - self.span_x0 + 1)])
        return np.asarray(widths[self.span_offsets[1:]] - widths[self.span_offsets[:-1]])

    def bounding_boxes(self) -> np.ndarray:
        """Inclusive boxes ``(x0, y0, x1, y1)``, int32 (n, 4); an empty row gives (0, 0, -1, -1)."""
        return kernels.bounding_boxes(self.span_offsets, self.span_y, self.span_x0, self.span_x1)

    def centroids(self) -> np.ndarray:
        """Mean pixel position ``(x, y)`` of each row, float64 (n, 2); NaN for an empty row."""
        return kernels.centroids(self.span_offsets, self.span_y, self.span_x0, self.span_x1)

    def contains(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Whether the integer pixel (x[i], y[i]) belongs to row i, bool (n)."""
        return kernels.contains(
            self.span_offsets,
            self.span_y,
            self.span_x0,
            self.span_x1,
            np.asarray(x, dtype=np.int64),
            np.asarray(y, dtype=np.int64),
        )

    def clipped(self, *, x0: int, y0: int, x1: int, y1: int) -> Footprints:
        """Return the pixels inside an inclusive box; peaks outside it are dropped, heavy pixels follow."""
        offsets, y, left, right, heavy_offsets, heavy = kernels.clip(
            self.span_offsets, self.span_y, self.span_x0, self.span_x1, self.heavy_offsets, self.heavy,
            x0, y0, x1, y1,
        )  # fmt: skip
        keep = (self.peak_x >= x0) & (self.peak_x <= x1) & (self.peak_y >= y0) & (self.peak_y <= y1)
        kept = np.concatenate([[0], np.cumsum(keep)])
        return Footprints.from_spans(
            offsets,
            y,
            left,
            right,
            peaks=(kept[self.peak_offsets], Peaks(*(values[keep] for values in self.all_peaks))),
            heavy=(heavy_offsets, heavy),
        )

    def shifted(self, *, dx: int, dy: int) -> Footprints:
        """Return the same footprints moved by whole pixels."""
        return dataclasses.replace(
            self,
            span_y=self.span_y + np.int32(dy),
            span_x0=self.span_x0 + np.int32(dx),
            span_x1=self.span_x1 + np.int32(dx),
            peak_x=self.peak_x + np.int32(dx),
            peak_y=self.peak_y + np.int32(dy),
        )

    def dilated(self, radius: int, *, manhattan: bool = False) -> Footprints:
        """Return each row dilated by a circle or Manhattan stencil (spec reprocess 9.8), with its peaks."""
        offsets, y, x0, x1 = kernels.dilate(
            self.span_offsets, self.span_y, self.span_x0, self.span_x1, radius, manhattan
        )
        return Footprints.from_spans(offsets, y, x0, x1, peaks=(self.peak_offsets, self.all_peaks))

    def union(self, other: Footprints) -> Footprints:
        """Row-by-row union of pixels; peaks of ``self`` followed by those of ``other``, no heavy pixels.

        Raises
        ------
        ValueError
            Raised if the numbers of rows differ.
        """
        if len(self) != len(other):
            raise ValueError(f"Cannot unite {len(self)} with {len(other)} footprints.")
        n = len(self)
        order = np.arange(2 * n).reshape(2, n).T.ravel()
        both = Footprints.concatenate([self, other]).take(order)
        offsets, y, x0, x1 = kernels.normalise(
            both.span_offsets[::2].copy(), both.span_y, both.span_x0, both.span_x1
        )
        return Footprints.from_spans(offsets, y, x0, x1, peaks=(both.peak_offsets[::2], both.all_peaks))

    # Images -----------------------------------------------------------------------------------------------

    def _check_inside(self, shape: tuple[int, ...], x0: int, y0: int) -> None:
        if not len(self.span_y):
            return
        height, width = shape
        low = (self.span_x0.min() >= x0) and (self.span_y.min() >= y0)
        if not low or self.span_x1.max() >= x0 + width or self.span_y.max() >= y0 + height:
            raise ValueError(
                f"Footprints reach outside the image of {width} x {height} pixels with origin ({x0}, {y0})."
            )

    def to_mask(self, shape: tuple[int, int], *, x0: int = 0, y0: int = 0) -> np.ndarray:
        """Return a boolean image (height, width) with the pixels of all rows; parts outside are ignored."""
        return self.to_labels(shape, x0=x0, y0=y0) >= 0

    def to_labels(self, shape: tuple[int, int], *, x0: int = 0, y0: int = 0) -> np.ndarray:
        """Return an int32 image with the row number of each pixel, -1 outside; later rows win."""
        labels = np.full(shape, -1, dtype=np.int32)
        kernels.paint(labels, x0, y0, self.span_offsets, self.span_y, self.span_x0, self.span_x1)
        return labels

    # Storage ----------------------------------------------------------------------------------------------

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table with one row per footprint and list columns."""
        columns, fields = [], []
        for name, description in _LISTS.items():
            offsets = getattr(self, f"{name.split('_')[0]}_offsets")
            # Many readers know only lists with offsets of 32 bits.
            small = offsets[-1] < 1 << 31
            kind, dtype = (pa.ListArray, np.int32) if small else (pa.LargeListArray, np.int64)
            column = kind.from_arrays(pa.array(offsets.astype(dtype)), pa.array(getattr(self, name)))
            columns.append(column)
            fields.append(pa.field(_PREFIX + name, column.type, metadata={"description": description}))
        return pa.Table.from_arrays(columns, schema=pa.schema(fields))

    @staticmethod
    def from_arrow(table: pa.Table) -> Footprints:
        """Make footprints from the list columns that `to_arrow` wrote."""

        def ragged(name: str) -> tuple[np.ndarray, np.ndarray]:
            column = table.column(_PREFIX + name).combine_chunks()
            if isinstance(column, pa.ChunkedArray):  # an empty table has no chunk to combine
                column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
            counts = column.value_lengths().to_numpy(zero_copy_only=False)
            return _offsets(counts.astype(np.int64)), column.flatten().to_numpy(zero_copy_only=False)

        span_offsets, span_y = ragged("span_y")
        peaks = {f: ragged(f"peak_{f}") for f in Peaks._fields}
        return Footprints.from_spans(
            span_offsets,
            span_y,
            ragged("span_x0")[1],
            ragged("span_x1")[1],
            peaks=(peaks["x"][0], Peaks(*(values for _, values in peaks.values()))),
            heavy=ragged("heavy"),
        )
