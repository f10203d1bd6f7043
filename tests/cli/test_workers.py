"""Worker processes have what a quantum needs before they begin."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from secondlight.cli import pipeline, workers

KERNELS = """
from numba import njit

@njit(cache=True)
def inner(x):
    return x + 1

@njit(cache=True)
def outer(x):
    return 2 * inner(x)

@njit(cache=True)
def never_called(x):
    return x
"""
USE = "import kernels; assert kernels.outer(1) == 4; assert kernels.outer(1.5) == 5.0"
LOAD = """
import kernels
from secondlight.cli.workers import load_kernels

assert load_kernels("kernels") == 2
assert kernels.outer(1) == 4
assert kernels.outer(1.5) == 5.0
assert sum(kernels.outer.stats.cache_hits.values()) == 2
assert not kernels.outer.stats.cache_misses
"""
PRELOAD = """
import secondlight.cli.preload
import gc, sys
from numba.core.dispatcher import Dispatcher

modules = [module for name, module in sys.modules.items() if name.startswith("secondlight.")]
kernels = {value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)}
assert len(kernels) > 200
assert not any(kernel.stats.cache_misses for kernel in kernels), "kernels were compiled"
assert gc.get_freeze_count() > 100_000
assert "secondlight.tasks.reprocess_visit_image" in sys.modules
assert set(secondlight.cli.preload.MIDDLEWARE) <= set(sys.modules)
"""
FAULTS = """
import resource
import numpy as np
from secondlight.cli.workers import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

each_time = pages()
keep_freed_memory()
pages()
assert pages() < each_time / 10, each_time
"""


def run(code: str, folder: Path) -> None:
    """Run Python code in a folder; it must neither fail nor complain."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_kernels_in_the_cache_are_loaded_for_all_types(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(KERNELS)
    run(USE, tmp_path)
    run(LOAD, tmp_path)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not GNU's")
def test_large_arrays_are_not_fetched_anew_from_the_system(tmp_path: Path) -> None:
    run(FAULTS, tmp_path)


def test_everything_is_in_place_and_nothing_was_compiled(tmp_path: Path) -> None:
    run(PRELOAD, tmp_path)


@pytest.mark.parametrize(("largest", "expected"), [(1 << 40, 1 << 30), (1 << 25, 1 << 25), (0, None)])
def test_c_libraries_that_refuse_to_keep_large_arrays(
    monkeypatch: pytest.MonkeyPatch, largest: int, expected: int | None
) -> None:
    """The size that is kept and what is given back are set together: one alone makes things worse."""
    options: dict[int, int] = {}

    def mallopt(option: int, value: int) -> int:
        accepted = option == -1 or value <= largest
        if accepted:
            options[option] = value
        return int(accepted)

    monkeypatch.setattr(workers.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    workers.keep_freed_memory()
    assert options == ({} if expected is None else {-3: expected, -1: 1 << 30})


def test_workers_are_prepared_for_several_processes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []
    arguments: list[list[str]] = []
    monkeypatch.setattr(pipeline, "prepare_workers", prepared.append)
    monkeypatch.setattr(pipeline, "_has_runs", lambda *_: False)
    monkeypatch.setattr(pipeline.pipetask, "main", lambda args, **_: arguments.append(args))
    for processes in (1, 2):
        pipeline.run_pipeline("repo", pipeline="simulate", inputs="a", output="b", processes=processes)
    assert prepared == ["repo"]
    assert all(words[words.index("--start-method") + 1] == "forkserver" for words in arguments)
