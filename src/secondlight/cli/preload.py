"""What workers have in common, made ready once: importing this module makes a process ready to fork them.

The fork server imports it (`secondlight.cli.workers.prepare_workers`); nothing else should.
"""

from __future__ import annotations

__all__ = ("MIDDLEWARE",)

import contextlib
import gc
import importlib
import logging
import os
import pkgutil

from lsst.daf.butler import Butler

from .. import tasks
from .workers import REPOSITORY, keep_freed_memory, load_kernels

MIDDLEWARE = (
    "lsst.ctrl.mpexec",
    "lsst.daf.butler.datastores.fileDatastore",
    "lsst.daf.butler.delegates.arrowtable",
    "lsst.daf.butler.direct_butler",
    "lsst.daf.butler.formatters.json",
    "lsst.daf.butler.formatters.logs",
    "lsst.daf.butler.formatters.parquet",
    "lsst.daf.butler.queries.overlaps",
    "lsst.daf.butler.registry.attributes",
    "lsst.daf.butler.registry.collections.synthIntKey",
    "lsst.daf.butler.registry.databases.sqlite",
    "lsst.daf.butler.registry.datasets.byDimensions",
    "lsst.daf.butler.registry.dimensions.static",
    "lsst.images.formatters",
    "lsst.pipe.base.formatters.pexConfig",
    "lsst.resources.http",
    "astropy.io.misc.yaml",
    "astropy.units.format.cds_parsetab",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "secondlight.catalog.formatters",
    "secondlight.instruments.formatters",
)
"""Modules that the execution of a quantum imports when it comes to need them."""

_LOG = logging.getLogger(__name__)


def _open_repository() -> None:
    """Open the repository once; what it takes to know its dimensions and settings is kept."""
    if repository := os.environ.get(REPOSITORY):
        Butler.from_config(repository).close()


def _prepare() -> None:
    own = (module.name for module in pkgutil.iter_modules(tasks.__path__, f"{tasks.__name__}."))
    for name in (*MIDDLEWARE, *own):
        # Workers import what they need anyway, and fail for good reason if it is not there.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # Any error here would end the fork server, and the run; without these two it is just slower.
    for step in (load_kernels, _open_repository):
        try:
            step()
        except Exception:
            _LOG.warning("Workers have to make more ready themselves: %s failed.", step, exc_info=True)
    keep_freed_memory()
    # What is here stays: workers need not look through it for garbage, and share its memory.
    gc.collect()
    gc.freeze()


_prepare()
