"""The deblending step: which sources are blends, and what becomes of them."""

from __future__ import annotations

__all__ = ("SourceDeblendConfig", "SourceDeblendTask")

from typing import Any

import numpy as np
from lsst.images import VisitImage
from lsst.pex.config import ChoiceField, Config, DictField, Field, ListField
from lsst.pipe.base import Task

from ..catalog.footprints import Footprints
from ..catalog.ids import IdGenerator
from ..catalog.mask_planes import ensure_planes, mask_of, plane_name
from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog
from .columns import declare_columns
from .limits import masked_beyond_limits, too_big


class SourceDeblendConfig(Config):
    """What is deblended, and how."""

    edgeHandling = ChoiceField[str](
        doc="What to do where a template reaches the edge of its footprint.",
        allowed={
            "clip": "Cut the template at the edge.",
            "ramp": "Extend the template with the PSF.",
            "noclip": "Copy pixels whose mirror is outside the image.",
        },
        default="ramp",
    )
    strayFluxToPointSources = ChoiceField[str](
        doc="Whether point sources get stray flux.",
        allowed={
            "necessary": "Only if a blend has no extended source.",
            "always": "Always.",
            "never": "Never; stray flux of a blend of point sources is not assigned.",
        },
        default="necessary",
    )
    assignStrayFlux = Field[bool](doc="Assign flux that no template claims?", default=True)
    strayFluxRule = ChoiceField[str](
        doc="How stray flux is shared.",
        allowed={
            "r-to-peak": "By 1 / (1 + r^2) with r the distance to each peak.",
            "r-to-footprint": "By 1 / (1 + r^2) with r the distance to each child's footprint.",
            "nearest-footprint": "All to the nearest footprint.",
            "trim": "Not at all: the parent is trimmed to the union of the children.",
        },
        default="trim",
    )
    clipStrayFluxFraction = Field[float](
        doc="Shares of stray flux below this fraction are dropped.", default=0.001
    )
    psfChisq1 = Field[float](
        doc="Largest chi^2 per degree of freedom of a point source at its peak.", default=1.5
    )
    psfChisq2 = Field[float](
        doc="Largest chi^2 per degree of freedom of a point source with a free shift.", default=1.5
    )
    psfChisq2b = Field[float](
        doc="Largest chi^2 per degree of freedom of a point source at its shifted position.", default=1.5
    )
    maxNumberOfPeaks = Field[int](
        doc="Blends of more peaks set deblend_tooManyPeaks (0: no limit).",
        default=0,
        check=lambda value: value >= 0,
    )
    maxFootprintArea = Field[int](doc="Largest area of a blend (pixels; 0: no limit).", default=10000)
    maxFootprintSize = Field[int](
        doc="Largest side of the bounding box of a blend (pixels; 0: no limit).", default=0
    )
    minFootprintAxisRatio = Field[float](
        doc="Smallest ratio of minor to major axis of a blend (0: no limit).", default=0.0
    )
    notDeblendedMask = Field[str](
        doc="Mask plane set over blends that are not deblended; empty for none.",
        default="NOT_DEBLENDED",
        optional=True,
    )
    tinyFootprintSize = Field[int](doc="PSF-fit stamps of this side or smaller are not fitted.", default=2)
    propagateAllPeaks = Field[bool](doc="Give every peak a child, even without a template?", default=False)
    catchFailures = Field[bool](
        doc="Flag a blend on which the algorithm fails, instead of stopping?", default=True
    )
    maskPlanes = ListField[str](
        doc="Mask planes ignored in the noise estimate.", default=["SAT", "INTRP", "NO_DATA"]
    )
    maskLimits = DictField[str, float](
        doc="Largest fraction of a blend's pixels that may have a mask plane.",
        keytype=str,
        itemtype=float,
        default={"NO_DATA": 0.25},
    )
    weightTemplates = Field[bool](doc="Scale the templates by a least-squares fit?", default=False)
    removeDegenerateTemplates = Field[bool](
        doc="Drop one of two templates that are nearly the same?", default=False
    )
    maxTempDotProd = Field[float](doc="Cosine above which two templates are nearly the same.", default=0.5)
    medianSmoothTemplate = Field[bool](doc="Smooth templates by a median filter?", default=True)
    useCiLimits = Field[bool](doc="Keep only a few blends, for quick tests?", default=False)
    ciDeblendChildRange = ListField[int](
        doc="Smallest and largest number of peaks of the blends kept by useCiLimits.",
        default=[2, 10],
        length=2,
    )
    ciNumParentsToDeblend = Field[int](doc="Number of blends kept by useCiLimits.", default=10)


class SourceDeblendTask(Task):
    """Mark blends; in this version they are not yet split (spec reprocess 15).

    A source with one peak keeps it as its centre.  A source with several peaks stays one source: it is marked
    ``deblend_skipped``, its number of peaks is recorded, and the plane ``notDeblendedMask`` is set over its
    footprint, so that nobody mistakes it for a deblended one.  Blends beyond the limits also get
    ``deblend_parentTooBig``, ``deblend_masked`` or ``deblend_tooManyPeaks``.  Fields and columns of the
    template method are declared so that configurations and tables need not change when it arrives.

    Parameters
    ----------
    schema
        Schema that gets the columns ``deblend_*``.
    **kwargs
        Passed to `lsst.pipe.base.Task`.

    Notes
    -----
    A replacement is a `lsst.pipe.base.Task` with the same constructor and the same `run`.
    """

    ConfigClass = SourceDeblendConfig
    _DefaultName = "sourceDeblend"
    config: SourceDeblendConfig

    def __init__(self, *, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        declare_columns(schema)

    def run(
        self, exposure: VisitImage, sources: SourceCatalog, *, id_generator: IdGenerator | None = None
    ) -> SourceCatalog:
        """Return the catalog with its blends treated.

        Parameters
        ----------
        exposure
            Image with its mask; the mask gets the plane ``notDeblendedMask`` over blends left whole.
        sources
            Sources with footprints; their ``deblend_*`` columns are filled in place.
        id_generator
            Makes the ids of children, which continue those of ``sources``.

        Returns
        -------
        catalog
            ``sources`` itself, unless ``useCiLimits`` cuts it to a selection of its rows.  A deblender that
            makes children returns them after all rows of ``sources``.

        Raises
        ------
        ValueError
            Raised if sources have no footprints, or if no blend is within the range of ``useCiLimits``.
        """
        if sources.footprints is None:
            if len(sources):
                raise ValueError(f"Cannot deblend {len(sources)} sources without footprints.")
            return sources
        if self.config.useCiLimits:
            sources = sources[self._ci_rows(sources.footprints)]
        assert sources.footprints is not None
        n_peaks = np.diff(sources.footprints.peak_offsets)
        sources["deblend_nPeaks"] = n_peaks
        self._record_singles(sources, np.nonzero(n_peaks == 1)[0])
        blends = np.nonzero(n_peaks > 1)[0]
        if len(blends):
            self._flag_beyond_limits(exposure, sources, blends)
            self._leave_whole(exposure, sources, blends)
        self.log.info("Left %d blends of %d sources whole.", len(blends), len(sources))
        return sources

    def _ci_rows(self, footprints: Footprints) -> np.ndarray:
        """Return the rows kept by ``useCiLimits``: single sources and the first blends in range."""
        n_peaks = np.diff(footprints.peak_offsets)
        low, high = self.config.ciDeblendChildRange
        blends = np.nonzero((n_peaks > 1) & (n_peaks >= low) & (n_peaks <= high))[0]
        if not len(blends):
            raise ValueError(
                f"useCiLimits is set, but none of {len(footprints)} sources has {low} to {high} peaks."
            )
        kept = np.union1d(np.nonzero(n_peaks < 2)[0], blends[: self.config.ciNumParentsToDeblend])
        return np.asarray(kept)

    def _record_singles(self, sources: SourceCatalog, rows: np.ndarray) -> None:
        """Record the only peak of sources that are no blends."""
        assert sources.footprints is not None
        first = sources.footprints.peak_offsets[rows]
        sources["deblend_peak_center_x"][rows] = sources.footprints.peak_x[first]
        sources["deblend_peak_center_y"][rows] = sources.footprints.peak_y[first]
        sources["deblend_peakId"][rows] = sources.footprints.peak_id[first]

    def _flag_beyond_limits(self, exposure: VisitImage, sources: SourceCatalog, blends: np.ndarray) -> None:
        """Flag blends beyond the limits of size, elongation, masked fraction and number of peaks."""
        assert sources.footprints is not None
        footprints = sources.footprints.take(blends)
        sources["deblend_parentTooBig"][blends] = too_big(
            footprints,
            max_area=self.config.maxFootprintArea,
            max_size=self.config.maxFootprintSize,
            min_axis_ratio=self.config.minFootprintAxisRatio,
        )
        sources["deblend_masked"][blends] = masked_beyond_limits(
            footprints, exposure.mask, self.config.maskLimits
        )
        limit = self.config.maxNumberOfPeaks
        sources["deblend_tooManyPeaks"][blends] = (limit > 0) & (sources["deblend_nPeaks"][blends] > limit)

    def _leave_whole(self, exposure: VisitImage, sources: SourceCatalog, rows: np.ndarray) -> None:
        """Mark blends that are not split, in the catalog and in the mask of the image."""
        assert sources.footprints is not None
        footprints = sources.footprints.take(rows)
        sources["deblend_skipped"][rows] = True
        x0, y0, x1, y1 = footprints.bounding_boxes().T
        sources["deblend_peak_center_x"][rows] = (x0 + x1 + 1) // 2
        sources["deblend_peak_center_y"][rows] = (y0 + y1 + 1) // 2
        plane = self.config.notDeblendedMask
        if plane:
            mask = ensure_planes(exposure.mask, [plane])
            whole = footprints.to_mask(mask.bbox.shape, x0=mask.bbox.x.start, y0=mask.bbox.y.start)
            mask.set(plane_name(plane), whole | mask_of(mask, [plane]))
            exposure.mask = mask
