"""Butler formatters of the types that are stored as Parquet."""

from __future__ import annotations

__all__ = ("ArrowFormatter",)

from typing import Any, ClassVar

import pyarrow.parquet as pq
from lsst.daf.butler import FormatterV2
from lsst.resources import ResourcePath


class ArrowFormatter(FormatterV2):
    """Stores any class with ``to_arrow()`` and ``from_arrow(table)`` as one Parquet file."""

    default_extension: ClassVar[str] = ".parq"
    can_read_from_local_file: ClassVar[bool] = True

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Write the dataset to a local file."""
        pq.write_table(in_memory_dataset.to_arrow(), uri.ospath, compression="zstd", compression_level=1)

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read the dataset from a local file."""
        pytype: Any = self.file_descriptor.storageClass.pytype
        return pytype.from_arrow(pq.read_table(path))
