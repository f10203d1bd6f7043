"""The compiled interpolation against a plain sum."""

from __future__ import annotations

import numpy as np
import pytest

from secondlight.psf._stamp_kernels import resample_loop


def twin(
    samples: np.ndarray, first: tuple[np.ndarray, np.ndarray], weights: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Sum over all pairs of taps of one stamp; samples are zero outside."""
    (first_y, first_x), (weights_y, weights_x) = first, weights
    stamp = np.zeros((len(first_y), len(first_x)))
    for j, i in np.ndindex(stamp.shape):
        for s, t in np.ndindex(weights_y.shape[1], weights_x.shape[1]):
            row, column = first_y[j] + s, first_x[i] + t
            if 0 <= row < samples.shape[0] and 0 <= column < samples.shape[1]:
                stamp[j, i] += samples[row, column] * weights_y[j, s] * weights_x[i, t]
    return stamp


@pytest.mark.parametrize("taps", [1, 4, 6, 11])
def test_resampling_matches_slow_twin(taps: int) -> None:
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(3, 8, 7))
    first_y, first_x = rng.integers(-12, 12, (3, 5)), rng.integers(-12, 12, (3, 6))
    weights_y, weights_x = rng.normal(size=(3, 5, taps)), rng.normal(size=(3, 6, taps))
    weights_y[0, :, : taps // 2] = 0.0
    stamps = resample_loop(samples, first_y, weights_y, first_x, weights_x)
    for k in range(3):
        expected = twin(samples[k], (first_y[k], first_x[k]), (weights_y[k], weights_x[k]))
        np.testing.assert_allclose(stamps[k], expected, atol=1e-12)


def test_shared_weights() -> None:
    """One row of weights serves all pixels, and one set all stamps."""
    rng = np.random.default_rng(4)
    samples = rng.normal(size=(3, 9, 9))
    first = np.arange(-2, 6)[None]
    weights = rng.normal(size=(1, 1, 4))
    spelled_out = np.repeat(first, 3, axis=0), np.broadcast_to(weights, (3, 8, 4)).copy()
    np.testing.assert_array_equal(
        resample_loop(samples, first, weights, first, weights),
        resample_loop(samples, *spelled_out, *spelled_out),
    )


def test_no_stamps() -> None:
    empty = resample_loop(
        np.zeros((0, 5, 5)),
        np.zeros((0, 3), int),
        np.zeros((0, 1, 4)),
        np.zeros((0, 3), int),
        np.zeros((0, 1, 4)),
    )
    assert empty.shape == (0, 3, 3)
