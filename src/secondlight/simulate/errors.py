"""Errors of the calibrations that come with the images, drawn once per visit."""

from __future__ import annotations

__all__ = ("AstrometricError", "astrometric_error", "zero_point_error")

import dataclasses

from .randomness import rng
from .scene import Scene
from .scene_parts import Visit


@dataclasses.dataclass(frozen=True)
class AstrometricError:
    """What a visit's WCS claims minus the truth.

    Parameters
    ----------
    east, north
        Offset of the boresight, arcsec.
    rotation
        Rotation of the camera, arcsec, positive from north through east.
    scale
        Relative pixel scale.
    """

    east: float
    north: float
    rotation: float
    scale: float


def astrometric_error(scene: Scene, visit: Visit) -> AstrometricError:
    """Return the error of a visit's WCS, the same for all detectors."""
    deviations = rng(scene, "astrometry", visit.id).normal(size=4)
    errors = scene.errors
    scales = (errors.pointing, errors.pointing, errors.rotation, errors.scale)
    return AstrometricError(*(float(d * s) for d, s in zip(deviations, scales, strict=True)))


def zero_point_error(scene: Scene, visit: Visit) -> float:
    """Return the zero point that a visit's images claim minus the true one, mag."""
    return float(rng(scene, "zero point", visit.id).normal() * scene.errors.zero_point)
