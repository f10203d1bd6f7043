"""PSF models that draw in batches."""

from __future__ import annotations

import numpy as np
import pytest
from lsst.images import Box

from secondlight.psf import evaluation
from secondlight.psf.batch import BatchPsf


class Cone(BatchPsf):
    """A linear profile that widens with x, which notes what it was asked for."""

    stamp_size = 11

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []

    @property
    def bounds(self) -> Box:
        """Where the model can be evaluated."""
        return Box.factory[0:100, 0:100]

    def draw(self, *, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Draw; negative x gives no light at all."""
        self.batches.append(np.stack([x, y, dx, dy]))
        pixels = np.arange(-5, 6)
        distance = np.hypot(pixels[:, None] - dy[:, None, None], pixels - dx[:, None, None])
        images = np.maximum(2 + 0.02 * x[:, None, None] - distance, 0) * (x >= 0)[:, None, None]
        return np.asarray(images / np.maximum(images.sum(axis=(1, 2), keepdims=True), 1e-9))


def test_single_images_are_batches_of_one() -> None:
    psf = Cone()
    star = psf.compute_stellar_image(x=40.3, y=50.5)
    assert star.bbox == psf.compute_stellar_bbox(x=40.3, y=50.5)
    assert (star.bbox.x.start, star.bbox.y.start) == (35, 46)
    assert psf.kernel_bbox == psf.compute_kernel_image(x=40.3, y=50.5).bbox == Box.factory[-5:6, -5:6]
    np.testing.assert_allclose(psf.batches[0].ravel(), [40.3, 50.5, 0.3, -0.5], atol=1e-12)
    stamps = evaluation.stellar_stamps(psf, x=[40.3], y=[50.5])
    np.testing.assert_array_equal(stamps.images[0], star.array)
    assert (stamps.x0[0], stamps.y0[0]) == (35, 46)
    assert star.array.sum() == pytest.approx(1)


def test_many_stamps_are_few_batches_of_finite_positions() -> None:
    psf = Cone()
    n = evaluation._BATCH + 10
    x, y = np.linspace(1, 99, n), np.full(n, 20.2)
    x[3], y[4], x[5] = np.nan, np.inf, -1.0
    stamps = evaluation.kernel_stamps(psf, x=x, y=y)
    assert len(psf.batches) == 2
    assert np.isfinite(np.concatenate(psf.batches, axis=1)).all()
    assert not np.concatenate(psf.batches, axis=1)[2:].any()
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(stamps[:, 5, 5])), [3, 4, 5])
    np.testing.assert_allclose(np.delete(stamps, [3, 4, 5], axis=0).sum(axis=(1, 2)), 1)
