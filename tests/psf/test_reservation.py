"""Stars kept out of the PSF fit."""

from __future__ import annotations

import lsst.pex.config
import numpy as np
import pytest

from secondlight.psf.reservation import ReserveIsolatedStarsConfig, ReserveIsolatedStarsTask


def make_task(**settings: object) -> ReserveIsolatedStarsTask:
    config = ReserveIsolatedStarsConfig()
    config.update(**settings)
    return ReserveIsolatedStarsTask(config=config)


@pytest.mark.parametrize(
    ("extra", "nstar", "first", "total"),
    [
        ("r_100", 10, [5], 1),
        ("r_100", 1000, [12, 28, 35, 46, 48, 64, 82, 102, 112, 113], 100),
        ("r_101", 1000, [3, 22, 27, 31], 100),
        ("i_9813", 57, [0, 7, 13, 40, 55], 5),
    ],
)
def test_reference_draws(extra: str, nstar: int, first: list[int], total: int) -> None:
    reserved = make_task().run(nstar, extra=extra)
    assert np.count_nonzero(reserved) == total
    np.testing.assert_array_equal(np.flatnonzero(reserved)[: len(first)], first)


def test_none_and_all() -> None:
    assert not make_task(reserve_fraction=0.0).run(20, extra="r_1").any()
    assert make_task(reserve_fraction=1.0).run(20, extra="r_1").all()
    assert len(make_task().run(0, extra="r_1")) == 0
    assert not make_task(reserve_fraction=0.0, reserve_mode="hash").run(9, identities=range(9)).any()
    assert make_task(reserve_fraction=1.0, reserve_mode="hash").run(9, identities=range(9)).all()


def test_fraction_outside_range() -> None:
    with pytest.raises(lsst.pex.config.FieldValidationError, match="reserve_fraction"):
        make_task(reserve_fraction=1.5)


def test_hash_follows_the_star() -> None:
    task = make_task(reserve_mode="hash")
    ids = np.arange(5000)
    reserved = task.run(len(ids), extra="r", identities=ids)
    # Binomial scatter of 5000 draws with p = 0.1 is 21.
    assert abs(np.count_nonzero(reserved) - 500) < 100
    some = np.random.default_rng(1).permutation(ids)[:700]
    np.testing.assert_array_equal(task.run(700, extra="r", identities=some), reserved[some])
    assert not np.array_equal(task.run(len(ids), extra="i", identities=ids), reserved)


def test_hash_needs_identities() -> None:
    task = make_task(reserve_mode="hash")
    with pytest.raises(ValueError, match="expected 3, found 0"):
        task.run(3)
    with pytest.raises(ValueError, match="expected 3, found 2"):
        task.run(3, identities=[1, 2])
