"""The sources of a detector as the public source table has them (spec reprocess 8.3)."""

from __future__ import annotations

__all__ = ("StandardizeSourceConfig", "StandardizeSourceConnections", "StandardizeSourceTask")

from typing import Any, ClassVar

from astropy.table import Table
from lsst.daf.butler import DeferredDatasetHandle
from lsst.pex.config import Field, ListField
from lsst.pipe.base import (
    InMemoryDatasetHandle,
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from ..catalog.provenance import record_provenance
from ..catalog.source_catalog import SourceCatalog
from ..photometry.source_table import CALIBRATION_COLUMNS, make_source_table, published_sources

_DETECTOR = ("instrument", "visit", "detector")


class StandardizeSourceConnections(PipelineTaskConnections, dimensions=_DETECTOR):
    """Inputs and outputs of `StandardizeSourceTask`."""

    inputCatalog = cT.Input(
        doc="Measured sources of the detector; only the columns that are published are read.",
        name="sources_detector",
        storageClass="ArrowAstropy",
        dimensions=_DETECTOR,
        deferLoad=True,
    )
    outputCatalog = cT.Output(
        doc="The same sources under their published names.",
        name="source_detector",
        storageClass="ArrowAstropy",
        dimensions=_DETECTOR,
    )


class StandardizeSourceConfig(PipelineTaskConfig, pipelineConnections=StandardizeSourceConnections):
    """Configuration of `StandardizeSourceTask`."""

    extra_columns = ListField[str](
        doc="Patterns (as of file names) of measured columns to publish beyond those of the public table, as "
        "ext_photometryKron_KronFlux_*; prefixes of their names are shortened.",
        default=[],
    )
    include_calibration_error = Field[bool](
        doc="Whether errors of fluxes in nJy include the uncertainty of the photometric calibration, which "
        "all sources of the detector share.",
        default=False,
    )


class StandardizeSourceTask(PipelineTask):
    """Publish the sources of one detector under the names of the public source table.

    Also runs without a repository: ``StandardizeSourceTask().run(inputCatalog=sources, visit=...)``.
    """

    ConfigClass: ClassVar[type[PipelineTaskConfig]] = StandardizeSourceConfig
    _DefaultName: ClassVar[str] = "standardizeSource"
    config: StandardizeSourceConfig

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the columns that are needed, run, and write the table."""
        data_id = outputRefs.outputCatalog.dataId
        result = self.run(
            inputCatalog=butlerQC.get(inputRefs.inputCatalog),
            visit=int(data_id["visit"]),
            detector=int(data_id["detector"]),
            band=str(data_id["band"]),
            physical_filter=str(data_id["physical_filter"]),
        )
        record_provenance(self, result, inputs=inputRefs)
        butlerQC.put(result, outputRefs)

    def run(
        self,
        *,
        inputCatalog: Table | SourceCatalog | DeferredDatasetHandle | InMemoryDatasetHandle,
        visit: int,
        detector: int,
        band: str,
        physical_filter: str,
    ) -> Struct:
        """Publish the sources of a detector.

        Parameters
        ----------
        inputCatalog
            Measured sources: the catalog, the table of it with its slot columns, or a handle of the table.
        visit, detector
            Ids for the columns of the same names.
        band, physical_filter
            Labels for the columns of the same names.

        Returns
        -------
        struct
            ``outputCatalog``: the table, rows in the order of the input.

        Raises
        ------
        ValueError
            Raised if a column that every source table needs is missing, has a unit that does not fit, or a
            label is too long.
        """
        sources = inputCatalog
        if not isinstance(sources, Table | SourceCatalog):
            sources = self._read(sources)
        try:
            table = make_source_table(
                sources,
                visit=visit,
                detector=detector,
                band=band,
                physical_filter=physical_filter,
                extras=self.config.extra_columns,
                include_calibration_error=self.config.include_calibration_error,
            )
        except ValueError as error:
            raise ValueError(f"Visit {visit}, detector {detector}: {error}") from error
        self.log.info(
            "Visit %d, detector %d: %d sources with %d columns.",
            visit, detector, len(table), len(table.colnames),
        )  # fmt: skip
        result = Struct(outputCatalog=table)
        record_provenance(self, result)
        return result

    def _read(self, handle: Any) -> Table:
        """Read the columns that are published."""
        present = handle.get(component="columns")
        try:
            columns = published_sources(present, extras=self.config.extra_columns)
        except ValueError:
            # What is missing is said by what is to use it, which knows visit and detector.
            return handle.get()
        needed = {column if isinstance(column, str) else column.source for column in columns.values()}
        if self.config.include_calibration_error:
            needed.update(CALIBRATION_COLUMNS)
        return handle.get(parameters={"columns": [name for name in present if name in needed]})
