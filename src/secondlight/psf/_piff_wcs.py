"""Coordinates in which Piff may model a PSF, as GalSim mappings from parent pixels."""

from __future__ import annotations

__all__ = ("PiffCoordinates", "piff_coordinates", "pixel_scale")

from typing import Any, NamedTuple

import astropy.units as u
import galsim
import numpy as np
from lsst.images import VisitImage

_ARCSEC = u.rad.to(u.arcsec)


class PiffCoordinates(NamedTuple):
    """How Piff sees positions.

    Attributes
    ----------
    wcs
        Mapping from parent pixels to model coordinates, arcsec.
    keys
        Star properties that the polynomial depends on.
    pointing
        Centre of the tangent plane, for sky coordinates only.
    scale
        Size of a model pixel per image pixel, arcsec.
    """

    wcs: Any
    keys: tuple[str, str]
    pointing: galsim.CelestialCoord | None
    scale: float


def _center(exposure: VisitImage) -> tuple[float, float]:
    box = exposure.bbox
    return 0.5 * (box.x.min + box.x.max), 0.5 * (box.y.min + box.y.max)


def pixel_scale(exposure: VisitImage) -> float:
    """Return the square root of the sky area of a pixel at the centre of an image, arcsec."""
    x, y = _center(exposure)
    offset = np.array([0.5, -0.5, 0.0, 0.0])
    sky = exposure.sky_projection.pixel_to_sky(x=x + offset, y=y + offset[::-1])
    east, west, north, south = sky.cartesian.xyz.value.T
    return float(np.sqrt(np.linalg.norm(np.cross(east - west, north - south))) * _ARCSEC)


def piff_coordinates(exposure: VisitImage, kind: str) -> PiffCoordinates:
    """Return the mapping of an image for "pixel", "field" or "sky" coordinates."""
    if kind == "pixel":
        scale = _short(pixel_scale(exposure))
        return PiffCoordinates(galsim.PixelScale(scale), ("x", "y"), None, scale)
    wcs, pointing = _sky(exposure) if kind == "sky" else (_field(exposure), None)
    return PiffCoordinates(wcs, ("u", "v"), pointing, _short(_smallest_scale(wcs, exposure)))


def _short(scale: float) -> float:
    """Return a scale rounded down to single precision.

    Piff rejects every star if ``size * scale / scale`` comes out above ``size`` in floating point; with few
    digits the product is exact.
    """
    return float(np.nextafter(np.float32(scale), np.float32(0.0)))


def _smallest_scale(wcs: galsim.BaseWCS, exposure: VisitImage) -> float:
    """Return the smallest scale at the centre, corners and edges of an image: it fits every stamp."""
    box = exposure.bbox
    xs, ys = (np.linspace(side.min, side.max, 3) for side in (box.x, box.y))
    return min(float(wcs.maxLinearScale(galsim.PositionD(x, y))) for x in xs for y in ys)


def _sky(exposure: VisitImage) -> tuple[galsim.RaDecFunction, galsim.CelestialCoord]:
    to_sky = exposure.sky_projection.pixel_to_sky_transform

    def radec(x: Any, y: Any) -> tuple[Any, Any]:
        point = to_sky.apply_forward(x=x, y=y)
        return point.x, point.y

    x, y = _center(exposure)
    ra, dec = radec(x, y)
    pointing = galsim.CelestialCoord(ra * galsim.radians, dec * galsim.radians)
    return galsim.RaDecFunction(radec), pointing


def _field(exposure: VisitImage) -> galsim.UVFunction:
    to_field = exposure.detector.to_field_angle

    def u_arcsec(x: Any, y: Any) -> Any:
        return to_field.apply_forward(x=x, y=y).x * _ARCSEC

    def v_arcsec(x: Any, y: Any) -> Any:
        return to_field.apply_forward(x=x, y=y).y * _ARCSEC

    return galsim.UVFunction(u_arcsec, v_arcsec)
