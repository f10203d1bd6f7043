"""The final pass over a visit image, in memory."""

from __future__ import annotations

import math
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from lsst.images import Mask, VisitImage
from lsst.pex.config import Config, FieldValidationError
from lsst.pipe.base import Struct, Task

from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.mask_planes import ensure_planes, make_mask_schema, mask_of
from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageConfig, ReprocessVisitImageTask

from .reprocess_scenes import (
    DETECTOR,
    NOISE,
    POINT_FLUX,
    POINT_X,
    POINT_Y,
    VISIT,
    X0,
    Y0,
    background_field,
    default_outputs,
    default_task,
    make_config,
    make_inputs,
    make_scene,
)


@pytest.fixture(scope="module")
def task() -> ReprocessVisitImageTask:
    return default_task()


@pytest.fixture(scope="module")
def outputs() -> Struct:
    return default_outputs()


def test_finds_every_source_once(outputs: Struct) -> None:
    table = outputs.sources
    assert len(table) == 9
    assert table["sky_source"].sum() == 2
    real = table[~table["sky_source"]]
    for x, y in [*zip(POINT_X, POINT_Y, strict=True), (100, 100)]:
        distance = np.hypot(real["slot_Centroid_x"] - x, real["slot_Centroid_y"] - y)
        assert distance.min() < 1.0
    assert np.all(np.diff(table["id"]) > 0)
    assert (table["id"] >> 20 == 7).all()


def test_columns(task: ReprocessVisitImageTask, outputs: Struct) -> None:
    table = outputs.sources
    assert (table["visit"] == VISIT).all()
    assert (table["detector"] == DETECTOR).all()
    assert table["visit"].dtype == np.int64
    assert outputs.sources_footprints.schema == task.sources_schema.schema
    assert set(outputs.sources_footprints.schema.names) <= set(table.colnames)
    assert "slot_PsfFlux_flux" in table.colnames
    good = np.isfinite(table["base_PsfFlux_instFlux"])
    assert good.sum() >= 7
    np.testing.assert_allclose((table["base_PsfFlux_flux"] / table["base_PsfFlux_instFlux"])[good], 12.3)
    np.testing.assert_allclose(table["base_LocalPhotoCalib"], 12.3)
    np.testing.assert_allclose(table["base_LocalPhotoCalibErr"], 0.1)


def test_fluxes_are_right(outputs: Struct) -> None:
    table = outputs.sources
    for x, y, flux in zip(POINT_X, POINT_Y, POINT_FLUX, strict=True):
        row = table[np.argmin(np.hypot(table["slot_Centroid_x"] - x, table["slot_Centroid_y"] - y))]
        assert abs(row["base_PsfFlux_instFlux"] - flux) < 4 * row["base_PsfFlux_instFluxErr"] + 2e-3 * flux


def test_calibration_star_flags(outputs: Struct) -> None:
    table = outputs.sources
    real = table[~table["sky_source"]]
    faintest = real[np.argmin(real["slot_CalibFlux_instFlux"])]
    assert table["calib_psf_used"].sum() == 1
    assert faintest["calib_psf_used"]
    assert table["calib_psf_candidate"].sum() == 6
    assert not table["calib_psf_reserved"].any()


def test_final_positions_of_calibration_stars_count(outputs: Struct) -> None:
    """The table has the coordinates of an older astrometric solution, and pixels that have not changed."""
    inputs = make_inputs(make_scene())
    stars = inputs["calib_sources"]
    stars["coord_dec"] += math.radians(1 / 3600)
    assert not default_task().run(**inputs).sources["calib_psf_candidate"].any()
    inputs = make_inputs(make_scene(), calib_sources=stars)
    stars["slot_Centroid_x"], stars["slot_Centroid_y"] = (np.tile(p, 2) * 1.0 for p in (POINT_X, POINT_Y))
    table = default_task().run(**inputs).sources
    for name in ("calib_psf_candidate", "calib_psf_used"):
        np.testing.assert_array_equal(table[name], outputs.sources[name])


def test_image(outputs: Struct) -> None:
    exposure, inputs = outputs.exposure, outputs.inputs
    assert exposure.unit == u.nJy
    assert exposure.variance.unit == u.nJy**2
    assert exposure.psf == inputs["psf"]
    assert exposure.sky_projection == inputs["wcs"]
    counts = inputs["exposures"][0]  # processed in place, still in counts
    np.testing.assert_allclose(exposure.image.array, counts.image.array * np.float32(12.3), rtol=1e-6)
    np.testing.assert_allclose(exposure.variance.array, NOISE**2 * 12.3**2, rtol=1e-5)
    # Putting the background back restores the input away from the cosmic ray.
    truth = make_scene().image.array
    untouched = ~mask_of(exposure.mask, ["CR", "INTRP"])
    restored = exposure.convert_unit(u.adu).image.array + background_field(exposure.bbox).render().array
    expected = truth + background_field(exposure.bbox).render().array
    np.testing.assert_allclose(restored[untouched], expected[untouched], rtol=1e-5, atol=1e-3)
    assert not untouched[60 - Y0, 60 - X0]
    assert abs(exposure.image.array[60 - Y0, 60 - X0]) < 12.3 * 10 * NOISE
    assert outputs.background.subtracted is not None
    # What is in nJy stays as it is when it is brought to nJy.
    again = exposure.convert_unit(u.nJy)
    np.testing.assert_array_equal(again.image.array, exposure.image.array)
    np.testing.assert_array_equal(again.variance.array, exposure.variance.array)


def test_same_input_same_output(task: ReprocessVisitImageTask, outputs: Struct) -> None:
    again = task.run(**make_inputs(make_scene()))
    np.testing.assert_array_equal(again.exposure.image.array, outputs.exposure.image.array)
    for name in outputs.sources.colnames:
        np.testing.assert_array_equal(again.sources[name], outputs.sources[name], err_msg=name)


@pytest.mark.parametrize(("dx", "dy"), [(1024, 512), (1000, -2007)])
def test_origin_of_the_pixels_does_not_matter(
    task: ReprocessVisitImageTask, outputs: Struct, dx: int, dy: int
) -> None:
    moved = task.run(**make_inputs(make_scene(dx=dx, dy=dy)))
    np.testing.assert_array_equal(moved.exposure.image.array, outputs.exposure.image.array)
    np.testing.assert_array_equal(moved.exposure.mask.array, outputs.exposure.mask.array)
    shifts = {"x": dx, "y": dy}
    for name in outputs.sources.colnames:
        column = outputs.sources[name]
        is_position = column.unit == u.pix and "Psf" not in name  # those of the PSF are relative
        shift = shifts.get(name.rsplit("_", 1)[-1], 0) if is_position else 0
        expected, found = np.asarray(column) + shift if shift else np.asarray(column), moved.sources[name]
        if expected.dtype.kind == "f":
            # Positions lose their last digits with the origin, and what is measured there follows.
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9, err_msg=name)
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)


def test_visit_and_ids_by_default(task: ReprocessVisitImageTask) -> None:
    """Ids count from 1, and the visit is that of the observation info, beyond 32 bits here."""
    result = task.run(**make_inputs(make_scene(), id_generator=None, visit=None))
    assert (result.sources["visit"] == VISIT).all()
    assert result.sources["id"].tolist() == list(range(1, len(result.sources) + 1))


def test_two_snaps(outputs: Struct, task: ReprocessVisitImageTask) -> None:
    snaps = [make_scene(seed=5), make_scene(seed=6)]
    inputs = make_inputs(snaps[0])
    inputs["exposures"] = snaps  # only one of them contains the background: so does their sum
    result = task.run(**inputs)
    stars = [np.argmin(np.hypot(r.sources["slot_Centroid_x"] - 175, r.sources["slot_Centroid_y"] - 154))
             for r in (outputs, result)]  # fmt: skip
    one, both = (
        r.sources["base_PsfFlux_instFlux"][row] for r, row in zip((outputs, result), stars, strict=True)
    )
    assert both / one == pytest.approx(2, rel=0.01)
    np.testing.assert_allclose(np.median(result.exposure.variance.array), 2 * NOISE**2 * 12.3**2, rtol=1e-4)
    assert result.exposure.summary_stats.expTime == 60


def test_pixels_bad_in_both_snaps(outputs: Struct) -> None:
    """They have no data; those bad in one of them come from the other."""
    config = make_config()
    config.snap_combine.bad_mask_planes = ["SAT"]
    task = ReprocessVisitImageTask(config=config)
    snaps = [make_scene(seed=5), make_scene(seed=6)]
    both, one = (np.zeros(snaps[0].bbox.shape, dtype=bool) for _ in range(2))
    both[100:102, 20:23], one[110:112, 20:23] = True, True
    for snap, bad in zip(snaps, (both | one, both), strict=True):
        snap.mask.set("SATURATED", bad)
        snap.image.array[bad] = 60000
    before = snaps[1].image.array.copy()
    inputs = make_inputs(snaps[0])
    inputs["exposures"] = snaps
    result = task.run(**inputs)
    exposure = result.exposure
    np.testing.assert_array_equal(np.isnan(exposure.image.array), both)
    np.testing.assert_array_equal(mask_of(exposure.mask, ["NO_DATA"]), both)
    field = background_field(exposure.bbox).render().array
    expected = 12.3 * (2 * before - field)[one]
    np.testing.assert_allclose(exposure.image.array[one], expected, rtol=1e-4)
    assert len(result.sources) == len(outputs.sources)


def test_mask_planes_are_copied() -> None:
    """Planes go by name; those the other mask lacks are not made, and no others are touched."""
    task = ReprocessVisitImageTask(config=make_config(copyMaskPlanes=["SPIKE", "foo", "bar"]))
    image = make_scene()
    image.mask = ensure_planes(image.mask, ["TEST", "bar"])
    ours = np.zeros(image.bbox.shape, dtype=bool)
    ours[30:40, 10:20] = True
    image.mask.set("TEST", ours)
    image.mask.set("bar", ours)
    preliminary = Mask(schema=make_mask_schema(["foobar", "TEST", "bar", "SPIKE"]), bbox=image.bbox.padded(3))
    for name in ("foobar", "TEST", "bar", "SPIKE"):
        plane = np.zeros(preliminary.bbox.shape, dtype=bool)
        plane[13:23, 103 : 103 + len(name)] = True
        preliminary.set(name, plane)
    mask = task.run(**make_inputs(image, preliminary_mask=preliminary)).exposure.mask
    assert not {"foo", "foobar"} & set(mask.schema.names)
    copied = preliminary[image.bbox]
    np.testing.assert_array_equal(mask_of(mask, ["SPIKE"]), mask_of(copied, ["SPIKE"]))
    np.testing.assert_array_equal(mask_of(mask, ["bar"]), ours | mask_of(copied, ["bar"]))
    np.testing.assert_array_equal(mask_of(mask, ["TEST"]), ours)


class LeaveWholeTask(Task):
    """Stands in the place of the deblender, and does nothing."""

    ConfigClass = Config
    _DefaultName = "leaveWhole"

    def __init__(self, *, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def run(self, exposure: VisitImage, sources: SourceCatalog, **_: Any) -> SourceCatalog:
        """Return the sources."""
        return sources


def test_blends_may_be_left_whole_and_plugins_left_out() -> None:
    config = make_config()
    config.deblend.retarget(LeaveWholeTask)
    config.measurement.plugins.names = [
        "base_SdssCentroid", "base_SkyCoord", "base_PsfFlux", "base_CompensatedTophatFlux"
    ]  # fmt: skip
    for slot in set(config.measurement.slots.toDict()) - {"centroid", "psfFlux"}:
        setattr(config.measurement.slots, slot, None)
    config.catalog_calculation.plugins.names = ["base_FootprintArea"]
    config.validate()
    result = ReprocessVisitImageTask(config=config).run(**make_inputs(make_scene(blend=True)))
    assert len(result.sources) == len(POINT_FLUX) + 1 + 1 + 2  # the galaxy, the blend, empty sky
    assert "deblend_nChild" not in result.sources.colnames
    assert result.sources["calib_psf_candidate"].sum() == len(POINT_FLUX)
    assert result.exposure.summary_stats.nPsfStar == 1
    assert math.isnan(result.exposure.summary_stats.psfStarDeltaE1Median)


def test_a_mask_may_lack_planes(outputs: Struct) -> None:
    """A camera that knows no planes but its bad pixels has none of the others set."""
    image = make_scene()
    mask = Mask(schema=make_mask_schema(["BAD"]), bbox=image.bbox, sky_projection=image.sky_projection)
    image.mask = mask
    result = default_task().run(**make_inputs(image))
    np.testing.assert_array_equal(result.exposure.image.array, outputs.exposure.image.array)
    for name in outputs.exposure.mask.schema.names:
        ours, expected = (mask_of(r.exposure.mask, [name]) for r in (result, outputs))
        np.testing.assert_array_equal(ours, expected)


def test_noise_belongs_to_visit_and_detector(outputs: Struct) -> None:
    """What replaces neighbours and where sky sources are depends on the ids, or on the image without any."""

    def measured(**values: object) -> Table:
        image = make_scene(blend=True, **{k: values.pop(k) for k in ("visit", "detector") if k in values})
        return default_task().run(**make_inputs(image, **values)).sources

    flux = "base_PsfFlux_instFlux"
    ours = measured()
    again, others = measured(), measured(id_generator=IdGenerator(8, 20))
    np.testing.assert_array_equal(again[flux], ours[flux])
    sky = ours["sky_source"]
    assert (others[flux][sky] != ours[flux][sky]).all()
    assert (others["id"] - ours["id"] == 1 << 20).all()
    child = ours["parent"] != 0
    assert child.sum() == 2
    assert (others[flux][child] != ours[flux][child]).all()
    difference = np.abs(others[flux][child] - ours[flux][child])
    assert (difference < 3 * ours["base_PsfFlux_instFluxErr"][child]).all()
    # Without ids of their own.
    plain = [measured(id_generator=None, visit=v, detector=d) for v, d in ((1, 2), (1, 2), (1, 3), (2, 2))]
    child = plain[0]["parent"] != 0
    np.testing.assert_array_equal(plain[0][flux], plain[1][flux])
    assert (plain[0][flux][child] != plain[2][flux][child]).all()
    assert (plain[0][flux][child] != plain[3][flux][child]).all()


def test_image_is_changed_in_place_but_nothing_else(outputs: Struct) -> None:
    inputs = make_inputs(make_scene())
    stars, preliminary = inputs["calib_sources"].copy(), make_scene().mask
    preliminary.set("SPIKE", np.ones(preliminary.bbox.shape, dtype=bool))
    before = preliminary.copy()
    background = inputs["background"].subtracted
    default_task().run(**inputs, preliminary_mask=preliminary)
    assert preliminary == before
    assert inputs["background"].subtracted == background
    assert (inputs["calib_sources"] == stars).all()
    assert inputs["calib_sources"].colnames == stars.colnames


def test_columns_to_start_from() -> None:
    """The schema that the task starts from may have more columns; they are published too."""
    schema = minimal_source_schema()
    schema.add("truth_id", np.int64, "id in the simulation")
    task = ReprocessVisitImageTask(config=make_config(), schema=schema)
    assert task.schema is schema
    assert task.sources_schema.schema.names[:5] == ["id", "coord_ra", "coord_dec", "parent", "truth_id"]
    result = task.run(**make_inputs(make_scene()))
    assert (result.sources["truth_id"] == 0).all()


def test_config_validation() -> None:
    config = make_config()
    config.do_apply_flat_background_ratio = True
    config.detection.reEstimateBackground = True
    with pytest.raises(FieldValidationError, match="doApplyFlatBackgroundRatio"):
        config.validate()
    config.detection.doApplyFlatBackgroundRatio = True
    config.validate()
    config.remove_initial_photo_calib = True
    with pytest.raises(FieldValidationError, match="remove_initial_photo_calib"):
        config.validate()
    for radius in (0.0, -0.1, math.nan):
        with pytest.raises(FieldValidationError, match="calib_match_radius"):
            config.calib_match_radius = radius


def test_connections_follow_the_configuration() -> None:
    optional = {"initial_photo_calib", "background_2", "background_to_photometric_ratio"}
    config = ReprocessVisitImageConfig()
    names = set(config.connections.ConnectionsClass(config=config).inputs)
    assert not names & optional
    config.remove_initial_photo_calib = config.do_use_sky_corr = config.do_apply_flat_background_ratio = True
    assert optional <= set(config.connections.ConnectionsClass(config=config).inputs)
