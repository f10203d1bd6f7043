"""Summary statistics of whole runs next to the reference's, and why some of them differ."""

from __future__ import annotations

__all__ = ("Statistic", "compare_statistics")

import dataclasses
import functools
import re
from pathlib import Path

import numpy as np

from .end_to_end import SEEDS, run_end_to_end

_RELATIVE = 0.01
_SCATTERS = 4

# Reasons are told in docs/differences; the patterns match whole names.
_CAUSES = {
    r"nPsfStar|psfStar.*|star.*": "PSF stars are matched within 0.2 arcsec, not 11",
    r"psfTraceRadiusDelta|psf\w+ScaledDelta|maxDistToNearestPsf": "positions include the origin of the image",
    r"magLim|effTime": "the packs do not have the reference's made-up detector",
    r"zenithDistance": "the packs do not have the reference's time and place",
}


@dataclasses.dataclass(frozen=True)
class Statistic:
    """One number.

    Parameters
    ----------
    name
        Name; of several numbers with an index.
    reference, ours, with_rules
        Values; ours are means over the seeds, once as they are and once with the reference's rules.
    scatter
        Standard deviation of the latter over the seeds.
    unknown
        Why the reference has none, or one of something else, that no rule brings about.
    """

    name: str
    reference: float
    ours: float
    with_rules: float
    scatter: float
    unknown: str | None

    @property
    def agrees(self) -> bool:
        """Whether ours is within 1 % of the reference's, and known only where that is."""
        return _near(self.ours, self.reference, _RELATIVE * abs(self.reference))

    @property
    def agrees_with_rules(self) -> bool:
        """Whether it is within 1 %, or four times the scatter over the seeds, with the reference's rules."""
        allowed = max(_RELATIVE * abs(self.reference), _SCATTERS * self.scatter)
        return _near(self.with_rules, self.reference, allowed)

    @property
    def cause(self) -> str | None:
        """The listed correction that it may differ by, or `None`."""
        found = (cause for pattern, cause in _CAUSES.items() if re.fullmatch(pattern, self.name))
        return self.unknown or next(found, None)


def _near(ours: float, reference: float, allowed: float) -> bool:
    if np.isnan(reference):
        return bool(np.isnan(ours))
    return bool(abs(ours - reference) <= allowed + 1e-12)


@functools.cache
def compare_statistics(data_dir: Path, name: str) -> tuple[Statistic, ...]:
    """Return all summary statistics of a pack."""
    runs = {
        rules: [run_end_to_end(data_dir, name, seed, reference_rules=rules) for seed in SEEDS]
        for rules in (False, True)
    }
    reference = runs[False][0].pack.summary_stats
    result = []
    for statistic in sorted(set(reference) - {"version"}, key=list(reference).index):
        expected = np.atleast_1d(np.asarray(reference[statistic], dtype=np.float64))
        values = {
            rules: np.array([np.atleast_1d(getattr(run.exposure.summary_stats, statistic)) for run in some])
            for rules, some in runs.items()
        }
        for k, number in enumerate(expected):
            mine, ruled = values[False][:, k].astype(np.float64), values[True][:, k].astype(np.float64)
            label = statistic if len(expected) == 1 else f"{statistic}[{k}]"
            unknown = _unknown(statistic, reference)
            result.append(
                Statistic(label, float(number), mine.mean(), ruled.mean(), float(ruled.std(ddof=1)), unknown)
            )
    return tuple(result)


def _unknown(name: str, reference: dict[str, float]) -> str | None:
    """Return what the packs do not tell about a statistic."""
    if name == "zenithDistance":
        return _CAUSES["zenithDistance"]
    no_band = np.isnan(reference["effTimePsfSigmaScale"])
    return "the reference's image had no band" if no_band and name.startswith("effTime") else None
