"""Photometric calibration of a detector: what turns instrumental counts into nJy (spec reprocess 19)."""

from __future__ import annotations

__all__ = ("AB_FLUX_NJY", "PhotoCalib", "PhotoCalibModel")

import dataclasses
import math
from typing import Any, ClassVar

import astropy.units as u
import numpy as np
import pydantic
from lsst.images import Box
from lsst.images.fields import ChebyshevField, Field, FieldSerializationModel
from lsst.images.serialization import ArchiveTree, InputArchive, InvalidParameterError, OutputArchive

AB_FLUX_NJY = 1e23 * 10 ** (48.6 / -2.5) * 1e9
"""Flux density of magnitude zero in the AB system, nJy (3.630780547701e12)."""


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoCalib:
    """Calibration from counts to nJy.

    Parameters
    ----------
    mean
        Mean calibration, nJy per count.
    error
        Uncertainty of the mean, nJy per count.
    field
        Calibration as a function of position, in nJy per count (the full value, not a ratio to ``mean``);
        one in another unit of flux per count is converted.  `None` if it is constant.
    """

    mean: float
    error: float = 0.0
    field: Field | None = None

    def __post_init__(self) -> None:
        """Bring the field to nJy per count."""
        if self.field is None or self.field.unit is None:
            return
        count = (u.nJy / self.field.unit).decompose()
        if count.scale != 1.0:
            unit = u.nJy / u.Unit(count / count.scale)
            field = self.field * u.Quantity(1.0 / count.scale, unit / self.field.unit)
            object.__setattr__(self, "field", field)

    @staticmethod
    def from_zero_point(zero_point: float, error: float = 0.0) -> PhotoCalib:
        """Make a constant calibration from the AB magnitude of one count and its uncertainty in mag."""
        mean = AB_FLUX_NJY * 10 ** (-0.4 * zero_point)
        return PhotoCalib(mean, mean * error * math.log(10) / 2.5)

    @property
    def zero_point(self) -> float:
        """AB magnitude of a source of one count."""
        return -2.5 * math.log10(self.mean / AB_FLUX_NJY)

    @property
    def zero_point_error(self) -> float:
        """Uncertainty of the zero point, mag."""
        return 2.5 / math.log(10) * self.error / self.mean

    def evaluate(self, *, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the calibration in nJy per count at pixel positions."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        if self.field is None:
            return np.full(x.shape, self.mean)
        return np.asarray(self.field(x=x, y=y))

    def render(self, bbox: Box) -> np.ndarray | float:
        """Return the calibration over the pixels of a box, float64, or the one number if it is constant."""
        if self.field is None:
            return self.mean
        return np.asarray(self.field.render(bbox, dtype=np.float64).array)

    def to_field(self, bbox: Box, count_unit: u.UnitBase) -> Field:
        """Return the calibration as the field of nJy per ``count_unit`` that a `VisitImage` carries.

        Raises
        ------
        ValueError
            Raised if the calibration varies, and says that it is per something else.
        """
        unit = u.nJy / count_unit
        if self.field is None:
            return ChebyshevField(bbox, np.array([[self.mean]]), unit=unit)
        if self.field.unit is None:
            with_unit: Field = self.field * unit
            return with_unit
        if not self.field.unit.is_equivalent(unit):
            raise ValueError(f"The photometric calibration is in {self.field.unit}; expected {unit}.")
        return self.field

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PhotoCalib):
            return NotImplemented
        return (self.mean, self.error, self.field) == (other.mean, other.error, other.field)

    __hash__ = None  # type: ignore[assignment]

    def serialize(self, archive: OutputArchive[Any]) -> PhotoCalibModel:
        """Write to an archive of `lsst.images`."""
        field: Any = None
        if self.field is not None:
            field = archive.serialize_direct("field", self.field.serialize)
        return PhotoCalibModel(mean=self.mean, error=self.error, field=field)

    @staticmethod
    def _get_archive_tree_type(pointer_type: type[pydantic.BaseModel]) -> type[PhotoCalibModel]:
        return PhotoCalibModel


class PhotoCalibModel(ArchiveTree):
    """Stored form of a `PhotoCalib`."""

    SCHEMA_NAME: ClassVar[str] = "secondlight_photo_calib"
    SCHEMA_VERSION: ClassVar[str] = "1.0.0"
    MIN_READ_VERSION: ClassVar[int] = 1
    SCHEMA_URL_BASE: ClassVar[str] = "https://secondlight.readthedocs.io/schemas"
    PUBLIC_TYPE: ClassVar[type] = PhotoCalib

    mean: float = pydantic.Field(description="Mean calibration, nJy per count.")
    error: float = pydantic.Field(description="Uncertainty of the mean, nJy per count.")
    field: FieldSerializationModel | None = pydantic.Field(
        default=None, description="Calibration as a function of position, nJy per count; null if constant."
    )

    def deserialize(self, archive: InputArchive[Any], **kwargs: Any) -> PhotoCalib:
        """Read from an archive of `lsst.images`."""
        if kwargs:
            raise InvalidParameterError(f"Unrecognized parameters for PhotoCalib: {set(kwargs)}.")
        field = self.field.deserialize(archive) if self.field is not None else None
        return PhotoCalib(self.mean, self.error, field)
