"""Third and higher moments of sources and PSF about their adaptive moments (spec 17.14, finalize 8.6).

Orders 3 and 4 say how far a PSF is from an ellipse with a Gaussian profile (Zhang et al. 2023, MNRAS 520,
2328).  Those of a Gaussian are 0.75 for ``40`` and ``04``, 0.25 for ``22`` and 0 otherwise.
"""

from __future__ import annotations

__all__ = (
    "HigherOrderMomentsConfig",
    "HigherOrderMomentsPlugin",
    "HigherOrderMomentsPsfConfig",
    "HigherOrderMomentsPsfPlugin",
    "HigherOrderMomentsSourceConfig",
    "HigherOrderMomentsSourcePlugin",
)

from abc import abstractmethod
from typing import ClassVar

import lsst.pex.config as pex_config
import numpy as np

from secondlight.catalog.schema import Schema

from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources
from ._higher_order_kernels import source_loop, stamp_loop

_NEEDED = ("x", "y", "xx", "yy", "xy", "flag")


class HigherOrderMomentsConfig(MeasurementPluginConfig):
    """Configuration of both plugins."""

    min_order = pex_config.Field[int](doc="Lowest order.", default=3, check=lambda n: n >= 0)
    max_order = pex_config.Field[int](doc="Highest order.", default=4)

    def validate(self) -> None:
        """Check that there is an order to measure."""
        super().validate()
        if self.min_order > self.max_order:
            raise pex_config.FieldValidationError(
                type(self).max_order,
                self,
                f"Must be at least min_order, {self.min_order}; found {self.max_order}.",
            )


class HigherOrderMomentsPlugin(MeasurementPlugin):
    """What both share: columns, and second moments from the HSM plugin of the same kind."""

    config: HigherOrderMomentsConfig
    order = FLUX_ORDER
    own_name: ClassVar[str]
    """Name of the plugin as registered."""
    second_moments: ClassVar[str]
    """Plugin of the second moments."""

    @property
    def _second(self) -> str:
        """Columns of the second moments, which have the same prefix for undeblended measurements."""
        return self.name.replace(self.own_name, self.second_moments)

    @property
    def _suffixes(self) -> list[str]:
        orders = range(self.config.min_order, self.config.max_order + 1)
        return [f"{p}{n - p}" for n in orders for p in range(n + 1)]

    def declare(self, schema: Schema) -> None:
        """Add the moments and a flag.

        Raises
        ------
        ValueError
            Raised if the schema has no columns of the second moments.
        """
        missing = [f"{self._second}_{c}" for c in _NEEDED if f"{self._second}_{c}" not in schema]
        if missing:
            raise ValueError(
                f"{self.name} needs {self.second_moments} among the plugins; the schema has no column "
                f"{missing[0]}."
            )
        schema.add_flag(self.column("flag"), "general failure")
        for suffix in self._suffixes:
            doc = f"moment u^{suffix[0]} v^{suffix[1]} in coordinates where the second moments are a circle"
            schema.add(self.column(suffix), np.float64, doc)

    @abstractmethod
    def moments(
        self, sources: MeasurementSources, x: np.ndarray, y: np.ndarray, shapes: np.ndarray
    ) -> np.ndarray:
        """Return moments (n, m) for x, y and shapes (n, 3) of the second-moments plugin, NaN if it failed."""

    def measure(self, sources: MeasurementSources) -> None:
        """Measure with the centre and the shape that the second-moments plugin has found."""
        x, y, xx, yy, xy, flag = (np.array(sources.catalog[f"{self._second}_{c}"]) for c in _NEEDED)
        shapes = np.where(flag[:, None], np.nan, np.column_stack([xx, yy, xy]))
        moments = self.moments(sources, x, y, shapes)
        failed = ~np.isfinite(moments).all(axis=1)
        self.write(sources, **dict(zip(self._suffixes, moments.T, strict=True)))
        sources.catalog[self.column("flag")] = self.general_flag(sources, failed)

    def _empty(self, sources: MeasurementSources) -> np.ndarray:
        return np.full((len(sources), len(self._suffixes)), np.nan)


class HigherOrderMomentsSourceConfig(HigherOrderMomentsConfig):
    """Configuration of `HigherOrderMomentsSourcePlugin`."""

    badMaskPlanes = pex_config.ListField[str](
        doc="Mask planes whose pixels are not used.", default=["BAD", "SAT"]
    )
    setMaskedPixelsToZero = pex_config.Field[bool](
        doc="Whether such pixels are zero; if not, they get the weight scaled to the source.", default=False
    )


@register("ext_shapeHSM_HigherOrderMomentsSource")
class HigherOrderMomentsSourcePlugin(HigherOrderMomentsPlugin):
    """Higher moments of the sources, over the bounding boxes of their footprints."""

    ConfigClass = HigherOrderMomentsSourceConfig
    config: HigherOrderMomentsSourceConfig
    own_name = "HigherOrderMomentsSource"
    second_moments = "HsmSourceMoments"

    def moments(
        self, sources: MeasurementSources, x: np.ndarray, y: np.ndarray, shapes: np.ndarray
    ) -> np.ndarray:
        """Return the moments of each source on its own pixels."""
        moments = self._empty(sources)
        source_loop(
            sources.pixels,
            sources.bounding_boxes,
            sources.mask_image(list(self.config.badMaskPlanes)),
            x,
            y,
            shapes,
            self.config.min_order,
            self.config.max_order,
            not self.config.setMaskedPixelsToZero,
            moments,
        )
        return moments


class HigherOrderMomentsPsfConfig(HigherOrderMomentsConfig):
    """Configuration of `HigherOrderMomentsPsfPlugin`."""

    useSourceCentroidOffset = pex_config.Field[bool](
        doc="Whether the PSF is drawn at the sub-pixel position of the source.", default=False
    )


@register("ext_shapeHSM_HigherOrderMomentsPSF")
class HigherOrderMomentsPsfPlugin(HigherOrderMomentsPlugin):
    """Higher moments of the PSF at the sources."""

    ConfigClass = HigherOrderMomentsPsfConfig
    config: HigherOrderMomentsPsfConfig
    uses_centroid = True
    uses_psf = True
    own_name = "HigherOrderMomentsPSF"
    second_moments = "HsmPsfMoments"

    def moments(
        self, sources: MeasurementSources, x: np.ndarray, y: np.ndarray, shapes: np.ndarray
    ) -> np.ndarray:
        """Return the moments of the kernel image about its middle, or of the image at the position."""
        moments = self._empty(sources)
        if self.config.useSourceCentroidOffset:
            images, x0, y0 = sources.psf_images
            at_x, at_y = sources.centroids
            centre_x, centre_y = at_x + x - x0, at_y + y - y0
        else:
            images = sources.psf_kernels
            centre_x = np.full(len(sources), images.shape[2] // 2, dtype=np.float64)
            centre_y = np.full(len(sources), images.shape[1] // 2, dtype=np.float64)
        stamp_loop(images, centre_x, centre_y, shapes, self.config.min_order, self.config.max_order, moments)
        return moments
