"""Identifiers of catalogs and rows, packed from visit and detector (spec reprocess 21)."""

from __future__ import annotations

__all__ = ("DetectorVisitIdGeneratorConfig", "IdGenerator")

import dataclasses

import numpy as np
from lsst.daf.butler import DataCoordinate
from lsst.pex.config import Config
from lsst.pex.config import Field as ConfigField
from lsst.pipe.base import Instrument


@dataclasses.dataclass(frozen=True)
class IdGenerator:
    """Makes row ids ``(catalog_id << counter_bits) | counter`` with counters from 1.

    Parameters
    ----------
    catalog_id
        Identifier of the catalog; also the seed of everything random about it.
    counter_bits
        Bits of a row id left for the counter.
    """

    catalog_id: int = 0
    counter_bits: int = 31

    def row_ids(self, n: int, *, start: int = 1) -> np.ndarray:
        """Return n consecutive row ids, int64, the first with counter ``start``.

        Raises
        ------
        OverflowError
            Raised if the counter does not fit its bits.
        """
        if start + n - 1 >= 1 << self.counter_bits:
            raise OverflowError(
                f"Catalog {self.catalog_id}: {start + n - 1} rows do not fit the "
                f"{self.counter_bits} counter bits of its ids."
            )
        return (self.catalog_id << self.counter_bits) | np.arange(start, start + n, dtype=np.int64)


class DetectorVisitIdGeneratorConfig(Config):
    """How ids are made from a data id with visit and detector."""

    packer = Instrument.make_dimension_packer_config_field()
    release_id = ConfigField[int](doc="Number of the data release, packed into the ids.", default=0)
    n_releases = ConfigField[int](doc="Number of releases to leave room for.", default=64)

    def validate(self) -> None:
        """Check that the release number fits."""
        super().validate()
        if not 0 <= self.release_id < self.n_releases:
            raise ValueError(f"release_id {self.release_id} is not within 0..{self.n_releases - 1}.")

    def apply(self, data_id: DataCoordinate) -> IdGenerator:
        """Return the generator of a visit and detector.

        Parameters
        ----------
        data_id
            Data id with ``instrument``, ``visit`` and ``detector`` and its dimension records.
        """
        packer = self.packer.apply(data_id)  # type: ignore[attr-defined]
        packed = packer.pack(data_id)
        release_bits = (self.n_releases - 1).bit_length()
        catalog_id = packed + (self.release_id << packer.maxBits)
        return IdGenerator(int(catalog_id), 63 - packer.maxBits - release_bits)
