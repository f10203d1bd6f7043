"""User CPU seconds, wall seconds and megabytes of storing one large image in several ways.

Run as ``python -m benchmarks.image_io``, or with the names of scenes.  The image is a simulated detector
after the first pass, its pixels multiplied as a calibration does.  Loss is the
largest difference of pixel values in units of the noise.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lsst.images.fits
import numpy as np
from lsst.images import VisitImage
from lsst.images.fits import (
    FitsCompressionAlgorithm,
    FitsCompressionOptions,
    FitsDitherAlgorithm,
    FitsQuantizationOptions,
)
from lsst.images.serialization import read_archive
from rich.console import Console
from rich.table import Table

from secondlight.instruments.fast_gzip import FastGzipOptions
from secondlight.instruments.formatters import LOSSLESS
from secondlight.simulate.detector import simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.scene import load_scene
from secondlight.tasks.calibrate_image import CalibrateImageTask

from .timing import user_seconds

SCENES = ("ccd",)
_PLANES = ("image", "mask", "variance")
_SCALE = np.float32(13.71234)
_REPEATS = 2

Options = Mapping[str, FitsCompressionOptions | None]


def _rice(level: float) -> Options:
    """Return options that round image and variance to a fraction of their noise."""
    quantization = FitsQuantizationOptions(
        dither=FitsDitherAlgorithm.SUBTRACTIVE_DITHER_2, level=level, seed=1
    )
    rounded = FitsCompressionOptions(
        algorithm=FitsCompressionAlgorithm.RICE_1, tile_shape=(256, 256), quantization=quantization
    )
    return LOSSLESS | {"image": rounded, "variance": rounded}


SETTINGS: dict[str, Options] = {
    "plain": dict.fromkeys(_PLANES),
    "fast GZIP_2, tiles 256 x 256, mask RICE_1 (default)": LOSSLESS,
    "fast GZIP_2, tiles 256 x 256": dict.fromkeys(_PLANES, FastGzipOptions()),
    "fast GZIP_2, tiles of 16 rows": dict.fromkeys(_PLANES, FastGzipOptions(tile_shape=(16, 4096))),
    "fast GZIP_2, tiles of one row": dict.fromkeys(_PLANES, FastGzipOptions(tile_shape=(1, 4096))),
    "GZIP_2 of lsst.images, tiles of one row": {},
    "GZIP_2 of lsst.images, tiles 256 x 256": dict.fromkeys(
        _PLANES, FitsCompressionOptions(tile_shape=(256, 256))
    ),
    "RICE_1, rounded to 1/64 of the noise": _rice(64.0),
    "RICE_1, rounded to 1/16 of the noise": _rice(16.0),
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Least user CPU seconds and wall seconds of several runs."""

    user: float
    wall: float

    @classmethod
    def of(cls, step: Callable[[], object]) -> Cost:
        """Measure a step."""
        runs = []
        for _ in range(_REPEATS):
            user, wall = user_seconds(), time.perf_counter()
            step()
            runs.append((user_seconds() - user, time.perf_counter() - wall))
        return cls(*(min(values) for values in zip(*runs, strict=True)))


@dataclasses.dataclass(frozen=True)
class Result:
    """What storing an image in one way costs, and what it loses."""

    write: Cost
    read: Cost
    megabytes: float
    loss: float


def make_image(name: str) -> VisitImage:
    """Simulate the first detector of a scene and run the first pass on it."""
    scene = load_scene(name)
    simulated = simulate_detector(scene, make_objects(scene), visit=scene.visits[0].id, detector=0)
    image = CalibrateImageTask().run(exposures=list(simulated.images)).exposure
    image.image.array[...] *= _SCALE
    image.variance.array[...] *= _SCALE**2
    return image


def measure(image: VisitImage, options: Options, path: Path) -> Result:
    """Write and read an image."""

    def write() -> None:
        path.unlink(missing_ok=True)
        lsst.images.fits.write(image, str(path), compression_options=options)

    write_cost = Cost.of(write)
    back: Any = None

    def read() -> None:
        nonlocal back
        back = read_archive(str(path), VisitImage)

    read_cost = Cost.of(read)
    difference = np.abs(back.image.array - image.image.array) / np.sqrt(image.variance.array)
    return Result(write_cost, read_cost, path.stat().st_size / 1e6, float(np.nanmax(difference)))


def main(names: tuple[str, ...] = SCENES) -> None:
    """Store the image of each scene in all ways and print tables."""
    for name in names:
        image = make_image(name)
        table = Table(title=f"{name}: {image.image.array.shape}, user CPU (wall) seconds")
        table.add_column("how")
        for column in ("write", "read", "MB", "loss / noise"):
            table.add_column(column, justify="right")
        with tempfile.TemporaryDirectory() as folder:
            for how, options in SETTINGS.items():
                result = measure(image, options, Path(folder) / "image.fits")
                costs = (f"{cost.user:.2f} ({cost.wall:.2f})" for cost in (result.write, result.read))
                table.add_row(how, *costs, f"{result.megabytes:.1f}", f"{result.loss:.3g}")
        Console(width=110).print(table)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or SCENES)
