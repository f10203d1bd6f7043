from __future__ import annotations

import numpy as np
import pytest

from secondlight.catalog.footprints import Footprints
from secondlight.measurement.plugins.blendedness import absolute_bias, expected_absolute
from secondlight.measurement.task import SingleFrameMeasurementTask
from tests.measurement.scene import fixed_slots, make_catalog, make_config, measure_at, round_footprints
from tests.scenes import make_visit_image


def test_published_values_of_the_pixel_functions() -> None:
    expected = {-1: 0.897767011, 0: 1.19682684, 1: 1.64102639}
    for data, value in expected.items():
        assert expected_absolute(float(data), 2.25) == pytest.approx(value, rel=1e-8)
    for mu, value in {0: 1.19682684, 0.5: 0.762708343, 1: 0.453358941}.items():
        assert absolute_bias(float(mu), 2.25) == pytest.approx(value, rel=1e-8)
    assert expected_absolute(-1e4, 1.0) == 0
    for data in (-3.0, 0.0, 3.0):
        assert expected_absolute(data, 0.0) == max(data, 0.0)
    assert absolute_bias(0.0, 0.0) == absolute_bias(3.0, 0.0) == 0.0


def slow_absolute(image: np.ndarray, variance: float) -> np.ndarray:
    """Return absolute pixels less their bias, one by one."""
    bias = [absolute_bias(expected_absolute(float(d), variance), variance) for d in image.ravel()]
    return np.abs(image) - np.reshape(bias, image.shape)


def slow_raw(image: np.ndarray, x: float, y: float, moments: tuple[float, float, float]) -> np.ndarray:
    """Return flux and moments under the Gaussian, with whole arrays."""
    xx, yy, xy = moments
    j, i = np.mgrid[: image.shape[0], : image.shape[1]]
    dx, dy = i - x, j - y
    inverse = np.linalg.inv([[xx, xy], [xy, yy]])
    q = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
    w = np.exp(-q / 2) * (q <= 9)
    total = (w * image).sum()
    flux = w.sum() * total / (w**2).sum()
    return np.array([flux, *(2 * (w * image * m).sum() / total for m in (dx**2, dy**2, dx * dy))])


def test_pair_of_stars() -> None:
    moments = (5.0, 4.0, 0.5)
    x, y, flux = [60, 66], [60, 62], [2e4, 1e4]
    exposure = make_visit_image(width=120, height=120, x=x, y=y, flux=flux, noise=4.0, add_noise=False)
    alone = [
        make_visit_image(
            width=120, height=120, x=[a], y=[b], flux=[f], noise=4.0, add_noise=False
        ).image.array
        for a, b, f in zip(x, y, flux, strict=True)
    ]
    parts = round_footprints(x, y, 12)
    parent = parts.take([0]).union(parts.take([1]))
    children = [parts.take([k]).with_heavy(alone[k]) for k in range(2)]
    schema = fixed_slots()
    config = make_config("base_Blendedness")
    config.noiseReplacer.noiseSource = "variance"
    task = SingleFrameMeasurementTask(schema, config=config)
    catalog = make_catalog(
        schema, Footprints.concatenate([parent, *children]), parents=[0, 1, 1],
        in_x=[60, *x], in_y=[60, *y], in_xx=5.0, in_yy=4.0, in_xy=0.5,
    )  # fmt: skip
    task.run(catalog, exposure)
    for row, single in ((1, alone[0]), (2, alone[1])):
        child = slow_raw(single.astype(float), catalog["in_x"][row], catalog["in_y"][row], moments)
        whole = slow_raw(
            exposure.image.array.astype(float), catalog["in_x"][row], catalog["in_y"][row], moments
        )
        for side, values in (("child", child), ("parent", whole)):
            ours = [catalog[f"base_Blendedness_raw_{side}_{c}"][row] for c in ("instFlux", "xx", "yy", "xy")]
            np.testing.assert_allclose(ours, values, rtol=1e-5, atol=1e-5)
        assert catalog["base_Blendedness_raw"][row] == pytest.approx(1 - child[0] / whole[0], abs=1e-6)
        inside = catalog.footprints.take([row]).to_mask((120, 120))
        c, p = single[inside].astype(float), exposure.image.array[inside]
        assert catalog["base_Blendedness_old"][row] == pytest.approx(
            (c * (p - c)).sum() / (c**2).sum(), rel=1e-6
        )
    assert catalog["base_Blendedness_raw"][0] == 0
    assert catalog["base_Blendedness_old"][0] == 0
    # Light of a star far above the noise is the same with the absolute pixels, but for the faint wings.
    np.testing.assert_allclose(catalog["base_Blendedness_abs"], catalog["base_Blendedness_raw"], atol=1e-3)
    assert not catalog["base_Blendedness_flag"].any()


@pytest.mark.parametrize("flux", [30.0, 300.0, 1e4])
def test_absolute_pixels_match_slow_twin(flux: float) -> None:
    """Faint, middling and far above the noise, beside a neighbour that is seen in the parent only."""
    moments = (4.0, 5.0, -0.5)
    x, y = [40, 47], [40, 40]
    exposure = make_visit_image(width=80, height=80, x=x, y=y, flux=[flux, 200.0], noise=4.0, seed=7)
    schema = fixed_slots()
    config = make_config("base_Blendedness")
    task = SingleFrameMeasurementTask(schema, config=config)
    catalog = make_catalog(
        schema, round_footprints(x, y, 3), in_x=x, in_y=y, in_xx=4.0, in_yy=5.0, in_xy=-0.5
    )  # fmt: skip
    task.run(catalog, exposure, noise=(np.array([0, 29, 58]), np.zeros(58, dtype=np.float32)))
    child = exposure.image.array.astype(float)
    child[round_footprints(x, y, 3).take([1]).to_mask((80, 80))] = 0.0
    for side, image in (("child", child), ("parent", exposure.image.array.astype(float))):
        expected = slow_raw(slow_absolute(image, 16.0), 40.0, 40.0, moments)
        ours = [catalog[f"base_Blendedness_abs_{side}_{c}"][0] for c in ("instFlux", "xx", "yy", "xy")]
        np.testing.assert_allclose(ours, [max(expected[0], 0.0), *expected[1:]], rtol=1e-9, atol=1e-9)


def test_failures() -> None:
    exposure = make_visit_image(width=120, height=120)
    catalog = measure_at(
        exposure, ["base_Blendedness"], x=[60, np.nan, 500], y=[60, 60, 60], flag=[True, False, False]
    )
    assert catalog["base_Blendedness_flag"].all()
    assert catalog["base_Blendedness_flag_noCentroid"].tolist() == [True, True, False]
    assert np.isnan(catalog["base_Blendedness_raw"][2])
    exposure.image.array[63, 40] = np.inf
    endless = measure_at(
        exposure, ["base_Blendedness"], x=[40.0, 80.0], y=[60.0, 60.0], replace=True, radius=1
    )
    assert endless["base_Blendedness_flag"].tolist() == [True, False]
    shapeless = measure_at(exposure, ["base_Blendedness"], x=[60.0], y=[60.0], moments=(4.0, 4.0, 4.0))
    assert shapeless["base_Blendedness_flag_noShape"][0]
    assert np.isnan(shapeless["base_Blendedness_raw_child_xx"][0])
