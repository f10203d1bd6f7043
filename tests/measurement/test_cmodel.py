"""modelfit_CModel: facts of the specification, configuration, and bad input."""

from __future__ import annotations

import math
from typing import Any

import galsim
import lsst.pex.config as pex_config
import numpy as np
import pytest
from lsst.images import Box, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.modelfit.config import CModelConfig
from secondlight.measurement.modelfit.profiles import profile_mixture
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.photometry.ap_corr_names import ap_corr_names
from tests.measurement.scene import fixed_slots, make_catalog, make_config, round_footprints
from tests.scenes import make_visit_image

MODEL = "modelfit_CModel"
STAGES = ("initial", "exp", "dev")
SIZE = 161
LIMITS = {"flags_region_usedInitialEllipseMin", "flags_region_usedInitialEllipseMax"}
SIGMA = 2.0
LUX = 0.0
"""Stands for the exponential profile as it is fitted, softened and cut off."""
KRON = "ext_photometryKron_KronFlux_radius"


def exposure_of(
    pixels: np.ndarray | None = None, *, noise: float = 1.0, seed: int | None = None
) -> VisitImage:
    """Return an image with a Gaussian PSF, with noise if there is a seed."""
    psf = GaussianPointSpreadFunction(SIGMA, Box.factory[0:SIZE, 0:SIZE], 41)
    exposure = make_visit_image(width=SIZE, height=SIZE, psf=psf, noise=noise, add_noise=False)
    if pixels is not None:
        exposure.image.array[...] = pixels
    if seed is not None:
        exposure.image.array[...] += noise * np.random.default_rng(seed).normal(size=pixels.shape)
    return exposure


def galaxies(
    *kinds: tuple[float, float, float, float], axis_ratio: float = 0.7, sersic: float = LUX
) -> np.ndarray:
    """Draw galaxies (x, y, flux, half-light radius; radius 0 for a star) seen through the PSF."""
    image = galsim.ImageD(SIZE, SIZE, xmin=0, ymin=0)
    for x, y, flux, radius in kinds:
        profile = galsim.Gaussian(sigma=SIGMA)
        if radius:
            mixture = zip(*profile_mixture("lux", components=6), strict=True)
            galaxy = galsim.Sum([a * galsim.Gaussian(sigma=radius * math.sqrt(v)) for a, v in mixture])
            if sersic != LUX:
                galaxy = galsim.Sersic(sersic, half_light_radius=radius, trunc=8.0 * radius)
            profile = galsim.Convolve(galaxy.shear(q=axis_ratio, beta=35 * galsim.degrees), profile)
        offset = galsim.PositionD(x - image.true_center.x, y - image.true_center.y)
        profile = flux * profile
        profile.drawImage(image, scale=1.0, offset=offset, method="no_pixel", add_to_image=True)
    return image.array


def make_schema() -> Schema:
    """Return a schema with slots, the approximation of the PSF and the Kron radius as inputs."""
    schema = fixed_slots()
    for name in ("xx", "yy", "xy", "x", "y", *map(str, range(6))):
        schema.add(f"psf_0_{name}", np.float64, "PSF")
    schema.add_flag("psf_flag", "PSF")
    schema.add_flag("psf_flag_maxIterations", "PSF")
    schema.add(KRON, np.float32, "radius", unit="pix")
    schema.add("flux_instFlux", np.float64, "PSF flux", unit="ct")
    schema.add_flag("flux_flag", "PSF flux")
    schema.set_alias("slot_PsfFlux", "flux")
    return schema


def measure(
    exposure: VisitImage,
    *,
    x: Any = 80.0,
    y: Any = 80.0,
    flux: Any = 1e4,
    moments: Any = (16.0, 12.0, 2.0),
    kron: Any = 6.0,
    radius: int = 15,
    config: dict[str, Any] | None = None,
    **columns: Any,
) -> SourceCatalog:
    """Measure sources at given positions; ``config`` holds dotted names of fields."""
    measurement = make_config(MODEL)
    measurement.doReplaceWithNoise = False
    for name, value in {"psfName": "psf", **(config or {})}.items():
        *path, field = name.split(".")
        part = measurement.plugins[MODEL]
        for step in path:
            part = getattr(part, step)
        setattr(part, field, value)
    measurement.validate()
    schema = make_schema()
    task = SingleFrameMeasurementTask(schema, config=measurement)
    x, y = np.atleast_1d(np.asarray(x, dtype=float)), np.atleast_1d(np.asarray(y, dtype=float))
    inside = [np.clip(np.nan_to_num(v, nan=80.0), 0, SIZE - 1) for v in (x, y)]
    catalog = make_catalog(schema, round_footprints(*inside, radius), in_x=x, in_y=y)
    moments = np.broadcast_to(moments, (len(x), 3))
    catalog["in_xx"], catalog["in_yy"], catalog["in_xy"] = moments.T
    catalog["psf_0_xx"] = catalog["psf_0_yy"] = SIGMA**2
    for name in ("xy", "x", "y", *map(str, range(6))):
        catalog[f"psf_0_{name}"] = 0.0
    catalog["psf_0_0"] = 0.5 / math.sqrt(math.pi)
    catalog[KRON], catalog["flux_instFlux"] = kron, flux
    for name, values in columns.items():
        catalog[name] = values
    task.run(catalog, exposure)
    return catalog


def get(catalog: SourceCatalog, name: str, row: int = 0) -> Any:
    """Return a value of a column given by suffix."""
    return np.asarray(catalog[f"{MODEL}_{name}"])[row]


def flags(catalog: SourceCatalog, row: int = 0) -> set[str]:
    """Return the flags of the composite that are set."""
    start = f"{MODEL}_flag"
    names = [n for n in catalog.schema.names if n.startswith(start) and n != f"{start}_badCentroid"]
    return {n.removeprefix(f"{MODEL}_") for n in names if catalog[n][row]} - {"flags_smallShape"}


def assert_failed(catalog: SourceCatalog, row: int = 0) -> None:
    """Check that everything is flagged and nothing has a flux."""
    for prefix in ("", *(f"{stage}_" for stage in STAGES)):
        assert get(catalog, f"{prefix}flag", row)
        assert np.isnan(get(catalog, f"{prefix}instFlux", row))


# Facts ------------------------------------------------------------------------------------------------------


def test_columns_and_names() -> None:
    schema = make_schema()
    config = make_config(MODEL)
    config.plugins[MODEL].psfName = "psf"
    SingleFrameMeasurementTask(schema, config=config)
    stage = ["instFlux", "instFluxErr", "flag", "instFlux_inner", "objective", "flag_trSmall", "flag_maxIter",
             "nIter", "flag_numericError", "flag_noFlux", "fixed_0", "fixed_1", "nonlinear_0",
             "nonlinear_1", "nonlinear_2", "ellipse_xx", "ellipse_yy", "ellipse_xy"]  # fmt: skip
    top = ["instFlux", "instFluxErr", "flag", "instFlux_inner", "fracDev", "objective", "ellipse_xx",
           "ellipse_yy", "ellipse_xy", "flag_region_maxArea", "flag_region_maxBadPixelFraction",
           "flags_region_usedFootprintArea", "flags_region_usedPsfArea", "flags_region_usedInitialEllipseMin",
           "flags_region_usedInitialEllipseMax", "flag_noShape", "flags_smallShape", "flag_noShapeletPsf",
           "flag_noFlux", "flag_badCentroid"]  # fmt: skip
    top += [f"region_{r}_ellipse_{m}" for r in ("initial", "final") for m in ("xx", "yy", "xy")]
    for name in [*top, *(f"{s}_{name}" for s in STAGES for name in stage)]:
        assert f"{MODEL}_{name}" in schema, name
    assert {MODEL, *(f"{MODEL}_{s}" for s in STAGES)} <= ap_corr_names()


def test_optional_columns() -> None:
    config = {"exp.doRecordHistory": False, "exp.doRecordTime": True}
    catalog = measure(exposure_of(galaxies((80, 80, 1e4, 4))), config=config)
    assert f"{MODEL}_exp_nIter" not in catalog.schema
    assert f"{MODEL}_dev_time" not in catalog.schema
    assert get(catalog, "dev_nIter") > 1
    assert get(catalog, "exp_time") > 0.0


@pytest.mark.parametrize("radius", [1.5, 3.0, 6.0])
def test_exponential_galaxy(radius: float) -> None:
    x, y = 80.3, 79.6
    exposure = exposure_of(galaxies((x, y, 1e5, radius)))
    catalog = measure(exposure, x=x, y=y, flux=5e4, kron=1.2 * (radius + SIGMA), moments=(9.0, 8.0, 0.5))
    assert "flag" not in flags(catalog)
    for name in ("exp_instFlux", "instFlux"):
        assert get(catalog, name) == pytest.approx(1e5, rel=1e-3)
    assert get(catalog, "fracDev") < 0.02
    axes = np.array([radius / math.sqrt(0.7), radius * math.sqrt(0.7)]) ** 2
    xx, yy, xy = (get(catalog, f"exp_ellipse_{c}") for c in ("xx", "yy", "xy"))
    np.testing.assert_allclose(np.linalg.eigvalsh([[xx, xy], [xy, yy]])[::-1], axes, rtol=0.02)
    assert 0.5 * math.atan2(2 * xy, xx - yy) == pytest.approx(math.radians(35), abs=0.02)


def test_profile_that_is_not_cut_off() -> None:
    exposure = exposure_of(galaxies((80, 80, 1e5, 3), sersic=1.0))
    catalog = measure(exposure, flux=5e4, moments=(9.0, 8.0, 0.5))
    assert get(catalog, "exp_instFlux") == pytest.approx(1e5, rel=0.02)
    assert get(catalog, "instFlux") == pytest.approx(1e5, rel=0.02)


def test_error_is_that_of_an_unweighted_fit_of_the_model() -> None:
    exposure = exposure_of(galaxies((80, 80, 1e5, 3)), noise=3.0)
    catalog = measure(exposure, flux=5e4, moments=(9.0, 8.0, 0.5), kron=5.0)
    ellipse = np.array([get(catalog, f"region_final_ellipse_{c}") for c in ("xx", "yy", "xy")])
    j, i = np.indices((SIZE, SIZE)) - 80.0
    q = (ellipse[1] * i**2 - 2 * ellipse[2] * i * j + ellipse[0] * j**2) / (
        ellipse[0] * ellipse[1] - ellipse[2] ** 2
    )
    model = exposure.image.array[q <= 1.0] / 1e5
    assert get(catalog, "instFlux_inner") == pytest.approx(1e5 * model.sum(), rel=0.01)
    assert get(catalog, "instFluxErr") == pytest.approx(3.0 / math.sqrt((model**2).sum()), rel=0.01)


def test_de_vaucouleurs_galaxy() -> None:
    catalog = measure(
        exposure_of(galaxies((80, 80, 1e5, 4), sersic=4.0)), flux=5e4, moments=(12.0, 9.0, 1.0), kron=8.0
    )
    assert get(catalog, "fracDev") > 0.9
    assert get(catalog, "instFlux") == pytest.approx(1e5, rel=0.05)
    assert get(catalog, "dev_objective") < get(catalog, "exp_objective")


@pytest.mark.parametrize("signal_to_noise", [20.0, 200.0])
def test_stars_have_their_psf_flux(signal_to_noise: float) -> None:
    x, y = (v.ravel().astype(float) for v in np.meshgrid([30, 60, 90, 120], [35, 70, 105]))
    noise_flux = math.sqrt(4 * np.pi) * SIGMA
    flux = signal_to_noise * noise_flux
    exposure = exposure_of(galaxies(*((a, b, flux, 0) for a, b in zip(x, y, strict=True))), seed=5)
    psf = galaxies((80, 80, 1.0, 0))[60:101, 60:101]
    expected = (
        np.array(
            [
                (psf * exposure.image.array[int(b) - 20 : int(b) + 21, int(a) - 20 : int(a) + 21]).sum()
                for a, b in zip(x, y, strict=True)
            ]
        )
        / (psf**2).sum()
    )
    catalog = measure(exposure, x=x, y=y, flux=expected, moments=(4.1, 4.0, 0.0), kron=2.5, radius=8)
    found, error = (np.asarray(catalog[f"{MODEL}_{c}"]) for c in ("instFlux", "instFluxErr"))
    assert np.abs(found / expected - 1.0).max() < 0.1
    assert np.abs((found - expected) / noise_flux).mean() < 1.0
    np.testing.assert_allclose(error, noise_flux, rtol=0.1)
    fraction = np.asarray(catalog[f"{MODEL}_fracDev"])
    assert ((fraction >= 0) & (fraction <= 1)).all()
    assert not np.asarray(catalog[f"{MODEL}_flag"]).any()


def test_noise_replaced_image_is_restored() -> None:
    exposure = exposure_of(galaxies((60, 80, 1e4, 3), (100, 80, 2e4, 3)), seed=2)
    before = exposure.image.array.copy()
    measure(exposure, x=[60, 100], y=[80, 80])
    np.testing.assert_array_equal(exposure.image.array, before)


def test_parameters_are_in_arcsec_on_the_sky() -> None:
    catalog = measure(exposure_of(galaxies((80, 80, 1e5, 4))), flux=5e4)
    xx, yy, xy = (get(catalog, f"exp_ellipse_{c}") for c in ("xx", "yy", "xy"))
    eta = math.atanh(math.hypot(xx - yy, 2 * xy) / (xx + yy))
    assert get(catalog, "exp_nonlinear_0") == pytest.approx(
        eta * (xx - yy) / math.hypot(xx - yy, 2 * xy), abs=1e-4
    )
    assert get(catalog, "exp_nonlinear_1") == pytest.approx(
        eta * 2 * xy / math.hypot(xx - yy, 2 * xy), abs=1e-4
    )
    assert get(catalog, "exp_nonlinear_2") == pytest.approx(
        math.log(0.2 * math.sqrt((xx + yy) / 2)), abs=1e-4
    )


def test_centre_is_less_the_offset_of_the_psf() -> None:
    offset = measure(exposure_of(galaxies((80, 80, 1e4, 3))), psf_0_x=0.5, psf_0_y=-0.25)
    plain = measure(exposure_of(galaxies((80, 80, 1e4, 3))))
    assert get(offset, "instFlux") == pytest.approx(get(plain, "instFlux"), rel=1e-6)
    assert get(offset, "exp_fixed_0") == pytest.approx(-0.1, rel=1e-4)
    assert get(offset, "exp_fixed_1") == pytest.approx(0.05, rel=1e-4)


# Configuration ----------------------------------------------------------------------------------------------


def test_default_configuration() -> None:
    config = CModelConfig()
    assert [(getattr(config, s).profileName, getattr(config, s).nComponents) for s in STAGES] == [
        ("lux", 3),
        ("lux", 6),
        ("luv", 8),
    ]
    assert [getattr(config, s).usePixelWeights for s in STAGES] == [True, False, False]
    assert config.exp.optimizer.maxOuterIterations == 250
    assert config.initial.optimizer.gradientThreshold == 1e-3
    assert list(config.region.badMaskPlanes) == ["EDGE", "SAT", "BAD", "NO_DATA"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exp.nComponents", 7),
        ("dev.maxRadius", 5),
        ("exp.empiricalPriorConfig.logRadiusMinInner", -7.0),
        ("exp.linearPriorConfig.ellipticityMaxOuter", 1.0),
    ],
)
def test_bad_configuration(field: str, value: Any) -> None:
    with pytest.raises(pex_config.FieldValidationError):
        measure(exposure_of(), config={field: value})


def test_missing_approximation() -> None:
    config = make_config(MODEL)
    with pytest.raises(ValueError, match="modelfit_DoubleShapeletPsfApprox_0_xx"):
        SingleFrameMeasurementTask(fixed_slots(), config=config)


@pytest.mark.parametrize("source", ["LINEAR", "NONE"])
def test_other_priors(source: str) -> None:
    config = {f"{stage}.priorSource": source for stage in STAGES}
    catalog = measure(exposure_of(galaxies((80, 80, 1e5, 3)), seed=4), flux=5e4, config=config)
    assert flags(catalog) == set()
    assert get(catalog, "instFlux") == pytest.approx(1e5, rel=0.01)


def test_weights_multiplier_scales_the_objective_only() -> None:
    exposure = exposure_of(galaxies((80, 80, 1e4, 3)), seed=4)
    config = {f"{s}.priorSource": "NONE" for s in STAGES}
    plain = measure(exposure, config=config)
    double = measure(exposure, config=config | {"exp.weightsMultiplier": 2.0})
    assert get(double, "exp_objective") == pytest.approx(4 * get(plain, "exp_objective"), rel=1e-5)
    assert get(double, "exp_instFlux") == pytest.approx(get(plain, "exp_instFlux"), rel=1e-4)


# Bad input --------------------------------------------------------------------------------------------------


def test_psf_approximation_flagged_or_useless() -> None:
    exposure = exposure_of(galaxies((40, 80, 1e4, 3), (80, 80, 1e4, 3), (120, 80, 1e4, 3)))
    catalog = measure(
        exposure, x=[40, 80, 120], y=[80, 80, 80], psf_flag=[True, False, False], psf_0_xx=[4.0, np.nan, 4.0]
    )
    for row in (0, 1):
        assert_failed(catalog, row)
        assert flags(catalog, row) == {"flag", "flag_noShapeletPsf"}
    assert flags(catalog, 2) == set()
    not_converged = measure(exposure, in_flag=True, psf_flag=True, psf_flag_maxIterations=True)
    assert flags(not_converged) == {"flag", "flag_noShapeletPsf"}
    no_flux = measure(exposure, psf_0_0=0.0)
    assert flags(no_flux) == {"flag", "flag_noShapeletPsf"}


@pytest.mark.parametrize(("x", "y"), [(1.0, 80.0), (159.5, 80.0), (80.0, 0.0), (80.0, 160.4), (-30.0, 80.0)])
def test_source_at_the_border(x: float, y: float) -> None:
    catalog = measure(exposure_of(galaxies((80, 80, 1e4, 3))), x=[x, 80], y=[y, 80])
    assert_failed(catalog)
    assert flags(catalog) == {"flag", "flag_region_maxBadPixelFraction"}
    assert flags(catalog, 1) == set()


def test_negative_flux() -> None:
    exposure = exposure_of(-galaxies((80, 80, 1e4, 3)), seed=3)
    catalog = measure(exposure, flux=-8e3)
    assert get(catalog, "exp_instFlux") >= 0.0 or get(catalog, "exp_flag")
    assert get(catalog, "flag") or np.isfinite(get(catalog, "instFlux"))
    config = {f"{stage}.priorSource": "NONE" for stage in STAGES}
    catalog = measure(exposure, flux=-8e3, config=config)
    assert get(catalog, "exp_instFlux") < 0.0
    assert "flag" in flags(catalog)


@pytest.mark.parametrize("moments", [(np.nan, np.nan, np.nan), (4.0, 4.0, 9.0), (0.0, 0.0, 0.0)])
def test_no_usable_shape(moments: tuple[float, float, float]) -> None:
    catalog = measure(exposure_of(galaxies((80, 80, 1e5, 3))), flux=5e4, moments=moments)
    assert flags(catalog) == {"flag_noShape"}
    assert get(catalog, "instFlux") == pytest.approx(1e5, rel=0.01)


def test_no_flux_and_no_kron_radius_to_start_from() -> None:
    exposure = exposure_of(galaxies((80, 80, 1e5, 3)))
    catalog = measure(exposure, flux=np.nan, kron=np.nan)
    assert flags(catalog) - LIMITS == {"flags_region_usedFootprintArea"}
    assert get(catalog, "instFlux") == pytest.approx(1e5, rel=0.01)
    flagged = measure(exposure, flux=1e-3, flux_flag=True)
    assert get(flagged, "instFlux") == pytest.approx(1e5, rel=0.01)


def test_region_larger_than_the_limit() -> None:
    exposure = exposure_of(galaxies((80, 80, 1e5, 3)))
    catalog = measure(exposure, kron=np.nan, radius=20, config={"region.maxArea": 1000})
    assert_failed(catalog)
    assert flags(catalog) == {"flag", "flag_region_maxArea", "flags_region_usedFootprintArea"}
    assert flags(measure(exposure, kron=1e6)) == {"flag", "flag_region_maxArea"}


def test_final_region_larger_than_the_limit() -> None:
    exposure = exposure_of(galaxies((80, 80, 1e6, 12)))
    moments, config = (60.0, 50.0, 0.0), {"region.maxArea": 300, "region.nPsfSigmaGrow": 6.0}
    catalog = measure(exposure, moments=moments, kron=6.0, config=config)
    assert {"flag", "flag_region_maxArea"} <= flags(catalog)
    assert not get(catalog, "initial_flag")
    assert get(catalog, "exp_flag")
    assert get(catalog, "dev_flag")
    assert np.isnan(get(catalog, "instFlux"))


def test_footprint_of_one_pixel() -> None:
    catalog = measure(exposure_of(galaxies((80, 80, 1e4, 0)), seed=1), kron=np.nan, radius=0)
    assert flags(catalog) - LIMITS == {"flags_region_usedPsfArea"}
    assert get(catalog, "instFlux") == pytest.approx(1e4, rel=0.05)


def test_flagged_centroid_is_flagged_but_measured() -> None:
    exposure = exposure_of(galaxies((80, 80, 1e5, 3)))
    catalog = measure(exposure, flux=5e4, in_flag=True, psf_flag=True)
    assert flags(catalog) == {"flag", "flag_noShape"}  # the schema has one flag for both slots
    assert get(catalog, "instFlux") == pytest.approx(1e5, rel=0.01)
    assert get(catalog, "exp_flag")


def test_centre_that_is_not_finite() -> None:
    catalog = measure(exposure_of(galaxies((80, 80, 1e4, 3))), x=[np.nan, 80], y=[80, 80])
    assert get(catalog, "flag", 0)
    assert flags(catalog, 1) == set()


def test_pixels_that_are_not_finite() -> None:
    exposure = exposure_of(galaxies((80, 80, 1e5, 3)))
    exposure.image.array[82, 81] = np.nan
    exposure.variance.array[78, 79] = 0.0
    exposure.variance.array[77, 79] = np.inf
    catalog = measure(exposure, flux=5e4)
    assert flags(catalog) == set()
    assert get(catalog, "instFlux") == pytest.approx(1e5, rel=0.01)
    exposure.image.array[...] = np.nan
    catalog = measure(exposure, flux=5e4)
    assert_failed(catalog)
    assert flags(catalog) == {"flag", "flag_region_maxBadPixelFraction"}


def test_image_without_light() -> None:
    catalog = measure(exposure_of(), flux=np.nan)
    assert get(catalog, "flag") or get(catalog, "instFlux") == pytest.approx(0.0, abs=1.0)


def test_iterations_run_out() -> None:
    exposure = exposure_of(galaxies((80, 80, 1e5, 3)), seed=6)
    config = {"exp.optimizer.maxOuterIterations": 1, "exp.optimizer.trustRegionInitialSize": 0.01}
    catalog = measure(exposure, flux=5e4, config=config)
    for name in ("exp_flag_maxIter", "exp_flag", "flag"):
        assert get(catalog, name)
    for name in ("initial_flag", "dev_flag"):
        assert not get(catalog, name)


@pytest.mark.parametrize("seed", [12, 13])
def test_nonsense_never_stops_the_batch(seed: int) -> None:
    """Wild values in every input column: whatever is not flagged has finite fluxes."""
    rng = np.random.default_rng(seed)
    n = 300
    wild = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-100, 1e100, 1e-9, 1e9, 3.0, 40.0])

    def mess(typical: float) -> np.ndarray:
        return np.where(rng.random(n) < 0.08, rng.choice(wild, n), typical * rng.uniform(0.5, 2.0, n))

    x, y = (np.where(rng.random(n) < 0.2, rng.choice(wild, n), rng.uniform(0, SIZE, n)) for _ in range(2))
    x[0], y[0] = 80, 80
    columns = {name: mess(4.0) for name in ("in_xx", "in_yy", "psf_0_xx", "psf_0_yy")}
    columns |= {name: mess(0.3) for name in ("in_xy", "psf_0_xy", "psf_0_x", "psf_0_y", "psf_0_0")}
    columns |= {f"psf_0_{k}": mess(0.01) for k in range(1, 6)} | {
        KRON: np.clip(mess(6.0), -1e30, 1e30),
        "flux_instFlux": mess(1e4),
    }
    usual = {
        "in_xx": 9.0,
        "in_yy": 8.0,
        "psf_0_xx": 4.0,
        "psf_0_yy": 4.0,
        "psf_0_0": 0.5 / math.sqrt(math.pi),
    }
    for name, values in columns.items():
        values[0] = {**usual, KRON: 6.0, "flux_instFlux": 5e4}.get(name, 0.0)
    exposure = exposure_of(galaxies((80, 80, 1e5, 3)), seed=3)
    catalog = measure(exposure, x=x, y=y, **columns)
    assert get(catalog, "instFlux") == pytest.approx(1e5, rel=0.01)
    assert flags(catalog) <= LIMITS
    for prefix in ("", *(f"{stage}_" for stage in STAGES)):
        good = ~np.asarray(catalog[f"{MODEL}_{prefix}flag"])
        assert 20 < good.sum() < n
        for column in ("instFlux", "instFluxErr", "instFlux_inner"):
            assert np.isfinite(np.asarray(catalog[f"{MODEL}_{prefix}{column}"])[good]).all()
