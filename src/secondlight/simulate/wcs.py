"""Where the pixels of a detector look: gnomonic projection, radial distortion, rotation."""

from __future__ import annotations

__all__ = ("DetectorGeometry",)

import dataclasses
import functools
import math
from typing import Self

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from lsst.images import Box, DetectorFrame, SkyProjection
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

from ..sky.matching import unit_vectors
from .names import INSTRUMENT

_ARCSEC = math.radians(1 / 3600)


@dataclasses.dataclass(frozen=True)
class DetectorGeometry:
    """The mapping between the pixels of one detector and the sky in one visit.

    A pixel at ``p`` (counted from the boresight) sees the tangent-plane position
    ``p (1 + distortion (|p| / corner_radius)^2)`` times the pixel scale, turned by the rotation. Unrotated,
    +y is north and +x is west: east is to the left, as on the sky.

    Parameters
    ----------
    width, height
        Number of pixels along x and y; the centre of the first is (0, 0).
    boresight_x, boresight_y
        Pixel of the boresight, which may be far off the detector.
    ra, dec
        Boresight, ICRS, degrees.
    rotation
        Angle from north to the +y direction, degrees, positive through east.
    pixel_scale
        Arcseconds per pixel at the boresight.
    distortion
        Relative radial distortion at the corner radius.
    corner_radius
        Distance of the farthest corner of the camera from the boresight, pixels.
    """

    width: int
    height: int
    boresight_x: float
    boresight_y: float
    ra: float
    dec: float
    rotation: float
    pixel_scale: float
    distortion: float
    corner_radius: float

    @property
    def bbox(self) -> Box:
        """Pixels of the detector; the first is (0, 0)."""
        return Box.factory[0 : self.height, 0 : self.width]

    def pointed_at(self, *, ra: float, dec: float) -> Self:
        """Return the camera moved to another boresight (degrees) along the great circle, without a turn.

        The rotation is that from north there: it changes with the convergence of the meridians, much so
        near a pole.
        """
        moved = dataclasses.replace(self, ra=ra, dec=dec, rotation=0.0)
        here, _, north = self._axes
        there, *east_north = moved._axes
        carried = north - (there @ north) / (1 + here @ there) * (here + there)
        angle = math.degrees(math.atan2(*(axis @ carried for axis in east_north)))
        return dataclasses.replace(moved, rotation=self.rotation + angle)

    def field(self, *, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return focal-plane positions (u, v): pixels from the boresight over the corner radius."""
        dx, dy = self._from_boresight(x, y)
        return dx / self.corner_radius, dy / self.corner_radius

    def pixel_to_sky(self, *, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sky positions (ra, dec), ICRS, degrees, of pixel positions."""
        vector = self._tangent_vector(x, y)
        ra = np.degrees(np.arctan2(vector[..., 1], vector[..., 0])) % 360.0
        dec = np.degrees(np.arctan2(vector[..., 2], np.hypot(vector[..., 0], vector[..., 1])))
        return ra, dec

    def sky_to_pixel(self, *, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixel positions (x, y) of sky positions in degrees.

        Positions that no pixel of an endless detector would see are NaN: 90 degrees and more from the
        boresight, or beyond the turning point of a negative distortion.
        """
        ra, dec = np.broadcast_arrays(np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64))
        axes = self._axes @ np.moveaxis(unit_vectors(ra, dec), -1, 0).reshape(3, -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.where(axes[0] > 0, axes[0], np.nan)
            plane = self._to_plane.T @ (axes[1:] / depth) / (self.pixel_scale * _ARCSEC)
        offset = plane * _undistort(self._cubic * np.sum(plane**2, axis=0))
        return self.boresight_x + offset[0].reshape(ra.shape), self.boresight_y + offset[1].reshape(ra.shape)

    def jacobian(self, *, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return d(pixel)/d(arcsec east, north) at pixel positions (n,), as matrices (n, 2, 2).

        East and north are taken at the positions themselves, so distortion and the convergence of meridians
        are in it.
        """
        offset = np.stack(self._from_boresight(x, y), axis=-1)
        stretch = (1 + self._cubic * np.sum(offset**2, axis=-1))[..., None, None] * np.eye(2)
        stretch = stretch + 2 * self._cubic * offset[..., :, None] * offset[..., None, :]
        ra, dec = (np.radians(angle) for angle in self.pixel_to_sky(x=x, y=y))
        east_north = np.stack(_east_north(ra, dec), axis=-2)
        length = np.linalg.norm(self._tangent_vector(x, y), axis=-1)[..., None, None]
        # A step in the tangent plane turns the line of sight by its part across that line, over its length.
        to_sky = east_north @ self._axes[1:].T / length
        matrix: np.ndarray = np.linalg.inv(self.pixel_scale * to_sky @ self._to_plane @ stretch)
        return matrix

    @property
    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Sky positions (ra, dec) of the outer corners of the detector, degrees, (4,) each."""
        right, top = self.width - 0.5, self.height - 0.5
        return self.pixel_to_sky(x=np.array([-0.5, right, right, -0.5]), y=np.array([-0.5, -0.5, top, top]))

    @property
    def region(self) -> ConvexPolygon:
        """Region of the sky between the outer corners."""
        return ConvexPolygon.convexHull(
            [UnitVector3d(LonLat.fromDegrees(r, d)) for r, d in zip(*self.corners, strict=True)]
        )

    @property
    def wcs(self) -> WCS:
        """The mapping as FITS describes it (first pixel 0 in its methods), exact: TAN-SIP of third order."""
        header = Header()
        sip = "-SIP" if self._cubic else ""
        matrix = self._to_plane * self.pixel_scale / 3600
        header["CTYPE1"], header["CTYPE2"] = f"RA---TAN{sip}", f"DEC--TAN{sip}"
        header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
        header["RADESYS"] = "ICRS"
        header["CRVAL1"], header["CRVAL2"] = self.ra, self.dec
        header["CRPIX1"], header["CRPIX2"] = self.boresight_x + 1, self.boresight_y + 1
        for (row, column), value in np.ndenumerate(matrix):
            header[f"CD{row + 1}_{column + 1}"] = float(value)
        if sip:
            header["A_ORDER"], header["B_ORDER"] = 3, 3
            for term in ("A_3_0", "A_1_2", "B_2_1", "B_0_3"):
                header[term] = self._cubic
        return WCS(header)

    def projection(self, *, visit: int, detector: int) -> SkyProjection[DetectorFrame]:
        """Return the mapping as images carry it; its inverse is found by iteration, to 1e-8 pixels.

        Parameters
        ----------
        visit, detector
            Whose pixels these are.
        """
        frame = DetectorFrame(instrument=INSTRUMENT, visit=visit, detector=detector, bbox=self.bbox)
        return SkyProjection.from_fits_wcs(self.wcs, frame, pixel_bounds=self.bbox)

    def _from_boresight(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = np.broadcast_arrays(np.asarray(x) - self.boresight_x, np.asarray(y) - self.boresight_y)
        return dx, dy

    def _tangent_vector(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the vectors (..., 3) from the observer to the tangent plane, which is at distance 1."""
        dx, dy = self._from_boresight(x, y)
        scale = self.pixel_scale * _ARCSEC * (1 + self._cubic * (dx**2 + dy**2))
        plane = np.stack([dx * scale, dy * scale], axis=-1) @ self._to_plane.T
        vector: np.ndarray = self._axes[0] + plane @ self._axes[1:]
        return vector

    @property
    def _cubic(self) -> float:
        """Coefficient of the distortion, per square pixel."""
        return self.distortion / self.corner_radius**2

    @functools.cached_property
    def _to_plane(self) -> np.ndarray:
        """Matrix from the camera's (x, y) to (east, north); it is orthogonal."""
        angle = math.radians(self.rotation)
        cos, sin = math.cos(angle), math.sin(angle)
        return np.array([[-cos, sin], [sin, cos]])

    @functools.cached_property
    def _axes(self) -> np.ndarray:
        """Rows: unit vectors of the boresight, and of east and north there."""
        ra, dec = np.array(self.ra), np.array(self.dec)
        return np.stack([unit_vectors(ra, dec), *_east_north(np.radians(ra), np.radians(dec))])


def _east_north(ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors (..., 3) to the east and to the north at positions in radians."""
    cos_ra, sin_ra, sin_dec = np.cos(ra), np.sin(ra), np.sin(dec)
    east = np.stack([-sin_ra, cos_ra, np.zeros_like(ra)], axis=-1)
    return east, np.stack([-sin_dec * cos_ra, -sin_dec * sin_ra, np.cos(dec)], axis=-1)


def _undistort(cubic: np.ndarray) -> np.ndarray:
    """Return the root next to 1 of ``q (1 + cubic q^2) = 1``; NaN where there is none (below -4/27).

    The trigonometric and hyperbolic forms of Cardano's solution.
    """
    angle = 0.5 * np.sqrt(27 * np.abs(cubic))
    with np.errstate(divide="ignore", invalid="ignore"):
        third = np.where(cubic < 0, np.sin(np.arcsin(angle) / 3), np.sinh(np.arcsinh(angle) / 3))
        return np.where(angle > 0, 3 * third / angle, 1.0)
