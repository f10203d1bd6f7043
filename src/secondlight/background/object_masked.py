"""The task that estimates the sky between objects that it finds itself, again and again."""

from __future__ import annotations

__all__ = ("ObjectMaskedBackgroundConfig", "ObjectMaskedBackgroundTask")

import math
from typing import ClassVar

import numpy as np
import scipy.ndimage
from lsst.images import BackgroundMap, Box, Image, VisitImage
from lsst.pex.config import Field, RangeField
from lsst.pipe.base import Struct

from secondlight.catalog.mask_planes import mask_of

from .faint_light import faint_light
from .fields import background_flat_context, make_background, render_background
from .model import CellGrid, cell_edges
from .object_mask import block_average, grow_by_size, smoothed_blocks
from .smoothing import smooth_cells
from .splines import fit_spline
from .statistics import STATISTICS, cell_statistics
from .task import SubtractBackgroundConfig, SubtractBackgroundTask


class ObjectMaskedBackgroundConfig(SubtractBackgroundConfig):
    """How objects are found and the sky between them is modelled."""

    nIterations = RangeField(dtype=int, doc="How often objects are searched.", default=2, min=1)
    blockSize = RangeField(
        dtype=int, doc="Side of the blocks that pixels are averaged over.", default=2, min=1
    )
    smoothingSigma = RangeField(
        dtype=float, doc="Gaussian that objects are searched with, pixels.", default=2.0, min=0.5
    )
    objectThreshold = RangeField(
        dtype=float, doc="Objects stand out by so many sigma of the smoothed noise.", default=4.0, min=1.0
    )
    objectMargin = RangeField(dtype=float, doc="Least margin around objects, pixels.", default=8.0, min=0.0)
    objectGrowth = RangeField(
        dtype=float, doc="Further margin, in radii of the object above the threshold.", default=1.0, min=0.0
    )
    minSkyFraction = RangeField(
        dtype=float, doc="Cells with less sky between objects are filled in.", default=0.1, min=0.0, max=1.0
    )
    cellSmoothing = RangeField(
        dtype=float, doc="Gaussian that cells are smoothed with, cells.", default=0.7, min=0.0
    )
    doFaintLight = Field[bool](
        doc="Leave the light of objects too faint to be found in the image?", default=True
    )
    faintCountsIndex = RangeField(
        dtype=float,
        doc="Power of flux by which the number of faint objects rises, N(> f) ~ f^-index.",
        default=0.8,
        min=0.05,
        max=0.95,
    )

    def setDefaults(self) -> None:
        """Use splines, which follow any sky; objects need no planes, they are searched."""
        super().setDefaults()
        self.useApprox = False
        self.isNanSafe = True
        self.ignoredPixelMask = ["BAD", "EDGE", "NO_DATA"]


class ObjectMaskedBackgroundTask(SubtractBackgroundTask):
    """Estimate the sky between objects, without the light of those too faint to be found.

    Objects are what stands out of the smoothed image, with margins for their wings; with each iteration they
    stand out of a better background.  Cells of the sky between them are smoothed and joined by a spline.
    What objects below the threshold add to the sky on average is told from the skewness of the smoothed noise
    (`secondlight.background.faint_light`) and left in the image.
    """

    ConfigClass = ObjectMaskedBackgroundConfig
    _DefaultName: ClassVar[str] = "objectMaskedBackground"
    config: ObjectMaskedBackgroundConfig

    def run(
        self,
        exposure: VisitImage,
        *,
        background: BackgroundMap | None = None,
        background_to_photometric_ratio: Image | None = None,
    ) -> Struct:
        """Estimate the background and subtract it in place.

        Parameters
        ----------
        exposure
            Image; pixels are changed in place, and its metadata get ``BGMEAN`` and ``BGVAR``.
        background
            What was subtracted before.  It is put back first, and the new background takes its place: a
            smooth model could not mend what an earlier one had made of the objects.
        background_to_photometric_ratio
            Needed if ``doApplyFlatBackgroundRatio`` is set.

        Returns
        -------
        lsst.pipe.base.Struct
            ``background``: all that has been subtracted.

        Raises
        ------
        TooManyMaskedPixelsError
            Raised if no cell has a usable pixel.
        """
        if background is not None:
            on = self.config.doApplyFlatBackgroundRatio
            with background_flat_context(exposure, on, background_to_photometric_ratio):
                exposure.image.array[...] += render_background(background, exposure.bbox)
        return super().run(exposure, background_to_photometric_ratio=background_to_photometric_ratio)

    def _measure(self, exposure: VisitImage) -> CellGrid:
        plain = super()._measure(exposure)
        good = ~mask_of(exposure.mask, self.config.ignoredPixelMask, missing_ok=True)
        search = _SkySearch(self.config, exposure.image.array, good, plain.values)
        for _ in range(self.config.nIterations):
            if not search.iterate():
                self.log.warning(
                    "Objects with their margins cover all of visit %s detector %s: its background is that of "
                    "all pixels, clipped.",
                    exposure.obs_info.visit_id,
                    exposure.obs_info.detector_num,
                )
                return plain
        light = search.leave_faint_light() if self.config.doFaintLight else 0.0
        covered = 1.0 - float(search.sky.mean())
        self.log.info("Objects cover %.1f%%; fainter ones add %.3g counts.", 100 * covered, light)
        self.metadata["objectFraction"] = covered
        self.metadata["faintLight"] = light
        return search.grid(exposure.bbox)


class _SkySearch:
    """The sky between the objects of an image of blocks.

    Parameters
    ----------
    config
        Configuration of the task.
    image
        Pixels (height, width).
    good
        Pixels that count (height, width).
    cells
        First values of the cells, at least one of them finite.
    """

    def __init__(
        self,
        config: ObjectMaskedBackgroundConfig,
        image: np.ndarray,
        good: np.ndarray,
        cells: np.ndarray,
    ) -> None:
        self.config = config
        self.blocks, self.usable = block_average(image, good, config.blockSize)
        self.sky = self.usable
        ny, nx = self.blocks.shape
        self.y_edges = cell_edges(ny, ny, at_least=cells.shape[0])
        self.x_edges = cell_edges(nx, nx, at_least=cells.shape[1])
        self.values = smooth_cells(cells, np.ones_like(cells), sigma=0.0)
        self.errors = np.full_like(cells, np.nan)

    def iterate(self) -> bool:
        """Search objects once more and measure the sky between them; return whether there is any."""
        residual, smoothed = self._residual()
        noise = np.repeat(self._noise(smoothed), np.diff(self.y_edges), axis=0)
        noise = np.repeat(noise, np.diff(self.x_edges), axis=1)
        # Holes as well as peaks: else the noise that is left would be negative in the mean.
        objects = np.abs(smoothed) > self.config.objectThreshold * noise
        grown = grow_by_size(
            objects,
            margin=self.config.objectMargin / self.config.blockSize,
            factor=self.config.objectGrowth,
        )
        self.sky = self.usable & ~grown
        weights = self._weights()
        if not weights.any():
            return False
        changes, self.errors = self._statistics(self.config.statisticsProperty, residual)
        self.values = smooth_cells(self.values + changes, weights, sigma=self.config.cellSmoothing)
        return True

    def leave_faint_light(self) -> float:
        """Lower the background to the sky without undetected objects; return by how much, counts."""
        _, smoothed = self._residual()
        width = self.config.smoothingSigma / self.config.blockSize
        light = faint_light(
            smoothed[self.sky],
            sigma=float(np.median(self._noise(smoothed))),
            limit=self.config.objectThreshold,
            index=self.config.faintCountsIndex,
            area=4.0 * math.pi * width**2,
        )
        self.values = self.values - light
        return light

    def grid(self, bbox: Box) -> CellGrid:
        """Return the cells in parent pixels."""
        size = self.config.blockSize
        y, x = (size * (0.5 * (edges[1:] + edges[:-1])) - 0.5 for edges in (self.y_edges, self.x_edges))
        return CellGrid(bbox, bbox.y.min + y, bbox.x.min + x, self.values, self.errors)

    def _residual(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the blocks without the present background, and the same smoothed."""
        box = Box.factory[0 : self.blocks.shape[0], 0 : self.blocks.shape[1]]
        y, x = (0.5 * (edges[1:] + edges[:-1]) - 0.5 for edges in (self.y_edges, self.x_edges))
        field = fit_spline(box, self.values, y=y, x=x, style="AKIMA_SPLINE")
        residual = self.blocks - render_background(make_background(field), box)
        sigma = self.config.smoothingSigma / self.config.blockSize
        return residual, smoothed_blocks(residual, self.usable, sigma=sigma)

    def _noise(self, smoothed: np.ndarray) -> np.ndarray:
        """Return the noise of the smoothed blocks in each cell; objects raise it in single cells only."""
        noise, _ = self._statistics("STDEVCLIP", smoothed)
        if not np.isfinite(noise).any():  # single blocks: nothing stands out of them
            return np.full_like(noise, np.inf)
        noise = smooth_cells(noise, np.ones_like(noise), sigma=0.0)
        return np.asarray(scipy.ndimage.median_filter(noise, size=3, mode="nearest"))

    def _statistics(self, statistic: str, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        code = STATISTICS.index(statistic)
        values, errors = cell_statistics(blocks, self.sky, self.y_edges, self.x_edges, code, True)
        return values, errors

    def _weights(self) -> np.ndarray:
        """Return the fraction of each cell that is sky, 0 for cells with too little of it."""
        number = np.add.reduceat(self.sky.astype(np.int64), self.y_edges[:-1], axis=0)
        number = np.add.reduceat(number, self.x_edges[:-1], axis=1)
        fraction = number / np.outer(np.diff(self.y_edges), np.diff(self.x_edges))
        return np.where(fraction >= max(self.config.minSkyFraction, 1e-9), fraction, 0.0)
