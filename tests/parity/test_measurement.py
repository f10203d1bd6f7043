"""Every published column of the packs, measured on exactly the pixels that the reference measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .agreement import Agreement, measure_agreement
from .replay import Replayed
from .replay_page import PACKS, replay
from .table import DOCS

pytestmark = pytest.mark.realdata


# Where a correction changes a column: the range of the median ratio of ours to the reference's.
CORRECTED = {
    "base_SdssCentroid_xErr": (0.65, 0.85),
    "base_SdssCentroid_yErr": (0.65, 0.85),
    "base_SdssShape_xxErr": (0.7, 1.0),
    "base_SdssShape_instFluxErr": (0.7, 1.0),
    "base_GaussianFlux_instFluxErr": (0.85, 1.6),
    "ext_photometryKron_KronFlux_instFluxErr": (1.0, 1.3),
    "base_CircularApertureFlux_3_0_instFlux": (0.98, 0.995),
    "base_CircularApertureFlux_3_0_instFluxErr": (0.985, 1.0),
    "base_CompensatedTophatFlux_12_instFlux": (0.999, 1.001),
    "base_CompensatedTophatFlux_12_instFluxErr": (0.99, 1.01),
    "base_LocalWcs_CDMatrix_1_2": (0.999, 1.001),
    "base_LocalWcs_CDMatrix_2_1": (0.999, 1.001),
    "ext_convolved_ConvolvedFlux_1_4_5_instFluxErr": (3.0, 3.6),
    "ext_convolved_ConvolvedFlux_2_kron_instFluxErr": (6.0, 7.0),
    "ext_convolved_ConvolvedFlux_3_kron_instFluxErr": (8.0, 9.0),
    "ext_convolved_ConvolvedFlux_3_3_3_instFlux": (0.997, 1.0),
    "ext_gaap_GaapFlux_1_15x_0_5_instFluxErr": (0.86, 0.92),
    "ext_gaap_GaapFlux_1_15x_3_0_instFluxErr": (0.3, 0.4),
    "ext_gaap_GaapFlux_1_15x_Optimal_instFluxErr": (0.82, 0.89),
    "ext_gaap_GaapFlux_1_15x_PsfFlux_instFluxErr": (0.75, 0.82),
    "modelfit_CModel_exp_objective": (0.98, 1.0),
    "modelfit_CModel_dev_objective": (0.98, 1.0),
    "modelfit_CModel_objective": (0.98, 1.0),
}


@pytest.fixture(scope="module", params=PACKS)
def replayed(request: pytest.FixtureRequest, data_dir: Path) -> Replayed:
    return replay(data_dir, request.param)


@pytest.fixture(scope="module")
def columns(replayed: Replayed) -> list[Agreement]:
    return measure_agreement(replayed)


def test_every_column(replayed: Replayed, columns: list[Agreement]) -> None:
    """At least 99 % of the sources agree in every column that no listed correction touches."""
    for a in columns:
        if not a.good and a.exempt and a.column == a.target and not a.missing:
            print(f"{replayed.name} {a.column:50s} {a.fraction:.4f} {a.blended:.4f}  {a.exempt}")
    bad = [a for a in columns if not a.good and not a.exempt]
    assert not bad, "\n".join(f"{a.column}: {'missing' if a.missing else a}" for a in bad)


def test_size_of_the_corrections(columns: list[Agreement]) -> None:
    for a in columns:
        if a.column in CORRECTED:
            low, high = CORRECTED[a.column]
            assert low <= a.ratio <= high, f"{a.column}: {a.ratio}"


def test_types(replayed: Replayed) -> None:
    """Columns have the types of the reference's, and its units where it tells them."""
    for name in replayed.reference.colnames:
        if name not in replayed.ours.colnames or name == "psf_color_type":
            continue
        ours, theirs = replayed.ours[name], replayed.reference[name]
        assert ours.dtype == theirs.dtype, name
        assert theirs.unit is None or ours.unit == theirs.unit, name


@pytest.mark.parametrize("name", ["A", "B"])
def test_debiased_moments(data_dir: Path, name: str) -> None:
    """Over other noise than the reference's: means and scatter are the same."""
    replayed = replay(data_dir, name)
    ours, theirs = replayed.ours, replayed.reference
    plugin = "ext_shapeHSM_HsmPsfMomentsDebiased"
    ratio = np.asarray(theirs["base_PsfFlux_instFlux"] / theirs["base_PsfFlux_instFluxErr"])
    good = ~np.asarray(ours[f"{plugin}_flag"]) & ~np.asarray(theirs[f"{plugin}_flag"]) & (ratio > 20)
    for column in ("x", "y", "xx", "yy", "xy"):
        a, b = (np.asarray(t[f"{plugin}_{column}"])[good] for t in (ours, theirs))
        shift = (a - b).mean() / (a - b).std() * np.sqrt(good.sum())
        print(f"{name} {column}: {good.sum()} sources, means differ by {shift:.2f} of their error")
        assert abs(shift) < 3.5
        spread = [np.subtract(*np.percentile(v, [84, 16])) for v in (a, b)]
        assert spread[0] == pytest.approx(spread[1], rel=0.25)


def test_the_page_names_every_column(columns: list[Agreement]) -> None:
    page = DOCS["replay"].read_text()
    for a in columns:
        if a.column == a.target and not a.given:
            assert f"| {a.column} |" in page, f"{a.column}: run python -m tests.parity.table"
