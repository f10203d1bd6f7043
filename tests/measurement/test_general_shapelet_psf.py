"""Shapelet approximations of PSFs with free ellipses: derivatives, priors, columns."""

from __future__ import annotations

import lsst.pex.config as pex_config
import numpy as np
import pytest
from lsst.images import Box
from lsst.images.psfs import PiffWrapper

from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.modelfit import double_fit as kernels
from secondlight.measurement.modelfit import general_fit as general
from secondlight.measurement.modelfit.shapelet_psf import shapelet_columns
from secondlight.measurement.modelfit.shapelets import term_count
from secondlight.measurement.modelfit.stamps import load_stamp, make_scratch
from secondlight.measurement.plugins.general_shapelet_psf import (
    GeneralPsfFitterConfig,
    GeneralShapeletPsfApproxConfig,
    GeneralShapeletPsfApproxPlugin,
    _starts,
)
from secondlight.psf.evaluation import kernel_stamps

from ..psf.test_evaluation import make_piff
from .shapelet_scene import measure_psf
from .shapelet_twins import core_and_wings, draw_components, gaussian
from .test_shapelet_psf import fit

GENERAL = "modelfit_GeneralShapeletPsfApprox"


def fit_general(
    stamp: np.ndarray, config: GeneralPsfFitterConfig, start: np.ndarray
) -> dict[str, np.ndarray]:
    """Fit one stamp by a model; ``start`` are the moments of the PSF."""
    parts = config.components()
    terms = [term_count(part.order) for part in parts]
    centres, ellipses = np.full((1, len(parts), 2), np.nan), np.full((1, len(parts), 3), np.nan)
    coefficients, codes = np.full((1, sum(terms)), np.nan), np.zeros(1, dtype=np.int64)
    general.general_shapelet_loop(
        stamp[None].astype(np.float32),
        config.settings(),
        _starts(start[None], parts),
        centres,
        ellipses,
        coefficients,
        codes,
    )
    assert codes[0] == kernels.FITTED
    values: dict[str, np.ndarray] = {}
    for i, part in enumerate(np.split(coefficients, np.cumsum(terms)[:-1], axis=1)):
        values |= {f"{i}_{m}": ellipses[:, i, k] for k, m in enumerate(("xx", "yy", "xy"))}
        values |= {f"{i}_{m}": centres[:, i, k] for k, m in enumerate(("x", "y"))}
        values |= {f"{i}_{k}": part[:, k] for k in range(part.shape[1])}
    return values


SHAPE = np.array([3.4, 2.7, 0.3])


def model(name: str) -> GeneralPsfFitterConfig:
    return GeneralShapeletPsfApproxConfig().models[name]


def test_general_fit_finds_two_different_gaussians() -> None:
    stamp = 0.7 * gaussian((3.1, 2.4, 0.4), x=0.03, half=16) + 0.3 * gaussian(
        (12.0, 9.0, -0.8), y=-0.05, half=16
    )
    config = model("DoubleGaussian")
    config.defaultNoiseSigma = 1e-6
    values = fit_general(stamp, config, SHAPE)
    found = [[values[f"{i}_{m}"][0] for m in ("xx", "yy", "xy", "x", "y")] for i in (0, 1)]
    np.testing.assert_allclose(found, [[3.1, 2.4, 0.4, 0.03, 0], [12.0, 9.0, -0.8, 0, -0.05]], atol=2e-3)


def test_general_fit_is_better_than_concentric_ellipses_and_gets_better_with_components() -> None:
    stamp = core_and_wings()

    def rms(values: dict[str, np.ndarray]) -> float:
        return float(np.sqrt(((draw_components(values, 0, stamp.shape) - stamp) ** 2).sum()))

    configs = [model(name) for name in ("SingleGaussian", "DoubleGaussian", "DoubleShapelet", "Full")]
    for config in configs:
        config.defaultNoiseSigma = 1e-5
    single, double, shapelet, full = (rms(fit_general(stamp, config, SHAPE)) for config in configs)
    assert single > double > shapelet > full
    assert shapelet < rms(fit(stamp)[0])


def test_general_fit_keeps_to_its_priors_where_noise_is_large() -> None:
    config = model("DoubleGaussian")
    config.defaultNoiseSigma = 1e3
    values = fit_general(core_and_wings(), config, SHAPE)
    for i, factor in enumerate((1.0, 2.0)):
        found = [values[f"{i}_{m}"][0] for m in ("xx", "yy", "xy")]
        np.testing.assert_allclose(found, SHAPE * factor**2, rtol=1e-6)


def test_an_ellipse_too_flat_for_numbers_fails_alone() -> None:
    stamps = np.repeat(gaussian((3.1, 2.4, 0.4))[None], 2, axis=0).astype(np.float32)
    config = model("SingleGaussian")
    starts = _starts(np.array([SHAPE, SHAPE]), config.components())
    starts[0, 0, 2:4] = 19.0, 0.0
    centres, ellipses = np.full((2, 1, 2), np.nan), np.full((2, 1, 3), np.nan)
    coefficients, codes = np.full((2, 1), np.nan), np.zeros(2, dtype=np.int64)
    general.general_shapelet_loop(stamps, config.settings(), starts, centres, ellipses, coefficients, codes)
    assert codes.tolist() == [kernels.INVALID_MOMENTS, kernels.FITTED]
    assert np.isnan(coefficients[0]).all()
    assert np.isfinite(coefficients[1]).all()


def test_derivatives_of_the_general_objective() -> None:
    chosen, stamp = model("DoubleShapelet").settings(), core_and_wings()
    scratch = make_scratch(stamp.size, 0)
    load_stamp(stamp, scratch, np.empty(6))
    images = general._Images(np.empty((9, 625)), np.empty((15, 625)), np.empty((10, 625)))
    start = np.array([[0.0, 0.0, 0.1, 0.05, 0.5], [0.0, 0.0, 0.1, 0.05, 1.2]])
    at = start + 0.05 * np.random.default_rng(2).normal(size=start.shape)
    c = np.empty(9)

    def objective(p: np.ndarray) -> float:
        return float(general._objective(chosen, scratch, images, start, p, c))

    objective(at)
    gradient, _ = general._derivatives(chosen, scratch, images, start, at, c)
    for k in range(10):
        step = 1e-5 * np.eye(10)[k].reshape(2, 5)
        expected = (objective(at + step) - objective(at - step)) / 2e-5
        assert gradient[k] == pytest.approx(expected, rel=1e-3, abs=1e-3 * np.abs(gradient).max())


def test_general_plugin() -> None:
    psf = PiffWrapper(make_piff(), Box.factory[0:110, 0:120], 25)
    catalog = measure_psf(GENERAL, psf, x=[20.0, 80.0], sequence=["DoubleShapelet", "Full"])
    for name in ("DoubleShapelet", "Full"):
        assert not catalog[f"{GENERAL}_{name}_flag"].any()
        prefix = f"{GENERAL}_{name}_"
        values = {n.removeprefix(prefix): catalog[n] for n in catalog.schema.names if n.startswith(prefix)}
        for row, x in enumerate((20.0, 80.0)):
            stamp = kernel_stamps(psf, x=np.array([x]), y=np.array([40.0]))[0]
            residual = draw_components(values, row, stamp.shape) - stamp
            assert (residual**2).sum() < 1e-3 * (stamp**2).sum()
    assert [len(names) for names in shapelet_columns(catalog.schema, f"{GENERAL}_DoubleShapelet")] == [11, 8]
    schema = minimal_source_schema()
    plugin = GeneralShapeletPsfApproxPlugin(GeneralShapeletPsfApproxConfig(), GENERAL, schema)
    failed = SourceCatalog(schema, 2)
    plugin.fail(failed)
    assert failed[f"{GENERAL}_DoubleShapelet_flag"].all()
    assert failed[f"{GENERAL}_flag"].all()


def test_general_configuration() -> None:
    config = GeneralShapeletPsfApproxConfig()
    config.validate()
    assert [part.order for part in config.models["Full"].components()] == [0, 4, 4, 0]
    config.sequence = ["Triple"]
    with pytest.raises(pex_config.FieldValidationError, match="'Triple'"):
        config.validate()
