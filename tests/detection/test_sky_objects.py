"""Sky sources: positions, what they keep clear of, and the rows they make."""

from __future__ import annotations

import numpy as np
import pytest
from lsst.images import Box, Mask

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.mask_planes import make_mask_schema
from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.detection.sky_objects import SkyObjectsConfig, SkyObjectsTask, sky_positions
from secondlight.measurement.task import SingleFrameMeasurementTask
from tests.scenes import make_visit_image


def make_task(**fields: object) -> tuple[SkyObjectsTask, Schema]:
    config = SkyObjectsConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    schema = minimal_source_schema()
    return SkyObjectsTask(schema=schema, config=config), schema


def make_mask(width: int = 201, height: int = 181, x0: int = 5, y0: int = 4) -> Mask:
    return Mask(schema=make_mask_schema(), bbox=Box.factory[y0 : y0 + height, x0 : x0 + width])


def empty_catalog(schema: Schema, n: int = 0) -> SourceCatalog:
    catalog = SourceCatalog(schema, n, footprints=Footprints.empty(n))
    catalog["id"] = np.arange(1, n + 1)
    return catalog


def disc_pixels(x: int, y: int, radius: int) -> set[tuple[int, int]]:
    reach = range(-radius, radius + 1)
    return {(x + dx, y + dy) for dx in reach for dy in reach if dx * dx + dy * dy <= radius * radius}


def test_positions_test_vector():
    # Spec 14: seed 0, corners (9, 9)-(191, 171).
    x, y = sky_positions(4, seed=0, x_limits=(9, 191), y_limits=(9, 171))
    assert x.tolist() == [27, 118, 72, 163]
    assert y.tolist() == [17, 125, 71, 35]


def test_positions_depend_on_the_seed_and_accept_large_seeds():
    one = sky_positions(20, seed=2**60 + 1, x_limits=(0, 999), y_limits=(0, 999))
    two = sky_positions(20, seed=2**60 + 2, x_limits=(0, 999), y_limits=(0, 999))
    assert not np.array_equal(one, two)


def test_rows_follow_the_sources():
    task, schema = make_task(nSources=5)
    sources = empty_catalog(schema, 3)
    ids = IdGenerator(catalog_id=7, counter_bits=20)
    sources["id"] = ids.row_ids(3)
    result = task.run(make_mask(), 7, sources, id_generator=ids)
    assert len(result) == 8
    assert len(sources) == 3
    assert result["id"].tolist() == ids.row_ids(8).tolist()
    assert result["sky_source"].tolist() == [False] * 3 + [True] * 5
    assert not result["parent"].any()
    assert result.footprints is not None
    assert result.footprints.areas()[3:].tolist() == [197] * 5  # pixels of a circle of radius 8
    assert np.diff(result.footprints.peak_offsets)[3:].tolist() == [1] * 5
    peaks = result.footprints.peaks(3)
    np.testing.assert_allclose(result.footprints.centroids()[3], [peaks.x[0], peaks.y[0]])
    assert peaks.value[0] == 0


def test_sky_sources_keep_clear_of_sources_and_of_each_other():
    task, schema = make_task(nSources=30)
    mask = make_mask(120, 110)
    detected = np.zeros((110, 120), dtype=bool)
    detected[40:70, :50] = True
    mask.set("DETECTED", detected)
    result = task.run(mask, 3, empty_catalog(schema))
    assert 0 < len(result) < 30
    blocked = {(x + 5, y + 4) for y, x in zip(*np.nonzero(detected), strict=True)}
    footprints = result.footprints
    assert footprints is not None
    for row in range(len(result)):
        x, y = int(footprints.peak_x[row]), int(footprints.peak_y[row])
        disc = disc_pixels(x, y, 8)
        assert not disc & blocked
        assert all(5 + 1 <= px < 5 + 119 and 4 + 1 <= py < 4 + 109 for px, py in disc)
        blocked |= {p for q in disc for p in disc_pixels(*q, 8)}


def test_grow_mask_keeps_a_distance():
    mask = make_mask(60, 60, 0, 0)
    point = np.zeros((60, 60), dtype=bool)
    point[30, 30] = True
    mask.set("BAD", point)
    for grow in (0, 6):
        task, _ = make_task(nSources=400, growMask=grow, sourceRadius=2)
        x, y = task.find_positions(mask, 1)
        nearest = np.hypot(x - 30, y - 30).min()
        assert nearest > 2 + grow
    assert nearest < 12


def test_repeatable():
    task, schema = make_task(nSources=20)
    results = [task.run(make_mask(), 99, empty_catalog(schema)) for _ in range(2)]
    assert results[0].footprints == results[1].footprints


@pytest.mark.parametrize("n", [0, 4])
def test_no_sky_sources_wanted(n: int):
    task, schema = make_task(nSources=0)
    sources = empty_catalog(schema, n)
    assert task.run(make_mask(), 1, sources) is sources


@pytest.mark.parametrize("size", [(10, 200), (18, 18)])
def test_no_room(size: tuple[int, int]):
    task, schema = make_task()
    assert len(task.run(make_mask(*size), 1, empty_catalog(schema))) == 0


def test_number_of_trials():
    task, schema = make_task(nTrialSources=2)
    assert len(task.run(make_mask(), 1, empty_catalog(schema))) <= 2


def test_fluxes_of_nothing_are_zero_and_as_wide_as_quoted():
    """All of them together: those whose centroid found a maximum, and so is not flagged, are too bright."""
    task, schema = make_task(nSources=1000)
    config = SingleFrameMeasurementTask.ConfigClass()
    config.doReplaceWithNoise = False
    measurement = SingleFrameMeasurementTask(schema=schema, config=config)
    image = make_visit_image(width=1400, height=1400, sigma=2.0, seed=4)
    sky = task.run(image.mask, 7, empty_catalog(schema))
    assert len(sky) > 600
    measurement.run(sky, image)
    for name in ("base_PsfFlux", "base_CircularApertureFlux_6_0", "base_CircularApertureFlux_9_0"):
        pull = sky[f"{name}_instFlux"] / sky[f"{name}_instFluxErr"]
        assert abs(np.mean(pull)) < 4 / np.sqrt(len(sky))
        assert np.std(pull) == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(sky)))
    flagged = sky["base_PsfFlux_flag"]
    pull = sky["base_PsfFlux_instFlux"] / sky["base_PsfFlux_instFluxErr"]
    assert np.mean(flagged) > 0.85  # 0.95 in the reference's own runs
    assert np.mean(pull[~flagged]) > 0.7
