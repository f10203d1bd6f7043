"""Higher-order moments: facts of the specification, slow twins, and sources that cannot be measured."""

from __future__ import annotations

from typing import Any

import galsim
import lsst.pex.config as pex_config
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.mask_planes import mask_of
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.plugins._higher_order_kernels import standardised_moments
from secondlight.measurement.plugins.higher_order_moments import HigherOrderMomentsSourceConfig
from secondlight.measurement.task import SingleFrameMeasurementTask
from tests.measurement.scene import fixed_slots, make_catalog, make_config, round_footprints
from tests.scenes import make_visit_image

SOURCE = "ext_shapeHSM_HigherOrderMomentsSource"
PSF = "ext_shapeHSM_HigherOrderMomentsPSF"
HSM_SOURCE = "ext_shapeHSM_HsmSourceMoments"
HSM_PSF = "ext_shapeHSM_HsmPsfMoments"
NAMES = ["03", "12", "21", "30", "04", "13", "22", "31", "40"]
NONE = np.zeros((0, 0), dtype=bool)


def slow_moment(image, x, y, shape, p, q, bad=None, fill=True):
    """Return one moment, in words of the specification."""
    xx, yy, xy = shape
    values, vectors = np.linalg.eigh([[xx, xy], [xy, yy]])
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    j, i = np.indices(image.shape)
    u, v = np.einsum("ab,b...->a...", root, np.stack([i - x, j - y]))
    w = np.exp(-0.5 * (u**2 + v**2))
    a = w * image
    if bad is not None and bad.any():
        a[bad] = (w**2 * image[~bad].sum() / w[~bad].sum())[bad] if fill else 0.0
    return (u**p * v**q * a).sum() / a.sum()


def gaussian(shape, x, y, moments):
    xx, yy, xy = moments
    j, i = np.indices(shape)
    dx, dy = i - x, j - y
    return np.exp(-0.5 * (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / (xx * yy - xy**2))


def measured(image, x, y, shape, orders=(3, 4), bad=NONE, fill=True) -> dict[str, float]:
    names = [f"{p}{n - p}" for n in range(orders[0], orders[1] + 1) for p in range(n + 1)]
    out = np.empty(len(names))
    standardised_moments(image, bad, x, y, np.array(shape, dtype=float), *orders, fill, out)
    return dict(zip(names, out, strict=True))


@pytest.mark.parametrize("moments", [(4.0, 4.0, 0.0), (9.0, 5.0, 2.0), (3.0, 6.0, -1.0)])
def test_gaussian(moments: tuple[float, float, float]) -> None:
    """Finalize 8.6, T13."""
    m = measured(gaussian((81, 81), 40.3, 39.8, moments), 40.3, 39.8, moments, orders=(0, 6))
    expected = {"00": 1.0, "20": 0.5, "02": 0.5, "40": 0.75, "04": 0.75, "22": 0.25}
    expected |= {"60": 1.875, "06": 1.875, "42": 0.375, "24": 0.375}
    for name, value in m.items():
        assert value == pytest.approx(expected.get(name, 0.0), abs=2e-7), name


def test_kurtosis_is_that_of_hsm() -> None:
    """The radial fourth moment of GalSim is a sum of ours (finalize 14.1)."""
    image = (
        galsim.Moffat(beta=3, half_light_radius=2.5).shear(g1=0.1, g2=-0.05).drawImage(nx=61, ny=61, scale=1)
    )
    hsm = galsim.hsm.FindAdaptiveMom(image, precision=1e-8)
    e = hsm.observed_e1, hsm.observed_e2
    t = hsm.moments_sigma**2 / np.sqrt(1 - e[0] ** 2 - e[1] ** 2)
    x, y = hsm.moments_centroid.x - image.xmin, hsm.moments_centroid.y - image.ymin
    m = measured(image.array, x, y, (t * (1 + e[0]), t * (1 - e[0]), t * e[1]))
    assert m["40"] + 2 * m["22"] + m["04"] == pytest.approx(hsm.moments_rho4, abs=2e-6)


@given(
    x=st.floats(8, 20),
    y=st.floats(5, 20),
    a=st.floats(1, 5),
    ratio=st.floats(0.3, 1),
    theta=st.floats(0, 3.2),
    share=st.sampled_from([0.0, 0.01, 0.2]),
    fill=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_slow_twin(x, y, a, ratio, theta, share, fill) -> None:
    rng = np.random.default_rng(2)
    c, s, b = np.cos(theta), np.sin(theta), a * ratio
    shape = (a**2 * c**2 + b**2 * s**2, a**2 * s**2 + b**2 * c**2, (a**2 - b**2) * c * s)
    image = rng.uniform(0, 1, (25, 29)).astype(np.float32) + gaussian((25, 29), 14, 12, (6, 4, 1)).astype(
        "f4"
    )
    bad = rng.uniform(size=image.shape) < share
    m = measured(image, x, y, shape, orders=(1, 5), bad=bad, fill=fill)
    for name, value in m.items():
        expected = slow_moment(image.astype(float), x, y, shape, int(name[0]), int(name[1]), bad, fill)
        assert value == pytest.approx(expected, abs=1e-9)


def test_what_cannot_be_measured() -> None:
    image = np.ones((9, 9))
    everything = np.ones((9, 9), dtype=bool)
    for arguments in (
        (image, 4.0, 4.0, (4.0, 4.0, 4.0)),
        (image, 4.0, 4.0, (np.nan, 4.0, 0.0)),
        (image, 4.0, 4.0, (-4.0, -4.0, 0.0)),
        (image, 4.0, 4.0, (1e-170, 1e-150, 0.0)),
        (image, 4.0, 4.0, (np.inf, 4.0, 0.0)),
        (image, np.inf, 4.0, (4.0, 4.0, 0.0)),
        (image, np.nan, 4.0, (4.0, 4.0, 0.0)),
        (image, 400.0, 4.0, (4.0, 4.0, 0.0)),
        (np.zeros((9, 9)), 4.0, 4.0, (4.0, 4.0, 0.0)),
        (np.full((9, 9), np.nan), 4.0, 4.0, (4.0, 4.0, 0.0)),
    ):
        assert np.isnan(list(measured(*arguments).values())).all()
    for fill in (True, False):
        nothing = measured(image, 4.0, 4.0, (4.0, 4.0, 0.0), bad=everything, fill=fill)
        assert np.isnan(list(nothing.values())).all()


def image_of(x, y, sigma: float = 2.0):
    psf = GaussianPointSpreadFunction(sigma, Box.factory[0:100, 0:100], 31)
    return make_visit_image(
        width=100, height=100, x=x, y=y, flux=[1e4] * len(x), psf=psf, noise=1.0, add_noise=False
    )


def run(exposure, x, y, moments, *, radius=12, flag=False, **config: dict[str, Any]) -> SourceCatalog:
    """Measure with given second moments."""
    schema = fixed_slots()
    for plugin in (HSM_SOURCE, HSM_PSF):
        for c in ("x", "y", "xx", "yy", "xy"):
            schema.add(f"{plugin}_{c}", np.float64, "given")
        schema.add_flag(f"{plugin}_flag", "given")
    settings_ = make_config(SOURCE, PSF)
    settings_.doReplaceWithNoise = False
    for name, values in config.items():
        settings_.plugins[SOURCE if name == "source" else PSF].update(**values)
    task = SingleFrameMeasurementTask(schema, config=settings_)
    catalog = make_catalog(schema, round_footprints(np.nan_to_num(x), np.nan_to_num(y), radius))
    catalog["in_x"], catalog["in_y"] = x, y
    catalog[f"{HSM_SOURCE}_x"], catalog[f"{HSM_SOURCE}_y"] = x, y
    catalog[f"{HSM_PSF}_x"] = catalog[f"{HSM_PSF}_y"] = 0.0
    for plugin in (HSM_SOURCE, HSM_PSF):
        for c, value in zip(("xx", "yy", "xy"), moments, strict=True):
            catalog[f"{plugin}_{c}"] = value
        catalog[f"{plugin}_flag"] = flag
    task.run(catalog, exposure)
    return catalog


def test_plugins_on_a_star() -> None:
    """Sources over the boxes of their footprints, and PSF images centred or at the position."""
    exposure = image_of([50.3], [49.6])
    for offset in (False, True):
        catalog = run(exposure, [50.3], [49.6], (4.0, 4.0, 0.0), psf={"useSourceCentroidOffset": offset})
        for plugin in (SOURCE, PSF):
            assert not catalog[f"{plugin}_flag"][0]
            for name in NAMES:
                expected = {"40": 0.75, "04": 0.75, "22": 0.25}.get(name, 0.0)
                assert catalog[f"{plugin}_{name}"][0] == pytest.approx(expected, abs=1e-5)
    cut = run(exposure, [50.3], [49.6], (4.0, 4.0, 0.0), radius=4)
    box = exposure.image.array[46:55, 46:55].astype(float)
    for name in NAMES:
        expected = slow_moment(box, 4.3, 3.6, (4.0, 4.0, 0.0), int(name[0]), int(name[1]))
        assert cut[f"{SOURCE}_{name}"][0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("zero", [False, True])
def test_masked_pixels(zero: bool) -> None:
    exposure = image_of([50.0], [50.0])
    exposure.mask.set("SATURATED", np.indices((100, 100))[0] == 51)
    exposure.image.array[51] = 1e6
    catalog = run(exposure, [50.0], [50.0], (4.0, 4.0, 0.0), source={"setMaskedPixelsToZero": zero})
    part = np.s_[38:63, 38:63]
    bad = mask_of(exposure.mask, ["SAT"])[part]
    for name in NAMES:
        expected = slow_moment(
            exposure.image.array[part].astype(float),
            12,
            12,
            (4, 4, 0),
            int(name[0]),
            int(name[1]),
            bad,
            not zero,
        )
        assert catalog[f"{SOURCE}_{name}"][0] == pytest.approx(expected, abs=1e-9)
    ignored = run(exposure, [50.0], [50.0], (4.0, 4.0, 0.0), source={"badMaskPlanes": []})
    assert ignored[f"{SOURCE}_03"][0] != pytest.approx(catalog[f"{SOURCE}_03"][0], abs=0.01)


def test_failures_of_one_source_are_its_own() -> None:
    x, y = [50.0, 20.0, 0.0, 99.4, 50.0, 50.0], [50.0, 20.0, 0.0, 99.4, 20.0, np.nan]
    exposure = image_of(x[:5], y[:5])
    xx = np.array([4.0, 4.0, 4.0, 4.0, 1.0, 4.0])
    flag = np.array([False, True, False, False, False, False])
    catalog = run(exposure, x, y, (xx, 4.0, [0.0] * 4 + [3.0, 0.0]), flag=flag)
    assert catalog[f"{SOURCE}_flag"].tolist() == [False, True, False, False, True, True]
    assert catalog[f"{PSF}_flag"].tolist() == [False, True, False, False, True, True]
    for plugin in (SOURCE, PSF):
        values = np.column_stack([catalog[f"{plugin}_{n}"] for n in NAMES])
        np.testing.assert_array_equal(np.isnan(values).all(axis=1)[:5], catalog[f"{plugin}_flag"][:5])
    one_pixel = run(exposure, [50.0], [50.0], (4.0, 4.0, 0.0), radius=0)
    assert one_pixel[f"{SOURCE}_40"][0] == 0.0


def test_orders() -> None:
    catalog = run(
        image_of([50.0], [50.0]), [50.0], [50.0], (4.0, 4.0, 0.0), psf={"min_order": 2, "max_order": 2}
    )
    names = [n for n in catalog.schema.names if n.startswith(PSF)]
    assert names == [f"{PSF}_flag", f"{PSF}_02", f"{PSF}_11", f"{PSF}_20"]
    assert [n for n in catalog.schema.names if n.startswith(SOURCE)] == [
        f"{SOURCE}_flag",
        *(f"{SOURCE}_{n}" for n in NAMES),
    ]
    for values in ({"min_order": 5}, {"min_order": -1}):
        with pytest.raises((pex_config.FieldValidationError, ValueError)):
            HigherOrderMomentsSourceConfig(**values).validate()


@pytest.mark.parametrize(("plugin", "needed"), [(SOURCE, HSM_SOURCE), (PSF, HSM_PSF)])
def test_second_moments_are_needed(plugin: str, needed: str) -> None:
    with pytest.raises(ValueError, match=f"{plugin} needs {needed[13:]} among the plugins"):
        SingleFrameMeasurementTask(fixed_slots(), config=make_config(plugin))


def test_together_with_hsm() -> None:
    """In a task that measures second moments first."""
    config = make_config(SOURCE, PSF, HSM_SOURCE, HSM_PSF)
    config.doReplaceWithNoise = False
    schema = fixed_slots()
    task = SingleFrameMeasurementTask(schema, config=config)
    catalog = make_catalog(schema, round_footprints([50.2], [50.1], 12))
    catalog["in_x"], catalog["in_y"] = 50.2, 50.1
    task.run(catalog, image_of([50.2], [50.1]))
    assert catalog[f"{SOURCE}_40"][0] == pytest.approx(0.75, abs=1e-4)
    assert catalog[f"{PSF}_40"][0] == pytest.approx(0.75, abs=8e-6)
