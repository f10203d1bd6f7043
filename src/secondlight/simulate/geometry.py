"""Where the simulated camera's detectors are: on the sky, in the focal plane, on the sky map."""

from __future__ import annotations

__all__ = (
    "DetectorGeometry",
    "make_camera_detector",
    "nominal_geometry",
    "true_geometry",
    "vignetted",
)

import dataclasses

import numpy as np
from lsst.images import Box
from lsst.images.cameras import Detector

from ..instruments.camera import make_detector
from .errors import astrometric_error
from .names import INSTRUMENT, detector_name
from .scene import Scene, SceneError
from .scene_parts import Visit
from .wcs import DetectorGeometry


def true_geometry(scene: Scene, visit: Visit, detector: int) -> DetectorGeometry:
    """Return where the pixels of a detector really look.

    Raises
    ------
    SceneError
        Raised if the camera has no such detector.
    """
    camera = scene.camera
    if detector not in camera.detectors:
        raise SceneError(
            f"Scene {scene.name}: the camera has detectors 0 to {camera.detectors[-1]}, not {detector}."
        )
    x, y = camera.center(detector)
    return DetectorGeometry(
        visit=visit.id,
        detector=detector,
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
    return dataclasses.replace(
        true,
        ra=float(ra),
        dec=float(dec),
        rotation=true.rotation + error.rotation / 3600,
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
