"""Where the simulated camera's detectors are: on the sky, in the focal plane, on the sky map."""

from __future__ import annotations

__all__ = (
    "DetectorGeometry",
    "check_footprint",
    "make_camera_detector",
    "nominal_geometry",
    "tracts_of",
    "true_geometry",
    "vignetted",
    "zero_point_error",
)

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from lsst.images import Box
from lsst.images.cameras import Detector

from ..instruments.camera import make_detector
from ..sky.matching import angular_separation, unit_vectors
from ..sky.sky_map import RingsSkyMap, RingsSkyMapConfig
from .errors import astrometric_error, zero_point_error
from .names import INSTRUMENT, detector_name
from .scene import Scene, SceneError
from .scene_parts import Visit
from .wcs import DetectorGeometry

_SAMPLES = 17
"""Positions along each side of a detector at which its tracts are looked up."""


def true_geometry(scene: Scene, visit: Visit, detector: int) -> DetectorGeometry:
    """Return where the pixels of a detector really look.

    Raises
    ------
    SceneError
        Raised if the camera has no such detector.
    """
    camera = scene.camera
    scene.check_detector(detector)
    x, y = camera.center(detector)
    return DetectorGeometry(
        width=camera.width,
        height=camera.height,
        boresight_x=0.5 * (camera.width - 1) - x,
        boresight_y=0.5 * (camera.height - 1) - y,
        ra=visit.ra,
        dec=visit.dec,
        rotation=visit.rotation,
        pixel_scale=camera.pixel_scale,
        distortion=camera.distortion,
        corner_radius=camera.corner_radius,
    )


def nominal_geometry(scene: Scene, visit: Visit, detector: int) -> DetectorGeometry:
    """Return where an image claims that its pixels look: the truth plus the visit's error.

    Raises
    ------
    SceneError
        Raised if the camera has no such detector.
    """
    true, error = true_geometry(scene, visit, detector), astrometric_error(scene, visit)
    # The unrotated, undistorted camera at the same boresight turns offsets in arcsec into positions.
    plain = dataclasses.replace(
        true, boresight_x=0.0, boresight_y=0.0, rotation=0.0, pixel_scale=1.0, distortion=0.0
    )
    ra, dec = plain.pixel_to_sky(x=np.array(-error.east), y=np.array(error.north))
    moved = true.pointed_at(ra=float(ra), dec=float(dec))
    return dataclasses.replace(
        moved,
        rotation=moved.rotation + error.rotation / 3600,
        pixel_scale=true.pixel_scale * (1 + error.scale),
    )


def make_camera_detector(scene: Scene, visit: Visit, detector: int) -> Detector:
    """Return a detector with its place in the focal plane (field angles without distortion)."""
    camera = scene.camera
    x, y = camera.center(detector)
    return make_detector(
        instrument=INSTRUMENT,
        detector=detector,
        name=detector_name(detector),
        bbox=Box.factory[0 : camera.height, 0 : camera.width],
        pixel_size=camera.pixel_size,
        plate_scale=camera.pixel_scale / camera.pixel_size,
        center=(x * camera.pixel_size, y * camera.pixel_size),
        visit=visit.id,
    )


def vignetted(scene: Scene, detector: int) -> np.ndarray:
    """Return which pixels of a detector get no light, bool (height, width)."""
    camera = scene.camera
    x, y = camera.center(detector)
    dx = x + np.arange(camera.width) - 0.5 * (camera.width - 1)
    dy = y + np.arange(camera.height) - 0.5 * (camera.height - 1)
    edge = camera.vignetting_radius * camera.corner_radius
    dark: np.ndarray = dx[None, :] ** 2 + dy[:, None] ** 2 > edge**2
    return dark


def check_footprint(scene: Scene) -> None:
    """Check that every detector of every visit sees simulated sky that belongs to a tract of the sky map.

    Raises
    ------
    SceneError
        Raised if a detector does not; says which one, and what would help.
    """
    pointings = [
        _Pointing(visit, detector, true_geometry(scene, visit, detector))
        for visit in scene.visits
        for detector in scene.camera.detectors
    ]
    _check_inside_field(scene, pointings)
    if scene.field.tracts is not None:
        _check_on_tracts(scene, pointings, scene.field.tracts)


class _Pointing(NamedTuple):
    """One detector of one visit."""

    visit: Visit
    detector: int
    geometry: DetectorGeometry

    def __str__(self) -> str:
        return f"visit {self.visit.id}, detector {self.detector}"


def _check_inside_field(scene: Scene, pointings: Sequence[_Pointing]) -> None:
    """Raise unless all corners are inside the simulated circle; names the one that is farthest out."""
    field = scene.field
    center = unit_vectors(np.array(field.ra), np.array(field.dec))
    reaches = [
        angular_separation(np.linalg.norm(unit_vectors(*p.geometry.corners) - center, axis=-1)).max() / 3600
        for p in pointings
    ]
    farthest = int(np.argmax(reaches))
    reach = float(reaches[farthest])
    if reach > field.radius:
        raise SceneError(
            f"Scene {scene.name}, {pointings[farthest]}: a corner is {reach:.4f} degrees from the centre of "
            f"the field, but only {field.radius:g} degrees (field.radius) have objects. Point it closer to "
            f"RA {field.ra:g}, Dec {field.dec:g}, or let field.radius be at least {_round_up(reach):g}."
        )


def _check_on_tracts(scene: Scene, pointings: Sequence[_Pointing], tracts: Sequence[int]) -> None:
    """Raise unless the tracts exist and each detector sees sky that belongs to one of them."""
    sky_map = RingsSkyMap(RingsSkyMapConfig(numRings=scene.field.num_rings))
    unknown = [tract for tract in tracts if not 0 <= tract < len(sky_map)]
    if unknown:
        raise SceneError(
            f"Scene {scene.name}: field.tracts has {_listed(unknown)}, but the tracts of a sky map of "
            f"{scene.field.num_rings} rings (field.num_rings) are 0 to {len(sky_map) - 1}."
        )
    for pointing in pointings:
        seen = tracts_of(sky_map, pointing.geometry)
        if not set(seen) & set(tracts):
            raise SceneError(
                f"Scene {scene.name}, {pointing}: it sees tract {_listed(seen)} of the sky map, but "
                f"field.tracts has {_listed(tracts)} only. Add the tract, or leave out field.tracts to have "
                "all."
            )


def tracts_of(sky_map: RingsSkyMap, geometry: DetectorGeometry) -> list[int]:
    """Return the tracts that own some of the sky a detector sees, ascending."""
    x, y = np.meshgrid(
        np.linspace(-0.5, geometry.width - 0.5, _SAMPLES), np.linspace(-0.5, geometry.height - 0.5, _SAMPLES)
    )
    ra, dec = geometry.pixel_to_sky(x=x, y=y)
    return [int(tract) for tract in np.unique(sky_map.find_tract_ids(ra, dec))]


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _round_up(angle: float) -> float:
    """Return an angle rounded up to thousandths."""
    return math.ceil(1000 * angle) / 1000
