"""Reading the files of the parity packs, and what all packs share."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import astropy.table
import astropy.units as u
import astropy.wcs
import numpy as np
import piff
import pyarrow.parquet
from astropy.io import fits
from lsst.images import Box, DetectorFrame, Image, Mask, SkyProjection, VisitImage
from lsst.images.fields import ChebyshevField
from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper, PointSpreadFunction

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.mask_planes import make_mask_schema, plane_name
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.instruments.camera import make_detector

from ..scenes import make_obs_info

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
class Planes:
    """Pixels of one file, with mask bits by short plane name; read-only."""

    image: np.ndarray
    mask: np.ndarray
    variance: np.ndarray
    background: np.ndarray | None
    bits: dict[str, int]
    header: fits.Header


def read_planes(path: Path) -> Planes:
    with fits.open(path) as hdus:
        header = hdus["MASK"].header
        native = {h.name: h.data.astype(h.data.dtype.newbyteorder("="), copy=True) for h in hdus[1:]}
        for array in native.values():
            array.flags.writeable = False
        return Planes(
            native["IMAGE"],
            native["MASK"],
            native["VARIANCE"],
            native.get("BACKGROUND"),
            {card[len(_MASK_CARD) :]: header[card] for card in header if card.startswith(_MASK_CARD)},
            hdus["IMAGE"].header.copy(),
        )


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _columns(path: Path) -> dict[str, np.ndarray]:
    """Read the columns of a Parquet file, text as numpy strings."""
    table = pyarrow.parquet.read_table(path)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    return {name: c.astype(str) if c.dtype.kind == "O" else c for name, c in columns.items()}


def read_table(path: Path) -> astropy.table.Table:
    return astropy.table.Table(_columns(path))


def read_catalog(table: Path, units: Path, footprints: Footprints | None) -> SourceCatalog:
    """Read a source table with its units and aliases; columns that are aliases become aliases again."""
    described = read_json(units)
    result = astropy.table.Table()
    for name, values in _columns(table).items():
        unit = described["columns"].get(name, {}).get("unit") or ""
        result[name] = astropy.table.Column(values, unit=_UNITS.get(unit, unit) or None)
    return SourceCatalog.from_astropy(result, aliases=described["aliases"], footprints=footprints)


def read_footprints(path: Path) -> ReferenceFootprints:
    data = read_npz(path)
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


def read_noise(path: Path) -> NoiseReplaced:
    data = read_npz(path)
    return NoiseReplaced(data["id"], data["offset"], data["value"])


def read_aperture_corrections(path: Path) -> dict[str, ChebyshevField]:
    result = {}
    for name, field in read_json(path)["fields"].items():
        x0, y0, x1, y1 = field["bbox"]
        box = Box.factory[y0 : y1 + 1, x0 : x1 + 1]
        result[name] = ChebyshevField(box, np.array(field["coefficients"], dtype=np.float64))
    return result


def read_psf(folder: Path, bbox: Box, *, gaussian: str, piff_file: str) -> PointSpreadFunction:
    if (folder / piff_file).exists():
        return PiffWrapper(piff.read(str(folder / piff_file)), bounds=bbox, stamp_size=25)
    stored = read_json(folder / gaussian)
    return GaussianPointSpreadFunction(stored["sigma"], bounds=bbox, stamp_size=stored["width"])


def _unpack_mask(packed: np.ndarray, bits: dict[str, int], bbox: Box) -> Mask:
    mask = Mask(schema=make_mask_schema([*bits, *_EXTRA_MASK_PLANES]), bbox=bbox)
    for name, bit in bits.items():
        mask.set(plane_name(name), (packed & (1 << bit)) != 0)
    return mask


@dataclasses.dataclass(frozen=True)
class Scene:
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
    def _planes(self) -> Planes:
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
            obs_info=make_obs_info(
                visit=self.visit, detector=self.detector, exposure_time=self.exposure_time
            ),
            photometric_scaling=photo_calib.to_field(bbox, u.adu) if photo_calib is not None else None,
            psf=psf,
            detector=detector,
            aperture_corrections=dict(aperture_corrections or {}),
            band="r",
        )


_ORIGIN_CARDS = {"LTV1", "LTV2", "XY0_X", "XY0_Y", "COMMENT", "EXTNAME"}
