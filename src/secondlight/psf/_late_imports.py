"""Packages that are imported when they are used, although another package imports them at once."""

from __future__ import annotations

__all__ = ("import_late",)

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class _LateModule(ModuleType):
    """Stands in for a package until something of it is asked for.

    `importlib.util.LazyLoader` will not do: its modules are loaded by the next ``import`` statement.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def import_late(name: str) -> None:
    """Make ``import name``, wherever it is, cost nothing until something of the package is used.

    Parameters
    ----------
    name
        A top-level package or module; nothing happens if it is not installed, or imported already.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        return
    module = _LateModule(name)
    # What the import system and tools that list modules look at.
    module.__spec__, module.__file__ = spec, spec.origin
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    sys.modules[name] = module
