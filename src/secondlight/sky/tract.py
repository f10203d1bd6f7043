"""Tracts and patches: the pieces of a sky map, each tract with one pixel grid of its own."""

from __future__ import annotations

__all__ = ("Patch", "Tract", "TractGrid", "sky_polygon")

import dataclasses
import functools
import math
from collections.abc import Iterator

import numpy as np
from astropy.wcs import WCS
from lsst.images import Box, SkyProjection, TractFrame
from lsst.sphgeom import Box as SkyBox
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d


def sky_polygon(wcs: WCS, box: Box) -> ConvexPolygon:
    """Return the polygon on the sky of the outer edges of a pixel box."""
    x0, x1, y0, y1 = box.x.start - 0.5, box.x.stop - 0.5, box.y.start - 0.5, box.y.stop - 0.5
    ra, dec = wcs.wcs_pix2world([x0, x1, x1, x0], [y0, y0, y1, y1], 0)
    corners = zip(ra.tolist(), dec.tolist(), strict=True)
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(lon, lat)) for lon, lat in corners])


@dataclasses.dataclass(frozen=True)
class TractGrid:
    """Pixel grid shared by all tracts of a map: size, tangent point and division into patches.

    Parameters
    ----------
    pixel_scale
        Size of a pixel at the tangent point, arcsec.
    rotation
        Position angle of the y axis, from north through east, degrees.
    patch_inner
        Size (x, y) of the part of a patch that belongs to no other patch of the tract, pixels.
    patch_border
        Width of what a patch shares with its neighbours on each side, pixels.
    n_patches
        Number of patches (x, y).
    tangent_pixel
        Pixel (x, y) of the tangent point; the first pixel is (0, 0).
    """

    pixel_scale: float
    rotation: float
    patch_inner: tuple[int, int]
    patch_border: int
    n_patches: tuple[int, int]
    tangent_pixel: tuple[int, int]

    @classmethod
    def covering(
        cls,
        *,
        half_size: float,
        pixel_scale: float,
        rotation: float,
        patch_inner: tuple[int, int],
        patch_border: int,
    ) -> TractGrid:
        """Return the smallest grid of whole patches over a square that stands upright on the sky.

        Parameters
        ----------
        half_size
            Angle from the tangent point to the middle of each side of the square, degrees.
        pixel_scale, rotation, patch_inner, patch_border
            As for the class.
        """
        angle = math.radians(rotation)
        reach = math.degrees(math.tan(math.radians(half_size))) * 3600 / pixel_scale
        reach *= abs(math.cos(angle)) + abs(math.sin(angle))
        first, last = math.floor(0.5 - reach), math.ceil(reach - 0.5)
        size = last - first + 1
        n_x, n_y = (-(-size // inner) for inner in patch_inner)
        grown = (n_x * patch_inner[0] - size, n_y * patch_inner[1] - size)
        tangent = (grown[0] // 2 - first, grown[1] // 2 - first)
        return cls(pixel_scale, rotation, patch_inner, patch_border, (n_x, n_y), tangent)

    @property
    def bbox(self) -> Box:
        """All pixels of a tract; the first is (0, 0)."""
        (n_x, n_y), (inner_x, inner_y) = self.n_patches, self.patch_inner
        return Box.factory[0 : n_y * inner_y, 0 : n_x * inner_x]

    @functools.cached_property
    def circumradius(self) -> float:
        """Largest angle between the tangent point and a pixel, radians."""
        box, (x, y) = self.bbox, self.tangent_pixel
        reach_x = max(x - box.x.start, box.x.stop - x)
        reach_y = max(y - box.y.start, box.y.stop - y)
        return math.atan(math.hypot(reach_x, reach_y) * math.radians(self.pixel_scale / 3600))

    def patch_inner_bbox(self, x: int, y: int) -> Box:
        """Return the pixels that belong to a patch alone."""
        size_x, size_y = self.patch_inner
        return Box.factory[y * size_y : (y + 1) * size_y, x * size_x : (x + 1) * size_x]

    def patch_outer_bbox(self, x: int, y: int) -> Box:
        """Return the pixels of a patch with its border, which ends where the tract ends."""
        inner, border, tract = self.patch_inner_bbox(x, y), self.patch_border, self.bbox
        return Box.factory[
            max(inner.y.start - border, 0) : min(inner.y.stop + border, tract.y.stop),
            max(inner.x.start - border, 0) : min(inner.x.stop + border, tract.x.stop),
        ]

    def wcs(self, ra: float, dec: float) -> WCS:
        """Return the gnomonic (TAN) projection of the grid tangent at a sky position in degrees."""
        scale, angle = self.pixel_scale / 3600, math.radians(self.rotation)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.crval = [ra, dec]
        wcs.wcs.crpix = [self.tangent_pixel[0] + 1, self.tangent_pixel[1] + 1]
        wcs.wcs.cd = [[-cos, sin], [sin, cos]]
        wcs.wcs.set()
        return wcs


@dataclasses.dataclass(frozen=True)
class Patch:
    """A rectangle of a tract.

    Parameters
    ----------
    tract
        The tract it is part of.
    x, y
        Column and row in the tract's grid of patches.
    """

    tract: Tract
    x: int
    y: int

    @property
    def id(self) -> int:
        """Number of the patch in its tract: row by row."""
        return self.y * self.tract.grid.n_patches[0] + self.x

    @property
    def inner_bbox(self) -> Box:
        """Pixels that belong to this patch alone."""
        return self.tract.grid.patch_inner_bbox(self.x, self.y)

    @property
    def outer_bbox(self) -> Box:
        """Pixels including those shared with neighbouring patches."""
        return self.tract.grid.patch_outer_bbox(self.x, self.y)

    @property
    def inner_polygon(self) -> ConvexPolygon:
        """Sky region of ``inner_bbox``."""
        return sky_polygon(self.tract.wcs, self.inner_bbox)

    @property
    def outer_polygon(self) -> ConvexPolygon:
        """Sky region of ``outer_bbox``."""
        return sky_polygon(self.tract.wcs, self.outer_bbox)


@dataclasses.dataclass(frozen=True)
class Tract:
    """A large square of the sky with one projection.

    Parameters
    ----------
    id
        Number of the tract in its map.
    ra, dec
        Centre (the tangent point), degrees.
    grid
        Pixel grid.
    inner_region
        Part of the sky that belongs to this tract alone: a segment of a ring, or a polar cap.
    """

    id: int
    ra: float
    dec: float
    grid: TractGrid
    inner_region: SkyBox

    @property
    def bbox(self) -> Box:
        """All pixels of the tract."""
        return self.grid.bbox

    @functools.cached_property
    def wcs(self) -> WCS:
        """Pixels (first one 0) to ICRS sky."""
        return self.grid.wcs(self.ra, self.dec)

    @functools.cached_property
    def outer_polygon(self) -> ConvexPolygon:
        """Sky region of all pixels; overlaps that of neighbouring tracts."""
        return sky_polygon(self.wcs, self.bbox)

    def sky_projection(self, skymap: str) -> SkyProjection[TractFrame]:
        """Return the projection as the images of this tract carry it.

        Parameters
        ----------
        skymap
            Name of the sky map.
        """
        frame = TractFrame(skymap=skymap, tract=self.id, bbox=self.bbox)
        return SkyProjection.from_fits_wcs(self.wcs, frame, self.bbox)

    def inner_contains(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Tell which positions (degrees) are in the inner region; both sides of a shared border count.

        Use `RingsSkyMap.find_tract_ids` where a position must belong to exactly one tract.
        """
        return _contains(self.inner_region, ra, dec)

    def outer_contains(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Tell which positions (degrees) are on the pixels of the tract."""
        return _contains(self.outer_polygon, ra, dec)

    def patch(self, patch_id: int) -> Patch:
        """Return a patch by its number.

        Raises
        ------
        IndexError
            Raised if the tract has no such patch.
        """
        n_x, n_y = self.grid.n_patches
        if not 0 <= patch_id < n_x * n_y:
            raise IndexError(f"Tract {self.id} has patches 0..{n_x * n_y - 1}, not {patch_id}.")
        return Patch(self, patch_id % n_x, patch_id // n_x)

    def patches(self) -> Iterator[Patch]:
        """Iterate over all patches in the order of their numbers."""
        n_x, n_y = self.grid.n_patches
        return (self.patch(i) for i in range(n_x * n_y))

    def find_patch_ids(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Return the patch whose inner box holds each position (degrees); -1 off the tract."""
        ra, dec = np.broadcast_arrays(np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64))
        on_tract = self.outer_contains(ra, dec)
        x, y = self.wcs.wcs_world2pix(ra[on_tract], dec[on_tract], 0)
        (n_x, n_y), (size_x, size_y) = self.grid.n_patches, self.grid.patch_inner
        column = np.clip(np.floor((x + 0.5) / size_x).astype(np.int64), 0, n_x - 1)
        row = np.clip(np.floor((y + 0.5) / size_y).astype(np.int64), 0, n_y - 1)
        patch_ids = np.full(ra.shape, -1, dtype=np.int64)
        patch_ids[on_tract] = row * n_x + column
        return patch_ids


def _contains(region: SkyBox | ConvexPolygon, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Tell which positions (degrees) are in a region; those that are not numbers are not."""
    ra, dec = np.broadcast_arrays(np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64))
    inside = np.isfinite(ra) & np.isfinite(dec)
    inside[inside] = region.contains(np.radians(ra[inside]), np.radians(dec[inside]))
    return inside
