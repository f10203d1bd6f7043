"""The final characterization of the stars of pack B with our own PSF fit and noise."""

from __future__ import annotations

__all__ = ("characterize", "final_columns", "final_spreads")

import functools
from pathlib import Path

import numpy as np
from lsst.pipe.base import Struct

from secondlight.tasks.finalize_characterization import (
    FinalizeCharacterizationDetectorConfig,
    FinalizeCharacterizationDetectorTask,
)

from .agreement import target_of
from .end_to_end import SEEDS
from .pack import FinalizePack, load_finalize_pack
from .yardstick import Spread, measure_spread


@functools.cache
def characterize(data_dir: Path, seed: int = SEEDS[0]) -> Struct:
    """Run the task with one of `SEEDS` for the noise that replaces neighbours; its table is sorted by id."""
    pack = load_finalize_pack(data_dir)
    config = FinalizeCharacterizationDetectorConfig()
    config.measurement.noiseReplacer.noiseSeedMultiplier = seed
    result = FinalizeCharacterizationDetectorTask(config=config).run(
        visit=pack.visit,
        band="r",
        detector=pack.detector,
        isolated_star_cat_dict={tract: pack.isolated_star_cat(tract) for tract in pack.tracts},
        isolated_star_source_dict={tract: pack.isolated_star_sources(tract) for tract in pack.tracts},
        src=pack.src,
        exposure=pack.exposure(),
    )
    result.output_table = result.output_table[np.argsort(result.output_table["id"])]
    return result


def final_columns(pack: FinalizePack) -> list[str]:
    """Return the columns of the reference that do not repeat others."""
    aliases = pack.finalized_src.schema.alias_columns()
    names = pack.finalized_src.to_astropy().colnames
    return [name for name in names if aliases.get(name, target_of(name)) == name]


@functools.cache
def final_spreads(data_dir: Path) -> dict[str, Spread]:
    """Return how the columns of the stars compare; columns that we do not have are left out."""
    pack = load_finalize_pack(data_dir)
    tables = [dict(characterize(data_dir, seed).output_table.items()) for seed in SEEDS]
    reference = pack.finalized_src.to_astropy()
    reference = dict(reference[np.argsort(reference["id"])].items())
    rows = np.ones(len(reference["id"]), dtype=bool)
    names = [name for name in final_columns(pack) if name in tables[0]]
    return {s.column: s for s in measure_spread(tables, reference, names, "alone", rows)}
