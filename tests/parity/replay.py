"""The packs run through this project's own tasks, on exactly the pixels that the reference measured.

What is random in the reference (cosmic-ray pixels, sky positions, replacement noise) and what other tests
compare (detection, deblending, the PSF fit) is taken from the packs.
"""

from __future__ import annotations

__all__ = ("Replayed", "ReplayedFinalization", "ReplayedReprocessing", "replay_final", "replay_pack")

import dataclasses
from typing import Any

import astropy.table
import numpy as np
from lsst.images import BackgroundMap, Box, Image, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction, PointSpreadFunction
from lsst.pipe.base import Struct

from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.noise_replacement import NoiseReplacement
from secondlight.measurement.pixels import show
from secondlight.measurement.sources import MeasurementSources
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.photometry._aperture_kernels import lanczos_shift
from secondlight.tasks.finalize_characterization import (
    FinalizeCharacterizationDetectorConfig,
    FinalizeCharacterizationDetectorTask,
)
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .pack import FinalizePack, ParityPack
from .pack_files import NoiseReplaced


@dataclasses.dataclass(frozen=True)
class Replayed:
    """Published tables of ours and of the reference, row by row the same sources.

    Parameters
    ----------
    name
        Name of the pack.
    ours, reference
        Tables with all columns, aliases included.
    blended
        Parents and children, bool (n).
    given
        Columns of ``ours`` that were copied from the reference.
    aliases
        Columns of the reference that repeat others, with these.
    """

    name: str
    ours: astropy.table.Table
    reference: astropy.table.Table
    blended: np.ndarray
    given: frozenset[str]
    aliases: dict[str, str]


class ShiftedGaussian(GaussianPointSpreadFunction):
    """A Gaussian whose stellar images are its kernel image shifted, as the reference draws them."""

    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        """Return the shifted kernel image."""
        box: Box = self.compute_stellar_bbox(x=x, y=y)
        half = box.x.size // 2
        kernel = np.pad(self.compute_kernel_image(x=x, y=y).array, 5)
        shifted = np.empty_like(kernel)
        rows = np.empty_like(kernel)
        lanczos_shift(kernel, x - (box.x.start + half), y - (box.y.start + half), rows, shifted)
        return Image(shifted[5:-5, 5:-5].copy(), bbox=box)


class OneByOne(PointSpreadFunction):
    """Hides the type of a PSF, so that it is drawn by its own methods."""

    def __init__(self, psf: PointSpreadFunction) -> None:
        self._psf = psf

    @property
    def bounds(self):
        return self._psf.bounds

    @property
    def kernel_bbox(self):
        return self._psf.kernel_bbox

    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        return self._psf.compute_kernel_image(x=x, y=y)

    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        return self._psf.compute_stellar_image(x=x, y=y)

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
        return self._psf.compute_stellar_bbox(x=x, y=y)


def measure_in_order(
    task: SingleFrameMeasurementTask,
    sources: SourceCatalog,
    exposure: VisitImage,
    *,
    neighbours: SourceCatalog,
    noise: NoiseReplaced,
    photo_calib: PhotoCalib | None = None,
) -> None:
    """Measure sources one by one over the reference's noise, in the reference's order.

    Once the reference has measured a source it puts that source's own noise back, over that of its children.
    """
    np.testing.assert_array_equal(neighbours["id"], noise.ids)
    replacement = NoiseReplacement.from_sources(
        exposure, neighbours, config=task.config.noiseReplacer, seed=1, noise=(noise.offsets, noise.values)
    )
    np.testing.assert_array_equal(replacement.offsets, noise.offsets)
    hidden = dataclasses.replace(replacement, own=noise.values).pixels(exposure, sources["id"])
    image = replacement.image
    masks: dict[tuple[str, ...], np.ndarray] = {}
    measured = []
    for row in range(len(sources)):
        one = sources[[row]]
        pixels = dataclasses.replace(replacement, image=image).pixels(exposure, one["id"])
        batch = MeasurementSources(one, exposure, pixels, photo_calib=photo_calib)
        batch._mask_images = masks
        task.run_plugins(task.plugins, batch)
        measured.append(one)
        show(hidden._replace(image=image), row)
    for name in sources.schema.names:
        sources[name] = np.concatenate([one[name] for one in measured])


class ReplayedReprocessing(ReprocessVisitImageTask):
    """The final pass with the reference's repaired pixels, footprints and noise."""

    pack: ParityPack
    given = ("id", "parent", "sky_source")

    def _detect(
        self, exposure: VisitImage, background: BackgroundMap, ratio: Any, id_generator: Any
    ) -> tuple[SourceCatalog, BackgroundMap]:
        """Take the footprints of the pack instead of detecting and deblending."""
        pack, stored = self.pack, self.pack.footprints
        exposure.image.array[...] = pack.repaired_image().image.array
        exposure.mask = pack.pvi().mask
        sources = SourceCatalog(self.schema, len(stored.ids), footprints=stored.footprints)
        for name in self.schema.names:
            if name in self.given or (name.startswith("deblend_") and name in pack.sources):
                sources[name] = pack.sources[name]
        return sources, background

    def _measure(self, exposure: VisitImage, detected: SourceCatalog, id_generator: Any) -> SourceCatalog:
        """Measure what was given over the noise of the pack."""
        measure_in_order(
            self.measurement,
            detected,
            exposure,
            neighbours=detected,
            noise=self.pack.noise_replaced,
            photo_calib=self.pack.photo_calib,
        )
        self.normalized_calibration_flux.run(exposure, detected)
        self.apply_aperture_correction.run(detected, exposure.aperture_corrections)
        self.catalog_calculation.run(detected)
        self.set_primary_flags.run(detected)
        return detected


def replay_pack(pack: ParityPack) -> Replayed:
    """Run the final pass on a pack."""
    task = ReplayedReprocessing(config=ReplayedReprocessing.ConfigClass())
    task.pack = pack
    psf = pack.psf
    if isinstance(psf, GaussianPointSpreadFunction):
        psf = OneByOne(ShiftedGaussian(psf.sigma, psf.bounds, psf.kernel_bbox.x.size))
    image = pack.input_image()
    result = task.run(
        exposures=[image],
        psf=psf,
        background=pack.background_map(),
        ap_corr=pack.aperture_corrections,
        photo_calib=pack.photo_calib,
        wcs=image.sky_projection,
        calib_sources=pack.calib_sources,
    )
    reference = pack.sources.to_astropy()
    given = {n for n in reference.colnames if n in task.given or n.startswith("deblend_")}
    blended = (pack.sources["parent"] != 0) | (pack.sources["deblend_nChild"] > 0)
    aliases = pack.sources.schema.alias_columns()
    return Replayed(pack.folder.name, result.sources, reference, blended, frozenset(given), aliases)


class GivenPsf:
    """In the place of a PSF determiner: the PSF of a pack, and the stars that it was fitted to."""

    def __init__(self, pack: FinalizePack) -> None:
        self._psf = pack.final_psf
        self._used = pack.finalized_src["id"][pack.finalized_src["calib_psf_used"]]

    def determine_psf(self, exposure: VisitImage, candidates: Any, *_: Any, **__: Any) -> Struct:
        """Return the PSF and which candidates were used."""
        return Struct(psf=self._psf, chromatic_psf=None, used=np.isin(candidates.id, self._used))


class ReplayedFinalization(FinalizeCharacterizationDetectorTask):
    """The final characterization with the reference's PSF and noise."""

    pack: FinalizePack

    def _measure(self, exposure: VisitImage, measured: SourceCatalog, src: SourceCatalog, where: str) -> bool:
        """Measure over the noise of the pack."""
        noise = self.pack.noise_replaced
        measure_in_order(self.measurement, measured, exposure, neighbours=src, noise=noise)
        return True


def replay_final(pack: FinalizePack) -> Replayed:
    """Run the final characterization on a pack."""
    task = ReplayedFinalization(config=FinalizeCharacterizationDetectorConfig())
    task.pack, task.psf_determiner = pack, GivenPsf(pack)
    result = task.run(
        visit=pack.visit,
        band="r",
        detector=pack.detector,
        isolated_star_cat_dict={tract: pack.isolated_star_cat(tract) for tract in pack.tracts},
        isolated_star_source_dict={tract: pack.isolated_star_sources(tract) for tract in pack.tracts},
        src=pack.src,
        exposure=pack.exposure(),
    )
    ours, reference = result.output_table, pack.finalized_src.to_astropy()
    ours, reference = ours[np.argsort(ours["id"])], reference[np.argsort(reference["id"])]
    np.testing.assert_array_equal(ours["id"], reference["id"])
    blended = np.asarray(reference["parent"]) != 0
    aliases = pack.finalized_src.schema.alias_columns()
    return Replayed("final", ours, reference, blended, frozenset({"calib_psf_used"}), aliases)
