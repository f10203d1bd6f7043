"""modelfit_CModel: exponential and de Vaucouleurs models of galaxies (spec finalize 8.11)."""

from __future__ import annotations

__all__ = ("CModelPlugin",)

import time

import numpy as np

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.photometry.ap_corr_names import add_ap_corr_name

from ..modelfit import regions as regions
from ..modelfit import stages as kernels
from ..modelfit.config import CModelConfig, CModelStageConfig
from ..modelfit.shapelet_psf import read_shapelet_psf, shapelet_columns
from ..plugin import MeasurementPlugin, register
from ..sources import MeasurementSources
from .sky_position import local_sky

_KRON_RADIUS = "ext_photometryKron_KronFlux_radius"
_ARCSEC = np.pi / 180.0 / 3600.0
_STAGES = ("initial", "exp", "dev")

_FLAGS = {
    "flag": (kernels.FAILED, "general failure"),
    "flag_region_maxArea": (regions.MAX_AREA, "a region has more pixels than the limit; nothing is fitted"),
    "flag_region_maxBadPixelFraction": (regions.BAD_PIXELS, "too many pixels of a region are bad"),
    "flags_region_usedFootprintArea": (
        regions.FOOTPRINT_AREA,
        "the initial region has the shape of the PSF and the area of the footprint",
    ),
    "flags_region_usedPsfArea": (regions.PSF_AREA, "the initial region is the smallest for the PSF"),
    "flags_region_usedInitialEllipseMin": (
        regions.MIN_ELLIPSE,
        "the final region is the smallest for the fit",
    ),
    "flags_region_usedInitialEllipseMax": (
        regions.MAX_ELLIPSE,
        "the final region is the largest for the fit",
    ),
    "flag_noShape": (kernels.NO_SHAPE, "no usable shape; the fit started from that of the PSF"),
    "flags_smallShape": (kernels.SMALL_SHAPE, "the source is hardly larger than the PSF"),
    "flag_noShapeletPsf": (kernels.NO_PSF, "there is no usable approximation of the PSF"),
    "flag_noFlux": (kernels.NO_FLUX, "the models have no flux within the region"),
}
_STAGE_FLAGS = {
    "flag": (kernels.STAGE_FAILED, "general failure"),
    "flag_trSmall": (kernels.STAGE_SMALL_RADIUS, "the fit ended because its trust region became small"),
    "flag_maxIter": (kernels.STAGE_MAX_ITERATIONS, "too many iterations"),
    "flag_numericError": (kernels.STAGE_NUMERIC, "numerical overflow or underflow"),
    "flag_noFlux": (kernels.STAGE_NO_FLUX, "the model has no flux within the region"),
}


@register("modelfit_CModel", ap_corr=True)
class CModelPlugin(MeasurementPlugin):
    """Fluxes of two galaxy profiles fitted to each source, and of their best sum."""

    ConfigClass = CModelConfig
    config: CModelConfig
    order = 3.0
    uses_centroid = True

    def declare(self, schema: Schema) -> None:
        """Add the columns of the three fits and of the sum.

        Raises
        ------
        ValueError
            Raised if the schema lacks the approximation of the PSF or the shape slot.
        """
        shapelet_columns(schema, self.config.psfName)
        if "slot_Shape" not in schema.aliases:
            raise ValueError(f"{self.name} needs slot_Shape, which neither the slots nor the schema define.")
        for stage in _STAGES:
            self._declare_stage(schema, self.column(stage), getattr(self.config, stage))
        self.add_flux(schema, "flux of the best sum of the exp and dev models")
        for suffix, doc, unit in (
            ("instFlux_inner", "flux of the model within the region", "ct"),
            ("fracDev", "fraction of the flux in the dev model", ""),
            ("objective", "half the sum of the squared residuals, count^2", ""),
        ):
            schema.add(self.column(suffix), np.float64, doc, unit=unit or None)
        self.add_flags(schema, {suffix: doc for suffix, (_, doc) in _FLAGS.items()})
        self.add_flags(schema, {"flag_badCentroid": "the centroid slot is flagged"})
        _add_moments(schema, self.column("ellipse"), "mean half-light ellipse of the models")
        for name in ("initial", "final"):
            _add_moments(schema, self.column(f"region_{name}_ellipse"), f"ellipse of the {name} region")

    def _declare_stage(self, schema: Schema, prefix: str, config: CModelStageConfig) -> None:
        self.add_flux(schema, f"flux of the {config.profileName} model", prefix=prefix)
        schema.add(f"{prefix}_instFlux_inner", np.float64, "flux within the region", unit="ct")
        _add_moments(schema, f"{prefix}_ellipse", "half-light ellipse")
        schema.add(f"{prefix}_objective", np.float64, "chi2 / 2 less the logarithm of the prior")
        for k, doc in enumerate(("eta1", "eta2", "ln of the trace radius in arcsec")):
            schema.add(f"{prefix}_nonlinear_{k}", np.float64, f"parameter of the fit: {doc}")
        for k, doc in enumerate(("west", "north")):
            schema.add(f"{prefix}_fixed_{k}", np.float64, f"centre of the model, arcsec {doc} of the source")
        self.add_flags(schema, {name: doc for name, (_, doc) in _STAGE_FLAGS.items()}, prefix=prefix)
        if config.doRecordHistory:
            schema.add(f"{prefix}_nIter", np.int32, "number of points tried by the optimiser")
        if config.doRecordTime:
            schema.add(f"{prefix}_time", np.float64, "share of the CPU time of all fits", unit="s")

    def measure(self, sources: MeasurementSources) -> None:
        """Fit at the centroid slot, less the offset of the PSF approximation."""
        inputs = self._inputs(sources)
        stages = tuple(getattr(self.config, stage).settings() for stage in _STAGES)
        results = _empty_results(len(sources))
        start = time.thread_time()
        kernels.cmodel_loop(
            sources.pixels,
            sources.mask_image(list(self.config.region.badMaskPlanes)),
            self.config.region.settings(),
            self.config.minInitialRadius,
            self.config.fallbackInitialMomentsPsfFactor,
            stages,
            inputs,
            regions.make_region(sources.pixels.image.shape, self.config.region.maxArea),
            results,
        )
        seconds = time.thread_time() - start
        self._write_composite(sources, results)
        work = results.work * (seconds / max(float(results.work.sum()), 1.0))
        centre = -np.einsum("nij,nj->ni", inputs.to_sky, inputs.psf_offset)
        for k, stage in enumerate(_STAGES):
            self._write_stage(sources, stage, k, results, centre, work[:, k])

    def _inputs(self, sources: MeasurementSources) -> kernels.Inputs:
        catalog = sources.catalog
        x, y = sources.centroids
        # East is to the left: positions in the tangent plane are west and north.
        to_sky = local_sky(sources.exposure.sky_projection, x=x, y=y).jacobian / _ARCSEC
        to_sky[:, 0] *= -1.0
        psf = read_shapelet_psf(catalog, self.config.psfName, centroid_flag=sources.centroid_flag)
        unknown = np.full(len(sources), np.nan)
        flux, kron = unknown, unknown
        if "slot_PsfFlux_instFlux" in catalog:
            bad = np.asarray(catalog["slot_PsfFlux_flag"]) if "slot_PsfFlux_flag" in catalog else False
            flux = np.where(bad, np.nan, catalog["slot_PsfFlux_instFlux"])
        if _KRON_RADIUS in catalog:
            kron = np.asarray(catalog[_KRON_RADIUS], dtype=np.float64)
        return kernels.Inputs(
            x=x,
            y=y,
            moments=sources.shapes,
            no_shape=sources.shape_flag,
            psf=psf.components,
            psf_moments=psf.moments,
            psf_offset=psf.offset,
            no_psf=psf.failed,
            kron_radius=kron,
            footprint_area=np.asarray(sources.footprints.areas(), dtype=np.float64),
            flux=flux,
            to_sky=to_sky,
        )

    def _write_composite(self, sources: MeasurementSources, results: kernels.Results) -> None:
        flux, error, inner, fraction, objective = results.composite.T
        exp, dev = results.ellipse[:, kernels.EXP], results.ellipse[:, kernels.DEV]
        ellipse = (1.0 - fraction)[:, None] * exp + fraction[:, None] * dev
        flags = {suffix: (results.bits & bit) != 0 for suffix, (bit, _) in _FLAGS.items()}
        flags["flag"] = self.general_flag(sources, flags["flag"])
        flags["flag_badCentroid"] = sources.centroid_flag
        self.write(
            sources,
            instFlux=flux,
            instFluxErr=error,
            instFlux_inner=inner,
            fracDev=fraction,
            objective=objective,
            **flags,
            **_moments("ellipse", ellipse),
            **_moments("region_initial_ellipse", results.regions[:, 0]),
            **_moments("region_final_ellipse", results.regions[:, 1]),
        )

    def _write_stage(
        self,
        sources: MeasurementSources,
        stage: str,
        k: int,
        results: kernels.Results,
        centre: np.ndarray,
        seconds: np.ndarray,
    ) -> None:
        bits = results.stage_bits[:, k]
        values = {
            "instFlux": results.flux[:, k],
            "instFluxErr": results.error[:, k],
            "instFlux_inner": results.inner[:, k],
            "objective": results.objective[:, k],
            **{suffix: (bits & bit) != 0 for suffix, (bit, _) in _STAGE_FLAGS.items()},
            **_moments("ellipse", results.ellipse[:, k]),
            **{f"nonlinear_{i}": results.parameters[:, k, i] for i in range(3)},
            **{f"fixed_{i}": centre[:, i] for i in range(2)},
        }
        values["flag"] = self.general_flag(sources, values["flag"] | ~np.isfinite(values["instFlux"]))
        config = getattr(self.config, stage)
        if config.doRecordHistory:
            values["nIter"] = results.points[:, k]
        if config.doRecordTime:
            values["time"] = seconds
        self.write(sources, **{f"{stage}_{suffix}": value for suffix, value in values.items()})

    def fail(self, catalog: SourceCatalog) -> None:
        """Set the general flags of the sum and of the three fits."""
        super().fail(catalog)
        for stage in _STAGES:
            catalog[self.column(f"{stage}_flag")] = True


def _add_moments(schema: Schema, prefix: str, doc: str) -> None:
    for moment in ("xx", "yy", "xy"):
        schema.add(f"{prefix}_{moment}", np.float64, f"{doc}: moment {moment}", unit="pix2")


def _moments(prefix: str, values: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{prefix}_{moment}": values[:, k] for k, moment in enumerate(("xx", "yy", "xy"))}


def _empty_results(n: int) -> kernels.Results:
    def nan(*shape: int) -> np.ndarray:
        return np.full((n, *shape), np.nan)

    return kernels.Results(
        flux=nan(3),
        error=nan(3),
        inner=nan(3),
        ellipse=nan(3, 3),
        parameters=nan(3, 3),
        objective=nan(3),
        points=np.zeros((n, 3), dtype=np.int64),
        work=np.zeros((n, 3)),
        stage_bits=np.zeros((n, 3), dtype=np.int64),
        composite=nan(5),
        regions=nan(2, 3),
        bits=np.zeros(n, dtype=np.int64),
    )


for _stage in _STAGES:
    add_ap_corr_name(f"modelfit_CModel_{_stage}")
