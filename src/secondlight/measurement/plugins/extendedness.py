"""base_ClassificationSizeExtendedness: is a source wider than the PSF? (spec reprocess 17.13)."""

from __future__ import annotations

__all__ = ("ClassificationSizeExtendednessConfig", "ClassificationSizeExtendednessPlugin")

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema

from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources


class ClassificationSizeExtendednessConfig(MeasurementPluginConfig):
    """Configuration of `ClassificationSizeExtendednessPlugin`."""

    exponent = pex_config.Field[float](doc="Power of the PSF size that scales the difference.", default=0.5)


@register("base_ClassificationSizeExtendedness")
class ClassificationSizeExtendednessPlugin(MeasurementPlugin):
    """Extendedness from the sizes of source and PSF: near 0 for stars, 1 for galaxies."""

    ConfigClass = ClassificationSizeExtendednessConfig
    config: ClassificationSizeExtendednessConfig
    order = FLUX_ORDER

    def declare(self, schema: Schema) -> None:
        """Add value and flag."""
        doc = "0 for a source of the size of the PSF, towards 1 for a wider or narrower one"
        schema.add(self.column("value"), np.float64, doc)
        schema.add_flag(self.column("flag"), "general failure: no shape of the source or of the PSF")

    def measure(self, sources: MeasurementSources) -> None:
        """Compare the shape slots."""
        catalog = sources.catalog
        trace = catalog["slot_Shape_xx"] + catalog["slot_Shape_yy"]
        psf_trace = catalog["slot_PsfShape_xx"] + catalog["slot_PsfShape_yy"]
        failed = np.array(catalog["slot_Shape_flag"])
        if "slot_PsfShape_flag" in catalog:
            failed |= catalog["slot_PsfShape_flag"]
        with np.errstate(invalid="ignore", divide="ignore"):
            chi2 = ((trace - psf_trace) / psf_trace**self.config.exponent) ** 2
            value = 1.0 - np.exp(-0.5 * chi2)
        failed |= ~np.isfinite(value)
        self.write(sources, value=np.where(failed, np.nan, value), flag=failed)
