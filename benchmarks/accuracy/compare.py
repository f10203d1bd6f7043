"""What got better or worse between two results.

A number changed if its distance from the ideal changed by more than the standard error of the difference of
two independent estimates. Results of the same scene share their noise, so real changes are seen well below
that; a smaller limit can be asked for.
"""

from __future__ import annotations

__all__ = ("Change", "changes", "print_changes")

import dataclasses
import math
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from .numbers import Number, Sense

_SAME = 1e-5
"""Relative differences that rounding makes."""

_NEGLIGIBLE = 0.02
"""Relative differences that do not count where no standard error is known."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A number before and after.

    Parameters
    ----------
    old, new
        The number before and after.
    """

    old: Number
    new: Number

    @property
    def difference(self) -> float:
        """How much worse it became; negative if it became better."""
        return self.new.badness - self.old.badness

    @property
    def significance(self) -> float:
        """The difference over its standard error; infinite if no error is known, but nearly the same is 0."""
        scale = max(abs(self.old.value), abs(self.new.value))
        error = math.hypot(self.old.error or 0.0, self.new.error or 0.0)
        if abs(self.difference) <= (_SAME if error > 0 else _NEGLIGIBLE) * scale:
            return 0.0
        return self.difference / error if error > 0 else math.copysign(math.inf, self.difference)


def changes(
    old: Mapping[str, Number], new: Mapping[str, Number], *, sigmas: float = 1.0
) -> tuple[list[Change], list[Change]]:
    """Return what is better and what is worse, the most significant first.

    Parameters
    ----------
    old, new
        Numbers by key; those that only one of them has are passed over.
    sigmas
        Smallest significance that counts.
    """
    both = [Change(old[key], new[key]) for key in old if key in new and new[key].sense is not Sense.NONE]
    changed = sorted((c for c in both if abs(c.significance) >= sigmas), key=lambda c: -abs(c.significance))
    better = [c for c in changed if c.significance < 0]
    return better, [c for c in changed if c.significance > 0]


def print_changes(
    old: Mapping[str, Number],
    new: Mapping[str, Number],
    *,
    sigmas: float = 1.0,
    most: int = 40,
    console: Console | None = None,
) -> None:
    """Print tables of what is better and what is worse.

    Parameters
    ----------
    old, new, sigmas
        As of `changes`.
    most
        Longest table.
    console
        Where to print.
    """
    console = console or Console()
    better, worse = changes(old, new, sigmas=sigmas)
    for title, part, style in (("Better", better, "green"), ("Worse", worse, "red")):
        if part:
            console.print(_table(f"{title}: {len(part)}", part[:most], style))
    for title, keys in (("gone", old.keys() - new.keys()), ("new", new.keys() - old.keys())):
        if keys:
            console.print(f"{len(keys)} numbers are {title}: {_some(keys)}")
    common = old.keys() & new.keys()
    console.print(
        f"{len(common)} numbers: {len(better)} better and {len(worse)} worse by at least {sigmas:g} sigma."
    )


def _some(keys: Iterable[str], most: int = 5) -> str:
    ordered = sorted(keys)
    return ", ".join(ordered[:most]) + (", ..." if len(ordered) > most else "")


def _table(title: str, part: list[Change], style: str) -> Table:
    table = Table(title=title, title_style=f"bold {style}")
    table.add_column("number", overflow="fold")
    for heading in ("before", "after", "should be", "sigmas"):
        table.add_column(heading, justify="right")
    for change in part:
        table.add_row(
            change.new.key,
            _with_error(change.old),
            _with_error(change.new),
            _ideal(change.new),
            f"{change.significance:+.1f}",
        )
    return table


def _with_error(number: Number) -> str:
    error = "" if number.error is None else f" ± {number.error:.2g}"
    return f"{number.value:.4g}{error} {number.unit}".rstrip()


def _ideal(number: Number) -> str:
    return f"{number.target:g}" if number.sense is Sense.TARGET else str(number.sense)
