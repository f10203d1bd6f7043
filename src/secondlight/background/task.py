"""The task that estimates and subtracts the background (spec reprocess 12)."""

from __future__ import annotations

__all__ = ("SubtractBackgroundConfig", "SubtractBackgroundTask", "TooManyMaskedPixelsError")

import dataclasses
from typing import Any, ClassVar

import numpy as np
from lsst.images import BackgroundMap, Image, VisitImage
from lsst.images.fields import ChebyshevField
from lsst.images.fields import Field as PixelField
from lsst.pex.config import ChoiceField, Config, Field, ListField, RangeField
from lsst.pipe.base import AlgorithmError, Struct, Task

from secondlight.catalog.mask_planes import mask_of

from .fields import background_flat_context, combine_backgrounds, make_background, render_background
from .model import CellGrid, fit_chebyshev, measure_cells
from .splines import fit_spline, min_points


class TooManyMaskedPixelsError(AlgorithmError):
    """No cell of the image has a usable pixel to estimate the background from."""

    def __init__(self, message: str, *, n_cells: int, masked_fraction: float) -> None:
        super().__init__(message)
        self._metadata = {"n_cells": n_cells, "masked_fraction": masked_fraction}

    @property
    def metadata(self) -> dict[str, Any]:
        """Number of cells and fraction of masked pixels."""
        return dict(self._metadata)


class SubtractBackgroundConfig(Config):
    """How the background is measured and modelled."""

    statisticsProperty = ChoiceField[str](
        doc="Statistic of the pixels of a cell.",
        default="MEANCLIP",
        allowed={"MEANCLIP": "clipped mean", "MEAN": "mean without clipping", "MEDIAN": "median"},
    )
    undersampleStyle = ChoiceField[str](
        doc="What to do if there are too few cells for the model.",
        default="REDUCE_INTERP_ORDER",
        allowed={
            "THROW_EXCEPTION": "raise ValueError",
            "REDUCE_INTERP_ORDER": "use a simpler spline or a lower order",
            "INCREASE_NXNYSAMPLE": "use more, smaller cells",
        },
    )
    binSize = RangeField(dtype=int, doc="Size of a cell, pixels.", default=128, min=1)
    binSizeX = RangeField(dtype=int, doc="Width of a cell, pixels; 0 for binSize.", default=0, min=0)
    binSizeY = RangeField(dtype=int, doc="Height of a cell, pixels; 0 for binSize.", default=0, min=0)
    algorithm = ChoiceField[str](
        doc="Spline through the cells if useApprox is False.",
        default="AKIMA_SPLINE",
        allowed={
            "CONSTANT": "the value of the nearest cell",
            "LINEAR": "linear",
            "NATURAL_SPLINE": "cubic spline without curvature at its ends",
            "AKIMA_SPLINE": "Akima spline, robust against outlying cells",
            "NONE": "no background is estimated",
        },
    )
    ignoredPixelMask = ListField[str](
        doc="Mask planes whose pixels do not count.",
        default=["BAD", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "NO_DATA"],
    )
    isNanSafe = Field[bool](
        doc="Leave out unmasked pixels that are not finite, instead of the cells they are in?", default=False
    )
    useApprox = Field[bool](doc="Fit a Chebyshev polynomial instead of a spline?", default=True)
    approxOrderX = RangeField(dtype=int, doc="Order of the polynomial in x.", default=6, min=0)
    approxOrderY = Field[int](doc="Order of the polynomial in y; -1 for approxOrderX.", default=-1)
    weighting = Field[bool](doc="Weigh the cells of a polynomial fit by their errors?", default=True)
    doApplyFlatBackgroundRatio = Field[bool](
        doc="Estimate and subtract on the background-flattened image?", default=False
    )
    doFilterSuperPixels = Field[bool](doc="Filter the grid of cells by a median?", default=False)
    superPixelFilterSize = RangeField(dtype=int, doc="Width of that filter, cells.", default=3, min=1)

    @property
    def cell_size(self) -> tuple[int, int]:
        """Size of a cell in x and y, pixels."""
        return self.binSizeX or self.binSize, self.binSizeY or self.binSize

    @property
    def orders(self) -> tuple[int, int]:
        """Order of the polynomial in x and y."""
        return self.approxOrderX, self.approxOrderX if self.approxOrderY < 0 else self.approxOrderY


class SubtractBackgroundTask(Task):
    """Estimate the background of an image and subtract it."""

    ConfigClass = SubtractBackgroundConfig
    _DefaultName: ClassVar[str] = "subtractBackground"
    config: SubtractBackgroundConfig

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
            Image; pixels are changed in place, and its metadata get ``BGMEAN`` and ``BGVAR``, mean and
            variance of what was subtracted.
        background
            What was subtracted before; the new model is added to it.
        background_to_photometric_ratio
            Needed if ``doApplyFlatBackgroundRatio`` is set.

        Returns
        -------
        lsst.pipe.base.Struct
            ``background``: the sum of all that has been subtracted.

        Raises
        ------
        TooManyMaskedPixelsError
            Raised if no cell has a usable pixel.
        """
        on = self.config.doApplyFlatBackgroundRatio
        with background_flat_context(exposure, on, background_to_photometric_ratio):
            model = make_background(self.fit(exposure))
            pixels = render_background(model, exposure.bbox)
            exposure.image.array[...] -= pixels
        mean = float(pixels.mean(dtype=np.float64))
        exposure.metadata["BGMEAN"] = mean
        exposure.metadata["BGVAR"] = float(np.square(pixels - np.float32(mean)).mean(dtype=np.float64))
        return Struct(background=model if background is None else combine_backgrounds(background, model))

    def fit(self, exposure: VisitImage) -> PixelField:
        """Return the background of an image as a field; nothing is subtracted.

        Raises
        ------
        TooManyMaskedPixelsError
            Raised if no cell has a usable pixel.
        ValueError
            Raised if there are too few cells and ``undersampleStyle`` is ``THROW_EXCEPTION``.
        """
        if self.config.algorithm == "NONE":
            return ChebyshevField(exposure.bbox, np.zeros((1, 1)), unit=exposure.unit)
        grid = self._filtered(self._measure(exposure))
        if self.config.useApprox:
            x_order, y_order = self.config.orders
            return fit_chebyshev(
                grid, x_order=x_order, y_order=y_order, weighting=self.config.weighting, unit=exposure.unit
            )
        return fit_spline(
            grid.bbox, grid.values, y=grid.y, x=grid.x, style=self.config.algorithm, unit=exposure.unit
        )

    def _cells_needed(self) -> tuple[int, int]:
        """Return how many cells the model wants in x and y."""
        if self.config.useApprox:
            x_order, y_order = self.config.orders
            return x_order + 1, y_order + 1
        return (min_points(self.config.algorithm),) * 2

    def _measure(self, exposure: VisitImage) -> CellGrid:
        good = ~mask_of(exposure.mask, self.config.ignoredPixelMask, missing_ok=True)
        needed = self._cells_needed()
        style = self.config.undersampleStyle
        grid = measure_cells(
            exposure.image.array,
            good,
            exposure.bbox,
            cell_size=self.config.cell_size,
            statistic=self.config.statisticsProperty,
            nan_safe=self.config.isNanSafe,
            at_least=needed if style == "INCREASE_NXNYSAMPLE" else (1, 1),
        )
        ny, nx = grid.values.shape
        if style == "THROW_EXCEPTION" and (nx < needed[0] or ny < needed[1]):
            raise ValueError(
                f"The background model needs {needed[0]} x {needed[1]} cells, but an image of "
                f"{exposure.bbox.x.size} x {exposure.bbox.y.size} pixels has {nx} x {ny} cells of "
                f"{self.config.cell_size} pixels."
            )
        if not np.isfinite(grid.values).any():
            fraction = 1.0 - float(good.mean())
            infinite = 1.0 - float(np.isfinite(exposure.image.array[good]).mean()) if good.any() else 0.0
            raise TooManyMaskedPixelsError(
                f"None of the {nx} x {ny} background cells of visit {exposure.obs_info.visit_id} detector "
                f"{exposure.obs_info.detector_num} has a usable value; {fraction:.1%} of the pixels have one "
                f"of the mask planes {', '.join(self.config.ignoredPixelMask)}, "
                f"{infinite:.1%} of the others are not finite.",
                n_cells=nx * ny,
                masked_fraction=fraction,
            )
        return grid

    def _filtered(self, grid: CellGrid) -> CellGrid:
        """Return the cells as medians of their neighbourhood, reflected at the borders; NaN stays NaN."""
        if not self.config.doFilterSuperPixels:
            return grid
        size = self.config.superPixelFilterSize
        before, behind = size // 2, (size - 1) // 2
        padded = np.pad(grid.values, ((before, behind), (before, behind)), mode="symmetric")
        around = np.lib.stride_tricks.sliding_window_view(padded, (size, size)).reshape(
            *grid.values.shape, -1
        )
        filled = np.isfinite(grid.values)
        values = grid.values.copy()
        values[filled] = np.nanmedian(around[filled], axis=-1)
        return dataclasses.replace(grid, values=values)
