"""What a survey camera has to say for its files to be ingested."""

from __future__ import annotations

__all__ = ("CameraInstrument", "DetectorObservation", "InputFile", "SurveyInstrument")

import dataclasses
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import astropy.io.fits
import astropy.time
import astropy.units as u
import astropy.wcs
import numpy as np
from lsst.daf.butler import DataId, Formatter, FormatterV2
from lsst.daf.butler.registry import Registry
from lsst.images import Box, DetectorFrame, SkyProjection, VisitImage
from lsst.pipe.base import Instrument
from lsst.utils.introspection import get_full_type_name

from ..psf.survey_psf import SurveyPsf
from .files import InputFileError


class VisitSystem(NamedTuple):
    """How the exposures of a camera are joined to visits."""

    id: int
    name: str


ONE_TO_ONE = VisitSystem(0, "one-to-one")
"""Each exposure is a visit of its own."""

BY_GROUP = VisitSystem(1, "by-group")
"""The exposures of a group, the snaps, are one visit."""


@dataclasses.dataclass(frozen=True, order=True)
class InputFile:
    """One detector of one visit in a file (or a set of files about it).

    Parameters
    ----------
    visit, detector
        Whose pixels these are.
    path
        The file of the pixels.
    hdu
        The extension of the pixels.
    """

    visit: int
    detector: int
    path: Path
    hdu: int = 0

    def __str__(self) -> str:
        return f"visit {self.visit} detector {self.detector} ({self.path.name})"


@dataclasses.dataclass(frozen=True)
class DetectorObservation:
    """What one detector of one visit brings into the repository.

    Parameters
    ----------
    image
        Pixels and what is known about them; ``obs_info`` is complete enough to make the dimension records.
    survey_psf
        The survey's own PSF model, if there is one.
    """

    image: VisitImage
    survey_psf: SurveyPsf | None = None


class CameraInstrument(Instrument):
    """A camera as a repository knows it: its records."""

    name: ClassVar[str]
    """Name of the instrument in data ids."""

    detectors: ClassVar[Mapping[int, str]] = {}
    """Names of the detectors that are known beforehand."""

    filters: ClassVar[Mapping[str, str]] = {}
    """Band of each physical filter that is known beforehand."""

    visit_max: ClassVar[int]
    """One more than the largest visit id; with ``detector_max`` it decides the bits left for source ids."""

    detector_max: ClassVar[int]
    """One more than the largest detector id."""

    visit_system: ClassVar[VisitSystem] = ONE_TO_ONE
    """How its exposures are joined to visits."""

    @classmethod
    def getName(cls) -> str:
        """Return the name of the instrument."""
        return cls.name

    def getRawFormatter(self, dataId: DataId) -> type[Formatter | FormatterV2]:
        """Refuse: there are no raw files here, only calibrated images."""
        raise NotImplementedError(f"{self.name}: calibrated images are stored, not raw files.")

    def register(self, registry: Registry, *, update: bool = False) -> None:
        """Insert the records of the instrument, its visit system, detectors and filters; can be repeated."""
        with registry.transaction():
            registry.syncDimensionData(
                "instrument",
                {
                    "name": self.name,
                    "class_name": get_full_type_name(type(self)),
                    "visit_max": self.visit_max,
                    "exposure_max": self.visit_max,
                    "detector_max": self.detector_max,
                    "visit_system": self.visit_system.id,
                },
                update=update,
            )
            registry.syncDimensionData(
                "visit_system",
                {"instrument": self.name} | self.visit_system._asdict(),
                update=update,
            )
            for detector, name in self.detectors.items():
                self.register_detector(registry, detector, name, update=update)
            for physical_filter, band in self.filters.items():
                self.register_filter(registry, physical_filter, band, update=update)

    def register_detector(
        self, registry: Registry, detector: int, name: str, *, update: bool = False
    ) -> None:
        """Insert the record of a detector unless it is there."""
        record = {
            "instrument": self.name,
            "id": detector,
            "full_name": name,
            "name_in_raft": name,
            "raft": None,
            "purpose": "SCIENCE",
        }
        registry.syncDimensionData("detector", record, update=update)

    def register_filter(
        self, registry: Registry, physical_filter: str, band: str, *, update: bool = False
    ) -> None:
        """Insert the record of a filter unless it is there."""
        record = {"instrument": self.name, "name": physical_filter, "band": band}
        registry.syncDimensionData("physical_filter", record, update=update)


class SurveyInstrument(CameraInstrument):
    """A camera whose calibrated single-visit images can be ingested."""

    @abstractmethod
    def find(self, paths: Sequence[Path]) -> Iterable[InputFile]:
        """Find the images among files and below folders, without reading pixels.

        Raises
        ------
        InputFileError
            Raised if a file that was named cannot be understood.
        """
        raise NotImplementedError

    @abstractmethod
    def read(self, file: InputFile, paths: Sequence[Path]) -> DetectorObservation:
        """Read one image and everything that belongs to it.

        Parameters
        ----------
        file
            What to read.
        paths
            The paths given to `find`, to search for companion files.

        Raises
        ------
        InputFileError
            Raised if a file is absent, broken or not what it should be.
        """
        raise NotImplementedError


def sky_projection_of(
    header: astropy.io.fits.Header, bbox: Box, file: InputFile, *, instrument: str
) -> SkyProjection[DetectorFrame]:
    """Return the pixel-to-sky mapping of a FITS header.

    Raises
    ------
    InputFileError
        Raised if the header has no celestial axes or a mapping that cannot be used.
    """
    try:
        with warnings.catch_warnings():
            # Old spellings of keys that astropy understands and mends.
            warnings.simplefilter("ignore", astropy.wcs.FITSFixedWarning)
            wcs = astropy.wcs.WCS(header)
    except Exception as error:  # wcslib raises many unrelated types
        raise InputFileError(file.path, f"HDU {file.hdu} has a WCS that cannot be used ({error}).") from error
    if not wcs.has_celestial:
        axes = ", ".join(str(c) or "(none)" for c in wcs.wcs.ctype)
        raise InputFileError(
            file.path, f"HDU {file.hdu} needs a WCS with two celestial axes; its axes are {axes}."
        )
    frame = DetectorFrame(instrument=instrument, visit=file.visit, detector=file.detector, bbox=bbox)
    return SkyProjection.from_fits_wcs(wcs, frame, pixel_bounds=bbox, x0=bbox.x.start, y0=bbox.y.start)


def observing_day(begin: astropy.time.Time) -> int:
    """Return the day of the evening in which a night begins, YYYYMMDD; days change at noon TAI."""
    return int((begin.tai - 12 * u.hour).strftime("%Y%m%d"))


def pixels_of(array: np.ndarray) -> np.ndarray:
    """Return pixels as native float32, contiguous."""
    return np.ascontiguousarray(array, dtype=np.float32)
