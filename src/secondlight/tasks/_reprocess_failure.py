"""How an image tells that its processing failed half-way."""

from __future__ import annotations

__all__ = ("failure_metadata", "without_failure")

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from lsst.pipe.base import AlgorithmError
from lsst.utils.introspection import get_full_type_name

_PREFIX = "failure_"


def failure_metadata(error: AlgorithmError) -> dict[str, str | bool | int | float]:
    """Return the record of a failure as metadata of an image, which are plain values.

    Parameters
    ----------
    error
        What ended the processing.

    Returns
    -------
    metadata
        ``failure_type``, ``failure_message``, and ``failure_<name>`` for every plain value of the error's own
        metadata; numbers that are not finite, which files cannot hold, as text.
    """
    record: dict[str, Any] = {}
    for name, value in (error.metadata or {}).items():
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, float) and not math.isfinite(plain):
            plain = str(plain)
        if isinstance(plain, str | bool | int | float):
            record[f"{_PREFIX}{name}"] = plain
    return record | {f"{_PREFIX}type": get_full_type_name(error), f"{_PREFIX}message": str(error)}


def without_failure(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata without the record of a failure: an image made from one that failed need not fail."""
    return {name: value for name, value in metadata.items() if not name.startswith(_PREFIX)}
