"""Blends of stars are split into children that hold their light."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.mask_planes import mask_of
from secondlight.psf.evaluation import stellar_stamps

from .scene import (
    FWHM,
    Blend,
    child_image,
    children_of,
    footprints_above,
    make_blend,
    make_task,
    psf_flux,
)
from .twins import fit_point_source


@pytest.fixture(scope="module")
def pair():
    return make_blend([60.2, 69.1], [50.3, 53.0], [3e4, 1e4], width=130, height=100)


def test_rows_and_columns(pair):
    task, schema = make_task()
    sources = pair.sources(schema)
    sources["id"] = IdGenerator(5, 20).row_ids(1)
    catalog = task.run(pair.exposure, sources, id_generator=IdGenerator(5, 20))
    assert catalog["id"].tolist() == IdGenerator(5, 20).row_ids(3).tolist()
    assert catalog["parent"].tolist() == [0, catalog["id"][0], catalog["id"][0]]
    assert catalog["deblend_nChild"].tolist() == [2, 0, 0]
    assert catalog["deblend_nPeaks"].tolist() == [2, 1, 1]
    assert catalog["deblend_parentNPeaks"].tolist() == [0, 2, 2]
    assert catalog["deblend_peak_center_x"].tolist() == [60, 60, 69]
    assert catalog["deblend_peak_center_y"].tolist() == [50, 50, 53]
    assert catalog["deblend_peakId"].tolist() == [1, 1, 2]
    assert catalog["deblend_deblendedAsPsf"].tolist() == [False, True, True]
    for name in (
        "tooManyPeaks", "parentTooBig", "masked", "failed", "skipped", "rampedTemplate", "patchedTemplate",
        "hasStrayFlux",
    ):  # fmt: skip
        assert not catalog[f"deblend_{name}"].any(), name
    assert not mask_of(pair.exposure.mask, ["NOT_DEBLENDED"], missing_ok=True).any()
    np.testing.assert_allclose(catalog["deblend_psfCenter_x"], [np.nan, 60.2, 69.1], atol=0.06)
    np.testing.assert_allclose(catalog["deblend_psfCenter_y"], [np.nan, 50.3, 53.0], atol=0.06)
    np.testing.assert_allclose(catalog["deblend_psf_instFlux"], [np.nan, 3e4, 1e4], rtol=0.02)


def test_footprints(pair):
    catalog = pair.split()
    footprints = catalog.footprints
    assert np.diff(footprints.peak_offsets).tolist() == [2, 1, 1]
    assert [footprints.peaks(row).id.tolist() for row in range(3)] == [[1, 2], [1], [2]]
    assert np.diff(footprints.heavy_offsets).tolist() == [0, *footprints.areas()[1:]]
    shape = pair.exposure.bbox.shape
    children = [footprints.take([row]).to_mask(shape) for row in (1, 2)]
    np.testing.assert_array_equal(footprints.take([0]).to_mask(shape), children[0] | children[1])
    assert not (children[0] & ~pair.footprints.to_mask(shape)).any()


@given(st.integers(0, 1000), st.integers(2, 6), st.booleans())
def test_children_sum_to_the_parent(seed, n, as_stars):
    """Inside the union of the templates the children sum to the image, bit for bit, in any order."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(20, 60, (2, n))
    limits = {} if as_stars else dict.fromkeys(["psfChisq1", "psfChisq2", "psfChisq2b"], 0.0)
    blend = make_blend(x, y, 10 ** rng.uniform(3.3, 5, n), width=80, height=80, seed=seed)
    catalog = blend.split(**limits)
    for parent in range(1, len(blend.footprints) + 1):
        images = [child_image(catalog, row, blend.exposure) for row in children_of(catalog, parent)]
        if not images:
            continue
        claimed = np.any([image != 0 for image in images], axis=0)
        for order in (images, images[::-1]):
            total = np.zeros_like(order[0])
            for image in order:
                total += image
            np.testing.assert_array_equal(total[claimed], blend.exposure.image.array[claimed])


@given(st.integers(-300, 300), st.integers(-300, 300))
def test_shifted_scene_gives_shifted_children(dx, dy):
    x, y, flux = np.array([40.2, 47.3, 44.0]), np.array([35.1, 38.4, 45.2]), [2e4, 1e4, 5e3]
    here = make_blend(x, y, flux, width=90, height=80).split()
    there = make_blend(x + dx, y + dy, flux, width=90, height=80, x0=dx, y0=dy).split()
    shifted = here.footprints.shifted(dx=dx, dy=dy)
    for name in ("span_y", "span_x0", "span_x1", "peak_x", "peak_y", "heavy_offsets"):
        np.testing.assert_array_equal(getattr(there.footprints, name), getattr(shifted, name))
    np.testing.assert_allclose(there.footprints.heavy, shifted.heavy, rtol=1e-3, atol=0.2)
    np.testing.assert_allclose(there["deblend_psfCenter_x"], here["deblend_psfCenter_x"] + dx, atol=1e-3)
    np.testing.assert_array_equal(there["deblend_deblendedAsPsf"], here["deblend_deblendedAsPsf"])


def test_runs_are_identical(pair):
    first, second = pair.split(), pair.split()
    assert first.footprints == second.footprints
    for name in first.schema.names:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("offset", [(0.45, 0.45), (-0.45, 0.2), (0.3, -0.45)])
def test_star_off_the_middle_of_its_peak(offset):
    x, y = 50 + offset[0], 50 + offset[1]
    catalog = make_blend([x, 61.0], [y, 50.0], [2e4, 1e4], width=110, height=100, grow=5).split()
    (child,) = [row for row in children_of(catalog) if catalog["deblend_peak_center_x"][row] < 56]
    assert catalog["deblend_deblendedAsPsf"][child]
    assert catalog["deblend_psfCenter_x"][child] == pytest.approx(x, abs=0.05)
    assert catalog["deblend_psfCenter_y"][child] == pytest.approx(y, abs=0.05)


@pytest.mark.parametrize("ratio", [1, 3, 10])
@pytest.mark.parametrize("separation", [1.0, 1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("flux", [1e4, 1e5])
def test_flux_of_two_stars(separation, ratio, flux):
    """Median fluxes of both stars of many pairs, in units of the truth; peaks are given."""
    rng = np.random.default_rng(1)
    bright, faint = [], []
    spacing, n, sigma = 60, 6, 2.0
    grid = 30.0 + spacing * np.arange(n)
    cx, cy = (c.ravel() + rng.uniform(-0.5, 0.5, n * n) for c in np.meshgrid(grid, grid))
    angle = rng.uniform(0, 2 * np.pi, n * n)
    x = np.concatenate([cx, cx + separation * FWHM * sigma * np.cos(angle)])
    y = np.concatenate([cy, cy + separation * FWHM * sigma * np.sin(angle)])
    truth = np.repeat([flux, flux / ratio], n * n)
    side = spacing * n + 20
    blend = make_blend(x, y, truth, width=side, height=side, gain=1.5, sigma=sigma, grow=8)
    catalog = blend.split()
    for row in np.flatnonzero(catalog["parent"] != 0):
        px, py = catalog["deblend_peak_center_x"][row], catalog["deblend_peak_center_y"][row]
        star = np.argmin(np.hypot(px - x, py - y))
        pixels = child_image(catalog, row, blend.exposure)
        value = psf_flux(pixels, blend.exposure, x=x[star], y=y[star])
        (bright if star < n * n else faint).append(value / truth[star])
    bias = np.median(bright) - 1, np.median(faint) - 1
    print(f"flux {flux:g} ratio {ratio} separation {separation}: {bias[0]:+.4f} {bias[1]:+.4f}")
    tolerance = {1.0: (0.03, 0.1), 1.5: (0.02, 0.05)}.get(separation, (0.01, 0.02))
    assert abs(bias[0]) < tolerance[0]
    assert abs(bias[1]) < tolerance[1]


def test_wrong_sign_of_the_shift_is_worse():
    """A star at +0.3 px: the fit at minus its shift, the reference's, is worse than the one at the peak."""
    psf = GaussianPointSpreadFunction(2.0, bounds=Box.factory[0:41, 0:41], stamp_size=41)

    def model(x):
        return stellar_stamps(psf, x=x, y=20.0).images[0] if abs(x - 20) < 0.5 else None

    image, one = 1e4 * model(20.3), np.ones((41, 41))

    def chi2(x):
        return fit_point_source(image, one, one > 0, 20, 20, 4.7, model(x), [])[0]

    dx = fit_point_source(image, one, one > 0, 20, 20, 4.7, model(20.0), [])[3]
    assert dx == pytest.approx(0.32, abs=0.01)
    assert chi2(20 + dx) < 0.01 * chi2(20.0)
    assert chi2(20 - dx) > 3 * chi2(20.0)


def test_extended_source_keeps_its_light():
    """A star beside a galaxy: the galaxy is no point source, and both fluxes are right."""
    blend = make_blend([60.0, 76.0], [60.0, 62.0], [1e4, 1.0], width=140, height=120, noise=5.0)
    y, x = np.mgrid[:120, :140]
    galaxy = 6e4 / (2 * np.pi * 5 * 4) * np.exp(-((x - 76) ** 2 / 50 + (y - 62) ** 2 / 32))
    blend.exposure.image.array[...] += galaxy.astype(np.float32)
    clean = make_blend([60.0], [60.0], [1e4], width=140, height=120, add_noise=False).exposure
    clean.image.array[...] += galaxy.astype(np.float32)
    flux = np.array([1e4, 6e4])
    footprints = footprints_above(clean, 15.0, x=blend.x, y=blend.y, flux=flux)
    catalog = Blend(blend.exposure, footprints, blend.x, blend.y, flux).split()
    assert catalog["deblend_peakId"].tolist() == [1, 1, 2]
    assert not catalog["deblend_deblendedAsPsf"][1]
    totals = [catalog.footprints.heavy_pixels(row).sum() for row in (1, 2)]
    assert totals[0] == pytest.approx(6e4, rel=0.05)
    assert totals[1] == pytest.approx(1e4, rel=0.05)


def test_peaks_pulled_together_by_the_smoothing():
    # As the detection finds stars 1.5 FWHM apart: each peak is well inside of its star.
    x, y = np.array([60.2, 67.3]), np.array([60.1, 59.8])
    blend = make_blend(x, y, [2e4, 2e4], add_noise=True, noise=3.0)
    peaks = blend.footprints.all_peaks
    order = np.argsort(peaks.x)
    inward = np.zeros(2, dtype=peaks.x.dtype)
    inward[order] = 1, -1
    moved = blend.footprints.with_peaks(
        blend.footprints.peak_offsets, peaks._replace(x=peaks.x + inward, y=peaks.y + 1)
    )
    children = dataclasses.replace(blend, footprints=moved).split()[1:]
    children = children[np.argsort(children["deblend_psfCenter_x"])]
    assert children["deblend_deblendedAsPsf"].all()
    np.testing.assert_allclose(children["deblend_psfCenter_x"], x, atol=0.05)
    np.testing.assert_allclose(children["deblend_psfCenter_y"], y, atol=0.05)
    np.testing.assert_allclose(children["deblend_psf_instFlux"], 2e4, rtol=0.01)
    # The children's peaks follow, the record of the detection's peaks does not.
    assert children.footprints.peak_x.tolist() == [60, 67]
    assert children.footprints.peak_y.tolist() == [60, 60]
    assert children["deblend_peak_center_x"].tolist() == [61, 66]
    assert children["deblend_peak_center_y"].tolist() == [61, 61]
