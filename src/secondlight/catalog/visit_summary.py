"""Final (or initial) calibrations of every detector of a visit, any of them possibly missing."""

from __future__ import annotations

__all__ = ("DetectorSummary", "VisitSummary", "VisitSummaryModel")

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import pydantic
from astro_metadata_translator import ObservationInfo
from lsst.images import Bounds, Box, DetectorFrame, ObservationSummaryStats, SkyProjection
from lsst.images import SkyProjectionSerializationModel as SkyModel
from lsst.images._concrete_bounds import BoundsSerializationModel
from lsst.images.aperture_corrections import ApertureCorrectionMap
from lsst.images.aperture_corrections import ApertureCorrectionMapSerializationModel as ApCorrModel
from lsst.images.psfs import (
    GaussianPointSpreadFunction,
    GaussianPSFSerializationModel,
    PiffSerializationModel,
    PiffWrapper,
    PointSpreadFunction,
)
from lsst.images.serialization import ArchiveTree, InputArchive, InvalidParameterError, OutputArchive

from .photo_calib import PhotoCalib, PhotoCalibModel


@dataclasses.dataclass
class DetectorSummary:
    """What is known about one detector of a visit; `None` is what is missing.

    Parameters
    ----------
    detector
        Detector id.
    bbox
        Pixels of the image.
    psf
        Point-spread function.
    aperture_corrections
        Field by ``<flux>_instFlux`` and ``<flux>_instFluxErr``.
    sky_projection
        Pixel to sky mapping.
    photo_calib
        Counts to nJy.
    valid_polygon
        Region of valid pixels, if smaller than ``bbox``.
    obs_info
        Observation metadata.
    summary_stats
        Summary statistics.
    calibration_sources
        Where the pieces came from, in words or dataset names, by ``psf``, ``aperture_corrections``,
        ``sky_projection``, ``photo_calib`` and ``background`` (of the statistics); pieces that are missing or
        of unknown origin have no entry.
    """

    detector: int
    bbox: Box | None = None
    psf: PointSpreadFunction | None = None
    aperture_corrections: ApertureCorrectionMap | None = None
    sky_projection: SkyProjection[DetectorFrame] | None = None
    photo_calib: PhotoCalib | None = None
    valid_polygon: Bounds | None = None
    obs_info: ObservationInfo | None = None
    summary_stats: ObservationSummaryStats | None = None
    calibration_sources: dict[str, str] = dataclasses.field(default_factory=dict)

    def serialize(self, archive: OutputArchive[Any]) -> DetectorSummaryModel[Any]:
        """Write to an archive of `lsst.images`.

        Raises
        ------
        TypeError
            Raised if the PSF is of a kind that has no stored form.
        """
        if self.psf is not None and not isinstance(self.psf, PiffWrapper | GaussianPointSpreadFunction):
            raise TypeError(
                f"Detector {self.detector}: a PSF of type {type(self.psf).__name__} cannot be stored in a "
                "visit summary; expected a Piff or a Gaussian PSF."
            )
        direct = archive.serialize_direct
        corrections = self.aperture_corrections
        return DetectorSummaryModel(
            detector=self.detector,
            bbox=self.bbox,
            psf=direct("psf", self.psf.serialize) if self.psf is not None else None,  # type: ignore[arg-type]
            aperture_corrections=(
                direct("aperture_corrections", functools.partial(ApCorrModel.serialize, corrections))
                if corrections is not None
                else None
            ),
            sky_projection=(
                direct("sky_projection", self.sky_projection.serialize)
                if self.sky_projection is not None
                else None
            ),
            photo_calib=(
                direct("photo_calib", self.photo_calib.serialize) if self.photo_calib is not None else None
            ),
            valid_polygon=self.valid_polygon.serialize() if self.valid_polygon is not None else None,
            obs_info=self.obs_info,
            summary_stats=self.summary_stats,
            calibration_sources=self.calibration_sources,
        )


class DetectorSummaryModel[P: pydantic.BaseModel](pydantic.BaseModel, ser_json_inf_nan="constants"):
    """Stored form of a `DetectorSummary`."""

    detector: int = pydantic.Field(description="Detector id.")
    bbox: Box | None = pydantic.Field(default=None, description="Pixels of the image.")
    psf: PiffSerializationModel | GaussianPSFSerializationModel | None = pydantic.Field(
        default=None, union_mode="left_to_right", description="Point-spread function."
    )
    aperture_corrections: ApCorrModel | None = pydantic.Field(
        default=None, description="Aperture correction fields."
    )
    sky_projection: SkyModel[P] | None = pydantic.Field(default=None, description="Pixel to sky mapping.")
    photo_calib: PhotoCalibModel | None = pydantic.Field(default=None, description="Counts to nJy.")
    valid_polygon: BoundsSerializationModel | None = pydantic.Field(
        default=None, description="Region of valid pixels."
    )
    obs_info: ObservationInfo | None = pydantic.Field(default=None, description="Observation metadata.")
    summary_stats: ObservationSummaryStats | None = pydantic.Field(
        default=None, description="Summary statistics."
    )
    calibration_sources: dict[str, str] = pydantic.Field(
        default_factory=dict, description="Where the pieces came from."
    )

    def deserialize(self, archive: InputArchive[Any]) -> DetectorSummary:
        """Read from an archive of `lsst.images`."""

        def read(model: ArchiveTree | None) -> Any:
            return model.deserialize(archive) if model is not None else None

        return DetectorSummary(
            detector=self.detector,
            bbox=self.bbox,
            psf=read(self.psf),
            aperture_corrections=read(self.aperture_corrections),
            sky_projection=read(self.sky_projection),
            photo_calib=read(self.photo_calib),
            valid_polygon=self.valid_polygon.deserialize() if self.valid_polygon is not None else None,
            obs_info=self.obs_info,
            summary_stats=self.summary_stats,
            calibration_sources=self.calibration_sources,
        )


class VisitSummary:
    """Records of the detectors of one visit, sorted by detector id.

    Also what the ``finalized_psf_ap_corr_*`` datasets hold (PSF and aperture corrections only).

    Parameters
    ----------
    visit
        Visit id.
    records
        One record per detector, in any order.
    instrument, band, physical_filter
        What the visit was taken with.
    comment
        Remarks kept with the records.

    Raises
    ------
    ValueError
        Raised if a detector appears twice.
    """

    def __init__(
        self,
        visit: int,
        records: Iterable[DetectorSummary] = (),
        *,
        instrument: str = "",
        band: str = "",
        physical_filter: str = "",
        comment: str = "",
    ) -> None:
        self.visit = visit
        self.instrument = instrument
        self.band = band
        self.physical_filter = physical_filter
        self.comment = comment
        self._records: dict[int, DetectorSummary] = {}
        for record in sorted(records, key=lambda r: r.detector):
            if record.detector in self._records:
                raise ValueError(f"Visit {visit}: detector {record.detector} appears twice in the summary.")
            self._records[record.detector] = record

    def find(self, detector: int) -> DetectorSummary | None:
        """Return the record of a detector, or `None`."""
        return self._records.get(detector)

    @property
    def detectors(self) -> list[int]:
        """Detector ids, ascending."""
        return list(self._records)

    def __iter__(self) -> Iterator[DetectorSummary]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"VisitSummary(visit={self.visit}, detectors={self.detectors})"

    def serialize(self, archive: OutputArchive[Any]) -> VisitSummaryModel[Any]:
        """Write to an archive of `lsst.images`."""
        return VisitSummaryModel(
            visit=self.visit,
            instrument=self.instrument,
            band=self.band,
            physical_filter=self.physical_filter,
            comment=self.comment,
            detectors={record.detector: _serialize_apart(archive, record) for record in self},
        )

    @staticmethod
    def _get_archive_tree_type(pointer_type: type[pydantic.BaseModel]) -> type[VisitSummaryModel[Any]]:
        return VisitSummaryModel[pointer_type]  # type: ignore[valid-type]


def _serialize_apart(archive: OutputArchive[Any], record: DetectorSummary) -> Any:
    """Write a record so that it can be read without the others, and return where it is."""
    name = f"detector_{record.detector}"

    def serialize(apart: OutputArchive[Any]) -> DetectorSummaryModel[Any]:
        # What is written apart has names of its own, which would be the same for every record.
        return apart.serialize_direct(name, record.serialize)

    return archive.serialize_pointer(name, serialize, key=name)


class VisitSummaryModel[P: pydantic.BaseModel](ArchiveTree):
    """Stored form of a `VisitSummary`.

    Each record is apart: with 189 detectors, reading all to use one would take seconds in every job.
    """

    SCHEMA_NAME: ClassVar[str] = "secondlight_visit_summary"
    SCHEMA_VERSION: ClassVar[str] = "2.0.0"
    MIN_READ_VERSION: ClassVar[int] = 2
    SCHEMA_URL_BASE: ClassVar[str] = "https://secondlight.readthedocs.io/schemas"
    PUBLIC_TYPE: ClassVar[type] = VisitSummary

    visit: int = pydantic.Field(description="Visit id.")
    instrument: str = pydantic.Field(default="", description="Instrument name.")
    band: str = pydantic.Field(default="", description="Band label.")
    physical_filter: str = pydantic.Field(default="", description="Full name of the filter.")
    comment: str = pydantic.Field(default="", description="Remarks.")
    detectors: dict[int, P] = pydantic.Field(
        default_factory=dict, description="Where the record of each detector is."
    )
    records: list[DetectorSummaryModel[P]] = pydantic.Field(
        default_factory=list, description="The records themselves, in files of version 1."
    )

    def deserialize(
        self, archive: InputArchive[Any], *, detector: int | None = None, **kwargs: Any
    ) -> VisitSummary:
        """Read from an archive of `lsst.images`.

        Parameters
        ----------
        archive
            The archive.
        detector
            Read the record of this detector alone, if there is one; by default all are read.
        **kwargs
            Not understood.

        Raises
        ------
        lsst.images.serialization.InvalidParameterError
            Raised if there are other parameters.
        """
        if kwargs:
            raise InvalidParameterError(f"Unrecognized parameters for VisitSummary: {set(kwargs)}.")
        wanted = self.detectors if detector is None else self.detectors.keys() & {detector}
        records = [self._read(archive, self.detectors[number]) for number in sorted(wanted)]
        records += [
            record.deserialize(archive) for record in self.records if detector in (None, record.detector)
        ]
        return VisitSummary(
            self.visit,
            records,
            instrument=self.instrument,
            band=self.band,
            physical_filter=self.physical_filter,
            comment=self.comment,
        )

    @staticmethod
    def _read(archive: InputArchive[Any], pointer: pydantic.BaseModel) -> DetectorSummary:
        model: Any = DetectorSummaryModel[type(pointer)]  # type: ignore[misc]
        record: DetectorSummary = archive.deserialize_pointer(pointer, model, model.deserialize)
        return record
