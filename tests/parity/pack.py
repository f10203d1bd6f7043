"""Parity packs: inputs of one scene and what the reference system made of them, in this project's types.

The folders and their conventions are described in the data folder's ``parity/README.md``.
"""

from __future__ import annotations

__all__ = (
    "FinalizePack",
    "NoiseReplaced",
    "ParityPack",
    "ReferenceFootprints",
    "load_finalize_pack",
    "load_pack",
)

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import astropy.table
import astropy.time
import astropy.units as u
import astropy.wcs
import numpy as np
import piff
import pyarrow.parquet
from astro_metadata_translator import ObservationInfo, makeObservationInfo
from astropy.coordinates import EarthLocation
from astropy.io import fits
from lsst.images import BackgroundMap, Box, DetectorFrame, Image, Mask, SkyProjection, VisitImage
from lsst.images.fields import ChebyshevField
from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper, PointSpreadFunction

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.mask_planes import make_mask_schema, plane_name
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.instruments.camera import make_detector

_PIXEL_SIZE = 0.010
_MASK_CARD = "MP_"
_EXTRA_MASK_PLANES = ("NOT_DEBLENDED", "SPIKE")
_UNITS = {"pixel": "pix", "pixel^2": "pix2", "count": "ct", "count*pixel^2": "ct pix2", "rad rad": "rad2",
          "mag(AB)": "mag"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ReferenceFootprints:
    """Footprints with the ids of their records; rows in the order of the reference's catalog."""

    ids: np.ndarray
    parents: np.ndarray
    footprints: Footprints


@dataclasses.dataclass(frozen=True)
class NoiseReplaced:
    """Noise in place of each source: ``ids[k]`` has ``values[offsets[k]:offsets[k + 1]]``, in span order."""

    ids: np.ndarray
    offsets: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Planes:
    """Pixels of one file, with mask bits by short plane name; read-only."""

    image: np.ndarray
    mask: np.ndarray
    variance: np.ndarray
    background: np.ndarray | None
    bits: dict[str, int]
    header: fits.Header


def _read_planes(path: Path) -> _Planes:
    with fits.open(path) as hdus:
        header = hdus["MASK"].header
        native = {h.name: h.data.astype(h.data.dtype.newbyteorder("="), copy=True) for h in hdus[1:]}
        for array in native.values():
            array.flags.writeable = False
        return _Planes(
            native["IMAGE"],
            native["MASK"],
            native["VARIANCE"],
            native.get("BACKGROUND"),
            {card[len(_MASK_CARD) :]: header[card] for card in header if card.startswith(_MASK_CARD)},
            hdus["IMAGE"].header.copy(),
        )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _columns(path: Path) -> dict[str, np.ndarray]:
    """Read the columns of a Parquet file, text as numpy strings."""
    table = pyarrow.parquet.read_table(path)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    return {name: c.astype(str) if c.dtype.kind == "O" else c for name, c in columns.items()}


def _read_table(path: Path) -> astropy.table.Table:
    return astropy.table.Table(_columns(path))


def _read_catalog(table: Path, units: Path, footprints: Footprints | None) -> SourceCatalog:
    """Read a source table with its units and aliases; columns that are aliases become aliases again."""
    described = _read_json(units)
    result = astropy.table.Table()
    for name, values in _columns(table).items():
        unit = described["columns"].get(name, {}).get("unit") or ""
        result[name] = astropy.table.Column(values, unit=_UNITS.get(unit, unit) or None)
    return SourceCatalog.from_astropy(result, aliases=described["aliases"], footprints=footprints)


def _read_footprints(path: Path) -> ReferenceFootprints:
    data = _read_npz(path)
    peaks = Peaks(data["ix"], data["iy"], data["peakValue"], data["significance"], data["peak_id"])
    heavy = (data["heavy_offset"], data["heavy_image"]) if "heavy_offset" in data else None
    footprints = Footprints.from_spans(
        data["span_offset"],
        data["y"],
        data["x0"],
        data["x1"],
        peaks=(data["peak_offset"], peaks),
        heavy=heavy,
    )
    return ReferenceFootprints(data["id"], data["parent"], footprints)


def _read_noise(path: Path) -> NoiseReplaced:
    data = _read_npz(path)
    return NoiseReplaced(data["id"], data["offset"], data["value"])


def _read_aperture_corrections(path: Path) -> dict[str, ChebyshevField]:
    result = {}
    for name, field in _read_json(path)["fields"].items():
        x0, y0, x1, y1 = field["bbox"]
        box = Box.factory[y0 : y1 + 1, x0 : x1 + 1]
        result[name] = ChebyshevField(box, np.array(field["coefficients"], dtype=np.float64))
    return result


def _read_psf(folder: Path, bbox: Box, *, gaussian: str, piff_file: str) -> PointSpreadFunction:
    if (folder / piff_file).exists():
        return PiffWrapper(piff.read(str(folder / piff_file)), bounds=bbox, stamp_size=25)
    stored = _read_json(folder / gaussian)
    return GaussianPointSpreadFunction(stored["sigma"], bounds=bbox, stamp_size=stored["width"])


def _obs_info(visit: int, detector: int, exposure_time: float) -> ObservationInfo:
    begin = astropy.time.Time("2026-01-01T03:00:00", scale="tai")
    return makeObservationInfo(
        instrument="TestCam",
        telescope="Test Telescope",
        exposure_id=visit,
        visit_id=visit,
        detector_num=detector,
        detector_name=f"D{detector}",
        physical_filter="test_r",
        exposure_time=exposure_time * u.s,
        datetime_begin=begin,
        datetime_end=begin + exposure_time * u.s,
        location=EarthLocation.from_geodetic(-70.7 * u.deg, -30.2 * u.deg, 2600 * u.m),
    )


def _unpack_mask(packed: np.ndarray, bits: dict[str, int], bbox: Box) -> Mask:
    mask = Mask(schema=make_mask_schema([*bits, *_EXTRA_MASK_PLANES]), bbox=bbox)
    for name, bit in bits.items():
        mask.set(plane_name(name), (packed & (1 << bit)) != 0)
    return mask


@dataclasses.dataclass(frozen=True)
class _Scene:
    """What both kinds of pack share: a folder, and how visit images are put together from its arrays."""

    folder: Path
    visit: int
    detector: int
    xy0: tuple[int, int]
    exposure_time: float

    @functools.cached_property
    def bbox(self) -> Box:
        """Pixels of the scene, in parent coordinates."""
        x0, y0 = self.xy0
        height, width = self._planes.image.shape
        return Box.factory[y0 : y0 + height, x0 : x0 + width]

    @property
    def _planes(self) -> _Planes:
        raise NotImplementedError

    def _visit_image(
        self,
        pixels: np.ndarray,
        mask: np.ndarray,
        variance: np.ndarray,
        *,
        psf: PointSpreadFunction,
        unit: u.UnitBase = u.adu,
        photo_calib: PhotoCalib | None = None,
        aperture_corrections: dict[str, ChebyshevField] | None = None,
    ) -> VisitImage:
        bbox = self.bbox
        frame = DetectorFrame(instrument="TestCam", visit=self.visit, detector=self.detector, bbox=bbox)
        x0, y0 = bbox.x.start, bbox.y.start
        # Without the LTV and XY0 cards: astropy has no use for them and the projection gets them as x0, y0.
        wcs = astropy.wcs.WCS({k: v for k, v in self._planes.header.items() if k not in _ORIGIN_CARDS})
        projection = SkyProjection.from_fits_wcs(wcs, frame, pixel_bounds=bbox, x0=x0, y0=y0)
        detector = make_detector(
            instrument="TestCam",
            detector=self.detector,
            name=f"D{self.detector}",
            bbox=bbox,
            pixel_size=_PIXEL_SIZE,
            plate_scale=0.2 / _PIXEL_SIZE,
            visit=self.visit,
        )
        return VisitImage(
            Image(np.array(pixels, dtype=np.float32), bbox=bbox, unit=unit),
            mask=_unpack_mask(mask, self._planes.bits, bbox),
            variance=Image(np.array(variance, dtype=np.float32), bbox=bbox, unit=unit**2),
            sky_projection=projection,
            obs_info=_obs_info(self.visit, self.detector, self.exposure_time),
            photometric_scaling=photo_calib.to_field(bbox, u.adu) if photo_calib is not None else None,
            psf=psf,
            detector=detector,
            aperture_corrections=dict(aperture_corrections or {}),
            band="r",
        )


_ORIGIN_CARDS = {"LTV1", "LTV2", "XY0_X", "XY0_Y", "COMMENT", "EXTNAME"}


@dataclasses.dataclass(frozen=True)
class ParityPack(_Scene):
    """Inputs and reference outputs of the reprocessing of one scene.

    Everything is read on first use and kept; visit images and arrays to be changed come from methods, which
    return fresh copies.
    """

    @functools.cached_property
    def _planes(self) -> _Planes:  # type: ignore[override]
        return _read_planes(self.folder / "inputs.fits.gz")

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """How the scene was made and what the reference noted while running."""
        return _read_json(self.folder / "meta.json")

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
        return _read_npz(self.folder / "repaired_mask.npz")

    @property
    def changed_pixels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Array indices (y, x) and new values (counts) of the pixels that the reference repaired."""
        stored = self._repaired
        return stored["changed_y"], stored["changed_x"], stored["changed_value"]

    @functools.cached_property
    def psf(self) -> PointSpreadFunction:
        """PSF of the scene: Gaussian (A) or Piff (B)."""
        return _read_psf(self.folder, self.bbox, gaussian="psf.json", piff_file="psf.piff")

    @functools.cached_property
    def psf_stamps(self) -> dict[str, np.ndarray]:
        """PSF images and shapes of the reference at some positions."""
        return _read_npz(self.folder / "psf_stamps.npz")

    @functools.cached_property
    def aperture_corrections(self) -> dict[str, ChebyshevField]:
        """Aperture-correction fields by ``<flux>_instFlux`` and ``<flux>_instFluxErr``."""
        return _read_aperture_corrections(self.folder / "apcorr.json")

    @property
    def background(self) -> np.ndarray:
        """Background image the reference subtracts, counts, float32."""
        assert self._planes.background is not None
        return self._planes.background

    @functools.cached_property
    def background_stats(self) -> np.ndarray:
        """Clipped means per 128-pixel cell from which the background was fitted, float32."""
        return _read_npz(self.folder / "background_stats.npz")["stats_image"]

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
        stored = _read_json(self.folder / "photo_calib.json")
        return PhotoCalib(stored["calibration_mean"], stored["calibration_err"])

    @functools.cached_property
    def calib_sources(self) -> astropy.table.Table:
        """Stars of the PSF determination with their flags."""
        return _read_table(self.folder / "calib_sources.parquet")

    @functools.cached_property
    def truth(self) -> astropy.table.Table:
        """What was simulated."""
        return _read_table(self.folder / "truth.parquet")

    # Outputs of the reference -----------------------------------------------------------------------------

    @functools.cached_property
    def sources(self) -> SourceCatalog:
        """Calibrated source catalog with footprints; read only."""
        footprints = self.footprints.footprints
        return _read_catalog(self.folder / "sources.parquet", self.folder / "units.json", footprints)

    @functools.cached_property
    def footprints(self) -> ReferenceFootprints:
        """Footprints of ``sources``, children heavy in counts."""
        return _read_footprints(self.folder / "footprints.npz")

    @functools.cached_property
    def detection(self) -> ReferenceFootprints:
        """Footprints right after detection, before sky sources and deblending."""
        return _read_footprints(self.folder / "detection.npz")

    @functools.cached_property
    def noise_replaced(self) -> NoiseReplaced:
        """Noise in place of every source."""
        return _read_noise(self.folder / "noise_replaced.npz")

    def pvi(self) -> VisitImage:
        """Return the published image, nJy."""
        p = _read_planes(self.folder / "pvi.fits.gz")
        return self._visit_image(p.image, p.mask, p.variance, psf=self.psf, unit=u.nJy)

    @functools.cached_property
    def summary_stats(self) -> dict[str, Any]:
        """Summary statistics of the exposure."""
        return _read_json(self.folder / "summary_stats.json")


@dataclasses.dataclass(frozen=True)
class FinalizePack(_Scene):
    """Inputs and reference outputs of the final characterization of one detector."""

    @functools.cached_property
    def _planes(self) -> _Planes:  # type: ignore[override]
        return _read_planes(self.inputs / "exposure.fits.gz")

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
        return _read_json(self.folder / "finalize_meta.json")

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
        return _read_psf(self.inputs, self.bbox, gaussian="psf_prelim.json", piff_file="none")

    @functools.cached_property
    def preliminary_psf_stamps(self) -> dict[str, np.ndarray]:
        """Images of the preliminary PSF at some positions."""
        return _read_npz(self.inputs / "psf_prelim_stamps.npz")

    @functools.cached_property
    def src(self) -> SourceCatalog:
        """First-pass source catalog with footprints; read only."""
        footprints = self.src_footprints.footprints
        return _read_catalog(self.inputs / "src.parquet", self.inputs / "src_units.json", footprints)

    @functools.cached_property
    def src_footprints(self) -> ReferenceFootprints:
        """Footprints of ``src``."""
        return _read_footprints(self.inputs / "src_footprints.npz")

    @functools.cached_property
    def noise_replaced(self) -> NoiseReplaced:
        """Noise in place of every source of ``src``."""
        return _read_noise(self.inputs / "noise_replaced.npz")

    @functools.cached_property
    def input_aperture_corrections(self) -> dict[str, ChebyshevField]:
        """Aperture corrections the exposure comes with."""
        return _read_aperture_corrections(self.inputs / "apcorr_input.json")

    def isolated_star_cat(self, tract: int | None = None) -> astropy.table.Table:
        """Return the isolated stars of a tract, or of all tracts with their ``tract`` column."""
        return _of_tract(_read_table(self.inputs / "isolated_star_cat.parquet"), tract)

    def isolated_star_sources(self, tract: int | None = None) -> astropy.table.Table:
        """Return the sources of the isolated stars of a tract, or of all tracts."""
        return _of_tract(_read_table(self.inputs / "isolated_star_sources.parquet"), tract)

    @functools.cached_property
    def tracts(self) -> list[int]:
        """Tracts of the isolated stars."""
        return sorted({int(t) for t in self.isolated_star_cat()["tract"]})

    # Outputs of the reference -----------------------------------------------------------------------------

    @functools.cached_property
    def finalized_src(self) -> SourceCatalog:
        """Final source catalog of the characterization; read only."""
        return _read_catalog(self.outputs / "finalized_src.parquet", self.outputs / "units.json", None)

    @functools.cached_property
    def finalized_src_repeat_cmodel(self) -> astropy.table.Table:
        """CModel columns of a second run of the reference."""
        return _read_table(self.outputs / "finalized_src_repeat_cmodel.parquet")

    @functools.cached_property
    def final_psf(self) -> PointSpreadFunction:
        """Piff PSF the reference fitted."""
        return _read_psf(self.outputs, self.bbox, gaussian="none", piff_file="psf_final.piff")

    @functools.cached_property
    def final_psf_stamps(self) -> dict[str, np.ndarray]:
        """Images of the final PSF at some positions."""
        return _read_npz(self.outputs / "psf_final_stamps.npz")

    @functools.cached_property
    def final_psf_coefficients(self) -> dict[str, np.ndarray]:
        """Coefficients and stars of the final PSF."""
        return _read_npz(self.outputs / "psf_final_piff_coeffs.npz")

    @functools.cached_property
    def final_aperture_corrections(self) -> dict[str, ChebyshevField]:
        """Aperture corrections the reference measured."""
        return _read_aperture_corrections(self.outputs / "apcorr_final.json")

    @functools.cached_property
    def selected_ids(self) -> np.ndarray:
        """Ids of the sources that pass the source selector."""
        return _read_npz(self.outputs / "selected_ids.npz")["selected"]

    @functools.cached_property
    def isolated_concat_cat(self) -> astropy.table.Table:
        """Isolated stars after the cut to the visit, with reserved flags."""
        return _read_table(self.outputs / "isolated_concat_cat.parquet")

    @functools.cached_property
    def isolated_concat_sources(self) -> astropy.table.Table:
        """Sources of the isolated stars after the cut to the visit."""
        return _read_table(self.outputs / "isolated_concat_sources.parquet")


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
    meta = _read_json(folder / "meta.json")
    x0, y0 = meta["xy0"]
    return ParityPack(folder, meta["visit"], meta["detector"], (x0, y0), meta["exposure_time"])


@functools.cache
def load_finalize_pack(data_dir: Path) -> FinalizePack:
    """Return the pack of the final characterization; its parts are read when used."""
    folder = data_dir / "parity" / "B"
    meta = _read_json(folder / "finalize_meta.json")
    x0, y0 = meta["xy0"]
    return FinalizePack(folder, meta["visit"], meta["detector"], (x0, y0), 30.0)
