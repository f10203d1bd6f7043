"""The batch of sources that plugins measure: positions, shapes, PSF and mask, worked out once for all."""

from __future__ import annotations

__all__ = ("MeasurementSources",)

import functools

import numpy as np
from lsst.images import VisitImage
from lsst.images.psfs import PointSpreadFunction

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.mask_planes import mask_of
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import image_box
from secondlight.psf.evaluation import (
    InvalidPsfError,
    StellarStamps,
    kernel_stamps,
    psf_shapes,
    stellar_stamps,
    takes_color,
)

from .pixels import SourcePixels

_SINGULAR = 1.0 + 1e-6
"""Least ratio of Ixx Iyy to Ixy^2 of a usable shape."""


_COLOR = "psf_color_value"
"""Column with the colour of a source for a PSF that depends on it."""


class MeasurementSources:
    """What plugins see of the sources of one image.

    Parameters
    ----------
    catalog
        Sources, measured in place, with footprints.
    exposure
        Image.  Plugins read pixels through ``pixels``, not from here.
    pixels
        Working image and own pixels of the sources, row-aligned with the catalog.
    photo_calib
        Photometric calibration, for plugins that report it.

    Notes
    -----
    What depends on the centroid or shape slot is read on first use, so a plugin must not ask for it before
    the slot's plugin has run.
    """

    def __init__(
        self,
        catalog: SourceCatalog,
        exposure: VisitImage,
        pixels: SourcePixels,
        *,
        photo_calib: PhotoCalib | None = None,
    ) -> None:
        self.catalog = catalog
        self.exposure = exposure
        self.pixels = pixels
        self.photo_calib = photo_calib
        self._mask_images: dict[tuple[str, ...], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.catalog)

    @property
    def footprints(self) -> Footprints:
        """Footprints of the sources; empty ones if the catalog has none."""
        footprints = self.catalog.footprints
        return Footprints.empty(len(self)) if footprints is None else footprints

    @functools.cached_property
    def bounding_boxes(self) -> np.ndarray:
        """Inclusive boxes ``(x0, y0, x1, y1)`` of the footprints inside the image, int32 (n, 4)."""
        x0, y0, x1, y1 = self.box
        return self.footprints.clipped(x0=x0, y0=y0, x1=x1, y1=y1).bounding_boxes()

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Inclusive pixel box ``(x0, y0, x1, y1)`` of the image."""
        return image_box(self.exposure)

    # Positions and shapes ---------------------------------------------------------------------------------

    @functools.cached_property
    def first_peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """First peak of each footprint, parent pixels, float64 (n), (n); NaN without a peak."""
        footprints = self.footprints
        x, y = np.full(len(self), np.nan), np.full(len(self), np.nan)
        has_peak = np.diff(footprints.peak_offsets) > 0
        first = footprints.peak_offsets[:-1][has_peak]
        x[has_peak], y[has_peak] = footprints.peak_x[first], footprints.peak_y[first]
        return x, y

    @functools.cached_property
    def _slot_centroids(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.catalog["slot_Centroid_x"]), np.array(self.catalog["slot_Centroid_y"])

    @functools.cached_property
    def centroids(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (x, y) to measure at: the centroid slot, or the first peak where that is not finite."""
        x, y = self._slot_centroids
        usable = np.isfinite(x) & np.isfinite(y)
        peak_x, peak_y = self.first_peaks
        return np.where(usable, x, peak_x), np.where(usable, y, peak_y)

    @functools.cached_property
    def no_position(self) -> np.ndarray:
        """Whether the centroid slot is not finite, so that `centroids` are first peaks, bool (n)."""
        x, y = self._slot_centroids
        return np.asarray(~(np.isfinite(x) & np.isfinite(y)))

    @functools.cached_property
    def centroid_flag(self) -> np.ndarray:
        """Whether the centroid slot failed or is not finite, bool (n)."""
        return np.asarray(self.no_position | self._slot_flag("slot_Centroid_flag"))

    @functools.cached_property
    def nearest_pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Nearest pixel to each of `centroids`, halves up, int64; far outside for a position not finite."""

        def nearest(position: np.ndarray) -> np.ndarray:
            return np.floor(np.where(np.isfinite(position), position, -1e9) + 0.5).astype(np.int64)

        x, y = self.centroids
        return nearest(x), nearest(y)

    @functools.cached_property
    def shapes(self) -> np.ndarray:
        """Moments ``[xx, yy, xy]`` of the shape slot, pixel^2, float64 (n, 3); NaN where not usable."""
        shapes = np.column_stack([self.catalog[f"slot_Shape_{c}"] for c in ("xx", "yy", "xy")])
        with np.errstate(invalid="ignore"):
            product = shapes[:, 0] * shapes[:, 1]
            usable = (shapes[:, 0] > 0) & (shapes[:, 1] > 0) & (product >= _SINGULAR * shapes[:, 2] ** 2)
            # The product of two positive numbers can still vanish, and kernels divide by it.
            usable &= product > 0
        return np.where(usable[:, None], shapes, np.nan)

    @functools.cached_property
    def shape_flag(self) -> np.ndarray:
        """Whether the shape slot failed or is not usable, bool (n)."""
        return np.asarray(np.isnan(self.shapes[:, 0]) | self._slot_flag("slot_Shape_flag"))

    def _slot_flag(self, name: str) -> np.ndarray:
        return np.array(self.catalog[name]) if name in self.catalog else np.zeros(len(self), dtype=bool)

    # PSF --------------------------------------------------------------------------------------------------

    @property
    def psf(self) -> PointSpreadFunction:
        """PSF of the image.

        Raises
        ------
        InvalidPsfError
            Raised if there is none.
        """
        if not isinstance(self.exposure._psf, PointSpreadFunction):
            raise InvalidPsfError("The image has no PSF.")
        return self.exposure.psf

    @property
    def psf_colors(self) -> np.ndarray | None:
        """Colours to evaluate the PSF with, mag (n); `None` if it takes none or the catalog has none."""
        if _COLOR not in self.catalog or not takes_color(self.psf):
            return None
        return np.array(self.catalog[_COLOR], dtype=np.float64)

    @functools.cached_property
    def psf_images(self) -> StellarStamps:
        """PSF images drawn at `centroids`, float32; rows that cannot be evaluated are NaN."""
        x, y = self.centroids
        return stellar_stamps(self.psf, x=x, y=y, color=self.psf_colors, dtype=np.float32)

    @functools.cached_property
    def psf_kernels(self) -> np.ndarray:
        """PSF kernel images at `centroids`, float32 (n, h, w)."""
        x, y = self.centroids
        return kernel_stamps(self.psf, x=x, y=y, color=self.psf_colors, dtype=np.float32)

    @functools.cached_property
    def psf_shapes(self) -> np.ndarray:
        """Adaptive moments ``[xx, yy, xy]`` of the PSF kernels at `centroids`, pixel^2, (n, 3)."""
        x, y = self.centroids
        return psf_shapes(self.psf, x=x, y=y, color=self.psf_colors)

    @property
    def psf_kernels_at_peaks(self) -> np.ndarray:
        """PSF kernel images at `first_peaks`, float64 (n, h, w).

        For centroid plugins, which run before there are centroids.  They are drawn anew at each call: to keep
        them for the rest of the measurement would cost more memory than drawing them again costs time.
        """
        x, y = self.first_peaks
        return kernel_stamps(self.psf, x=x, y=y, color=self.psf_colors)

    @functools.cached_property
    def psf_flag(self) -> np.ndarray:
        """Whether the PSF cannot be evaluated at `centroids`, bool (n)."""
        return np.isnan(self.psf_images.images[:, 0, 0])

    def note_invalid_psf(self, failed: np.ndarray) -> None:
        """Set the shared flag of sources (n) whose PSF cannot be evaluated."""
        self.catalog["base_InvalidPsf_flag"] |= failed

    # Mask -------------------------------------------------------------------------------------------------

    def mask_image(self, planes: tuple[str, ...] | list[str]) -> np.ndarray:
        """Return a boolean image (h, w): True where any of the planes is set; missing planes are unset."""
        key = tuple(planes)
        if key not in self._mask_images:
            self._mask_images[key] = mask_of(self.exposure.mask, key, missing_ok=True)
        return self._mask_images[key]
