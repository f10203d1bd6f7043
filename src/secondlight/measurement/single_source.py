"""Plugins that measure one source at a time in plain numpy: the simple way to add an algorithm."""

from __future__ import annotations

__all__ = ("SingleSourcePlugin", "SourceView")

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping

import numpy as np

from secondlight.catalog.source_catalog import SourceCatalog

from .pixels import hide, show
from .plugin import FatalMeasurementError, MeasurementPlugin
from .sources import MeasurementSources


@dataclasses.dataclass(frozen=True)
class SourceView:
    """What a plugin sees of one source.

    Parameters
    ----------
    image
        The whole image with all other sources replaced by noise, float32 (h, w); read only, and valid only
        during the call.
    variance
        Variance of the pixels, float32 (h, w).
    x0, y0
        Parent pixel of the first element of ``image``.
    x, y
        Position of the source, parent pixels.
    moments
        Moments ``[xx, yy, xy]`` of the shape slot, pixel^2; NaN if there is none.
    box
        Inclusive bounding box ``(x0, y0, x1, y1)`` of the footprint, parent pixels.
    row, catalog
        Row of the source and the catalog it belongs to.
    """

    image: np.ndarray
    variance: np.ndarray
    x0: int
    y0: int
    x: float
    y: float
    moments: np.ndarray
    box: tuple[int, int, int, int]
    row: int
    catalog: SourceCatalog


class SingleSourcePlugin(MeasurementPlugin):
    """Base of plugins that measure one source at a time.

    A derived class declares its columns, among them ``flag``, and returns their values from `measure_source`.
    An exception there sets ``flag`` for that source alone.
    """

    @abstractmethod
    def measure_source(self, source: SourceView) -> Mapping[str, float | bool]:
        """Return the values of one source by column suffix."""

    def measure(self, sources: MeasurementSources) -> None:
        """Show each source in turn to `measure_source`."""
        failed = np.zeros(len(sources), dtype=bool)
        for row in range(len(sources)):
            show(sources.pixels, row)
            try:
                values = self.measure_source(self._view(sources, row))
            except (MemoryError, FatalMeasurementError):
                raise
            except Exception:
                failed[row] = True
                continue
            finally:
                hide(sources.pixels, row)
            for suffix, value in values.items():
                sources.catalog[self.column(suffix)][row] = value
        sources.catalog[self.column("flag")] |= self.general_flag(sources, failed)

    def _view(self, sources: MeasurementSources, row: int) -> SourceView:
        image = sources.pixels.image.view()
        image.flags.writeable = False
        x, y = sources.centroids
        x0, y0, x1, y1 = (int(v) for v in sources.bounding_boxes[row])
        has_shape = "slot_Shape_xx" in sources.catalog
        return SourceView(
            image=image,
            variance=sources.pixels.variance,
            x0=sources.pixels.x0,
            y0=sources.pixels.y0,
            x=float(x[row]),
            y=float(y[row]),
            moments=sources.shapes[row] if has_shape else np.full(3, np.nan),
            box=(x0, y0, x1, y1),
            row=row,
            catalog=sources.catalog,
        )
