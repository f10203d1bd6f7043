"""The task that finds sources (spec reprocess 13)."""

from __future__ import annotations

__all__ = ("PsfGenerationError", "SourceDetectionConfig", "SourceDetectionTask")

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from lsst.images import BackgroundMap, Image, Mask, VisitImage
from lsst.images.fields import ChebyshevField, Field, SumField
from lsst.images.psfs import PointSpreadFunction
from lsst.pipe.base import AlgorithmError, Struct, Task

from secondlight.background.fields import (
    background_flat_context,
    combine_backgrounds,
    make_background,
    render_background,
)
from secondlight.background.statistics import clipped_statistics
from secondlight.background.task import SubtractBackgroundTask
from secondlight.catalog.footprints import Footprints
from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.mask_planes import mask_of, plane_name
from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.psf.evaluation import average_position, determinant_radius, psf_shapes

from .config import SourceDetectionConfig
from .growth import grow
from .search import Search
from .smoothing import Smoothed, gaussian_kernel, kernel_size, smooth
from .threshold import (
    connected_footprints,
    find_peaks,
    reaching,
    search_peaks_again,
)

_PLANES = {1: "DETECTED", -1: "DETECTED_NEGATIVE"}


class PsfGenerationError(AlgorithmError):
    """The width of the PSF, which sets the detection kernel, is not usable."""

    def __init__(self, message: str, *, sigma: float) -> None:
        super().__init__(message)
        self._metadata = {"sigma": sigma}

    @property
    def metadata(self) -> dict[str, Any]:
        """The width that was found."""
        return dict(self._metadata)


class SourceDetectionTask(Task):
    """Find the sources of an image.

    Parameters
    ----------
    schema
        Columns of the catalogs to make; gets ``is_negative`` if both polarities are searched.
    """

    ConfigClass = SourceDetectionConfig
    _DefaultName: ClassVar[str] = "sourceDetection"
    config: SourceDetectionConfig
    background: SubtractBackgroundTask
    tempLocalBackground: SubtractBackgroundTask
    tempWideBackground: SubtractBackgroundTask

    def __init__(self, *, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.schema = schema
        if self.config.thresholdPolarity == "both":
            schema.add_flag("is_negative", "Set if the source is a hole rather than a peak.")
        self.makeSubtask("background")
        self.makeSubtask("tempLocalBackground")
        self.makeSubtask("tempWideBackground")

    def run(
        self,
        exposure: VisitImage,
        *,
        background: BackgroundMap | None = None,
        background_to_photometric_ratio: Image | None = None,
        sigma: float | None = None,
        id_generator: IdGenerator | None = None,
        factor: float = 1.0,
    ) -> Struct:
        """Find sources, set mask planes and return a catalog.

        Parameters
        ----------
        exposure
            Background-subtracted image.  The planes DETECTED, DETECTED_NEGATIVE and EDGE of its mask are set
            in place; pixels change only if the background is re-estimated.
        background
            What was subtracted before; a re-estimated background is added to it.
        background_to_photometric_ratio
            Needed if ``doApplyFlatBackgroundRatio`` is set and the background is re-estimated.
        sigma
            Width of the PSF in pixels, instead of measuring the PSF of the image.
        id_generator
            Makes the ids of the rows; by default 1, 2, 3...
        factor
            Factor on the threshold.

        Returns
        -------
        lsst.pipe.base.Struct
            ``sources`` (`SourceCatalog` with footprints; id, footprint and parent 0 are set), ``positive``
            and ``negative`` (`Footprints` or `None`), ``numPos``, ``numPosPeaks``, ``numNeg``,
            ``numNegPeaks``, ``background``, ``factor``.

        Raises
        ------
        PsfGenerationError
            Raised if the PSF gives no usable width.
        ValueError
            Raised if the image is smaller than the kernel or its mask lacks a plane that must be set.
        """
        self._prepare_mask(exposure)
        sigma = self._psf_sigma(exposure) if sigma is None else _checked_sigma(sigma, exposure)
        with self._wide_background_removed(exposure):
            found = self._detect(exposure, sigma, factor)
        if self.config.reEstimateBackground:
            background = self._re_estimate(exposure, background, background_to_photometric_ratio)
        found = self._wanted(exposure, found)
        return self._result(found, background, factor, id_generator or IdGenerator())

    # Steps ------------------------------------------------------------------------------------------------

    def _prepare_mask(self, exposure: VisitImage) -> None:
        needed = [plane_name(plane) for plane in (*_PLANES.values(), "EDGE")]
        missing = [plane for plane in needed if plane not in exposure.mask.schema.names]
        if missing:
            raise ValueError(
                f"The mask of {_label(exposure)} lacks {', '.join(missing)}; "
                "secondlight.catalog.mask_planes.ensure_planes adds planes."
            )
        for plane in _PLANES.values():
            exposure.mask.clear(plane_name(plane))

    def _psf_sigma(self, exposure: VisitImage) -> float:
        """Return the determinant radius of the PSF at its average position, pixels."""
        psf = exposure._psf  # the public property raises for a PSF that could not be read
        if not isinstance(psf, PointSpreadFunction):
            raise PsfGenerationError(f"{_label(exposure)} has no PSF.", sigma=math.nan)
        x, y = average_position(psf)
        return _checked_sigma(float(determinant_radius(psf_shapes(psf, x=x, y=y))[0]), exposure)

    def _smooth(self, exposure: VisitImage, sigma: float) -> Smoothed:
        """Return the smoothed image; pixels that are not finite count as sky and stay NaN themselves."""
        image, variance = exposure.image.array, exposure.variance.array
        bad = ~(np.isfinite(image) & np.isfinite(variance))
        n_bad = int(np.count_nonzero(bad))
        if n_bad:
            self.log.warning("%d pixels of %s are not finite and left out.", n_bad, _label(exposure))
            typical = np.median(variance[~bad]) if n_bad < bad.size else 1.0
            image, variance = np.where(bad, np.float32(0), image), np.where(bad, typical, variance)
        kernel = gaussian_kernel(sigma, kernel_size(sigma, self.config.nSigmaForKernel))
        try:
            smoothed = smooth(image, variance, kernel)
        except ValueError as error:
            raise ValueError(f"Nothing can be detected on {_label(exposure)}: {error}") from error
        if n_bad:
            smoothed.image[bad[smoothed.inner(bad.shape)]] = np.nan
        return smoothed

    @contextlib.contextmanager
    def _wide_background_removed(self, exposure: VisitImage) -> Iterator[None]:
        if not self.config.doTempWideBackground:
            yield
            return
        pixels = exposure.image.array
        original = pixels.copy()
        field = self.tempWideBackground.fit(exposure)
        pixels -= render_background(make_background(field), exposure.bbox)
        try:
            yield
        finally:
            pixels[...] = original

    def _detect(self, exposure: VisitImage, sigma: float, factor: float) -> dict[int, Footprints]:
        """Return what is found by polarity: 1 for peaks, -1 for holes; sets DETECTED and EDGE planes."""
        search = self._search(exposure, sigma, factor)
        polarity = self.config.thresholdPolarity
        both = self.config.reEstimateBackground or polarity == "both"
        signs = [s for s, name in ((1, "positive"), (-1, "negative")) if both or polarity == name]
        original = {sign: self._find(search, sign) for sign in signs}
        if self.config.doTempLocalBackground:
            search = self._without_local_background(exposure, search, original)
            for sign, footprints in original.items():
                original[sign] = search_peaks_again(
                    footprints,
                    search.smoothed.image,
                    search.mask(sign),
                    x0=search.x0,
                    y0=search.y0,
                    sign=sign,
                    keep_up_to=self.config.nPeaksMaxSimple,
                )
        radius = int(self.config.nSigmaToGrow * sigma + 0.5)
        self.log.info("Detected with sigma %.3f, growth by %d pixels.", sigma, radius)
        self.metadata["sigma"] = sigma
        self.metadata["smoothingKernelWidth"] = 2 * search.smoothed.margin + 1
        self.metadata["nGrow"] = radius
        self.metadata["doSmooth"] = True
        return {s: self._grow(exposure, search, f, radius, s) for s, f in original.items()}

    def _search(self, exposure: VisitImage, sigma: float, factor: float) -> Search:
        """Smooth the image, mark its frame as EDGE and work out the threshold."""
        smoothed = self._smooth(exposure, sigma)
        inner = smoothed.inner(exposure.bbox.shape)
        _set_frame(exposure.mask, plane_name("EDGE"), smoothed.margin)
        if self.config.excludeMaskPlanes:
            excluded = mask_of(exposure.mask, self.config.excludeMaskPlanes, missing_ok=True)
            smoothed.image[excluded[inner]] = 0.0
        level, noise = factor * self.config.thresholdValue, 0.0
        if self.config.thresholdType in ("stdev", "variance"):
            good = ~mask_of(exposure.mask, self.config.statsMask, missing_ok=True)[inner]
            stdev = clipped_statistics(smoothed.image[good]).stdev
            if self.config.thresholdType == "stdev":
                noise = stdev
            level *= stdev if self.config.thresholdType == "stdev" else stdev**2
        per_pixel = self.config.thresholdType == "pixel_stdev"
        x0, y0 = exposure.bbox.x.min + smoothed.margin, exposure.bbox.y.min + smoothed.margin
        return Search(smoothed, x0, y0, level, noise, per_pixel)

    def _find(self, search: Search, sign: int) -> Footprints:
        """Return connected regions beyond the threshold with their peaks, before growing."""
        if not search.level > 0:  # no noise to compare with, e.g. because every pixel is masked
            return Footprints.empty()
        footprints = connected_footprints(search.mask(sign), x0=search.x0, y0=search.y0)
        keep = footprints.areas() >= self.config.minPixels
        multiplier = self.config.includeThresholdMultiplier
        if multiplier != 1.0:
            keep &= reaching(footprints, search.mask(sign, multiplier), x0=search.x0, y0=search.y0)
        return find_peaks(footprints.take(keep), search.smoothed.image, x0=search.x0, y0=search.y0, sign=sign)

    def _without_local_background(
        self, exposure: VisitImage, search: Search, found: dict[int, Footprints]
    ) -> Search:
        """Return the search with the local background, sources left out, taken off the smoothed image."""
        x0, y0 = exposure.bbox.x.min, exposure.bbox.y.min
        for sign, footprints in found.items():
            shown = footprints.to_mask(exposure.bbox.shape, x0=x0, y0=y0)
            exposure.mask.set(plane_name(_PLANES[sign]), shown)
        pixels = render_background(make_background(self.tempLocalBackground.fit(exposure)), exposure.bbox)
        image = search.smoothed.image - pixels[search.smoothed.inner(pixels.shape)]
        return dataclasses.replace(search, smoothed=search.smoothed._replace(image=image))

    def _grow(
        self, exposure: VisitImage, search: Search, footprints: Footprints, radius: int, sign: int
    ) -> Footprints:
        """Return the footprints of one polarity to publish, and show the grown ones in the mask."""
        grown = footprints
        if radius > 0:
            grown = grow(
                footprints,
                radius,
                region=exposure.bbox,
                isotropic=self.config.isotropicGrow,
                combined=self.config.combinedGrow,
                sign=sign,
            )
        shown = grown.to_mask(exposure.bbox.shape, x0=exposure.bbox.x.min, y0=exposure.bbox.y.min)
        exposure.mask.set(plane_name(_PLANES[sign]), shown)
        return search.with_significance(footprints if self.config.returnOriginalFootprints else grown)

    def _re_estimate(
        self, exposure: VisitImage, background: BackgroundMap | None, ratio: Image | None
    ) -> BackgroundMap:
        with background_flat_context(exposure, self.config.doApplyFlatBackgroundRatio, ratio):
            field: Field = self.background.fit(exposure)
            if offset := self.config.adjustBackground:
                constant = ChebyshevField(exposure.bbox, np.array([[offset]]), unit=exposure.unit)
                field = SumField([field, constant])
            model = make_background(field)
            exposure.image.array[...] -= render_background(model, exposure.bbox)
        return model if background is None else combine_backgrounds(background, model)

    def _wanted(self, exposure: VisitImage, found: dict[int, Footprints]) -> dict[int, Footprints]:
        """Drop the polarity that was only found for the sake of the background."""
        polarity = self.config.thresholdPolarity
        wanted = {"positive": (1,), "negative": (-1,), "both": (1, -1)}[polarity]
        for sign in set(found) - set(wanted):
            exposure.mask.clear(plane_name(_PLANES[sign]))
        return {sign: footprints for sign, footprints in found.items() if sign in wanted}

    def _result(
        self,
        found: dict[int, Footprints],
        background: BackgroundMap | None,
        factor: float,
        id_generator: IdGenerator,
    ) -> Struct:
        positive, negative = found.get(1), found.get(-1)
        parts = [part for part in (negative, positive) if part is not None]
        footprints = Footprints.concatenate(parts)
        sources = SourceCatalog(self.schema, len(footprints), footprints=footprints)
        sources["id"] = id_generator.row_ids(len(footprints))
        if self.config.thresholdPolarity == "both" and negative is not None:
            sources["is_negative"][: len(negative)] = True
        n_pos, n_pos_peaks = (len(positive), len(positive.peak_x)) if positive is not None else (0, 0)
        n_neg, n_neg_peaks = (len(negative), len(negative.peak_x)) if negative is not None else (0, 0)
        self.log.info(
            "Detected %d positive footprints with %d peaks and %d negative footprints with %d peaks.",
            n_pos, n_pos_peaks, n_neg, n_neg_peaks,
        )  # fmt: skip
        return Struct(
            sources=sources,
            positive=positive,
            negative=negative,
            numPos=n_pos,
            numPosPeaks=n_pos_peaks,
            numNeg=n_neg,
            numNegPeaks=n_neg_peaks,
            background=background,
            factor=factor,
        )


def _label(exposure: VisitImage) -> str:
    return f"visit {exposure.obs_info.visit_id} detector {exposure.obs_info.detector_num}"


def _set_frame(mask: Mask, plane: str, width: int) -> None:
    """Set a mask plane in the outermost pixels of an image."""
    bit = mask.schema.bit(plane)
    pixels = mask.array[..., bit.index]
    height, length = pixels.shape
    for side in (np.s_[:width], np.s_[height - width :], np.s_[:, :width], np.s_[:, length - width :]):
        pixels[side] |= bit.mask


def _checked_sigma(sigma: float, exposure: VisitImage) -> float:
    if not (math.isfinite(sigma) and sigma > 0):
        raise PsfGenerationError(
            f"The PSF of {_label(exposure)} has a width of {sigma} pixels; a positive one is needed.",
            sigma=sigma,
        )
    return sigma
