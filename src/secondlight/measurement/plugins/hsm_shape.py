"""ext_shapeHSM_HsmShapeRegauss: PSF-corrected shapes through GalSim (spec reprocess 17.14, finalize 8.5)."""

from __future__ import annotations

__all__ = ("HsmShapeConfig", "HsmShapeRegaussPlugin")

import galsim
import galsim.hsm
import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema

from ..plugin import SHAPE_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from .hsm import GUESS_SCALE, HSM_FLAGS, PRECISION, Failure, HsmFailureError, psf_size, source_stamp


class HsmShapeConfig(MeasurementPluginConfig):
    """Configuration of `HsmShapeRegaussPlugin`."""

    deblendNChild = pex_config.Field[str](
        doc="Column with the number of children; sources that have some are left out.  Empty for none.",
        default="",
    )
    badMaskPlanes = pex_config.ListField[str](
        doc="Mask planes whose pixels get no weight.", default=["BAD", "SAT"]
    )


@register("ext_shapeHSM_HsmShapeRegauss")
class HsmShapeRegaussPlugin(MeasurementPlugin):
    """Ellipticities corrected for the PSF by re-Gaussianization."""

    ConfigClass = HsmShapeConfig
    config: HsmShapeConfig
    order = SHAPE_ORDER
    uses_centroid = True
    uses_psf = True

    def declare(self, schema: Schema) -> None:
        """Add flags, ellipticity, its error and the resolution."""
        names = ("flag", "flag_no_pixels", "flag_not_contained", "flag_parent_source", "flag_galsim")
        self.add_flags(schema, {name: HSM_FLAGS[name] for name in names})
        for c in ("e1", "e2"):
            schema.add(self.column(c), np.float64, f"PSF-corrected distortion {c}")
        schema.add(self.column("sigma"), np.float64, "uncertainty of the distortion per component")
        schema.add(self.column("resolution"), np.float64, "resolution: 0 unresolved, 1 fully resolved")

    def measure(self, sources: MeasurementSources) -> None:
        """Measure one source after the other."""
        values = np.full((len(sources), 4), np.nan)
        failures = np.full(len(sources), "", dtype=object)
        uncorrected = np.zeros(len(sources), dtype=bool)
        column = self.config.deblendNChild
        blended = np.asarray(sources.catalog[column]) > 0 if column else np.zeros(len(sources), dtype=bool)
        for row in range(len(sources)):
            try:
                if blended[row]:
                    raise HsmFailureError(Failure.PARENT)
                *values[row], status = self._measure_one(sources, row)
                uncorrected[row] = status != 0
            except HsmFailureError as error:
                failures[row] = error.failure.value
        self.write(sources, e1=values[:, 0], e2=values[:, 1], sigma=values[:, 2], resolution=values[:, 3])
        for failure in set(failures.tolist()) - {"", Failure.NO_PSF.value}:
            sources.catalog[self.column(f"flag_{failure}")] = failures == failure
        # A bad centroid alone is no failure here: it is only the first guess.
        sources.catalog[self.column("flag")] = uncorrected | (failures != "")
        sources.note_invalid_psf(failures == Failure.NO_PSF.value)

    def _measure_one(self, sources: MeasurementSources, row: int) -> tuple[float, float, float, float, int]:
        x, y = (float(c[row]) for c in sources.centroids)
        image, weight, x0, y0 = source_stamp(sources, row, list(self.config.badMaskPlanes))
        psf_sigma = psf_size(sources, row)
        height, width = image.shape
        j, i = y0 - sources.pixels.y0, x0 - sources.pixels.x0
        variance = sources.pixels.variance[j : j + height, i : i + width]
        psf = np.ascontiguousarray(sources.psf_images.images[row])
        try:
            result = galsim.hsm.EstimateShear(
                galsim.Image(np.ascontiguousarray(image), xmin=x0, ymin=y0),
                galsim.Image(psf, xmin=0, ymin=0),
                weight=galsim.Image(weight, xmin=x0, ymin=y0),
                sky_var=float(np.median(variance[weight > 0])),
                shear_est="REGAUSS",
                recompute_flux="FIT",
                guess_sig_gal=GUESS_SCALE * psf_sigma,
                guess_sig_PSF=psf_sigma,
                precision=PRECISION,
                guess_centroid=galsim.PositionD(x, y),
                strict=True,
                check=False,
            )
        except galsim.GalSimError:
            raise HsmFailureError(Failure.GALSIM) from None
        return (
            result.corrected_e1,
            result.corrected_e2,
            2.0 * result.corrected_shape_err,
            result.resolution_factor,
            result.correction_status,
        )
