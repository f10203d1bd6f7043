"""The light of the sky, and the response of the flat field that was made with such light."""

from __future__ import annotations

__all__ = ("illumination", "sky_field", "true_background")

import math

import astropy.units as u
import numpy as np
from lsst.images import BackgroundMap, Box, Image
from lsst.images.fields import ChebyshevField

from ..background.fields import make_background
from .randomness import rng
from .scene import Scene
from .scene_parts import Visit

_MEAN_SQUARE = 1 / 3
"""Mean over a rectangular camera of the squared distance from its centre, in units of its corner's."""


def sky_field(scene: Scene, visit: Visit, detector: int) -> ChebyshevField:
    """Return the true sky in one snap of a detector, in counts (vignetting is not in it).

    It is a plane and a bowl in focal-plane positions, and exactly a Chebyshev polynomial of second order in
    pixels.
    """
    return _sky(scene, visit, detector, snaps=1)


def true_background(scene: Scene, visit: Visit, detector: int) -> BackgroundMap:
    """Return the true sky in all snaps of a visit together, in counts, as a background dataset."""
    return make_background(_sky(scene, visit, detector, snaps=scene.snaps), "true sky")


def illumination(scene: Scene, detector: int) -> Image | None:
    """Return the flat of the background over the flat of the stars; `None` if they are the same.

    The ratio multiplies the light of stars in images that were divided by the flat of the background. It is
    a plane and a bowl, the same in all visits, 1 in the mean over the camera.
    """
    amplitude = scene.sky.illumination
    if amplitude == 0.0:
        return None
    # The tilt brings the deviation at the farthest corner, where the bowl's is 1 - _MEAN_SQUARE, up to 1.
    pattern = _quadratic(
        scene,
        detector,
        constant=1.0 - amplitude * _MEAN_SQUARE,
        slope=amplitude * _MEAN_SQUARE,
        direction=_direction(scene, "illumination"),
        curvature=amplitude,
    )
    return pattern.render(dtype=np.float32)


def _sky(scene: Scene, visit: Visit, detector: int, *, snaps: int) -> ChebyshevField:
    """Return the sky in a number of snaps, counts."""
    level = scene.sky_electrons(visit) / scene.electronics.gain * snaps / scene.snaps
    return _quadratic(
        scene,
        detector,
        constant=level,
        slope=level * scene.sky.gradient,
        direction=_direction(scene, "sky", visit.id),
        curvature=level * scene.sky.bowl,
        unit=u.adu,
    )


def _direction(scene: Scene, purpose: str, *ids: int) -> float:
    """Return a direction in the focal plane, radians from +x to +y."""
    return float(rng(scene, f"{purpose} direction", *ids).uniform(0.0, 2.0 * math.pi))


def _quadratic(
    scene: Scene,
    detector: int,
    *,
    constant: float,
    slope: float,
    direction: float,
    curvature: float,
    unit: u.UnitBase | None = None,
) -> ChebyshevField:
    """Return ``constant + slope * (f along a direction) + curvature * |f|^2`` over a detector's pixels.

    Here ``f`` is the focal-plane position over the corner radius of the camera.
    """
    camera = scene.camera
    radius = camera.corner_radius
    center_x, center_y = (coordinate / radius for coordinate in camera.center(detector))
    half_x, half_y = 0.5 * camera.width / radius, 0.5 * camera.height / radius
    slope_x, slope_y = slope * math.cos(direction), slope * math.sin(direction)
    # Over a detector f = center + half * t, with t from -1 to 1, and t^2 = (1 + T2(t)) / 2.
    coefficients = np.zeros((3, 3))
    coefficients[0, 0] = (
        constant
        + slope_x * center_x
        + slope_y * center_y
        + curvature * (center_x**2 + center_y**2 + 0.5 * (half_x**2 + half_y**2))
    )
    coefficients[0, 1] = half_x * (slope_x + 2 * curvature * center_x)
    coefficients[1, 0] = half_y * (slope_y + 2 * curvature * center_y)
    coefficients[0, 2] = 0.5 * curvature * half_x**2
    coefficients[2, 0] = 0.5 * curvature * half_y**2
    return ChebyshevField(Box.factory[0 : camera.height, 0 : camera.width], coefficients, unit=unit)
