"""Every column of whole runs: as near to the reference as to other runs, or different for a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from secondlight.measurement.noise_replacement import NoiseReplacement, NoiseReplacerConfig

from .end_to_end import SEEDS, run_end_to_end
from .end_to_end_columns import cause_of, explained, spreads, with_rules_explained
from .yardstick import Columns, Spread, kinds_of, measure_spread

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
    bad = [s for s in _different(data_dir, name, reference_rules=True) if with_rules_explained(s) is None]
    assert not bad, "\n".join(map(_line, bad))


def test_sources_without_siblings(data_dir: Path, name: str) -> None:
    """Blends and the drawing of Gaussians apart, no correction to pixels is needed to explain anything."""
    different = _different(data_dir, name, reference_rules=False)
    alone = [s for s in different if s.kind != "blended" and with_rules_explained(s) is None]
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
    """Noise of the same mean and scatter replaces sources; with more of it the yardstick would be longer."""
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


# Where the noise of neighbours is larger than the changes below, or there is nothing to change.
NOISY = r"base_CircularApertureFlux_(35|50|70)_0_\w+|base_LocalBackground_\w+|deblend_\w+|\w+Kron\w+_flag_\w+"


def _scaled(name: str, values: np.ndarray, reference: Columns) -> np.ndarray | None:
    return 1.004 * values if re.search(r"_(instFlux|instFluxErr|flux|xx|yy)$", name) else None


def _shifted(name: str, values: np.ndarray, reference: Columns) -> np.ndarray | None:
    if name.endswith(("_x", "_y")) and values.dtype.kind == "f":
        return values + 0.002
    error = np.asarray(reference.get(f"{name}Err", np.nan))
    return values + 0.15 * error if name.endswith("_instFlux") and error.ndim else None


def _flagged(name: str, values: np.ndarray, reference: Columns) -> np.ndarray | None:
    changed = np.random.default_rng(7).random(len(values)) < 0.03
    return values ^ changed if values.dtype.kind == "b" else None


@pytest.mark.parametrize("change", [_scaled, _shifted, _flagged])
def test_small_changes_are_seen(data_dir: Path, change: Callable[..., np.ndarray | None]) -> None:
    """Fluxes and moments off by 0.4 %, fluxes by 0.15 errors, positions by 0.002 pixels, 3 % of flags."""
    runs = [run_end_to_end(data_dir, "B", seed) for seed in SEEDS]
    reference = dict(runs[0].pack.sources.to_astropy().items())
    tables = [dict(run.sources.items()) for run in runs]
    rows = kinds_of(reference, tables[0])["alone"]
    before = spreads(data_dir, "B", reference_rules=False)
    names = [name for kind, name in before if kind == "alone" and before[kind, name].in_parity]
    seen, unseen = [], []
    for name in names:
        changed = [change(name, np.asarray(table[name]), reference) for table in tables]
        if re.fullmatch(NOISY, name) or changed[0] is None:
            continue
        (found,) = measure_spread([{**t, name: c} for t, c in zip(tables, changed, strict=True)],
                                  reference, [name], "alone", rows)  # fmt: skip
        (unseen if found.in_parity else seen).append(found)
    assert len(seen) > 10
    assert not unseen, "\n".join(map(_line, unseen))
