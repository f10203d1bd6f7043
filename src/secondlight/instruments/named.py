"""Classes of generic cameras by name: ``secondlight.instruments.named.MyCamera``.

A repository stores only the class name of an instrument and the middleware makes the instrument from it
without arguments. So each generic camera has a class here, made when it is first asked for.
"""

from __future__ import annotations

import re as _re
from functools import cache as _cache

from .generic import GenericCamera as _GenericCamera

# Every name without an underscore in front is a camera's, so nothing else here has such a name.


@_cache
def _camera_class(name: str) -> type[_GenericCamera]:
    return type(name, (_GenericCamera,), {"name": name, "__module__": __name__, "__qualname__": name})


def __getattr__(name: str) -> type[_GenericCamera]:
    if not _re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,30}", name):
        raise AttributeError(f"{name} cannot be the name of a camera.")
    return _camera_class(name)
