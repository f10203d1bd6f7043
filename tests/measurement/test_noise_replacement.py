from __future__ import annotations

import numpy as np
import pytest

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.schema import minimal_source_schema
from secondlight.measurement.noise_replacement import (
    NoiseLevelError,
    NoiseReplacement,
    NoiseReplacerConfig,
    unreplaced_pixels,
)
from secondlight.measurement.pixels import hide, show
from tests.measurement.scene import make_catalog, round_footprints
from tests.scenes import make_visit_image

X0, Y0 = 5, 4


def blend():
    """Return an image with a blend of two (children heavy), a single source, and their catalog."""
    exposure = make_visit_image(
        width=120, height=100, x0=X0, y0=Y0, x=[40, 52, 90], y=[50, 50, 30], flux=[2e4, 1e4, 5e3]
    )
    parts = round_footprints([40, 52, 90], [50, 50, 30])
    parent = parts.take([0]).union(parts.take([1]))
    rng = np.random.default_rng(7)
    model = rng.normal(100, 5, exposure.image.array.shape).astype(np.float32)
    children = parts.take([0, 1]).with_heavy(model, x0=X0, y0=Y0)
    footprints = Footprints.concatenate([parent, parts.take([2]), children])
    return exposure, make_catalog(minimal_source_schema(), footprints, parents=[0, 0, 1, 1]), model


def replace(exposure, catalog, **settings):
    config = NoiseReplacerConfig(**settings)
    return NoiseReplacement.from_sources(exposure, catalog, config=config, seed=3)


def test_only_footprints_change_and_everything_comes_back() -> None:
    exposure, catalog, model = blend()
    before = exposure.image.array.copy()
    replacement = replace(exposure, catalog)
    pixels = replacement.pixels(exposure, catalog["id"])
    inside = catalog.footprints.to_mask(before.shape, x0=X0, y0=Y0)
    np.testing.assert_array_equal(pixels.image[~inside], before[~inside])
    assert (pixels.image[inside] != before[inside]).mean() > 0.99
    hidden = pixels.image.copy()
    for row in (3, 0, 2, 1, 0):
        show(pixels, row)
        own = catalog.footprints.take([row]).to_mask(before.shape, x0=X0, y0=Y0)
        source = before if row < 2 else model
        np.testing.assert_array_equal(pixels.image[own], source[own])
        np.testing.assert_array_equal(pixels.image[~own], hidden[~own])
        hide(pixels, row)
        np.testing.assert_array_equal(pixels.image, hidden)
    np.testing.assert_array_equal(exposure.image.array, before)


def test_same_seed_same_noise() -> None:
    exposure, catalog, _ = blend()
    first, second = replace(exposure, catalog).image, replace(exposure, catalog).image
    np.testing.assert_array_equal(first, second)
    other = NoiseReplacement.from_sources(exposure, catalog, config=NoiseReplacerConfig(), seed=4).image
    assert (first != other).any()
    negative = NoiseReplacement.from_sources(exposure, catalog, config=NoiseReplacerConfig(), seed=-3).image
    assert (first != negative).any()


@pytest.mark.parametrize("source", ["measure", "variance", "variance_median", "meta"])
def test_level_of_the_noise(source: str) -> None:
    exposure = make_visit_image(width=200, height=200, noise=20.0)
    exposure.metadata["BGMEAN"] = 400.0
    catalog = make_catalog(minimal_source_schema(), round_footprints([100], [100], 90))
    image = replace(exposure, catalog, noiseSource=source, noiseOffset=3.0).image
    values = image[catalog.footprints.to_mask(image.shape)]
    assert values.mean() == pytest.approx(3.0, abs=0.6)
    assert values.std() == pytest.approx(20, rel=0.03)


def test_level_that_cannot_be_found() -> None:
    exposure = make_visit_image(width=60, height=60)
    catalog = make_catalog(minimal_source_schema(), round_footprints([30], [30], 5))
    with pytest.raises(ValueError, match=r"BGMEAN.*visit 100, detector 4"):
        replace(exposure, catalog, noiseSource="meta")
    exposure.metadata["BGMEAN"] = -2.0
    with pytest.raises(NoiseLevelError, match=r"visit 100, detector 4.*BGMEAN is -2"):
        replace(exposure, catalog, noiseSource="meta")
    exposure.image.array[...] = np.nan
    with pytest.raises(NoiseLevelError, match=r"visit 100, detector 4.*no finite pixels"):
        replace(exposure, catalog)
    exposure.variance.array[...] = np.nan
    with pytest.raises(NoiseLevelError, match=r"visit 100, detector 4.*no finite pixels"):
        replace(exposure, catalog, noiseSource="variance_median")


def test_given_noise_is_put_in() -> None:
    exposure, catalog, _ = blend()
    areas = catalog.footprints.areas()
    offsets = np.concatenate([[0], np.cumsum(areas)])
    values = np.repeat(np.arange(4, dtype=np.float32) * 1000, areas)
    replacement = NoiseReplacement.from_sources(
        exposure, catalog, config=NoiseReplacerConfig(), seed=1, noise=(offsets, values)
    )
    labels = catalog.footprints.to_labels(exposure.image.array.shape, x0=X0, y0=Y0)
    np.testing.assert_array_equal(replacement.image[labels >= 0], labels[labels >= 0] * 1000.0)


def test_child_without_own_pixels_shows_its_parent() -> None:
    exposure, catalog, _ = blend()
    light = catalog.footprints.take([2])
    light = Footprints.from_spans(light.span_offsets, light.span_y, light.span_x0, light.span_x1)
    catalog.footprints = Footprints.concatenate(
        [catalog.footprints.take([0, 1]), light, catalog.footprints.take([3])]
    )
    pixels = replace(exposure, catalog).pixels(exposure, catalog["id"])
    show(pixels, 2)
    parent = catalog.footprints.take([0]).to_mask(pixels.image.shape, x0=X0, y0=Y0)
    np.testing.assert_array_equal(pixels.image[parent], exposure.image.array[parent])


def test_footprints_over_the_edge_are_cut() -> None:
    exposure = make_visit_image(width=60, height=60)
    catalog = make_catalog(minimal_source_schema(), round_footprints([2], [58], 8))
    pixels = replace(exposure, catalog).pixels(exposure, catalog["id"])
    show(pixels, 0)
    np.testing.assert_array_equal(pixels.image, exposure.image.array)


def test_unknown_source_and_missing_footprints() -> None:
    exposure, catalog, _ = blend()
    with pytest.raises(ValueError, match="Source 99"):
        replace(exposure, catalog).pixels(exposure, np.array([1, 99]))
    catalog.footprints = None
    with pytest.raises(ValueError, match="without footprints"):
        replace(exposure, catalog)


def test_unreplaced() -> None:
    exposure, catalog, _ = blend()
    pixels = unreplaced_pixels(exposure, len(catalog))
    show(pixels, 2)
    np.testing.assert_array_equal(pixels.image, exposure.image.array)
