"""The final pass over a visit image, in memory."""

from __future__ import annotations

import math

import astropy.table
import astropy.units as u
import numpy as np
import pytest
from lsst.images import Image, Mask
from lsst.images.fields import ChebyshevField
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import AlgorithmError, Struct

from secondlight.background.fields import make_background
from secondlight.catalog.mask_planes import make_mask_schema, mask_of
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.tasks._reprocess_pixels import copy_mask_planes
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageConfig, ReprocessVisitImageTask
from tests.scenes import make_visit_image

from .reprocess_scenes import (
    CALIB,
    DETECTOR,
    HEIGHT,
    NOISE,
    POINT_FLUX,
    POINT_X,
    POINT_Y,
    SIGMA,
    VISIT,
    WIDTH,
    X0,
    Y0,
    background_field,
    make_calib_sources,
    make_config,
    make_inputs,
    make_scene,
)


@pytest.fixture(scope="module")
def task() -> ReprocessVisitImageTask:
    return ReprocessVisitImageTask(config=make_config())


@pytest.fixture(scope="module")
def outputs(task: ReprocessVisitImageTask) -> Struct:
    inputs = make_inputs(make_scene())
    result = task.run(**inputs)
    result.inputs = inputs
    return result


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


def test_summary_statistics(outputs: Struct) -> None:
    stats = outputs.exposure.summary_stats
    assert stats.psfSigma == pytest.approx(SIGMA, rel=1e-3)
    assert stats.nPsfStar == 1
    assert stats.zeroPoint == pytest.approx(CALIB.zero_point)
    assert stats.skyBg == pytest.approx(100, abs=1)
    assert stats.pixelScale == pytest.approx(0.2, rel=1e-5)
    assert stats.expTime == 30
    # Three-sigma clipping narrows the noise a little; sources widen it.
    assert stats.skyNoise == pytest.approx(NOISE, rel=0.05)
    assert stats.meanVar == pytest.approx(NOISE**2)


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
    result = task.run(**make_inputs(make_scene(), id_generator=None, visit=None))
    assert (result.sources["visit"] == VISIT).all()
    assert result.sources["id"].tolist() == list(range(1, len(result.sources) + 1))


def test_varying_calibration(task: ReprocessVisitImageTask) -> None:
    image = make_scene()
    field = ChebyshevField(image.bbox, np.array([[12.3, 0.5], [0.25, 0.0]]))
    calib = PhotoCalib(12.3, 0.1, field)
    result = task.run(**make_inputs(image, photo_calib=calib))
    scale = field.render().array.astype(np.float32)
    np.testing.assert_allclose(result.exposure.image.array, image.image.array * scale, rtol=1e-5)
    table = result.sources
    local = field(x=np.asarray(table["slot_Centroid_x"]), y=np.asarray(table["slot_Centroid_y"]))
    good = np.isfinite(table["base_PsfFlux_instFlux"])
    np.testing.assert_allclose(
        (table["base_PsfFlux_flux"] / table["base_PsfFlux_instFlux"])[good], local[good], rtol=1e-12
    )
    assert np.ptp(local) > 0.1


def test_flat_ratio(outputs: Struct) -> None:
    task = ReprocessVisitImageTask(config=make_config(do_apply_flat_background_ratio=True))
    image = make_scene()
    ratio = Image(np.full(image.bbox.shape, 1.1, dtype=np.float32), bbox=image.bbox)
    on = task.run(**make_inputs(image, background_to_photometric_ratio=ratio))
    assert len(on.sources) == len(outputs.sources)
    for name in ("base_PsfFlux_instFlux", "base_PsfFlux_flux"):
        good = np.isfinite(outputs.sources[name])
        np.testing.assert_allclose(
            outputs.sources[name][good], 1.1 * on.sources[name][good], rtol=1e-5, atol=0.01
        )
    np.testing.assert_allclose(
        on.exposure.variance.array * 1.1**2, outputs.exposure.variance.array, rtol=1e-5
    )


@pytest.mark.parametrize("varying", [False, True])
def test_initial_photo_calib_is_removed_exactly(outputs: Struct, varying: bool) -> None:
    image = make_scene()
    field = ChebyshevField(image.bbox, np.array([[2.0, 0.3]])) if varying else None
    initial = PhotoCalib(2.0, field=field)
    inputs = make_inputs(image, initial_photo_calib=initial)
    # The same background in the units of the initial calibration.
    counts = background_field(image.bbox)
    if field is None:
        inputs["background"] = make_background(counts * 2.0)
    else:
        y, x = np.meshgrid(image.bbox.y.arange, image.bbox.x.arange, indexing="ij")
        product = counts(x=x, y=y) * field(x=x, y=y)
        fitted = ChebyshevField.fit(
            image.bbox, product, order=2, x=image.bbox.x.arange, y=image.bbox.y.arange
        )
        inputs["background"] = make_background(fitted)
    task = ReprocessVisitImageTask(config=make_config(remove_initial_photo_calib=True))
    result = task.run(**inputs)
    np.testing.assert_allclose(
        result.exposure.image.array, outputs.exposure.image.array, rtol=1e-4, atol=12.3 * 1e-2
    )
    assert result.exposure.summary_stats.skyBg == pytest.approx(100, abs=1)


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


def test_mask_planes_are_copied() -> None:
    config = make_config(copyMaskPlanes=["SPIKE", "foo", "bar"])
    image = make_scene()
    preliminary = Mask(schema=make_mask_schema(["SPIKE", "bar", "TEST", "SAT"]), bbox=image.bbox)
    for name in ("SPIKE", "bar", "TEST"):
        plane = np.zeros(image.bbox.shape, dtype=bool)
        plane[10:20, 100 : 100 + len(name)] = True
        preliminary.set(name, plane)
    copy_mask_planes(image, preliminary, config.copyMaskPlanes)
    assert "foo" not in image.mask.schema.names
    assert "TEST" not in image.mask.schema.names
    for name in ("SPIKE", "bar"):
        np.testing.assert_array_equal(mask_of(image.mask, [name]), mask_of(preliminary, [name]))


def test_calibration_stars_need_a_close_childless_partner(
    task: ReprocessVisitImageTask, outputs: Struct
) -> None:
    sources = outputs.sources_footprints.copy()
    for name in ("calib_psf_used", "calib_psf_candidate", "calib_psf_reserved"):
        sources[name] = False
    truth = make_calib_sources(outputs.exposure)
    brightest = int(np.nanargmax(sources["base_PsfFlux_instFlux"]))
    sources["deblend_nChild"][brightest] = 2
    shifted = truth.copy()
    shifted["coord_dec"][1] += np.radians(0.5 / 3600)
    duplicate = astropy.table.vstack([shifted, shifted[2:3]])
    duplicate["coord_dec"][-1] += np.radians(0.1 / 3600)
    duplicate["calib_psf_used"][-1] = True
    task._match_calib_sources(sources, duplicate, detector=DETECTOR)
    # Not the parent, not the star half an arcsecond off, and the farther of two stars does not count.
    assert sources["calib_psf_candidate"].sum() == 4
    assert not sources["calib_psf_candidate"][brightest]
    assert sources["calib_psf_used"].sum() == 1
    sources["calib_psf_candidate"] = False
    task._match_calib_sources(sources, truth, detector=99)
    assert not sources["calib_psf_candidate"].any()


def test_inputs_that_the_configuration_needs() -> None:
    image = make_scene()
    inputs = make_inputs(image)
    with pytest.raises(ValueError, match="no initial_photo_calib"):
        ReprocessVisitImageTask(config=make_config(remove_initial_photo_calib=True)).run(**inputs)
    with pytest.raises(ValueError, match="no background_to_photometric_ratio"):
        ReprocessVisitImageTask(config=make_config(do_apply_flat_background_ratio=True)).run(**inputs)


@pytest.mark.parametrize("name", ["psf", "ap_corr", "photo_calib", "wcs"])
def test_missing_calibration_is_named(task: ReprocessVisitImageTask, name: str) -> None:
    with pytest.raises(ValueError, match=rf"Visit {VISIT}, detector 42: no {name} given"):
        task.run(**make_inputs(make_scene(), **{name: None}))


@pytest.mark.parametrize("name", ["detector", "coord_ra", "calib_psf_used"])
def test_calibration_stars_without_a_column_are_refused(task: ReprocessVisitImageTask, name: str) -> None:
    inputs = make_inputs(make_scene())
    inputs["calib_sources"].remove_column(name)
    with pytest.raises(ValueError, match=rf"Visit {VISIT}, detector 42: calib_sources lacks .*{name}"):
        task.run(**inputs)


def test_image_of_nan_says_so(task: ReprocessVisitImageTask) -> None:
    """The sky sources that an image without a finite pixel gets cannot be replaced by noise."""
    image = make_scene()
    image.image.array[...] = np.nan
    with pytest.raises(AlgorithmError, match=rf"visit {VISIT}, detector 42 .*no finite pixels"):
        task.run(**make_inputs(image))


def test_calibrated_image_is_refused(task: ReprocessVisitImageTask, outputs: Struct) -> None:
    inputs = make_inputs(make_scene()) | {"exposures": [outputs.exposure]}
    with pytest.raises(ValueError, match=rf"Visit {VISIT}, detector 42: the unit is nJy"):
        task.run(**inputs)


@pytest.mark.parametrize("masked", [False, True])
def test_nothing_to_find(masked: bool) -> None:
    """An image of noise, or one without a good pixel, gives an empty table with all columns."""
    config = make_config()
    config.sky_sources.nSources = 0
    task = ReprocessVisitImageTask(config=config)
    image = make_visit_image(
        width=WIDTH, height=HEIGHT, x0=X0, y0=Y0, noise=NOISE, visit=VISIT, detector=DETECTOR
    )
    if masked:
        image.mask.set("NO_DATA", np.ones(image.bbox.shape, dtype=bool))
    result = task.run(**make_inputs(image))
    assert len(result.sources) == 0
    assert set(task.sources_schema.schema.names) <= set(result.sources.colnames)
    assert result.exposure.unit == u.nJy
    assert math.isnan(result.exposure.summary_stats.skyNoise) == masked


def test_one_bad_calibration_star_spoils_nothing(task: ReprocessVisitImageTask, outputs: Struct) -> None:
    stars = make_calib_sources(outputs.exposure)
    stars["coord_ra"][1] = np.nan
    sources = outputs.sources_footprints.copy()
    sources["calib_psf_candidate"] = False
    task._match_calib_sources(sources, stars, detector=DETECTOR)
    assert sources["calib_psf_candidate"].sum() == 5


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


def test_connections_follow_the_configuration() -> None:
    optional = {"initial_photo_calib", "background_2", "background_to_photometric_ratio"}
    config = ReprocessVisitImageConfig()
    names = set(config.connections.ConnectionsClass(config=config).inputs)
    assert not names & optional
    config.remove_initial_photo_calib = config.do_use_sky_corr = config.do_apply_flat_background_ratio = True
    assert optional <= set(config.connections.ConnectionsClass(config=config).inputs)
