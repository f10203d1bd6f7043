"""The published sources of all detectors of a visit in one table."""

from __future__ import annotations

__all__ = ("ConsolidateSourceConfig", "ConsolidateSourceConnections", "ConsolidateSourceTask")

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from astropy.table import Table, vstack
from lsst.daf.butler import DeferredDatasetHandle
from lsst.pipe.base import (
    InMemoryDatasetHandle,
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from ..catalog.arrow_tables import TableStream
from ..catalog.provenance import record_provenance
from ..photometry.source_table import check_same_columns

_ID = "sourceId"

type Handle = DeferredDatasetHandle | InMemoryDatasetHandle


class ConsolidateSourceConnections(PipelineTaskConnections, dimensions=("instrument", "visit")):
    """Inputs and outputs of `ConsolidateSourceTask`."""

    inputCatalogs = cT.Input(
        doc="Published sources of each detector.",
        name="source_detector",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    outputCatalog = cT.Output(
        doc="Published sources of the visit, in order of detector.",
        name="source_all",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit"),
    )


class ConsolidateSourceConfig(PipelineTaskConfig, pipelineConnections=ConsolidateSourceConnections):
    """There is nothing to configure."""


class ConsolidateSourceTask(PipelineTask):
    """Stack the sources of the detectors of a visit.

    Detectors without a table are absent.  In a repository one detector at a time is in memory.
    """

    ConfigClass: ClassVar[type[PipelineTaskConfig]] = ConsolidateSourceConfig
    _DefaultName: ClassVar[str] = "consolidateSource"
    config: ConsolidateSourceConfig

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Write the tables of the detectors one after the other."""
        handles = {int(handle.dataId["detector"]): handle for handle in butlerQC.get(inputRefs.inputCatalogs)}
        visit = int(outputRefs.outputCatalog.dataId["visit"])
        stream = self.stream(inputCatalogs=handles, visit=visit)
        record_provenance(self, [stream.header], inputs=inputRefs)
        try:
            butlerQC.put(stream, outputRefs.outputCatalog)
        except TypeError:
            self.log.info("Visit %d: the repository takes whole tables only; all are in memory.", visit)
            table = self.run(inputCatalogs=handles, visit=visit).outputCatalog
            record_provenance(self, [table], inputs=inputRefs)
            butlerQC.put(table, outputRefs.outputCatalog)

    def run(self, *, inputCatalogs: Mapping[int, Table | Handle | None], visit: int) -> Struct:
        """Stack the tables of the detectors in memory.

        Parameters
        ----------
        inputCatalogs
            Table of each detector, or a handle that reads it, by detector; detectors without one may be there
            with `None`.
        visit
            Visit id.

        Returns
        -------
        struct
            ``outputCatalog``: the sources of the visit, in order of detector.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if no detector has a table.
        ValueError
            Raised if the tables of two detectors have different columns, or a source id appears twice.
        """
        stream = self.stream(inputCatalogs=inputCatalogs, visit=visit)
        table = vstack([stream.header, *stream.pieces], join_type="exact", metadata_conflicts="silent")
        table.meta = dict(stream.header.meta)
        return Struct(outputCatalog=table)

    def stream(self, *, inputCatalogs: Mapping[int, Table | Handle | None], visit: int) -> TableStream:
        """Return the sources of the visit piece by piece; errors come when the pieces are taken.

        Parameters and errors are those of `run`.
        """
        present = {detector: item for detector, item in inputCatalogs.items() if item is not None}
        if absent := sorted(set(inputCatalogs) - set(present)):
            self.log.warning("Visit %d: no sources of detectors %s.", visit, ", ".join(map(str, absent)))
        if not present:
            raise NoWorkFound(f"Visit {visit}: no detector has a source table.")
        detectors = sorted(present)
        first = _read(present[detectors[0]])
        header = first[:0].copy()
        header.meta.clear()  # it tells of one detector
        rest = (_read(present[detector]) for detector in detectors[1:])
        tables = zip(detectors, itertools.chain([first], rest), strict=True)
        record_provenance(self, [header])
        return TableStream(header, self._pieces(tables, header, detectors[0], visit))

    def _pieces(
        self, tables: Iterable[tuple[int, Table]], header: Table, first_detector: int, visit: int
    ) -> Iterator[Table]:
        """Yield the tables of the detectors, checked."""
        if _ID not in header.colnames:
            raise ValueError(f"Visit {visit}: the sources of detector {first_detector} have no column {_ID}.")
        ids: dict[int, np.ndarray] = {}
        for detector, table in tables:
            try:
                check_same_columns(table, header, detector, first_detector)
            except ValueError as error:
                raise ValueError(f"Visit {visit}: {error}") from error
            ids[detector] = np.array(table[_ID])
            yield table
        _check_unique(ids, visit)
        n_sources = sum(len(part) for part in ids.values())
        self.log.info("Visit %d: %d sources of %d detectors.", visit, n_sources, len(ids))


def _read(item: Any) -> Table:
    return item if isinstance(item, Table) else item.get()


def _check_unique(ids: Mapping[int, np.ndarray], visit: int) -> None:
    """Refuse source ids that appear twice, and say in which detectors."""
    every = np.concatenate(list(ids.values()))
    values, counts = np.unique(every, return_counts=True)
    if not (repeated := values[counts > 1]).size:
        return
    where = np.repeat(list(ids), [len(part) for part in ids.values()])
    detectors = np.unique(where[np.isin(every, repeated)])
    raise ValueError(
        f"Visit {visit}: {len(repeated)} source ids appear more than once, in detectors "
        f"{', '.join(map(str, detectors))}; the first is {repeated[0]}."
    )
