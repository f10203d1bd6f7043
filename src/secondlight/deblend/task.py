"""The deblending step: which sources are blends, and the children they are split into."""

from __future__ import annotations

__all__ = ("SourceDeblendConfig", "SourceDeblendTask")

from collections.abc import Iterator
from typing import Any

import numpy as np
from lsst.images import VisitImage
from lsst.pipe.base import Task

from ..catalog.footprints import Footprints, Peaks
from ..catalog.ids import IdGenerator
from ..catalog.mask_planes import ensure_planes, mask_of, plane_name
from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog
from ..catalog.visit_image import image_box
from ..psf.evaluation import InvalidPsfError
from .apportion import Children, deblend
from .blend import Blends, Pixels
from .columns import declare_columns
from .config import SourceDeblendConfig
from .limits import masked_beyond_limits, too_big
from .psf_fit import PeakPsfs

_PEAKS_AT_ONCE = 2048
"""Blends are worked on in groups of about this many peaks, which bounds the memory of the PSF images."""


class SourceDeblendTask(Task):
    """Split blends into their children (spec reprocess 15).

    A source with one peak keeps it as its centre.  A source with several peaks becomes a parent: each of its
    peaks gets a template, a fitted point source or else the symmetric, smooth, outward-falling part of the
    image about it, and the pixels are shared in proportion to the templates.  The children, with their shares
    as heavy footprints, follow all other rows.

    A blend beyond the limits of size or masked pixels, one without a usable PSF, and one without a single
    template stays whole: it is marked ``deblend_skipped`` or ``deblend_failed``, and the plane
    ``notDeblendedMask`` is set over its footprint.

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
        """Return the catalog with its blends split.

        Parameters
        ----------
        exposure
            Image with its mask and PSF; the mask gets the plane ``notDeblendedMask`` over blends left whole.
        sources
            Sources with footprints; their ``deblend_*`` columns are filled and the footprints of parents
            trimmed in place.
        id_generator
            Makes the ids of children, which continue those of ``sources``.

        Returns
        -------
        catalog
            All rows of ``sources`` (with ``useCiLimits`` a selection of them), then the children, grouped by
            parent; ``sources`` itself if there is nothing to add.

        Raises
        ------
        ValueError
            Raised if sources have no footprints, or if no blend is within the range of ``useCiLimits``.
        InvalidPsfError
            Raised if a blend has no usable PSF and ``catchFailures`` is not set.
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
        self._record_first_peak(sources, np.nonzero(n_peaks >= 1)[0])
        blends = np.nonzero(n_peaks > 1)[0]
        if not len(blends):
            return sources
        self._flag_beyond_limits(exposure, sources, blends)
        beyond = sources["deblend_parentTooBig"][blends] | sources["deblend_masked"][blends]
        parts = list(self._split(exposure, sources, blends[~beyond]))
        result = self._append(sources, parts, id_generator or IdGenerator())
        whole = blends[result["deblend_nChild"][blends] == 0]
        self._leave_whole(exposure, result, whole)
        self.log.info(
            "Split %d of %d blends into %d children.",
            len(blends) - len(whole),
            len(blends),
            len(result) - len(sources),
        )
        return result

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

    def _record_first_peak(self, sources: SourceCatalog, rows: np.ndarray) -> None:
        """Record the only peak of single sources, and the brightest of blends."""
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
        x0, y0, x1, y1 = image_box(exposure)
        sources["deblend_masked"][blends] = masked_beyond_limits(
            footprints.clipped(x0=x0, y0=y0, x1=x1, y1=y1), exposure.mask, self.config.maskLimits
        )
        limit = self.config.maxNumberOfPeaks
        sources["deblend_tooManyPeaks"][blends] = (limit > 0) & (sources["deblend_nPeaks"][blends] > limit)

    def _split(
        self, exposure: VisitImage, sources: SourceCatalog, rows: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Children]]:
        """Yield the rows of blends and their children, a group of blends at a time."""
        if not len(rows):
            return
        assert sources.footprints is not None
        pixels = Pixels.from_exposure(exposure, sources.footprints)
        sigma = self._noise(exposure)
        every = Blends.from_footprints(
            sources.footprints, rows, pixels, max_peaks=self.config.maxNumberOfPeaks
        )
        group = (every.offsets[:-1]) // _PEAKS_AT_ONCE
        for g in np.unique(group):
            blends = every.take(group == g)
            psfs = PeakPsfs.evaluate(exposure.psf, blends, pixels)
            usable = psfs.usable(blends)
            if not usable.all():
                self._fail(exposure, sources, blends.rows[~usable])
                psfs = psfs.take(usable, blends)
                blends = blends.take(usable)
            if len(blends):
                yield (
                    blends.rows,
                    deblend(pixels, blends, psfs, exposure.psf, sigma=sigma, config=self.config),
                )

    def _noise(self, exposure: VisitImage) -> float:
        """Return the typical noise per pixel outside ``maskPlanes``; NaN if no pixel has any."""
        variance = exposure.variance.array
        good = ~mask_of(exposure.mask, self.config.maskPlanes, missing_ok=True)
        values = variance[good & np.isfinite(variance) & (variance > 0)]
        return float(np.sqrt(np.median(values))) if len(values) else np.nan

    def _fail(self, exposure: VisitImage, sources: SourceCatalog, rows: np.ndarray) -> None:
        """Flag blends whose PSF cannot be evaluated.

        Raises
        ------
        InvalidPsfError
            Raised if failures are not to be caught.
        """
        if not self.config.catchFailures:
            raise InvalidPsfError(
                f"The PSF of visit {exposure.obs_info.visit_id}, detector {exposure.obs_info.detector_num} "
                f"cannot be evaluated at the blend with id {sources['id'][rows[0]]}."
            )
        self.log.warning("No usable PSF at %d blends: they stay whole.", len(rows))
        sources["deblend_failed"][rows] = True

    def _append(
        self, sources: SourceCatalog, parts: list[tuple[np.ndarray, Children]], id_generator: IdGenerator
    ) -> SourceCatalog:
        """Return the catalog with children after all its rows, and tell their parents about them."""
        children = [self._child_rows(sources, rows, found) for rows, found in parts]
        children = [part for part in children if len(part)]
        if not children:
            return sources
        for rows, found in parts:
            self._record_split(sources, rows, found)
        last = int(sources["id"].max()) & ((1 << id_generator.counter_bits) - 1)
        result = SourceCatalog.concatenate([sources, *children])
        n = len(sources)
        result["id"][n:] = id_generator.row_ids(len(result) - n, start=max(last, n) + 1)
        return result

    def _child_rows(self, sources: SourceCatalog, rows: np.ndarray, found: Children) -> SourceCatalog:
        """Return the catalog rows of children, ids excepted."""
        assert sources.footprints is not None
        parent = rows[found.blend]
        all_peaks = Peaks(*(values[found.peaks] for values in sources.footprints.all_peaks))
        footprints = found.footprints.with_peaks(np.arange(len(parent) + 1), _centred(found, all_peaks))
        children = SourceCatalog(
            sources.schema, len(parent), footprints=footprints, metadata=sources.metadata
        )
        children["parent"] = sources["id"][parent]
        children["deblend_nPeaks"] = 1
        children["deblend_parentNPeaks"] = sources["deblend_nPeaks"][parent]
        children["deblend_peak_center_x"] = all_peaks.x
        children["deblend_peak_center_y"] = all_peaks.y
        children["deblend_peakId"] = all_peaks.id
        children["deblend_deblendedAsPsf"] = found.is_point
        fit = {"psfCenter_x": found.x, "psfCenter_y": found.y, "psf_instFlux": found.flux}
        for column, values in fit.items():
            children[f"deblend_{column}"] = np.where(found.is_point, values, np.nan)
        children["deblend_rampedTemplate"] = found.ramped
        children["deblend_patchedTemplate"] = found.patched
        children["deblend_hasStrayFlux"] = found.has_stray
        return children

    def _record_split(self, sources: SourceCatalog, rows: np.ndarray, found: Children) -> None:
        """Fill the columns of parents, and replace their footprints."""
        n_children = np.bincount(found.blend, minlength=len(rows))
        sources["deblend_nChild"][rows] = n_children
        sources["deblend_skipped"][rows] = n_children < sources["deblend_nPeaks"][rows]
        sources["deblend_parentTooBig"][rows] |= found.cut
        split = n_children > 0
        assert sources.footprints is not None
        footprints = found.parents.take(split)
        before = sources.footprints.take(rows[split])
        if self.config.strayFluxRule != "trim":
            footprints = before.union(footprints)
        footprints = footprints.with_peaks(before.peak_offsets, before.all_peaks)
        order = np.arange(len(sources))
        order[rows[split]] = len(sources) + np.arange(len(footprints))
        sources.footprints = Footprints.concatenate([sources.footprints, footprints]).take(order)

    def _leave_whole(self, exposure: VisitImage, sources: SourceCatalog, rows: np.ndarray) -> None:
        """Mark blends that are not split, in the catalog and in the mask of the image."""
        if not len(rows):
            return
        assert sources.footprints is not None
        footprints = sources.footprints.take(rows)
        sources["deblend_skipped"][rows] = ~sources["deblend_failed"][rows]
        x0, y0, x1, y1 = footprints.bounding_boxes().T
        sources["deblend_peak_center_x"][rows] = (x0 + x1 + 1) // 2
        sources["deblend_peak_center_y"][rows] = (y0 + y1 + 1) // 2
        sources["deblend_peakId"][rows] = 0
        plane = self.config.notDeblendedMask
        if plane:
            mask = ensure_planes(exposure.mask, [plane])
            whole = footprints.to_mask(mask.bbox.shape, x0=mask.bbox.x.start, y0=mask.bbox.y.start)
            mask.set(plane_name(plane), whole | mask_of(mask, [plane]))
            exposure.mask = mask


def _centred(found: Children, peaks: Peaks) -> Peaks:
    """Return the peaks of children, those of point sources at the pixel where the source was fitted.

    The detection sees neighbours smoothed into each other, and its peaks nearer together than the stars are;
    a centroid that starts on the wrong side of a child is refused by the measurement.
    """
    # Sources that are no points have no fitted position.
    x, y = (
        np.floor(np.where(found.is_point, fitted, peak) + 0.5).astype(peak.dtype)
        for fitted, peak in ((found.x, peaks.x), (found.y, peaks.y))
    )
    inside = found.footprints.contains(x, y)
    return peaks._replace(x=np.where(inside, x, peaks.x), y=np.where(inside, y, peaks.y))
