"""Sky maps made of rings of tracts, numbered as the Rubin Observatory numbers them."""

from __future__ import annotations

__all__ = ("RingsSkyMap", "RingsSkyMapConfig", "RingsSkyMapModel")

import functools
import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import pydantic
from lsst.images.serialization import ArchiveTree, InputArchive, InvalidParameterError, OutputArchive
from lsst.pex.config import ChoiceField, Config, ListField, RangeField
from lsst.pex.config import Field as ConfigField
from lsst.sphgeom import AngleInterval, NormalizedAngleInterval, Region
from lsst.sphgeom import Box as SkyBox

from .matching import unit_vectors
from .tract import Tract, TractGrid


class RingsSkyMapConfig(Config):
    """Parameters of a rings sky map."""

    numRings = RangeField(doc="Number of rings between the polar caps.", dtype=int, min=1)
    raStart = ConfigField[float](doc="RA of the first tract of each ring (degrees).", default=0.0)
    projection = ChoiceField[str](
        doc="Projection of the tracts.", dtype=str, default="TAN", allowed={"TAN": "Gnomonic projection."}
    )
    pixelScale = RangeField(
        doc="Pixel scale (arcsec).", dtype=float, default=0.333, min=0.0, inclusiveMin=False
    )
    rotation = ConfigField[float](
        doc="Position angle of the tracts' y axis, from north through east (degrees).", default=0.0
    )
    tractOverlap = RangeField(
        doc="Width added to the half-size of a tract beyond half a ring (degrees).",
        dtype=float,
        default=1.0,
        min=0.0,
    )
    patchInnerDimensions = ListField[int](
        doc="Size (x, y) of the part of a patch that overlaps no other patch (pixels).",
        dtype=int,
        default=[4000, 4000],
        length=2,
        itemCheck=lambda size: size > 0,
    )
    patchBorder = RangeField(
        doc="Width of the border shared with neighbouring patches (pixels).", dtype=int, default=100, min=0
    )

    def validate(self) -> None:
        """Check that a gnomonic projection can hold the tracts.

        Raises
        ------
        ValueError
            Raised if a tract would reach 90 degrees from its centre.
        """
        super().validate()
        reach = 90 / (self.numRings + 1) + self.tractOverlap
        if reach >= 90:
            raise ValueError(
                f"Tracts reaching {reach:g} degrees from their centre cannot be projected; "
                f"raise numRings={self.numRings} or lower tractOverlap={self.tractOverlap:g}."
            )


class RingsSkyMap:
    """A sky map of rings of constant declination, each divided evenly in right ascension.

    Tract 0 is the south polar cap, then follow the rings from south to north and, as the last tract, the
    north polar cap. A ring is pi / (numRings + 1) high; its tracts are as many as make each of them no wider
    than that along the ring's edge nearest to the equator.

    Parameters
    ----------
    config
        Parameters; copied, so that later changes have no effect.

    Raises
    ------
    ValueError
        Raised if the parameters are not valid (`lsst.pex.config.FieldValidationError` is one).
    """

    ConfigClass: ClassVar[type[Config]] = RingsSkyMapConfig

    def __init__(self, config: RingsSkyMapConfig):
        config.validate()
        self._config = RingsSkyMapConfig(**config.toDict())
        self._config.freeze()
        n_rings = config.numRings
        self._ring_size = math.pi / (n_rings + 1)
        edges = self._ring_size * (np.arange(n_rings + 1) + 0.5) - 0.5 * math.pi
        nearest_equator = np.minimum(np.abs(edges[:-1]), np.abs(edges[:-1] + self._ring_size))
        self._ring_counts = (2 * math.pi * np.cos(nearest_equator) / self._ring_size).astype(np.int64) + 1
        # Number of the first tract of each ring; the one after the last ring is the north polar cap.
        self._ring_starts = np.concatenate([[1], 1 + np.cumsum(self._ring_counts)])
        self._grid = TractGrid.covering(
            half_size=math.degrees(0.5 * self._ring_size) + config.tractOverlap,
            pixel_scale=config.pixelScale,
            rotation=config.rotation,
            patch_inner=(config.patchInnerDimensions[0], config.patchInnerDimensions[1]),
            patch_border=config.patchBorder,
        )

    @property
    def config(self) -> RingsSkyMapConfig:
        """Parameters of the map, frozen."""
        return self._config

    @property
    def n_patches(self) -> tuple[int, int]:
        """Number of patches (x, y) of every tract."""
        return self._grid.n_patches

    def __len__(self) -> int:
        return int(self._ring_starts[-1]) + 1

    def __getitem__(self, tract_id: int) -> Tract:
        if not 0 <= tract_id < len(self):
            raise IndexError(f"The sky map has tracts 0..{len(self) - 1}, not {tract_id}.")
        ring = int(np.searchsorted(self._ring_starts, tract_id, side="right")) - 1
        half, pole = 0.5 * self._ring_size, 0.5 * math.pi
        if ring == -1:
            return self._polar_cap(tract_id, -90.0, AngleInterval.fromRadians(-pole, half - pole))
        if ring == self._config.numRings:
            return self._polar_cap(tract_id, 90.0, AngleInterval.fromRadians(pole - half, pole))
        width = 2 * math.pi / int(self._ring_counts[ring])
        ra = math.radians(self._config.raStart) + width * (tract_id - int(self._ring_starts[ring]))
        dec = self._ring_size * (ring + 1) - pole
        longitudes = NormalizedAngleInterval.fromRadians(ra - 0.5 * width, ra + 0.5 * width)
        region = SkyBox(longitudes, AngleInterval.fromRadians(dec - half, dec + half))
        return Tract(tract_id, math.degrees(ra) % 360.0, math.degrees(dec), self._grid, region)

    def _polar_cap(self, tract_id: int, dec: float, latitudes: AngleInterval) -> Tract:
        return Tract(tract_id, 0.0, dec, self._grid, SkyBox(NormalizedAngleInterval.full(), latitudes))

    def find_tract_ids(self, ra: np.ndarray | float, dec: np.ndarray | float) -> np.ndarray:
        """Return the one tract each position belongs to.

        Parameters
        ----------
        ra, dec
            Positions, degrees; any shapes that broadcast.

        Returns
        -------
        tract_ids
            Tract numbers, int64; -1 where the position is not a number.
        """
        ra, dec = np.broadcast_arrays(
            np.radians(np.asarray(ra, dtype=np.float64)), np.radians(np.asarray(dec, dtype=np.float64))
        )
        known = np.isfinite(ra) & np.isfinite(dec)
        ra, dec = np.where(known, ra, 0.0), np.where(known, dec, 0.0)
        n_rings, first_edge = self._config.numRings, 0.5 * self._ring_size - 0.5 * math.pi
        ring = np.clip(np.floor((dec - first_edge) / self._ring_size), -1, n_rings).astype(np.int64)
        count = self._ring_counts[np.clip(ring, 0, n_rings - 1)]
        turn = np.mod(ra - math.radians(self._config.raStart), 2 * math.pi)
        in_ring = np.floor(turn / (2 * math.pi / count) + 0.5).astype(np.int64) % count
        tract_ids = self._ring_starts[np.clip(ring, 0, n_rings)] + np.where(ring < n_rings, in_ring, 0)
        return np.where(known, np.where(ring < 0, 0, tract_ids), -1)

    def find_tract(self, ra: float, dec: float) -> Tract:
        """Return the tract a position (degrees) belongs to.

        Raises
        ------
        ValueError
            Raised if the position is not a number.
        """
        tract_id = int(self.find_tract_ids(ra, dec))
        if tract_id < 0:
            raise ValueError(f"No tract at RA {ra}, Dec {dec}: expected two finite numbers, in degrees.")
        return self[tract_id]

    def find_overlapping(self, regions: Iterable[Region]) -> list[int]:
        """Return the tracts whose pixels overlap any of some regions of the sky, ascending.

        Parameters
        ----------
        regions
            Regions, `lsst.sphgeom.Region`.
        """
        found: set[int] = set()
        for region in regions:
            circle = region.getBoundingCircle()
            reach = circle.getOpeningAngle().asRadians() + self._grid.circumradius
            direction = circle.getCenter()
            cosines = self._centers @ (direction.x(), direction.y(), direction.z())
            for tract_id in np.nonzero(cosines >= math.cos(min(reach, math.pi)))[0]:
                if tract_id not in found and self[int(tract_id)].outer_polygon.overlaps(region) is not False:
                    found.add(int(tract_id))
        return sorted(found)

    @functools.cached_property
    def _centers(self) -> np.ndarray:
        """Unit vectors of the centres of all tracts, float64 (n, 3)."""
        tracts = [self[i] for i in range(len(self))]
        return unit_vectors(np.array([t.ra for t in tracts]), np.array([t.dec for t in tracts]))

    @functools.cached_property
    def sha1(self) -> bytes:
        """Hash of the parameters (20 bytes)."""
        text = json.dumps({"class": type(self).__name__, **self._config.toDict()}, sort_keys=True)
        return hashlib.sha1(text.encode(), usedforsecurity=False).digest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RingsSkyMap):
            return NotImplemented
        return bool(self._config.toDict() == other._config.toDict())

    def __hash__(self) -> int:
        return hash(self.sha1)

    def serialize(self, archive: OutputArchive[Any]) -> RingsSkyMapModel:
        """Write to an archive of `lsst.images`."""
        return RingsSkyMapModel(**self._config.toDict())

    @staticmethod
    def _get_archive_tree_type(pointer_type: type[pydantic.BaseModel]) -> type[RingsSkyMapModel]:
        return RingsSkyMapModel


class RingsSkyMapModel(ArchiveTree):
    """Stored form of a `RingsSkyMap`."""

    SCHEMA_NAME: ClassVar[str] = "secondlight_rings_sky_map"
    SCHEMA_VERSION: ClassVar[str] = "1.0.0"
    MIN_READ_VERSION: ClassVar[int] = 1
    SCHEMA_URL_BASE: ClassVar[str] = "https://secondlight.readthedocs.io/schemas"
    PUBLIC_TYPE: ClassVar[type] = RingsSkyMap

    numRings: int = pydantic.Field(description="Number of rings between the polar caps.")
    raStart: float = pydantic.Field(description="RA of the centre of the first tract of each ring, degrees.")
    projection: str = pydantic.Field(description="Projection of the tracts.")
    pixelScale: float = pydantic.Field(description="Pixel scale, arcsec.")
    rotation: float = pydantic.Field(description="Position angle of the tracts' y axis, degrees.")
    tractOverlap: float = pydantic.Field(description="Width added to the half-size of a tract, degrees.")
    patchInnerDimensions: list[int] = pydantic.Field(description="Inner size (x, y) of a patch, pixels.")
    patchBorder: int = pydantic.Field(description="Border of a patch, pixels.")

    def deserialize(self, archive: InputArchive[Any], **kwargs: Any) -> RingsSkyMap:
        """Read from an archive of `lsst.images`."""
        if kwargs:
            raise InvalidParameterError(f"Unrecognized parameters for RingsSkyMap: {set(kwargs)}.")
        config = RingsSkyMapConfig()
        for field in config.toDict():
            setattr(config, field, getattr(self, field))
        return RingsSkyMap(config)
