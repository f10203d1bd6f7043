"""Worker processes that start with everything in place: modules imported, compiled kernels loaded."""

from __future__ import annotations

__all__ = ("REPOSITORY", "end_with_workers", "keep_freed_memory", "load_kernels", "prepare_workers")

import contextlib
import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from lsst.utils.threads import disable_implicit_threading
from numba.core.dispatcher import Dispatcher

REPOSITORY = "SECONDLIGHT_WORKERS_REPOSITORY"
"""Environment variable with the repository that workers are to open."""

_PRELOAD = "secondlight.cli.preload"

# Parameters of mallopt(3): how much may be free before it is given back, and what size is never kept.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30
_LARGEST_OF_OLD_LIBRARIES = 1 << 25  # older versions refuse a larger _M_MMAP_THRESHOLD


def prepare_workers(repository: str) -> None:
    """Start the process that workers are forked from.

    It imports and loads what workers need while this process goes on, for instance to build a quantum graph.

    Parameters
    ----------
    repository
        Data repository that workers will use.
    """
    # Libraries look at their number of threads when they are imported.
    disable_implicit_threading()
    os.environ[REPOSITORY] = repository
    multiprocessing.set_forkserver_preload([_PRELOAD])
    multiprocessing.forkserver.ensure_running()


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for what comes next, here and in processes forked from this one.

    Otherwise it fetches every large array from the system anew, which clears each of its pages: a fifth of
    the CPU time of the final pass of a large detector.  Where the C library is not GNU's nothing happens.
    """
    with contextlib.suppress(AttributeError, OSError):
        set_option = ctypes.CDLL(None).mallopt
        # Either option alone would stop the library from learning the other by itself: both or none.
        if any(set_option(_M_MMAP_THRESHOLD, size) for size in (_KEPT_BYTES, _LARGEST_OF_OLD_LIBRARIES)):
            set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@contextlib.contextmanager
def end_with_workers() -> Iterator[None]:
    """Within this context, this process ends its workers when it is asked to end by SIGTERM."""

    def end(number: int, _: Any) -> None:
        for worker in multiprocessing.active_children():
            worker.terminate()
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def load_kernels(package: str = "secondlight") -> int:
    """Load the compiled kernels of all imported modules of a package from numba's cache.

    A kernel that others call is a part of those already, so only the outermost ones are loaded, for all types
    of arguments that the cache of this machine has.  What it does not have is compiled when it is first used.

    Parameters
    ----------
    package
        Name of the package.

    Returns
    -------
    int
        How many kernels were loaded, counting one of several types of arguments several times.
    """
    modules = [module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")]
    kernels = {value for module in modules for value in vars(module).values() if _is_cached(value)}
    inner = {called for kernel in kernels for called in _called_by(kernel)}
    return sum(_load(kernel) for kernel in kernels - inner)


def _is_cached(value: Any) -> bool:
    return isinstance(value, Dispatcher) and hasattr(getattr(value, "_cache", None), "_cache_file")


def _called_by(kernel: Any) -> Iterator[Any]:
    """Yield the functions that a kernel names."""
    function = kernel.py_func
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    return (value for value in named if isinstance(value, Dispatcher))


def _load(kernel: Any) -> int:
    """Load a kernel for all types of arguments in the cache, and return how many there are."""
    # Numba has no public way to ask what is in its cache.
    cache = kernel._cache
    machine = kernel.targetctx.codegen()
    keys = [key for key in cache._cache_file._load_index() if key == cache._index_key(key[0], machine)]
    for signature, *_ in keys:
        kernel.compile(signature)
    return len(keys)
