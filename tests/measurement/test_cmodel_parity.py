"""Composite models of the parity pack, on the pixels and with the PSF approximation of the reference."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.modelfit.config import CModelConfig
from secondlight.measurement.task import SingleFrameMeasurementTask
from tests.parity.pack import FinalizePack, load_finalize_pack
from tests.parity.replay import measure_in_order

from .scene import make_config

pytestmark = pytest.mark.realdata

MODEL = "modelfit_CModel"
NAMES = (MODEL, f"{MODEL}_initial", f"{MODEL}_exp", f"{MODEL}_dev")
GIVEN = (
    "modelfit_DoubleShapelet",
    "base_PsfFlux_instFlux",
    "base_PsfFlux_flag",
    "ext_shapeHSM_HsmSourceMoments_",
    "ext_photometryKron_KronFlux_radius",
)
CENTROID = tuple(f"base_SdssCentroid_{suffix}" for suffix in ("x", "y", "flag"))


@pytest.fixture(scope="module")
def pack(data_dir: Path) -> FinalizePack:
    return load_finalize_pack(data_dir)


@pytest.fixture(scope="module")
def ours(pack: FinalizePack) -> SourceCatalog:
    """What we measure, sources in the order of the reference's table."""
    reference, src = pack.finalized_src, pack.src
    row_of = {int(identifier): row for row, identifier in enumerate(src["id"])}
    rows = np.array([row_of[int(identifier)] for identifier in reference["id"]])
    schema = minimal_source_schema()
    columns = {name: np.asarray(src[name])[rows] for name in CENTROID}
    columns |= {n: np.asarray(reference[n]) for n in reference.schema.names if n.startswith(GIVEN)}
    for name, values in columns.items():
        if name in schema:
            continue
        if values.dtype == bool:
            schema.add_flag(name, "given")
        else:
            schema.add(name, values.dtype, "given")
    for slot in ("Centroid", "Shape", "PsfFlux"):
        schema.set_alias(f"slot_{slot}", reference.schema.aliases[f"slot_{slot}"])
    task = SingleFrameMeasurementTask(schema, config=make_config(MODEL))
    catalog = SourceCatalog(schema, len(rows), footprints=src.footprints.take(rows))
    for name, values in (columns | {"id": np.asarray(reference["id"])}).items():
        catalog[name] = values
    catalog["parent"] = src["parent"][rows]
    measure_in_order(task, catalog, pack.exposure(), neighbours=src, noise=pack.noise_replaced)
    return catalog


def uncorrected(pack: FinalizePack, ours: SourceCatalog, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return fluxes and errors of the reference without its aperture corrections."""
    field = pack.final_aperture_corrections[f"{name}_instFlux"]
    factor = np.asarray(field(x=np.asarray(ours["slot_Centroid_x"]), y=np.asarray(ours["slot_Centroid_y"])))
    reference = pack.finalized_src
    return tuple(np.asarray(reference[f"{name}_{c}"]) / factor for c in ("instFlux", "instFluxErr"))  # type: ignore[return-value]


@pytest.mark.parametrize("name", NAMES)
def test_fluxes(pack: FinalizePack, ours: SourceCatalog, name: str) -> None:
    flux, error = uncorrected(pack, ours, name)
    found = np.asarray(ours[f"{name}_instFlux"])
    assert (np.abs(found / flux - 1.0) < 0.01).mean() >= 0.99
    assert abs(np.median((found - flux) / error)) < 0.2
    assert (np.abs(np.asarray(ours[f"{name}_instFluxErr"]) / error - 1.0) < 0.01).mean() >= 0.99
    for column in ("flag", "instFlux_inner"):
        expected = np.asarray(pack.finalized_src[f"{name}_{column}"])
        close = np.isclose(np.asarray(ours[f"{name}_{column}"], dtype=float), expected, rtol=0.01)
        assert close.mean() >= 0.99


@pytest.mark.parametrize("stage", ["initial", "exp", "dev"])
def test_objective_is_not_above_that_of_the_reference(
    pack: FinalizePack, ours: SourceCatalog, stage: str
) -> None:
    name = f"{MODEL}_{stage}_objective"
    difference = np.asarray(ours[name]) - np.asarray(pack.finalized_src[name])
    assert (difference < 0.05).mean() >= 0.95
    assert difference.mean() < 0.01


def test_where_the_models_are(pack: FinalizePack, ours: SourceCatalog) -> None:
    for axis in (0, 1):
        name = f"{MODEL}_exp_fixed_{axis}"
        np.testing.assert_allclose(ours[name], pack.finalized_src[name], atol=1e-8)
    for moment in ("xx", "yy", "xy"):
        name = f"{MODEL}_region_initial_ellipse_{moment}"
        np.testing.assert_allclose(ours[name], pack.finalized_src[name], rtol=1e-9)
        name = f"{MODEL}_region_final_ellipse_{moment}"
        np.testing.assert_allclose(ours[name], pack.finalized_src[name], rtol=0.02, atol=0.1)


def test_flags(pack: FinalizePack, ours: SourceCatalog) -> None:
    """The two flags left out mean something else here: see docs/differences."""
    starts = (f"{MODEL}_flag", *(f"{name}_flag" for name in NAMES[1:]))
    names = [n for n in ours.schema.names if n.startswith(starts)]
    for name in names:
        if not name.endswith(("smallShape", "trSmall")):
            np.testing.assert_array_equal(ours[name], pack.finalized_src[name], err_msg=name)


def test_configuration_is_the_one_of_the_reference(pack: FinalizePack) -> None:
    """Every field of the reference exists and has its default, but for the times, which would not repeat."""
    start = "config.measurement.plugins['modelfit_CModel']."
    lines = (pack.inputs / "finalize_config_values.txt").read_text().splitlines()
    fields = [line.removeprefix(start).split("=", 1) for line in lines if line.startswith(start)]
    assert len(fields) > 100
    for name, value in fields:
        *path, field = name.split(".")
        part = CModelConfig()
        for step in path:
            part = getattr(part, step)
        ours, expected = getattr(part, field), ast.literal_eval(value)
        if isinstance(expected, list):
            ours = list(ours)
        assert ours == expected or field == "doRecordTime", name
