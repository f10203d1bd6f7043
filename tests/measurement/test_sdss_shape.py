from __future__ import annotations

import numpy as np
import pytest

from tests.measurement.scene import measure_at
from tests.scenes import make_visit_image

NAME = "base_SdssShape"


def test_weights_that_run_away_from_the_footprint() -> None:
    """A footprint says how wide a weight may get; sources that converge do not feel it."""
    x, y = [100.0, 300.0], [100.0, 300.0]
    exposure = make_visit_image(width=400, height=400, x=x, y=y, flux=[1e4, 1e4], add_noise=False)
    exposure.image.array[200:, 200:] += 100.0
    catalogs = [measure_at(exposure, [NAME], x=x, y=y, radius=radius) for radius in (7, 90)]
    for catalog in catalogs:
        assert not catalog[f"{NAME}_flag"][0]
        assert catalog[f"{NAME}_xx"][0] == pytest.approx(4.0, abs=1e-3)
    narrow, wide = catalogs
    assert narrow[f"{NAME}_xx"][0] == wide[f"{NAME}_xx"][0]
    assert narrow[f"{NAME}_flag_unweighted"][1]
    assert narrow[f"{NAME}_flag"][1]
    assert np.isnan(narrow[f"{NAME}_instFlux"][1])
    # Unweighted moments of a box of at most 4 times the limit, which is 2 footprints of 15 pixels.
    assert 20.0 < narrow[f"{NAME}_xx"][1] < (4 * 30) ** 2 / 3
    assert not wide[f"{NAME}_flag_unweighted"][1]


def test_background_is_taken_off() -> None:
    x, y = [60.2, 140.4], [60.4, 100.0]
    exposure = make_visit_image(x=x, y=y, flux=[1e4, 2e4], noise=1.0, seed=3)
    bare = measure_at(exposure, [NAME], x=x, y=y, replace=True)
    before = exposure.image.array.copy()
    exposure.image.array[...] += 32.0
    settings = {NAME: {"background": 32.0}}
    raised = measure_at(exposure, [NAME], x=x, y=y, replace=True, settings=settings)
    for column in ("xx", "yy", "xy", "instFlux"):
        expected = pytest.approx(bare[f"{NAME}_{column}"], rel=1e-2, abs=1e-2)
        assert raised[f"{NAME}_{column}"] == expected
    np.testing.assert_array_equal(exposure.image.array, before + np.float32(32.0))


def test_bad_positions_and_pixels() -> None:
    exposure = make_visit_image(x=[60.0, 60.0], y=[60.0, 120.0], flux=[1e4, 1e4], noise=1.0)
    exposure.image.array[118:123, 58:63] = np.nan
    exposure.variance.array[58:63, 58:63] = np.nan
    x, y = [60.0, 60.0, np.nan, -40.0, 0.0], [60.0, 120.0, 60.0, 60.0, 0.0]
    catalog = measure_at(exposure, [NAME], x=x, y=y)
    assert catalog[f"{NAME}_flag"].tolist()[:2] == [False, True]
    assert catalog[f"{NAME}_flag_unweightedBad"].tolist()[1::2] == [True, True]
    assert np.isfinite(catalog[f"{NAME}_xx"][0])
    assert np.isnan(catalog[f"{NAME}_xxErr"][:2]).all()
