from __future__ import annotations

import logging

import astropy.table
import numpy as np
import pytest
from lsst.images import Box
from lsst.images.fields import ChebyshevField
from lsst.pipe.base import AlgorithmError

from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry import ap_corr_names as names_module
from secondlight.photometry.ap_corr_names import add_ap_corr_name, ap_corr_names
from secondlight.photometry.apply_ap_corr import ApplyApCorrConfig, ApplyApCorrTask
from secondlight.photometry.measure_ap_corr import (
    ChebyshevBoundedFieldConfig,
    MeasureApCorrConfig,
    MeasureApCorrError,
    MeasureApCorrTask,
    fit_ap_corr,
    robust_sigma,
)

BBOX = Box.factory[20:1020, 10:1210]


@pytest.fixture(autouse=True)
def registered_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "_names", {"fluxA", "fluxB"})


def make_schema() -> Schema:
    schema = minimal_source_schema()
    for axis in "xy":
        schema.add(f"pos_{axis}", np.float64, "position", unit="pix")
    for name in ("ref", "fluxA", "fluxB", "other"):
        schema.add(f"{name}_instFlux", np.float64, "flux", unit="ct")
        schema.add(f"{name}_instFluxErr", np.float64, "error", unit="ct")
        schema.add_flag(f"{name}_flag", "bad")
    schema.set_alias("slot_Centroid", "pos")
    schema.set_alias("slot_CalibFlux", "ref")
    return schema


def fill(schema: Schema, n: int, *, seed: int = 1) -> SourceCatalog:
    rng = np.random.default_rng(seed)
    catalog = SourceCatalog(schema, n)
    catalog["id"] = rng.permutation(n) + 1  # not sorted on purpose
    catalog["pos_x"] = rng.uniform(10, 1209, n)
    catalog["pos_y"] = rng.uniform(20, 1019, n)
    for name in ("ref", "fluxA", "fluxB", "other"):
        catalog[f"{name}_instFlux"] = 1000.0
        catalog[f"{name}_instFluxErr"] = 10.0
    return catalog


def make_config(**values: object) -> MeasureApCorrConfig:
    config = MeasureApCorrConfig()
    config.sourceSelector.name = "null"
    config.update(**values)
    config.validate()
    return config


def test_names() -> None:
    add_ap_corr_name("new")
    add_ap_corr_name("new")
    assert ap_corr_names() == {"fluxA", "fluxB", "new"}
    ap_corr_names().clear()
    assert ap_corr_names()
    for bad in ("", "new_instFlux"):
        with pytest.raises(ValueError, match="column prefix"):
            add_ap_corr_name(bad)


@pytest.mark.parametrize("ratio", [1.0, 10.0])
def test_constant_ratio(ratio: float) -> None:
    schema = make_schema()
    task = MeasureApCorrTask(schema, config=make_config())
    catalog = fill(schema, 40)
    catalog["ref_instFlux"] *= ratio
    result = task.run(BBOX, catalog).ap_corr_map
    assert set(result) == {f"{n}_{s}" for n in ("fluxA", "fluxB") for s in ("instFlux", "instFluxErr")}
    x, y = np.meshgrid([10.0, 600.0, 1209.0], [20.0, 500.0, 1019.0])
    np.testing.assert_allclose(result["fluxA_instFlux"](x=x, y=y), ratio, rtol=1e-12)
    np.testing.assert_allclose(result["fluxA_instFluxErr"](x=x, y=y), 0.0, atol=1e-12)
    assert catalog["apcorr_fluxA_used"].all()
    assert catalog["apcorr_slot_CalibFlux_used"].all()


def test_recovers_a_polynomial_and_ignores_bad_rows() -> None:
    schema = make_schema()
    task = MeasureApCorrTask(schema, config=make_config())
    catalog = fill(schema, 200)
    truth = ChebyshevField(BBOX, np.array([[1.1, 0.02, -0.01], [0.03, 0.015, 0.0], [0.01, 0.0, 0.0]]))
    noise = np.random.default_rng(3).normal(0, 0.002, 200)
    catalog["fluxA_instFlux"] = 1000.0 / (truth(x=catalog["pos_x"], y=catalog["pos_y"]) + noise)
    catalog["fluxA_instFlux"][0] *= 2  # an outlier
    catalog["fluxA_instFlux"][1] = np.nan
    catalog["fluxA_flag"][2] = True
    catalog["ref_flag"][3] = True
    catalog["pos_x"][4] = 5.0  # outside the box
    catalog["fluxA_instFlux"][5] = -1.0
    fit = task.run(BBOX, catalog).ap_corr_map
    used = catalog["apcorr_fluxA_used"]
    assert not used[:6].any()
    assert used[6:].sum() >= 190
    x, y = np.meshgrid(np.linspace(10, 1209, 7), np.linspace(20, 1019, 7))
    np.testing.assert_allclose(fit["fluxA_instFlux"](x=x, y=y), truth(x=x, y=y), atol=2e-3)
    # The error is the scatter about the final fit of the stars that were used.
    ratio = 1000.0 / catalog["fluxA_instFlux"][used]
    model = fit["fluxA_instFlux"](x=catalog["pos_x"][used], y=catalog["pos_y"][used])
    error = fit["fluxA_instFluxErr"](x=0.0, y=0.0)
    assert error == pytest.approx(robust_sigma(ratio - model))
    assert error == pytest.approx(0.002, rel=0.2)
    assert np.median(ratio - model) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "order"), [(7, 2), (6, 1), (4, 1), (3, 0), (2, 0)])
def test_order_follows_the_number_of_stars(n: int, order: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.uniform(10, 1209, n), rng.uniform(20, 1019, n)
    # Without clipping, so that no star is lost to chance.
    config = make_config(numSigmaClip=1e9)
    fit = fit_ap_corr(BBOX, x=x, y=y, ratio=1 + 0.01 * rng.normal(size=n), config=config, name="fluxA")
    assert (fit.field.x_order, fit.field.y_order) == (order, order)
    assert fit.used.all()


def test_coefficient_counts() -> None:
    config = ChebyshevBoundedFieldConfig()
    assert [config.coefficient_count(n, n) for n in range(4)] == [1, 3, 6, 10]
    assert config.coefficient_count(2, 1) == 5
    config.triangular = False
    assert config.coefficient_count(2, 1) == 6


def test_one_far_outlier() -> None:
    """One star 100 sigma off is dropped; the error is the scatter of the others about the field."""
    schema = make_schema()
    task = MeasureApCorrTask(schema, config=make_config())
    catalog = fill(schema, 60)
    catalog["fluxA_instFlux"] = 1000.0 / (1.1 + np.random.default_rng(8).normal(0, 0.002, 60))
    catalog["fluxA_instFlux"][17] = 1000.0 / 1.3
    result = task.run(BBOX, catalog).ap_corr_map
    assert catalog["apcorr_fluxA_used"].tolist() == [k != 17 for k in range(60)]
    used = catalog["apcorr_fluxA_used"]
    x, y = catalog["pos_x"][used], catalog["pos_y"][used]
    residual = 1000.0 / catalog["fluxA_instFlux"][used] - result["fluxA_instFlux"](x=x, y=y)
    assert result["fluxA_instFluxErr"](x=0.0, y=0.0) == pytest.approx(robust_sigma(residual), rel=1e-12)
    assert np.median(residual) == pytest.approx(0.0, abs=1e-14)


def test_two_stars_leave_a_constant_and_one_fails() -> None:
    x = np.array([100.0, 900.0])
    fit = fit_ap_corr(BBOX, x=x, y=x, ratio=np.array([1.1, 1.1]), config=make_config(), name="fluxA")
    assert fit.field(x=500.0, y=500.0) == pytest.approx(1.1)
    with pytest.raises(MeasureApCorrError, match="1 stars, 0 degrees of freedom"):
        fit_ap_corr(BBOX, x=x[:1], y=x[:1], ratio=np.array([1.1]), config=make_config(), name="fluxA")


def test_too_few_stars() -> None:
    schema = make_schema()
    task = MeasureApCorrTask(schema, config=make_config())
    catalog = fill(schema, 1)
    with pytest.raises(MeasureApCorrError, match=r"fluxA.*1 stars") as caught:
        task.run(BBOX, catalog)
    assert isinstance(caught.value, AlgorithmError)
    assert caught.value.metadata == {"name": "fluxA", "n_sources": 1, "ndof": 0}
    allowed = MeasureApCorrTask(make_schema(), config=make_config(allowFailure=["fluxA", "fluxB"]))
    assert allowed.run(BBOX, catalog).ap_corr_map == {}


def test_too_few_after_clipping() -> None:
    config = make_config(numSigmaClip=0.1)
    ratio = np.array([1.0, 1.1, 1.2, 1.3])
    x = np.linspace(100, 1000, 4)
    with pytest.raises(MeasureApCorrError, match="iteration 0"):
        fit_ap_corr(BBOX, x=x, y=x, ratio=ratio, config=config, name="fluxA")


def test_one_failure_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    schema = make_schema()
    task = MeasureApCorrTask(schema, config=make_config())
    catalog = fill(schema, 30)
    catalog["fluxA_flag"] = True
    with caplog.at_level(logging.WARNING):
        result = task.run(BBOX, catalog)
    assert set(result.ap_corr_map) == {"fluxB_instFlux", "fluxB_instFluxErr"}
    assert list(result.failed) == ["fluxA"]
    assert "fluxA" in caplog.text


def test_missing_reference() -> None:
    with pytest.raises(KeyError, match="absent_instFlux"):
        MeasureApCorrTask(make_schema(), config=make_config(refFluxName="absent"))


def apply(catalog: SourceCatalog, task: ApplyApCorrTask, value: float, error: float = 0.01) -> None:
    task.run(
        catalog,
        {
            "fluxA_instFlux": ChebyshevField(BBOX, np.array([[value]])),
            "fluxA_instFluxErr": ChebyshevField(BBOX, np.array([[error]])),
        },
    )


def test_apply() -> None:
    schema = make_schema()
    task = ApplyApCorrTask(schema)
    catalog = fill(schema, 5)
    catalog["fluxA_flag"][1] = True
    apply(catalog, task, 0.5)
    np.testing.assert_array_equal(catalog["fluxA_instFlux"], 500.0)
    np.testing.assert_array_equal(catalog["fluxA_instFluxErr"], 5.0)
    np.testing.assert_array_equal(catalog["fluxA_apCorr"], 0.5)
    np.testing.assert_array_equal(catalog["fluxA_apCorrErr"], 0.01)
    assert not catalog["fluxA_flag_apCorr"].any()
    assert catalog["fluxA_flag"].tolist() == [False, True, False, False, False]
    # The flux without a model is flagged as uncorrected and otherwise left alone.
    assert catalog["fluxB_flag_apCorr"].all()
    assert not catalog["fluxB_flag"].any()
    np.testing.assert_array_equal(catalog["fluxB_instFlux"], 1000.0)


@pytest.mark.parametrize(("value", "error"), [(-1.0, 0.01), (np.nan, 0.01), (1.0, -0.01)])
def test_unusable_correction_is_flagged(value: float, error: float) -> None:
    schema = make_schema()
    task = ApplyApCorrTask(schema)
    catalog = fill(schema, 3)
    apply(catalog, task, value, error)
    assert catalog["fluxA_flag_apCorr"].all()
    assert catalog["fluxA_flag"].all()
    np.testing.assert_array_equal(catalog["fluxA_instFlux"], 1000.0)


def test_a_correction_that_is_usable_in_a_part_of_the_image() -> None:
    """Only sources where the field is positive are corrected; flags that were set stay."""
    schema = make_schema()
    task = ApplyApCorrTask(schema)
    catalog = fill(schema, 4)
    catalog["pos_x"], catalog["pos_y"] = [100.0, 1100.0, 1100.0, np.nan], 500.0
    catalog["fluxA_flag"][1] = True
    field = ChebyshevField(BBOX, np.array([[0.0, 1.0]]))  # negative left, positive right
    task.run(catalog, {"fluxA_instFlux": field, "fluxA_instFluxErr": ChebyshevField(BBOX, np.array([[0.0]]))})
    value = float(field(x=1100.0, y=500.0))
    np.testing.assert_allclose(catalog["fluxA_instFlux"], [1000.0, 1000 * value, 1000 * value, 1000.0])
    np.testing.assert_allclose(catalog["fluxA_instFluxErr"], [10.0, 10 * value, 10 * value, 10.0])
    assert catalog["fluxA_flag_apCorr"].tolist() == [True, False, False, True]
    assert catalog["fluxA_flag"].tolist() == [True, True, False, True]


def test_half_a_model_is_no_model() -> None:
    schema = make_schema()
    task = ApplyApCorrTask(schema)
    catalog = fill(schema, 2)
    task.run(catalog, {"fluxA_instFlux": ChebyshevField(BBOX, np.array([[2.0]]))})
    assert catalog["fluxA_flag_apCorr"].all()
    assert not catalog["fluxA_flag"].any()
    np.testing.assert_array_equal(catalog["fluxA_instFlux"], 1000.0)


def test_order_of_the_columns() -> None:
    schema = make_schema()
    before = len(schema)
    ApplyApCorrTask(schema)
    assert schema.names[before:] == [
        f"{name}_{suffix}" for name in ("fluxA", "fluxB") for suffix in ("apCorr", "apCorrErr", "flag_apCorr")
    ]


def test_apply_leaves_flags_if_told() -> None:
    config = ApplyApCorrConfig()
    config.doFlagApCorrFailures = False
    schema = make_schema()
    task = ApplyApCorrTask(schema, config=config)
    catalog = fill(schema, 3)
    apply(catalog, task, -1.0)
    assert catalog["fluxA_flag_apCorr"].all()
    assert not catalog["fluxA_flag"].any()


def test_ignored_and_proxy_fluxes(caplog: pytest.LogCaptureFixture) -> None:
    config = ApplyApCorrConfig()
    config.ignoreList = ["fluxB", "unheard"]
    config.proxies = {"other": "fluxA"}
    schema = make_schema()
    with caplog.at_level(logging.WARNING):
        task = ApplyApCorrTask(schema, config=config)
    assert "unheard" in caplog.text
    assert "fluxB_apCorr" not in schema
    catalog = fill(schema, 3)
    apply(catalog, task, 2.0)
    np.testing.assert_array_equal(catalog["other_instFlux"], 2000.0)
    np.testing.assert_array_equal(catalog["other_apCorr"], 2.0)
    assert not catalog["other_flag_apCorr"].any()


def test_apply_to_a_plain_table() -> None:
    task = ApplyApCorrTask(make_schema())
    catalog = fill(make_schema(), 4)
    catalog["fluxA_flag"][2] = True
    table: astropy.table.Table = catalog.to_astropy()
    apply(table, task, 2.0)
    np.testing.assert_array_equal(table["fluxA_instFlux"], 2000.0)
    np.testing.assert_array_equal(table["fluxA_apCorr"], 2.0)
    assert table["fluxA_flag"].tolist() == [False, False, True, False]
