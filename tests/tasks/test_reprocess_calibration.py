"""Photometric calibrations and flat ratios that vary over the image, and blends."""

from __future__ import annotations

import math

import astropy.table
import astropy.units as u
import numpy as np
import pytest
from lsst.images import Image
from lsst.images.fields import ChebyshevField
from lsst.pipe.base import Struct

from secondlight.background.fields import make_background, render_background
from secondlight.catalog.photo_calib import AB_FLUX_NJY, PhotoCalib
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .reprocess_scenes import (
    BLEND_FLUX,
    BLEND_X,
    BLEND_Y,
    CALIB,
    NOISE,
    POINT_FLUX,
    POINT_X,
    POINT_Y,
    background_field,
    default_outputs,
    default_task,
    make_calib_sources,
    make_config,
    make_inputs,
    make_scene,
    row_at,
)

MEAN = 12.0
"""What the calibration of the blend tells as its mean: that over another region than the image, say."""


@pytest.fixture(scope="module")
def blend() -> Struct:
    """A scene with a blend, a photometric calibration that varies, and calibration stars in the blend."""
    image = make_scene(blend=True)
    field = ChebyshevField(image.bbox, np.array([[12.3, 2.5], [1.25, 0.0]]))
    stars = make_calib_sources(image, x=BLEND_X, y=BLEND_Y)
    inputs = make_inputs(image, photo_calib=PhotoCalib(MEAN, 0.1, field), calib_sources=stars)
    result = default_task().run(**inputs)
    result.field, result.counts = field, image.image.array
    return result


def local_calibration(result: Struct) -> np.ndarray:
    """Return the calibration at every source."""
    table = result.sources
    return result.field(x=np.asarray(table["slot_Centroid_x"]), y=np.asarray(table["slot_Centroid_y"]))


# A blend --------------------------------------------------------------------------------------------------


def parent_and_children(table: astropy.table.Table) -> tuple[int, np.ndarray]:
    """Return the row of the parent and those of its children."""
    (parent,) = np.flatnonzero(table["deblend_nChild"] > 0)
    return int(parent), np.flatnonzero(table["parent"] == table["id"][parent])


def test_blend_is_split(blend: Struct) -> None:
    table = blend.sources
    parent, children = parent_and_children(table)
    assert table["deblend_nChild"][parent] == len(children) == 2
    assert (table["parent"] != 0).sum() == 2
    # Parents, then sky sources, then children; ids increase.
    assert children.tolist() == [len(table) - 2, len(table) - 1]
    assert (np.diff(table["id"]) > 0).all()
    assert len(np.unique(table["id"])) == len(table)
    sky = np.flatnonzero(table["sky_source"])
    assert parent < sky.min() < sky.max() < children.min()
    assert table["deblend_parentNPeaks"][children].tolist() == [2, 2]
    assert table["deblend_deblendedAsPsf"][children].all()


def test_every_object_is_primary_once(blend: Struct) -> None:
    table = blend.sources
    parent, children = parent_and_children(table)
    assert not table["detect_isPrimary"][parent]
    assert table["detect_isPrimary"][children].all()
    assert not table["detect_isPrimary"][table["sky_source"]].any()
    assert table["detect_isPrimary"].sum() == len(POINT_X) + 1 + 2
    assert not table["detect_isIsolated"][[parent, *children]].any()
    assert table["detect_fromBlend"][children].all()


def test_fluxes_of_the_children(blend: Struct) -> None:
    for x, y, flux in zip(BLEND_X, BLEND_Y, BLEND_FLUX, strict=True):
        row = row_at(blend.sources, x, y)
        assert row["parent"] != 0
        assert row["base_PsfFlux_instFlux"] == pytest.approx(flux, rel=0.01)
        assert np.hypot(row["slot_Centroid_x"] - x, row["slot_Centroid_y"] - y) < 0.05
    _, children = parent_and_children(blend.sources)
    total = blend.sources["base_PsfFlux_instFlux"][children].sum()
    assert total == pytest.approx(BLEND_FLUX.sum(), rel=0.005)


def test_flags_of_calibration_stars_are_the_childrens(blend: Struct) -> None:
    table = blend.sources
    parent, children = parent_and_children(table)
    assert table["calib_psf_candidate"][children].all()
    assert not table["calib_psf_candidate"][parent]
    assert table["calib_psf_candidate"].sum() == 2
    used = table["calib_psf_used"][children]
    assert used.sum() == 1
    assert table[children][used]["slot_Centroid_x"][0] == pytest.approx(BLEND_X[0], abs=0.1)
    assert blend.exposure.summary_stats.nPsfStar == 1


# Photometric calibration ----------------------------------------------------------------------------------


def test_varying_calibration_of_the_pixels(blend: Struct) -> None:
    scale = blend.field.render().array
    exposure = blend.exposure
    np.testing.assert_allclose(exposure.image.array, blend.counts * scale, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(exposure.variance.array, (NOISE * scale) ** 2, rtol=1e-5)
    assert exposure.unit == u.nJy
    assert exposure.photometric_scaling(x=120.0, y=40.0) == pytest.approx(blend.field(x=120.0, y=40.0))


def test_varying_calibration_of_the_sources(blend: Struct) -> None:
    """Every row, children too, takes the calibration of its own centroid."""
    table = blend.sources
    local = local_calibration(blend)
    assert np.ptp(local) > 1
    _, children = parent_and_children(table)
    assert abs(np.diff(local[children])[0]) > 0.05
    for name in ("base_PsfFlux", "base_CircularApertureFlux_12_0", "ext_photometryKron_KronFlux"):
        flux, error = table[f"{name}_flux"], table[f"{name}_fluxErr"]
        np.testing.assert_allclose(flux, table[f"{name}_instFlux"] * local, rtol=1e-12)
        np.testing.assert_allclose(error, table[f"{name}_instFluxErr"] * local, rtol=1e-12)
        positive = np.asarray(flux) > 0
        assert positive.sum() >= 9
        mag = -2.5 * np.log10(np.asarray(flux)[positive] / AB_FLUX_NJY)
        np.testing.assert_allclose(table[f"{name}_mag"][positive], mag, rtol=1e-12)
        mag_error = 2.5 / math.log(10) * np.asarray(error / flux)[positive]
        np.testing.assert_allclose(table[f"{name}_magErr"][positive], mag_error, rtol=1e-12)
        assert np.isnan(table[f"{name}_mag"][~positive]).all()
    assert table["base_PsfFlux_flux"].unit == u.nJy
    assert table["base_PsfFlux_mag"].unit == u.mag


def test_local_calibration_is_that_of_the_fluxes(blend: Struct) -> None:
    table = blend.sources
    local = local_calibration(blend)
    good = np.isfinite(local)
    np.testing.assert_allclose(table["base_LocalPhotoCalib"][good], local[good], rtol=1e-6)
    ratio = np.asarray(table["base_PsfFlux_flux"] / table["base_PsfFlux_instFlux"])
    good &= np.isfinite(ratio)
    np.testing.assert_allclose(table["base_LocalPhotoCalib"][good], ratio[good], rtol=1e-6)


def test_zero_point_of_a_varying_calibration(blend: Struct) -> None:
    """It is that of the mean that comes with the calibration, as in the visit summary, and said so twice."""
    assert float(blend.field.render().array.mean()) == pytest.approx(12.3, abs=1e-3)
    expected = -2.5 * math.log10(MEAN / AB_FLUX_NJY)
    assert blend.exposure.summary_stats.zeroPoint == pytest.approx(expected, abs=1e-12)
    assert blend.exposure.metadata["zero_point"] == pytest.approx(expected, abs=1e-12)


# Initial photometric calibration --------------------------------------------------------------------------


@pytest.mark.parametrize("varying", [False, True])
def test_initial_photo_calib_is_removed_exactly(varying: bool) -> None:
    outputs = default_outputs()
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
    np.testing.assert_array_equal(result.exposure.variance.array, outputs.exposure.variance.array)
    assert result.exposure.summary_stats.skyBg == pytest.approx(100, abs=1)
    # The background is published in the unit it came in.
    assert result.background.subtracted.field.unit == u.nJy
    np.testing.assert_array_equal(
        render_background(result.background, image.bbox), render_background(inputs["background"], image.bbox)
    )


def test_background_in_microjanskys() -> None:
    inputs = make_inputs(make_scene(), initial_photo_calib=PhotoCalib(2.0))
    field = background_field(inputs["exposures"][0].bbox) * u.Quantity(2e-3, u.uJy)
    task = ReprocessVisitImageTask(config=make_config(remove_initial_photo_calib=True))
    exposure = task.run(**(inputs | {"background": make_background(field)})).exposure
    expected = default_outputs().exposure
    np.testing.assert_allclose(exposure.image.array, expected.image.array, rtol=1e-4, atol=1e-2)
    assert exposure.summary_stats.skyBg == pytest.approx(expected.summary_stats.skyBg)


def test_initial_photo_calib_is_ignored_unless_configured() -> None:
    result = default_task().run(**make_inputs(make_scene(), initial_photo_calib=PhotoCalib(2.0)))
    np.testing.assert_array_equal(result.exposure.image.array, default_outputs().exposure.image.array)


# Flat ratio -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ratio_task() -> ReprocessVisitImageTask:
    return ReprocessVisitImageTask(config=make_config(do_apply_flat_background_ratio=True))


def test_constant_ratio(ratio_task: ReprocessVisitImageTask) -> None:
    """Every flux is smaller by it, in every row."""
    image, off = make_scene(), default_outputs()
    ratio = Image(np.full(image.bbox.shape, 1.1, dtype=np.float32), bbox=image.bbox)
    on = ratio_task.run(**make_inputs(image, background_to_photometric_ratio=ratio))
    assert len(on.sources) == len(off.sources)
    for name in ("base_PsfFlux_instFlux", "base_PsfFlux_flux"):
        good = np.isfinite(off.sources[name])
        assert good.sum() >= 7
        errors = off.sources[f"{name}Err"][good]
        difference = np.abs(off.sources[name][good] - 1.1 * on.sources[name][good])
        assert (difference < 1e-5 * errors + 1e-6 * np.abs(off.sources[name][good])).all()
    np.testing.assert_allclose(on.exposure.variance.array * 1.1**2, off.exposure.variance.array, rtol=1e-5)


def test_varying_ratio(ratio_task: ReprocessVisitImageTask) -> None:
    """Stars behind a flat that was made for the background come out right; the background is right anyway."""
    image = make_scene()
    ramp = ChebyshevField(image.bbox, np.array([[1.0, 0.2], [0.1, 0.0]])).render().array
    ratio = Image(ramp.astype(np.float32), bbox=image.bbox)
    image.image.array[...] *= ratio.array  # sources, on the image that is flat for the background
    image.variance.array[...] *= ratio.array**2
    result = ratio_task.run(**make_inputs(image, background_to_photometric_ratio=ratio))
    off = default_outputs()
    np.testing.assert_allclose(
        result.exposure.image.array, off.exposure.image.array, rtol=1e-4, atol=CALIB.mean * 1e-3
    )
    np.testing.assert_allclose(result.exposure.variance.array, off.exposure.variance.array, rtol=1e-5)
    for x, y, flux in zip(POINT_X, POINT_Y, POINT_FLUX, strict=True):
        row = row_at(result.sources, x, y)
        assert abs(row["base_PsfFlux_instFlux"] - flux) < 4 * row["base_PsfFlux_instFluxErr"] + 2e-3 * flux
    assert result.exposure.summary_stats.skyBg == pytest.approx(100, abs=1)


def test_ratio_is_ignored_unless_configured() -> None:
    image = make_scene()
    ratio = Image(np.full(image.bbox.shape, 1.1, dtype=np.float32), bbox=image.bbox)
    result = default_task().run(**make_inputs(image, background_to_photometric_ratio=ratio))
    np.testing.assert_array_equal(result.exposure.image.array, default_outputs().exposure.image.array)
