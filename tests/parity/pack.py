"""Parity packs: inputs of one scene and what the reference system made of them, in this project's types.

The folders and their conventions are described in the data folder's ``parity/README.md``.
"""

from __future__ import annotations

__all__ = ("FinalizePack", "ParityPack", "load_finalize_pack", "load_pack")

import dataclasses
import functools
from pathlib import Path
from typing import Any

import astropy.table
import astropy.units as u
import numpy as np
from lsst.images import BackgroundMap, VisitImage
from lsst.images.fields import ChebyshevField
from lsst.images.psfs import PointSpreadFunction

from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.source_catalog import SourceCatalog

from .pack_files import (
    NoiseReplaced,
    Planes,
    ReferenceFootprints,
    Scene,
    read_aperture_corrections,
    read_catalog,
    read_footprints,
    read_json,
    read_noise,
    read_npz,
    read_planes,
    read_psf,
    read_table,
)


@dataclasses.dataclass(frozen=True)
class ParityPack(Scene):
    """Inputs and reference outputs of the reprocessing of one scene.

    Everything is read on first use and kept; visit images and arrays to be changed come from methods, which
    return fresh copies.
    """

    @functools.cached_property
    def _planes(self) -> Planes:  # type: ignore[override]
        return read_planes(self.folder / "inputs.fits.gz")

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """How the scene was made and what the reference noted while running."""
        return read_json(self.folder / "meta.json")

    # Inputs -----------------------------------------------------------------------------------------------

    def input_image(self) -> VisitImage:
        """Return the input: background not subtracted, counts, calibrations attached."""
        p = self._planes
        return self._complete(p.image, p.mask)

    def subtracted_image(self) -> VisitImage:
        """Return the input less the background, as the repair step finds it."""
        p = self._planes
        return self._complete(p.image - self.background, p.mask)

    def repaired_image(self) -> VisitImage:
        """Return the input less the background with the reference's repaired pixels and mask."""
        pixels = self._planes.image - self.background
        stored = self._repaired
        pixels[stored["changed_y"], stored["changed_x"]] = stored["changed_value"]
        return self._complete(pixels, stored["mask"])

    def _complete(self, pixels: np.ndarray, mask: np.ndarray) -> VisitImage:
        return self._visit_image(
            pixels,
            mask,
            self._planes.variance,
            psf=self.psf,
            photo_calib=self.photo_calib,
            aperture_corrections=self.aperture_corrections,
        )

    @functools.cached_property
    def _repaired(self) -> dict[str, np.ndarray]:
        return read_npz(self.folder / "repaired_mask.npz")

    @property
    def changed_pixels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Array indices (y, x) and new values (counts) of the pixels that the reference repaired."""
        stored = self._repaired
        return stored["changed_y"], stored["changed_x"], stored["changed_value"]

    @functools.cached_property
    def psf(self) -> PointSpreadFunction:
        """PSF of the scene: Gaussian (A) or Piff (B)."""
        return read_psf(self.folder, self.bbox, gaussian="psf.json", piff_file="psf.piff")

    @functools.cached_property
    def psf_stamps(self) -> dict[str, np.ndarray]:
        """PSF images and shapes of the reference at some positions."""
        return read_npz(self.folder / "psf_stamps.npz")

    @functools.cached_property
    def aperture_corrections(self) -> dict[str, ChebyshevField]:
        """Aperture-correction fields by ``<flux>_instFlux`` and ``<flux>_instFluxErr``."""
        return read_aperture_corrections(self.folder / "apcorr.json")

    @property
    def background(self) -> np.ndarray:
        """Background image the reference subtracts, counts, float32."""
        assert self._planes.background is not None
        return self._planes.background

    @functools.cached_property
    def background_stats(self) -> np.ndarray:
        """Clipped means per 128-pixel cell from which the background was fitted, float32."""
        return read_npz(self.folder / "background_stats.npz")["stats_image"]

    def background_map(self) -> BackgroundMap:
        """Return the background as a field: the order-2 Chebyshev polynomial behind the rounded image.

        The field agrees with ``background`` to half its rounding step of 2^-8 (plus 1e-5).
        """
        step = 8
        y = np.arange(self.bbox.y.start, self.bbox.y.stop, step, dtype=np.float64)
        x = np.arange(self.bbox.x.start, self.bbox.x.stop, step, dtype=np.float64)
        values = self.background[::step, ::step].astype(np.float64)
        result = BackgroundMap()
        field = ChebyshevField.fit(self.bbox, values, 2, y=y, x=x, unit=u.adu)
        result.add("subtracted", field, is_subtracted=True)
        return result

    @functools.cached_property
    def photo_calib(self) -> PhotoCalib:
        """Photometric calibration, nJy per count."""
        stored = read_json(self.folder / "photo_calib.json")
        return PhotoCalib(stored["calibration_mean"], stored["calibration_err"])

    @functools.cached_property
    def calib_sources(self) -> astropy.table.Table:
        """Stars of the PSF determination with their flags."""
        return read_table(self.folder / "calib_sources.parquet")

    @functools.cached_property
    def truth(self) -> astropy.table.Table:
        """What was simulated."""
        return read_table(self.folder / "truth.parquet")

    # Outputs of the reference -----------------------------------------------------------------------------

    @functools.cached_property
    def sources(self) -> SourceCatalog:
        """Calibrated source catalog with footprints; read only."""
        footprints = self.footprints.footprints
        return read_catalog(self.folder / "sources.parquet", self.folder / "units.json", footprints)

    @functools.cached_property
    def footprints(self) -> ReferenceFootprints:
        """Footprints of ``sources``, children heavy in counts."""
        return read_footprints(self.folder / "footprints.npz")

    @functools.cached_property
    def detection(self) -> ReferenceFootprints:
        """Footprints right after detection, before sky sources and deblending."""
        return read_footprints(self.folder / "detection.npz")

    @functools.cached_property
    def noise_replaced(self) -> NoiseReplaced:
        """Noise in place of every source."""
        return read_noise(self.folder / "noise_replaced.npz")

    @functools.cached_property
    def _published(self) -> Planes:
        return read_planes(self.folder / "pvi.fits.gz")

    def pvi(self) -> VisitImage:
        """Return the published image, nJy."""
        p = self._published
        return self._visit_image(p.image, p.mask, p.variance, psf=self.psf, unit=u.nJy)

    @functools.cached_property
    def summary_stats(self) -> dict[str, Any]:
        """Summary statistics of the exposure."""
        return read_json(self.folder / "summary_stats.json")


@dataclasses.dataclass(frozen=True)
class FinalizePack(Scene):
    """Inputs and reference outputs of the final characterization of one detector."""

    @functools.cached_property
    def _planes(self) -> Planes:  # type: ignore[override]
        return read_planes(self.inputs / "exposure.fits.gz")

    @property
    def inputs(self) -> Path:
        """Folder of the inputs."""
        return self.folder / "finalize_inputs"

    @property
    def outputs(self) -> Path:
        """Folder of the reference's outputs."""
        return self.folder / "finalize_outputs"

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """How the inputs were made, and counts."""
        return read_json(self.folder / "finalize_meta.json")

    def exposure(self) -> VisitImage:
        """Return the exposure, background subtracted, repaired, counts, with the preliminary PSF."""
        p = self._planes
        return self._visit_image(
            p.image,
            p.mask,
            p.variance,
            psf=self.preliminary_psf,
            aperture_corrections=self.input_aperture_corrections,
        )

    @functools.cached_property
    def preliminary_psf(self) -> PointSpreadFunction:
        """Gaussian PSF the exposure comes with."""
        return read_psf(self.inputs, self.bbox, gaussian="psf_prelim.json", piff_file="none")

    @functools.cached_property
    def preliminary_psf_stamps(self) -> dict[str, np.ndarray]:
        """Images of the preliminary PSF at some positions."""
        return read_npz(self.inputs / "psf_prelim_stamps.npz")

    @functools.cached_property
    def src(self) -> SourceCatalog:
        """First-pass source catalog with footprints; read only."""
        footprints = self.src_footprints.footprints
        return read_catalog(self.inputs / "src.parquet", self.inputs / "src_units.json", footprints)

    @functools.cached_property
    def src_footprints(self) -> ReferenceFootprints:
        """Footprints of ``src``."""
        return read_footprints(self.inputs / "src_footprints.npz")

    @functools.cached_property
    def noise_replaced(self) -> NoiseReplaced:
        """Noise in place of every source of ``src``."""
        return read_noise(self.inputs / "noise_replaced.npz")

    @functools.cached_property
    def input_aperture_corrections(self) -> dict[str, ChebyshevField]:
        """Aperture corrections the exposure comes with."""
        return read_aperture_corrections(self.inputs / "apcorr_input.json")

    def isolated_star_cat(self, tract: int | None = None) -> astropy.table.Table:
        """Return the isolated stars of a tract, or of all tracts with their ``tract`` column."""
        return _of_tract(read_table(self.inputs / "isolated_star_cat.parquet"), tract)

    def isolated_star_sources(self, tract: int | None = None) -> astropy.table.Table:
        """Return the sources of the isolated stars of a tract, or of all tracts."""
        return _of_tract(read_table(self.inputs / "isolated_star_sources.parquet"), tract)

    @functools.cached_property
    def tracts(self) -> list[int]:
        """Tracts of the isolated stars."""
        return sorted({int(t) for t in self.isolated_star_cat()["tract"]})

    # Outputs of the reference -----------------------------------------------------------------------------

    @functools.cached_property
    def finalized_src(self) -> SourceCatalog:
        """Final source catalog of the characterization; read only."""
        return read_catalog(self.outputs / "finalized_src.parquet", self.outputs / "units.json", None)

    @functools.cached_property
    def finalized_src_repeat_cmodel(self) -> astropy.table.Table:
        """CModel columns of a second run of the reference."""
        return read_table(self.outputs / "finalized_src_repeat_cmodel.parquet")

    @functools.cached_property
    def final_psf(self) -> PointSpreadFunction:
        """Piff PSF the reference fitted."""
        return read_psf(self.outputs, self.bbox, gaussian="none", piff_file="psf_final.piff")

    @functools.cached_property
    def final_psf_stamps(self) -> dict[str, np.ndarray]:
        """Images of the final PSF at some positions."""
        return read_npz(self.outputs / "psf_final_stamps.npz")

    @functools.cached_property
    def final_psf_coefficients(self) -> dict[str, np.ndarray]:
        """Coefficients and stars of the final PSF."""
        return read_npz(self.outputs / "psf_final_piff_coeffs.npz")

    @functools.cached_property
    def final_aperture_corrections(self) -> dict[str, ChebyshevField]:
        """Aperture corrections the reference measured."""
        return read_aperture_corrections(self.outputs / "apcorr_final.json")

    @functools.cached_property
    def selected_ids(self) -> np.ndarray:
        """Ids of the sources that pass the source selector."""
        return read_npz(self.outputs / "selected_ids.npz")["selected"]

    @functools.cached_property
    def isolated_concat_cat(self) -> astropy.table.Table:
        """Isolated stars after the cut to the visit, with reserved flags."""
        return read_table(self.outputs / "isolated_concat_cat.parquet")

    @functools.cached_property
    def isolated_concat_sources(self) -> astropy.table.Table:
        """Sources of the isolated stars after the cut to the visit."""
        return read_table(self.outputs / "isolated_concat_sources.parquet")


def _of_tract(table: astropy.table.Table, tract: int | None) -> astropy.table.Table:
    if tract is None:
        return table
    part = table[table["tract"] == tract]
    part.remove_column("tract")
    return part


@functools.cache
def load_pack(data_dir: Path, name: str) -> ParityPack:
    """Return the pack "A" or "B"; its parts are read when used."""
    folder = data_dir / "parity" / name
    meta = read_json(folder / "meta.json")
    x0, y0 = meta["xy0"]
    return ParityPack(folder, meta["visit"], meta["detector"], (x0, y0), meta["exposure_time"])


@functools.cache
def load_finalize_pack(data_dir: Path) -> FinalizePack:
    """Return the pack of the final characterization; its parts are read when used."""
    folder = data_dir / "parity" / "B"
    meta = read_json(folder / "finalize_meta.json")
    x0, y0 = meta["xy0"]
    return FinalizePack(folder, meta["visit"], meta["detector"], (x0, y0), 30.0)
