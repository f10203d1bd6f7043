"""The order of the PSF's polynomial, chosen by stars that were not fitted."""

from __future__ import annotations

import numpy as np
import pytest
from lsst.images import Box, Image, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.psf._piff_config import PiffPsfDeterminerConfig
from secondlight.psf.candidates import PsfCandidates
from secondlight.psf.order_selection import choose_order
from secondlight.psf.piff_determiner import PiffTooFewGoodStarsError

from .piff_scenes import SIGMA, SIZE, make_candidates, make_scene, make_task


def varying_stars(n: int, *, slope: float) -> tuple[VisitImage, PsfCandidates]:
    """Return stars whose width grows along x by a share ``slope`` over the image, with noise."""
    image, stars = make_scene(n, flux=0.0)
    sigma = SIGMA * (1.0 + slope * ((stars.x - stars.x.min()) / np.ptp(stars.x) - 0.5))
    for x, y, width in zip(stars.x, stars.y, sigma, strict=True):
        along, across = (
            np.exp(-0.5 * ((np.arange(side.min, side.max + 1) - centre) / width) ** 2) / width
            for side, centre in ((image.bbox.x, x), (image.bbox.y, y))
        )
        image.image.array[...] += (3e4 / (2 * np.pi) * np.outer(across, along)).astype(np.float32)
    return image, make_candidates(image, stars.x, stars.y)


def equal_weights(stars: PsfCandidates) -> np.ndarray:
    return np.ones(stars.stamps.image.shape)


@pytest.mark.parametrize("reserved", [0, 24])
@pytest.mark.parametrize(("slope", "expected"), [(0.0, {0, 1}), (0.1, {1, 2})])
def test_order_follows_the_variation(slope: float, expected: set[int], reserved: int) -> None:
    image, stars = varying_stars(80 + reserved, slope=slope)
    task = make_task(orderSelection="auto", maxSpatialOrder=2)
    out = np.arange(len(stars)) >= 80
    metadata: dict[str, float] = {}
    task.determine_psf(image, stars[~out], metadata, held_out=stars[out])
    assert metadata["spatialOrder"] in expected
    assert metadata.get("numHeldOutStars", 0) == reserved


def test_held_out_stars_are_described() -> None:
    image, stars = varying_stars(60, slope=0.1)
    out = np.arange(60) % 3 == 0
    notes: dict[int, dict[str, float]] = {0: {}, 1: {}}
    for order, metadata in notes.items():
        make_task(spatialOrder=order).determine_psf(image, stars[~out], metadata, held_out=stars[out])
        assert metadata["spatialOrder"] == order
        assert metadata["numHeldOutStars"] == 20
    assert notes[0]["heldOutSizeScatter"] > 5 * notes[1]["heldOutSizeScatter"]
    assert notes[0]["heldOutChi2Median"] > notes[1]["heldOutChi2Median"]
    assert abs(notes[1]["heldOutSizeMedian"]) < 0.003


def test_reserved_stars_do_not_change_a_fixed_fit() -> None:
    image, stars = varying_stars(40, slope=0.1)
    out = np.arange(40) < 8
    task = make_task(spatialOrder=1)
    with_them = task.determine_psf(image, stars[~out], held_out=stars[out])
    without = task.determine_psf(image, stars[~out])
    np.testing.assert_array_equal(
        with_them.psf.compute_kernel_image(x=600.0, y=400.0).array,
        without.psf.compute_kernel_image(x=600.0, y=400.0).array,
    )


def test_orders_with_too_few_stars_are_not_tried() -> None:
    image, stars = varying_stars(9, slope=0.1)
    metadata: dict[str, float] = {}
    make_task(orderSelection="auto", maxSpatialOrder=4).determine_psf(image, stars, metadata)
    assert metadata["spatialOrder"] <= 2


def test_no_order_can_be_fitted() -> None:
    _, stars = varying_stars(9, slope=0.0)

    def fit(order: int, part: PsfCandidates) -> GaussianPointSpreadFunction:
        raise PiffTooFewGoodStarsError(len(part), None, 100, f"order {order}")

    chosen = choose_order(range(3), stars, stars[:0], fit=fit, weigh=equal_weights, min_held_out=5, folds=3)
    assert chosen is None


def test_no_star_tells_the_orders_apart() -> None:
    _, stars = varying_stars(6, slope=0.0)
    bounds = Box.factory[0:2000, 0:2000]

    class Partial(GaussianPointSpreadFunction):
        """Cannot be evaluated on one side of the image."""

        def __init__(self, above: bool) -> None:
            super().__init__(SIGMA, bounds=bounds, stamp_size=SIZE)
            self.above = above

        def compute_stellar_image(self, *, x: float, y: float) -> Image:
            if bool(x > np.median(stars.x)) != self.above:
                raise RuntimeError("no light here")
            return super().compute_stellar_image(x=x, y=y)

    chosen = choose_order(
        range(2),
        stars,
        stars,
        fit=lambda order, part: Partial(order == 1),
        weigh=equal_weights,
        min_held_out=1,
        folds=2,
    )
    assert chosen is None


def test_held_out_pixels_without_a_value_do_not_count() -> None:
    image, stars = varying_stars(20, slope=0.0)
    out = np.arange(20) < 5
    held_out = stars[out]
    held_out.stamps.image[:, 0, 0] = np.nan
    metadata: dict[str, float] = {}
    make_task().determine_psf(image, stars[~out], metadata, held_out=held_out)
    assert 0.5 < metadata["heldOutChi2Median"] < 2.0


def test_the_order_told_is_that_of_the_model() -> None:
    image, stars = varying_stars(4, slope=0.0)
    metadata: dict[str, float] = {}
    task = make_task(spatialOrder=2, zerothOrderInterpNotEnoughStars=True)
    task.determine_psf(image, stars, metadata)
    assert metadata["spatialOrder"] == 0


def test_every_star_is_held_out_once() -> None:
    _, stars = varying_stars(10, slope=0.0)
    fitted: list[set[int]] = []

    def fit(order: int, part: PsfCandidates) -> GaussianPointSpreadFunction:
        fitted.append(set(part.id.tolist()))
        return GaussianPointSpreadFunction(SIGMA, bounds=Box.factory[0:2000, 0:2000], stamp_size=SIZE)

    choose_order([0], stars, stars[:0], fit=fit, weigh=equal_weights, min_held_out=1, folds=3)
    left_out = [set(stars.id.tolist()) - part for part in fitted]
    assert len(fitted) == 3
    assert sorted(i for part in left_out for i in part) == stars.id.tolist()


def test_order_of_a_yaml_model_cannot_be_chosen() -> None:
    config = PiffPsfDeterminerConfig()
    config.orderSelection = "auto"
    config.piffPsfConfigYaml = "type: Simple"
    with pytest.raises(ValueError, match="piffPsfConfigYaml"):
        config.validate()
