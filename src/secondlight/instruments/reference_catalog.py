"""Reference stars in a data repository: positions and magnitudes to calibrate the first pass against."""

from __future__ import annotations

__all__ = (
    "REFERENCE_RUN",
    "REFERENCE_TYPE",
    "ingest_reference_catalog",
    "read_reference_catalog",
    "register_reference_catalog",
    "store_reference_catalog",
)

import re
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import registry as astropy_io
from astropy.table import Table
from lsst.daf.butler import Butler, DatasetType
from lsst.pipe.base import Instrument

from .files import InputFileError

REFERENCE_TYPE = "photometric_refcat"
"""Dataset type of the reference catalog, without dimensions."""

REFERENCE_RUN = Instrument.makeRefCatCollectionName()
"""RUN collection of the reference catalog."""

_BAND = re.compile(r"mag_(?!err_)(\w+)|([ugrizyUGRIZYJHK]|BP|RP|G_gaia)")
_STAR_COLUMNS = ("is_star", "starnotgal")


def read_reference_catalog(path: str | Path) -> Table:
    """Read a table of reference sources and bring it into the stored form.

    The stored columns are ``ra``, ``dec`` (ICRS, degrees), per band ``mag_<band>`` and ``mag_err_<band>`` (AB
    magnitudes; NaN where the error is unknown) and ``is_star``. Accepted are these names, and for magnitudes
    also ``<band>`` and ``<band>_err``, for stars also ``starnotgal``; without such a column all are taken as
    stars.

    Parameters
    ----------
    path
        Any table that astropy reads: FITS, ECSV, Parquet, ...

    Raises
    ------
    InputFileError
        Raised if the file cannot be read or lacks positions or magnitudes.
    """
    if not Path(path).is_file():
        raise InputFileError(path, "the file does not exist.")
    try:
        table = Table.read(path)
    except (OSError, ValueError, astropy_io.IORegistryError) as error:
        raise InputFileError(
            path, f"cannot be read as a table ({str(error).partition(chr(10))[0]})."
        ) from error
    missing = [name for name in ("ra", "dec") if name not in table.colnames]
    if missing:
        raise InputFileError(path, f"has no column {', '.join(missing)}; it has {', '.join(table.colnames)}.")
    stored = Table()
    for name in ("ra", "dec"):
        column = table[name]
        stored[name] = u.Quantity(column, column.unit or u.deg).to(u.deg)
        stored[name].info.description = "ICRS coordinate"
    bands = {name: match[1] or match[2] for name in table.colnames if (match := _BAND.fullmatch(name))}
    if not bands:
        raise InputFileError(path, f"has no magnitudes (mag_<band>); it has {', '.join(table.colnames)}.")
    for name, band in bands.items():
        uncertainty = next((e for e in (f"mag_err_{band}", f"{band}_err") if e in table.colnames), None)
        stored[f"mag_{band}"] = _magnitudes(table, name)
        stored[f"mag_err_{band}"] = _magnitudes(table, uncertainty)
    star = next((name for name in _STAR_COLUMNS if name in table.colnames), None)
    stored["is_star"] = np.ones(len(table), bool) if star is None else np.asarray(table[star]) != 0
    stored.meta["source"] = Path(path).name
    return stored


def ingest_reference_catalog(butler: Butler, path: str | Path, *, run: str = REFERENCE_RUN) -> bool:
    """Store a reference catalog, unless the collection has one.

    Parameters
    ----------
    butler
        Repository, open for writing.
    path
        A table, see `read_reference_catalog`.
    run
        Collection to write to.

    Returns
    -------
    bool
        Whether it was stored; `False` if the collection has a catalog already, which is left as it is.

    Raises
    ------
    InputFileError
        Raised if the file cannot be used.
    """
    table = read_reference_catalog(path)
    register_reference_catalog(butler, run=run)
    return store_reference_catalog(butler, table, run=run)


def register_reference_catalog(butler: Butler, *, run: str = REFERENCE_RUN) -> None:
    """Register the dataset type and the collection of the reference catalog; not inside a transaction."""
    butler.registry.registerDatasetType(
        DatasetType(REFERENCE_TYPE, (), "ArrowAstropy", universe=butler.dimensions)
    )
    butler.collections.register(run)


def store_reference_catalog(butler: Butler, table: Table, *, run: str = REFERENCE_RUN) -> bool:
    """Store a table of reference stars unless the collection has one, and return whether it was stored.

    Parameters
    ----------
    butler
        Repository, open for writing, with dataset type and collection registered.
    table
        Reference stars in the form that `read_reference_catalog` returns.
    run
        Collection to write to.
    """
    if butler.find_dataset(REFERENCE_TYPE, collections=run) is not None:
        return False
    butler.put(table, REFERENCE_TYPE, run=run)
    return True


def _magnitudes(table: Table, name: str | None) -> u.Quantity:
    """Return a column as magnitudes, masked and missing values as NaN."""
    if name is None:
        return np.full(len(table), np.nan) * u.mag
    return np.ma.filled(np.ma.asarray(table[name], dtype=np.float64), np.nan) * u.mag
