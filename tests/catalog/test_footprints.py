"""Footprints against boolean images, and their exact storage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from secondlight.catalog.footprints import Footprints, Peaks

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def one(mask: np.ndarray) -> Footprints:
    return Footprints.from_mask(mask, x0=-3, y0=5)


def image_of(footprints: Footprints, shape: tuple[int, int]) -> np.ndarray:
    return footprints.to_mask(shape, x0=-3, y0=5)


@given(masks)
def test_mask_round_trip(mask: np.ndarray) -> None:
    footprints = one(mask)
    assert np.array_equal(image_of(footprints, mask.shape), mask)
    assert footprints.areas()[0] == mask.sum()


@given(masks)
def test_box_and_centroid(mask: np.ndarray) -> None:
    footprints = one(mask)
    y, x = np.nonzero(mask)
    if not len(x):
        assert footprints.bounding_boxes().tolist() == [[0, 0, -1, -1]]
        assert np.isnan(footprints.centroids()).all()
        return
    box = [x.min() - 3, y.min() + 5, x.max() - 3, y.max() + 5]
    assert footprints.bounding_boxes().tolist() == [box]
    np.testing.assert_allclose(footprints.centroids()[0], [x.mean() - 3, y.mean() + 5], rtol=1e-12)


@given(masks, st.integers(0, 3), st.booleans())
def test_dilation_is_binary_dilation(mask: np.ndarray, radius: int, manhattan: bool) -> None:
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    stencil = abs(dx) + abs(dy) <= radius if manhattan else dx**2 + dy**2 <= radius**2
    padded = np.pad(mask, radius)
    grown = (
        one(mask).dilated(radius, manhattan=manhattan).to_mask(padded.shape, x0=-3 - radius, y0=5 - radius)
    )
    assert np.array_equal(grown, ndimage.binary_dilation(padded, stencil) if mask.any() else padded)


@given(st.data())
def test_union(data: st.DataObject) -> None:
    mask = data.draw(masks)
    other = data.draw(hnp.arrays(np.bool_, mask.shape))
    united = one(mask).union(one(other))
    assert np.array_equal(image_of(united, mask.shape), mask | other)
    assert united == one(mask | other)


@given(masks, st.integers(-4, 10), st.integers(4, 18), st.integers(0, 8), st.integers(0, 8))
def test_clipping(mask: np.ndarray, x0: int, y0: int, width: int, height: int) -> None:
    pixels = np.random.default_rng(1).normal(size=mask.shape).astype(np.float32)
    clipped = one(mask).with_heavy(pixels, x0=-3, y0=5).clipped(x0=x0, y0=y0, x1=x0 + width, y1=y0 + height)
    y, x = np.mgrid[5 : 5 + mask.shape[0], -3 : mask.shape[1] - 3]
    inside = mask & (x >= x0) & (x <= x0 + width) & (y >= y0) & (y <= y0 + height)
    assert np.array_equal(image_of(clipped, mask.shape), inside)
    assert np.array_equal(clipped.heavy, pixels[inside])


def stack(seed: int = 0, n: int = 7) -> Footprints:
    """Some random heavy footprints with random peaks; the third has neither pixels nor peaks."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(20, 30)).astype(np.float32)
    rows = [
        Footprints.from_mask(rng.random((20, 30)) < (0.0 if i == 2 else 0.2)).with_heavy(pixels)
        if i % 2 == 0
        else Footprints.from_mask(rng.random((20, 30)) < 0.3)
        for i in range(n)
    ]
    counts = rng.integers(0, 4, n)
    counts[2] = 0
    offsets = np.concatenate([[0], np.cumsum(counts)])
    k = offsets[-1]
    peaks = Peaks(
        rng.integers(0, 30, k), rng.integers(0, 20, k), rng.normal(size=k), rng.normal(size=k), np.arange(k)
    )
    return Footprints.concatenate(rows).with_peaks(offsets, peaks)


def test_arrow_round_trip_is_exact() -> None:
    footprints = stack()
    assert Footprints.from_arrow(footprints.to_arrow()) == footprints
    assert Footprints.from_arrow(Footprints.empty().to_arrow()) == Footprints.empty()


def test_take_and_concatenate() -> None:
    footprints = stack()
    parts = [footprints.take([i]) for i in range(len(footprints))]
    assert Footprints.concatenate(parts) == footprints
    reverse = footprints.take(np.arange(len(footprints))[::-1])
    assert reverse.take(slice(None, None, -1)) == footprints
    assert np.array_equal(reverse.heavy_pixels(0), footprints.heavy_pixels(6))
    assert reverse.peaks(1).id.tolist() == footprints.peaks(5).id.tolist()


def test_contains_and_shift() -> None:
    footprints = Footprints.from_circles(np.array([10, 20]), np.array([5, 5]), 3)
    assert footprints.areas().tolist() == [29, 29]
    assert footprints.contains(np.array([13, 20]), np.array([5, 9])).tolist() == [True, False]
    moved = footprints.shifted(dx=-10, dy=2)
    assert moved.contains(np.array([0, 10]), np.array([7, 7])).all()
    assert moved.shifted(dx=10, dy=-2) == footprints


def test_labels_paint_later_rows_over_earlier() -> None:
    footprints = Footprints.from_circles(np.array([5, 6]), np.array([5, 5]), 2)
    labels = footprints.to_labels((11, 12))
    assert labels[5, 3] == 0
    assert labels[5, 5] == 1
    assert (labels >= 0).sum() == (
        footprints.take([0]).to_mask((11, 12)) | footprints.take([1]).to_mask((11, 12))
    ).sum()


def test_heavy_pixels_must_fill_the_spans() -> None:
    with pytest.raises(ValueError, match="Footprint 0 has 5 pixels but 4 heavy values"):
        Footprints.from_spans(
            np.array([0, 1]),
            np.array([0]),
            np.array([0]),
            np.array([4]),
            heavy=(np.array([0, 4]), np.zeros(4)),
        )


def test_heavy_needs_the_footprint_inside_the_image() -> None:
    with pytest.raises(ValueError, match="outside the image of 10 x 10"):
        Footprints.from_circles(np.array([9]), np.array([5]), 3).with_heavy(np.zeros((10, 10), np.float32))
