"""Broken pixels, borders, PSFs that fail, and blends of any size: flags instead of failures."""

from __future__ import annotations

import time

import numpy as np
import pytest

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.mask_planes import mask_of
from secondlight.psf.evaluation import InvalidPsfError

from .scene import Blend, child_image, children_of, make_blend


class BrokenPsf:
    """A PSF that cannot be evaluated right of some column."""

    def __init__(self, psf, *, limit):
        self._psf = psf
        self._limit = limit

    def __getattr__(self, name):
        if name not in ("compute_kernel_image", "compute_stellar_image"):
            return getattr(self._psf, name)

        def compute(*, x, y):
            if x > self._limit:
                raise InvalidPsfError("out of reach")
            return getattr(self._psf, name)(x=x, y=y)

        return compute


@pytest.fixture
def pair():
    return make_blend([50.2, 60.1], [50.3, 53.0], [3e4, 1e4], width=120, height=110, grow=3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(50, 50), (50, 52), (52, 55)])
def test_pixels_that_are_not_finite(pair, value, where):
    image = pair.exposure.image.array
    image[where] = value
    catalog = pair.split()
    assert catalog["deblend_nChild"][0] == 2
    images = [child_image(catalog, row, pair.exposure) for row in children_of(catalog)]
    good = np.isfinite(image)
    for child, flux in zip(images, [3e4, 1e4], strict=True):
        assert np.isfinite(child[good]).all()
        assert child[good].sum() == pytest.approx(flux, rel=0.25)


def test_nothing_but_nan(pair):
    pair.exposure.image.array[...] = np.nan
    catalog = pair.split()
    assert len(catalog) == 1
    assert catalog["deblend_skipped"][0]
    assert mask_of(pair.exposure.mask, ["NOT_DEBLENDED"]).sum() == pair.footprints.areas()[0]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -1.0])
def test_variance_without_meaning(pair, value):
    """Without weights there are no point sources, but there are templates."""
    pair.exposure.variance.array[...] = value
    catalog = pair.split()
    assert catalog["deblend_nChild"][0] == 2
    assert not catalog["deblend_deblendedAsPsf"].any()


def test_some_pixels_without_variance(pair):
    pair.exposure.variance.array[48:52, 48] = 0
    assert pair.split()["deblend_deblendedAsPsf"].tolist() == [False, True, True]


@pytest.mark.parametrize("x0", [0, 1000])
@pytest.mark.parametrize(
    ("x", "y"),
    [([1, 9], [40, 40]), ([78, 70], [40, 42]), ([40, 45], [1, 8]), ([40, 44], [68, 60]), ([0, 7], [0, 6])],
)
def test_blend_at_the_border_of_the_image(x, y, x0):
    x = np.asarray(x) + x0
    blend = make_blend(x, np.asarray(y) - 20.0, [3e4, 2e4], width=80, height=70, x0=x0, y0=-20)
    catalog = blend.split()
    assert catalog["deblend_nChild"][0] == 2
    box = blend.exposure.bbox
    left, bottom, right, top = catalog.footprints.bounding_boxes().T
    assert left.min() >= box.x.min
    assert right.max() <= box.x.max
    assert bottom.min() >= box.y.min
    assert top.max() <= box.y.max
    assert all(catalog.footprints.heavy_pixels(row).sum() > 5e3 for row in children_of(catalog))


def test_footprint_that_leaves_the_image(pair):
    height, width = pair.exposure.bbox.shape
    big = Footprints.from_mask(np.ones((height + 20, width + 20), dtype=bool), x0=-10, y0=-10)
    peaks = Peaks(*(np.append(v, v[-1]) for v in pair.footprints.all_peaks))
    peaks.x[-1] = -5
    footprints = big.with_peaks(np.array([0, 3]), peaks)
    catalog = Blend(pair.exposure, footprints, pair.x, pair.y, pair.flux).split()
    assert catalog["deblend_nChild"][0] == 2
    assert catalog["deblend_skipped"].tolist() == [True, False, False]


def test_faint_peak_at_the_edge_of_the_footprint_is_kept():
    """A peak in a corner of the blend has no room for a fit; its symmetric template makes the child."""
    blend = make_blend([50.0, 58.0], [50.0, 50.0], [2e4, 2e3], width=100, height=100)
    inside = blend.footprints.to_mask(blend.exposure.bbox.shape)
    inside[:, 59:] = False
    footprints = Footprints.from_mask(inside).with_peaks(np.array([0, 2]), blend.footprints.all_peaks)
    catalog = Blend(blend.exposure, footprints, blend.x, blend.y, blend.flux).split()
    assert catalog["deblend_nChild"][0] == 2
    assert catalog.footprints.areas()[2] >= 3


def test_tiny_blend(pair):
    tiny = Footprints.from_mask(np.ones((2, 3), dtype=bool), x0=49, y0=50)
    peaks = Peaks(*(np.array(v) for v in ([49, 51], [50, 50], [3.0, 2.0], [3.0, 2.0], [1, 2])))
    catalog = Blend(
        pair.exposure, tiny.with_peaks(np.array([0, 2]), peaks), pair.x, pair.y, pair.flux
    ).split()
    assert catalog["deblend_nChild"][0] == 2
    assert not catalog["deblend_deblendedAsPsf"].any()


def with_psf(blend: Blend, limit: float) -> Blend:
    """Break the PSF of a scene right of a column."""
    blend.exposure.psf = BrokenPsf(blend.exposure.psf, limit=limit)
    return blend


def test_psf_that_cannot_be_evaluated(pair):
    catalog = with_psf(pair, -1.0).split()
    assert len(catalog) == 1
    assert catalog["deblend_failed"][0]
    assert not catalog["deblend_skipped"][0]
    assert catalog["deblend_nPeaks"][0] == 2
    assert mask_of(pair.exposure.mask, ["NOT_DEBLENDED"]).any()
    with pytest.raises(InvalidPsfError, match=r"visit 100, detector 4 .* id 1"):
        pair.split(catchFailures=False)


def test_psf_failure_is_the_blends_own():
    """Where the PSF fails at a peak, that of the average position stands in; other blends are untouched."""
    x, y = [30.0, 40.0, 100.0, 110.0], [30.0, 30.0, 60.0, 60.0]
    blend = make_blend(x, y, [2e4, 1e4] * 2, width=140, height=100)
    catalog = with_psf(blend, 105.5).split()
    assert catalog["deblend_failed"].sum() == 0
    assert catalog["deblend_nChild"][:2].tolist() == [2, 2]
    catalog = with_psf(blend, 70.5).split()
    assert catalog["deblend_failed"].tolist()[:2] == [False, True]
    assert catalog["deblend_nChild"][:2].tolist() == [2, 0]


def test_huge_blend():
    """A blend of 10^5 pixels with 300 peaks, far over the reference's limit of area, is split in no time."""
    rng = np.random.default_rng(2)
    x, y = rng.uniform(20, 320, (2, 300))
    flux = np.sort(10 ** rng.uniform(3.3, 5, 300))[::-1]
    blend = make_blend(x, y, flux, width=340, height=340, level=-1.0)
    assert blend.footprints.areas().tolist() == [340 * 340]
    start = time.process_time()
    catalog = blend.split()
    assert time.process_time() - start < 60  # compiling included
    assert catalog["deblend_nChild"][0] >= 295
    assert not catalog["deblend_parentTooBig"].any()
    total = np.zeros(blend.exposure.bbox.shape, dtype=np.float32)
    for row in children_of(catalog):
        total += child_image(catalog, row, blend.exposure)
    claimed = total != 0
    np.testing.assert_array_equal(total[claimed], blend.exposure.image.array[claimed])
    assert total.sum() == pytest.approx(flux.sum(), rel=0.05)
