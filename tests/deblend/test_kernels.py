"""Each compiled kernel agrees with its slow twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.deblend import _apportion_kernels as apportioning
from secondlight.deblend import _psf_fit_kernels as fitting
from secondlight.deblend import _stray_kernels as stray
from secondlight.deblend import _template_kernels as kernels
from secondlight.deblend import _template_windows as windows
from secondlight.psf.evaluation import stellar_stamps

from . import twins

ROW = 3


def make_footprint(seed: int, shape: tuple[int, int] = (40, 50)) -> tuple[np.ndarray, np.ndarray]:
    """Return noise plus two blobs, and owners with a ragged footprint, a second one and free pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(5, 10, shape)
    for _ in range(2):
        cx, cy = rng.integers(10, 35, 2)
        image += 300 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 30)
    image = image.astype(np.float32)
    image[rng.integers(0, shape[0]), rng.integers(0, shape[1])] = np.nan
    image[rng.integers(0, shape[0]), rng.integers(0, shape[1])] = 0
    owner = np.full(shape, -1, dtype=np.int32)
    owner[image > 20] = ROW
    owner[5:33, 8:40] = ROW
    owner[rng.integers(0, shape[0], 30), rng.integers(0, shape[1], 30)] = -1
    owner[:, 44:] = 7
    owner[:3] = -2 - ROW
    return image, owner


def make_template(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Return a bumpy template that falls outward, with pixels outside and zeros."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    r2 = (x - shape[1] // 2) ** 2 + (y - shape[0] // 2) ** 2
    values = 100 * np.exp(-r2 / 60) * rng.uniform(0.3, 1.5, shape) + rng.normal(0, 1, shape)
    template = np.maximum(0, values).astype(np.float32)
    template[rng.random(shape) < 0.05] = kernels.OUTSIDE
    return template


seeds = st.integers(0, 10_000)
sides = st.integers(0, 16).map(lambda half: 2 * half + 1)


@given(seeds, st.integers(8, 40), st.integers(0, 39), st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_symmetric_template(seed, cx, cy, ex, ey, patch):
    image, owner = make_footprint(seed)
    ours, patched = kernels.symmetric_template(image, owner, ROW, cx, cy, ex, ey, patch)
    expected, expected_patched = twins.symmetric_template(image, owner, ROW, cx, cy, ex, ey, patch)
    np.testing.assert_array_equal(ours, expected)
    assert patched == expected_patched


@given(seeds, sides, sides, st.booleans(), st.booleans())
def test_template_edge(seed, height, width, open_x, open_y):
    template = make_template(seed, (height, width))
    ours = kernels.template_edge(template, open_x, open_y)
    np.testing.assert_array_equal(ours, twins.template_edge(template, open_x, open_y))


@pytest.mark.parametrize("seed", range(4))
def test_ramped_template(seed):
    image, owner = make_footprint(seed)
    cx, cy, ex, ey, radius = 20, 8, 9, 7, 5
    psf = np.exp(-((np.arange(-6, 7)[:, None] ** 2 + np.arange(-6, 7) ** 2) / 8.0))
    template, _ = kernels.symmetric_template(image, owner, ROW, cx, cy, ex, ey, False)
    ys, xs = kernels.template_edge(template, False, False)
    ramp = kernels.ramp_image(template, ys, xs, psf, radius, ex + radius, ey + radius)
    ours = kernels.ramped_template(image, owner, ROW, cx, cy, ex + radius, ey + radius, radius, ramp)
    expected = twins.ramped_template(
        image, owner, ROW, cx, cy, template, psf, radius, ex + radius, ey + radius
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    assert (ours < 0).any()
    assert (ours > 0).any()


@given(seeds, sides, sides)
def test_median_smooth(seed, height, width):
    template = make_template(seed, (height, width))
    np.testing.assert_array_equal(kernels.median_smooth(template), twins.median_smooth(template))


def test_median_of_many_pixels_at_once():
    template = make_template(1, (61, 41)) + np.float32(20)
    np.testing.assert_array_equal(kernels.median_smooth(template), twins.median_smooth(template))


@given(seeds, sides, sides)
def test_monotonic(seed, height, width):
    template = make_template(seed, (height, width))
    expected = twins.monotonic(template)
    kernels.monotonic(template)
    np.testing.assert_array_equal(template, expected)


def test_dark_ring_stops_the_walk():
    template = make_template(2, (61, 61))
    expected = twins.monotonic(template)
    ring = kernels.monotonic(template)
    assert 0 < ring < 30
    np.testing.assert_array_equal(template, expected)
    y, x = np.indices(template.shape)
    assert (template[np.maximum(abs(y - 30), abs(x - 30)) >= ring] <= 0).all()


@given(seeds, sides, sides)
def test_cut_to_nonzero(seed, height, width):
    template = make_template(seed, (height, width))
    template[template < 8] *= np.sign(template[template < 8]) < 0
    expected = twins.cut_to_nonzero(template)
    x0, y0, x1, y1 = kernels.cut_to_nonzero(template)
    np.testing.assert_array_equal(template, expected)
    ys, xs = np.nonzero(expected >= 0)
    if len(ys):
        assert (x0, y0, x1, y1) == (xs.min(), ys.min(), xs.max(), ys.max())
    else:
        assert x1 < x0


@pytest.mark.parametrize(("sigma", "faintest"), [(10.0, 1.0), (1e4, 10.0), (np.nan, 10.0)])
def test_point_template(sigma, faintest):
    """The model inside the footprint and the image, where it exceeds 0.1 sigma or 1e-4 of its peak."""
    psf = np.outer(*2 * [np.exp(-(np.arange(-9, 10) ** 2) / 8.0)])
    owner = np.full((30, 30), ROW, dtype=np.int32)
    owner[:, 8] = -1
    template, x0, y0 = windows.point_template(owner, ROW, 1e5, psf, -4, 2, sigma)
    assert (x0, y0, template.shape) == (-4, 2, psf.shape)
    expected = np.where(1e5 * psf >= faintest, 1e5 * psf, kernels.OUTSIDE)
    expected[:, :4] = expected[:, 12] = kernels.OUTSIDE
    np.testing.assert_allclose(template, expected, rtol=1e-6)


@pytest.mark.parametrize("half", [10, 20, 40])
def test_window_does_not_matter(half, monkeypatch):
    """A template made in a growing window equals one made in a window that holds everything."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:201, :201]
    image = rng.normal(0, 10, (201, 201)) + 1e4 * np.exp(-((x - 100) ** 2 + (y - 98) ** 2) / (2 * 6.0**2))
    image = image.astype(np.float32)
    owner = np.full(image.shape, ROW, dtype=np.int32)
    psf = np.exp(-((np.arange(-6, 7)[:, None] ** 2 + np.arange(-6, 7) ** 2) / 8.0))
    box = np.array([0, 0, 200, 200])
    make = windows.extended_template.py_func
    monkeypatch.setattr(windows, "_FIRST_HALF", half)
    arguments = (image, owner, ROW, box, 100, 98, psf, 4.0, 10.0, windows.CLIP, True)
    ours, _, _, cut = make(*arguments, 500)
    assert not cut
    whole, _ = kernels.symmetric_template(image, owner, ROW, 100, 98, 100, 98, False)
    expected = twins.monotonic(kernels.median_smooth(whole))
    ey, ex = ours.shape[0] // 2, ours.shape[1] // 2
    inner = slice(98 - ey, 99 + ey), slice(100 - ex, 101 + ex)
    np.testing.assert_array_equal(np.maximum(ours, 0), np.maximum(expected[inner], 0))
    expected[inner] = 0
    assert (expected <= 0).all()
    if half == 10:
        assert ex < 80


def test_limited_window_is_cut():
    image = np.full((301, 301), 50, dtype=np.float32)
    owner = np.full(image.shape, ROW, dtype=np.int32)
    psf = np.ones((3, 3)) / 9
    box = np.array([0, 0, 300, 300])
    template, _, _, cut = windows.extended_template(
        image, owner, ROW, box, 150, 150, psf, 4.0, 10.0, windows.CLIP, True, 60
    )
    assert cut
    assert template.shape == (121, 121)
    assert (template == 50).all()


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.3, -0.2)])
@pytest.mark.parametrize("n_neighbours", [0, 1, 2])
def test_point_source_fit(offset, n_neighbours):
    rng = np.random.default_rng(n_neighbours)
    psf = GaussianPointSpreadFunction(1.8, bounds=Box.factory[0:60, 0:60], stamp_size=21)
    x = np.array([30, 35, 27])[: n_neighbours + 1]
    y = np.array([28, 31, 22])[: n_neighbours + 1]
    stamps = stellar_stamps(psf, x=x, y=y)
    truth = stellar_stamps(psf, x=x + offset[0], y=y + offset[1])

    def full(images, k):
        result = np.zeros((60, 60))
        x0, y0 = int(images.x0[k]), int(images.y0[k])
        result[y0 : y0 + 21, x0 : x0 + 21] = images.images[k]
        return result

    flux = [1e4, 4e3, 2e3]
    image = sum(f * full(truth, k) for k, f in zip(range(len(x)), flux, strict=False))
    image = (image + rng.normal(0, 10, image.shape)).astype(np.float32)
    image[29, 31] = np.nan
    variance = rng.uniform(80, 120, image.shape).astype(np.float32)
    variance[27, 30] = 0
    owner = np.full(image.shape, -1, dtype=np.int32)
    owner[18:40, 20:45] = ROW
    box = np.array([20, 18, 44, 39])
    fwhm = 2.35 * 1.8
    status, *ours = fitting.fit_point_source(
        image, variance, owner, ROW, box, int(x[0]), int(y[0]), fwhm, 2,
        0, np.arange(1, len(x)), stamps.images, stamps.x0, stamps.y0,
    )  # fmt: skip
    expected = twins.fit_point_source(
        image, variance, owner == ROW, x[0], y[0], fwhm, full(stamps, 0),
        [full(stamps, k) for k in range(1, len(x))],
    )  # fmt: skip
    assert status == fitting.FITTED
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-8)
    if n_neighbours == 0:
        # The shift goes towards the star.
        np.testing.assert_allclose(ours[3:], offset, atol=0.05)


def test_fits_without_a_solution():
    image, variance = np.zeros((2, 30, 30), dtype=np.float32)
    owner = np.full(image.shape, ROW, dtype=np.int32)
    stamps, zero = np.full((2, 9, 9), 1 / 81), np.array([11, 11])
    near = np.array([1])

    def fit(box):
        return fitting.fit_point_source(
            image, variance, owner, ROW, np.array(box), 15, 15, 4.0, 2, 0, near, stamps, zero, zero,
        )  # fmt: skip

    assert fit([14, 0, 15, 29])[0] == fitting.TINY
    assert fit([0, 0, 29, 29])[0] == fitting.NO_VALID_PIXEL
    variance[:] = 1
    status, chi2, _, chi2_free, *_ = fit([0, 0, 29, 29])  # two identical PSFs
    assert (status, chi2 > 1e20, chi2_free > 1e20) == (fitting.FITTED, True, True)
    owner[:] = -1
    owner[15, 13:18] = ROW
    assert fit([13, 14, 17, 16])[0] == fitting.BAD_DOF


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(finite, st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=8))
def test_shares_sum_exactly_in_any_order(pixel, weights):
    image = np.array([[pixel]], dtype=np.float32)
    n = len(weights)
    boxes, first = np.zeros((n, 4), dtype=np.int64), np.arange(n + 1)
    values = np.array(weights, dtype=np.float32)
    shares = apportioning.apportion_all(image, boxes, first, values, np.array([0, n]))
    if not (values > 0).any():
        assert (shares == 0).all()
        return
    for order in (shares, shares[::-1], np.sort(shares)):
        total = np.float32(0)
        for share in order:
            total += share
        assert total == image[0, 0]
    expected = twins.apportion(float(pixel), values)
    np.testing.assert_allclose(shares, expected, atol=n * abs(float(pixel)) * 2**-23 + 1e-44)


def test_apportioned_windows():
    rng = np.random.default_rng(0)
    image = rng.normal(100, 50, (30, 40)).astype(np.float32)
    image[7, 9] = np.nan
    image[8, 12] = np.inf
    boxes = np.array([[3, 2, 20, 15], [10, 5, 39, 29], [0, 0, -1, -1], [9, 7, 12, 8]])
    sizes = [max(0, (x1 - x0 + 1) * (y1 - y0 + 1)) for x0, y0, x1, y1 in boxes]
    first = np.concatenate([[0], np.cumsum(sizes)])
    values = rng.uniform(-0.2, 3, first[-1]).astype(np.float32)
    shares = apportioning.apportion_all(image, boxes, first, values, np.array([0, 2, 4]))
    spans = apportioning.template_spans(boxes, first, values)
    for blend in ((0, 1), (3,)):
        full = np.zeros((len(blend), 30, 40))
        ours = np.zeros_like(full)
        for n, k in enumerate(blend):
            x0, y0, x1, y1 = boxes[k]
            part = np.s_[n, y0 : y1 + 1, x0 : x1 + 1]
            full[part] = values[first[k] : first[k + 1]].reshape(y1 - y0 + 1, -1)
            ours[part] = shares[first[k] : first[k + 1]].reshape(y1 - y0 + 1, -1)
            member = np.zeros((30, 40), dtype=bool)
            for s in range(spans[0][k], spans[0][k + 1]):
                member[spans[1][s], spans[2][s] : spans[3][s] + 1] = True
            expected = np.zeros((30, 40), dtype=bool)
            expected[part[1:]] = full[part] >= 0
            np.testing.assert_array_equal(member, expected)
        good = np.isfinite(image)
        expected = twins.apportion(image, full)
        np.testing.assert_allclose(ours[:, good], expected[:, good], rtol=1e-6, atol=1e-4)
        claimed = (full > 0).any(axis=0)
        np.testing.assert_array_equal(ours.astype(np.float32).sum(axis=0)[claimed], image[claimed])
    assert spans[0][3] == spans[0][2]


@pytest.mark.parametrize("rule", ["r-to-peak", "r-to-footprint", "nearest-footprint"])
def test_stray_pixels(rule):
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 40, (2, 50))
    pixels = rng.uniform(1, 100, 50).astype(np.float32)
    peaks = [(5, 5), (20, 8), (30, 30)]
    spans = np.array([0, 2, 3, 6])
    sy = np.array([5, 6, 8, 29, 30, 31])
    x0 = np.array([3, 4, 18, 29, 28, 30])
    x1 = np.array([7, 6, 22, 31, 33, 30])
    footprints = [
        [(u, sy[s]) for s in range(spans[k], spans[k + 1]) for u in range(x0[s], x1[s] + 1)] for k in range(3)
    ]
    number = {"r-to-peak": stray.TO_PEAK, "r-to-footprint": stray.TO_FOOTPRINT}.get(rule, stray.NEAREST)
    px, py = np.array(peaks).T
    child, pixel, share = stray.share_stray_pixels(x, y, pixels, px, py, spans, sy, x0, x1, number, 0.05)
    ours = np.zeros((50, 3))
    ours[pixel, child] = share
    expected = [
        twins.share_stray_pixel(*v, peaks, footprints, rule, 0.05) for v in zip(x, y, pixels, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.astype(np.float32).sum(axis=1, dtype=np.float32), pixels)
