"""The bill as a table."""

from __future__ import annotations

__all__ = ("BAR_GB", "BAR_SCENE", "BAR_SECONDS", "markdown", "totals")

from collections.abc import Iterator, Mapping
from typing import Any

from .quantum import BUTLER, EXECUTOR, IMPORTS, INTERPRETER, MAKE, REST, START

BAR_SCENE, BAR_SECONDS, BAR_GB = "ccd", 20.0, 1.5
"""What the two tasks are to cost at most, on which scene."""

REFERENCE_SECONDS, REFERENCE_GB = 121.0, 1.75
"""What the reference publishes for an average detector (RTN-109)."""

_GROUPS = {
    "start-up: interpreter, imports": (INTERPRETER, IMPORTS),
    "start-up: Butler, quantum graph, task": (BUTLER, START, MAKE),
    "executor: log, metadata": (EXECUTOR,),
    "the rest of the task": (REST,),
}
_LEAST_SECONDS = 0.02


def totals(tasks: Mapping[str, Any], run: str) -> tuple[float, float]:
    """Return the seconds of all tasks and the peak memory (GB) of the largest.

    Parameters
    ----------
    tasks
        Results by task.
    run
        ``cold`` or ``warm``.
    """
    seconds = sum(sum(task[run]["seconds"].values()) for task in tasks.values())
    return seconds, max(max(task[run]["peak_gb"].values(), default=0.0) for task in tasks.values())


def markdown(bill: Mapping[str, Any]) -> str:
    """Return the bill of all scenes as Markdown tables."""
    lines = [
        "# The bill",
        "",
        f"Made by `{bill['command']}`; what the columns mean is in [README](../README.md).",
        "",
    ]
    for scene, result in bill["scenes"].items():
        rows = {name: n for runs in result["tasks"].values() for name, n in runs["cold"]["rows"].items()}
        sources, stars = rows["sources_detector"], rows["finalized_src_detector_table"]
        lines += [f"## {scene}: {sources} rows of sources, {stars} stars for the PSF", ""]
        lines += [
            *_summary(result, has_bar=scene == BAR_SCENE),
            "",
            *_steps(result["tasks"]),
            "",
            *_sizes(result["tasks"]),
            "",
        ]
    return "\n".join(lines)


def _summary(result: Mapping[str, Any], *, has_bar: bool) -> Iterator[str]:
    yield "| | user CPU, s | peak memory, GB |"
    yield "| --- | ---: | ---: |"
    for run, what in (("cold", "own process, start-up included"), ("warm", "again in the same process")):
        for task, measured in result["tasks"].items():
            seconds, peak = totals({task: measured}, run)
            yield f"| `{task}`, {what} | {seconds:.1f} | {peak:.2f} |"
        seconds, peak = totals(result["tasks"], run)
        yield f"| **both**, {what} | **{seconds:.1f}** | **{peak:.2f}** |"
    if has_bar:
        yield f"| the bar | {BAR_SECONDS:.0f} | {BAR_GB:.2f} |"
        yield f"| the reference, as published | {REFERENCE_SECONDS:.0f} | {REFERENCE_GB:.2f} |"
    peer = result["peer"]
    if "missing" in peer:
        yield f"| Source Extractor and PSFEx: {peer['missing']} | | |"
    else:
        peak = max(peer["peak_gb"].values(), default=float("nan"))
        what = f"Source Extractor (twice) and PSFEx, {peer['sources']} sources"
        yield f"| {what} | {peer['seconds']:.1f} | {peak:.2f} |"


def _steps(tasks: Mapping[str, Any]) -> Iterator[str]:
    yield "| task | step | cold, s | warm, s | peak, GB |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for task, runs in tasks.items():
        cold, warm, peaks = runs["cold"]["seconds"], runs["warm"]["seconds"], runs["cold"]["peak_gb"]
        grouped = {name for names in _GROUPS.values() for name in names}
        steps = _GROUPS | {name: (name,) for name in cold if name not in grouped}
        small = [0.0, 0.0]
        for step, names in steps.items():
            seconds = [sum(run.get(name, 0.0) for name in names) for run in (cold, warm)]
            if max(seconds) < _LEAST_SECONDS:
                small = [a + b for a, b in zip(small, seconds, strict=True)]
                continue
            peak = max(peaks.get(name, 0.0) for name in names)
            yield f"| `{task}` | {step} | {seconds[0]:.2f} | {seconds[1]:.2f} | {peak:.2f} |"
        yield f"| `{task}` | smaller steps | {small[0]:.2f} | {small[1]:.2f} | |"


def _sizes(tasks: Mapping[str, Any]) -> Iterator[str]:
    yield "| output | MB |"
    yield "| --- | ---: |"
    for runs in tasks.values():
        for name, size in runs["cold"]["megabytes"].items():
            if not name.endswith(("_log", "_metadata")):
                yield f"| `{name}` | {size:.2f} |"
