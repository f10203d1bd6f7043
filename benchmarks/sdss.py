"""One SDSS frame after the first pass, as the benchmarks need it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import astropy.table

from secondlight.instruments.base import DetectorObservation
from secondlight.instruments.reference_catalog import read_reference_catalog
from secondlight.instruments.sdss import SdssImager
from secondlight.tasks.calibrate_image import CalibrateImageConfig

_HERE = Path(__file__).resolve()
DATA = Path(os.environ.get("SECONDLIGHT_TEST_DATA", _HERE.parents[2] / "shared" / "data")) / "sdss_stripe82"


def frames() -> Iterator[tuple[str, DetectorObservation]]:
    """Read the frames of the data folder, each with its name; none, with a message, if it is absent."""
    if not DATA.is_dir():
        print(f"skipped: there is no folder {DATA} (set SECONDLIGHT_TEST_DATA)")
        return
    camera = SdssImager()
    for file in sorted(camera.find([DATA])):
        yield file.path.name.split(".")[0], camera.read(file, [DATA])


def reference_stars() -> astropy.table.Table:
    """Return the reference stars of the data folder."""
    return read_reference_catalog(DATA / "refcat" / "stars.fits")


def first_pass_config() -> CalibrateImageConfig:
    """Return the configuration of the first pass for SDSS frames."""
    config = CalibrateImageConfig()
    config.psf_repair.doCosmicRay = False
    config.star_repair.doCosmicRay = False
    config.load("resource://secondlight/configs/sdss/apertures.py")
    return config
