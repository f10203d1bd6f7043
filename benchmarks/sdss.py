"""SDSS frames and how both passes run on one in memory, as the benchmarks need it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import astropy.table
from lsst.pipe.base import Struct

from secondlight.instruments.base import DetectorObservation
from secondlight.instruments.reference_catalog import read_reference_catalog
from secondlight.instruments.sdss import SdssImager
from secondlight.tasks.calibrate_image import CalibrateImageConfig, CalibrateImageTask
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageConfig, ReprocessVisitImageTask

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


def final_pass_config() -> ReprocessVisitImageConfig:
    """Return the configuration of the final pass for SDSS frames."""
    config = ReprocessVisitImageConfig()
    config.repair.doCosmicRay = False
    config.load("resource://secondlight/configs/sdss/apertures.py")
    return config


def run_first_pass(task: CalibrateImageTask, observation: DetectorObservation) -> Struct:
    """Run the first pass on a frame, which stays as it is."""
    return task.run(
        exposures=[observation.image.copy()],
        survey_psf=observation.survey_psf,
        reference_catalog=reference_stars(),
    )


def run_final_pass(task: ReprocessVisitImageTask, observation: DetectorObservation, first: Struct) -> Struct:
    """Run the final pass on a frame, which stays as it is, with the calibrations of the first."""
    return task.run(
        exposures=[observation.image.copy()],
        psf=first.exposure.psf,
        background=first.background,
        ap_corr=first.exposure.aperture_corrections,
        photo_calib=first.initial_photo_calib,
        wcs=first.exposure.sky_projection,
        calib_sources=first.stars.to_astropy(),
    )
