"""Final characterization of detectors and visits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import astropy.table
import astropy.units as u
import lsst.images.json
import numpy as np
import pytest
from astropy.coordinates import AltAz, SkyCoord
from astropy.utils import iers
from lsst.images import VisitImage
from lsst.images.fields import ChebyshevField
from lsst.images.serialization import read_archive
from lsst.pipe.base import InMemoryDatasetHandle, NoWorkFound

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.mask_planes import plane_name
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components
from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary
from secondlight.photometry.measure_ap_corr import MeasureApCorrError
from secondlight.psf.piff_determiner import PiffTooFewGoodStarsError
from secondlight.psf.sky_moments import (
    alt_az_moments,
    parallactic_angle,
    pixel_to_sky_jacobian,
    sky_moments,
)
from secondlight.tasks._finalize_shared import noise_seed
from secondlight.tasks.consolidate_finalize_characterization import (
    ConsolidateFinalizeCharacterizationDetectorTask,
)
from secondlight.tasks.finalize_characterization import (
    FinalizeCharacterizationDetectorConfig,
    FinalizeCharacterizationDetectorTask,
)
from secondlight.tasks.finalize_characterization_visit import (
    FinalizeCharacterizationConfig,
    FinalizeCharacterizationTask,
)

from ..scenes import PIXEL_SCALE, make_sky_projection, make_visit_image

VISIT = 4321
BAND = "r"
N = 16
FLUX = 2e4
CALIB_RATIO = 1.05
TRACTS = (100, 101)
X0, Y0 = 200, 100


# Inputs -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Inputs:
    """One detector: image and first-pass sources."""

    exposure: VisitImage
    src: SourceCatalog


def make_inputs(detector: int = 4) -> Inputs:
    """Return 16 stars on a grid, with ids 1000 * detector + 1, 2, ..."""
    rng = np.random.default_rng(detector)
    cells = np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1).reshape(-1, 2)
    x, y = (cells * 40 + 24 + rng.uniform(-0.5, 0.5, cells.shape)).T + np.array([[X0], [Y0]])
    exposure = make_visit_image(
        width=168, height=168, x0=X0, y0=Y0, x=x, y=y, flux=np.full(N, FLUX), sigma=1.5, visit=VISIT,
        detector=detector, seed=detector,
    )  # fmt: skip
    circles = Footprints.from_circles(np.floor(x + 0.5), np.floor(y + 0.5), 8)
    one = np.ones(N)
    peaks = Peaks(np.floor(x + 0.5), np.floor(y + 0.5), one * FLUX, one * 100, np.arange(N))
    footprints = circles.with_peaks(np.arange(N + 1), peaks)
    exposure.mask.set(plane_name("DETECTED"), footprints.to_mask(exposure.bbox.shape, x0=X0, y0=Y0))
    exposure.aperture_corrections["old_flux_instFlux"] = ChebyshevField(exposure.bbox, np.array([[1.5]]))
    exposure.aperture_corrections["base_PsfFlux_instFlux"] = ChebyshevField(exposure.bbox, np.array([[9.0]]))
    return Inputs(exposure, make_source_catalog(detector, exposure, x, y, footprints))


def make_source_catalog(
    detector: int, exposure: VisitImage, x: np.ndarray, y: np.ndarray, footprints: Footprints
) -> SourceCatalog:
    schema = minimal_source_schema()
    for axis in ("x", "y", "xErr", "yErr"):
        schema.add(f"base_SdssCentroid_{axis}", float, axis, unit="pix")
    schema.add_flag("base_SdssCentroid_flag", "failure")
    for name in ("base_GaussianFlux", "base_CircularApertureFlux_12_0", "calib"):
        schema.add(f"{name}_instFlux", float, "flux", unit="ct")
        schema.add(f"{name}_instFluxErr", float, "error", unit="ct")
        schema.add_flag(f"{name}_flag", "failure")
    for name in (
        "edge", "nodata", "interpolatedCenter", "saturatedCenter", "crCenter", "bad", "interpolated",
        "saturated",
    ):  # fmt: skip
        schema.add_flag(f"base_PixelFlags_flag_{name}", name)
    schema.add("visit", np.int64, "visit")
    schema.add("unrelated", float, "not published")
    schema.aliases = {
        "slot_Centroid": "base_SdssCentroid",
        "slot_ApFlux": "base_CircularApertureFlux_12_0",
        "slot_CalibFlux": "calib",
    }
    catalog = SourceCatalog(schema, N, footprints=footprints)
    catalog["id"] = 1000 * detector + 1 + np.arange(N)
    sky = exposure.sky_projection.pixel_to_sky(x=x, y=y)
    catalog["coord_ra"], catalog["coord_dec"] = sky.ra.rad, sky.dec.rad
    catalog["slot_Centroid_x"], catalog["slot_Centroid_y"] = x, y
    catalog["slot_Centroid_xErr"] = catalog["slot_Centroid_yErr"] = 0.01
    for name, flux in (
        ("base_GaussianFlux", FLUX),
        ("slot_ApFlux", FLUX),
        ("slot_CalibFlux", FLUX * CALIB_RATIO),
    ):
        catalog[f"{name}_instFlux"] = flux
        catalog[f"{name}_instFluxErr"] = flux / 300
    return catalog


def make_isolated(
    detectors: tuple[int, ...] = (4,),
) -> tuple[dict[int, astropy.table.Table], dict[int, astropy.table.Table]]:
    """Return stars and sources by tract.

    Each detector's stars alternate between the tracts; every tract starts with a star not seen in the band.
    Each star has a source in another visit before the one in ours.
    """
    stars: dict[int, astropy.table.Table] = {}
    sources: dict[int, astropy.table.Table] = {}
    for k, tract in enumerate(TRACTS):
        ids = np.concatenate([1000 * d + 1 + np.arange(k, N, 2) for d in detectors])
        n = len(ids) + 1
        stars[tract] = astropy.table.Table(
            {
                "isolated_star_id": np.arange(n) + 1000 * tract,
                "nsource_r": np.where(np.arange(n) == 0, 0, 2).astype(np.int32),
                "source_cat_index_r": np.arange(n, dtype=np.int32) * 2 - 1,
            }
        )
        index = np.arange(1, n, dtype=np.int32)
        sources[tract] = astropy.table.Table(
            {
                "sourceId": np.concatenate([[5], np.stack([ids + 10**6, ids], axis=1).ravel()]),
                "obj_index": np.concatenate([[0], np.repeat(index, 2)]).astype(np.int32),
                "visit": np.concatenate([[VISIT], np.tile([VISIT - 1, VISIT], n - 1)]),
                "detector": np.concatenate([[detectors[0]], np.repeat(ids // 1000, 2)]).astype(np.int32),
                "extra": np.zeros(2 * n - 1),
            }
        )
    return stars, sources


def configure(config: Any, **settings: Any) -> Any:
    piff = config.psf_determiner["piff"]
    piff.update(stampSize=15, modelSize=15, spatialOrder=0, interpolant="Lanczos(5)")
    config.make_psf_candidates.kernelSize = 17
    config.update(**settings)
    config.validate()
    return config


def detector_task(**settings: Any) -> FinalizeCharacterizationDetectorTask:
    return FinalizeCharacterizationDetectorTask(
        config=configure(FinalizeCharacterizationDetectorConfig(), **settings)
    )


def visit_task(**settings: Any) -> FinalizeCharacterizationTask:
    return FinalizeCharacterizationTask(config=configure(FinalizeCharacterizationConfig(), **settings))


def run_detector(
    inputs: Inputs, detector: int = 4, *, task: Any = None, detectors: tuple[int, ...] = (4,), **kwargs: Any
) -> Any:
    stars, sources = make_isolated(detectors)
    arguments: dict[str, Any] = {
        "visit": VISIT, "band": BAND, "detector": detector, "isolated_star_cat_dict": stars,
        "isolated_star_source_dict": sources, "src": inputs.src, "exposure": inputs.exposure,
    }  # fmt: skip
    return (task or detector_task()).run(**(arguments | kwargs))


def run_visit(inputs: dict[int, Inputs], *, task: Any = None, **kwargs: Any) -> Any:
    stars, sources = make_isolated(tuple(inputs))
    arguments: dict[str, Any] = {
        "visit": VISIT, "band": BAND, "isolated_star_cat_dict": stars, "isolated_star_source_dict": sources,
        "src_dict": {d: each.src for d, each in inputs.items()},
        "calexp_dict": {d: each.exposure for d, each in inputs.items()},
    }  # fmt: skip
    return (task or visit_task()).run(**(arguments | kwargs))


def assert_tables_equal(a: astropy.table.Table, b: astropy.table.Table) -> None:
    assert a.colnames == b.colnames
    for name in a.colnames:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def break_method(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(owner, name, fail)


@pytest.fixture(scope="module")
def result() -> Any:
    return run_detector(make_inputs())


# What a run gives -------------------------------------------------------------------------------------------


def test_detector(result: Any) -> None:
    (record,) = result.psf_ap_corr_cat
    assert (result.psf_ap_corr_cat.visit, record.detector) == (VISIT, 4)
    assert (result.psf_ap_corr_cat.band, result.psf_ap_corr_cat.physical_filter) == ("r", "test_r")
    assert (record.bbox.x.start, record.bbox.y.start) == (X0, Y0)
    table = result.output_table
    assert len(table) == N
    assert (table["visit"] == VISIT).all()
    assert (table["detector"] == 4).all()
    assert table["detector"].dtype == np.int32
    assert table["calib_psf_candidate"].all()
    # int(0.1 * 8) = 0 stars of each tract are reserved.
    assert not table["calib_psf_reserved"].any()
    assert np.count_nonzero(table["calib_psf_used"]) >= N - 2
    np.testing.assert_array_equal(table["calib_psf_selection_flux"], FLUX)
    assert (table["psf_max_value"] > 500).all()
    assert np.isnan(table["psf_color_value"]).all()


def test_fluxes_are_corrected_to_the_calibration_flux(result: Any) -> None:
    (record,) = result.psf_ap_corr_cat
    table = result.output_table
    np.testing.assert_allclose(table["base_PsfFlux_instFlux"], FLUX * CALIB_RATIO, rtol=0.02)
    assert not table["base_PsfFlux_flag_apCorr"].any()
    # The image's own correction is kept where there is no new one.
    assert record.aperture_corrections["old_flux_instFlux"](x=np.array([250.0]), y=np.array([150.0])) == 1.5
    new = record.aperture_corrections["base_PsfFlux_instFlux"](x=np.array([250.0]), y=np.array([150.0]))
    assert new == pytest.approx(CALIB_RATIO, rel=0.02)


def test_published_columns(result: Any) -> None:
    names = result.output_table.colnames
    for name in (
        "id", "coord_ra", "coord_dec", "parent", "base_SdssCentroid_x", "base_SdssCentroid_flag",
        "base_CircularApertureFlux_12_0_instFlux", "calib_instFluxErr", "slot_Centroid_x", "slot_Shape_xx",
        "slot_PsfShape_xy", "slot_CalibFlux_instFlux", "slot_ApFlux_flag", "slot_PsfFlux_instFlux",
        "base_FPPosition_x", "apcorr_base_PsfFlux_used", "base_PsfFlux_apCorr", "base_InvalidPsf_flag",
    ):  # fmt: skip
        assert name in names
    for name in (
        "unrelated",
        "base_SdssCentroid_xErr",
        "base_PixelFlags_flag_edge",
        "shape_Iuu",
        "fgcm_mag_r",
    ):
        assert name not in names
    assert result.output_table["psf_color_type"].dtype == np.dtype("U10")


def test_inputs_are_left_alone() -> None:
    inputs = make_inputs()
    pixels, mask = inputs.exposure.image.array.copy(), inputs.exposure.mask.array.copy()
    psf, columns = inputs.exposure.psf, inputs.src.to_astropy()
    run_detector(inputs)
    np.testing.assert_array_equal(inputs.exposure.image.array, pixels)
    np.testing.assert_array_equal(inputs.exposure.mask.array, mask)
    assert inputs.exposure.psf is psf
    assert_tables_equal(inputs.src.to_astropy(), columns)


def test_repeatable(result: Any) -> None:
    again = run_detector(make_inputs())
    assert_tables_equal(again.output_table, result.output_table)


def test_result_can_be_stored(result: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "summary.json")
    lsst.images.json.write(result.psf_ap_corr_cat, path)
    (record,), (expected,) = read_archive(path, VisitSummary), result.psf_ap_corr_cat
    assert record.detector == 4
    assert set(record.aperture_corrections) == set(expected.aperture_corrections)
    np.testing.assert_array_equal(
        record.psf.compute_kernel_image(x=250.0, y=150.0).array,
        expected.psf.compute_kernel_image(x=250.0, y=150.0).array,
    )


def test_handles_are_accepted(result: Any) -> None:
    stars, sources = make_isolated()
    again = run_detector(
        make_inputs(),
        isolated_star_cat_dict={
            t: InMemoryDatasetHandle(v, storageClass="ArrowAstropy") for t, v in stars.items()
        },
        isolated_star_source_dict={t: InMemoryDatasetHandle(v) for t, v in sources.items()},
    )
    assert_tables_equal(again.output_table, result.output_table)


def test_reserved_stars_are_measured_but_not_fitted() -> None:
    config = configure(FinalizeCharacterizationDetectorConfig())
    config.reserve_selection.reserve_fraction = 0.25
    task = FinalizeCharacterizationDetectorTask(config=config)
    table = run_detector(make_inputs(), task=task).output_table
    reserved = table["calib_psf_reserved"]
    assert np.count_nonzero(reserved) == 4
    assert not table["calib_psf_used"][reserved].any()
    assert np.isfinite(table["base_PsfFlux_instFlux"]).all()


# Visit, detector, consolidation -----------------------------------------------------------------------------


def test_visit_equals_consolidated_detectors() -> None:
    inputs = {d: make_inputs(d) for d in (7, 4)}
    whole = run_visit(inputs)
    assert whole.psf_ap_corr_cat.detectors == [4, 7]
    assert list(whole.output_table["detector"]) == [4] * N + [7] * N
    stars, sources = make_isolated((7, 4))
    parts = {
        d: run_detector(inputs[d], d, isolated_star_cat_dict=stars, isolated_star_source_dict=sources)
        for d in (7, 4)
    }
    together = ConsolidateFinalizeCharacterizationDetectorTask().run(
        psf_ap_corr_detector_dict={d: InMemoryDatasetHandle(r.psf_ap_corr_cat) for d, r in parts.items()},
        src_detector_table_dict={d: r.output_table for d, r in parts.items()},
    )
    assert_tables_equal(together.output_table, whole.output_table)
    assert together.psf_ap_corr_cat.detectors == [4, 7]
    for ours, theirs in zip(together.psf_ap_corr_cat, whole.psf_ap_corr_cat, strict=True):
        np.testing.assert_array_equal(ours.psf.piff_psf.interp.q, theirs.psf.piff_psf.interp.q)
        assert ours.aperture_corrections == theirs.aperture_corrections


def test_detectors_get_different_noise() -> None:
    assert noise_seed(1, 2) == noise_seed(1, 2)
    assert len({noise_seed(v, d) for v in range(5) for d in range(5)}) == 25


def test_visit_uses_detectors_with_both_inputs(caplog: pytest.LogCaptureFixture) -> None:
    inputs = {4: make_inputs(4), 7: make_inputs(7)}
    result = run_visit(inputs, calexp_dict={4: inputs[4].exposure, 9: inputs[7].exposure})
    assert result.psf_ap_corr_cat.detectors == [4]
    assert "those that have both" in caplog.text


def test_one_bad_detector_does_not_stop_the_visit(caplog: pytest.LogCaptureFixture) -> None:
    class Unreadable:
        def get(self) -> VisitImage:
            raise OSError("truncated file")

    inputs = {4: make_inputs(4), 7: make_inputs(7)}
    result = run_visit(inputs, calexp_dict={4: Unreadable(), 7: inputs[7].exposure})
    assert result.psf_ap_corr_cat.detectors == [7]
    assert "detector 4 failed" in caplog.text
    with pytest.raises(OSError, match="truncated"):
        run_visit(inputs, calexp_dict={4: Unreadable(), 7: Unreadable()})


def test_consolidation_checks_its_inputs(result: Any) -> None:
    task = ConsolidateFinalizeCharacterizationDetectorTask()
    summary, table = result.psf_ap_corr_cat, result.output_table
    with pytest.raises(NoWorkFound):
        task.run(psf_ap_corr_detector_dict={}, src_detector_table_dict={})
    with pytest.raises(ValueError, match=r"\[4\].*\[4, 5\]"):
        task.run(psf_ap_corr_detector_dict={4: summary}, src_detector_table_dict={4: table, 5: table})
    with pytest.raises(ValueError, match="summary of detector 5"):
        task.run(psf_ap_corr_detector_dict={5: summary}, src_detector_table_dict={5: table})
    other = VisitSummary(VISIT + 1, [DetectorSummary(5)])
    with pytest.raises(ValueError, match="expected visit 4321, found visit 4322"):
        task.run(
            psf_ap_corr_detector_dict={4: summary, 5: other}, src_detector_table_dict={4: table, 5: table}
        )
    narrow = table.copy()
    narrow.remove_column("psf_max_value")
    other = VisitSummary(VISIT, [DetectorSummary(5)])
    with pytest.raises(ValueError, match=r"Detector 5.*psf_max_value"):
        task.run(
            psf_ap_corr_detector_dict={4: summary, 5: other}, src_detector_table_dict={4: table, 5: narrow}
        )


def test_differing_source_schemas() -> None:
    """A detector whose sources have other unpublished columns is no obstacle."""
    inputs = {4: make_inputs(4), 7: make_inputs(7)}
    inputs[7].src.schema.add("another", float, "not published either")
    assert len(run_visit(inputs).output_table) == 2 * N


# Isolated stars ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", [{}, {"visit": VISIT}, {"visit": VISIT, "detector": 7}])
def test_indices_of_isolated_stars(selection: dict[str, int]) -> None:
    task = detector_task()
    stars, sources = make_isolated((4, 7))
    joined = task.concat_isolated_star_cats(BAND, stars, sources, **selection)
    star, source = joined.stars, joined.sources
    assert star is not None
    assert source is not None
    # The stars not seen in the band are gone, all others are there.
    assert len(star) == 2 * N
    assert len(source) == {0: 4 * N, 1: 2 * N, 2: N}[len(selection)]
    assert "extra" not in source.colnames
    for i in range(len(star)):
        first, count = star["source_cat_index_r"][i], star["nsource_r"][i]
        assert (source["obj_index"][first : first + count] == i).all()
    assert star["nsource_r"].sum() == len(source)
    np.testing.assert_array_equal(source["reserved"], star["reserved"][source["obj_index"]])
    assert star["reserved"].sum() == 2 * int(0.1 * N)


def test_reserved_flags_do_not_depend_on_the_selection() -> None:
    stars, sources = make_isolated((4, 7))
    task = detector_task()
    flags: dict[int, set[bool]] = {}
    for selection in ({}, {"visit": VISIT}, {"visit": VISIT, "detector": 4}, {"visit": VISIT, "detector": 7}):
        source = task.concat_isolated_star_cats(BAND, stars, sources, **selection).sources
        for identity, reserved in zip(source["sourceId"], source["reserved"], strict=True):
            flags.setdefault(identity % 10**6, set()).add(bool(reserved))
    assert all(len(each) == 1 for each in flags.values())
    assert {True} in flags.values()


def test_band_in_one_tract_only() -> None:
    stars, sources = make_isolated()
    stars[TRACTS[0]]["nsource_r"] = 0
    joined = detector_task().concat_isolated_star_cats(BAND, stars, sources)
    assert len(joined.stars) == N // 2
    np.testing.assert_array_equal(joined.sources["obj_index"], np.repeat(np.arange(N // 2), 2))
    stars[TRACTS[1]]["nsource_r"] = 0
    assert detector_task().concat_isolated_star_cats(BAND, stars, sources) == (None, None)


# What can go wrong ------------------------------------------------------------------------------------------


def test_no_isolated_stars() -> None:
    _, sources = make_isolated()
    for table in sources.values():
        table["visit"] = VISIT - 1
    with pytest.raises(NoWorkFound, match="visit 4321, detector 4"):
        run_detector(make_inputs(), isolated_star_source_dict=sources)
    with pytest.raises(NoWorkFound, match="visit 4321"):
        run_visit({4: make_inputs()}, isolated_star_source_dict=sources)
    with pytest.raises(NoWorkFound):
        run_detector(make_inputs(), isolated_star_cat_dict={}, isolated_star_source_dict={})


def test_nothing_selected(caplog: pytest.LogCaptureFixture) -> None:
    inputs = make_inputs()
    inputs.src["base_GaussianFlux_instFlux"] = 0.0
    with pytest.raises(NoWorkFound, match="visit 4321, detector 4"):
        run_detector(inputs)
    assert "visit 4321, detector 4: no good sources" in caplog.text
    both = run_visit({4: inputs, 7: make_inputs(7)})
    assert both.psf_ap_corr_cat.detectors == [7]
    with pytest.raises(NoWorkFound):
        run_visit({4: inputs})


def test_no_isolated_match(caplog: pytest.LogCaptureFixture) -> None:
    inputs = make_inputs()
    inputs.src["id"] += 500
    with pytest.raises(NoWorkFound):
        run_detector(inputs)
    assert "astrometry" in caplog.text


def check_row_without_psf(result: Any) -> None:
    (record,) = result.psf_ap_corr_cat
    assert record.psf is None
    assert record.aperture_corrections is None
    table = result.output_table
    assert len(table) == N
    assert np.isnan(table["base_PsfFlux_instFlux"]).all()
    # The value of the first pass is not passed off as a new one.
    assert np.isnan(table["base_GaussianFlux_instFlux"]).all()
    assert not table["calib_psf_used"].any()
    assert table["calib_psf_candidate"].all()


def test_psf_fit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    task = detector_task()
    error = PiffTooFewGoodStarsError(1, None, 6, "there")
    break_method(monkeypatch, task.psf_determiner, "determine_psf", error)
    check_row_without_psf(run_detector(make_inputs(), task=task))


def test_too_few_stars_for_the_psf() -> None:
    config = configure(FinalizeCharacterizationDetectorConfig())
    config.psf_determiner["piff"].spatialOrder = 5
    task = FinalizeCharacterizationDetectorTask(config=config)
    check_row_without_psf(run_detector(make_inputs(), task=task))


def test_cut_outs_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    task = detector_task()
    break_method(monkeypatch, task.make_psf_candidates, "run", RuntimeError("no stamps"))
    check_row_without_psf(run_detector(make_inputs(), task=task))


def test_psf_without_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "secondlight.tasks._finalize_shared.psf_shapes", lambda psf, *, x, y: np.full((1, 3), np.nan)
    )
    check_row_without_psf(run_detector(make_inputs()))


def test_all_pixels_masked() -> None:
    inputs = make_inputs()
    inputs.exposure.mask.set(plane_name("BAD"), np.ones(inputs.exposure.bbox.shape, dtype=bool))
    check_row_without_psf(run_detector(inputs))


def test_all_pixels_nan() -> None:
    inputs = make_inputs()
    inputs.exposure.image.array[...] = np.nan
    check_row_without_psf(run_detector(inputs))


def test_sources_without_footprints() -> None:
    """Cut-outs need none; a catalog without any leaves measurement to decide."""
    inputs = make_inputs()
    inputs.src.footprints = Footprints.empty(N)
    (record,) = run_detector(inputs).psf_ap_corr_cat
    assert record.psf is not None


def test_measurement_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    task = detector_task()
    task._prepare(make_inputs().src.schema)
    break_method(monkeypatch, type(task.measurement), "run", RuntimeError("no luck"))
    result = run_detector(make_inputs(), task=task)
    (record,) = result.psf_ap_corr_cat
    assert record.psf is not None
    assert record.aperture_corrections is None
    assert np.isnan(result.output_table["base_PsfFlux_instFlux"]).all()
    assert result.output_table["calib_psf_used"].any()


def test_aperture_corrections_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    task = detector_task()
    task._prepare(make_inputs().src.schema)
    error = MeasureApCorrError(name="base_PsfFlux", n_sources=1, ndof=0)
    break_method(monkeypatch, type(task.measure_ap_corr), "run", error)
    result = run_detector(make_inputs(), task=task)
    (record,) = result.psf_ap_corr_cat
    assert record.psf is not None
    assert record.aperture_corrections is None
    np.testing.assert_allclose(result.output_table["base_PsfFlux_instFlux"], FLUX, rtol=0.02)
    assert not result.output_table["base_PsfFlux_flag_apCorr"].any()


def test_memory_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    task = visit_task()
    break_method(monkeypatch, task.psf_determiner, "determine_psf", MemoryError())
    with pytest.raises(MemoryError):
        run_visit({4: make_inputs()}, task=task)


def test_missing_slot_is_named() -> None:
    inputs = make_inputs()
    del inputs.src.schema.aliases["slot_CalibFlux"]
    with pytest.raises(ValueError, match="slot_CalibFlux"):
        run_detector(inputs)


def test_missing_column_is_named() -> None:
    inputs = make_inputs()
    config = FinalizeCharacterizationDetectorConfig()
    config.source_selector["science"].flags.bad.append("no_such_flag")
    task = FinalizeCharacterizationDetectorTask(config=configure(config))
    with pytest.raises(ValueError, match="no_such_flag"):
        run_detector(inputs, task=task)


# Colours and standard magnitudes ----------------------------------------------------------------------------


def make_fgcm(src: SourceCatalog) -> dict[int, astropy.table.Table]:
    """Return standard stars: exact for all but the last source, and one 0.5 arcsec from the first."""
    ra, dec = np.degrees(src["coord_ra"][:-1]), np.degrees(src["coord_dec"][:-1])
    n = len(ra)
    near = astropy.table.Table(
        {"ra": ra, "dec": dec, "mag_g": 20.0 + np.arange(n), "mag_i": np.full(n, 19.0)}
    )
    off = astropy.table.Table(
        {"ra": [ra[0], np.nan], "dec": [dec[0] + 0.5 / 3600, 0.0], "mag_g": [99.0, 1.0], "mag_i": [0.0, 1.0]}
    )
    off["mag_r"] = 15.0
    return {1: near, 2: off}


def color_config(config: Any, **settings: Any) -> Any:
    config.psf_determiner["piff"].useColor = True
    config.psf_determiner["piff"].color = {"r": "g-i"}
    return configure(config, **settings)


def test_colors_come_from_the_nearest_standard_star() -> None:
    inputs = make_inputs()
    task = FinalizeCharacterizationDetectorTask(config=color_config(FinalizeCharacterizationDetectorConfig()))
    result = run_detector(inputs, task=task, fgcm_standard_star_dict=make_fgcm(inputs.src))
    table = result.output_table
    np.testing.assert_array_equal(table["psf_color_value"], np.float32([*np.arange(1, N), np.nan]))
    assert list(table["psf_color_type"]) == ["g-i"] * (N - 1) + [""]
    assert result.psf_ap_corr_cat.find(4).psf is not None


def test_standard_magnitudes() -> None:
    inputs = make_inputs()
    task = detector_task(do_add_fgcm_photometry=True, fgcmPhotometryBands=["g", "r"])
    table = run_detector(inputs, task=task, fgcm_standard_star_dict=make_fgcm(inputs.src)).output_table
    np.testing.assert_array_equal(table["fgcm_mag_g"], np.float32([*(20.0 + np.arange(N - 1)), np.nan]))
    assert np.isnan(table["fgcm_mag_r"]).all()
    assert table["fgcm_mag_g"].dtype == np.float32
    assert "fgcm_mag_i" not in table.colnames


def test_color_of_the_band_must_be_configured() -> None:
    inputs = make_inputs()
    task = FinalizeCharacterizationDetectorTask(config=color_config(FinalizeCharacterizationDetectorConfig()))
    with pytest.raises(ValueError, match="for band 'z'"):
        run_detector(inputs, task=task, band="z", fgcm_standard_star_dict=make_fgcm(inputs.src))
    with pytest.raises(ValueError, match="no FGCM standard stars"):
        run_detector(inputs, task=task)


def test_standard_stars_are_an_input_only_if_needed() -> None:
    plain = FinalizeCharacterizationConfig()
    assert "fgcm_standard_star" not in plain.connections.ConnectionsClass(config=plain).inputs
    colored = color_config(FinalizeCharacterizationConfig())
    assert "fgcm_standard_star" in colored.connections.ConnectionsClass(config=colored).inputs


# Moments on the sky -----------------------------------------------------------------------------------------


def test_sky_moments_columns() -> None:
    inputs = make_inputs()
    table = run_detector(inputs, task=detector_task(do_add_sky_moments=True)).output_table
    for owner, slot in (("shape", "slot_Shape"), ("psfShape", "slot_PsfShape")):
        # North is up and east is left: x moments are moments along right ascension, xy changes sign.
        for axis, pixel, sign in (("Iuu", "xx", 1), ("Ivv", "yy", 1), ("Iuv", "xy", -1)):
            expected = sign * PIXEL_SCALE**2 * table[f"{slot}_{pixel}"]
            np.testing.assert_allclose(table[f"{owner}_{axis}"], expected, rtol=1e-4, atol=1e-5)
        trace = table[f"{owner}_Iuu"] + table[f"{owner}_Ivv"]
        np.testing.assert_allclose(table[f"{owner}_Ialtalt"] + table[f"{owner}_Iazaz"], trace, rtol=1e-5)
        assert table[f"{owner}_Iuu"].dtype == np.float32


def test_altitude_azimuth_moments_need_place_and_time(caplog: pytest.LogCaptureFixture) -> None:
    inputs = make_inputs()
    info = inputs.exposure.obs_info.model_copy(update={"location": None})
    inputs.exposure = replace_components(inputs.exposure, obs_info=info)
    table = run_detector(inputs, task=detector_task(do_add_sky_moments=True)).output_table
    assert np.isnan(table["shape_Ialtalt"]).all()
    assert np.isfinite(table["shape_Iuu"]).all()
    assert "no altitude-azimuth moments" in caplog.text


def test_jacobian_is_local() -> None:
    """East and north at the position itself, also far from the reference point and at high declination."""
    image = make_visit_image(width=40, height=40)
    projection = make_sky_projection(image.bbox, dec=80.0)
    x, y = np.array([-20000.0, 19.5, np.nan]), np.array([3000.0, 19.5, 1.0])
    jacobian = pixel_to_sky_jacobian(projection, x=x, y=y)
    here = projection.pixel_to_sky(x=x[:2], y=y[:2])
    there = projection.pixel_to_sky(x=x[:2] + 0.5, y=y[:2])
    east, north = here.spherical_offsets_to(there)
    np.testing.assert_allclose(jacobian[:2, 0, 0], 2 * east.arcsec, rtol=1e-3)
    np.testing.assert_allclose(jacobian[:2, 1, 0], 2 * north.arcsec, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(jacobian[1], np.diag([-PIXEL_SCALE, PIXEL_SCALE]), atol=1e-5)
    assert np.isnan(jacobian[2]).all()


def test_moments_turn_with_the_axes() -> None:
    moments = np.array([[4.0, 2.0, 0.5]])
    quarter = np.array([[[0.0, -0.2], [0.2, 0.0]]])
    np.testing.assert_allclose(sky_moments(quarter, moments), 0.04 * np.array([[2.0, 4.0, -0.5]]))
    invalid = np.array([[4.0, 2.0, 3.0], [-1.0, -2.0, 0.0], [np.nan, 1.0, 0.0]])
    assert np.isnan(sky_moments(np.repeat(quarter, 3, axis=0), invalid)).all()


def test_altitude_points_to_the_zenith() -> None:
    moments = np.array([[4.0, 2.0, 0.5]])
    # Zenith to the north: altitude is the declination direction, azimuth grows to the west.
    np.testing.assert_allclose(alt_az_moments(moments, 0.0), [[2.0, 4.0, -0.5]])
    # Zenith to the east: altitude is east, azimuth grows to the north.
    np.testing.assert_allclose(alt_az_moments(moments, np.pi / 2), [[4.0, 2.0, 0.5]], atol=1e-12)
    angle = 0.7
    result = alt_az_moments(moments, angle)[0]
    assert result[0] + result[1] == pytest.approx(6.0)
    assert result[0] * result[1] - result[2] ** 2 == pytest.approx(4.0 * 2.0 - 0.25)


def test_parallactic_angle() -> None:
    """The direction of the zenith, computed the long way round."""
    image = make_visit_image(width=40, height=40)
    info = image.obs_info
    time = info.datetime_begin + 0.5 * (info.datetime_end - info.datetime_begin)
    target = image.sky_projection.pixel_to_sky(x=19.5, y=19.5)
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("iers_degraded_accuracy", "ignore"):
        frame = AltAz(obstime=time, location=info.location)
        zenith = SkyCoord(alt=90 * u.deg, az=0 * u.deg, frame=frame).icrs
    expected = target.position_angle(zenith).wrap_at(180 * u.deg).rad
    # The simple formula neglects the motion of the pole since 2000, some 0.15 degrees, and aberration.
    assert parallactic_angle(image) == pytest.approx(expected, abs=0.01)


# In a pipeline ----------------------------------------------------------------------------------------------


class FakeContext:
    """Stands in for the context that hands datasets to a quantum."""

    def __init__(self, inputs: dict[str, Any], **data_id: Any) -> None:
        self.inputs = inputs
        self.quantum = SimpleNamespace(dataId=data_id)
        self.outputs: dict[str, Any] = {}

    def get(self, refs: Any) -> dict[str, Any]:
        """Return the inputs, whatever is asked for."""
        return self.inputs

    def put(self, dataset: Any, ref: str) -> None:
        """Keep an output."""
        self.outputs[ref] = dataset


def handles(datasets: dict[int, Any], key: str) -> list[Any]:
    return [InMemoryDatasetHandle(value, dataId={key: k}) for k, value in reversed(datasets.items())]


def test_quanta(result: Any) -> None:
    inputs = make_inputs()
    stars, sources = make_isolated()
    common = {
        "isolated_star_cats": handles(stars, "tract"),
        "isolated_star_sources": handles(sources, "tract"),
    }
    context = FakeContext(
        {**common, "src": inputs.src, "calexp": inputs.exposure}, visit=VISIT, band=BAND, detector=4
    )
    refs = SimpleNamespace(
        finalized_psf_ap_corr_detector_cat="summary", finalized_src_detector_table="table",
        finalized_psf_ap_corr_cat="summary", finalized_src_table="table",
    )  # fmt: skip
    detector_task().runQuantum(context, None, refs)
    assert_tables_equal(context.outputs["table"], result.output_table)
    visit_context = FakeContext(
        {
            **common,
            "srcs": handles({4: inputs.src}, "detector"),
            "calexps": handles({4: inputs.exposure}, "detector"),
        },
        visit=VISIT,
        band=BAND,
    )
    visit_task().runQuantum(visit_context, None, refs)
    assert_tables_equal(visit_context.outputs["table"], result.output_table)
    together = FakeContext(
        {
            "finalized_psf_ap_corr_detector_cats": handles({4: context.outputs["summary"]}, "detector"),
            "finalized_src_detector_tables": handles({4: context.outputs["table"]}, "detector"),
        }
    )
    ConsolidateFinalizeCharacterizationDetectorTask().runQuantum(together, None, refs)
    assert_tables_equal(together.outputs["table"], result.output_table)
    assert together.outputs["summary"].detectors == [4]


@pytest.mark.parametrize("task_class", [FinalizeCharacterizationDetectorTask, FinalizeCharacterizationTask])
def test_psf_that_cannot_be_stored_is_refused_first(task_class: Any) -> None:
    config = configure(task_class.ConfigClass())
    config.psf_determiner["piff"].useCoordinates = "field"
    with pytest.raises(ValueError, match="field coordinates cannot be stored"):
        task_class(config=config).runQuantum(None, None, None)
