"""The packs run through this project's own tasks, on exactly the pixels that the reference measured.

What is random in the reference (cosmic-ray pixels, sky positions, replacement noise) and what other tests
compare (detection, deblending, the PSF fit) is taken from the packs.
"""

from __future__ import annotations

__all__ = ("Replayed", "ReplayedFinalization", "ReplayedReprocessing", "replay_final", "replay_pack")

import dataclasses
import functools
from typing import Any

import astropy.table
import numpy as np
from lsst.images import VisitImage
from lsst.pipe.base import Struct

from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.noise_replacement import NoiseReplacement
from secondlight.measurement.pixels import show
from secondlight.measurement.sources import MeasurementSources
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.tasks.finalize_characterization import (
    FinalizeCharacterizationDetectorConfig,
    FinalizeCharacterizationDetectorTask,
)
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .pack import FinalizePack, ParityPack
from .pack_files import NoiseReplaced
from .reference_rules import as_the_reference_draws, take_repaired


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
    """The final pass with the reference's repaired pixels, footprints and noise.

    Parameters
    ----------
    pack
        Pack to be run on.
    **kwargs
        Passed to the task.
    """

    given = ("id", "parent", "sky_source")

    def __init__(self, pack: ParityPack, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pack = pack
        self.repair.run = functools.partial(take_repaired, pack)  # type: ignore[method-assign]
        self.detection.run = self._take_footprints  # type: ignore[method-assign]
        self.sky_sources.run = lambda mask, seed, sources, **_: sources  # type: ignore[method-assign]
        self.deblend.run = lambda exposure, sources, **_: sources  # type: ignore[method-assign]
        self.measurement.run = self._measure_over_given_noise  # type: ignore[method-assign]

    def _take_footprints(self, exposure: VisitImage, **_: Any) -> Struct:
        """Take the footprints of the pack, sky sources and children included, instead of detecting."""
        pack, stored = self.pack, self.pack.footprints
        exposure.mask = pack.pvi().mask
        sources = SourceCatalog(self.schema, len(stored.ids), footprints=stored.footprints)
        for name in self.schema.names:
            if name in self.given or (name.startswith("deblend_") and name in pack.sources):
                sources[name] = pack.sources[name]
        return Struct(sources=sources, background=None)

    def _measure_over_given_noise(self, sources: SourceCatalog, exposure: VisitImage, **_: Any) -> None:
        noise = self.pack.noise_replaced
        photo_calib = self.pack.photo_calib
        measure_in_order(
            self.measurement, sources, exposure, neighbours=sources, noise=noise, photo_calib=photo_calib
        )


def replay_pack(pack: ParityPack) -> Replayed:
    """Run the final pass on a pack."""
    task = ReplayedReprocessing(pack, config=ReplayedReprocessing.ConfigClass())
    image = pack.input_image()
    result = task.run(
        exposures=[image],
        psf=as_the_reference_draws(pack.psf),
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
