"""Single criteria of source selection: one small configuration each, applied to a whole catalog at once."""

from __future__ import annotations

__all__ = (
    "BaseLimit",
    "CentroidErrorLimit",
    "ColorLimit",
    "FluxLimit",
    "MagnitudeErrorLimit",
    "MagnitudeLimit",
    "RequireFiniteRaDec",
    "RequireFlags",
    "RequireIsolated",
    "RequirePrimary",
    "RequireUnresolved",
    "SignalToNoiseLimit",
    "SkyFlag",
    "column",
    "flux_flag",
    "has_column",
)

from typing import Any

import numpy as np
import numpy.typing as npt
from lsst.pex.config import Config, Field, ListField

from ..catalog.photo_calib import AB_FLUX_NJY


def has_column(catalog: Any, name: str) -> bool:
    """Return whether a catalog or table has a column (aliases of a catalog count)."""
    return name in getattr(catalog, "colnames", catalog)


def column(catalog: Any, name: str) -> npt.NDArray[Any]:
    """Return a column of a catalog or table as a plain array; masked values become NaN, 0 or False.

    Raises
    ------
    ValueError
        Raised if the column does not exist.
    """
    if not has_column(catalog, name):
        raise ValueError(f"Cannot select sources: the catalog has no column {name!r}.")
    values = catalog[name]
    if isinstance(values, np.ma.MaskedArray):
        values = values.filled(np.nan if values.dtype.kind == "f" else values.dtype.type())
    return np.asarray(values)


def flux_flag(catalog: Any, flux_field: str) -> npt.NDArray[np.bool_]:
    """Return the failure flag of a flux column: ``<flux>_flag``, without the suffix that names the quantity.

    A flux without a flag of its own counts as never failed.
    """
    for stem in (flux_field, flux_field.removesuffix("_instFlux"), flux_field.removesuffix("_flux")):
        if has_column(catalog, f"{stem}_flag"):
            return column(catalog, f"{stem}_flag").astype(np.bool_)
    return np.zeros(len(catalog), dtype=np.bool_)


class BaseLimit(Config):
    """Open interval that a value must lie in; an end that is `None` does not limit."""

    minimum = Field[float](doc="Select objects with a value greater than this.", optional=True)
    maximum = Field[float](doc="Select objects with a value less than this.", optional=True)

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows of a catalog meet the criterion."""
        raise NotImplementedError

    def inside(self, values: np.ndarray) -> npt.NDArray[np.bool_]:
        """Return which values lie strictly inside the limits; a NaN does not if there is any limit."""
        result = np.ones(len(values), dtype=np.bool_)
        if self.minimum is not None:
            result &= np.asarray(values > self.minimum)
        if self.maximum is not None:
            result &= values < self.maximum
        return result


class FluxLimit(BaseLimit):
    """Limits to a flux whose flag is not set."""

    fluxField = Field[str](doc="Flux column.", default="slot_CalibFlux_instFlux")

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows have a flux inside the limits and its flag unset."""
        return self.inside(column(catalog, self.fluxField)) & ~flux_flag(catalog, self.fluxField)


class MagnitudeLimit(BaseLimit):
    """Limits to the AB magnitude of a calibrated flux."""

    fluxField = Field[str](doc="Flux column, nJy.", default="flux")

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows have a magnitude inside the limits and their flux flag unset."""
        return self.inside(_magnitudes(catalog, self.fluxField)) & ~flux_flag(catalog, self.fluxField)


class MagnitudeErrorLimit(BaseLimit):
    """Limits to a magnitude error."""

    magErrField = Field[str](doc="Column of the magnitude error.", default="mag_err")

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows have an error inside the limits."""
        return self.inside(column(catalog, self.magErrField))


class ColorLimit(BaseLimit):
    """Limits to the difference of two magnitudes."""

    primary = Field[str](doc="Flux column whose magnitude comes first in the colour, nJy.")
    secondary = Field[str](doc="Flux column whose magnitude is subtracted, nJy.")

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows have a colour inside the limits."""
        return self.inside(_magnitudes(catalog, self.primary) - _magnitudes(catalog, self.secondary))


class SignalToNoiseLimit(BaseLimit):
    """Limits to the ratio of a flux to its error."""

    fluxField = Field[str](doc="Flux column.", default="base_PsfFlux_instFlux")
    errField = Field[str](doc="Column of the flux error.", default="base_PsfFlux_instFluxErr")

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows have a ratio inside the limits, no NaN, and their flux flag unset."""
        flux = column(catalog, self.fluxField)
        error = column(catalog, self.errField)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = flux / error
        return np.asarray(~np.isnan(ratio) & self.inside(ratio) & ~flux_flag(catalog, self.fluxField))


class RequireUnresolved(BaseLimit):
    """Limits to a measure of extendedness."""

    name = Field[str](doc="Column of the extendedness.", default="base_ClassificationSizeExtendedness_value")

    def setDefaults(self) -> None:
        """Set the largest extendedness of a star."""
        super().setDefaults()
        self.maximum = 0.1

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows have an extendedness inside the limits."""
        return self.inside(column(catalog, self.name))


class RequireFlags(Config):
    """Flags that must be set and flags that must not."""

    good = ListField[str](doc="Flags that must be set.", default=[])
    bad = ListField[str](doc="Flags that must not be set.", default=[])

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows have every good flag and no bad one."""
        result = np.ones(len(catalog), dtype=np.bool_)
        for name in self.good:
            result &= column(catalog, name).astype(np.bool_)
        for name in self.bad:
            result &= ~column(catalog, name).astype(np.bool_)
        return result


class SkyFlag(RequireFlags):
    """Flags of sky sources."""

    def setDefaults(self) -> None:
        """Set the flag that marks a sky source."""
        super().setDefaults()
        self.good = ["sky_source"]


class RequireIsolated(Config):
    """Columns that tell whether a source is part of a blend."""

    parentName = Field[str](doc="Column of the parent's id.", default="parent")
    nChildName = Field[str](doc="Column of the number of children.", default="deblend_nChild")

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows have neither parent nor children."""
        lone = column(catalog, self.parentName) == 0
        return np.asarray(lone & (column(catalog, self.nChildName) == 0))


class RequireFiniteRaDec(Config):
    """Columns of the sky coordinates."""

    raColName = Field[str](doc="Column of the right ascension.", default="coord_ra")
    decColName = Field[str](doc="Column of the declination.", default="coord_dec")

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows have finite coordinates."""
        ra = column(catalog, self.raColName)
        return np.asarray(np.isfinite(ra) & np.isfinite(column(catalog, self.decColName)))


class RequirePrimary(Config):
    """Column that tells primary detections."""

    primaryColName = Field[str](doc="Column of the primary flag.", default="detect_isPrimary")

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows are primary."""
        return column(catalog, self.primaryColName).astype(np.bool_)


class CentroidErrorLimit(BaseLimit):
    """Limit to the errors of both coordinates of a centroid."""

    centroidField = Field[str](doc="Centroid; ``_xErr`` and ``_yErr`` are appended.", default="slot_Centroid")

    def setDefaults(self) -> None:
        """Set the largest error, pixels."""
        super().setDefaults()
        self.maximum = 3.0

    def apply(self, catalog: Any) -> npt.NDArray[np.bool_]:
        """Return which rows have both errors finite and inside the limits."""
        result = np.ones(len(catalog), dtype=np.bool_)
        for axis in ("x", "y"):
            error = column(catalog, f"{self.centroidField}_{axis}Err")
            result &= np.isfinite(error) & self.inside(error)
        return result


def _magnitudes(catalog: Any, flux_field: str) -> np.ndarray:
    """Return AB magnitudes of a flux column in nJy; NaN where the flux is not positive."""
    flux = column(catalog, flux_field)
    return -2.5 * np.log10(np.where(flux > 0, flux, np.nan) / AB_FLUX_NJY)
