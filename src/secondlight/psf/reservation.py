"""Choice of the stars that are kept out of the PSF fit (spec finalize 2.5)."""

from __future__ import annotations

__all__ = ("ReserveIsolatedStarsConfig", "ReserveIsolatedStarsTask")

import hashlib
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from lsst.pex.config import ChoiceField, Config, Field, RangeField
from lsst.pipe.base import Task

_HASH_BITS = 64


class ReserveIsolatedStarsConfig(Config):
    """How many stars to reserve, and how."""

    reserve_name = Field[str](doc="Name that starts the random seed.", default="reserved")
    reserve_fraction = RangeField(
        dtype=float, doc="Fraction of the stars to reserve.", default=0.1, min=0.0, max=1.0, inclusiveMax=True
    )
    reserve_mode = ChoiceField[str](
        doc="How stars are drawn.",
        default="shuffle",
        allowed={
            "shuffle": "Exactly the wanted number, by shuffling the rows: depends on their number and order.",
            "hash": "Each star by a hash of its identity: the number varies, but a star keeps its flag "
            "whatever other stars are in the table.",
        },
    )


class ReserveIsolatedStarsTask(Task):
    """Draw the stars to reserve, repeatably."""

    ConfigClass = ReserveIsolatedStarsConfig
    _DefaultName: ClassVar[str] = "reserve_isolated_stars"
    config: ReserveIsolatedStarsConfig

    def run(
        self, nstar: int, extra: str = "", *, identities: Iterable[object] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return which stars are reserved.

        Parameters
        ----------
        nstar
            Number of stars.
        extra
            Text added to the name that makes the seed, such as band and tract.
        identities
            What identifies each star (ids or names); only the "hash" mode needs it.

        Returns
        -------
        numpy.ndarray
            One boolean per star.

        Raises
        ------
        ValueError
            Raised in "hash" mode if the identities are missing or not one per star.
        """
        name = f"{self.config.reserve_name}_{extra}"
        if self.config.reserve_mode == "hash":
            return self._by_hash(nstar, name, identities)
        return self._by_shuffle(nstar, name)

    def _by_shuffle(self, nstar: int, name: str) -> npt.NDArray[np.bool_]:
        reserved = np.zeros(nstar, dtype=np.bool_)
        if self.config.reserve_fraction == 0:
            return reserved
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[-4:], "big")
        reserved[: int(nstar * self.config.reserve_fraction)] = True
        np.random.default_rng(seed).shuffle(reserved)
        return reserved

    def _by_hash(self, nstar: int, name: str, identities: Iterable[object] | None) -> npt.NDArray[np.bool_]:
        names = [] if identities is None else [f"{name}_{identity}" for identity in identities]
        if len(names) != nstar:
            raise ValueError(
                f"Reserving by hash needs one identity per star: expected {nstar}, found {len(names)}."
            )
        limit = int(self.config.reserve_fraction * 2**_HASH_BITS)
        digests = (hashlib.sha256(each.encode()).digest()[: _HASH_BITS // 8] for each in names)
        return np.array([int.from_bytes(digest, "big") < limit for digest in digests], dtype=np.bool_)
