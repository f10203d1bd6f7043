"""Catalogs with round footprints on small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lsst.images import VisitImage

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.task import SingleFrameMeasurementConfig, SingleFrameMeasurementTask


def round_footprints(x: Sequence[float], y: Sequence[float], radius: int = 10) -> Footprints:
    """Return circles about the nearest pixels, each with its peak there."""
    xi = np.floor(np.asarray(x, dtype=float) + 0.5).astype(int)
    yi = np.floor(np.asarray(y, dtype=float) + 0.5).astype(int)
    n = len(xi)
    peaks = Peaks(xi, yi, np.ones(n), np.ones(n), np.arange(n))
    return Footprints.from_circles(xi, yi, radius).with_peaks(np.arange(n + 1), peaks)


def make_config(*plugins: str, **slots: str | None) -> SingleFrameMeasurementConfig:
    """Return a configuration with these plugins; slots not given are None."""
    config = SingleFrameMeasurementConfig()
    config.plugins.names = list(plugins)
    for slot in config.slots.toDict():
        setattr(config.slots, slot, slots.get(slot))
    config.validate()
    return config


def make_catalog(
    schema: Schema, footprints: Footprints, *, parents: Sequence[int] | None = None, **columns: Any
) -> SourceCatalog:
    """Return a catalog with ids 1, 2, 3, ..."""
    catalog = SourceCatalog(schema, len(footprints), footprints=footprints)
    catalog["id"] = np.arange(1, len(footprints) + 1)
    catalog["parent"] = 0 if parents is None else parents
    for name, values in columns.items():
        catalog[name] = values
    return catalog


def fixed_slots() -> Schema:
    """Return a schema with input columns in the centroid and shape slots."""
    schema = minimal_source_schema()
    for name in ("in_x", "in_y"):
        schema.add(name, np.float64, "position", unit="pix")
    for name in ("in_xx", "in_yy", "in_xy"):
        schema.add(name, np.float64, "moment", unit="pix2")
    schema.add_flag("in_flag", "bad input")
    schema.set_alias("slot_Centroid", "in")
    schema.set_alias("slot_Shape", "in")
    return schema


def measure_at(
    exposure: VisitImage,
    plugins: Sequence[str],
    *,
    x: Sequence[float],
    y: Sequence[float],
    moments: tuple[float, float, float] = (4.0, 4.0, 0.0),
    settings: dict[str, dict[str, Any]] | None = None,
    replace: bool = False,
    radius: int = 10,
    flag: bool | Sequence[bool] = False,
) -> SourceCatalog:
    """Measure plugins at given positions and shapes."""
    config = make_config(*plugins)
    config.doReplaceWithNoise = replace
    for name, values in (settings or {}).items():
        config.plugins[name].update(**values)
    schema = fixed_slots()
    task = SingleFrameMeasurementTask(schema, config=config)
    inside = [np.nan_to_num(np.asarray(v, dtype=float), nan=50.0) for v in (x, y)]
    catalog = make_catalog(schema, round_footprints(*inside, radius))
    catalog["in_x"], catalog["in_y"], catalog["in_flag"] = x, y, flag
    catalog["in_xx"], catalog["in_yy"], catalog["in_xy"] = moments
    task.run(catalog, exposure)
    return catalog
