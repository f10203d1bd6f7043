"""The calibration flux: a background-robust flux scaled to a standard aperture (spec reprocess 18.1)."""

from __future__ import annotations

__all__ = (
    "NormalizedCalibrationFluxConfig",
    "NormalizedCalibrationFluxError",
    "NormalizedCalibrationFluxTask",
)

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from lsst.images import Box, VisitImage
from lsst.images.fields import BaseField, ChebyshevField
from lsst.pex.config import Config, ConfigurableField, Field
from lsst.pipe.base import AlgorithmError, Struct, Task

from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog
from ..psf.source_selectors import BaseSourceSelectorTask, sourceSelectorRegistry
from .measure_ap_corr import MeasureApCorrError, MeasureApCorrTask


class NormalizedCalibrationFluxError(AlgorithmError):
    """The normalization could not be measured, not even as a median.

    Parameters
    ----------
    n_initial_sources
        Number of rows of the catalog.
    n_calib_flux_flag
        Number of rows with a flagged raw or reference flux.
    """

    def __init__(self, *, n_initial_sources: int, n_calib_flux_flag: int) -> None:
        super().__init__(
            f"No star to normalize the calibration flux with: {n_initial_sources} sources, "
            f"{n_calib_flux_flag} of them with a flagged flux."
        )
        self._metadata = {"n_initial_sources": n_initial_sources, "n_calib_flux_flag": n_calib_flux_flag}

    @property
    def metadata(self) -> dict[str, Any]:
        """Numbers that describe the failure."""
        return self._metadata


class NormalizedCalibrationFluxConfig(Config):
    """Configuration of `NormalizedCalibrationFluxTask`."""

    measure_ap_corr: ConfigurableField[Any] = ConfigurableField(
        target=MeasureApCorrTask, doc="Fits the normalization field."
    )
    raw_calibflux_name = Field[str](
        doc="Column prefix of the flux to normalize.", default="base_CompensatedTophatFlux_12"
    )
    normalized_calibflux_name = Field[str](
        doc="Column prefix of the normalized flux.", default="base_NormalizedCompensatedTophatFlux"
    )
    do_set_calib_slot = Field[bool](
        doc="Whether slot_CalibFlux is pointed at the normalized flux.", default=True
    )
    do_measure_ap_corr = Field[bool](
        doc="Whether to measure the normalization; otherwise the image brings it along.", default=True
    )
    fallback_source_selector = sourceSelectorRegistry.makeField(
        doc="Chooses the stars whose median ratio is used if the fit fails.", default="science"
    )

    def setDefaults(self) -> None:
        """Fit one constant to the 12-pixel aperture; fall back to the stars the PSF was made from."""
        super().setDefaults()
        self.measure_ap_corr.refFluxName = "base_CircularApertureFlux_12_0"
        self.measure_ap_corr.fitConfig.orderX = 0
        self.measure_ap_corr.fitConfig.orderY = 0
        selector = self.fallback_source_selector["science"]
        selector.doFluxLimit = False
        selector.doFlags = True
        selector.doUnresolved = False
        selector.doIsolated = False
        selector.flags.good = ["calib_psf_used"]
        selector.flags.bad = []
        selector.doSignalToNoise = True
        selector.signalToNoise.fluxField = f"{self.raw_calibflux_name}_instFlux"
        selector.signalToNoise.errField = f"{self.raw_calibflux_name}_instFluxErr"
        selector.signalToNoise.minimum = 50.0


class NormalizedCalibrationFluxTask(Task):
    """Scales the raw calibration flux by a field that brings it to the scale of a standard aperture flux.

    Parameters
    ----------
    schema
        Schema of the catalogs, with the raw flux; the normalized flux, its error and flag are added.
    """

    ConfigClass: ClassVar[type[Config]] = NormalizedCalibrationFluxConfig
    _DefaultName: ClassVar[str] = "normalizedCalibrationFlux"
    config: NormalizedCalibrationFluxConfig
    measure_ap_corr: MeasureApCorrTask
    fallback_source_selector: BaseSourceSelectorTask

    def __init__(self, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        raw, name = self.config.raw_calibflux_name, self.config.normalized_calibflux_name
        if self.config.do_measure_ap_corr:
            self.makeSubtask("measure_ap_corr", schema=schema, names=[raw])
            self.makeSubtask("fallback_source_selector")
        unit = schema[f"{raw}_instFlux"].unit
        schema.add(f"{name}_instFlux", np.float64, f"normalized {raw} flux", unit=unit)
        schema.add(f"{name}_instFluxErr", np.float64, f"uncertainty of the normalized {raw} flux", unit=unit)
        schema.add_flag(f"{name}_flag", f"normalized {raw} flux is not usable")
        if self.config.do_set_calib_slot:
            schema.set_alias("slot_CalibFlux", name)

    def run(self, exposure: VisitImage, catalog: SourceCatalog) -> Struct:
        """Fill the normalized flux of every row.

        Parameters
        ----------
        exposure
            Image the catalog belongs to; brings the normalization unless it is to be measured.
        catalog
            Measured sources, changed in place.

        Returns
        -------
        struct
            ``ap_corr_map``: the normalization, keyed ``<raw>_instFlux`` and ``<raw>_instFluxErr``.

        Raises
        ------
        NormalizedCalibrationFluxError
            Raised if the normalization is to be measured and no star is fit for it.
        """
        raw, name = self.config.raw_calibflux_name, self.config.normalized_calibflux_name
        if self.config.do_measure_ap_corr:
            ap_corr_map = self._measure(exposure.bbox, catalog)
        else:
            ap_corr_map = self._get(exposure.bbox, exposure.aperture_corrections)
        field = ap_corr_map[f"{raw}_instFlux"]
        scale = np.asarray(field(x=catalog["slot_Centroid_x"], y=catalog["slot_Centroid_y"]))
        catalog[f"{name}_instFlux"] = catalog[f"{raw}_instFlux"] * scale
        catalog[f"{name}_instFluxErr"] = catalog[f"{raw}_instFluxErr"] * scale
        catalog[f"{name}_flag"] = catalog[f"{raw}_flag"] | ~(scale > 0)
        return Struct(ap_corr_map=ap_corr_map)

    def _get(self, bbox: Box, ap_corr_map: Mapping[str, BaseField] | None) -> dict[str, BaseField]:
        """Return the normalization an image brings along; the identity, with a warning, if there is none."""
        keys = [f"{self.config.raw_calibflux_name}{suffix}" for suffix in ("_instFlux", "_instFluxErr")]
        missing = [key for key in keys if key not in (ap_corr_map or {})]
        if ap_corr_map is not None and not missing:
            return {key: ap_corr_map[key] for key in keys}
        self.log.warning(
            "The aperture correction map has no %s; %s is left unnormalized.",
            " and no ".join(missing),
            self.config.raw_calibflux_name,
        )
        return dict(zip(keys, (_constant(bbox, 1.0), _constant(bbox, 0.0)), strict=True))

    def _measure(self, bbox: Box, catalog: SourceCatalog) -> dict[str, BaseField]:
        """Return the normalization fitted to the stars, or their median ratio if that fails."""
        flux, error = (
            f"{self.config.raw_calibflux_name}{suffix}" for suffix in ("_instFlux", "_instFluxErr")
        )
        try:
            field = self.measure_ap_corr.run(bbox, catalog).ap_corr_map.get(flux)
        except MeasureApCorrError:
            field = None
        if field is None:
            self.log.warning("The normalization of %s cannot be fitted; taking a median.", flux)
            field = _constant(bbox, self._median_ratio(catalog))
        # Its scatter says how well stars agree with the aperture flux, not how well a constant is known.
        return {flux: field, error: _constant(bbox, 0.0)}

    def _median_ratio(self, catalog: SourceCatalog) -> float:
        raw, reference = self.config.raw_calibflux_name, self.config.measure_ap_corr.refFluxName
        flagged = catalog[f"{raw}_flag"] | catalog[f"{reference}_flag"]
        flux, ref_flux = catalog[f"{raw}_instFlux"], catalog[f"{reference}_instFlux"]
        good = self.fallback_source_selector.select_sources(catalog) & ~flagged
        with np.errstate(invalid="ignore"):
            good &= np.isfinite(flux) & (flux > 0) & np.isfinite(ref_flux)
        if not good.any():
            raise NormalizedCalibrationFluxError(
                n_initial_sources=len(catalog), n_calib_flux_flag=int(flagged.sum())
            )
        return float(np.median(ref_flux[good] / flux[good]))


def _constant(bbox: Box, value: float) -> ChebyshevField:
    return ChebyshevField(bbox, np.array([[value]]))
