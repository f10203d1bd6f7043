"""Interpolation over defects along rows and columns."""

from __future__ import annotations

import numpy as np
import pytest

from secondlight.catalog.mask_planes import mask_of
from secondlight.repair.interpolation import InterpImageConfig, InterpImageTask
from tests.scenes import make_visit_image


def make_task(**fields: object) -> InterpImageTask:
    config = InterpImageConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    return InterpImageTask(config=config)


def slow_row(row, bad, sigma):
    """Ordinary kriging of one row from up to two good pixels on either side of each defect."""
    result = row.astype(np.float64).copy()
    for x in np.flatnonzero(bad):
        left, right = x, x
        while bad[left]:
            left -= 1
        while bad[right]:
            right += 1
        known = [left, right]
        known += [p for p in (left - 1, right + 1) if 0 <= p < len(row) and not bad[p]]
        d = np.subtract.outer(known, [*known, x]) / (2 * sigma)
        covariance = np.exp(-(d**2))
        n = len(known)
        system = np.block([[covariance[:, :n], np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
        weights = np.linalg.solve(system, [*covariance[:, n], 1])[:n]
        result[x] = weights @ row[known]
    return result


@pytest.mark.parametrize("sigma", [1.0, 1.8])
@pytest.mark.parametrize("transpose", [False, True])
def test_against_slow_twin(sigma: float, transpose: bool):
    image = make_visit_image(width=60, height=40, x=[30], y=[20], flux=[1e5], seed=3)
    bad = np.random.default_rng(2).random(image.bbox.shape) < 0.25
    bad[:, :3] = bad[:, -3:] = bad[:3] = bad[-3:] = False
    before = image.image.array.copy()
    variance = image.variance.array.copy()
    make_task(transpose=transpose).run(image, bad, psf_sigma=sigma)
    pixels, defects = (before.T, bad.T) if transpose else (before, bad)
    expected = np.array([slow_row(r, b, sigma) for r, b in zip(pixels, defects, strict=True)])
    np.testing.assert_allclose(image.image.array, expected.T if transpose else expected, rtol=1e-4, atol=0.02)
    np.testing.assert_array_equal(mask_of(image.mask, ["INTRP"]), bad)
    np.testing.assert_array_equal(image.variance.array[~bad], variance[~bad])


def test_star_behind_a_bad_column():
    image = make_visit_image(x=[60.2], y=[90.1], flux=[1e6], add_noise=False, sigma=2.0)
    truth = image.image.array.copy()
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[:, 60] = True
    image.image.array[bad] = 1e5
    make_task().run(image, bad, psf_sigma=2.0)
    assert np.abs(image.image.array - truth).max() < 0.01 * truth.max()


def test_wide_defect_tends_to_the_limit():
    image = make_visit_image(width=60, height=5, add_noise=False)
    image.image.array[:, :20] = 10
    image.image.array[:, 40:] = 30
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[:, 20:40] = True
    make_task().run(image, bad, psf_sigma=1.0)
    np.testing.assert_allclose(image.image.array[2, 28:32], 20, atol=0.01)
    assert abs(image.image.array[2, 20] - 10) < 4
    assert abs(image.image.array[2, 39] - 30) < 4


@pytest.mark.parametrize(
    ("kind", "negative", "expected"),
    [("MEDIAN", False, 0.0), ("MEDIAN", True, -5.0), ("MEAN", True, -5.0), ("MEANCLIP", True, -5.0),
     ("USER", True, 42.0)],
)  # fmt: skip
def test_fallback_at_the_edge(kind: str, negative: bool, expected: float):
    image = make_visit_image(width=40, height=6, add_noise=False, background=-5.0)
    image.image.array[:, 10:12] = -50
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[:, :10] = True
    task = make_task(fallbackValueType=kind, negativeFallbackAllowed=negative, fallbackUserValue=42.0)
    image.image.array[bad] = 1e6
    task.run(image, bad, psf_sigma=1.0)
    tolerance = 4 if kind == "MEAN" else 1e-4
    np.testing.assert_allclose(image.image.array[:, :4], expected, atol=tolerance)
    assert (image.image.array[:, 9] < -20).all()


def test_no_fallback_at_the_edge():
    image = make_visit_image(width=40, height=6, add_noise=False, background=-5.0)
    image.image.array[:, 10:12] = -50
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[:, :10] = True
    make_task(useFallbackValueAtEdge=False).run(image, bad, psf_sigma=1.0)
    np.testing.assert_allclose(image.image.array[:, :4], -50, atol=1e-3)


def test_whole_rows_and_whole_image():
    image = make_visit_image(width=30, height=10, background=8.0, add_noise=False)
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[4] = True
    image.image.array[4] = np.nan
    make_task().run(image, bad)
    np.testing.assert_allclose(image.image.array, 8)
    bad[...] = True
    make_task(fallbackUserValue=3.0).run(image, bad)
    np.testing.assert_allclose(image.image.array, 3)


def test_pixels_that_are_not_finite_are_defects():
    image = make_visit_image(width=30, height=10, add_noise=False)
    image.image.array[5, 10] = np.nan
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[5, 11] = True
    make_task().run(image, bad)
    assert np.isfinite(image.image.array).all()
    assert np.flatnonzero(mask_of(image.mask, ["INTRP"])[5]).tolist() == [10, 11]


def test_variance_is_propagated():
    # Two good pixels of equal weight on either side of one: (w1^2 + w2^2) * 2 with the spec's weights.
    image = make_visit_image(width=30, height=3, noise=10.0)
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[1, 15] = True
    make_task().run(image, bad, psf_sigma=1.0)
    assert image.variance.array[1, 15] == pytest.approx(100 * 2 * (0.7737**2 + 0.2737**2), rel=1e-3)


def test_wrong_shape():
    with pytest.raises(ValueError, match="shape"):
        make_task().run(make_visit_image(), np.zeros((3, 3), dtype=bool))
