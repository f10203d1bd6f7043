"""Residuals of stars a PSF was not fitted to, and the order they ask for."""

from __future__ import annotations

import numpy as np
import pytest
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.psf.evaluation import stellar_stamps
from secondlight.psf.held_out import HeldOutResiduals, best_order, held_out_residuals

from .piff_scenes import NOISE, SIGMA, make_scene


def gaussian(sigma: float) -> GaussianPointSpreadFunction:
    return GaussianPointSpreadFunction(sigma, bounds=Box.factory[0:2000, 0:2000], stamp_size=25)


def test_residuals_of_the_true_psf_are_noise() -> None:
    _, stars = make_scene(49)
    weights = np.full(stars.stamps.image.shape, NOISE**-2)
    residuals = held_out_residuals(gaussian(SIGMA), stars, weights)
    scatter = residuals.chi2.std() * np.sqrt(0.5 * (21 * 21 - 3))
    assert residuals.chi2.mean() == pytest.approx(1.0, abs=0.03)
    assert scatter == pytest.approx(1.0, abs=0.3)
    for values in (residuals.size, residuals.e1, residuals.e2):
        assert abs(values.mean()) < 3 * values.std() / 7


def test_a_wrong_size_shows() -> None:
    _, stars = make_scene(25)
    weights = np.full(stars.stamps.image.shape, NOISE**-2)
    residuals = held_out_residuals(gaussian(1.05 * SIGMA), stars, weights)
    assert residuals.size.mean() == pytest.approx(1.05**-2 - 1, abs=2e-3)
    assert residuals.chi2.mean() > 2


def test_flux_and_centre_are_free() -> None:
    """A noiseless star a little off its stated position leaves little more than one at it."""
    _, stars = make_scene(9, noise=0.0)
    x0, y0 = stars.stamps.x0, stars.stamps.y0
    drawn = stellar_stamps(gaussian(SIGMA), x=stars.x + 0.02, y=stars.y - 0.01)
    size = stars.stamps.image.shape[1]
    inner = (25 - size) // 2
    moved = 7.0e4 * drawn.images[:, inner:-inner, inner:-inner]
    assert (drawn.x0 + inner == x0).all()
    assert (drawn.y0 + inner == y0).all()
    stars.stamps.image[...] = moved
    weights = np.full(moved.shape, NOISE**-2)
    residuals = held_out_residuals(gaussian(SIGMA), stars, weights)
    unfitted = ((moved - 7.0e4 * stellar_stamps(gaussian(SIGMA), x=stars.x, y=stars.y).images[
        :, inner:-inner, inner:-inner
    ]) ** 2).sum(axis=(1, 2)) / NOISE**2 / (size**2 - 3)  # fmt: skip
    assert (residuals.chi2 < 1e-2 * unfitted).all()


def test_masked_pixels_do_not_count() -> None:
    _, stars = make_scene(9)
    weights = np.full(stars.stamps.image.shape, NOISE**-2)
    clean = held_out_residuals(gaussian(SIGMA), stars, weights)
    stars.stamps.image[:, 2, 3] = np.nan
    weights[:, 2, 3] = 0.0
    masked = held_out_residuals(gaussian(SIGMA), stars, weights)
    np.testing.assert_allclose(masked.chi2, clean.chi2, rtol=0.05)


def test_stars_without_weight_or_psf_have_no_residual() -> None:
    _, stars = make_scene(4)
    weights = np.full(stars.stamps.image.shape, NOISE**-2)
    weights[1] = 0.0
    stars.x[2] = np.nan
    residuals = held_out_residuals(gaussian(SIGMA), stars, weights)
    assert np.isfinite(residuals.chi2).tolist() == [True, False, False, True]


def test_no_stars() -> None:
    _, stars = make_scene(4)
    none = stars[np.zeros(4, dtype=bool)]
    assert len(held_out_residuals(gaussian(SIGMA), none, np.zeros(none.stamps.image.shape)).chi2) == 0


def residuals(size: np.ndarray, snr: float = 100.0) -> HeldOutResiduals:
    zero = np.zeros(len(size))
    return HeldOutResiduals(chi2=zero, snr=zero + snr, size=size, e1=zero, e2=zero)


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.014, n)


def test_order_that_is_significantly_better_wins() -> None:
    star = noise(40, 1)
    found = {0: residuals(star + 0.05), 1: residuals(star), 2: residuals(star + 0.1 * noise(40, 2))}
    assert best_order(found) == 1


def test_too_high_an_order_loses() -> None:
    star = noise(30, 3)
    worse = residuals(star + 2.0 * noise(30, 4))
    assert best_order({0: residuals(star), 3: worse}) == 0
    assert best_order({2: residuals(star), 0: worse}) == 2


def test_order_that_is_probably_better_wins() -> None:
    """With few stars nothing is significant; asking for it gave a constant PSF where a plane was better."""
    constant, plane = (0.014 * np.tile(pair, 5) for pair in ([3.0, 1.0], [1.0, 2.2]))
    assert best_order({0: residuals(constant), 1: residuals(plane)}) == 1


def test_order_whose_psf_cannot_be_measured_at_a_star_is_bad_there() -> None:
    """Such a star was left out, so that the order was judged by those where it is no nonsense."""
    star = noise(20, 9)
    wild = 0.5 * star
    wild[:6] = np.nan
    assert best_order({1: residuals(star), 4: residuals(wild)}) == 1


def test_one_bad_star_does_not_decide() -> None:
    low, high = noise(30, 6) + 0.05, noise(30, 6)
    low[0], high[0] = 2.0, 5.0
    low[1] = np.nan
    assert best_order({0: residuals(low), 2: residuals(high)}) == 2


def test_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="no order"):
        best_order({})
    with pytest.raises(ValueError, match="No star"):
        best_order({0: residuals(np.array([np.nan])), 1: residuals(np.array([0.0]))})
