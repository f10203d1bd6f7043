from __future__ import annotations

import numpy as np
import pytest

from secondlight.sky.association import StarAssociation, associate_isolated_stars

ARCSEC = 1 / 3600


def associate(
    offsets: list[float],
    *,
    bands: list[int] | None = None,
    visits: list[int] | None = None,
    ra0: float = 30.0,
    n_bands: int = 2,
    **kwargs: float,
) -> StarAssociation:
    """Associate detections on the equator, at offsets in arcsec."""
    n = len(offsets)
    return associate_isolated_stars(
        (ra0 + np.array(offsets, dtype=float) * ARCSEC) % 360,
        np.zeros(n),
        band=np.array([0] * n if bands is None else bands, dtype=np.int64),
        visit=np.arange(n) if visits is None else np.array(visits),
        n_bands=n_bands,
        match_radius=kwargs.get("match_radius", 1.0),
        isolation_radius=kwargs.get("isolation_radius", 2.0),
        keep=lambda ra, dec: ra < kwargs.get("ra_limit", 400.0),
    )


def test_position_is_the_unweighted_mean_of_the_primary_band() -> None:
    result = associate([0.0, 0.3, 0.9, 0.5], bands=[0, 0, 0, 1])
    np.testing.assert_allclose((result.ra - 30.0) / ARCSEC, [0.4], atol=1e-6)
    assert result.counts.tolist() == [[3, 1]]
    assert result.source_rows.tolist() == [0, 1, 2, 3]


def test_mean_across_ra_zero() -> None:
    result = associate([-0.4, 0.2], ra0=0.0)
    assert (result.ra[0] - 360) / ARCSEC == pytest.approx(-0.1, abs=1e-6)


@pytest.mark.parametrize("ra0", [0.0, 0.35 * ARCSEC, 30.0])
def test_neighbours_remove_each_other_and_leave_the_third(ra0: float) -> None:
    result = associate([-0.7, 0.7, -0.7, 0.7, 60.0], ra0=ra0, visits=[1, 1, 2, 2, 1])
    assert len(result.ra) == 1
    assert result.source_rows.tolist() == [4]


def test_groups_are_transitive() -> None:
    # The ends of the chain are not friends: two stars without transitivity.
    result = associate([0.0, 0.8, 1.6], match_radius=1.0)
    assert len(result.ra) == 1
    assert result.counts.tolist() == [[3, 0]]


def test_later_bands_add_only_stars_not_seen_before() -> None:
    result = associate([0.0, 0.9, 10.0, 20.0], bands=[0, 1, 1, -1])
    assert result.primary_band.tolist() == [0, 1]
    assert result.counts.tolist() == [[1, 1], [0, 1]]
    assert result.source_rows.tolist() == [0, 1, 2]


def test_a_band_without_detections_is_passed_over() -> None:
    result = associate([0.0, 10.0], bands=[2, 2], n_bands=3)
    assert result.primary_band.tolist() == [2, 2]


def test_neighbour_in_another_band_counts_for_isolation() -> None:
    assert len(associate([0.0, 1.5], bands=[0, 1]).ra) == 0


def test_sources_are_sorted_by_star_band_and_input() -> None:
    result = associate([10.0, 0.0, 10.1, 0.1, 10.05, 0.05], bands=[1, 0, 0, 1, 0, 0])
    # The first star is that of the first detection in the first band.
    assert result.source_rows.tolist() == [1, 5, 3, 2, 4, 0]
    assert result.star_index.tolist() == [0, 0, 0, 1, 1, 1]


def test_nearest_source_of_a_visit_wins_and_ties_go_to_the_first() -> None:
    result = associate([0.0, 0.0, 0.6, 0.1, 0.1], visits=[1, 2, 3, 3, 4])
    assert result.source_rows.tolist() == [0, 1, 3, 4]
    tied = associate([0.0, 0.3, -0.3, 0.0], visits=[1, 2, 2, 3])
    assert tied.counts.tolist() == [[3, 0]]
    same = associate([0.0, 0.5, 0.5], visits=[1, 2, 2])
    assert same.source_rows.tolist() == [0, 1]


def test_a_source_belongs_to_its_nearest_star_only() -> None:
    # Stars 1.5 arcsec apart that isolation lets live; the source in band 1 is within reach of both.
    result = associate([0.0, 1.5, 0.8], bands=[0, 0, 1], isolation_radius=1.0)
    assert result.counts.tolist() == [[1, 0], [1, 1]]
    assert result.source_rows.tolist() == [0, 1, 2]


def test_unwanted_stars_are_dropped_after_isolation() -> None:
    # The neighbour is not wanted itself, but still spoils its partner.
    assert len(associate([0.0, 1.4], ra_limit=30.0 + 1.0 * ARCSEC).ra) == 0


def test_order_of_detections_changes_only_the_order_of_stars() -> None:
    rng = np.random.default_rng(4)
    offsets = np.repeat(10.0 * np.arange(20), 5) + rng.normal(0, 0.1, 100)
    visits = np.tile(np.arange(5), 20)
    first = associate(offsets.tolist(), visits=visits.tolist())
    order = rng.permutation(100)
    second = associate(offsets[order].tolist(), visits=visits[order].tolist())
    assert len(first.ra) == 20
    np.testing.assert_allclose(np.sort(first.ra), np.sort(second.ra), rtol=0, atol=1e-13)
    assert np.all(second.counts[:, 0] == 5)


def test_nothing_in_nothing_out() -> None:
    for result in (associate([]), associate([0.0], bands=[-1]), associate([0.0], ra_limit=0.0)):
        assert len(result.ra) == len(result.source_rows) == len(result.primary_band) == 0
        assert result.counts.shape == (0, 2)


def test_positions_that_are_not_numbers_are_passed_over() -> None:
    result = associate([0.0, np.nan, 10.0])
    assert result.source_rows.tolist() == [0, 2]
