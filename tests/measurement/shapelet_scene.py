"""PSFs on small images, measured by the shapelet plugins."""

from __future__ import annotations

from typing import Any

import numpy as np
from lsst.images import Image
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components

from ..scenes import make_visit_image
from .scene import measure_at


class HalfPsf(GaussianPointSpreadFunction):
    """A Gaussian that cannot be evaluated beyond x = 60."""

    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        """Return NaN there."""
        image = super().compute_kernel_image(x=x, y=y)
        if x > 60:
            return Image(np.full(image.array.shape, np.nan), bbox=image.bbox)
        return image


def measure_psf(plugin: str, psf: Any, *, x: list[float], **options: Any) -> SourceCatalog:
    exposure = make_visit_image(width=120, height=110, x=[30.0], y=[40.0], flux=[1e4])
    exposure = replace_components(exposure, psf=psf)
    return measure_at(exposure, [plugin], x=x, y=[40.0] * len(x), settings={plugin: options})
