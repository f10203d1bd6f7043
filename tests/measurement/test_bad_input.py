"""Sources that cannot be measured: every plugin flags them, goes on, and gives the others the same values."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from lsst.images import Box, Image, VisitImage
from lsst.images.psfs import PointSpreadFunction

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.mask_planes import plane_name
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.plugin import plugin_registry
from secondlight.measurement.task import SingleFrameMeasurementTask
from tests.measurement.scene import make_catalog, make_config
from tests.scenes import make_visit_image

WIDTH, HEIGHT = 300, 280
# Plugins that read the columns of others by name or slot, not only positions and shapes.
NEEDS = {
    "ext_shapeHSM_HigherOrderMomentsSource": ["ext_shapeHSM_HsmSourceMoments"],
    "ext_shapeHSM_HigherOrderMomentsPSF": ["ext_shapeHSM_HsmPsfMoments"],
    "ext_shapeHSM_HsmPsfMomentsDebiased": ["base_PsfFlux"],
    "ext_convolved_ConvolvedFlux": ["ext_photometryKron_KronFlux"],
    "modelfit_CModel": [
        "modelfit_DoubleShapeletPsfApprox", "base_PsfFlux", "ext_photometryKron_KronFlux",
    ],
}  # fmt: skip
PLUGINS = sorted(
    name
    for name in plugin_registry
    if name.startswith(("base_", "ext_", "modelfit_")) and set(NEEDS.get(name, ())) <= set(plugin_registry)
)
# Values that may be missing although the measurement worked, each with its own flag or reason.
MAY_BE_MISSING = {
    "base_SdssShape": ("Err", "_Cov", "_psf_xx", "_psf_yy", "_psf_xy"),  # flag_unweighted and flag_psf
    "base_SdssCentroid": ("Err",),  # flag_badError
    "base_PsfFlux": ("_chi2",),  # infinite where the variance is 0
    "ext_photometryKron_KronFlux": ("_radius_for_radius",),  # flag_bad_radius
}


@dataclasses.dataclass
class Source:
    """A source: where it is, what the slots say about it, and its footprint (radius; None for empty)."""

    name: str
    x: float
    y: float
    moments: tuple[float, float, float] = (4.0, 4.0, 0.0)
    radius: int | None = 10
    peak: bool = True
    flux: float = 0.0
    flag: bool = False


NAN = float("nan")
GOOD = (
    Source("good star", 60.3, 62.7, flux=2e4),
    Source("good neighbour", 76.0, 70.0, flux=5e3),
    Source("good alone", 220.0, 60.0, flux=1e4),
)
BORDERS = tuple(
    Source(f"{side_x} {side_y}", x, y)
    for side_x, x in (("left", 0.0), ("near left", 4.0), ("middle", 150.0), ("right", WIDTH - 1.0))
    for side_y, y in (("bottom", 0.0), ("near top", HEIGHT - 5.0), ("top", HEIGHT - 1.0))
)
OUTSIDE = (
    Source("just outside", -0.6, 100.0),
    Source("outside", -40.0, 100.0),
    Source("far outside", 1e5, 1e5, radius=3),
)
NO_POSITION = (
    Source("NaN position", NAN, NAN),
    Source("infinite position", float("inf"), 50.0),
    Source("no position, no peak", NAN, NAN, peak=False),
    Source("flagged position", 150.0, 60.0, flag=True),
)
SHAPES = tuple(
    Source(f"shape {moments}", 60.0 + 30 * k, 130.0, moments=moments, flux=3e3)
    for k, moments in enumerate(
        [(NAN, NAN, NAN), (4.0, 4.0, 4.0), (-4.0, 4.0, 0.0), (4.0, 4.0, 9.0), (0.0, 0.0, 0.0),
         (1e-9, 1e-9, 0.0), (1e-170, 1e-170, 0.0), (1e7, 1e7, 0.0)]
    )
)  # fmt: skip
FOOTPRINTS = (
    Source("one pixel", 60.0, 170.0, radius=0, flux=3e3),
    Source("empty footprint", 90.0, 170.0, radius=None, flux=3e3),
    Source("empty footprint, no peak", 120.0, 170.0, radius=None, peak=False, flux=3e3),
    Source("beside its footprint", 165.0, 170.0, radius=3),
)
PIXELS = (
    Source("negative flux", 60.0, 210.0, flux=-2e4),
    Source("NaN pixels", 100.0, 210.0, flux=3e3),
    Source("infinite pixel", 140.0, 210.0, flux=3e3),
    Source("no variance", 180.0, 210.0, flux=3e3),
    Source("negative variance", 220.0, 210.0, flux=3e3),
    Source("NaN variance", 250.0, 170.0, flux=3e3),
    Source("masked", 250.0, 210.0, flux=3e3),
    Source("nothing but zeros", 220.0, 110.0),
)
SOURCES = (*GOOD, *BORDERS, *OUTSIDE, *NO_POSITION, *SHAPES, *FOOTPRINTS, *PIXELS)
ROW = {source.name: row for row, source in enumerate(SOURCES)}
N_GOOD = len(GOOD)


def footprints_of(sources: Iterable[Source]) -> Footprints:
    """Return circles about where the sources are, with peaks; a source without position is at (150, 60)."""
    parts = []
    for source in sources:
        x, y = (int(np.floor(v + 0.5)) if np.isfinite(v) else w for v, w in ((source.x, 150), (source.y, 60)))
        if source.name == "beside its footprint":
            x -= 15
        part = Footprints.empty(1)
        if source.radius is not None:
            part = Footprints.from_circles(np.array([x]), np.array([y]), source.radius)
        n = int(source.peak)
        ones = np.ones(n)
        peaks = Peaks(np.full(n, x), np.full(n, y), ones, ones, np.arange(n))
        parts.append(part.with_peaks(np.array([0, n]), peaks))
    return Footprints.concatenate(parts)


@functools.cache
def make_exposure() -> VisitImage:
    """Return the image of all sources."""
    shown = [s for s in SOURCES if s.flux]
    exposure = make_visit_image(
        width=WIDTH,
        height=HEIGHT,
        x=[s.x for s in shown],
        y=[s.y for s in shown],
        flux=[s.flux for s in shown],
    )

    def about(name: str, half: int) -> tuple[slice, slice]:
        source = SOURCES[ROW[name]]
        x, y = int(source.x), int(source.y)
        return np.s_[y - half : y + half + 1, x - half : x + half + 1]

    pixels, variance = exposure.image.array, exposure.variance.array
    pixels[about("NaN pixels", 3)] = np.nan
    pixels[about("infinite pixel", 0)] = np.inf
    pixels[about("nothing but zeros", 25)] = 0.0
    variance[about("no variance", 12)] = 0.0
    variance[about("negative variance", 12)] = -1.0
    variance[about("NaN variance", 12)] = np.nan
    masked = np.zeros(pixels.shape, dtype=bool)
    masked[about("masked", 15)] = True
    for plane in ("BAD", "SAT"):
        exposure.mask.set(plane_name(plane), masked)
    return exposure


def make_task(name: str) -> SingleFrameMeasurementTask:
    """Return a task with one plugin, and what it needs, that takes positions and shapes from the input."""
    schema = minimal_source_schema()
    for column in ("in_x", "in_y", "in_xx", "in_yy", "in_xy", "psf_xx", "psf_yy", "psf_xy"):
        schema.add(column, np.float64, "given")
    schema.add_flag("in_flag", "given")
    for slot, target in (
        ("Centroid", "in"),
        ("Shape", "in"),
        ("PsfShape", "psf"),
        ("PsfFlux", "base_PsfFlux"),
    ):
        schema.set_alias(f"slot_{slot}", target)
    config = make_config(*NEEDS.get(name, []), name)
    config.plugins["base_CircularApertureFlux"].radii = [3.0, 9.0, 17.0, 25.0]
    return SingleFrameMeasurementTask(schema, config=config)


def run(
    task: SingleFrameMeasurementTask, sources: SourceCatalog, exposure: VisitImage, **arguments: Any
) -> None:
    """Measure, with a photometric calibration."""
    task.run(sources, exposure, photo_calib=PhotoCalib(2.0, 0.1), **arguments)


def make_sources(task: SingleFrameMeasurementTask) -> SourceCatalog:
    """Return the catalog of all sources."""
    catalog = make_catalog(task.schema, footprints_of(SOURCES))
    for axis in "xy":
        catalog[f"in_{axis}"] = [getattr(s, axis) for s in SOURCES]
    for k, c in enumerate(("xx", "yy", "xy")):
        catalog[f"in_{c}"] = [s.moments[k] for s in SOURCES]
        catalog[f"psf_{c}"] = 0.0 if c == "xy" else 4.0
    catalog["in_flag"] = [s.flag for s in SOURCES]
    return catalog


def check_flags(name: str, catalog: SourceCatalog) -> None:
    """Every value that is no number has a flag: that of its flux or the plugin's own."""
    for field in catalog.schema:
        if not field.name.startswith(name) or field.dtype.kind != "f":
            continue
        if field.name.endswith(MAY_BE_MISSING.get(name, ())):
            continue
        bad = ~np.isfinite(catalog[field.name])
        prefix = field.name.removesuffix("Err").removesuffix("_instFlux")
        flag = next(f for f in (f"{prefix}_flag", f"{name}_flag") if f in catalog)
        unflagged = np.flatnonzero(bad & ~catalog[flag])
        assert not len(unflagged), f"{field.name} of {[SOURCES[k].name for k in unflagged]}"


@pytest.mark.parametrize("name", PLUGINS)
def test_bad_sources_are_flagged_and_harm_no_other(name: str, caplog: pytest.LogCaptureFixture) -> None:
    exposure = make_exposure()
    pixels = exposure.image.array.copy()
    task = make_task(name)
    everything = make_sources(task)
    alone = everything[:N_GOOD]
    with caplog.at_level(logging.WARNING):
        run(task, everything, exposure)
    assert not caplog.records, caplog.text
    np.testing.assert_array_equal(exposure.image.array, pixels)
    check_flags(name, everything)
    run(task, alone, exposure, neighbours=everything)
    for column in alone.schema.names:
        if column.endswith("_time"):  # how long a fit took
            continue
        np.testing.assert_array_equal(alone[column], everything[column][:N_GOOD], err_msg=column)
    for field in alone.schema:
        if field.name.startswith(name) and field.dtype.kind == "f" and not field.name.endswith("Err"):
            assert np.isfinite(alone[field.name]).all(), field.name
        if field.name in (f"{name}_flag", "base_InvalidPsf_flag"):
            assert not alone[field.name].any(), field.name


@pytest.mark.parametrize("name", PLUGINS)
def test_nothing_is_measured_without_a_position(name: str) -> None:
    """Plugins that use the centroid slot measure at the first peak, and flag that."""
    task = make_task(name)
    catalog = make_sources(task)
    run(task, catalog, make_exposure())
    plugin = next(p for p in task.plugins if p.name == name)
    if plugin.uses_centroid and not plugin.is_centroider:
        for flag in [n for n in catalog.schema.names if n.startswith(name) and n.endswith("_flag")]:
            for source in NO_POSITION[:3]:
                assert catalog[flag][ROW[source.name]], f"{flag} of {source.name}"


EXPECTED = {
    "base_PsfFlux": {
        "left bottom": "flag_edge", "far outside": "flag_edge", "near left near top": "flag_edge",
    },
    "base_SdssCentroid": {"left bottom": "flag_edge", "near left bottom": "flag_near_edge"},
    "base_CircularApertureFlux": {"left bottom": "3_0_flag_apertureTruncated"},
    "base_CompensatedTophatFlux": {"near left bottom": "12_flag_bounds", "far outside": "12_flag_bounds"},
    "base_PixelFlags": {
        "outside": "flag_offimage", "far outside": "flag_offimage", "masked": "flag_saturatedCenterAll",
    },
    "base_LocalBackground": {"far outside": "flag_noGoodPixels"},
    "base_Blendedness": {"NaN position": "flag_noCentroid", "shape (4.0, 4.0, 4.0)": "flag_noShape"},
    "base_Variance": {"far outside": "flag_emptyFootprint"},
    "ext_shapeHSM_HsmSourceMoments": {
        "empty footprint": "flag_no_pixels", "beside its footprint": "flag_not_contained",
        "masked": "flag_no_pixels",
    },
    "ext_shapeHSM_HsmShapeRegauss": {
        "empty footprint": "flag_no_pixels", "beside its footprint": "flag_not_contained",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_the_reason_is_told(name: str) -> None:
    task = make_task(name)
    catalog = make_sources(task)
    run(task, catalog, make_exposure())
    for source, flag in EXPECTED[name].items():
        assert catalog[f"{name}_{flag}"][ROW[source]], f"{flag} of {source}"
        assert not catalog[f"{name}_{flag}"][:N_GOOD].any()


class PartlyFailing(PointSpreadFunction):
    """A PSF that raises right of x = 140 and is NaN above y = 100."""

    def __init__(self, inner: PointSpreadFunction) -> None:
        self._inner = inner

    bounds = property(lambda self: self._inner.bounds)
    kernel_bbox = property(lambda self: self._inner.kernel_bbox)

    def compute_kernel_image(self, *, x: float, y: float) -> Image:  # noqa: D102
        return self._failing(self._inner.compute_kernel_image(x=x, y=y), x, y)

    def compute_stellar_image(self, *, x: float, y: float) -> Image:  # noqa: D102
        return self._failing(self._inner.compute_stellar_image(x=x, y=y), x, y)

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:  # noqa: D102
        return self._inner.compute_stellar_bbox(x=x, y=y)

    def _failing(self, image: Image, x: float, y: float) -> Image:
        if x > 140:
            raise RuntimeError("no PSF here")
        if y > 100:
            image.array[...] = np.nan
        return image


@pytest.mark.parametrize("name", [n for n in PLUGINS if plugin_registry[n].uses_psf])
def test_psf_that_cannot_be_evaluated(name: str, caplog: pytest.LogCaptureFixture) -> None:
    positions = {"good": (60.3, 60.0), "raises": (200.0, 60.0), "NaN": (60.0, 150.0)}
    x, y = (np.array(v) for v in zip(*positions.values(), strict=True))
    whole = make_visit_image(width=WIDTH, height=220, x=x, y=y, flux=[2e4] * 3)
    task = make_task(name)
    results = []
    for psf in (whole.psf, PartlyFailing(whole.psf)):
        exposure = make_visit_image(width=WIDTH, height=220, x=x, y=y, flux=[2e4] * 3)
        exposure.psf = psf
        footprints = footprints_of(Source(n, *p) for n, p in positions.items())
        catalog = make_catalog(task.schema, footprints, in_x=x, in_y=y, in_xx=4.0, in_yy=4.0, in_xy=0.0)
        with caplog.at_level(logging.WARNING):
            run(task, catalog, exposure)
        results.append(catalog)
    assert not caplog.records, caplog.text
    flags = ["flag_psf"] if name == "base_SdssShape" else ["flag"]
    if f"{name}_flag_no_psf" in task.schema:
        flags.append("flag_no_psf")
    for flag in flags:
        assert results[1][f"{name}_{flag}"].tolist() == [False, True, True], flag
    assert results[1]["base_InvalidPsf_flag"].tolist() == [False, True, True]
    check_flags(name, results[1])
    for column in task.schema.names:
        ours, expected = (np.asarray(c[column])[0] for c in results)
        np.testing.assert_allclose(ours, expected, rtol=2e-5, err_msg=column)
