"""Compiled loops over spans against sets of pixels, and the algebra of those sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlight.catalog import _footprint_kernels as kernels
from secondlight.catalog.footprints import Footprints

type Pixels = set[tuple[int, int]]
type Spans = list[tuple[int, int, int]]

spans = st.lists(st.tuples(st.integers(-9, 9), st.integers(-12, 12), st.integers(0, 7)), max_size=7)
rows = st.lists(spans.map(lambda row: [(y, x, x + extra) for y, x, extra in row]), max_size=5)
fast = settings(max_examples=80, deadline=None)
SHAPE, X0, Y0 = (40, 50), -25, -20
"""An image that holds every footprint of the tests, grown by 5 pixels too."""


def ragged(spans_of_rows: list[Spans]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets, y, x0 and x1 as the kernels take them; spans may overlap and be in any order."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in spans_of_rows])]).astype(np.int64)
    flat = np.array([span for row in spans_of_rows for span in row], dtype=np.int32).reshape(-1, 3)
    return offsets, *(np.ascontiguousarray(column) for column in flat.T)


def footprints(spans_of_rows: list[Spans]) -> Footprints:
    return Footprints.from_spans(*kernels.normalise(*ragged(spans_of_rows)))


def slow_pixels(row: Spans) -> Pixels:
    return {(y, x) for y, x0, x1 in row for x in range(x0, x1 + 1)}


def pixels(found: Footprints, row: int) -> Pixels:
    return slow_pixels(list(zip(*(v.tolist() for v in found.spans(row)), strict=True)))


def assert_in_order(found: Footprints) -> None:
    """Spans are sorted and neither overlap nor touch."""
    for row in range(len(found)):
        y, x0, x1 = found.spans(row)
        assert np.all(x0 <= x1)
        same = np.diff(y) == 0
        assert np.all((np.diff(y) > 0) | same)
        assert np.all(x0[1:][same] > x1[:-1][same] + 1)


# Kernels and their twins ----------------------------------------------------------------------------------


@fast
@given(rows)
def test_normalise(spans_of_rows: list[Spans]) -> None:
    found = footprints(spans_of_rows)
    assert_in_order(found)
    assert [pixels(found, k) for k in range(len(found))] == [slow_pixels(row) for row in spans_of_rows]


@fast
@given(rows, st.integers(0, 5), st.booleans())
def test_dilate(spans_of_rows: list[Spans], radius: int, manhattan: bool) -> None:
    found = footprints(spans_of_rows).dilated(radius, manhattan=manhattan)
    assert_in_order(found)
    reach = range(-radius, radius + 1)
    for k, row in enumerate(spans_of_rows):
        assert pixels(found, k) == {
            (y + dy, x + dx)
            for y, x in slow_pixels(row)
            for dy in reach
            for dx in reach
            if (abs(dx) + abs(dy) <= radius if manhattan else dx * dx + dy * dy <= radius * radius)
        }


@fast
@given(rows, st.integers(-15, 15), st.integers(-15, 15), st.integers(-2, 20), st.integers(-2, 20))
def test_clip(spans_of_rows: list[Spans], x0: int, y0: int, width: int, height: int) -> None:
    whole = footprints(spans_of_rows)
    image = np.arange(SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE)
    found = whole.with_heavy(image, x0=X0, y0=Y0).clipped(x0=x0, y0=y0, x1=x0 + width, y1=y0 + height)
    assert_in_order(found)
    for k, row in enumerate(spans_of_rows):
        kept = {(y, x) for y, x in slow_pixels(row) if x0 <= x <= x0 + width and y0 <= y <= y0 + height}
        assert pixels(found, k) == kept
        assert found.heavy_pixels(k).tolist() == [image[y - Y0, x - X0] for y, x in sorted(kept)]


@fast
@given(rows)
def test_gather(spans_of_rows: list[Spans]) -> None:
    found = footprints(spans_of_rows)
    image = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    heavy = found.with_heavy(image, x0=X0, y0=Y0)
    for k, row in enumerate(spans_of_rows):
        assert heavy.heavy_pixels(k).tolist() == [image[y - Y0, x - X0] for y, x in sorted(slow_pixels(row))]


@fast
@given(rows)
def test_boxes_centroids_and_areas(spans_of_rows: list[Spans]) -> None:
    found = footprints(spans_of_rows)
    for k, row in enumerate(spans_of_rows):
        inside = np.array(sorted(slow_pixels(row))).reshape(-1, 2)
        assert found.areas()[k] == len(inside)
        if not len(inside):
            assert found.bounding_boxes()[k].tolist() == [0, 0, -1, -1]
            assert np.isnan(found.centroids()[k]).all()
            continue
        low, high = inside.min(axis=0)[::-1], inside.max(axis=0)[::-1]
        assert found.bounding_boxes()[k].tolist() == [*low, *high]
        np.testing.assert_allclose(found.centroids()[k], inside.mean(axis=0)[::-1], rtol=1e-12, atol=1e-12)


@fast
@given(rows, st.integers(-12, 12), st.integers(-9, 9))
def test_contains(spans_of_rows: list[Spans], x: int, y: int) -> None:
    n = len(spans_of_rows)
    found = footprints(spans_of_rows).contains(np.full(n, x), np.full(n, y))
    assert found.tolist() == [(y, x) in slow_pixels(row) for row in spans_of_rows]


@fast
@given(rows, st.integers(-12, 2), st.integers(-9, 2))
def test_paint(spans_of_rows: list[Spans], x0: int, y0: int) -> None:
    """Later rows win, and what is outside the image is left out."""
    shape = (8, 11)
    labels = np.full(shape, -1)
    for k, row in enumerate(spans_of_rows):
        for y, x in slow_pixels(row):
            if y0 <= y < y0 + shape[0] and x0 <= x < x0 + shape[1]:
                labels[y - y0, x - x0] = k
    assert np.array_equal(footprints(spans_of_rows).to_labels(shape, x0=x0, y0=y0), labels)


@fast
@given(spans.map(lambda row: [(y, x, x + extra) for y, x, extra in row]))
def test_mask_to_spans(row: Spans) -> None:
    found = footprints([row])
    again = Footprints.from_mask(found.to_mask(SHAPE, x0=X0, y0=Y0), x0=X0, y0=Y0)
    assert again == found


# Set algebra ----------------------------------------------------------------------------------------------


@st.composite
def three(draw: st.DrawFn) -> tuple[Footprints, Footprints, Footprints]:
    """Three sets of footprints of two rows each."""
    row = spans.map(lambda row: [(y, x, x + extra) for y, x, extra in row])
    a, b, c = (footprints([draw(row), draw(row)]) for _ in range(3))
    return a, b, c


@fast
@given(three())
def test_union_is_a_union_of_sets(sets: tuple[Footprints, Footprints, Footprints]) -> None:
    a, b, c = sets
    assert [pixels(a.union(b), k) for k in (0, 1)] == [pixels(a, k) | pixels(b, k) for k in (0, 1)]
    assert a.union(b) == b.union(a)
    assert a.union(b).union(c) == a.union(b.union(c))
    assert a.union(a) == a
    assert a.union(Footprints.empty(2)) == a


@fast
@given(three(), st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_growth_and_union(
    sets: tuple[Footprints, Footprints, Footprints], r: int, s: int, manhattan: bool
) -> None:
    a, b, _ = sets
    grown = a.dilated(r, manhattan=manhattan)
    assert a.union(b).dilated(r, manhattan=manhattan) == grown.union(b.dilated(r, manhattan=manhattan))
    assert grown.union(a) == grown
    assert a.shifted(dx=3, dy=-2).dilated(r, manhattan=manhattan) == grown.shifted(dx=3, dy=-2)
    if manhattan:  # diamonds add up, circles on pixels do not
        assert grown.dilated(s, manhattan=True) == a.dilated(r + s, manhattan=True)
    if r == 0:
        assert grown == a


@fast
@given(three(), st.integers(-9, 9), st.integers(0, 12))
def test_clipping_and_union(sets: tuple[Footprints, Footprints, Footprints], low: int, size: int) -> None:
    a, b, _ = sets
    box = {"x0": low, "y0": low, "x1": low + size, "y1": low + size}
    assert a.union(b).clipped(**box) == a.clipped(**box).union(b.clipped(**box))
    assert a.clipped(**box).clipped(**box) == a.clipped(**box)
    assert a.clipped(**box).union(a) == a


def test_union_needs_as_many_rows() -> None:
    with pytest.raises(ValueError, match="unite 2 with 3 footprints"):
        Footprints.empty(2).union(Footprints.empty(3))


@pytest.mark.parametrize(
    ("radius", "area"), [(0, 1), (1, 5), (3, 29), (6, 113), (8, 197), (9, 253), (12, 441)]
)
def test_areas_of_circles(radius: int, area: int) -> None:
    """Pixels with their centre inside the radius (spec reprocess 24.2)."""
    circle = Footprints.from_circles(np.array([4]), np.array([-7]), radius)
    assert circle.areas().tolist() == [area]
    point = Footprints.from_circles(np.array([4]), np.array([-7]), 0)
    assert point.dilated(radius) == circle
