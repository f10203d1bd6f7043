from __future__ import annotations

import numpy as np
import pytest

from secondlight.psf._adaptive_moment_kernels import weighted_sums
from secondlight.psf.adaptive_moments import MAX_ITER, SHIFT, UNWEIGHTED, UNWEIGHTED_BAD, adaptive_moments


def gaussian(x: float, y: float, xx: float, yy: float, xy: float, size: int = 61) -> np.ndarray:
    j, i = np.mgrid[:size, :size]
    inverse = np.linalg.inv([[xx, xy], [xy, yy]])
    dx, dy = i - x, j - y
    q = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
    return np.exp(-0.5 * q) / (2 * np.pi * np.sqrt(xx * yy - xy**2))


def slow_moments(image: np.ndarray, x: float, y: float) -> tuple[np.ndarray, float, int]:
    """Fixed-point iteration with whole-array numpy sums (no sub-pixel mode)."""
    w = np.diag([1.5, 1.5])
    j, i = np.mgrid[: image.shape[0], : image.shape[1]]
    old = None
    for iteration in range(100):
        r = 4 * np.sqrt(max(w[0, 0], w[1, 1]))
        inside = (i >= np.floor(x - r + 0.5)) & (i <= np.ceil(x + r - 0.5))
        inside &= (j >= np.floor(y - r + 0.5)) & (j <= np.ceil(y + r - 0.5))
        d = np.stack([i - x, j - y])
        q = np.einsum("aij,ab,bij->ij", d, np.linalg.inv(w), d)
        a = image * np.exp(-q / 2) * (inside & (q <= 14))
        o = np.einsum("aij,bij,ij->ab", d, d, a) / a.sum()
        e = np.array([o[0, 0] - o[1, 1], 2 * o[0, 1]]) / np.trace(o)
        if old is not None and np.all(abs(e - old[0]) < 1e-5) and abs(o[0, 0] / old[1] - 1) < 1e-4:
            return w, float(a.sum()), iteration + 1
        old = e, o[0, 0]
        w = np.linalg.inv(np.linalg.inv(o) - np.linalg.inv(w))
    raise AssertionError("no convergence")


def test_published_vectors() -> None:
    centred = adaptive_moments(1e4 * gaussian(30, 30, 4, 4, 0)[None], x=30, y=30)
    assert centred.xx[0] == pytest.approx(3.999924, abs=2e-6)
    assert centred.yy[0] == pytest.approx(3.999924, abs=2e-6)
    assert centred.xy[0] == pytest.approx(0, abs=1e-12)
    assert 2 * centred.weighted_sum[0] == pytest.approx(9999.898, abs=2e-3)
    moved = adaptive_moments(1e4 * gaussian(30.3, 29.8, 4, 4, 0)[None], x=30.3, y=29.8)
    assert moved.xx[0] == pytest.approx(3.999911, abs=2e-6)
    assert moved.yy[0] == pytest.approx(3.999918, abs=2e-6)
    assert moved.xy[0] == pytest.approx(2.5e-6, abs=1e-6)
    assert 2 * moved.weighted_sum[0] == pytest.approx(9999.886, abs=2e-3)
    assert moved.x[0] == pytest.approx(30.3, abs=1e-6)
    assert moved.y[0] == pytest.approx(29.8, abs=1e-6)
    assert moved.flags[0] == 0


@pytest.mark.parametrize(("xx", "yy", "xy"), [(4.0, 9.0, 2.0), (2.5, 2.0, -0.5), (12.0, 6.0, 0.0)])
def test_matches_slow_twin(xx: float, yy: float, xy: float) -> None:
    image = gaussian(30.2, 29.6, xx, yy, xy) + np.random.default_rng(3).normal(0, 1e-5, (61, 61))
    fast = adaptive_moments(image[None], x=30.1, y=29.7)
    slow, total, _ = slow_moments(image, 30.1, 29.7)
    np.testing.assert_allclose(
        [fast.xx[0], fast.yy[0], fast.xy[0]], [slow[0, 0], slow[1, 1], slow[0, 1]], rtol=1e-9
    )
    assert fast.weighted_sum[0] == pytest.approx(total, rel=1e-9)


def test_narrow_object_keeps_its_flux() -> None:
    """Sub-pixel sampling shares a pixel among its sub-positions: no 16-fold flux."""
    result = adaptive_moments(gaussian(10, 10, 0.2, 0.2, 0, 21)[None], x=10, y=10)
    assert result.flags[0] == 0
    assert result.xx[0] < 0.3
    assert 0.3 < result.weighted_sum[0] < 1.0


def test_bad_inputs_are_flagged() -> None:
    images = np.stack(
        [
            np.full((21, 21), np.nan),
            -gaussian(10, 10, 4, 4, 0, 21),
            gaussian(10, 10, 4, 4, 0, 21),
            gaussian(10, 10, 4, 4, 0, 21),
        ]
    )
    result = adaptive_moments(images, x=[10, 10, np.nan, 50], y=10.0)
    assert np.all(result.flags & UNWEIGHTED_BAD)
    assert not np.any(result.flags & UNWEIGHTED)
    assert np.isnan(result.weighted_sum).all()
    assert np.isnan(result.xx).all()


def test_large_shift_is_flagged() -> None:
    result = adaptive_moments(gaussian(34, 30, 20, 20, 0)[None], x=30.0, y=30)
    assert result.flags[0] & SHIFT
    assert result.x[0] > 32


def test_iteration_limit() -> None:
    result = adaptive_moments(gaussian(30, 30, 9, 4, 1)[None], x=30, y=30, max_iter=2)
    assert result.flags[0] == MAX_ITER | UNWEIGHTED
    assert result.xx[0] == pytest.approx(9, rel=0.05)


@pytest.mark.parametrize("seed", range(40))
def test_sums_with_weights_of_all_sizes(seed: int) -> None:
    # Weights are stepped along rows; sizes from a pixel to much more than the image, anywhere.
    rng = np.random.default_rng(seed)
    image = rng.normal(5.0, 1.0, (60, 75))
    sx, sy = np.exp(rng.uniform(np.log(0.8), np.log(300.0), 2))
    correlation = rng.uniform(-0.95, 0.95)
    w_xx, w_yy = (1 / (s**2 * (1 - correlation**2)) for s in (sx, sy))
    w_xy = -correlation / (sx * sy * (1 - correlation**2))
    x, y = rng.uniform(-0.4, 74.4), rng.uniform(-0.4, 59.4)
    sums = np.zeros(6)
    weighted_sums(image, x, y, (0, 74, 0, 59), w_xx, w_xy, w_yy, False, sums)
    dy, dx = np.mgrid[:60, :75] - np.array([y, x])[:, None, None]
    q = w_xx * dx**2 + 2 * w_xy * dx * dy + w_yy * dy**2
    term = np.where(q <= 14.0, image * np.exp(-0.5 * q), 0.0)
    slow = [(term * f).sum() for f in (1, dx, dy, dx * dx, dx * dy, dy * dy)]
    scale = [np.abs(term * f).sum() + 1e-300 for f in (1, dx, dy, dx * dx, dx * dy, dy * dy)]
    np.testing.assert_allclose((sums - slow) / scale, 0.0, atol=1e-10)


def test_runaway_weights_are_given_up() -> None:
    """On a pedestal the weight grows without end; the limit changes nothing for weights that converge."""
    star = gaussian(100, 100, 4, 4, 0, 201)
    images = np.stack([star, star + 1e-2])
    free = adaptive_moments(images, x=100.0, y=100.0)
    limited = adaptive_moments(images, x=100.0, y=100.0, max_sigma=10.0)
    assert limited.flags.tolist() == [0, UNWEIGHTED]
    assert limited.xx[0] == free.xx[0]
    assert free.flags[1] == 0
    assert free.xx[1] > 20.0**2
    # Unweighted over the box of the last weight, which is at most 4 times the limit on each side.
    assert 4.0 < limited.xx[1] <= 40.0**2 / 3.0
    assert np.isnan(limited.weighted_sum[1])
