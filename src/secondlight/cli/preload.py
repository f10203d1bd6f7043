"""What workers have in common, made ready once: importing this module makes a process ready to fork them.

The fork server imports it (`secondlight.cli.workers.prepare_workers`); nothing else should.
"""

from __future__ import annotations

__all__ = ("MIDDLEWARE",)

import contextlib
import gc
import importlib
import logging
import pkgutil

from .. import tasks
from .workers import load_kernels

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


def _prepare() -> None:
    own = (module.name for module in pkgutil.iter_modules(tasks.__path__, f"{tasks.__name__}."))
    for name in (*MIDDLEWARE, *own):
        # Workers import what they need anyway, and fail for good reason if it is not there.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    try:
        load_kernels()
    except Exception:  # Any error here would end the fork server; without kernels it is just slower.
        _LOG.warning("Compiled kernels could not be loaded before they are needed.", exc_info=True)
    # What is here stays: workers need not look through it for garbage, and share its memory.
    gc.collect()
    gc.freeze()


_prepare()
