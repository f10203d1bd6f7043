from __future__ import annotations

import logging
import re
from pathlib import Path

import lsst.pex.config as pex_config
import numpy as np
import pytest
from lsst.images import Box, Image
from lsst.images.psfs import PointSpreadFunction

from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.pixels import show
from secondlight.measurement.plugin import (
    FatalMeasurementError,
    MeasurementError,
    MeasurementPlugin,
    MeasurementPluginConfig,
    plugin_registry,
    register,
)
from secondlight.measurement.single_source import SingleSourcePlugin, SourceView
from secondlight.measurement.sources import MeasurementSources
from secondlight.measurement.task import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
from secondlight.psf.evaluation import InvalidPsfError
from tests.measurement.scene import fixed_slots, make_catalog, make_config, measure_at, round_footprints
from tests.scenes import make_visit_image

DOCS = Path(__file__).resolve().parents[2] / "docs" / "measurement.md"


@register("test_Broken")
class BrokenPlugin(MeasurementPlugin):
    """A plugin that always raises."""

    order = 1.0

    def declare(self, schema: Schema) -> None:
        """Add a flag."""
        schema.add_flag(self.column("flag"), "general failure")

    def measure(self, sources: MeasurementSources) -> None:
        """Raise."""
        raise ZeroDivisionError("on purpose")


@register("test_Untidy")
class UntidyPlugin(BrokenPlugin):
    """A plugin that raises while a source is in the image."""

    def measure(self, sources: MeasurementSources) -> None:
        """Show the second source and raise."""
        show(sources.pixels, 1)
        raise RuntimeError("in the middle of it")


@register("test_Picky")
class PickyPlugin(SingleSourcePlugin):
    """Fails in every way there is: by position of the source."""

    order = 2.0

    def declare(self, schema: Schema) -> None:
        """Add a value and two flags."""
        schema.add(self.column("value"), np.float64, "value")
        schema.add_flag(self.column("flag"), "general failure")
        schema.add_flag(self.column("flag_edge"), "specific failure")

    def measure_source(self, source: SourceView) -> dict[str, float]:
        """Raise, or return a value that is no number, or 1."""
        assert source.exposure.psf is not None
        match int(source.x):
            case 10:
                raise MeasurementError("at the edge", flag="flag_edge")
            case 20:
                raise MeasurementError("nothing special")
            case 30:
                raise InvalidPsfError("no PSF here")
            case 40:
                raise KeyError("a programming error")
            case 50:
                return {"value": float("nan")}
            case 60:
                raise FatalMeasurementError("stop")
        return {"value": 1.0}


class SumConfig(MeasurementPluginConfig):
    """Configuration of `SumPlugin`."""

    half = pex_config.Field[int](doc="Half-size of the box, pixels.", default=5)


@register("test_Sum")
class SumPlugin(SingleSourcePlugin):
    """Sum of a box about the source, and a failure where the image says so."""

    ConfigClass = SumConfig
    config: SumConfig
    order = 2.0
    uses_centroid = True

    def declare(self, schema: Schema) -> None:
        """Add the sum."""
        schema.add(self.column("value"), np.float64, "sum of the pixels")
        schema.add_flag(self.column("flag"), "general failure")

    def measure_source(self, source: SourceView) -> dict[str, float]:
        """Sum the box."""
        i, j, h = round(source.x) - source.x0, round(source.y) - source.y0, self.config.half
        if i < 0:
            raise ValueError("off the image")
        return {"value": float(source.image[j - h : j + h + 1, i - h : i + h + 1].sum())}


def test_default_configuration() -> None:
    config = SingleFrameMeasurementConfig()
    config.validate()
    config.plugins["base_CircularApertureFlux"].radii = [3.0, 12.0]
    config.plugins.names |= ["base_FPPosition"]
    schema = minimal_source_schema()
    task = SingleFrameMeasurementTask(schema, config=config)
    assert "base_CircularApertureFlux_12_0_instFlux" in schema.names
    assert "base_CircularApertureFlux_17_0_instFlux" not in schema.names
    assert {a: t for a, t in schema.aliases.items() if a.startswith("slot_")} == {
        "slot_Centroid": "base_SdssCentroid",
        "slot_Shape": "base_SdssShape",
        "slot_PsfShape": "base_SdssShape_psf",
        "slot_ApFlux": "base_CircularApertureFlux_12_0",
        "slot_ModelFlux": "base_GaussianFlux",
        "slot_PsfFlux": "base_PsfFlux",
        "slot_GaussianFlux": "base_GaussianFlux",
        "slot_CalibFlux": "base_CircularApertureFlux_12_0",
    }
    assert schema.aliases["base_PsfFlux_flag_badCentroid"] == "base_SdssCentroid_flag"
    assert schema.aliases["base_GaussianFlux_flag_badShape"] == "base_SdssShape_flag"
    names = [plugin.name for plugin in task.plugins]
    assert names[0] == "base_SdssCentroid"
    orders = [(plugin.order, plugin.name) for plugin in task.plugins]
    assert orders == sorted(orders)
    assert "base_InvalidPsf_flag" in schema


def test_slot_of_a_disabled_plugin() -> None:
    config = SingleFrameMeasurementConfig()
    config.slots.shape = "ext_shapeHSM_HsmSourceMoments"
    with pytest.raises(
        pex_config.FieldValidationError, match=r"slots.shape = 'ext_shapeHSM_HsmSourceMoments'"
    ):
        config.validate()
    config.plugins.names |= ["ext_shapeHSM_HsmSourceMoments"]
    config.validate()


def test_slots_that_nobody_defines() -> None:
    with pytest.raises(ValueError, match="base_PsfFlux needs slot_Centroid"):
        SingleFrameMeasurementTask(minimal_source_schema(), config=make_config("base_PsfFlux"))
    schema = fixed_slots()
    SingleFrameMeasurementTask(schema, config=make_config("base_PsfFlux"))
    assert schema.aliases["base_PsfFlux_flag_badCentroid"] == "in_flag"


def test_configuration_survives_a_file(tmp_path: Path) -> None:
    config = SingleFrameMeasurementConfig()
    config.plugins["base_SdssShape"].maxIter = 50
    config.slots.calibFlux = None
    config.save(str(tmp_path / "measurement.py"))
    other = SingleFrameMeasurementConfig()
    other.load(str(tmp_path / "measurement.py"))
    assert other == config


def scene():
    x, y, flux = [60, 120, 70], [60, 100, 66], [2e4, 1e4, 8e3]
    return make_visit_image(width=200, height=160, x=x, y=y, flux=flux, noise=5.0), x, y, flux


def test_neighbours_are_replaced() -> None:
    exposure, x, y, flux = scene()
    config = make_config("base_SdssCentroid", "base_CircularApertureFlux", centroid="base_SdssCentroid")
    config.plugins["base_CircularApertureFlux"].radii = [9.0]
    schema = minimal_source_schema()
    task = SingleFrameMeasurementTask(schema, config=config)
    first, third = (
        make_visit_image(width=200, height=160, x=[x[k]], y=[y[k]], flux=[flux[k]], add_noise=False)
        for k in (0, 2)
    )
    footprints = round_footprints(x, y, 9)
    parent = footprints.take([0]).union(footprints.take([2]))
    every = parent.concatenate(
        [
            parent,
            footprints.take([1]),
            footprints.take([0]).with_heavy(first.image.array),
            footprints.take([2]).with_heavy(third.image.array),
        ]
    )
    catalog = make_catalog(schema, every, parents=[0, 0, 1, 1])
    before = exposure.image.array.copy()
    task.run(catalog, exposure, seed=5)
    np.testing.assert_array_equal(exposure.image.array, before)
    measured = catalog["base_CircularApertureFlux_9_0_instFlux"]
    np.testing.assert_allclose(measured[1:], [flux[1], flux[0], flux[2]], atol=4 * 5 * 16)
    children = catalog[[2, 3]]
    again = make_catalog(schema, every.take([2, 3]))
    again["id"], again["parent"] = children["id"], 1
    task.run(again, exposure, neighbours=catalog, seed=5)
    for column in schema.names:
        np.testing.assert_array_equal(again[column], children[column])
    other = make_catalog(schema, every, parents=[0, 0, 1, 1])
    task.run(other, exposure, seed=6)
    assert (other["base_CircularApertureFlux_9_0_instFlux"] != measured).any()


def test_undeblended_plugins_see_the_image_as_it_is() -> None:
    exposure, x, y, _ = scene()
    config = make_config("base_PsfFlux")
    config.undeblended.names = ["base_PsfFlux"]
    schema = fixed_slots()
    task = SingleFrameMeasurementTask(schema, config=config)
    catalog = make_catalog(schema, round_footprints(x, y, 4), in_x=x, in_y=y)
    task.run(catalog, exposure)
    assert catalog["undeblended_base_PsfFlux_instFlux"][1] == pytest.approx(1e4, rel=0.02)
    assert catalog["undeblended_base_PsfFlux_instFlux"][2] > catalog["base_PsfFlux_instFlux"][2]


def test_a_plugin_that_raises_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    exposure, x, y, _ = scene()
    with caplog.at_level(logging.WARNING):
        catalog = measure_at(exposure, ["test_Broken", "base_PsfFlux"], x=x, y=y)
    assert catalog["test_Broken_flag"].all()
    assert not catalog["base_PsfFlux_flag"].any()
    assert "test_Broken failed for all 3 sources" in caplog.text


def test_a_plugin_that_raises_leaves_no_source_in_the_image() -> None:
    exposure, x, y, _ = scene()
    alone, after = (
        measure_at(exposure, names, x=x, y=y, replace=True)
        for names in (["base_CircularApertureFlux"], ["test_Untidy", "base_CircularApertureFlux"])
    )
    for name in alone.schema.names:
        np.testing.assert_array_equal(after[name], alone[name], err_msg=name)


def test_one_source_fails_in_every_way(caplog: pytest.LogCaptureFixture) -> None:
    exposure, _, _, _ = scene()
    x = [10.0, 20.0, 30.0, 40.0, 50.0, 70.0]
    with caplog.at_level(logging.WARNING):
        catalog = measure_at(exposure, ["test_Picky"], x=x, y=[80.0] * 6)
    assert catalog["test_Picky_flag"].tolist() == [True] * 5 + [False]
    assert catalog["test_Picky_flag_edge"].tolist() == [True] + [False] * 5
    assert catalog["base_InvalidPsf_flag"].tolist() == [False, False, True, False, False, False]
    np.testing.assert_array_equal(catalog["test_Picky_value"], [np.nan] * 5 + [1.0])
    assert "test_Picky failed for 1 of 6 sources, first with KeyError('a programming error')" in caplog.text
    with pytest.raises(FatalMeasurementError, match="stop"):
        measure_at(exposure, ["test_Picky"], x=[60.0], y=[80.0])


def test_part_of_the_plugins() -> None:
    """Centroids and shapes first, fluxes later: the same as all at once."""
    exposure, x, y, _ = scene()
    config = SingleFrameMeasurementConfig()
    schema = minimal_source_schema()
    task = SingleFrameMeasurementTask(schema, config=config)
    whole, parts = (make_catalog(schema, round_footprints(x, y)) for _ in range(2))
    task.run(whole, exposure)
    task.run(parts, exposure, end_order=2.0)
    assert not np.isnan(parts["base_SdssShape_xx"]).any()
    assert np.isnan(parts["base_PsfFlux_instFlux"]).all()
    task.run(parts, exposure, begin_order=2.0)
    for name in schema.names:
        np.testing.assert_array_equal(parts[name], whole[name], err_msg=name)


def test_noise_belongs_to_visit_and_detector() -> None:
    fluxes = []
    for visit, detector in ((100, 4), (100, 4), (101, 4), (100, 5)):
        exposure = make_visit_image(
            width=100, height=80, x=[40, 55], y=[40, 40], flux=[1e4, 1e4], visit=visit, detector=detector
        )
        catalog = measure_at(exposure, ["base_PsfFlux"], x=[40, 55], y=[40, 40], replace=True)
        fluxes.append(catalog["base_PsfFlux_instFlux"][0])
    assert fluxes[0] == fluxes[1]
    assert len(set(fluxes)) == 3


def test_slots_without_columns(caplog: pytest.LogCaptureFixture) -> None:
    config = SingleFrameMeasurementConfig()
    config.plugins["base_CircularApertureFlux"].radii = [3.0]
    with caplog.at_level(logging.WARNING):
        SingleFrameMeasurementTask(minimal_source_schema(), config=config)
    assert "slots.calibFlux is 'base_CircularApertureFlux_12_0', but there are no columns" in caplog.text
    config.plugins["base_SdssShape"].doMeasure = False
    with pytest.raises(ValueError, match=r"slots\.shape is 'base_SdssShape', but there are no columns"):
        SingleFrameMeasurementTask(minimal_source_schema(), config=config)


def test_every_alias_is_a_published_column() -> None:
    schema = minimal_source_schema()
    SingleFrameMeasurementTask(schema, config=SingleFrameMeasurementConfig())
    published = SourceCatalog(schema).to_astropy().colnames
    for alias in schema.aliases:
        assert any(name == alias or name.startswith(f"{alias}_") for name in published), alias
    assert "base_PsfFlux_flag_badCentroid_near_edge" in published
    assert "base_GaussianFlux_flag_badShape" in published


def test_single_source_plugin() -> None:
    exposure, x, y, _ = scene()
    catalog = measure_at(exposure, ["test_Sum"], x=[*x, -50], y=[*y, 50], settings={"test_Sum": {"half": 3}})
    expected = [exposure.image.array[b - 3 : b + 4, a - 3 : a + 4].sum() for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(catalog["test_Sum_value"][:3], expected, rtol=1e-6)
    assert np.isnan(catalog["test_Sum_value"][3])
    assert catalog["test_Sum_flag"].tolist() == [False, False, False, True]
    flagged = measure_at(exposure, ["test_Sum"], x=x, y=y, flag=[True, False, False])
    assert flagged["test_Sum_flag"].tolist() == [True, False, False]


def test_example_of_the_documentation() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    (code,) = [block for block in blocks if "@register" in block]
    exec(compile(code, str(DOCS), "exec"), {"__name__": "documentation"})
    try:
        exposure, x, y, _ = scene()
        catalog = measure_at(exposure, ["my_Concentration"], x=x, y=y)
        assert not catalog["my_Concentration_flag"].any()
        assert np.all((catalog["my_Concentration_value"] > 0.3) & (catalog["my_Concentration_value"] < 1.0))
    finally:
        del plugin_registry._dict["my_Concentration"]


def test_documentation_names_every_plugin() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", DOCS.read_text(), flags=re.MULTILINE)
    known = ("base_", "ext_", "modelfit_")
    registered = {n: plugin_registry[n].order for n in plugin_registry if n.startswith(known)}
    assert {name: float(order) for name, order in rows} == registered


def test_psf_that_fails_at_some_positions() -> None:
    exposure, x, y, _ = scene()

    inner = exposure.psf

    class Failing(PointSpreadFunction):  # its methods are those of the PSF it wraps
        bounds = property(lambda self: inner.bounds)
        kernel_bbox = property(lambda self: inner.kernel_bbox)

        def compute_kernel_image(self, *, x: float, y: float) -> Image:
            if x > 100:
                raise RuntimeError("no PSF here")
            return inner.compute_kernel_image(x=x, y=y)

        def compute_stellar_image(self, *, x: float, y: float) -> Image:
            self.compute_kernel_image(x=x, y=y)
            return inner.compute_stellar_image(x=x, y=y)

        def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
            return inner.compute_stellar_bbox(x=x, y=y)

    exposure.psf = Failing()
    names = ["base_SdssCentroid", "base_SdssShape", "base_PsfFlux", "base_LocalBackground"]
    names += [f"ext_shapeHSM_Hsm{n}" for n in ("SourceMoments", "PsfMoments", "ShapeRegauss")]
    catalog = measure_at(exposure, names, x=x, y=y)
    assert catalog["base_InvalidPsf_flag"].tolist() == [False, True, False]
    for name in names:
        flag = "flag_psf" if name == "base_SdssShape" else "flag"
        assert catalog[f"{name}_{flag}"][1], name
    assert not catalog["base_PsfFlux_flag"][[0, 2]].any()


def test_no_psf() -> None:
    exposure, x, y, _ = scene()
    exposure._psf = None
    with pytest.raises(ValueError, match=r"visit 100, detector 4 has no PSF, which base_PsfFlux need"):
        measure_at(exposure, ["base_PsfFlux"], x=x, y=y)


def test_awkward_sources_never_stop_the_batch() -> None:
    """Sources at the border, outside, or of one pixel: all plugins give flags, not errors."""
    exposure, _, _, _ = scene()
    exposure.image.array[100:110, 20:30] = np.nan
    names = [n for n in plugin_registry if n.startswith(("base_", "ext_")) and n != "base_SkyCoord"]
    config = make_config(
        *names,
        centroid="base_SdssCentroid",
        shape="base_SdssShape",
        psfShape="base_SdssShape_psf",
        psfFlux="base_PsfFlux",
    )
    schema = minimal_source_schema()
    task = SingleFrameMeasurementTask(schema, config=config)
    x, y = [0, 199, 60, 25, 100, 5000], [0, 80, 60, 105, 20, 5000]
    footprints = round_footprints(x, y, 5)
    one_pixel = round_footprints([60], [60], 0)
    catalog = make_catalog(schema, footprints.concatenate([footprints, one_pixel]))
    task.run(catalog, exposure)
    assert catalog["slot_Centroid_flag"][[0, 1, 3, 5]].all()
    assert not catalog["slot_Centroid_flag"][[2, 6]].any()
    for field in schema:
        if field.name.endswith("_instFlux") and not field.name.startswith("base_SdssShape"):
            prefix = field.name.removesuffix("_instFlux")
            if "Blendedness" in prefix:
                prefix = "base_Blendedness"
            bad = ~np.isfinite(catalog[field.name])
            assert catalog[f"{prefix}_flag"][bad].all(), field.name


def test_a_pixel_without_variance_spoils_no_other_source() -> None:
    x, y = np.array([60.2, 120.4]), np.array([60.0, 60.3])
    results = []
    for variance in (100.0, 0.0):
        exposure = make_visit_image(width=180, height=121, x=x, y=y, flux=[5000.0, 5000.0])
        exposure.variance.array[61, 62] = variance
        task = SingleFrameMeasurementTask(
            schema := minimal_source_schema(), config=SingleFrameMeasurementConfig()
        )
        catalog = make_catalog(schema, round_footprints(x, y))
        task.run(catalog, exposure)
        results.append(catalog)
    whole, holed = results
    for name in whole.schema.names:
        np.testing.assert_array_equal(holed[name][1], whole[name][1], err_msg=name)
    assert not holed["base_PsfFlux_flag"].any()
    assert holed["base_PsfFlux_instFlux"][0] == pytest.approx(whole["base_PsfFlux_instFlux"][0], rel=1e-12)
    assert holed["base_PsfFlux_chi2"][0] == np.inf
    assert holed["base_Blendedness_abs"][0] == pytest.approx(whole["base_Blendedness_abs"][0], abs=1e-3)


def test_no_sources() -> None:
    exposure, _, _, _ = scene()
    measure_at(exposure, ["base_PsfFlux"], x=[], y=[])
