"""Shapelet approximations of PSFs: slow twins, limits, bad stamps, and the reference's numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lsst.pex.config as pex_config
import numpy as np
import pytest
import scipy.optimize
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper

from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.visit_image import replace_components
from secondlight.measurement.modelfit import double_fit as kernels
from secondlight.measurement.modelfit.config import OptimizerConfig
from secondlight.measurement.modelfit.shapelets import term_count
from secondlight.measurement.modelfit.stamps import (
    load_stamp,
    make_scratch,
    shift_origin,
    solve_least_squares,
)
from secondlight.measurement.plugins.general_shapelet_psf import (
    GeneralShapeletPsfApproxConfig,
)
from secondlight.measurement.plugins.shapelet_psf import (
    DoubleShapeletPsfApproxConfig,
    DoubleShapeletPsfApproxPlugin,
)
from secondlight.psf.evaluation import kernel_stamps

from ..parity.pack import load_finalize_pack
from ..psf.test_evaluation import make_piff
from ..scenes import make_visit_image
from .scene import measure_at
from .shapelet_scene import HalfPsf, measure_psf
from .shapelet_twins import basis_twin, core_and_wings, draw_components, gaussian, grid

DOUBLE = "modelfit_DoubleShapeletPsfApprox"
GENERAL = "modelfit_GeneralShapeletPsfApprox"


def settings(**changes: Any) -> kernels.DoubleShapeletSettings:
    config = DoubleShapeletPsfApproxConfig()
    for name, value in changes.pop("optimizer", {}).items():
        setattr(config.optimizer, name, value)
    config.update(**changes)
    return config.settings()


def fit(*stamps: np.ndarray, **changes: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fit stamps; return columns by suffix, and codes."""
    chosen, n = settings(**changes), len(stamps)
    orders = (chosen.inner_order, chosen.outer_order)
    centres, ellipses = np.full((n, 2), np.nan), np.full((n, 2, 3), np.nan)
    coefficients = np.full((n, 2, term_count(max(orders))), np.nan)
    codes = np.zeros(n, dtype=np.int64)
    kernels.double_shapelet_loop(
        np.array(stamps, dtype=np.float32), chosen, centres, ellipses, coefficients, codes
    )
    values = {f"{i}_{m}": ellipses[:, i, k] for i in range(2) for k, m in enumerate(("xx", "yy", "xy"))}
    values |= {f"{i}_{m}": centres[:, k] for i in range(2) for k, m in enumerate(("x", "y"))}
    values |= {f"{i}_{k}": coefficients[:, i, k] for i in range(2) for k in range(term_count(orders[i]))}
    return values, codes


def radii(values: dict[str, np.ndarray], row: int = 0) -> np.ndarray:
    """Return the determinant radii of both components."""
    inner, outer = (
        (values[f"{i}_xx"][row] * values[f"{i}_yy"][row] - values[f"{i}_xy"][row] ** 2) ** 0.25
        for i in (0, 1)
    )
    return np.array([inner, outer])


def profile(stamp: np.ndarray) -> tuple[Any, np.ndarray, float, float]:
    """Return scratch space for the profile fit, and the stamp's moments, peak of a unit Gaussian, size."""
    scratch, moments = make_scratch(stamp.size, 30), np.empty(6)
    load_stamp(stamp.astype(np.float32), scratch, moments)
    shift_origin(scratch, moments[1], moments[2])
    xx, yy, xy = moments[3:]
    det = xx * yy - xy**2
    scratch.square[:] = (yy * scratch.dx**2 - 2 * xy * scratch.dx * scratch.dy + xx * scratch.dy**2) / det
    return scratch, moments, 1.0 / math.sqrt(math.pi * det), det**0.25


def draw_profile(p: np.ndarray, scratch: Any, norm: float) -> np.ndarray:
    """Return two Gaussians of amplitudes p[:2] and relative radii p[2:], (n)."""
    return sum(p[k] * norm / p[2 + k] ** 2 * np.exp(-0.5 * scratch.square / p[2 + k] ** 2) for k in (0, 1))


def profile_twin(stamp: np.ndarray, **options: Any) -> tuple[np.ndarray, float]:
    """Return amplitudes and relative radii fitted all together, and half the sum of squares."""
    scratch, _, norm, _ = profile(stamp)
    start = np.array([0.2, 0.08, 0.73, 1.47])

    def residuals(p: np.ndarray) -> np.ndarray:
        return (draw_profile(p, scratch, norm) - scratch.image) * 1e3

    result = scipy.optimize.least_squares(residuals, start, xtol=1e-15, ftol=1e-15, gtol=1e-15, **options)
    return result.x, result.cost * 1e-6


# Start and moments ------------------------------------------------------------------------------------------


def test_moments_are_those_of_the_pixels() -> None:
    stamp = core_and_wings().astype(np.float32)
    x, y = grid(12, 25)
    scratch, moments = make_scratch(stamp.size, 0), np.empty(6)
    load_stamp(stamp, scratch, moments)
    flux = stamp.sum(dtype=float)
    cx, cy = (stamp * x).sum() / flux, (stamp * y).sum() / flux
    second = [(stamp * m).sum() / flux for m in ((x - cx) ** 2, (y - cy) ** 2, (x - cx) * (y - cy))]
    np.testing.assert_allclose(moments, [flux, cx, cy, *second], rtol=1e-12, atol=1e-12)


def test_start_has_the_moments_of_the_image_and_the_ratios_of_the_configuration() -> None:
    for ratio, peaks in ((2.0, 0.1), (3.0, 0.02)):
        found, moments = np.empty(2), np.array([1.0, 0.1, 0.2, 4.0, 3.0, 0.5])
        chosen = settings(radiusRatio=ratio, peakRatio=peaks)
        assert kernels._start(moments, chosen, 625, found)
        assert found[1] / found[0] == pytest.approx(ratio)
        fluxes = np.array([1.0, peaks * ratio**2])
        assert (fluxes * found**2).sum() / fluxes.sum() == pytest.approx(1.0)


def test_values_about_the_centroid_with_the_shape_of_the_image() -> None:
    stamp = core_and_wings()
    values, codes = fit(stamp)
    _, moments, _, size = profile(stamp)
    assert codes[0] == kernels.FITTED
    for i in (0, 1):
        assert [values[f"{i}_{m}"][0] for m in ("x", "y")] == pytest.approx(moments[1:3])
        scaled = [values[f"{i}_{m}"][0] * (size / radii(values)[i]) ** 2 for m in ("xx", "yy", "xy")]
        assert scaled == pytest.approx(moments[3:])


# Profile ----------------------------------------------------------------------------------------------------


def test_derivatives_of_the_profile_objective() -> None:
    scratch, _, norm, _ = profile(core_and_wings())

    def objective(at: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        amplitudes, gradient, hessian = np.empty(2), np.empty(2), np.empty((2, 2))
        value = kernels.profile_objective(scratch, norm, at, amplitudes, gradient, hessian)
        residual = draw_profile(np.concatenate([amplitudes, at]), scratch, norm) - scratch.image
        assert value == pytest.approx(0.5 * (residual**2).sum(), rel=1e-9)
        return value, gradient, hessian

    for at in (np.array([0.7, 1.5]), np.array([0.9, 1.3]), np.array([0.5, 2.0])):
        _, gradient, hessian = objective(at)
        for k in range(2):
            step = 1e-4 * np.eye(2)[k]
            up, down = objective(at + step), objective(at - step)
            assert gradient[k] == pytest.approx((up[0] - down[0]) / 2e-4, rel=1e-6, abs=1e-10)
            np.testing.assert_allclose(hessian[k], (up[1] - down[1]) / 2e-4, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("lopsided", [False, True])
def test_profile_is_the_least_squares_fit(lopsided: bool) -> None:
    stamp = core_and_wings(lopsided=lopsided)
    scratch, _, norm, size = profile(stamp)
    values, _ = fit(stamp, innerOrder=0, outerOrder=0)
    expected, best = profile_twin(stamp)
    found = np.array([values["0_0"][0], values["1_0"][0], *(radii(values) / size)])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    residual = draw_components(values, 0, stamp.shape) - stamp.astype(np.float32)
    assert 0.5 * (residual**2).sum() <= best * (1 + 1e-8)
    start = np.array([0.20149628, 0.08059851, 0.73379939, 1.46759877])
    assert (residual**2).sum() < 0.5 * ((draw_profile(start, scratch, norm) - scratch.image) ** 2).sum()


def test_profile_at_the_limits_of_the_radii() -> None:
    """Minima on one limit, another, and a corner, against a search over all allowed radii."""
    stamp = core_and_wings(half=15)
    scratch, moments, norm, size = profile(stamp)
    free = radii(fit(stamp)[0])
    major, minor = np.sqrt(np.linalg.eigvalsh([[moments[3], moments[5]], [moments[5], moments[4]]]))[::-1]
    gap = free[1] - free[0]
    cases = [
        {"minRadiusDiff": gap * 1.1},
        {"minRadius": free[0] / size * minor * 1.04, "radiusRatio": 1.6},
        {"maxRadiusBoxFraction": free[1] / size * major * 0.97 / 31, "peakRatio": 0.5},
        {
            "minRadiusDiff": gap * 1.05,
            "maxRadiusBoxFraction": free[1] / size * major * 0.96 / 31,
            "peakRatio": 0.5,
        },
    ]
    for case in cases:
        case = {"radiusRatio": 2.3} | case
        chosen = settings(**case)
        limits = kernels._limits(moments, chosen, stamp.size)

        def value(r: np.ndarray, limits: tuple[float, float, float] = limits) -> float:
            if r[0] < limits[0] or r[1] > limits[1] or r[1] - r[0] < limits[2]:
                return np.inf
            return float(
                kernels.profile_objective(scratch, norm, r, np.empty(2), np.empty(2), np.empty((2, 2)))
            )

        values, codes = fit(stamp, **case)
        found = radii(values) / size
        assert codes[0] == kernels.FITTED, case
        slack = [found[0] - limits[0], limits[1] - found[1], found[1] - found[0] - limits[2]]
        assert -1e-12 < min(slack) < 1e-9, case
        around = [
            found + np.array([a, b]) for a in np.linspace(-0.3, 0.3, 61) for b in np.linspace(-0.3, 0.3, 61)
        ]
        best = min(value(r) for r in around)
        inside = np.array([max(found[0], limits[0]), min(found[1], limits[1])])
        inside[1] = max(inside[1], inside[0] + limits[2])
        mine = kernels.profile_objective(scratch, norm, inside, np.empty(2), np.empty(2), np.empty((2, 2)))
        assert mine <= best, case


def test_a_single_gaussian_leaves_nothing() -> None:
    for ellipse in ((4.0, 4.0, 0.0), (3.0, 2.2, 0.7)):
        stamp = gaussian(ellipse)
        values, codes = fit(stamp)
        assert codes[0] == kernels.FITTED
        np.testing.assert_allclose(draw_components(values, 0, stamp.shape), stamp, atol=2e-6 * stamp.max())


def test_two_gaussians_of_one_shape_are_found() -> None:
    stamp = 0.8 * gaussian((2.5, 2.0, 0.3), half=20) + 0.2 * gaussian((10.0, 8.0, 1.2), half=20)
    values, _ = fit(stamp)
    flux = 0.5 / math.sqrt(math.pi)
    np.testing.assert_allclose([values["0_0"][0], values["1_0"][0]], [0.8 * flux, 0.2 * flux], rtol=1e-3)
    np.testing.assert_allclose([values["0_xx"][0], values["1_xx"][0]], [2.5, 10.0], rtol=1e-3)


# Higher terms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orders", [(2, 1), (0, 0), (4, 3), (0, 2), (1, 4)])
def test_higher_terms_are_a_linear_fit(orders: tuple[int, int]) -> None:
    stamp = core_and_wings().astype(np.float32).astype(float)
    values, _ = fit(stamp, innerOrder=orders[0], outerOrder=orders[1])
    gx, gy = grid(12, 25)
    x, y = gx - values["0_x"][0], gy - values["0_y"][0]
    bases = [
        basis_twin(order, tuple(values[f"{i}_{m}"][0] for m in ("xx", "yy", "xy")), x, y).reshape(-1, 625)
        for i, order in enumerate(orders)
    ]
    rest = stamp.ravel() - sum(values[f"{i}_0"][0] * bases[i][0] for i in (0, 1))
    rows = np.concatenate([b[1:] for b in bases])
    expected = np.linalg.lstsq(rows.T, rest)[0]
    found = [values[f"{i}_{k}"][0] for i in (0, 1) for k in range(1, len(bases[i]))]
    np.testing.assert_allclose(found, expected, atol=1e-8)
    drawn = draw_components(values, 0, stamp.shape)
    assert ((drawn - stamp) ** 2).sum() <= (rest**2).sum()


def test_higher_terms_describe_an_asymmetric_psf() -> None:
    stamp = core_and_wings()
    full, bare = fit(stamp)[0], fit(stamp, innerOrder=0, outerOrder=0)[0]
    rms = [np.sqrt(((draw_components(v, 0, stamp.shape) - stamp) ** 2).sum()) for v in (full, bare)]
    assert rms[0] < 0.7 * rms[1]
    assert abs(full["0_1"][0]) > 1e-4 or abs(full["0_2"][0]) > 1e-4


def test_least_squares_leaves_out_what_the_data_do_not_tell() -> None:
    rows = np.random.default_rng(1).normal(size=(3, 40))
    rows[2] = rows[0]
    data = 2.0 * rows[0] + rows[1]
    solution = np.empty(3)
    solve_least_squares(rows, data, solution)
    np.testing.assert_allclose(solution, [1.0, 1.0, 1.0], atol=1e-10)


# Batches and bad stamps -------------------------------------------------------------------------------------


def test_values_do_not_depend_on_the_other_stamps() -> None:
    stamps = [core_and_wings(), core_and_wings(lopsided=False), gaussian((4.0, 4.0, 0.0)), core_and_wings()]
    together, _ = fit(*stamps, stamps[-1])
    for row, stamp in enumerate([*stamps, stamps[-1]]):
        alone, _ = fit(stamp)
        for name, column in together.items():
            assert column[row] == alone[name][0], name


def test_bad_stamps() -> None:
    nothing, hole = np.full((25, 25), np.nan), core_and_wings()
    hole[12, 12] = np.nan
    empty, negative, point, flat = (
        np.zeros((25, 25)),
        -core_and_wings(),
        np.zeros((25, 25)),
        np.ones((25, 25)),
    )
    point[12, 12] = 1.0
    good = core_and_wings()
    values, codes = fit(nothing, hole, empty, negative, point, flat, good)
    moments = kernels.INVALID_MOMENTS
    assert codes.tolist() == [kernels.INVALID_POINT, *[moments] * 5, kernels.FITTED]
    assert np.isnan([column[:6] for column in values.values()]).all()
    assert np.isfinite([column[6] for column in values.values()]).all()


@pytest.mark.parametrize(
    ("name", "usable", "beyond"),
    [("minRadius", 1.45, 1.48), ("minRadiusDiff", 1.45, 1.48), ("maxRadiusBoxFraction", 0.118, 0.117)],
)
def test_moments_beyond_the_limits(name: str, usable: float, beyond: float) -> None:
    """The start has radii of 1.4676 and 2.9352 pixels here."""
    stamp = gaussian((4.0, 4.0, 0.0))
    assert fit(stamp, **{name: usable})[1][0] == kernels.FITTED
    assert fit(stamp, **{name: beyond})[1][0] == kernels.INVALID_MOMENTS


def test_too_many_iterations() -> None:
    stamp = core_and_wings()
    values, codes = fit(stamp, optimizer={"maxOuterIterations": 1})
    assert codes[0] == kernels.MAX_ITERATIONS
    assert np.isfinite([column[0] for column in values.values()]).all()


# The plugins ------------------------------------------------------------------------------------------------


def test_plugin_writes_what_the_kernel_finds() -> None:
    psf = PiffWrapper(make_piff(), Box.factory[0:110, 0:120], 25)
    catalog = measure_psf(DOUBLE, psf, x=[20.0, 80.0])
    stamps = kernel_stamps(psf, x=np.array([20.0, 80.0]), y=np.array([40.0, 40.0]), dtype=np.float32)
    values, _ = fit(*stamps)
    for suffix, column in values.items():
        np.testing.assert_array_equal(catalog[f"{DOUBLE}_{suffix}"], column)
    assert not catalog[f"{DOUBLE}_flag"].any()
    assert not np.array_equal(values["0_xx"][0], values["0_xx"][1])


@pytest.mark.parametrize(("plugin", "prefix"), [(DOUBLE, DOUBLE), (GENERAL, f"{GENERAL}_DoubleShapelet")])
def test_plugin_flags_a_psf_that_cannot_be_evaluated(plugin: str, prefix: str) -> None:
    psf = HalfPsf(2.0, Box.factory[0:110, 0:120], 25)
    catalog = measure_psf(plugin, psf, x=[30.0, 80.0])
    assert catalog[f"{plugin}_flag"].tolist() == [False, True]
    for flag in ("flag", "flag_invalidPointForPsf"):
        assert catalog[f"{prefix}_{flag}"].tolist() == [False, True]
    assert not catalog[f"{prefix}_flag_invalidMoments"].any()
    assert catalog["base_InvalidPsf_flag"].tolist() == [False, True]
    assert np.isnan(catalog[f"{prefix}_0_xx"]).tolist() == [False, True]


def test_plugin_flags_a_bad_centroid_and_iterations() -> None:
    psf = GaussianPointSpreadFunction(2.0, Box.factory[0:110, 0:120], 25)
    exposure = replace_components(
        make_visit_image(width=120, height=110, x=[30.0], y=[40.0], flux=[1e4]), psf=psf
    )
    optimizer = OptimizerConfig(maxOuterIterations=1, trustRegionInitialSize=1e-3)
    options = {"optimizer": optimizer}
    for settings_, iterations in (({}, False), ({DOUBLE: options}, True)):
        catalog = measure_at(
            exposure, [DOUBLE], x=[30.0, 50.0], y=[40.0] * 2, settings=settings_, flag=[0, 1]
        )
        assert catalog[f"{DOUBLE}_flag"].tolist() == [iterations, True]
        assert catalog[f"{DOUBLE}_flag_maxIterations"].tolist() == [iterations] * 2


def test_columns() -> None:
    schema = minimal_source_schema()
    DoubleShapeletPsfApproxPlugin(DoubleShapeletPsfApproxConfig(), DOUBLE, schema)
    expected = {f"{DOUBLE}_{i}_{s}" for i in (0, 1) for s in ("xx", "yy", "xy", "x", "y")}
    expected |= {f"{DOUBLE}_0_{k}" for k in range(6)} | {f"{DOUBLE}_1_{k}" for k in range(3)}
    flags = ("flag", "flag_invalidPointForPsf", "flag_invalidMoments", "flag_maxIterations")
    expected |= {f"{DOUBLE}_{flag}" for flag in flags}
    assert {name for name in schema.names if name.startswith(DOUBLE)} == expected
    with pytest.raises(pex_config.FieldValidationError):
        DoubleShapeletPsfApproxConfig().update(innerOrder=5)


# The reference ----------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_parity(data_dir: Path) -> None:
    """Within 1 %, or 1e-4 of the zeroth term where a term is small, and never a worse fit."""
    pack = load_finalize_pack(data_dir)
    reference = pack.finalized_src
    theirs = {
        name.removeprefix(f"{DOUBLE}_"): np.asarray(reference[name])
        for name in reference.schema.names
        if name.startswith(DOUBLE)
    }
    x, y = np.asarray(reference["slot_Centroid_x"]), np.asarray(reference["slot_Centroid_y"])
    stamps = kernel_stamps(pack.final_psf, x=x, y=y, dtype=np.float32)
    ours, codes = fit(*stamps)
    assert not codes.any()
    assert not theirs["flag"].any()
    size = 0.5 * (theirs["0_xx"] + theirs["0_yy"])
    for name, column in ours.items():
        kind = name.split("_")[1]
        floor = {"x": 1e-6, "y": 1e-6, "xy": 1e-2 * size}.get(kind, 1e-4 * theirs["0_0"])
        close = np.abs(column - theirs[name]) <= np.maximum(0.01 * np.abs(theirs[name]), floor)
        assert close.mean() >= 0.95, (name, close.mean())
    for row in range(0, len(stamps), 7):
        squares = [
            ((draw_components(v, row, stamps[row].shape) - stamps[row]) ** 2).sum() for v in (ours, theirs)
        ]
        assert squares[0] < squares[1] * 1.0005


@pytest.mark.realdata
def test_configuration_of_the_reference_loads_and_is_the_default(data_dir: Path) -> None:
    lines = (data_dir / "parity/B/finalize_inputs/finalize_config_values.txt").read_text().splitlines()
    for name, kind in ((DOUBLE, DoubleShapeletPsfApproxConfig), (GENERAL, GeneralShapeletPsfApproxConfig)):
        prefix = f"config.measurement.plugins['{name}']"
        given = [line.replace(prefix, "config") for line in lines if line.startswith(prefix)]
        # Without the lines that make the models, which name the reference's module.
        given = [line for line in given if not line.endswith(("Config()", "={}"))]
        assert len(given) > 20
        config = kind()
        config.loadFromString("\n".join(given))
        assert config == kind()
