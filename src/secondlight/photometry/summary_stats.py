"""Summary statistics of a calibrated image (spec reprocess 20)."""

from __future__ import annotations

__all__ = ("ComputeExposureSummaryStatsConfig", "ComputeExposureSummaryStatsTask")

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import astropy.table
import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo
from lsst.images import BackgroundMap, Box, Mask, ObservationSummaryStats, SkyProjection, VisitImage
from lsst.images.fields import BaseField
from lsst.images.psfs import PointSpreadFunction
from lsst.pex.config import Config
from lsst.pipe.base import Task

from ..background.fields import sky_level
from ..background.statistics import clipped_statistics
from ..catalog.mask_planes import mask_of
from ..catalog.photo_calib import PhotoCalib
from ..catalog.source_catalog import SourceCatalog
from ..psf.evaluation import determinant_radius, kernel_stamps, psf_shapes
from ..psf.source_selectors import BaseSourceSelectorTask
from ._summary_stats_config import ComputeExposureSummaryStatsConfig
from .calibrate import scaling_to_photo_calib
from .depth import effective_time_scales, limiting_magnitude
from .electronics import electronics_of, metadata_number
from .ellipticity_correlation import EllipticityCorrelationTask
from .psf_statistics import (
    distance_to_nearest_star,
    ellipticities,
    good_samples,
    grid_statistics,
    higher_moment_statistics,
    median_of_finite,
    star_statistics,
)
from .sky_statistics import box_corners, pixel_scale, zenith_distance

_SECOND = ("xx", "yy", "xy")
_MOMENTS = ("30", "21", "12", "03", "40", "31", "22", "13", "04")
_CORRELATIONS = ("psfTE1", "psfTE2", "psfTE3", "psfTE4")
_READ_NOISE, _GAIN = "magLimReadNoise", "magLimGain"
"""Metadata of the statistics: electrons and electrons per count, as the limiting magnitude assumed."""

type Catalog = SourceCatalog | astropy.table.Table


class ComputeExposureSummaryStatsTask(Task):
    """Condenses an image, its calibrations and its sources into a few numbers."""

    ConfigClass: ClassVar[type[Config]] = ComputeExposureSummaryStatsConfig
    _DefaultName: ClassVar[str] = "computeExposureSummaryStats"
    config: ComputeExposureSummaryStatsConfig
    starSelector: BaseSourceSelectorTask
    psfTE1: EllipticityCorrelationTask
    psfTE2: EllipticityCorrelationTask
    psfTE3: EllipticityCorrelationTask
    psfTE4: EllipticityCorrelationTask

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("starSelector", *_CORRELATIONS):
            self.makeSubtask(name)

    @property
    def star_columns(self) -> list[str]:
        """Columns without which there are no statistics of stars."""
        shapes = [
            f"{base}_{axes}" for base in (self.config.starShape, self.config.psfShape) for axes in _SECOND
        ]
        return [self.config.starSelection, "slot_Centroid_x", "slot_Centroid_y", *shapes]

    def run(
        self,
        exposure: VisitImage,
        sources: Catalog | None,
        background: BackgroundMap | float | None,
        *,
        photo_calib: PhotoCalib | None = None,
    ) -> ObservationSummaryStats:
        """Return the statistics of an image; NaN is what cannot be known.

        Parameters
        ----------
        exposure
            Background-subtracted image in counts, with its calibrations attached.
        sources
            Its measured sources.
        background
            What was subtracted from it, as a map or as a level in counts.
        photo_calib
            Calibration of its pixels, of which the mean matters; by default the one it carries, of which the
            mean over the image is taken.
        """
        stats = _blank()
        self.update_exposure_time(stats, exposure.obs_info)
        self.update_psf_stats(
            stats,
            exposure.psf,
            exposure.bbox,
            sources,
            mask=exposure.mask,
            ap_corr_map=exposure.aperture_corrections,
        )
        self.update_wcs_stats(stats, exposure.sky_projection, exposure.bbox, exposure.obs_info)
        self.update_photo_calib_stats(stats, photo_calib or _photo_calib_of(exposure))
        self.update_background_stats(stats, background)
        self.update_masked_image_stats(stats, exposure)
        self.update_magnitude_limit_stats(stats, exposure)
        self.update_effective_time_stats(stats, exposure.band)
        return stats

    def update_exposure_time(self, stats: ObservationSummaryStats, obs_info: ObservationInfo | None) -> None:
        """Fill the exposure time.

        Parameters
        ----------
        stats
            Statistics to update in place.
        obs_info
            What knows it.
        """
        time = None if obs_info is None else obs_info.exposure_time
        stats.expTime = math.nan if time is None else float(time.to_value(u.s))

    def update_psf_stats(
        self,
        stats: ObservationSummaryStats,
        psf: PointSpreadFunction | None,
        bbox: Box | None,
        sources: Catalog | None,
        *,
        mask: Mask | None = None,
        ap_corr_map: Mapping[str, BaseField] | None = None,
    ) -> None:
        """Fill everything about the PSF, presetting it to unknown.

        Parameters
        ----------
        stats
            Statistics to update in place.
        psf
            The model; `None` leaves the statistics unknown.
        bbox
            Pixels of the image; `None` leaves the statistics unknown.
        sources
            Its measured sources, with the flag named by ``starSelection``.
        mask
            Its mask; without one, all pixels count as good.
        ap_corr_map
            Its aperture corrections.
        """
        blank = _blank()
        for name in (n for n in type(stats).model_fields if n.startswith(("psf", "star", "nPsf", "maxDist"))):
            if not name.startswith(("psfTE", "psfAdaptive")):
                setattr(stats, name, getattr(blank, name))
        if psf is None or bbox is None:
            return
        center = {"x": np.array([bbox.x.center]), "y": np.array([bbox.y.center])}
        moments = psf_shapes(psf, **center)[0]
        stats.psfIxx, stats.psfIyy, stats.psfIxy = (float(value) for value in moments)
        stats.psfSigma = float(determinant_radius(moments))
        kernel = kernel_stamps(psf, **center)[0]
        stats.psfArea = float(kernel.sum() ** 2 / (kernel**2).sum())
        planes = list(self.config.psfBadMaskPlanes)
        grid_x, grid_y = good_samples(bbox, mask, step=self.config.psfGridSampling, bad_planes=planes)
        radius = float(np.maximum(self.config.minPsfApRadiusPix, 3 * stats.psfSigma))
        _update(stats, grid_statistics(psf, x=grid_x, y=grid_y, radius=radius))
        field = (ap_corr_map or {}).get(self.config.psfApCorrFieldName)
        if field is not None and len(grid_x):
            stats.psfApCorrSigmaScaledDelta = float(np.ptp(field(x=grid_x, y=grid_y)) / stats.psfSigma)
        if sources is not None and len(sources):
            self._update_star_stats(stats, sources, bbox, mask)

    def _update_star_stats(
        self, stats: ObservationSummaryStats, sources: Catalog, bbox: Box, mask: Mask | None
    ) -> None:
        """Fill what compares the PSF with its stars."""
        names = sources.colnames if isinstance(sources, astropy.table.Table) else sources
        if self.config.starSelection in names:
            stats.nPsfStar = int(np.count_nonzero(sources[self.config.starSelection]))
        if missing := [name for name in self.star_columns if name not in names]:
            self.log.warning("No columns %s: statistics of stars stay unknown.", ", ".join(missing))
            return
        stars = np.asarray(self.starSelector.select_sources(sources))
        if not stars.any():
            self.log.info("No good PSF star: statistics of stars stay unknown.")
            return

        _update(stats, star_statistics(*self._moments(sources, stars)))
        base = self.config.starHigherOrderMomentBase
        if all(f"{base}_{order}" in names for order in _MOMENTS):
            higher = {order: np.asarray(sources[f"{base}_{order}"])[stars] for order in _MOMENTS}
            _update(stats, higher_moment_statistics(higher))
        x, y = good_samples(
            bbox, mask, step=self.config.psfSampling, bad_planes=list(self.config.psfBadMaskPlanes)
        )
        star_x, star_y = (np.asarray(sources[f"slot_Centroid_{axis}"])[stars] for axis in "xy")
        finite = np.isfinite(star_x) & np.isfinite(star_y)
        stats.maxDistToNearestPsf = distance_to_nearest_star(
            x=x, y=y, star_x=star_x[finite], star_y=star_y[finite]
        )

    def _moments(self, sources: Catalog, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the moments [xx, yy, xy] of some stars and of the PSF at their places, each (n, 3)."""
        star, psf = (
            np.column_stack([np.asarray(sources[f"{prefix}_{axes}"])[rows] for axes in _SECOND])
            for prefix in (self.config.starShape, self.config.psfShape)
        )
        return star, psf

    def update_ellipticity_correlations(
        self, statistics: Iterable[ObservationSummaryStats], stars: astropy.table.Table
    ) -> None:
        """Fill the correlations of ellipticity residuals over a visit, the same for all its detectors.

        Those over short and over long distances on the whole visit (psfTE1, psfTE2) take the stars of all
        detectors together; the others (psfTE3, psfTE4) are medians over the detectors of what each detector's
        own stars give.  Ellipticities are along the axes of the pixels.

        Parameters
        ----------
        statistics
            Statistics of the detectors, to update in place.
        stars
            Stars of all detectors with ``detector``, ``coord_ra`` and ``coord_dec`` (radians) and what the
            other statistics of stars need.  Without positions the correlations stay unknown.
        """
        values = {f"{name}{part}": math.nan for name in _CORRELATIONS for part in ("e1", "e2", "ex")}
        if len(stars) and {"detector", "coord_ra", "coord_dec"} <= set(stars.colnames):
            values |= self._correlate(stars[np.asarray(self.starSelector.select_sources(stars))])
        for stats in statistics:
            _update(stats, values)

    def _correlate(self, stars: astropy.table.Table) -> dict[str, float]:
        """Return the correlations of selected stars by the names of the statistics."""
        star, psf = (ellipticities(moments) for moments in self._moments(stars, slice(None)))
        columns = {
            "ra": np.asarray(stars["coord_ra"]),
            "dec": np.asarray(stars["coord_dec"]),
            "delta_e1": star.e1 - psf.e1,
            "delta_e2": star.e2 - psf.e2,
        }
        detector = np.asarray(stars["detector"])
        groups = [np.flatnonzero(detector == number) for number in np.unique(detector)]
        result: dict[str, float] = {}
        for name in _CORRELATIONS:
            rows = groups if name in ("psfTE3", "psfTE4") else [np.arange(len(stars))]
            task = getattr(self, name)
            values = [task.run(**{key: column[i] for key, column in columns.items()}) for i in rows]
            for part in ("e1", "e2", "ex"):
                result[f"{name}{part}"] = median_of_finite(np.array([getattr(v, part) for v in values]))
        return result

    def update_wcs_stats(
        self,
        stats: ObservationSummaryStats,
        sky_projection: SkyProjection[Any] | None,
        bbox: Box | None,
        obs_info: ObservationInfo | None,
    ) -> None:
        """Fill the position on the sky, the pixel scale and the zenith distance.

        Parameters
        ----------
        stats
            Statistics to update in place.
        sky_projection
            Pixels to sky; `None` leaves the statistics unknown.
        bbox
            Pixels of the image; `None` leaves them unknown, too.
        obs_info
            Observatory and time.
        """
        blank = _blank()
        for name in ("ra", "dec", "pixelScale", "zenithDistance", "raCorners", "decCorners"):
            setattr(stats, name, getattr(blank, name))
        if sky_projection is None or bbox is None:
            return
        x, y = box_corners(bbox)
        corners = sky_projection.pixel_to_sky(x=x, y=y)
        ra, dec = (tuple(float(v) for v in axis.deg) for axis in (corners.ra, corners.dec))
        stats.raCorners, stats.decCorners = (ra[0], ra[1], ra[2], ra[3]), (dec[0], dec[1], dec[2], dec[3])
        center = sky_projection.pixel_to_sky(x=bbox.x.center, y=bbox.y.center)
        stats.ra, stats.dec = float(center.ra.deg), float(center.dec.deg)
        stats.pixelScale = pixel_scale(sky_projection, x=bbox.x.center, y=bbox.y.center)
        stats.zenithDistance = zenith_distance(center, obs_info)

    def update_photo_calib_stats(
        self, stats: ObservationSummaryStats, photo_calib: PhotoCalib | None
    ) -> None:
        """Fill the zero point.

        Parameters
        ----------
        stats
            Statistics to update in place.
        photo_calib
            Calibration of the counts, of which the mean matters; `None` leaves the zero point unknown.
        """
        stats.zeroPoint = math.nan
        if photo_calib is not None and photo_calib.mean > 0:
            stats.zeroPoint = photo_calib.zero_point

    def update_background_stats(
        self, stats: ObservationSummaryStats, background: BackgroundMap | float | None
    ) -> None:
        """Fill the sky level.

        Parameters
        ----------
        stats
            Statistics to update in place.
        background
            What was subtracted from the image, as a map or as a level in counts.
        """
        if background is None:
            stats.skyBg = math.nan
        elif isinstance(background, BackgroundMap):
            stats.skyBg = sky_level(background)
        else:
            stats.skyBg = float(background)

    def update_masked_image_stats(self, stats: ObservationSummaryStats, exposure: VisitImage) -> None:
        """Fill the clipped noise and the mean variance of the pixels.

        Parameters
        ----------
        stats
            Statistics to update in place.
        exposure
            Image to look at.
        """
        good = ~mask_of(exposure.mask, self.config.badMaskPlanes, missing_ok=True)
        n_sigma, n_iter = self.config.sigmaClip, self.config.clipIter
        pixels, variance = exposure.image.array[good], exposure.variance.array[good]
        stats.skyNoise = clipped_statistics(pixels, n_sigma=n_sigma, n_iter=n_iter).stdev
        stats.meanVar = clipped_statistics(variance, n_sigma=n_sigma, n_iter=n_iter).mean

    def update_magnitude_limit_stats(
        self, stats: ObservationSummaryStats, exposure: VisitImage | None = None
    ) -> None:
        """Fill the limiting magnitude from the sky, the PSF and the zero point.

        Parameters
        ----------
        stats
            Statistics to update in place; all these must be filled already.
        exposure
            Image whose metadata or amplifiers tell read noise and gain.  Both are noted in the metadata of
            the statistics, and taken from there when there is no image.
        """
        if exposure is not None:
            self._note_electronics(stats, exposure)
        stats.magLim = limiting_magnitude(
            psf_area=stats.psfArea,
            sky_background=stats.skyBg,
            zero_point=stats.zeroPoint,
            read_noise=metadata_number(stats.metadata, _READ_NOISE),
            gain=metadata_number(stats.metadata, _GAIN),
            signal_to_noise=self.config.magLimSnr,
        )

    def knows_electronics(self, stats: ObservationSummaryStats) -> bool:
        """Return whether the statistics tell the gain and read noise of the image they were made of."""
        return _READ_NOISE in stats.metadata and _GAIN in stats.metadata

    def _note_electronics(self, stats: ObservationSummaryStats, exposure: VisitImage) -> None:
        """Keep what the limiting magnitude takes from an image beside the statistics."""
        read_noise, gain = electronics_of(exposure)
        if math.isnan(read_noise):
            self.log.warning(
                "Visit %s, detector %d: read noise unknown, taken as 0.",
                exposure.obs_info.visit_id,
                exposure.detector.id,
            )
            read_noise = 0.0
        if not math.isnan(gain):
            stats.metadata |= {_READ_NOISE: read_noise, _GAIN: gain}

    def update_effective_time_stats(self, stats: ObservationSummaryStats, band: str) -> None:
        """Fill the effective exposure time and its factors.

        Parameters
        ----------
        stats
            Statistics to update in place; limiting magnitude and exposure time must be filled already.
        band
            Band label.
        """
        if not band:
            self.log.warning("The image has no band: its effective exposure time stays unknown.")

        def fiducial(name: str) -> float:
            return float(getattr(self.config, f"fiducial{name}").get(band, math.nan))

        scales = effective_time_scales(
            psf_sigma=stats.psfSigma,
            sky_background=stats.skyBg,
            zero_point=stats.zeroPoint,
            exposure_time=stats.expTime,
            fiducial_psf_sigma=fiducial("PsfSigma"),
            fiducial_sky_background=fiducial("SkyBackground"),
            fiducial_zero_point=fiducial("ZeroPoint"),
            max_transparency=self.config.maxEffectiveTransparency,
        )
        stats.effTimePsfSigmaScale = scales.psf_sigma
        stats.effTimeSkyBgScale = scales.sky_background
        stats.effTimeZeroPointScale = scales.zero_point
        stats.effTime = 10 ** (0.8 * (stats.magLim - fiducial("MagLim"))) * fiducial("ExpTime")


def _blank() -> ObservationSummaryStats:
    """Return statistics of which nothing is known."""
    return ObservationSummaryStats.model_validate({})


def _update(stats: ObservationSummaryStats, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        setattr(stats, name, value)


def _photo_calib_of(exposure: VisitImage) -> PhotoCalib | None:
    """Return the calibration of the pixels of an image, `None` if there is none."""
    if exposure.unit.is_equivalent(u.nJy):
        return PhotoCalib(float(exposure.unit.to(u.nJy)))
    field = exposure.photometric_scaling
    return None if field is None else scaling_to_photo_calib(field, exposure.unit)
