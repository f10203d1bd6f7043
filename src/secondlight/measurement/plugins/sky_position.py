"""Positions on the sky and in the focal plane, and the local scale (spec reprocess 17.11, 17.16)."""

from __future__ import annotations

__all__ = (
    "FPPositionPlugin",
    "JacobianConfig",
    "JacobianPlugin",
    "LocalWcsPlugin",
    "SkyCoordPlugin",
    "local_sky",
)

from typing import NamedTuple

import lsst.pex.config as pex_config
import numpy as np
from lsst.images import DetectorFrame, SkyProjection
from lsst.images.cameras import Detector

from secondlight.catalog.schema import Schema

from ..plugin import SHAPE_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources

_STEP = 0.5
_ARCSEC = np.pi / 180.0 / 3600.0


class LocalSky(NamedTuple):
    """Sky at n positions: ICRS ra, dec in radians (n); d(east, north)/d(x, y) in rad/pixel (n, 2, 2)."""

    ra: np.ndarray
    dec: np.ndarray
    jacobian: np.ndarray


def local_sky(projection: SkyProjection[DetectorFrame], *, x: np.ndarray, y: np.ndarray) -> LocalSky:
    """Return sky positions and the projection linearised there, on the tangent plane.

    Positions that are not finite give NaN.  The derivatives are central differences of unit vectors, which
    holds at the poles.
    """
    ra, dec = _sky(projection, x, y)
    vector = _vectors(ra, dec)
    east = np.column_stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)])
    north = np.cross(vector, east)
    jacobian = np.empty((len(ra), 2, 2))
    for axis, (dx, dy) in enumerate([(_STEP, 0.0), (0.0, _STEP)]):
        ahead = _vectors(*_sky(projection, x + dx, y + dy))
        back = _vectors(*_sky(projection, x - dx, y - dy))
        slope = (ahead - back) / (2.0 * _STEP)
        jacobian[:, 0, axis] = np.sum(slope * east, axis=1)
        jacobian[:, 1, axis] = np.sum(slope * north, axis=1)
    return LocalSky(ra, dec, jacobian)


def _sky(
    projection: SkyProjection[DetectorFrame], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    finite = np.isfinite(x) & np.isfinite(y)
    ra, dec = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    if finite.any():
        point = projection.pixel_to_sky_transform.apply_forward(x=x[finite], y=y[finite])
        ra[finite], dec[finite] = np.mod(point.x, 2.0 * np.pi), point.y
    return ra, dec


def _vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    return np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def _projection(sources: MeasurementSources) -> SkyProjection[DetectorFrame]:
    projection = sources.exposure.sky_projection
    if projection is None:
        raise ValueError("The image has no sky projection.")
    return projection


@register("base_SkyCoord")
class SkyCoordPlugin(MeasurementPlugin):
    """Right ascension and declination of the centroid slot, with errors."""

    order = SHAPE_ORDER

    def declare(self, schema: Schema) -> None:
        """Add errors and covariance; the coordinates themselves are in every source schema."""
        for axis, what in (("ra", "ra times cos(dec)"), ("dec", "dec")):
            doc, ucd = f"1-sigma uncertainty of {what}", f"stat.error;pos.eq.{axis}"
            schema.add(f"coord_{axis}Err", np.float32, doc, unit="rad", ucd=ucd)
        doc, ucd = "covariance of ra times cos(dec) and dec", "stat.covariance;pos.eq.ra;pos.eq.dec"
        schema.add("coord_ra_dec_Cov", np.float32, doc, unit="rad2", ucd=ucd)

    def measure(self, sources: MeasurementSources) -> None:
        """Project the centroid slot; a position that is not finite gives NaN."""
        catalog = sources.catalog
        x, y = np.asarray(catalog["slot_Centroid_x"]), np.asarray(catalog["slot_Centroid_y"])
        sky = local_sky(_projection(sources), x=x, y=y)
        catalog["coord_ra"], catalog["coord_dec"] = sky.ra, sky.dec
        if "slot_Centroid_xErr" not in catalog or "slot_Centroid_yErr" not in catalog:
            return
        pixel = np.zeros((len(x), 2, 2))
        pixel[:, 0, 0] = np.asarray(catalog["slot_Centroid_xErr"], dtype=np.float64) ** 2
        pixel[:, 1, 1] = np.asarray(catalog["slot_Centroid_yErr"], dtype=np.float64) ** 2
        if "slot_Centroid_x_y_Cov" in catalog:
            pixel[:, 0, 1] = pixel[:, 1, 0] = catalog["slot_Centroid_x_y_Cov"]
        with np.errstate(invalid="ignore"):
            covariance = sky.jacobian @ pixel @ sky.jacobian.transpose(0, 2, 1)
            catalog["coord_raErr"] = np.sqrt(covariance[:, 0, 0])
            catalog["coord_decErr"] = np.sqrt(covariance[:, 1, 1])
        catalog["coord_ra_dec_Cov"] = covariance[:, 0, 1]


class JacobianConfig(MeasurementPluginConfig):
    """Configuration of `JacobianPlugin`."""

    pixelScale = pex_config.Field[float](doc="Nominal pixel scale, arcsec.", default=0.5)


@register("base_Jacobian")
class JacobianPlugin(MeasurementPlugin):
    """Area of a pixel on the sky in units of the nominal one."""

    ConfigClass = JacobianConfig
    config: JacobianConfig
    order = SHAPE_ORDER

    def declare(self, schema: Schema) -> None:
        """Add value and flag."""
        schema.add(self.column("value"), np.float64, "pixel area on the sky over its nominal value")
        schema.add_flag(self.column("flag"), "general failure")

    def measure(self, sources: MeasurementSources) -> None:
        """Evaluate at the centroid slot."""
        x, y = sources.centroids
        jacobian = local_sky(_projection(sources), x=x, y=y).jacobian
        area = np.abs(jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0])
        value = area / (self.config.pixelScale * _ARCSEC) ** 2
        self.write(sources, value=value, flag=~np.isfinite(value))


@register("base_LocalWcs")
class LocalWcsPlugin(MeasurementPlugin):
    """The sky projection linearised at the source."""

    order = SHAPE_ORDER

    def declare(self, schema: Schema) -> None:
        """Add flag and matrix."""
        schema.add_flag(self.column("flag"), "general failure")
        for i in (1, 2):
            for j in (1, 2):
                doc = f"d({('xi', 'eta')[i - 1]})/d({'xy'[j - 1]}) at the source"
                schema.add(self.column(f"CDMatrix_{i}_{j}"), np.float64, doc, unit="rad / pix")

    def measure(self, sources: MeasurementSources) -> None:
        """Evaluate at the centroid slot."""
        x, y = sources.centroids
        jacobian = local_sky(_projection(sources), x=x, y=y).jacobian
        self.write(
            sources,
            CDMatrix_1_1=jacobian[:, 0, 0],
            CDMatrix_1_2=jacobian[:, 0, 1],
            CDMatrix_2_1=jacobian[:, 1, 0],
            CDMatrix_2_2=jacobian[:, 1, 1],
            flag=~np.isfinite(jacobian).all(axis=(1, 2)),
        )


@register("base_FPPosition")
class FPPositionPlugin(MeasurementPlugin):
    """Position in the focal plane."""

    order = SHAPE_ORDER

    def declare(self, schema: Schema) -> None:
        """Add position and flags."""
        for axis in "xy":
            schema.add(self.column(axis), np.float64, f"{axis} in the focal plane", unit="mm")
        schema.add_flag(self.column("flag"), "general failure")
        schema.add_flag(self.column("missingDetector_flag"), "the image has no detector")

    def measure(self, sources: MeasurementSources) -> None:
        """Transform the centroid slot."""
        detector: Detector | None = sources.exposure.detector
        if detector is None:
            self.write(sources, missingDetector_flag=np.ones(len(sources), dtype=bool))
            return
        x, y = sources.centroids
        finite = np.isfinite(x) & np.isfinite(y)
        fx, fy = np.full(len(x), np.nan), np.full(len(x), np.nan)
        if finite.any():
            point = detector.to_focal_plane.apply_forward(x=x[finite], y=y[finite])
            fx[finite], fy[finite] = point.x, point.y
        self.write(sources, x=fx, y=fy, flag=~finite)
