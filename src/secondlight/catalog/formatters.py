"""Butler formatters of the types that are stored as Parquet."""

from __future__ import annotations

__all__ = ("ArrowFormatter", "TableFormatter")

from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Table
from lsst.daf.butler import DatasetProvenance, FormatterV2
from lsst.daf.butler.formatters.parquet import ParquetFormatter
from lsst.resources import ResourcePath

from .arrow_tables import TableStream, arrow_to_table, write_arrow, write_table


class TableFormatter(ParquetFormatter):
    """The Butler's Parquet, with UCDs, smaller files, and metadata of the table that come back.

    Writes astropy tables, also piece by piece as a `TableStream`; anything else is left to the base class.
    """

    def can_accept(self, in_memory_dataset: Any) -> bool:
        """Return whether the dataset is a table of any kind."""
        return isinstance(in_memory_dataset, TableStream) or super().can_accept(in_memory_dataset)

    def add_provenance(self, in_memory_dataset: Any, provenance: DatasetProvenance | None = None) -> Any:
        """Record in the metadata of the table what it is and what it was made from."""
        if isinstance(in_memory_dataset, TableStream):
            super().add_provenance(in_memory_dataset.header, provenance)
            return in_memory_dataset
        return super().add_provenance(in_memory_dataset, provenance)

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Write the dataset to a local file."""
        if isinstance(in_memory_dataset, Table | TableStream):
            write_table(in_memory_dataset, uri.ospath)
        else:
            super().write_local_file(in_memory_dataset, uri)

    def read_from_uri(self, uri: ResourcePath, component: str | None = None, expected_size: int = -1) -> Any:
        """Read the dataset, some columns of it or a component from wherever it is."""
        self._keep_table_metadata()
        return self._as_table(super().read_from_uri(uri, component, expected_size))

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read the dataset, some columns of it or a component from a local file."""
        self._keep_table_metadata()
        return self._as_table(super().read_from_local_file(path, component, expected_size))

    def _keep_table_metadata(self) -> None:
        """Ask the base class for the metadata of the table, which it drops otherwise."""
        descriptor = self.file_descriptor
        descriptor.parameters = {**(descriptor.parameters or {}), "strip_astropy_meta_yaml": False}

    def _as_table(self, result: Any) -> Any:
        pytype: Any = self.file_descriptor.readStorageClass.pytype
        if isinstance(result, pa.Table) and issubclass(pytype, Table):
            return arrow_to_table(result)
        return result


class ArrowFormatter(FormatterV2):
    """Stores any class with ``to_arrow()`` and ``from_arrow(table)`` as one Parquet file."""

    default_extension: ClassVar[str] = ".parq"
    can_read_from_local_file: ClassVar[bool] = True

    def add_provenance(
        self, in_memory_dataset: Any, /, *, provenance: DatasetProvenance | None = None
    ) -> Any:
        """Record in the metadata of the dataset, if it has any, what it is and what it was made from."""
        metadata = getattr(in_memory_dataset, "metadata", None)
        if isinstance(metadata, dict):
            DatasetProvenance.strip_provenance_from_flat_dict(metadata)
            provenance = provenance or DatasetProvenance()
            metadata |= provenance.to_flat_dict(
                self.dataset_ref, prefix="LSST.BUTLER", sep=".", simple_types=True, max_inputs=2000
            )
        return in_memory_dataset

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Write the dataset to a local file."""
        write_arrow(in_memory_dataset.to_arrow(), uri.ospath)

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read the dataset from a local file."""
        pytype: Any = self.file_descriptor.storageClass.pytype
        return pytype.from_arrow(pq.read_table(path))
