"""An image with sources of every kind and the inputs of its final pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import astropy.table
import numpy as np
from lsst.images import Box, VisitImage
from lsst.images.fields import ChebyshevField
from lsst.pipe.base import AlgorithmError, Struct

from secondlight.background.fields import make_background
from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageConfig, ReprocessVisitImageTask
from tests.scenes import make_visit_image

VISIT = 1 << 33
DETECTOR = 42
X0, Y0, WIDTH, HEIGHT = 5, 4, 201, 181
SIGMA, NOISE = 2.0, 10.0
POINT_X = np.array([162, 40, 100, 50, 92, 175])
POINT_Y = np.array([25, 70, 160, 120, 35, 154])
UNIT_FLUX = NOISE * math.sqrt(4 * math.pi * SIGMA**2)
POINT_FLUX = UNIT_FLUX * np.array([6, 12, 45, 150, 400, 1000])
GAIN, READ_NOISE = 1.5, 5.0
CALIB = PhotoCalib(12.3, 0.1)
WHERE = f"Visit {VISIT}, detector {DETECTOR}"
BLEND_X, BLEND_Y = np.array([150, 160]), np.array([80, 83])
BLEND_FLUX = UNIT_FLUX * np.array([600, 300])


def make_scene(
    *,
    seed: int = 5,
    dx: int = 0,
    dy: int = 0,
    visit: int = VISIT,
    detector: int = DETECTOR,
    blend: bool = False,
) -> VisitImage:
    """Six stars, one galaxy and a cosmic ray, and two more stars that are a blend if there is to be one.

    With (dx, dy) the same pixels are counted from another origin.
    """
    x, y, flux = POINT_X, POINT_Y, POINT_FLUX
    if blend:
        x, y, flux = (np.append(*both) for both in ((x, BLEND_X), (y, BLEND_Y), (flux, BLEND_FLUX)))
    image = make_visit_image(
        width=WIDTH, height=HEIGHT, x0=X0 + dx, y0=Y0 + dy, x=x + dx, y=y + dy, flux=flux,
        sigma=SIGMA, noise=NOISE, seed=seed, visit=visit, detector=detector,
    )  # fmt: skip
    grid_x, grid_y = np.meshgrid(image.bbox.x.arange - 100.0 - dx, image.bbox.y.arange - 100.0 - dy)
    # Moments (8, 9, 3) seen through the PSF.
    xx, yy, xy = 8 + SIGMA**2, 9 + SIGMA**2, 3.0
    det = xx * yy - xy**2
    q = (yy * grid_x**2 + xx * grid_y**2 - 2 * xy * grid_x * grid_y) / det
    galaxy = 500 * UNIT_FLUX * np.exp(-0.5 * q) / (2 * math.pi * math.sqrt(det))
    image.image.array[...] += galaxy.astype(np.float32)
    image.image.array[60 - Y0 : 62 - Y0, 60 - X0] = 10000
    image.metadata |= {"GAIN": GAIN, "READ_NOISE": READ_NOISE}
    return image


def background_field(bbox: Box) -> ChebyshevField:
    return ChebyshevField(bbox, np.array([[100.0, 3.0], [2.0, 0.0]]))


def make_calib_sources(
    image: VisitImage, *, x: Sequence[float] | np.ndarray = POINT_X, y: Sequence[float] | np.ndarray = POINT_Y
) -> astropy.table.Table:
    """Stars of two detectors; on ours the first alone was used for the PSF, on the other all were."""
    dx, dy = image.bbox.x.start - X0, image.bbox.y.start - Y0
    sky = image.sky_projection.pixel_to_sky(
        x=np.asarray(x, dtype=float) + dx, y=np.asarray(y, dtype=float) + dy
    )
    table = astropy.table.Table()
    table["detector"] = np.full(len(x), image.detector.id, dtype=np.int32)
    table["coord_ra"] = astropy.table.Column(sky.ra.rad, unit="rad")
    table["coord_dec"] = astropy.table.Column(sky.dec.rad, unit="rad")
    table["calib_psf_candidate"] = True
    table["calib_psf_used"] = np.arange(len(x)) == 0
    table["calib_psf_reserved"] = False
    other = table.copy()
    other["detector"] = image.detector.id + 1
    other["calib_psf_used"] = True
    return astropy.table.vstack([table, other])


def make_config(**values: Any) -> ReprocessVisitImageConfig:
    config = ReprocessVisitImageConfig()
    config.sky_sources.nSources = 2
    for name, value in values.items():
        setattr(config, name, value)
    config.validate()
    return config


def make_inputs(image: VisitImage, **values: Any) -> dict[str, Any]:
    """Return the arguments of `run`; the background is still in the image."""
    field = background_field(image.bbox)
    image.image.array[...] += field.render().array.astype(np.float32)
    return {
        "exposures": [image],
        "psf": image.psf,
        "background": make_background(field),
        "ap_corr": {},
        "photo_calib": CALIB,
        "wcs": image.sky_projection,
        "calib_sources": make_calib_sources(image),
        "id_generator": IdGenerator(7, 20),
        "visit": VISIT,
    } | values


class MadeUpError(AlgorithmError):
    """A failure of an algorithm."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Some numbers, one of them of numpy and one that no file can hold, and something that is none."""
        return {"n_pixels": np.int64(12), "width": math.nan, "pixels": [1, 2]}


@functools.cache
def default_task() -> ReprocessVisitImageTask:
    """Return the task with the configuration of `make_config`; not to be changed."""
    return ReprocessVisitImageTask(config=make_config())


@functools.cache
def default_outputs() -> Struct:
    """Return what the default task makes of the default scene, and ``inputs``; not to be changed."""
    inputs = make_inputs(make_scene())
    result = default_task().run(**inputs)
    result.inputs = inputs
    return result


def row_at(table: astropy.table.Table, x: float, y: float) -> astropy.table.Row:
    """Return the row without children that is nearest to a position."""
    distance = np.hypot(table["slot_Centroid_x"] - x, table["slot_Centroid_y"] - y)
    return table[int(np.nanargmin(np.where(table["deblend_nChild"] == 0, distance, np.nan)))]
