"""User CPU seconds and memory of steps.  Imports next to nothing, so that imports can be measured too."""

from __future__ import annotations

__all__ = ("Meter", "peak_memory", "time_subtasks", "user_seconds")

import contextlib
import functools
import gc
import math
import resource
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsst.pipe.base import Task


def user_seconds() -> float:
    """Return the user CPU time of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def peak_memory[T](step: Callable[[], T]) -> tuple[float, float, T]:
    """Return the resident memory before and the highest during a step, GB (NaN: unknown), and its result."""
    gc.collect()
    if not _forget_peak():
        return math.nan, math.nan, step()
    before = _status("VmRSS")
    result = step()
    return before, _status("VmHWM"), result


class Meter:
    """User CPU seconds and peak memory (GB) of steps by name, each without the steps within it.

    Peaks are empty where the system cannot tell them.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0
        self._knows_memory = False

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what is done within a context; steps of one name add up."""
        self._account()
        self._open.append(name)
        try:
            yield
        finally:
            self._account()
            self._open.pop()

    def measured[**P, T](self, name: str, work: Callable[P, T]) -> Callable[P, T]:
        """Return a function that is measured as a step whenever it is called."""

        @functools.wraps(work)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.step(name):
                return work(*args, **kwargs)

        return wrapper

    def _account(self) -> None:
        """Charge what was used since the last call to the innermost open step."""
        now = user_seconds()
        if self._open:
            name = self._open[-1]
            self.seconds[name] += now - self._since
            if self._knows_memory:
                self.peaks[name] = max(self.peaks.get(name, 0.0), _status("VmHWM"))
        self._since = now
        self._knows_memory = _forget_peak()


def time_subtasks(
    task: Task, names: Iterable[str] | Mapping[str, str], meter: Meter | None = None
) -> dict[str, float]:
    """Make each subtask add the CPU time of its work to the dict that is returned.

    Parameters
    ----------
    task
        The task.
    names
        Names of its subtasks, those that it makes later too; a mapping names the method to time of each,
        which otherwise is ``run``.
    meter
        What measures; its dict is returned.
    """
    methods = names if isinstance(names, Mapping) else dict.fromkeys(names, "run")
    meter = meter or Meter()

    def time(name: str) -> None:
        subtask, method = getattr(task, name), methods[name]
        setattr(subtask, method, meter.measured(name, getattr(subtask, method)))

    make = task.makeSubtask

    def make_and_time(name: str, **kwargs: Any) -> None:
        make(name, **kwargs)
        if name in methods:
            time(name)

    task.makeSubtask = make_and_time  # type: ignore[method-assign]
    for name in methods:
        if hasattr(task, name):
            time(name)
    return meter.seconds


def _forget_peak() -> bool:
    """Let the peak memory begin anew; tell whether the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e6
