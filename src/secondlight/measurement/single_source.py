"""Plugins that measure one source at a time in plain numpy: the simple way to add an algorithm."""

from __future__ import annotations

__all__ = ("SingleSourcePlugin", "SourceView")

import dataclasses
import logging
import math
from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
from lsst.images import VisitImage

from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.psf.evaluation import InvalidPsfError

from .pixels import hide, show
from .plugin import FatalMeasurementError, MeasurementError, MeasurementPlugin
from .sources import MeasurementSources

_LOG = logging.getLogger(__name__)


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
    exposure
        Mask, PSF, projection and the rest; its pixels still show the neighbours.
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
    exposure: VisitImage


class SingleSourcePlugin(MeasurementPlugin):
    """Base of plugins that measure one source at a time.

    A derived class declares its columns, among them ``flag``, and returns their values from `measure_source`.
    A value that is not finite, or an exception, sets ``flag`` for that source alone; a `MeasurementError` can
    name a further flag, and an `~secondlight.psf.evaluation.InvalidPsfError` sets ``base_InvalidPsf_flag``.
    """

    @abstractmethod
    def measure_source(self, source: SourceView) -> Mapping[str, float | bool]:
        """Return the values of one source by column suffix."""

    def measure(self, sources: MeasurementSources) -> None:
        """Show each source in turn to `measure_source`."""
        failed = np.zeros(len(sources), dtype=bool)
        no_psf = np.zeros(len(sources), dtype=bool)
        unexpected: list[Exception] = []
        for row in range(len(sources)):
            show(sources.pixels, row)
            try:
                values = self.measure_source(self._view(sources, row))
            except (MemoryError, FatalMeasurementError):
                raise
            except MeasurementError as error:
                values = {error.flag: True}
                failed[row] = True
            except InvalidPsfError:
                values = {}
                failed[row] = no_psf[row] = True
            except Exception as error:
                values = {}
                failed[row] = True
                unexpected.append(error)
            finally:
                hide(sources.pixels, row)
            for suffix, value in values.items():
                sources.catalog[self.column(suffix)][row] = value
                failed[row] |= not math.isfinite(value)
        if unexpected:
            _LOG.warning(
                "%s failed for %d of %d sources, first with %r.",
                self.name,
                len(unexpected),
                len(sources),
                unexpected[0],
            )
        sources.catalog[self.column("flag")] |= self.general_flag(sources, failed)
        sources.note_invalid_psf(no_psf)

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
            exposure=sources.exposure,
        )
