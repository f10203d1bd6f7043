"""Where an image or table comes from, as plain values in its metadata.

The values are the same whenever the same task does the same work: there is no time, host or path among them.
The Butler records in addition, under keys of its own, what a dataset is and the ids of what it was made from.
"""

from __future__ import annotations

__all__ = ("TABLE_VERSION", "record_provenance")

import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import astropy.table
from lsst.daf.butler import DatasetProvenance
from lsst.pex.config import Config
from lsst.pipe.base import Struct, Task
from lsst.pipe.base.connections import DeferredDatasetRef
from lsst.utils.introspection import get_full_type_name

from .arrow_tables import TableStream
from .source_catalog import SourceCatalog

TABLE_VERSION = "1.0"
"""Version of the published tables: the second number counts additions, the first everything else."""

_PACKAGES = (
    "secondlight",
    "astropy",
    "galsim",
    "lsst-images",
    "lsst-pipe-base",
    "numba",
    "numpy",
    "piff",
    "pyarrow",
    "scipy",
)
_PREFIX = "provenance_"
_REPLACED = ".retarget(target"
_MOST_INPUTS = 50
"""A connection with more datasets than this is recorded by their number; the Butler knows each."""

type _References = Iterable[tuple[str, Any]]


def record_provenance(
    task: Task,
    outputs: Struct | Iterable[Any],
    *,
    inputs: _References | None = None,
    calibration_sources: Mapping[str, str] | None = None,
) -> None:
    """Record in the metadata of outputs what they were made by and from, in place.

    Parameters
    ----------
    task
        What made the outputs.
    outputs
        Images, tables and catalogs, in lists too; what has no metadata is passed over.
    inputs
        Dataset references by connection, as ``inputRefs`` of a quantum.
    calibration_sources
        Where each calibration came from, in words or dataset names.

    Notes
    -----
    Keys: ``provenance_task``, ``provenance_label``, ``provenance_versions`` (of Python and of the packages
    that numbers depend on; JSON), ``provenance_config`` (fields that differ from the defaults of the class,
    as text by name; JSON), ``provenance_config_sha256`` (of all fields), ``provenance_inputs`` (lists of
    ``type``, ``run``, ``id`` and ``data_id`` by connection; JSON), ``provenance_calibration_<name>``, and for
    tables ``provenance_table_version``.
    """
    record = {
        "provenance_task": get_full_type_name(task),
        "provenance_label": task.getName(),
        "provenance_versions": _json(_versions()),
    }
    if isinstance(task.config, Config):
        fields = _fields(task.config)
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        record["provenance_config"] = _json(dict(fields.items() - _defaults(type(task.config)).items()))
        record["provenance_config_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    if inputs is not None:
        record["provenance_inputs"] = _json(dict(_described(inputs)))
    for name, source in (calibration_sources or {}).items():
        record[f"provenance_calibration_{name}"] = source
    for output in _flat(outputs.getDict().values() if isinstance(outputs, Struct) else outputs):
        is_table = isinstance(output, astropy.table.Table | SourceCatalog)
        metadata = getattr(output, "meta" if isinstance(output, astropy.table.Table) else "metadata", None)
        if isinstance(metadata, MutableMapping):
            # What an input brought along would not be true of the output.
            for name in [name for name in metadata if name.startswith(_PREFIX)]:
                del metadata[name]
            if is_table:  # as the Butler does with what it recorded of the input, once it writes
                DatasetProvenance.strip_provenance_from_flat_dict(metadata)
            metadata.update(record | ({"provenance_table_version": TABLE_VERSION} if is_table else {}))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _flat(outputs: Iterable[Any]) -> Iterator[Any]:
    for output in outputs:
        if isinstance(output, TableStream):
            yield output.header
        elif isinstance(output, list | tuple):
            yield from _flat(output)
        else:
            yield output


@functools.cache
def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }


def _fields(config: Config) -> dict[str, str]:
    """Return every field of a configuration, and every replaced class, as text."""
    fields: dict[str, str] = {}
    for line in config.saveToString(skipImports=True).splitlines():
        if not line.startswith("config."):
            continue
        name, _, value = line.removeprefix("config.").partition("=")
        if name.endswith(_REPLACED):
            name, value = name.removesuffix(_REPLACED), value.partition(",")[0]
        fields[name] = value
    return fields


@functools.cache
def _defaults(config_class: type[Config]) -> dict[str, str]:
    return _fields(config_class())


def _described(inputs: _References) -> Iterator[tuple[str, Any]]:
    """Yield name and description of the datasets of each connection."""
    for name, references in inputs:
        listed = references if isinstance(references, list | tuple) else [references]
        if len(listed) > _MOST_INPUTS:
            yield name, {"type": _resolved(listed[0]).datasetType.name, "count": len(listed)}
        else:
            yield name, [_description(_resolved(reference)) for reference in listed]


def _resolved(reference: Any) -> Any:
    return reference.datasetRef if isinstance(reference, DeferredDatasetRef) else reference


def _description(reference: Any) -> dict[str, Any]:
    return {
        "type": reference.datasetType.name,
        "run": reference.run,
        "id": str(reference.id),
        "data_id": dict(reference.dataId.required),
    }
