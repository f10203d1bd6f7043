"""Every column of whole runs: as near to the reference as to other runs, or different for a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secondlight.measurement.noise_replacement import NoiseReplacement, NoiseReplacerConfig

from .end_to_end import SEEDS, run_end_to_end
from .end_to_end_columns import cause_of, explained, spreads, with_rules_explained
from .yardstick import Spread, measure_spread

pytestmark = pytest.mark.realdata


@pytest.fixture(params=["A", "B"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def _line(spread: Spread) -> str:
    return (
        f"{spread.kind} {spread.column}: {spread.agree:.3f} of {spread.rows} agree, {spread.seeds:.3f} "
        f"between seeds, offset {spread.offset:.2f} +- {spread.offset_error:.2f}"
    )


def _different(data_dir: Path, name: str, *, reference_rules: bool) -> list[Spread]:
    found = spreads(data_dir, name, reference_rules=reference_rules)
    return [spread for spread in found.values() if not spread.in_parity]


def test_every_column(data_dir: Path, name: str) -> None:
    bad = [s for s in _different(data_dir, name, reference_rules=False) if explained(name, s) is None]
    assert not bad, "\n".join(map(_line, bad))


def test_every_column_with_the_corrections_taken_back(data_dir: Path, name: str) -> None:
    """What differs by one of the corrections to pixels of sources does so for no other reason."""
    bad = [
        s for s in _different(data_dir, name, reference_rules=True) if with_rules_explained(name, s) is None
    ]
    assert not bad, "\n".join(map(_line, bad))


def test_sources_without_siblings(data_dir: Path, name: str) -> None:
    """Blends and the drawing of Gaussians apart, no correction to pixels is needed to explain anything."""
    different = _different(data_dir, name, reference_rules=False)
    alone = [s for s in different if s.kind != "blended" and with_rules_explained(name, s) is None]
    causes = {cause_of(name, s) for s in alone}
    assert causes == ({"a Gaussian is drawn where the source is"} if name == "A" else set())


def test_the_noise_is_as_large_as_it_says(data_dir: Path, name: str) -> None:
    """Runs with other seeds differ, and in the columns that see neighbours."""
    found = spreads(data_dir, name, reference_rules=False)
    wide, narrow = (found["alone", f"base_CircularApertureFlux_{r}_0_instFlux"].seeds for r in (70, 6))
    assert wide < 0.3
    assert narrow > 0.95
    first, second = (run_end_to_end(data_dir, name, seed).sources for seed in SEEDS[:2])
    assert not np.array_equal(
        first["base_CircularApertureFlux_70_0_instFlux"], second["base_CircularApertureFlux_70_0_instFlux"]
    )


def test_the_noise_is_that_of_the_reference(data_dir: Path, name: str) -> None:
    """Noise of the same mean and scatter replaces sources; with more of it the yardstick would be too long."""
    run = run_end_to_end(data_dir, name, reference_rules=True)
    pack = run.pack
    image = pack.repaired_image()
    config = NoiseReplacerConfig()
    replaced = NoiseReplacement.from_sources(image, run.catalog, config=config, seed=SEEDS[0]).image
    x0, y0 = pack.xy0
    sources = run.catalog.footprints.to_mask(image.bbox.shape, x0=x0, y0=y0)
    ours, theirs = replaced[sources], pack.noise_replaced.values
    print(f"{name}: {ours.mean():.3f} +- {ours.std():.3f}, theirs {theirs.mean():.3f} +- {theirs.std():.3f}")
    error = theirs.std() / np.sqrt(len(ours))
    assert ours.mean() == pytest.approx(theirs.mean(), abs=6 * error)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.01)


@pytest.mark.parametrize("change", ["offset", "scatter", "flags"])
def test_differences_are_seen(change: str) -> None:
    """A bias of a third of the scatter, twice the scatter, or two other flags of a hundred fail."""
    rng = np.random.default_rng(5)
    n = 300
    truth = rng.uniform(100, 1000, n)
    names = ["a_instFlux", "a_flag_edge"]

    def table(offset: float = 0.0, scatter: float = 1.0, flags: int = 0) -> dict[str, np.ndarray]:
        return {
            "a_instFlux": truth + offset + rng.normal(0, scatter, n),
            "a_instFluxErr": np.full(n, 10.0),
            "a_flag": np.zeros(n, dtype=bool),
            "a_flag_edge": np.arange(n) < flags,
        }

    runs = [table() for _ in SEEDS]
    rows = np.ones(n, dtype=bool)
    assert all(s.in_parity for s in measure_spread(runs, table(), names, "alone", rows))
    other = {"offset": table(offset=0.8), "scatter": table(scatter=2.5), "flags": table(flags=6)}[change]
    assert not all(s.in_parity for s in measure_spread(runs, other, names, "alone", rows))
