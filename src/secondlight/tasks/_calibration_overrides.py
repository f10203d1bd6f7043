"""Calibrations of a visit that were fitted elsewhere: to the whole visit or to pieces of the sky."""

from __future__ import annotations

__all__ = ("CalibrationOverrides", "healpix_centers", "tract_centers")

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from lsst.sphgeom import HealpixPixelization

from ..catalog.visit_summary import VisitSummary
from ..sky.matching import unit_vectors
from ..sky.sky_map import RingsSkyMap


def tract_centers(sky_map: RingsSkyMap, tracts: Iterable[int]) -> dict[int, np.ndarray]:
    """Return the unit vectors (3,) of the centres of tracts."""
    centers = {tract: sky_map[tract] for tract in tracts}
    return {tract: unit_vectors(np.array(c.ra), np.array(c.dec)) for tract, c in centers.items()}


def healpix_centers(order: int, pixels: Iterable[int]) -> dict[int, np.ndarray]:
    """Return the unit vectors (3,) of the centres of HEALPix pixels, numbered as nested."""
    centers = {pixel: HealpixPixelization(order).pixel(pixel).getCentroid() for pixel in pixels}
    return {pixel: np.array([c.x(), c.y(), c.z()]) for pixel, c in centers.items()}


@dataclasses.dataclass(frozen=True)
class CalibrationOverrides:
    """One kind of calibration of the detectors of a visit.

    Parameters
    ----------
    piece
        Attribute of the records that is wanted, ``sky_projection`` or ``photo_calib``.
    provider, dataset_type
        What the calibrations are, for people.
    summaries
        Calibrations by region of the sky, or a single one of the whole visit.
    centers
        Unit vectors (3,) of the centres of the regions; empty for the whole visit.
    """

    piece: str
    provider: str
    dataset_type: str
    summaries: Mapping[int, VisitSummary]
    centers: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def find(self, detector: int, position: np.ndarray | None) -> tuple[Any, str]:
        """Return the calibration of a detector and where it comes from; `None` if nothing has it.

        Of several regions that have it, the one with the nearest centre is taken, and without a position
        the one with the lowest number.

        Parameters
        ----------
        detector
            Detector id.
        position
            Unit vector (3,) of the centre of the detector.
        """
        records = {region: self.summaries[region].find(detector) for region in sorted(self.summaries)}
        found = {region: getattr(record, self.piece) for region, record in records.items() if record}
        found = {region: value for region, value in found.items() if value is not None}
        if not found:
            return None, ""
        if not self.centers:
            return next(iter(found.values())), f"{self.provider} {self.dataset_type}"
        region = next(iter(found))
        if position is not None:
            region = max(found, key=lambda r: float(self.centers[r] @ position))
        return found[region], f"{self.provider} {region} {self.dataset_type}"
