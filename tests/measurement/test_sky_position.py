from __future__ import annotations

import numpy as np

from secondlight.measurement.task import SingleFrameMeasurementTask
from tests.measurement.scene import fixed_slots, make_catalog, make_config, round_footprints
from tests.scenes import make_visit_image


def test_sky_errors_of_positions_without_finite_errors() -> None:
    """They are NaN, and the other sources keep theirs."""
    schema = fixed_slots()
    for axis in "xy":
        schema.add(f"in_{axis}Err", np.float32, "position error")
    config = make_config("base_SkyCoord")
    config.doReplaceWithNoise = False
    task = SingleFrameMeasurementTask(schema, config=config)
    catalog = make_catalog(schema, round_footprints([50] * 4, [50] * 4), in_x=50.0, in_y=50.0)
    catalog["in_xErr"], catalog["in_yErr"] = [0.1, np.nan, np.inf, 0.1], [0.1, 0.1, 0.1, np.inf]
    task.run(catalog, make_visit_image())
    scale = np.deg2rad(0.2 / 3600)
    np.testing.assert_allclose(catalog["coord_raErr"][0], 0.1 * scale, rtol=1e-5)
    assert not np.isfinite(catalog["coord_raErr"][1:3]).any()
    assert np.isfinite(catalog["coord_ra"]).all()
