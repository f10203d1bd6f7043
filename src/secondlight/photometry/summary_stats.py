"""Summary statistics of a calibrated image (spec reprocess 20)."""

from __future__ import annotations

__all__ = ("ComputeExposureSummaryStatsConfig", "ComputeExposureSummaryStatsTask")

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import astropy.table
import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.coordinates import AltAz, SkyCoord
from astropy.utils import iers
from lsst.images import BackgroundMap, Box, Mask, ObservationSummaryStats, SkyProjection, VisitImage
from lsst.images.fields import BaseField
from lsst.images.psfs import PointSpreadFunction
from lsst.pex.config import Config, DictField, Field, ListField
from lsst.pipe.base import Task

from ..background.fields import sky_level
from ..background.statistics import clipped_statistics
from ..catalog.mask_planes import mask_of
from ..catalog.photo_calib import AB_FLUX_NJY
from ..catalog.source_catalog import SourceCatalog
from ..psf.evaluation import determinant_radius, kernel_stamps, psf_shapes
from ..psf.source_selectors import BaseSourceSelectorTask, sourceSelectorRegistry
from .calibrate import scaling_to_photo_calib
from .depth import effective_time_scales, limiting_magnitude
from .electronics import electronics_of
from .psf_statistics import (
    distance_to_nearest_star,
    good_samples,
    grid_statistics,
    higher_moment_statistics,
    star_statistics,
)

_BANDS = "ugrizy"
_MOMENTS = ("30", "21", "12", "03", "40", "31", "22", "13", "04")

type Catalog = SourceCatalog | astropy.table.Table


def _by_band(doc: str, value: float) -> DictField[str, float]:
    return DictField(keytype=str, itemtype=float, doc=doc, default=dict.fromkeys(_BANDS, value))


class ComputeExposureSummaryStatsConfig(Config):
    """Configuration of `ComputeExposureSummaryStatsTask`."""

    sigmaClip = Field[float](doc="Clipping limit of the pixel statistics, sigma.", default=3.0)
    clipIter = Field[int](doc="Number of clipping rounds of the pixel statistics.", default=2)
    badMaskPlanes = ListField[str](
        doc="Planes whose pixels are left out of the pixel statistics.", default=["NO_DATA", "SUSPECT"]
    )
    starSelection = Field[str](
        doc="Flag column of the stars the PSF was made from.", default="calib_psf_used"
    )
    starSelector = sourceSelectorRegistry.makeField(
        doc="Chooses the stars of the PSF statistics.", default="science"
    )
    starShape = Field[str](doc="Column prefix of the stars' second moments.", default="slot_Shape")
    psfShape = Field[str](
        doc="Column prefix of the PSF's second moments at the stars.", default="slot_PsfShape"
    )
    starHigherOrderMomentBase = Field[str](
        doc="Column prefix of the stars' higher moments.", default="ext_shapeHSM_HigherOrderMomentsSource"
    )
    psfSampling = Field[int](doc="Step of the distance-to-star statistic, pixels.", default=8)
    psfGridSampling = Field[int](doc="Step of the grid the PSF is evaluated on, pixels.", default=96)
    minPsfApRadiusPix = Field[float](doc="Smallest aperture of the PSF flux statistic, pixels.", default=2.0)
    psfApCorrFieldName = Field[str](
        doc="Aperture correction whose variation is measured.", default="base_PsfFlux_instFlux"
    )
    psfBadMaskPlanes = ListField[str](
        doc="Planes whose pixels are left out of the grid statistics.",
        default=["BAD", "CR", "EDGE", "INTRP", "NO_DATA", "SAT", "SUSPECT"],
    )
    fiducialSkyBackground = _by_band("Sky background by band, counts per second.", 1.0)
    fiducialPsfSigma = _by_band("PSF size by band, pixels.", 1.0)
    fiducialZeroPoint = _by_band("Magnitude of one count per second by band.", 25.0)
    fiducialReadNoise = _by_band("Read noise that fiducialMagLim assumes, by band, electrons.", 9.0)
    fiducialExpTime = _by_band("Exposure time that fiducialMagLim assumes, by band, s.", 30.0)
    fiducialMagLim = _by_band("Limiting magnitude by band under fiducial conditions.", 25.0)
    maxEffectiveTransparency = Field[float](
        doc="Upper limit of the throughput factor of the effective time.", default=math.inf
    )
    magLimSnr = Field[float](doc="Signal-to-noise ratio at the limiting magnitude.", default=5.0)

    def setDefaults(self) -> None:
        """Select PSF stars with good shapes and fluxes of moderate signal-to-noise."""
        super().setDefaults()
        selector = self.starSelector["science"]
        selector.doFluxLimit = False
        selector.doFlags = True
        selector.doUnresolved = False
        selector.doSignalToNoise = True
        selector.doIsolated = False
        selector.flags.good = ["calib_psf_used"]
        selector.flags.bad = ["slot_Shape_flag", "slot_PsfFlux_flag"]
        selector.signalToNoise.fluxField = "slot_PsfFlux_instFlux"
        selector.signalToNoise.errField = "slot_PsfFlux_instFluxErr"
        selector.signalToNoise.minimum = 50.0
        selector.signalToNoise.maximum = 1000.0


class ComputeExposureSummaryStatsTask(Task):
    """Condenses an image, its calibrations and its sources into a few numbers."""

    ConfigClass: ClassVar[type[Config]] = ComputeExposureSummaryStatsConfig
    _DefaultName: ClassVar[str] = "computeExposureSummaryStats"
    config: ComputeExposureSummaryStatsConfig
    starSelector: BaseSourceSelectorTask

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.makeSubtask("starSelector")

    def run(
        self,
        exposure: VisitImage,
        sources: Catalog | None,
        background: BackgroundMap | float | None,
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
        """
        stats = _blank()
        if exposure.obs_info.exposure_time is not None:
            stats.expTime = float(exposure.obs_info.exposure_time.to_value(u.s))
        self.update_psf_stats(
            stats,
            exposure.psf,
            exposure.bbox,
            sources,
            mask=exposure.mask,
            ap_corr_map=exposure.aperture_corrections,
        )
        self.update_wcs_stats(stats, exposure.sky_projection, exposure.bbox, exposure.obs_info)
        self.update_photo_calib_stats(stats, exposure)
        self.update_background_stats(stats, background)
        self.update_masked_image_stats(stats, exposure)
        self.update_magnitude_limit_stats(stats, exposure)
        self.update_effective_time_stats(stats, exposure.band)
        return stats

    def update_psf_stats(
        self,
        stats: ObservationSummaryStats,
        psf: PointSpreadFunction | None,
        bbox: Box,
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
            Pixels of the image.
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
        if psf is None:
            return
        center = {"x": np.array([bbox.x.center]), "y": np.array([bbox.y.center])}
        moments = psf_shapes(psf, **center)[0]
        stats.psfIxx, stats.psfIyy, stats.psfIxy = (float(value) for value in moments)
        stats.psfSigma = float(determinant_radius(moments))
        kernel = kernel_stamps(psf, **center)[0]
        stats.psfArea = float(kernel.sum() ** 2 / (kernel**2).sum())
        planes = list(self.config.psfBadMaskPlanes)
        grid_x, grid_y = good_samples(bbox, mask, step=self.config.psfGridSampling, bad_planes=planes)
        radius = max(self.config.minPsfApRadiusPix, 3 * stats.psfSigma)
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
        stats.nPsfStar = int(np.count_nonzero(sources[self.config.starSelection]))
        stars = np.asarray(self.starSelector.select_sources(sources))
        if not stars.any():
            self.log.info("No good PSF star: statistics of stars stay unknown.")
            return

        def moments(prefix: str) -> np.ndarray:
            return np.column_stack([np.asarray(sources[f"{prefix}_{s}"])[stars] for s in ("xx", "yy", "xy")])

        _update(stats, star_statistics(moments(self.config.starShape), moments(self.config.psfShape)))
        base = self.config.starHigherOrderMomentBase
        names = sources.colnames if isinstance(sources, astropy.table.Table) else sources
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

    def update_wcs_stats(
        self,
        stats: ObservationSummaryStats,
        sky_projection: SkyProjection[Any] | None,
        bbox: Box,
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
            Pixels of the image.
        obs_info
            Observatory and time.
        """
        blank = _blank()
        for name in ("ra", "dec", "pixelScale", "zenithDistance", "raCorners", "decCorners"):
            setattr(stats, name, getattr(blank, name))
        if sky_projection is None:
            return
        x0, x1 = bbox.x.start - 0.5, bbox.x.stop - 0.5
        y0, y1 = bbox.y.start - 0.5, bbox.y.stop - 0.5
        corners = sky_projection.pixel_to_sky(x=np.array([x0, x1, x1, x0]), y=np.array([y0, y0, y1, y1]))
        ra, dec = (tuple(float(v) for v in axis.deg) for axis in (corners.ra, corners.dec))
        stats.raCorners, stats.decCorners = (ra[0], ra[1], ra[2], ra[3]), (dec[0], dec[1], dec[2], dec[3])
        center = sky_projection.pixel_to_sky(x=bbox.x.center, y=bbox.y.center)
        stats.ra, stats.dec = float(center.ra.deg), float(center.dec.deg)
        stats.pixelScale = _pixel_scale(sky_projection, x=bbox.x.center, y=bbox.y.center)
        stats.zenithDistance = _zenith_distance(center, obs_info)

    def update_photo_calib_stats(self, stats: ObservationSummaryStats, exposure: VisitImage) -> None:
        """Fill the zero point from the photometric scaling of an image.

        Parameters
        ----------
        stats
            Statistics to update in place.
        exposure
            Image whose scaling leads from its pixels to nJy.
        """
        mean = _mean_calibration(exposure)
        stats.zeroPoint = -2.5 * math.log10(mean / AB_FLUX_NJY) if mean > 0 else math.nan

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

    def update_magnitude_limit_stats(self, stats: ObservationSummaryStats, exposure: VisitImage) -> None:
        """Fill the limiting magnitude from the sky, the PSF and the zero point.

        Parameters
        ----------
        stats
            Statistics to update in place; all these must be filled already.
        exposure
            Image whose metadata or amplifiers tell read noise and gain.
        """
        read_noise, gain = electronics_of(exposure)
        if math.isnan(read_noise):
            self.log.warning(
                "Visit %s, detector %d: read noise unknown, taken as 0.",
                exposure.obs_info.visit_id,
                exposure.detector.id,
            )
            read_noise = 0.0
        stats.magLim = limiting_magnitude(
            psf_area=stats.psfArea,
            sky_background=stats.skyBg,
            zero_point=stats.zeroPoint,
            read_noise=read_noise,
            gain=gain,
            signal_to_noise=self.config.magLimSnr,
        )

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
            return

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


def _pixel_scale(sky_projection: SkyProjection[Any], *, x: float, y: float) -> float:
    """Return the side of a square of the area of the pixel about a position, arcsec."""
    sky = sky_projection.pixel_to_sky(x=x + np.array([-0.5, 0.5, 0, 0]), y=y + np.array([0, 0, -0.5, 0.5]))
    left, right, below, above = sky.cartesian.xyz.value.T
    area = np.linalg.norm(np.cross(right - left, above - below))
    return math.degrees(math.sqrt(float(area))) * 3600


def _zenith_distance(sky: SkyCoord, obs_info: ObservationInfo | None) -> float:
    """Return the zenith distance in the middle of an observation, degrees; NaN without place or time."""
    if obs_info is None or obs_info.location is None or obs_info.datetime_begin is None:
        return math.nan
    time = obs_info.datetime_begin
    if obs_info.datetime_end is not None:
        time = time + 0.5 * (obs_info.datetime_end - time)
    # Polar motion and leap seconds do not matter here: never reach out to the network for their latest
    # values, and take far-off dates as they come.
    with (
        warnings.catch_warnings(action="ignore"),
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
    ):
        altitude = sky.transform_to(AltAz(obstime=time, location=obs_info.location)).alt
    return 90.0 - float(altitude.deg)


def _mean_calibration(exposure: VisitImage) -> float:
    """Return the mean calibration of an image, nJy per pixel unit; NaN if there is none."""
    if exposure.unit.is_equivalent(u.nJy):
        return float(exposure.unit.to(u.nJy))
    field = exposure.photometric_scaling
    if field is None:
        return math.nan
    return scaling_to_photo_calib(field, exposure.unit).mean
