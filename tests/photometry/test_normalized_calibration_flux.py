from __future__ import annotations

import logging

import numpy as np
import pytest
from lsst.images.fields import ChebyshevField

from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components
from secondlight.photometry.normalized_calibration_flux import (
    NormalizedCalibrationFluxConfig,
    NormalizedCalibrationFluxError,
    NormalizedCalibrationFluxTask,
)
from tests.scenes import make_visit_image

RAW = "base_CompensatedTophatFlux_12"
OUT = "base_NormalizedCompensatedTophatFlux"
REF = "base_CircularApertureFlux_12_0"


def make_schema() -> Schema:
    schema = minimal_source_schema()
    for axis in "xy":
        schema.add(f"pos_{axis}", np.float64, "position", unit="pix")
    for name in (RAW, REF, "base_PsfFlux"):
        schema.add(f"{name}_instFlux", np.float64, "flux", unit="ct")
        schema.add(f"{name}_instFluxErr", np.float64, "error", unit="ct")
        schema.add_flag(f"{name}_flag", "bad")
    schema.add_flag("calib_psf_used", "used")
    schema.set_alias("slot_Centroid", "pos")
    schema.set_alias("slot_CalibFlux", REF)
    return schema


def fill(schema: Schema, n: int) -> SourceCatalog:
    rng = np.random.default_rng(5)
    catalog = SourceCatalog(schema, n)
    catalog["pos_x"] = rng.uniform(0, 199, n)
    catalog["pos_y"] = rng.uniform(0, 179, n)
    for name, flux in ((RAW, 800.0), (REF, 1000.0), ("base_PsfFlux", 900.0)):
        catalog[f"{name}_instFlux"] = flux
        catalog[f"{name}_instFluxErr"] = 2.0
    catalog["calib_psf_used"] = True
    return catalog


def make_task(schema: Schema, *, measure: bool) -> NormalizedCalibrationFluxTask:
    config = NormalizedCalibrationFluxConfig()
    config.do_measure_ap_corr = measure
    config.measure_ap_corr.sourceSelector.name = "null"
    return NormalizedCalibrationFluxTask(schema, config=config)


def test_applies_the_normalization_of_the_image() -> None:
    image = make_visit_image()
    image = replace_components(
        image,
        aperture_corrections={
            f"{RAW}_instFlux": ChebyshevField(image.bbox, np.array([[1.25]])),
            f"{RAW}_instFluxErr": ChebyshevField(image.bbox, np.array([[0.1]])),
        },
    )
    schema = make_schema()
    task = make_task(schema, measure=False)
    catalog = fill(schema, 4)
    catalog[f"{RAW}_flag"][2] = True
    result = task.run(image, catalog).ap_corr_map
    assert set(result) == {f"{RAW}_instFlux", f"{RAW}_instFluxErr"}
    np.testing.assert_allclose(catalog["slot_CalibFlux_instFlux"], 1000.0)
    np.testing.assert_allclose(catalog[f"{OUT}_instFluxErr"], 2.5)
    assert catalog[f"{OUT}_flag"].tolist() == [False, False, True, False]


def test_unusable_normalization_is_flagged() -> None:
    image = make_visit_image()
    image = replace_components(
        image,
        aperture_corrections={
            f"{RAW}_instFlux": ChebyshevField(image.bbox, np.array([[0.0, 1.0]])),  # negative on the left
            f"{RAW}_instFluxErr": ChebyshevField(image.bbox, np.array([[0.1]])),
        },
    )
    schema = make_schema()
    task = make_task(schema, measure=False)
    catalog = fill(schema, 3)
    catalog["pos_x"] = [10.0, 190.0, np.nan]
    task.run(image, catalog)
    assert catalog[f"{OUT}_flag"].tolist() == [True, False, True]


def test_fit_that_fails_leaves_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The median of the ratios of the PSF stars stands in, of unflagged ones only."""
    schema = make_schema()
    config = NormalizedCalibrationFluxConfig()
    config.measure_ap_corr.sourceSelector["science"].signalToNoise.minimum = 1e9  # no star for the fit
    config.measure_ap_corr.sourceSelector["science"].doFlags = False
    config.measure_ap_corr.sourceSelector["science"].doUnresolved = False
    task = NormalizedCalibrationFluxTask(schema, config=config)
    catalog = fill(schema, 5)
    catalog[f"{RAW}_instFlux"][:2] = [100.0, 500.0]
    catalog[f"{RAW}_flag"][0] = True
    catalog["calib_psf_used"][1] = False
    with caplog.at_level(logging.WARNING):
        result = task.run(make_visit_image(), catalog).ap_corr_map
    assert "taking a median" in caplog.text
    assert result[f"{RAW}_instFlux"](x=3.0, y=7.0) == pytest.approx(1.25)


def test_missing_normalization_is_the_identity(caplog: pytest.LogCaptureFixture) -> None:
    schema = make_schema()
    task = make_task(schema, measure=False)
    catalog = fill(schema, 3)
    with caplog.at_level(logging.WARNING):
        task.run(make_visit_image(), catalog)
    assert f"{RAW}_instFlux" in caplog.text
    np.testing.assert_array_equal(catalog[f"{OUT}_instFlux"], catalog[f"{RAW}_instFlux"])


def test_measures_a_constant() -> None:
    schema = make_schema()
    task = make_task(schema, measure=True)
    catalog = fill(schema, 20)
    result = task.run(make_visit_image(), catalog).ap_corr_map
    assert result[f"{RAW}_instFlux"](x=3.0, y=7.0) == pytest.approx(1.25)
    assert result[f"{RAW}_instFluxErr"](x=3.0, y=7.0) == 0
    np.testing.assert_allclose(catalog[f"{OUT}_instFlux"], 1000.0)


def test_falls_back_to_a_median_and_then_fails() -> None:
    schema = make_schema()
    task = make_task(schema, measure=True)
    catalog = fill(schema, 1)
    task.run(make_visit_image(), catalog)
    np.testing.assert_allclose(catalog[f"{OUT}_instFlux"], 1000.0)
    catalog["calib_psf_used"] = False
    with pytest.raises(NormalizedCalibrationFluxError, match="1 sources") as caught:
        task.run(make_visit_image(), catalog)
    assert caught.value.metadata == {"n_initial_sources": 1, "n_calib_flux_flag": 0}


def test_slot_can_be_left_alone() -> None:
    schema = make_schema()
    config = NormalizedCalibrationFluxConfig()
    config.do_set_calib_slot = False
    NormalizedCalibrationFluxTask(schema, config=config)
    assert schema.aliases["slot_CalibFlux"] == REF
