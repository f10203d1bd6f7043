"""GAaP and convolved fluxes against those of the reference, before aperture corrections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secondlight.measurement.plugins.convolved_flux import ConvolvedFluxConfig
from secondlight.measurement.plugins.gaap_flux import GaapFluxConfig

from .pack import FinalizePack, load_finalize_pack
from .replay import Replayed
from .replay_page import replay

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

CONVOLVED = ConvolvedFluxConfig()
CONVOLVED.seeing.append(8.0)
GAAP = GaapFluxConfig()
GAAP.sigmas = [0.5, 0.7, 1.0, 1.5, 2.5, 3.0]
GAAP.doPsfPhotometry = True

# The reference does not shift small tables of coefficients: what its fluxes are too large by.
SMALL_TABLE = {f"ext_convolved_ConvolvedFlux_{k}_3_3": 0.05 for k in range(4)}
# Ratio of the errors, which know correlated noise (convolved) and the variance of every pixel (GAaP) here.
ERRORS = {
    "ext_convolved_ConvolvedFlux_0_4_5": (0.999, 1.001),
    "ext_convolved_ConvolvedFlux_0_kron": (0.999, 1.001),
    "ext_convolved_ConvolvedFlux_1_4_5": (2.4, 4.2),
    "ext_convolved_ConvolvedFlux_3_kron": (7.5, 9.5),
    "ext_gaap_GaapFlux_1_15x_0_5": (0.8, 1.0),
    "ext_gaap_GaapFlux_1_15x_1_0": (0.5, 0.75),
    "ext_gaap_GaapFlux_1_15x_3_0": (0.25, 0.6),
    "ext_gaap_GaapFlux_1_15x_Optimal": (0.8, 1.0),
}


@pytest.fixture(scope="module")
def pack(data_dir: Path) -> FinalizePack:
    return load_finalize_pack(data_dir)


@pytest.fixture(scope="module")
def replayed(data_dir: Path) -> Replayed:
    return replay(data_dir, "final")


def uncorrected(
    replayed: Replayed, pack: FinalizePack, column: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return a column of ours and of the reference without the aperture correction of a flux."""
    x, y = (np.asarray(replayed.reference[f"slot_Centroid_{axis}"], dtype=float) for axis in "xy")
    theirs = pack.final_aperture_corrections[f"{name}_instFlux"](x=x, y=y)
    ours = np.asarray(replayed.ours[f"{name}_apCorr"])
    return np.asarray(replayed.ours[column]) / ours, np.asarray(replayed.reference[column]) / theirs


@pytest.mark.parametrize("name", [*CONVOLVED.getAllResultNames(), *GAAP.getAllGaapResultNames()])
def test_fluxes_and_errors(replayed: Replayed, pack: FinalizePack, name: str) -> None:
    """Stars agree to 1e-4, or 0.1 of the error (asked for: 1 % or 0.1 of the error of 95 %)."""
    ours, theirs = uncorrected(replayed, pack, f"{name}_instFlux", name)
    error, their_error = uncorrected(replayed, pack, f"{name}_instFluxErr", name)
    assert len(ours) == 71
    limit = SMALL_TABLE.get(name, 1e-4)
    agree = (np.abs(ours / theirs - 1) < limit) | (np.abs(ours - theirs) < 0.1 * their_error)
    print(f"{name}: {np.median(ours / theirs) - 1:.1e}, errors {np.median(error / their_error):.3f}")
    assert agree.mean() >= 0.95
    if name in SMALL_TABLE:
        assert np.median(ours / theirs) < 0.99
    if name in ERRORS:
        low, high = np.percentile(error / their_error, [5, 95])
        assert ERRORS[name][0] < low <= high < ERRORS[name][1]


def test_flags_and_shapes(replayed: Replayed) -> None:
    """All flags are equal; so are the seeing and the moments of the optimal aperture."""
    columns = [n for n in replayed.reference.colnames if n.startswith(("ext_gaap_", "ext_convolved_"))]
    flags = [
        n for n in columns if np.asarray(replayed.reference[n]).dtype == bool and "badCentroid_" not in n
    ]
    assert len(flags) > 90
    for name in flags:
        np.testing.assert_array_equal(replayed.ours[name], replayed.reference[name], err_msg=name)
    for name in ("ext_convolved_ConvolvedFlux_seeing", *(n for n in columns if "OptimalShape" in n)):
        np.testing.assert_allclose(replayed.ours[name], replayed.reference[name], rtol=1e-5, atol=1e-4)
