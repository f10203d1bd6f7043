"""The photometric calibration of one image, against reference stars or from what came with the image."""

from __future__ import annotations

__all__ = ("PhotometryConfig", "PhotometryTask")

from typing import Any, ClassVar

import astropy.table
import numpy as np
from lsst.images import VisitImage
from lsst.pex.config import Config, DictField, Field
from lsst.pipe.base import AlgorithmError, Struct, Task

from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog
from ..psf.source_selectors import BaseSourceSelectorTask, sourceSelectorRegistry
from ..sky.matching import match_nearest
from .calibrate import scaling_to_photo_calib
from .zero_point import ZeroPointError, fit_zero_point


class NoPhotometricCalibrationError(AlgorithmError):
    """There is neither a usable reference star nor a zero point that came with the image.

    Parameters
    ----------
    where
        Visit and detector.
    reason
        Why the reference stars could not be used.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            f"No photometric calibration of {where}: {reason}, and the image brought no zero point along."
        )
        self._reason = reason

    @property
    def metadata(self) -> dict[str, Any]:
        """Why the reference stars could not be used."""
        return {"reason": self._reason}


class PhotometryConfig(Config):
    """Configuration of `PhotometryTask`."""

    sourceSelector = sourceSelectorRegistry.makeField("Selects stars to calibrate with.", default="science")
    flux_field = Field[str](doc="Instrumental flux, without suffix.", default="slot_CalibFlux")
    match_radius = Field[float](doc="Largest distance to a reference star, arcsec.", default=1.0)
    mag_column = Field[str](
        doc="Reference magnitude column; ``{band}`` stands for the band.", default="mag_{band}"
    )
    mag_err_column = Field[str](doc="Error of the reference magnitude.", default="mag_err_{band}")
    max_mag_err = Field[float](doc="Largest error of a usable reference magnitude.", default=0.05)
    min_stars = Field[int](doc="Fewest matched stars.", default=5)
    reference_bands = DictField[str, str](
        doc="Band of the reference catalog to use for a band of the images, where the names differ.",
        default={},
    )

    def setDefaults(self) -> None:
        """Use clean, point-like, unblended sources of good signal-to-noise ratio."""
        super().setDefaults()
        science = self.sourceSelector["science"]
        science.doFlags = True
        science.flags.bad = [
            "base_PixelFlags_flag_edge", "base_PixelFlags_flag_nodata",
            "base_PixelFlags_flag_interpolatedCenter", "base_PixelFlags_flag_saturated",
            "base_PixelFlags_flag_bad", "slot_CalibFlux_flag", "slot_Centroid_flag",
        ]  # fmt: skip
        science.doUnresolved = True
        science.doIsolated = True
        science.doSignalToNoise = True
        science.signalToNoise.fluxField = "slot_CalibFlux_instFlux"
        science.signalToNoise.errField = "slot_CalibFlux_instFluxErr"
        science.signalToNoise.minimum = 20.0


class PhotometryTask(Task):
    """Find what turns the counts of an image into nJy.

    Parameters
    ----------
    schema
        Schema of the catalogs to come; gains ``calib_photometry_used``.
    """

    ConfigClass: ClassVar[type[Config]] = PhotometryConfig
    _DefaultName: ClassVar[str] = "photometry"
    config: PhotometryConfig
    sourceSelector: BaseSourceSelectorTask

    def __init__(self, *, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        schema.add_flag("calib_photometry_used", "source was used in the fit of the zero point")
        self.makeSubtask("sourceSelector")

    def run(
        self, exposure: VisitImage, sources: SourceCatalog, reference: astropy.table.Table | None = None
    ) -> Struct:
        """Fit the zero point to reference stars; without enough of them take the image's own scaling.

        Parameters
        ----------
        exposure
            Image the sources were measured on.
        sources
            Measured sources with sky coordinates; the flag of those used is set.
        reference
            Table with ``ra``, ``dec`` (deg) and magnitudes; masked values are missing ones.

        Returns
        -------
        lsst.pipe.base.Struct
            ``photo_calib``: the calibration; ``zero_point``: the fit, `None` if there was none.

        Raises
        ------
        NoPhotometricCalibrationError
            Raised if neither way leads to a calibration.
        ValueError
            Raised if the reference catalog has no positions.
        """
        sources["calib_photometry_used"] = False
        if reference is None:
            return self._from_image(exposure, "no reference catalog is registered")
        band = self.config.reference_bands.get(exposure.band, exposure.band)
        magnitude = self.config.mag_column.format(band=band)
        if magnitude not in reference.colnames:
            return self._from_image(exposure, f"the reference catalog has no column {magnitude!r}")
        try:
            zero_point = self._fit(sources, reference, band)
        except ZeroPointError as error:
            return self._from_image(exposure, str(error))
        self.metadata["zero_point"] = zero_point.value
        self.metadata["zero_point_error"] = zero_point.error
        self.metadata["zero_point_scatter"] = zero_point.scatter
        self.metadata["zero_point_stars"] = zero_point.n_used
        self.log.info(
            "Zero point %.4f +- %.4f mag from %d stars, scatter %.4f mag.",
            zero_point.value, zero_point.error, zero_point.n_used, zero_point.scatter,
        )  # fmt: skip
        return Struct(photo_calib=zero_point.photo_calib, zero_point=zero_point)

    def _fit(self, sources: SourceCatalog, reference: astropy.table.Table, band: str) -> Any:
        """Match the selected stars to the reference stars and fit the zero point."""
        config = self.config
        ref_ra, ref_dec = _values(reference, "ra"), _values(reference, "dec")
        ref_mag = _values(reference, config.mag_column.format(band=band))
        error_column = config.mag_err_column.format(band=band)
        ref_err = _values(reference, error_column) if error_column in reference.colnames else None
        good = np.isfinite(ref_mag)
        if ref_err is not None:
            good &= ref_err < config.max_mag_err
        if "is_star" in reference.colnames:
            good &= np.ma.filled(np.ma.asarray(reference["is_star"], dtype=bool), False)
        stars = np.nonzero(self.sourceSelector.select_sources(sources))[0]
        known = np.nonzero(good)[0]
        ra, dec = np.degrees(sources["coord_ra"][stars]), np.degrees(sources["coord_dec"][stars])
        nearest = match_nearest(ra, dec, ref_ra[known], ref_dec[known], config.match_radius)
        stars, known = stars[nearest >= 0], known[nearest[nearest >= 0]]
        zero_point = fit_zero_point(
            inst_flux=sources[f"{config.flux_field}_instFlux"][stars],
            inst_flux_err=sources[f"{config.flux_field}_instFluxErr"][stars],
            ref_mag=ref_mag[known],
            ref_mag_err=ref_err[known] if ref_err is not None else None,
            min_stars=config.min_stars,
        )
        sources["calib_photometry_used"][stars[zero_point.used]] = True
        return zero_point

    def _from_image(self, exposure: VisitImage, reason: str) -> Struct:
        """Take the calibration that came with the image."""
        scaling = exposure.photometric_scaling
        if scaling is None:
            info = exposure.obs_info
            raise NoPhotometricCalibrationError(
                f"visit {info.visit_id}, detector {info.detector_num}", reason
            )
        self.log.warning("Using the zero point that came with the image: %s.", reason)
        calib = scaling_to_photo_calib(scaling, exposure.unit)
        self.metadata["zero_point"] = calib.zero_point
        return Struct(photo_calib=calib, zero_point=None)


def _values(table: astropy.table.Table, name: str) -> np.ndarray:
    """Return a column of numbers, NaN where they are masked."""
    if name not in table.colnames:
        raise ValueError(f"The reference catalog has no column {name!r}; it has {', '.join(table.colnames)}.")
    return np.asarray(np.ma.filled(np.ma.asarray(table[name], dtype=np.float64), np.nan))
