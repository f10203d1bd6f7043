"""The final pass with listed corrections taken back: repair, deblending, PSF images, PSF stars, statistics.

Were there differences for other reasons, they would stay.  What is left is the noise in place of neighbours.
"""

from __future__ import annotations

__all__ = ("GAIN", "ReferenceRules", "as_the_reference_draws", "take_repaired")

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from lsst.images import Box, Image, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction, PointSpreadFunction

from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.deblend import _template_windows as windows
from secondlight.deblend import apportion
from secondlight.deblend._template_kernels import OUTSIDE, _box_of_footprint, median_smooth
from secondlight.photometry import summary_stats
from secondlight.photometry._aperture_kernels import lanczos_shift
from secondlight.photometry.psf_statistics import good_samples
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .pack import ParityPack
from .reference_point_sources import find_point_sources

GAIN = 1705.6065
"""Electrons per count of the reference's made-up detector; one number explains both limiting magnitudes."""


class ShiftedGaussian(PointSpreadFunction):
    """A Gaussian whose stellar images are its kernel image shifted, as the reference draws them.

    It is no Gaussian for the code under test, which would draw that by its formula.
    """

    def __init__(self, psf: GaussianPointSpreadFunction) -> None:
        self._psf = psf

    @property
    def bounds(self) -> Any:
        return self._psf.bounds

    @property
    def kernel_bbox(self) -> Box:
        return self._psf.kernel_bbox

    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        return self._psf.compute_kernel_image(x=x, y=y)

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
        return self._psf.compute_stellar_bbox(x=x, y=y)

    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        """Return the shifted kernel image."""
        box = self.compute_stellar_bbox(x=x, y=y)
        half = box.x.size // 2
        kernel = np.pad(self.compute_kernel_image(x=x, y=y).array, 5)
        shifted, rows = np.empty_like(kernel), np.empty_like(kernel)
        lanczos_shift(kernel, x - (box.x.start + half), y - (box.y.start + half), rows, shifted)
        return Image(shifted[5:-5, 5:-5].copy(), bbox=box)


def as_the_reference_draws(psf: PointSpreadFunction) -> PointSpreadFunction:
    """Return a PSF whose images are those of the reference."""
    return ShiftedGaussian(psf) if isinstance(psf, GaussianPointSpreadFunction) else psf


class ReferenceRules(ReprocessVisitImageTask):
    """The final pass with the reference's repaired pixels and its rules of deblending, matching and sampling.

    Parameters
    ----------
    pack
        Pack to be run on.
    **kwargs
        Passed to the task.
    """

    def __init__(self, pack: ParityPack, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pack = pack
        self._deblend, self._summarize_stats = self.deblend.run, self.compute_summary_stats.run
        self.repair.run = functools.partial(take_repaired, pack)  # type: ignore[method-assign]
        self.deblend.run = self._deblend_as_the_reference  # type: ignore[method-assign]
        self.compute_summary_stats.run = self._match_and_summarize  # type: ignore[method-assign]

    def _deblend_as_the_reference(self, *args: Any, **kwargs: Any) -> SourceCatalog:
        with reference_deblending():
            return self._deblend(*args, **kwargs)

    def _match_and_summarize(
        self, exposure: VisitImage, sources: SourceCatalog, _: float, **kwargs: Any
    ) -> Any:
        """Take array indices for positions, the cells of the background, and the made-up detector's gain."""
        match_by_coordinates(sources, self.pack, radius=self.config.calib_match_radius)
        x0, y0 = self.pack.xy0

        def samples(*args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
            x, y = good_samples(*args, **kwargs)
            return x - x0, y - y0

        level = float(np.median(self.pack.background_stats))
        exposure.metadata |= {"GAIN": GAIN, "READ_NOISE": 0.0}
        with mock.patch.object(summary_stats, "good_samples", samples):
            return self._summarize_stats(exposure, sources, level, **kwargs)


def take_repaired(pack: ParityPack, exposure: VisitImage) -> None:
    """Put the reference's values, which are random, into its cosmic-ray pixels, and take its mask."""
    repaired = pack.repaired_image()
    exposure.image.array[...] = repaired.image.array
    exposure.mask = repaired.mask


def match_by_coordinates(sources: SourceCatalog, pack: ParityPack, *, radius: float) -> None:
    """Copy the flags of PSF stars to the nearest row, be it a blend, within ``radius`` / 3600 of a radian."""
    stars = pack.calib_sources[np.asarray(pack.calib_sources["detector"]) == pack.detector]
    flags = ("calib_psf_candidate", "calib_psf_reserved", "calib_psf_used")
    for name in flags:
        sources[name] = False
    candidates = pack.sources["calib_psf_candidate"]
    for star in stars:
        dx = (sources["coord_ra"] - star["coord_ra"]) * math.cos(math.radians(star["coord_dec"]))
        distance = np.hypot(dx, sources["coord_dec"] - star["coord_dec"])
        nearest = int(np.nanargmin(distance))
        if not candidates[nearest]:
            # A parent and its brightest child are at the same place; it was the other one, by rounding.
            (places,) = np.nonzero(candidates & (distance <= distance[nearest] + _SAME_PLACE))
            nearest = int(places[0]) if len(places) else nearest
        if distance[nearest] < radius / 3600:
            for name in flags:
                sources[name][nearest] = star[name]


@contextlib.contextmanager
def reference_deblending() -> Iterator[None]:
    """Put the listed faults of the reference's deblender back while the context lasts."""
    with (
        mock.patch.object(apportion, "find_point_sources", find_point_sources),
        mock.patch.object(apportion, "apportion_all", _apportion_all),
        mock.patch.object(windows, "make_all", windows.make_all.py_func),
        mock.patch.object(windows, "extended_template", windows.extended_template.py_func),
        mock.patch.object(windows, "median_smooth", _median_smooth),
        mock.patch.object(windows, "point_template", _point_template),
    ):
        yield


def _median_smooth(template: np.ndarray) -> np.ndarray:
    """Leave the last column unsmoothed that the filter fits in."""
    result = median_smooth(template)
    _, _, last, _ = _box_of_footprint(template)
    column = max(last - 2, 0)
    result[:, column] = template[:, column]
    return result


def _point_template(
    owner: np.ndarray, row: int, flux: float, psf: np.ndarray, x0: int, y0: int, sigma: float
) -> tuple[np.ndarray, int, int]:
    """Let a point source have every pixel of its box, and no light where its model is negative."""
    template = np.full(psf.shape, OUTSIDE, np.float32)
    y, x = np.indices(psf.shape)
    y, x = y + y0, x + x0
    inside = (y >= 0) & (x >= 0) & (y < owner.shape[0]) & (x < owner.shape[1])
    inside[inside] = owner[y[inside], x[inside]] == row
    model = (flux * psf[inside]).astype(np.float32)
    template[inside] = np.where(model < 0, _NOTHING, model)
    return template, x0, y0


def _apportion_all(
    image: np.ndarray, boxes: np.ndarray, first: np.ndarray, values: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Share the pixels, with nothing for models that are negative."""
    values = np.where(values == _NOTHING, np.float32(0), values)
    return _compiled_apportion_all(image, boxes, first, values, offsets)


_SAME_PLACE = 1.5e-11  # radians, 3e-6 arcsec
_NOTHING = np.float32(1e-45)
_compiled_apportion_all = apportion.apportion_all
