"""Second moments on the sky: along right ascension and declination, altitude and azimuth."""

from __future__ import annotations

__all__ = ("alt_az_moments", "parallactic_angle", "pixel_to_sky_jacobian", "sky_moments")

import erfa  # type: ignore[import-untyped]
import numpy as np
from lsst.images import DetectorFrame, SkyProjection, VisitImage

_ARCSEC_PER_RADIAN = 180 * 3600 / np.pi


def pixel_to_sky_jacobian(
    projection: SkyProjection[DetectorFrame], *, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Return d(east, north)/d(x, y) at positions, arcsec per pixel, (n, 2, 2); NaN where a position is NaN.

    East and north are taken at the position itself, so distortion and the convergence of meridians are in it.
    """
    usable = np.isfinite(x) & np.isfinite(y)
    result = np.full((len(x), 2, 2), np.nan)
    xs, ys = x[usable], y[usable]
    to_sky = projection.pixel_to_sky_transform
    center = to_sky.apply_forward(x=xs, y=ys)
    ra, dec = np.asarray(center.x), np.asarray(center.y)
    east = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)], axis=-1)
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], axis=-1)

    def vectors(dx: float, dy: float) -> np.ndarray:
        point = to_sky.apply_forward(x=xs + dx, y=ys + dy)
        return np.asarray(erfa.s2c(np.asarray(point.x), np.asarray(point.y)))

    steps = [vectors(0.5, 0.0) - vectors(-0.5, 0.0), vectors(0.0, 0.5) - vectors(0.0, -0.5)]
    for column, step in enumerate(steps):
        result[usable, 0, column] = np.sum(step * east, axis=-1) * _ARCSEC_PER_RADIAN
        result[usable, 1, column] = np.sum(step * north, axis=-1) * _ARCSEC_PER_RADIAN
    return result


def sky_moments(jacobian: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return moments ``[uu, vv, uv]`` in arcsec^2 (n, 3), u to the east and v to the north (spec 2.9).

    Parameters
    ----------
    jacobian
        Arcsec per pixel (n, 2, 2).
    moments
        Moments ``[xx, yy, xy]`` in pixel^2 (n, 3); rows that are not finite or not positive definite give
        NaN.
    """
    xx, yy, xy = moments.T
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(moments).all(axis=1) & (xx > 0) & (yy > 0) & (xx * yy > xy**2)
    matrix = np.where(valid[:, None, None], _symmetric(xx, yy, xy), np.nan)
    turned = jacobian @ matrix @ np.swapaxes(jacobian, 1, 2)
    return np.stack([turned[:, 0, 0], turned[:, 1, 1], turned[:, 0, 1]], axis=-1)


def alt_az_moments(moments: np.ndarray, angle: float) -> np.ndarray:
    """Return moments ``[altalt, azaz, altaz]`` (n, 3) of moments ``[uu, vv, uv]`` about east and north.

    Parameters
    ----------
    moments
        Moments along east and north (n, 3).
    angle
        Parallactic angle, radians: direction of the zenith, from north through east.
    """
    axes = np.array([[np.sin(angle), np.cos(angle)], [-np.cos(angle), np.sin(angle)]])
    turned = axes @ _symmetric(*moments.T) @ axes.T
    return np.stack([turned[:, 0, 0], turned[:, 1, 1], turned[:, 0, 1]], axis=-1)


def _symmetric(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.array([[xx, xy], [xy, yy]]), -1, 0)


def parallactic_angle(exposure: VisitImage) -> float:
    """Return the parallactic angle of an image in the middle of its exposure, radians.

    It is taken at the direction the telescope tracked, or at the centre of the image if that is not recorded;
    UT1 is taken as UTC, which matters less than 15 arcsec.

    Raises
    ------
    ValueError
        Raised if the place or the time of the observation is not recorded.
    """
    info = exposure.obs_info
    if info.location is None or info.datetime_begin is None:
        raise ValueError("the observation records no place or no time")
    begin = info.datetime_begin
    time = (begin + 0.5 * (info.datetime_end - begin) if info.datetime_end is not None else begin).utc
    if info.tracking_radec is not None:
        ra, dec = info.tracking_radec.icrs.ra.rad, info.tracking_radec.icrs.dec.rad
    else:
        box = exposure.bbox
        center = exposure.sky_projection.pixel_to_sky_transform.apply_forward(
            x=0.5 * (box.x.min + box.x.max), y=0.5 * (box.y.min + box.y.max)
        )
        ra, dec = center.x, center.y
    hour_angle = erfa.era00(time.jd1, time.jd2) + info.location.lon.rad - ra
    latitude = info.location.lat.rad
    return float(
        np.arctan2(np.sin(hour_angle), np.cos(dec) * np.tan(latitude) - np.sin(dec) * np.cos(hour_angle))
    )
