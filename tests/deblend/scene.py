"""Blends of stars with known truth."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from lsst.images import VisitImage
from scipy import ndimage

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.deblend.task import SourceDeblendConfig, SourceDeblendTask
from secondlight.psf.evaluation import stellar_stamps
from tests.scenes import make_visit_image

FWHM = 2.355


def make_task(**fields: Any) -> tuple[SourceDeblendTask, Schema]:
    """Return a task with some configuration fields set, and its schema."""
    config = SourceDeblendConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    schema = minimal_source_schema()
    return SourceDeblendTask(schema=schema, config=config), schema


@dataclasses.dataclass(frozen=True)
class Blend:
    """An image of stars, and the footprints around them with one peak per star."""

    exposure: VisitImage
    footprints: Footprints
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray

    def sources(self, schema: Schema) -> SourceCatalog:
        """Return a fresh catalog of the footprints."""
        sources = SourceCatalog(schema, len(self.footprints), footprints=self.footprints)
        sources["id"] = 1 + np.arange(len(sources))
        return sources

    def split(self, **fields: Any) -> SourceCatalog:
        """Deblend with some configuration fields set; the pixels of the image stay as they are."""
        task, schema = make_task(**fields)
        before = self.exposure.image.array.copy()
        result = task.run(self.exposure, self.sources(schema))
        np.testing.assert_array_equal(self.exposure.image.array, before)
        return result


def make_blend(
    x: Any, y: Any, flux: Any, *, level: float = 20.0, grow: int = 0, sigma: float = 2.0, **scene: Any
) -> Blend:
    """Return stars in an image of `make_visit_image`, with footprints about what exceeds a level."""
    x, y, flux = (np.asarray(v, dtype=float) for v in (x, y, flux))
    clean = make_visit_image(x=x, y=y, flux=flux, sigma=sigma, **(scene | {"add_noise": False}))
    exposure = make_visit_image(x=x, y=y, flux=flux, sigma=sigma, **scene)
    footprints = footprints_above(clean, level, grow=grow, x=x, y=y, flux=flux)
    return Blend(exposure, footprints, x, y, flux)


def footprints_above(
    image: VisitImage, level: float, *, grow: int = 0, x: Any, y: Any, flux: Any
) -> Footprints:
    """Return the connected regions of an image above a level, with the stars inside as peaks."""
    x0, y0 = image.bbox.x.start, image.bbox.y.start
    bright = image.image.array > level
    if grow:
        bright = ndimage.binary_dilation(bright, iterations=grow)
    labels, n = ndimage.label(bright, np.ones((3, 3)))
    parts = [Footprints.from_mask(labels == k + 1, x0=x0, y0=y0) for k in range(n)]
    px, py = (np.floor(v + 0.5).astype(int) for v in (x, y))
    height, width = labels.shape
    inside = (px >= x0) & (px < x0 + width) & (py >= y0) & (py < y0 + height)
    owner = np.where(inside, labels[(py - y0) % height, (px - x0) % width] - 1, -1)
    order = [k for k in np.lexsort([-np.asarray(flux), owner]) if owner[k] >= 0]
    counts = np.bincount(owner[order], minlength=n)
    peaks = Peaks(px[order], py[order], flux[order], flux[order], 1 + np.arange(len(order)))
    return Footprints.concatenate(parts).with_peaks(np.concatenate([[0], np.cumsum(counts)]), peaks)


def child_image(catalog: SourceCatalog, row: int, exposure: VisitImage) -> np.ndarray:
    """Return the pixels of a child on an image of zeros."""
    image = np.zeros(exposure.bbox.shape, dtype=np.float32)
    assert catalog.footprints is not None
    pixels = catalog.footprints.heavy_pixels(row)
    start = 0
    for y, x0, x1 in zip(*catalog.footprints.spans(row), strict=True):
        part = slice(x0 - exposure.bbox.x.start, x1 + 1 - exposure.bbox.x.start)
        image[y - exposure.bbox.y.start, part] = pixels[start : start + x1 - x0 + 1]
        start += x1 - x0 + 1
    return image


def children_of(catalog: SourceCatalog, parent: int = 1) -> np.ndarray:
    """Return the rows of the children of a source."""
    return np.flatnonzero(catalog["parent"] == parent)


def psf_flux(pixels: np.ndarray, exposure: VisitImage, *, x: float, y: float) -> float:
    """Return the flux of a point source at a known position, of uniform weight."""
    stamps = stellar_stamps(exposure.psf, x=x, y=y)
    model = stamps.images[0]
    j, i = int(stamps.y0[0]) - exposure.bbox.y.start, int(stamps.x0[0]) - exposure.bbox.x.start
    part = pixels[j : j + model.shape[0], i : i + model.shape[1]]
    return float((part * model).sum() / (model**2).sum())
