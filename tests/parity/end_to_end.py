"""The whole final pass on the packs, with nothing taken from the reference but its inputs.

Repair, detection, sky sources, deblending, measurement, corrections and calibration are this project's own,
in the task's default configuration.  A run takes some seconds, and is kept.
"""

from __future__ import annotations

__all__ = ("SEEDS", "EndToEnd", "run_end_to_end")

import dataclasses
import functools
from pathlib import Path

import astropy.table
import astropy.units as u
import numpy as np
from lsst.images import Box, Image, VisitImage
from lsst.images.fields import BaseField

from secondlight.background.fields import make_background
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .pack import ParityPack, load_pack
from .reference_rules import ReferenceRules, as_the_reference_draws

SEEDS = (1, 2, 3, 4)
"""Seeds of the replacement noise; the first is what the task takes by itself."""


class StoredField(BaseField):
    """The background that the reference subtracts, pixel by pixel; a polynomial comes within 2e-3 counts.

    Parameters
    ----------
    pixels
        Values, float32.
    bbox
        Their pixels.
    """

    def __init__(self, pixels: np.ndarray, bbox: Box) -> None:
        self._image = Image(pixels, bbox=bbox, unit=u.adu)

    @property
    def bounds(self) -> Box:
        return self._image.bbox

    @property
    def unit(self) -> u.UnitBase:
        return u.adu

    @property
    def is_constant(self) -> bool:
        return False

    def render(self, bbox: Box | None = None, *, dtype: np.typing.DTypeLike | None = None) -> Image:
        part = self._image if bbox is None else self._image[bbox]
        return Image(part.array.astype(dtype or np.float32), bbox=part.bbox, unit=u.adu)

    def _evaluate(self, *, x: np.ndarray, y: np.ndarray, quantity: bool) -> np.ndarray:
        box = self._image.bbox
        rows, columns = (
            np.floor(v - start + 0.5).astype(int) for v, start in ((y, box.y.start), (x, box.x.start))
        )
        return self._image.array[rows, columns].astype(np.float64)

    def _multiply_constant(self, factor: float) -> StoredField:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class EndToEnd:
    """What one run published, next to the pack.

    Parameters
    ----------
    pack
        Inputs, and the reference's outputs.
    exposure
        Published image, nJy.
    sources
        Published table.
    catalog
        The same with footprints.
    """

    pack: ParityPack
    exposure: VisitImage
    sources: astropy.table.Table
    catalog: SourceCatalog


@functools.cache
def run_end_to_end(
    data_dir: Path, name: str, seed: int = SEEDS[0], *, reference_rules: bool = False
) -> EndToEnd:
    """Run the final pass on a pack.

    Parameters
    ----------
    data_dir, name
        Where the packs are, and which one.
    seed
        One of `SEEDS`, for the noise that replaces neighbours.
    reference_rules
        Whether to take back the listed corrections; see `ReferenceRules`.
    """
    pack = load_pack(data_dir, name)
    config = ReprocessVisitImageTask.ConfigClass()
    config.measurement.noiseReplacer.noiseSeedMultiplier = seed
    image = pack.input_image()
    task = ReferenceRules(pack, config=config) if reference_rules else ReprocessVisitImageTask(config=config)
    result = task.run(
        exposures=[image],
        psf=as_the_reference_draws(pack.psf) if reference_rules else pack.psf,
        background=make_background(StoredField(pack.background, pack.bbox)),
        ap_corr=pack.aperture_corrections,
        photo_calib=pack.photo_calib,
        wcs=image.sky_projection,
        calib_sources=pack.calib_sources,
    )
    return EndToEnd(pack, result.exposure, result.sources, result.sources_footprints)
