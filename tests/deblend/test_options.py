"""What the configuration fields do."""

from __future__ import annotations

import numpy as np
import pytest

from secondlight.catalog.mask_planes import mask_of

from .scene import child_image, children_of, make_blend, make_task

EXTENDED = {"psfChisq1": 0.0, "psfChisq2": 0.0, "psfChisq2b": 0.0}


@pytest.fixture(scope="module")
def triple():
    return make_blend([50.2, 60.1, 54.7], [50.3, 53.0, 60.4], [3e4, 2e4, 1e4], width=110, height=110, grow=3)


def test_no_point_sources(triple):
    catalog = triple.split(**EXTENDED)
    assert not catalog["deblend_deblendedAsPsf"].any()
    assert np.isnan(catalog["deblend_psf_instFlux"]).all()
    fluxes = [catalog.footprints.heavy_pixels(row).sum() for row in children_of(catalog)]
    np.testing.assert_allclose(fluxes, [3e4, 2e4, 1e4], rtol=0.1)


def test_templates_fall_outward(triple):
    catalog = triple.split(**EXTENDED)
    for row in children_of(catalog):
        pixels = child_image(catalog, row, triple.exposure)
        x, y = catalog["deblend_peak_center_x"][row], catalog["deblend_peak_center_y"][row]
        assert pixels[y - 2 : y + 3, x - 2 : x + 3].min() > pixels[pixels != 0].mean()


@pytest.mark.parametrize("rule", ["r-to-peak", "r-to-footprint", "nearest-footprint"])
def test_stray_flux(triple, rule):
    """With a rule that shares stray flux the positive pixels of the parent are all claimed."""
    trimmed = triple.split(**EXTENDED)
    catalog = triple.split(**EXTENDED, strayFluxRule=rule)
    assert catalog["deblend_hasStrayFlux"][children_of(catalog)].any()
    assert not trimmed["deblend_hasStrayFlux"].any()
    total = sum(child_image(catalog, row, triple.exposure) for row in children_of(catalog))
    whole = triple.footprints.to_mask(triple.exposure.bbox.shape)
    image = triple.exposure.image.array
    positive = whole & (image > 0)
    np.testing.assert_array_equal(total[positive], image[positive])
    assert catalog.footprints.areas()[0] == whole.sum() > trimmed.footprints.areas()[0]
    for row in children_of(catalog):
        before, after = (child_image(c, row, triple.exposure) for c in (trimmed, catalog))
        np.testing.assert_array_equal(after[before != 0], before[before != 0])


def test_stray_flux_and_point_sources():
    """Beside a galaxy stars get stray flux only with `always`; without one, unless it is `never`."""
    blend = make_blend([50.0, 70.0], [50.0, 50.0], [2e4, 2e4], width=120, height=100, grow=15)
    rule = {"strayFluxRule": "r-to-peak"}
    assert blend.split(**rule)["deblend_hasStrayFlux"].tolist() == [False, True, True]
    never = blend.split(**rule, strayFluxToPointSources="never")
    assert not never["deblend_hasStrayFlux"].any()
    assert not blend.split(**rule, assignStrayFlux=False)["deblend_hasStrayFlux"].any()
    y, x = np.mgrid[:100, :120]
    galaxy = 4e4 / (2 * np.pi * 16) * np.exp(-((x - 50) ** 2 + (y - 50) ** 2) / 32)
    blend.exposure.image.array[...] += galaxy.astype(np.float32)
    assert blend.split(**rule)["deblend_deblendedAsPsf"].tolist() == [False, False, True]
    assert blend.split(**rule)["deblend_hasStrayFlux"].tolist() == [False, True, False]
    always = blend.split(**rule, strayFluxToPointSources="always")
    assert always["deblend_hasStrayFlux"].tolist() == [False, True, True]


def test_stray_shares_below_the_fraction_are_dropped(triple):
    rule = EXTENDED | {"strayFluxRule": "r-to-peak"}
    few = triple.split(**rule, clipStrayFluxFraction=0.5)
    all_of_them = triple.split(**rule, clipStrayFluxFraction=0.0)
    assert few.footprints.areas()[1:].sum() < all_of_them.footprints.areas()[1:].sum()


def test_weighted_templates(triple):
    """The fit scales the templates, here of the wrong flux, to the image."""
    plain, weighted = triple.split(**EXTENDED), triple.split(**EXTENDED, weightTemplates=True)
    total = [c.footprints.heavy.sum() for c in (plain, weighted)]
    assert total[0] == pytest.approx(total[1], rel=1e-3)
    assert (plain.footprints.heavy != weighted.footprints.heavy).any()


def test_degenerate_templates():
    """Two peaks on one star: the second template is nearly the first and goes, and its parent says so."""
    blend = make_blend(
        [50.0, 52.0, 64.0], [50.0, 50.0, 50.0], [3e4, 10.0, 2e4], width=110, height=100, grow=3
    )
    assert blend.split(**EXTENDED)["deblend_nChild"][0] == 3
    catalog = blend.split(**EXTENDED, removeDegenerateTemplates=True)
    assert catalog["deblend_nChild"][0] == 2
    assert catalog["deblend_skipped"].tolist() == [True, False, False]
    assert catalog["deblend_peak_center_x"][1:].tolist() == [50, 64]
    loose = blend.split(**EXTENDED, removeDegenerateTemplates=True, maxTempDotProd=1.0)
    assert loose["deblend_nChild"][0] == 3


def test_median_smoothing(triple):
    rough = triple.split(**EXTENDED, medianSmoothTemplate=False)
    assert rough.footprints != triple.split(**EXTENDED).footprints


@pytest.mark.parametrize("limit", [1, 2])
def test_limit_of_peaks(triple, limit):
    """The brightest peaks become children; the flags tell that there are more."""
    catalog = triple.split(maxNumberOfPeaks=limit)
    assert catalog["deblend_nChild"][0] == limit
    assert catalog["deblend_tooManyPeaks"].tolist() == [True] + [False] * limit
    assert catalog["deblend_skipped"].tolist() == [True] + [False] * limit
    assert catalog["deblend_nPeaks"].tolist() == [3] + [1] * limit
    assert catalog["deblend_parentNPeaks"].tolist() == [0] + [3] * limit
    assert catalog["deblend_peakId"][1:].tolist() == list(range(1, limit + 1))
    assert not triple.split(maxNumberOfPeaks=3)["deblend_tooManyPeaks"].any()


def test_peak_without_light_gets_a_child_only_on_request():
    blend = make_blend([50.0, 60.0], [50.0, 50.0], [2e4, 1e4], width=110, height=100, grow=6)
    image = blend.exposure.image.array
    image[44:57, 56:65] = -50.0  # nothing is left of the second star
    catalog = blend.split()
    assert catalog["deblend_nChild"][0] == 1
    assert catalog["deblend_skipped"].tolist() == [True, False]
    everyone = blend.split(propagateAllPeaks=True)
    assert everyone["deblend_nChild"][0] == 2
    assert not everyone["deblend_skipped"].any()
    assert everyone.footprints.areas()[2] == 1
    assert everyone.footprints.heavy_pixels(2).tolist() == [-50.0]


def star_at_the_border():
    return make_blend([2.0, 14.0], [50.0, 50.0], [5e4, 5e4], width=90, height=100, sigma=3.0)


def test_edges_of_templates():
    """A star half outside the image: ramped by default, patched with noclip, cut with clip."""
    blend = star_at_the_border()
    ramp, clip, noclip = (blend.split(**EXTENDED, edgeHandling=how) for how in ("ramp", "clip", "noclip"))
    for catalog, ramped, patched in ((ramp, True, False), (clip, False, False), (noclip, False, True)):
        first = children_of(catalog)[0]
        assert catalog["deblend_peak_center_x"][first] == 2
        assert catalog["deblend_rampedTemplate"][first] == ramped
        assert catalog["deblend_patchedTemplate"][first] == patched
    areas = [catalog.footprints.areas()[1] for catalog in (clip, ramp, noclip)]
    assert areas[0] < areas[1]
    assert areas[0] < areas[2]
    fluxes = [c.footprints.heavy_pixels(1).sum() for c in (clip, ramp, noclip)]
    assert fluxes[0] < min(fluxes[1:])


def test_ramped_children_never_share_pixels_of_other_sources():
    """Templates that grow beyond their footprint leave other footprints, and each other's pixels, alone."""
    x = [2.0, 10.0, 30.0, 38.0, 60.0, 67.0]
    y = [3.0, 8.0, 3.0, 8.0, 2.0, 8.0]
    blend = make_blend(x, y, [5e4, 3e4] * 3, width=90, height=40, level=250.0)
    assert len(blend.footprints) >= 3
    catalog = blend.split(**EXTENDED)
    assert catalog["deblend_rampedTemplate"].any()
    shape = blend.exposure.bbox.shape
    parents = np.flatnonzero(catalog["parent"] == 0)
    counts = np.zeros(shape, dtype=int)
    for row in parents:
        counts += catalog.footprints.take([row]).to_mask(shape)
    assert counts.max() == 1


def test_limits_of_size_leave_a_blend_whole(triple):
    catalog = triple.split(maxFootprintArea=100)
    assert len(catalog) == 1
    assert catalog["deblend_parentTooBig"][0]
    assert catalog["deblend_skipped"][0]
    assert mask_of(triple.exposure.mask, ["NOT_DEBLENDED"]).sum() == triple.footprints.areas()[0]


def test_ids_after_a_selection():
    """Children continue the highest id, whatever the number of rows."""
    x, y = np.array([30.0, 40.0, 90.0, 100.0]), np.array([30.0, 30.0, 60.0, 60.0])
    blend = make_blend(x, y, [2e4, 1e4] * 2, width=140, height=100)
    task, schema = make_task(useCiLimits=True, ciNumParentsToDeblend=1)
    sources = blend.sources(schema)
    sources["id"] = [1, 7]
    assert task.run(blend.exposure, sources)["id"].tolist() == [1, 2, 3]
    sources["id"] = [7, 1]
    assert task.run(blend.exposure, sources)["id"].tolist() == [7, 8, 9]
