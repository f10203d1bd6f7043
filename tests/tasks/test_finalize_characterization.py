"""Final characterization of one detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lsst.images.json
import numpy as np
import pytest
from lsst.images.serialization import read_archive
from lsst.pipe.base import InMemoryDatasetHandle, NoWorkFound

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.mask_planes import plane_name
from secondlight.catalog.visit_summary import VisitSummary
from secondlight.photometry.measure_ap_corr import MeasureApCorrError
from secondlight.psf.piff_determiner import PiffTooFewGoodStarsError
from secondlight.tasks.finalize_characterization import (
    FinalizeCharacterizationDetectorConfig,
    FinalizeCharacterizationDetectorTask,
)

from .finalize_scenes import (
    BAND,
    CALIB_RATIO,
    FLUX,
    TRACTS,
    VISIT,
    X0,
    Y0,
    N,
    assert_tables_equal,
    break_method,
    configure,
    detector_task,
    make_inputs,
    make_isolated,
    run_detector,
    run_visit,
    visit_task,
)


@pytest.fixture(scope="module")
def result() -> Any:
    return run_detector(make_inputs())


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
    # Nor is a missing value left without its flag.
    for name in ("base_PsfFlux", "base_GaussianFlux", "ext_shapeHSM_HsmSourceMoments"):
        assert table[f"{name}_flag"].all()
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
    assert result.output_table["base_PsfFlux_flag"].all()
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
