"""The repair step: interpolation over defects, then removal of cosmic rays."""

from __future__ import annotations

__all__ = ("RepairConfig", "RepairTask")

from typing import Any

import numpy as np
from lsst.images import VisitImage
from lsst.images.psfs import PointSpreadFunction
from lsst.pex.config import Config, ConfigField, ConfigurableField, Field
from lsst.pipe.base import Task

from ..background.task import SubtractBackgroundTask
from ..catalog.footprints import Footprints
from ..catalog.mask_planes import ensure_planes, mask_of, plane_name
from ..psf.evaluation import (
    InvalidPsfError,
    average_position,
    determinant_radius,
    kernel_stamps,
    stamp_shapes,
)
from .cosmic_rays import CosmicRays, FindCosmicRaysConfig, find_cosmic_rays
from .interpolation import InterpImageTask

_UNUSABLE = ("BAD", "SAT", "INTRP", "NO_DATA")

_UNTOUCHABLE = ("INTRP", "SAT")
"""Planes whose neighbours are no hits either: the ends of bleed trails are as sharp as cosmic rays."""


class RepairConfig(Config):
    """What is repaired."""

    doInterpolate = Field[bool](doc="Interpolate over defects, if any are given?", default=True)
    doCosmicRay = Field[bool](doc="Find and remove cosmic rays?", default=True)
    cosmicray = ConfigField[FindCosmicRaysConfig](doc="What counts as a cosmic ray.")
    interp: Any = ConfigurableField(target=InterpImageTask, doc="Interpolation over defects.")

    def setDefaults(self) -> None:
        """Use the clipped mean, which may be negative, where a defect has no good pixels near it."""
        super().setDefaults()
        self.interp.useFallbackValueAtEdge = True
        self.interp.fallbackValueType = "MEANCLIP"
        self.interp.negativeFallbackAllowed = True


class RepairTask(Task):
    """Interpolate over defects and remove cosmic rays from a background-subtracted image (spec reprocess 11).

    Parameters
    ----------
    **kwargs
        Passed to `lsst.pipe.base.Task`.
    """

    ConfigClass = RepairConfig
    _DefaultName = "repair"
    config: RepairConfig
    interp: InterpImageTask

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.makeSubtask("interp")
        self.background = SubtractBackgroundTask(
            config=self.config.cosmicray.background, name="background", parentTask=self
        )

    def run(
        self,
        exposure: VisitImage,
        *,
        defects: Footprints | np.ndarray | None = None,
        keep_crs: bool | None = None,
    ) -> None:
        """Repair an image in place.

        Parameters
        ----------
        exposure
            Image in counts, with a PSF.  Pixels of defects and cosmic rays get new values and the plane
            INTRP; the plane CR is cleared and set anew.
        defects
            Pixels to interpolate over: footprints in parent coordinates, or a boolean image.
        keep_crs
            Whether pixels of cosmic rays keep their values and only get the plane CR; `None` for the
            configured ``keepCRs``.

        Raises
        ------
        TooManyCosmicRays
            Raised if there are more cosmic-ray pixels than ``nCrPixelMax``; cosmic rays are then untouched.
        InvalidPsfError
            Raised if the PSF cannot be evaluated.
        """
        kernel, sigma = _average_kernel(exposure.psf, _name(exposure))
        if self.config.doInterpolate and defects is not None:
            self.interp.run(exposure, defects, psf_sigma=sigma)
        if self.config.doCosmicRay:
            keep = self.config.cosmicray.keepCRs if keep_crs is None else keep_crs
            self._remove_cosmic_rays(exposure, kernel, sigma, keep=keep)

    def _remove_cosmic_rays(
        self, exposure: VisitImage, kernel: np.ndarray, sigma: float, *, keep: bool
    ) -> None:
        """Find cosmic rays, put predicted values in their place unless they are kept, and set the mask."""
        pixels, variance = exposure.image.array, exposure.variance.array
        unusable = mask_of(exposure.mask, _UNUSABLE, missing_ok=True)
        unusable |= ~(np.isfinite(pixels) & np.isfinite(variance))
        rays, pedestal = self._search(exposure, unusable, kernel, sigma)
        if not keep:
            pixels[rays.mask] = rays.values + pedestal
        self._set_planes(exposure, rays.mask, keep=keep)
        self.metadata["cosmic_ray_count"] = rays.count
        self.log.info("Found %d cosmic rays (%d pixels).", rays.count, int(rays.mask.sum()))

    def _search(
        self, exposure: VisitImage, unusable: np.ndarray, kernel: np.ndarray, sigma: float
    ) -> tuple[CosmicRays, np.ndarray | float]:
        """Return the cosmic rays, and what was subtracted from their pixels before the search."""
        pixels = exposure.image.array
        level: np.ndarray | float = 0.0
        if self._needs_cells(exposure):
            subtracted = exposure.copy()
            self.background.run(subtracted)
            level = pixels - subtracted.image.array
            pixels, median = subtracted.image.array, 0.0
        else:
            usable = pixels[~unusable]
            median = float(np.median(usable)) if len(usable) else 0.0
        rays = find_cosmic_rays(
            pixels,
            exposure.variance.array,
            unusable=unusable,
            interpolated=mask_of(exposure.mask, _UNTOUCHABLE, missing_ok=True),
            kernel=kernel,
            psf_sigma=sigma,
            background=median,
            config=self.config.cosmicray,
            where=_name(exposure),
        )
        return rays, level if isinstance(level, float) else level[rays.mask]

    def _needs_cells(self, exposure: VisitImage) -> bool:
        """Return whether the background of the search has more than one cell."""
        width, height = self.config.cosmicray.background.cell_size
        return bool((exposure.bbox.x.size / width) * (exposure.bbox.y.size / height) > 1)

    @staticmethod
    def _set_planes(exposure: VisitImage, rays: np.ndarray, *, keep: bool) -> None:
        """Make CR the plane of these cosmic rays, and mark filled ones as interpolated."""
        mask = ensure_planes(exposure.mask, ["CR", "INTRP"])
        mask.clear(plane_name("CR"))
        mask.set(plane_name("CR"), rays)
        if not keep:
            mask.set(plane_name("INTRP"), rays)
        exposure.mask = mask


def _name(exposure: VisitImage) -> str:
    """Return what to call an image in messages."""
    info = exposure.obs_info
    visit = info.visit_id if info is not None else "unknown"
    detector = info.detector_num if info is not None else "unknown"
    return f"visit {visit}, detector {detector}"


def _average_kernel(psf: PointSpreadFunction | None, where: str) -> tuple[np.ndarray, float]:
    """Return the PSF image at its average position and its width in pixels.

    Raises
    ------
    InvalidPsfError
        Raised if there is no PSF, or it cannot be evaluated there.
    """
    if psf is None:
        raise InvalidPsfError(f"The image of {where} has no PSF; cosmic rays cannot be told from stars.")
    x, y = average_position(psf)
    stamps = kernel_stamps(psf, x=x, y=y)
    if not np.isfinite(stamps).all():
        raise InvalidPsfError(
            f"The PSF of {where} cannot be evaluated at its average position ({x:g}, {y:g})."
        )
    sigma = float(determinant_radius(stamp_shapes(stamps))[0])
    # A PSF too odd to have adaptive moments still has an effective area of 4 pi sigma^2.
    if not sigma > 0:
        sigma = float(np.sqrt(1 / (4 * np.pi * (stamps[0] ** 2).sum())))
    return stamps[0], sigma
