"""Splits the sources of a visit into those that hold every object once, and the rest."""

from __future__ import annotations

__all__ = ("SplitPrimarySourceConfig", "SplitPrimarySourceConnections", "SplitPrimarySourceTask")

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from astropy.table import Table
from lsst.pex.config import Field, ListField
from lsst.pipe.base import (
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

_VISIT = ("instrument", "visit")


class SplitPrimarySourceConnections(PipelineTaskConnections, dimensions=_VISIT):
    """Inputs and outputs of `SplitPrimarySourceTask`."""

    full = cT.Input(
        doc="Published sources of the visit.",
        name="source_all",
        storageClass="ArrowAstropy",
        dimensions=_VISIT,
    )
    primary = cT.Output(
        doc="Rows that hold every source once.",
        name="source",
        storageClass="ArrowAstropy",
        dimensions=_VISIT,
    )
    nonprimary = cT.Output(
        doc="The rest: blends that were split, and sky sources.",
        name="source_nonprimary",
        storageClass="ArrowAstropy",
        dimensions=_VISIT,
    )


class SplitPrimarySourceConfig(PipelineTaskConfig, pipelineConnections=SplitPrimarySourceConnections):
    """Configuration of `SplitPrimarySourceTask`."""

    primary_flag_column = Field[str](
        doc="Flag of the primary rows; in neither table, as all its values would be the same.",
        default="detect_isPrimary",
    )
    discard_primary_columns = ListField[str](
        doc="Further columns to leave out of the primary table; those it lacks are ignored.", default=[]
    )
    discard_nonprimary_columns = ListField[str](
        doc="Further columns to leave out of the other table; those it lacks are ignored.", default=[]
    )


class SplitPrimarySourceTask(PipelineTask):
    """Split the sources of a visit into primary rows and the rest.

    Also runs without a repository: ``SplitPrimarySourceTask().run(full=table)``.
    """

    ConfigClass: ClassVar[type[PipelineTaskConfig]] = SplitPrimarySourceConfig
    _DefaultName: ClassVar[str] = "splitPrimarySource"
    config: SplitPrimarySourceConfig

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the table, run, and write both parts."""
        try:
            result = self.run(full=butlerQC.get(inputRefs.full))
        except ValueError as error:
            raise ValueError(f"Visit {outputRefs.primary.dataId['visit']}: {error}") from error
        record_provenance(self, result, inputs=inputRefs)
        butlerQC.put(result, outputRefs)

    def run(self, *, full: Table) -> Struct:
        """Split a table.

        Parameters
        ----------
        full
            Table with a flag of the primary rows.

        Returns
        -------
        struct
            ``primary`` and ``nonprimary``: the rows with and without the flag, in the order of the input and
            without the column of the flag.

        Raises
        ------
        ValueError
            Raised if there is no column of the flag, or it is not of flags.
        """
        name = self.config.primary_flag_column
        if name not in full.colnames:
            raise ValueError(f"The table of sources has no column {name} to split it by.")
        flag = np.asarray(full[name])
        if flag.dtype != np.bool_:
            raise ValueError(f"The column {name} to split the sources by is of {flag.dtype}, expected flags.")
        result = Struct(
            primary=_part(full, flag, [name, *self.config.discard_primary_columns]),
            nonprimary=_part(full, ~flag, [name, *self.config.discard_nonprimary_columns]),
        )
        record_provenance(self, result)
        self.log.info("%d of %d sources are primary.", len(result.primary), len(full))
        return result


def _part(table: Table, rows: np.ndarray, discarded: Iterable[str]) -> Table:
    left_out = set(discarded)
    return table[[name for name in table.colnames if name not in left_out]][rows]
