"""The plugins of PSF-corrected shapes: columns, settings, bad input, neighbours."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import numpy as np
import pytest
from lsst.images import Box, Image
from lsst.images.psfs import GaussianPointSpreadFunction, PointSpreadFunction

from secondlight.catalog.footprints import Footprints
from secondlight.measurement.plugin import plugin_registry
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageConfig
from tests.measurement.scene import fixed_slots, make_catalog, make_config, measure_at, round_footprints
from tests.scenes import make_visit_image

from .test_hsm_shapes import METHODS, PLUGINS, Galaxy, by_galsim


def wide_source(*, sigma: float = 3.0, size: int = 141, noise: float = 1.0, flux: float = 1e4) -> Any:
    """Return an image of Gaussian sources wider than its PSF, at (70.3, 69.8)."""
    bounds = Box.factory[0:size, 0:size]
    exposure = make_visit_image(
        width=size,
        height=size,
        x=[70.3],
        y=[69.8],
        flux=[flux],
        psf=GaussianPointSpreadFunction(sigma, bounds, 61),
        noise=noise,
        seed=9,
    )
    exposure.psf = GaussianPointSpreadFunction(2.0, bounds, 41)
    return exposure


@pytest.mark.parametrize("method", METHODS)
def test_columns(method: str) -> None:
    prefix = PLUGINS[method]
    schema = fixed_slots()
    before = set(schema.names)
    task = SingleFrameMeasurementTask(schema, config=make_config(prefix))
    (plugin,) = (p for p in task.plugins if p.name == prefix)
    assert plugin.order == 1.0
    shape = ("g1", "g2") if method == "KSB" else ("e1", "e2")
    flags = {"flag", *(f"flag_{f}" for f in ("no_pixels", "not_contained", "parent_source", "galsim"))}
    expected = {f"{prefix}_{c}" for c in (*shape, "sigma", "resolution")} | {f"{prefix}_{f}" for f in flags}
    assert {name for name in schema.names if name.startswith("ext_")} - before == expected
    catalog = make_catalog(schema, round_footprints([70], [70]))
    for name in expected:
        is_flag = "_flag" in name
        assert catalog[name].dtype == (bool if is_flag else np.float64)
    assert schema.aliases[f"{prefix}_flag_badCentroid"] == "in_flag"


@pytest.mark.parametrize("method", METHODS)
def test_settings(method: str) -> None:
    config = plugin_registry[PLUGINS[method]].ConfigClass()
    assert list(config.badMaskPlanes) == ["BAD", "SAT"]
    assert config.deblendNChild == ""
    assert config.doMeasure
    assert isinstance(config, pex_config.Config)


def test_children_that_nobody_counts_are_refused_at_construction() -> None:
    config = make_config(PLUGINS["REGAUSS"])
    config.plugins[PLUGINS["REGAUSS"]].deblendNChild = "deblend_nChild"
    with pytest.raises(ValueError, match="deblendNChild is 'deblend_nChild', but there is no column"):
        SingleFrameMeasurementTask(fixed_slots(), config=config)


def test_only_regauss_is_on() -> None:
    names = set(ReprocessVisitImageConfig().measurement.plugins.names)
    assert {method for method, plugin in PLUGINS.items() if plugin in names} == {"REGAUSS"}


@pytest.mark.parametrize("method", METHODS)
def test_plugin_gives_what_galsim_gives(method: str) -> None:
    """Pixels of the footprint's box, median variance of the good ones, guesses from the PSF's size."""
    prefix = PLUGINS[method]
    exposure = wide_source()
    exposure.variance.array[:60] = 50.0
    bad = np.zeros(exposure.mask.array.shape[:2], dtype=bool)
    bad[62:66, 75:79] = True
    exposure.image.array[bad] = 1e6
    exposure.mask.set("SATURATED", bad)
    catalog = measure_at(exposure, [prefix], x=[70.3], y=[69.8], radius=18)
    box = np.s_[52:89, 52:89]
    offset = 70.3 - 70, 69.8 - 70
    stamp = np.asarray(exposure.psf.compute_stellar_image(x=70.3, y=69.8).array, dtype=float)
    assert stamp.shape == (41, 41)
    assert np.argmax(stamp) == 20 * 41 + 20
    galaxy = Galaxy(
        np.ascontiguousarray(exposure.image.array[box]),
        ~bad[box],
        stamp,
        18 + offset[0],
        18 + offset[1],
        sigma=5.0,
        psf_sigma=2.0,
        variance=float(np.median(exposure.variance.array[box][~bad[box]])),
    )
    expected, message = by_galsim(galaxy, method)
    assert not message
    shape = ("g1", "g2") if method == "KSB" else ("e1", "e2")
    ours = [catalog[f"{prefix}_{c}"][0] for c in (*shape, "sigma", "resolution")]
    expected[2] *= 1 if method == "KSB" else 2
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-6)
    assert not any(catalog[f"{prefix}_flag{f}"][0] for f in ("", "_galsim", "_no_pixels", "_not_contained"))
    # The image is left as it was.
    assert exposure.image.array[64, 77] == np.float32(1e6)


@pytest.mark.parametrize("method", METHODS)
def test_bad_input_fails_alone(method: str) -> None:
    """Borders, bad centroids, a lonely pixel, masked pixels: the reason is told, the others are measured."""
    prefix = PLUGINS[method]
    exposure = wide_source()
    exposure.mask.set(
        "BAD", np.abs(np.mgrid[:141, :141] - np.array([20, 110])[:, None, None]).max(axis=0) < 16
    )
    x = [70.3, 0.0, 140.0, 70.0, 70.0, np.nan, 110.0, 70.3, 30.0]
    y = [69.8, 70.0, 70.0, 0.0, 140.0, 69.8, 20.0, 69.8, 30.0]
    schema = fixed_slots()
    schema.add("deblend_nChild", np.int32, "")
    config = make_config(prefix)
    config.plugins[prefix].deblendNChild = "deblend_nChild"
    config.doReplaceWithNoise = False
    task = SingleFrameMeasurementTask(schema, config=config)
    # The eighth is a blend, the ninth has a footprint of one pixel; the fifth has its centre elsewhere.
    footprints = round_footprints([*x[:5], 70, *x[6:]], [*y[:5], 70, *y[6:]], 15)
    single = round_footprints([30], [30], 0)
    footprints = Footprints.concatenate([footprints.take(slice(8)), single])
    catalog = make_catalog(schema, footprints, in_x=x, in_y=y)
    catalog["in_y"][4] = 60.0
    catalog["in_flag"][5] = True
    catalog["deblend_nChild"][7] = 2
    task.run(catalog, exposure)
    flag = {f: catalog[f"{prefix}_flag{f}"] for f in ("", "_galsim", "_no_pixels", "_not_contained")}
    assert not flag[""][0]
    assert flag["_no_pixels"].tolist() == [False] * 6 + [True, False, False]
    assert flag["_not_contained"].tolist() == [False] * 4 + [True] + [False] * 4
    assert catalog[f"{prefix}_flag_parent_source"].tolist() == [False] * 7 + [True, False]
    assert flag["_galsim"][8]
    # The peak stands in for the centroid that is NaN, which is only a first guess.
    assert not flag[""][5]
    component = "g1" if method == "KSB" else "e1"
    assert catalog[f"{prefix}_{component}"][5] == pytest.approx(catalog[f"{prefix}_{component}"][0], abs=1e-4)
    values = np.array([catalog[f"{prefix}_{c}"] for c in (component, "sigma", "resolution")])
    assert np.isfinite(values[:, ~flag[""]]).all()
    assert flag[""][[4, 6, 7, 8]].all()


class Patchy(PointSpreadFunction):
    """A PSF that is not known right of x = 80."""

    def __init__(self, inner: PointSpreadFunction) -> None:
        self._inner = inner

    bounds = property(lambda self: self._inner.bounds)
    kernel_bbox = property(lambda self: self._inner.kernel_bbox)

    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        """Return the image of the inner one."""
        if x > 80:
            raise ValueError("no PSF here")
        return self._inner.compute_kernel_image(x=x, y=y)

    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        """Return the image of the inner one."""
        if x > 80:
            raise ValueError("no PSF here")
        return self._inner.compute_stellar_image(x=x, y=y)

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
        """Return the box of the inner one."""
        return self._inner.compute_stellar_bbox(x=x, y=y)


@pytest.mark.parametrize("method", METHODS)
def test_a_source_without_psf_fails_alone(method: str) -> None:
    prefix = PLUGINS[method]
    exposure = wide_source()
    exposure.psf = Patchy(exposure.psf)
    catalog = measure_at(exposure, [prefix], x=[70.3, 82.0], y=[69.8, 69.8], radius=18)
    assert catalog[f"{prefix}_flag"].tolist() == [False, True]
    assert catalog[f"{prefix}_flag_galsim"].tolist() == [False, False]
    assert catalog["base_InvalidPsf_flag"].tolist() == [False, True]


@pytest.mark.parametrize("method", METHODS)
def test_dark_objects_are_flagged(method: str) -> None:
    prefix = PLUGINS[method]
    exposure = wide_source(flux=-1e4)
    catalog = measure_at(exposure, [prefix], x=[70.3], y=[69.8], radius=18)
    assert catalog[f"{prefix}_resolution"][0] == pytest.approx(1 - 4 / 9, abs=0.02)
    assert catalog[f"{prefix}_sigma"][0] < 0
    assert catalog[f"{prefix}_flag"][0]
    assert not catalog[f"{prefix}_flag_galsim"][0]


def test_unknown_variance_is_flagged() -> None:
    exposure = wide_source()
    exposure.variance.array[...] = np.nan
    prefix = PLUGINS["REGAUSS"]
    catalog = measure_at(exposure, [prefix], x=[70.3], y=[69.8], radius=18)
    assert np.isfinite(catalog[f"{prefix}_e1"][0])
    assert np.isnan(catalog[f"{prefix}_sigma"][0])
    assert catalog[f"{prefix}_flag"][0]


def test_neighbours_are_noise() -> None:
    """A bright neighbour in the corner of a source's box spoils the shape unless it is replaced."""
    exposure = wide_source()
    neighbour = make_visit_image(
        width=141, height=141, x=[82.8], y=[82.3], flux=[1e6], psf=exposure.psf, add_noise=False
    )
    exposure.image.array[...] += neighbour.image.array
    prefix = PLUGINS["REGAUSS"]
    x, y = [70.3, 82.8], [69.8, 82.3]
    replaced, plain = (
        measure_at(exposure, [prefix], x=x, y=y, radius=9, replace=replace)[f"{prefix}_e2"][0]
        for replace in (True, False)
    )
    alone = measure_at(wide_source(), [prefix], x=x[:1], y=y[:1], radius=9)[f"{prefix}_e2"][0]
    assert abs(replaced - alone) < 0.02 < abs(plain - alone)
