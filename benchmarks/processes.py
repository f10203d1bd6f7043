"""Time and memory of a command and of all processes it starts, however they are related."""

from __future__ import annotations

__all__ = ("Usage", "measure", "tool")

import contextlib
import ctypes
import dataclasses
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a command used, seconds and GB.

    Parameters
    ----------
    wall
        From start to end.
    user, system
        CPU time of all its processes.
    others
        CPU time of other programs meanwhile.
    peaks
        Highest resident memory of each process, shared memory counted in each.
    together
        Highest memory of all processes at one time, shared memory counted once.
    """

    wall: float
    user: float
    system: float
    others: float
    peaks: dict[int, float]
    together: float

    @property
    def cpu(self) -> float:
        """CPU time of all processes."""
        return self.user + self.system


def tool(name: str) -> str:
    """Return the path of a command installed beside the interpreter."""
    return str(Path(sys.executable).with_name(name))


def measure(command: Sequence[str | Path]) -> Usage:
    """Run a command to the end of its last process.

    Raises
    ------
    RuntimeError
        Raised if it fails; the message holds the end of what it wrote.
    """
    # Processes whose parent has ended become children of this one, which then learns what they used.
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)
    before, busy, start = resource.getrusage(resource.RUSAGE_CHILDREN), _busy(), time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with _watching(process.pid) as memory:
        said, _ = process.communicate()
    wall = time.perf_counter() - start
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{said[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    others = max(_busy() - busy - user - system, 0.0)
    return Usage(wall, user, system, others, memory.peaks, memory.together)


class _Memory:
    """The memory of all processes of a session, looked at now and then, for it costs time to look."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.peaks: dict[int, float] = {}
        self.together = 0.0
        self.ended = threading.Event()

    def watch(self) -> None:
        looks = 0
        while not self.ended.wait(0.3):
            members = list(self._members())
            for pid in members:
                with contextlib.suppress(OSError, StopIteration):
                    self.peaks[pid] = _gigabytes(f"/proc/{pid}/status", "VmHWM")
            # To add up what is shared takes the system some time.
            if looks % 10 == 0:
                self.together = max(self.together, sum(map(_share, members)))
            looks += 1

    def _members(self) -> Iterator[int]:
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(folder.name)
                if os.getsid(pid) == self.session:
                    yield pid


@contextlib.contextmanager
def _watching(session: int) -> Iterator[_Memory]:
    memory = _Memory(session)
    watcher = threading.Thread(target=memory.watch)
    watcher.start()
    try:
        yield memory
    finally:
        memory.ended.set()
        watcher.join()


def _share(pid: int) -> float:
    """Return the memory of a process, with its share of what it has in common with others."""
    try:
        return _gigabytes(f"/proc/{pid}/smaps_rollup", "Pss")
    except (OSError, StopIteration):
        return 0.0


def _gigabytes(path: str, field: str) -> float:
    lines = Path(path).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1e6


def _busy() -> float:
    """Return the seconds that all processors together have been busy."""
    user, nice, system, _, _, interrupts, soft_interrupts, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + interrupts + soft_interrupts) / _TICKS
