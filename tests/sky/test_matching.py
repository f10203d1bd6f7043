from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlight.sky.matching import (
    friends_of_friends,
    match_nearest,
    match_pairs,
    mean_position,
    unit_vectors,
)

RADIUS = 1.0


def separation(ra1: float, dec1: float, ra2: float, dec2: float) -> float:
    """Angle in arcsec by Vincenty's formula, which shares nothing with the code under test."""
    d_ra, dec1, dec2 = np.radians(ra2 - ra1), np.radians(dec1), np.radians(dec2)
    across = np.hypot(
        np.cos(dec2) * np.sin(d_ra),
        np.cos(dec1) * np.sin(dec2) - np.sin(dec1) * np.cos(dec2) * np.cos(d_ra),
    )
    along = np.sin(dec1) * np.sin(dec2) + np.cos(dec1) * np.cos(dec2) * np.cos(d_ra)
    return float(np.degrees(np.arctan2(across, along)) * 3600)


def slow_groups(ra: np.ndarray, dec: np.ndarray, radius: float) -> list[int]:
    """Flood fill, one position at a time."""
    labels = [-1] * len(ra)
    for start in range(len(ra)):
        if labels[start] >= 0:
            continue
        labels[start] = max(labels) + 1
        todo = [start]
        while todo:
            i = todo.pop()
            for j in range(len(ra)):
                if labels[j] < 0 and separation(ra[i], dec[i], ra[j], dec[j]) <= radius:
                    labels[j] = labels[start]
                    todo.append(j)
    return labels


@st.composite
def crowded_positions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Positions a few arcsec from each other, anywhere, with RA 0/360 and the poles favoured."""
    ra0 = draw(st.sampled_from([0.0, 359.9999, 180.0]) | st.floats(0, 360))
    dec0 = draw(st.sampled_from([90.0, -90.0, 89.9999, 0.0]) | st.floats(-90, 90))
    n = draw(st.integers(0, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centre = unit_vectors(np.array([ra0]), np.array([dec0]))
    vectors = centre + np.radians(rng.uniform(-4, 4, (n, 3)) / 3600)
    ra = np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0])) % 360
    return ra, np.degrees(np.arctan2(vectors[:, 2], np.hypot(vectors[:, 0], vectors[:, 1])))


def far_from_limit(ra: np.ndarray, dec: np.ndarray) -> bool:
    all_pairs = [
        separation(a, b, c, d) for a, b in zip(ra, dec, strict=True) for c, d in zip(ra, dec, strict=True)
    ]
    return bool(np.all(np.abs(np.array(all_pairs) - RADIUS) > 1e-7))


@settings(max_examples=60, deadline=None)
@given(crowded_positions())
def test_groups_equal_flood_fill(positions: tuple[np.ndarray, np.ndarray]) -> None:
    ra, dec = positions
    if far_from_limit(ra, dec):
        np.testing.assert_array_equal(friends_of_friends(ra, dec, RADIUS), slow_groups(ra, dec, RADIUS))


@settings(max_examples=60, deadline=None)
@given(crowded_positions(), st.integers(0, 12))
def test_pairs_and_nearest_equal_brute_force(positions: tuple[np.ndarray, np.ndarray], split: int) -> None:
    ra, dec = positions
    if not far_from_limit(ra, dec):
        return
    first, second = (ra[:split], dec[:split]), (ra[split:], dec[split:])
    expected = {}
    for i, (a, b) in enumerate(zip(*first, strict=True)):
        for j, (c, d) in enumerate(zip(*second, strict=True)):
            if (s := separation(a, b, c, d)) <= RADIUS:
                expected[i, j] = s
    index1, index2, found = match_pairs(*first, *second, RADIUS)
    assert set(zip(index1.tolist(), index2.tolist(), strict=True)) == set(expected)
    for i, j, s in zip(index1.tolist(), index2.tolist(), found, strict=True):
        assert s == pytest.approx(expected[i, j], abs=1e-8)
    nearest = match_nearest(*first, *second, RADIUS)
    for i in range(len(first[0])):
        mine = {j: s for (k, j), s in expected.items() if k == i}
        assert nearest[i] == (min(mine, key=lambda j: mine[j]) if mine else -1)


@pytest.mark.parametrize(("ra0", "dec0"), [(0.0, 0.0), (0.0, 90.0), (77.7, -33.3)])
def test_few_positions_of_every_arrangement(ra0: float, dec0: float) -> None:
    rng = np.random.default_rng(11)
    for _ in range(400):
        vectors = unit_vectors(np.array([ra0]), np.array([dec0])) + np.radians(
            rng.uniform(-1.3, 1.3, (5, 3)) / 3600
        )
        ra = np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0])) % 360
        dec = np.degrees(np.arctan2(vectors[:, 2], np.hypot(vectors[:, 0], vectors[:, 1])))
        assert friends_of_friends(ra, dec, RADIUS).tolist() == slow_groups(ra, dec, RADIUS)


def test_link_between_the_far_ends_of_two_tight_clumps() -> None:
    # First members 1.61 radii apart, friends only through the second ones.
    offset = np.array([0.01, 0.57, 1.15, 0.59]) / 3600
    assert friends_of_friends(offset[:3], offset[:3], 1.0).tolist() == [0, 0, 0]
    far = np.array([0.01, 0.57, 1.7, 1.16]) / 3600
    assert friends_of_friends(far, far, 1.0).tolist() == [0, 0, 0, 0]
    assert friends_of_friends(far[:3], far[:3], 1.0).tolist() == [0, 0, 1]


def test_chains_are_followed_to_their_end() -> None:
    dec = np.arange(50) * 0.9 / 3600
    order = np.random.default_rng(3).permutation(50)
    assert not friends_of_friends(np.zeros(50), dec[order], 1.0).any()
    gap = dec + np.where(np.arange(50) >= 30, 0.2 / 3600, 0.0)
    labels = friends_of_friends(np.zeros(50), gap, 1.0)
    np.testing.assert_array_equal(labels, np.arange(50) >= 30)


def test_labels_follow_first_members() -> None:
    ra = np.array([5.0, 1.0, 5.0, 9.0, 1.0])
    np.testing.assert_array_equal(friends_of_friends(ra, np.zeros(5), 1.0), [0, 1, 0, 2, 1])


def test_many_detections_of_one_star_are_one_group() -> None:
    rng = np.random.default_rng(5)
    ra, dec = 0.05 / 3600 * rng.standard_normal((2, 3000))
    assert not friends_of_friends(ra, dec, 1.0).any()


def test_across_ra_zero() -> None:
    half = 0.7 / 3600
    ra, dec = np.array([half, 360 - half]), np.zeros(2)
    assert friends_of_friends(ra, dec, 1.39).tolist() == [0, 1]
    assert friends_of_friends(ra, dec, 1.41).tolist() == [0, 0]
    assert match_nearest(ra[:1], dec[:1], ra[1:], dec[1:], 1.41).tolist() == [0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_positions_that_are_not_numbers_never_match(bad: float) -> None:
    ra, dec = np.array([1.0, bad, 1.0, bad]), np.array([1.0, 1.0, bad, 1.0])
    with np.errstate(invalid="ignore"):
        assert match_nearest(ra, dec, ra, dec, 1.0).tolist() == [0, -1, -1, -1]
        assert friends_of_friends(ra, dec, 1.0).tolist() == [0, 1, 2, 3]
        assert friends_of_friends(ra[1:2], dec[1:2], 1.0).tolist() == [0]


def test_equally_near_gives_the_first() -> None:
    others = np.array([2.0, 1.0, 1.0, 1.0])
    assert match_nearest(np.array([1.0]), np.zeros(1), others, np.zeros(4), 1.0).tolist() == [1]
    assert match_pairs(np.array([1.0]), np.zeros(1), others, np.zeros(4), 1.0)[1].tolist() == [1, 2, 3]


def test_empty_input() -> None:
    empty, one = np.empty(0), np.zeros(1)
    assert len(friends_of_friends(empty, empty, 1.0)) == 0
    assert len(match_nearest(empty, empty, one, one, 1.0)) == 0
    assert match_nearest(one, one, empty, empty, 1.0).tolist() == [-1]


def test_zero_radius_groups_equal_positions() -> None:
    ra = np.array([1.0, 2.0, 1.0])
    assert friends_of_friends(ra, np.zeros(3), 0.0).tolist() == [0, 1, 0]


@pytest.mark.parametrize("radius", [-1.0, np.nan])
def test_bad_radius_is_refused(radius: float) -> None:
    with pytest.raises(ValueError, match="match radius"):
        friends_of_friends(np.zeros(2), np.zeros(2), radius)


def test_mean_position_across_ra_zero_and_over_the_pole() -> None:
    labels = np.array([0, 0, 1, 1])
    ra = np.array([359.9998, 0.0004, 30.0, 210.0])
    dec = np.array([10.0, 10.0, 89.9999, 89.9999])
    mean_ra, mean_dec = mean_position(ra, dec, labels, 2)
    assert mean_ra[0] == pytest.approx(0.0001, abs=1e-9)
    np.testing.assert_allclose(mean_dec, [10.0, 90.0], atol=1e-9)
    assert np.all((mean_ra >= 0) & (mean_ra < 360))
