"""Tracks of charged particles."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secondlight.simulate.cosmic_rays import _add_charge, _add_muon, _add_worm, make_cosmic_rays
from secondlight.simulate.scene import Scene, load_scene

SIDE = 400


def _tracks(
    draw: object, number: int, *, thickness: float = 10.0, diffusion: float = 0.3
) -> list[np.ndarray]:
    """Return images of one track each, all of it on the image."""
    random = np.random.default_rng(4)
    images = []
    while len(images) < number:
        image = np.zeros((SIDE, SIDE))
        draw(image, random, thickness, 800.0, diffusion)  # type: ignore[operator]
        border = image[:2].sum() + image[-2:].sum() + image[:, :2].sum() + image[:, -2:].sum()
        if border == 0:
            images.append(image)
    return images


def _length(image: np.ndarray) -> float:
    """Return the diagonal of the box around the pixels with some charge."""
    y, x = np.nonzero(image > 100)
    return math.hypot(np.ptp(y), np.ptp(x)) if len(y) else 0.0


def _width(image: np.ndarray) -> float:
    """Return the standard deviation of the charge across the track, pixels."""
    y, x = np.nonzero(image)
    covariance = np.cov(np.stack([y, x]), aweights=image[y, x], ddof=0)
    return float(np.sqrt(np.linalg.eigvalsh(covariance)[0]))


@pytest.mark.parametrize("sigma", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(("x", "y"), [(10.0, 12.0), (10.37, 12.49), (9.5, 11.81)])
def test_charge_is_conserved_and_in_its_place(sigma: float, x: float, y: float) -> None:
    image = np.zeros((32, 30))
    _add_charge(image, x, y, 1000.0, sigma)
    rows, columns = np.indices(image.shape)
    assert image.sum() == pytest.approx(1000.0, rel=1e-12)
    if sigma == 2.0:
        assert (image * columns).sum() / 1000 == pytest.approx(x, abs=1e-3)
        assert (image * rows).sum() / 1000 == pytest.approx(y, abs=1e-3)
        # A pixel's own width adds a twelfth to the variance.
        assert (image * (columns - x) ** 2).sum() / 1000 == pytest.approx(sigma**2 + 1 / 12, rel=1e-2)
    elif sigma == 0.0:
        assert image[math.floor(y + 0.5), math.floor(x + 0.5)] == pytest.approx(1000.0, rel=0.6)


def test_charge_beyond_the_edge_is_lost() -> None:
    image = np.zeros((20, 20))
    _add_charge(image, -0.5, 10.0, 1000.0, 1.0)
    assert image.sum() == pytest.approx(500.0, rel=1e-6)
    _add_charge(image, 500.0, -90.0, 1000.0, 1.0)
    assert image.sum() == pytest.approx(500.0, rel=1e-6)


def test_muons_leave_at_least_the_charge_of_the_shortest_path() -> None:
    charge = np.array([image.sum() for image in _tracks(_add_muon, 200)])
    # Ten pixels of path at 800 electrons, more on the slant; Moyal's mean is 1.27 scales above the mode.
    assert charge.min() > 0.7 * 8000
    cosine = 4 / 3
    assert np.median(charge) == pytest.approx(8000 * cosine * (1 + 0.2 * 1.27), rel=0.25)


def test_muon_tracks_are_straight_and_as_long_as_the_slant() -> None:
    images = _tracks(_add_muon, 200)
    assert max(_width(image) for image in images) < 0.75
    lengths = np.array([_length(image) for image in images])
    # The median cosine is 0.5^(1/4): a tangent of 0.64 over ten pixels.
    assert np.median(lengths) == pytest.approx(6.4, abs=1.5)
    assert (lengths < 3).mean() > 0.05
    assert lengths.max() > 20


def test_muon_tracks_are_longer_in_thicker_silicon() -> None:
    thin = np.median([_length(image) for image in _tracks(_add_muon, 60, thickness=5.0)])
    thick = np.median([_length(image) for image in _tracks(_add_muon, 60, thickness=20.0)])
    assert thick / thin > 2.5


def test_diffusion_widens_tracks() -> None:
    sharp = np.median([_width(image) for image in _tracks(_add_muon, 60, diffusion=0.0)])
    wide = np.median([_width(image) for image in _tracks(_add_muon, 60, diffusion=1.5)])
    assert sharp < 0.45
    assert wide > 0.9


def test_worms_are_crooked() -> None:
    worms = [_width(image) for image in _tracks(_add_worm, 200) if _length(image) > 8]
    muons = [_width(image) for image in _tracks(_add_muon, 200) if _length(image) > 8]
    assert np.median(worms) > 1.5 * np.median(muons)


def test_worms_leave_no_more_than_their_energy() -> None:
    charge = np.array([image.sum() for image in _tracks(_add_worm, 200)])
    assert (charge > 0).all()
    assert charge.max() <= 800 * 1500 / 2.9


def _bright(scene: Scene, detector: int = 0, snap: int = 0) -> np.ndarray:
    return make_cosmic_rays(scene, scene.visits[0], detector, snap)


def test_charge_follows_from_the_ids() -> None:
    scene = load_scene("tiny", settings={"cosmic_rays.rate": 2.0})
    np.testing.assert_array_equal(_bright(scene), _bright(scene))
    assert (_bright(scene) != _bright(scene, detector=1)).any()
    assert (_bright(scene) != _bright(scene, snap=1)).any()
    assert _bright(scene).shape == (scene.camera.height, scene.camera.width)


def test_charge_goes_with_rate_and_exposure_time() -> None:
    settings = {"cosmic_rays.rate": 20.0, "cosmic_rays.worm_fraction": 0.0}
    one = load_scene("tiny", settings=settings)
    area = one.camera.width * one.camera.height * 0.001**2
    hits = 20.0 * area * one.visits[0].exposure_time
    # A vertical path of ten pixels, 4/3 as long on average over the slants.
    expected = hits * 8000 * 4 / 3 * (1 + 0.2 * 1.27)
    assert _bright(one).sum() == pytest.approx(expected, rel=0.3)
    two = load_scene("tiny", settings=settings | {"snaps": 2})
    assert _bright(two).sum() == pytest.approx(expected / 2, rel=0.4)


def test_no_rays() -> None:
    assert not _bright(load_scene("tiny", settings={"cosmic_rays.rate": 0.0})).any()
