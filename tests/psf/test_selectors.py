"""Selection of sources by their columns."""

from __future__ import annotations

import astropy.table
import lsst.pex.config
import numpy as np
import pytest

from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.psf.source_selectors import (
    ColorLimit,
    FlaggedSourceSelectorTask,
    NullSourceSelectorTask,
    ObjectSizeStarSelectorConfig,
    ObjectSizeStarSelectorTask,
    ReferenceSourceSelectorConfig,
    ReferenceSourceSelectorTask,
    ScienceSourceSelectorConfig,
    ScienceSourceSelectorTask,
    sourceSelectorRegistry,
)

FLOATS = (
    "base_PsfFlux_instFlux", "base_PsfFlux_instFluxErr", "flux_instFlux", "size", "centroid_xErr",
    "centroid_yErr", "shape_xx", "shape_yy",
)  # fmt: skip
FLAGS = ("base_PsfFlux_flag", "flux_flag", "good", "bad", "detect_isPrimary", "sky_source")


def make_catalog(n: int, **columns: object) -> SourceCatalog:
    schema = minimal_source_schema()
    for name in FLOATS:
        schema.add(name, float, name)
    for name in FLAGS:
        schema.add_flag(name, name)
    schema.add("deblend_nChild", np.int32, "children")
    schema.set_alias("slot_CalibFlux", "flux")
    schema.set_alias("slot_Centroid", "centroid")
    schema.set_alias("slot_Shape", "shape")
    catalog = SourceCatalog(schema, n)
    for name, values in columns.items():
        catalog[name] = values
    return catalog


def select(catalog: SourceCatalog, **switches: object) -> list[bool]:
    """Run the science selector on a catalog and on its published table, which must agree."""
    config = ScienceSourceSelectorConfig()
    for name, value in switches.items():
        target = config
        *path, last = name.split("__")
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)
    task = ScienceSourceSelectorTask(config=config)
    result = task.select_sources(catalog)
    assert result.dtype == bool
    np.testing.assert_array_equal(task.select_sources(catalog.to_astropy()), result)
    return list(result)


def test_registry() -> None:
    assert set(sourceSelectorRegistry) == {"science", "references", "null", "objectSize", "flagged"}

    class Config(lsst.pex.config.Config):
        selector = sourceSelectorRegistry.makeField("selector", default="science")

    config = Config()
    config.selector["science"].doSignalToNoise = True
    task = config.selector.apply()
    assert isinstance(task, ScienceSourceSelectorTask)
    assert task.config.doSignalToNoise


def test_everything_by_default() -> None:
    catalog = make_catalog(3)
    assert select(catalog) == [True] * 3
    assert list(NullSourceSelectorTask().select_sources(catalog)) == [True] * 3


def test_signal_to_noise_is_an_open_interval() -> None:
    flux = [50.0, 50.001, 999.9, 1000.0, np.nan, 100.0, 100.0]
    error = [1.0, 1.0, 1.0, 1.0, 1.0, np.nan, 0.0]
    catalog = make_catalog(7, base_PsfFlux_instFlux=flux, base_PsfFlux_instFluxErr=error)
    limits = {"doSignalToNoise": True, "signalToNoise__minimum": 50.0, "signalToNoise__maximum": 1000.0}
    assert select(catalog, **limits) == [False, True, True, False, False, False, False]


def test_signal_to_noise_without_limits_still_needs_a_number() -> None:
    catalog = make_catalog(2, base_PsfFlux_instFlux=[1.0, np.nan], base_PsfFlux_instFluxErr=1.0)
    assert select(catalog, doSignalToNoise=True) == [True, False]


def test_flag_of_the_flux_counts() -> None:
    """The flag of ``<name>_instFlux`` is ``<name>_flag``."""
    catalog = make_catalog(2, base_PsfFlux_instFlux=100.0, base_PsfFlux_instFluxErr=1.0, flux_instFlux=1.0)
    catalog["base_PsfFlux_flag"][1] = True
    assert select(catalog, doSignalToNoise=True) == [True, False]
    catalog["flux_flag"][0] = True
    assert select(catalog, doFluxLimit=True) == [False, True]


def test_flux_limit() -> None:
    catalog = make_catalog(4, flux_instFlux=[1.0, 2.0, 3.0, np.nan])
    assert select(catalog, doFluxLimit=True, fluxLimit__minimum=1.0) == [False, True, True, False]
    assert select(catalog, doFluxLimit=True, fluxLimit__maximum=3.0) == [True, True, False, False]


def test_flags() -> None:
    catalog = make_catalog(4, good=[True, True, False, False], bad=[False, True, False, True])
    assert select(catalog, doFlags=True, flags__good=["good"], flags__bad=["bad"]) == [
        True, False, False, False,
    ]  # fmt: skip
    assert ScienceSourceSelectorConfig().flags.bad == [
        "base_PixelFlags_flag_edge",
        "base_PixelFlags_flag_nodata",
        "base_PixelFlags_flag_saturated",
        "base_PsfFlux_flag",
    ]


def test_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="base_PixelFlags_flag_edge"):
        select(make_catalog(1), doFlags=True)
    with pytest.raises(ValueError, match="base_ClassificationSizeExtendedness_value"):
        select(make_catalog(1), doUnresolved=True)


def test_unresolved() -> None:
    catalog = make_catalog(3, size=[0.05, 0.1, np.nan])
    assert select(catalog, doUnresolved=True, unresolved__name="size") == [True, False, False]


def test_isolated() -> None:
    catalog = make_catalog(3, parent=[0, 7, 0], deblend_nChild=[0, 0, 2])
    assert select(catalog, doIsolated=True) == [True, False, False]


def test_finite_coordinates() -> None:
    catalog = make_catalog(3, coord_ra=[1.0, np.nan, 1.0], coord_dec=[1.0, 1.0, np.inf])
    assert select(catalog, doRequireFiniteRaDec=True) == [True, False, False]


def test_primary_and_sky_sources() -> None:
    """Sky sources are added to whatever was selected before; the centroid limit holds for them too."""
    catalog = make_catalog(
        3, detect_isPrimary=[True, False, False], sky_source=[False, True, True],
        centroid_xErr=[0.1, 0.1, 3.0], centroid_yErr=[0.1, 0.1, 0.1],
    )  # fmt: skip
    assert select(catalog, doRequirePrimary=True) == [True, False, False]
    assert select(catalog, doRequirePrimary=True, doSkySources=True) == [True, True, True]
    assert select(catalog, doRequirePrimary=True, doSkySources=True, doCentroidErrorLimit=True) == [
        True, True, False,
    ]  # fmt: skip


def test_centroid_errors() -> None:
    catalog = make_catalog(3, centroid_xErr=[1.0, np.nan, 1.0], centroid_yErr=[1.0, 1.0, np.inf])
    assert select(catalog, doCentroidErrorLimit=True) == [True, False, False]


def test_masked_table_columns_select_nothing() -> None:
    table = astropy.table.Table(
        {
            "base_PsfFlux_instFlux": np.ma.MaskedArray([10.0, 10.0], mask=[False, True]),
            "base_PsfFlux_instFluxErr": [1.0, 1.0],
        }
    )
    config = ScienceSourceSelectorConfig()
    config.doSignalToNoise = True
    config.signalToNoise.minimum = 5.0
    assert list(ScienceSourceSelectorTask(config=config).select_sources(table)) == [True, False]


def test_flagged() -> None:
    task = FlaggedSourceSelectorTask()
    table = astropy.table.Table({"calib_psf_used": [True, False]})
    assert list(task.select_sources(table)) == [True, False]
    with pytest.raises(ValueError, match="calib_psf_used"):
        task.select_sources(astropy.table.Table({"x": [1]}))


def test_references() -> None:
    # 3631 Jy is magnitude 0, so a flux of 3631e9 nJy * 10^(-0.4 m) is magnitude m.
    magnitude = np.array([15.0, 20.0, 25.0])
    table = astropy.table.Table(
        {
            "flux": 3630.7805e9 * 10 ** (-0.4 * magnitude),
            "blue": 3630.7805e9 * 10 ** (-0.4 * (magnitude + np.array([0.0, 0.5, 1.0]))),
            "coord_ra": [1.0, 1.0, 1.0],
            "coord_dec": [1.0, 1.0, 1.0],
        }
    )
    config = ReferenceSourceSelectorConfig()
    config.doMagLimit = True
    config.magLimit.maximum = 21.0
    assert list(ReferenceSourceSelectorTask(config=config).select_sources(table)) == [True, True, False]
    config = ReferenceSourceSelectorConfig()
    config.colorLimits["blue-red"] = ColorLimit(primary="blue", secondary="flux", minimum=0.1)
    assert list(ReferenceSourceSelectorTask(config=config).select_sources(table)) == [False, True, True]


def make_size_catalog(sizes: np.ndarray) -> SourceCatalog:
    catalog = make_catalog(
        len(sizes), shape_xx=sizes**2, shape_yy=sizes**2, base_PsfFlux_instFlux=1e4,
        base_PsfFlux_instFluxErr=10.0,
    )  # fmt: skip
    return catalog


def make_size_task(**settings: object) -> ObjectSizeStarSelectorTask:
    config = ObjectSizeStarSelectorConfig()
    config.update(badFlags=["bad"], **settings)
    return ObjectSizeStarSelectorTask(config=config)


def test_object_size_finds_the_stars_among_galaxies() -> None:
    rng = np.random.default_rng(3)
    stars, galaxies = rng.normal(1.9, 0.02, 600), rng.uniform(2.2, 6.0, 1200)
    selected = make_size_task().select_sources(make_size_catalog(np.concatenate([stars, galaxies])))
    # Two sigma of a Gaussian hold 95.4 % (+- 0.9 % for 600 stars).
    assert 0.92 < selected[:600].mean() < 0.98
    assert not selected[600:].any()


def test_object_size_respects_flags_and_limits() -> None:
    sizes = np.full(20, 2.0)
    catalog = make_size_catalog(sizes)
    catalog["bad"][0] = True
    catalog["base_PsfFlux_flag"][1] = True
    catalog["base_PsfFlux_instFlux"][2] = 400.0
    catalog["shape_xx"][3] = np.nan
    selected = make_size_task().select_sources(catalog)
    np.testing.assert_array_equal(np.flatnonzero(~selected), [0, 1, 2, 3])
    none = make_size_task(widthMin=5.0).select_sources(catalog)
    assert not none.any()
    bright = make_size_task(doFluxLimit=True, fluxMax=13000.0).select_sources(catalog)
    assert not bright.any()
    assert len(make_size_task().select_sources(make_size_catalog(np.zeros(0)))) == 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_object_size_with_hardly_any_source(n: int) -> None:
    assert make_size_task().select_sources(make_size_catalog(np.full(n, 2.0))).all()


def test_object_size_limits_must_leave_room() -> None:
    with pytest.raises(ValueError, match="widthMin"):
        ObjectSizeStarSelectorConfig(widthMin=3.0, widthMax=2.0).validate()
