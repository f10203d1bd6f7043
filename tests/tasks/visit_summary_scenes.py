"""A small visit: three detectors side by side, their final characterization and its stars."""

from __future__ import annotations

from typing import Any

import astropy.table
import astropy.wcs
import numpy as np
from lsst.images import Box, DetectorFrame, ObservationSummaryStats, SkyProjection
from lsst.images.fields import ChebyshevField
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary
from secondlight.tasks.update_visit_summary import UpdateVisitSummaryConfig, UpdateVisitSummaryTask
from tests.scenes import PIXEL_SCALE, make_obs_info

VISIT = 321
DETECTORS = (4, 9, 11)
BBOX = Box.factory[30:270, 50:350]
ELECTRONICS = {"magLimReadNoise": 6.0, "magLimGain": 2.0}
STEP = 0.02
"""Distance of the centres of neighbouring detectors, degrees of right ascension."""


def projection(
    detector: int, *, shift: float = 0.0, ra: float = 150.0, stretch: float = 1.0
) -> SkyProjection[Any]:
    """Return the sky projection of a detector, moved north by a number of arcsec, with larger pixels."""
    wcs = astropy.wcs.WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra + STEP * DETECTORS.index(detector), 2.0 + shift / 3600]
    wcs.wcs.crpix = [0.5 * BBOX.x.size + 0.5, 0.5 * BBOX.y.size + 0.5]
    wcs.wcs.cd = stretch * np.diag([-PIXEL_SCALE / 3600, PIXEL_SCALE / 3600])
    frame = DetectorFrame(instrument="TestCam", visit=VISIT, detector=detector, bbox=BBOX)
    return SkyProjection.from_fits_wcs(wcs, frame, pixel_bounds=BBOX, x0=BBOX.x.start, y0=BBOX.y.start)


def summary_of(records: list[DetectorSummary], **values: Any) -> VisitSummary:
    """Return a summary of the visit."""
    labels = {"instrument": "TestCam", "band": "r", "physical_filter": "test_r"}
    return VisitSummary(values.pop("visit", VISIT), records, **labels | values)


def first_pass(*, ra: float = 150.0, **values: Any) -> VisitSummary:
    """Return what the first pass knows, with statistics of which some are to be kept and some replaced."""
    records = []
    for detector in DETECTORS:
        stats = ObservationSummaryStats(
            psfSigma=9.0, psfArea=99.0, skyBg=500.0, starEMedian=0.5, zeroPoint=27.0, expTime=30.0, ra=1.0,
            dec=1.0, magLim=20.0, effTime=1.0, skyNoise=7.0, meanVar=50.0, metadata=dict(ELECTRONICS),
        )  # fmt: skip
        records.append(
            DetectorSummary(
                detector,
                bbox=BBOX,
                psf=GaussianPointSpreadFunction(3.0, bounds=BBOX, stamp_size=31),
                aperture_corrections={},
                sky_projection=projection(detector, ra=ra),
                photo_calib=PhotoCalib.from_zero_point(27.0),
                obs_info=make_obs_info(visit=VISIT, detector=detector),
                summary_stats=stats,
                calibration_sources={"psf": "calexp"},
            )
        )
    return summary_of(records, **values)


def characterization(detectors: tuple[int, ...] = DETECTORS, **values: Any) -> VisitSummary:
    """Return final PSFs, each of its own size, and aperture corrections."""
    return summary_of(
        [
            DetectorSummary(
                detector,
                bbox=BBOX,
                psf=GaussianPointSpreadFunction(1.5 + 0.01 * detector, bounds=BBOX, stamp_size=31),
                aperture_corrections={
                    "base_PsfFlux_instFlux": ChebyshevField(BBOX, np.array([[1.0, 0.1]])),
                },
            )
            for detector in detectors
        ],
        **values,
    )


def stars(detectors: tuple[int, ...] = DETECTORS, *, n: int = 8, ra: float = 150.0) -> astropy.table.Table:
    """Return stars of which all but the last two of each detector were used for the PSF."""
    rng = np.random.default_rng(2)
    tables = []
    for detector in detectors:
        table = astropy.table.Table({"detector": np.full(n, detector), "visit": np.full(n, VISIT)})
        table["calib_psf_used"] = np.arange(n) < n - 2
        x, y = rng.uniform(60, 340, n), rng.uniform(40, 260, n)
        table["slot_Centroid_x"], table["slot_Centroid_y"] = x, y
        sky = projection(detector, ra=ra).pixel_to_sky(x=x, y=y)
        table["coord_ra"], table["coord_dec"] = sky.ra.rad, sky.dec.rad
        for name, noise in (("slot_Shape", 0.05), ("slot_PsfShape", 0.0)):
            for suffix, value in (("xx", 2.9), ("yy", 2.8), ("xy", 0.1)):
                table[f"{name}_{suffix}"] = value + noise * rng.normal(size=n)
        table["slot_Shape_flag"] = False
        table["slot_PsfFlux_flag"] = False
        table["slot_PsfFlux_instFlux"] = 1e4
        table["slot_PsfFlux_instFluxErr"] = 100.0
        tables.append(table)
    return astropy.table.vstack(tables)


def run(config: UpdateVisitSummaryConfig | None = None, **inputs: Any) -> VisitSummary:
    """Run the task on complete inputs, or on others."""
    given = {
        "input_summary": first_pass(),
        "psf_overrides": characterization(),
        "ap_corr_overrides": characterization(),
        "psf_star_catalog": stars(),
    }
    result: VisitSummary = UpdateVisitSummaryTask(config=config).run(**given | inputs).output_summary
    return result


def external_wcs(detectors: tuple[int, ...] = DETECTORS, *, shift: float, **values: Any) -> VisitSummary:
    """Return sky projections moved north by a number of arcsec."""
    return summary_of(
        [DetectorSummary(d, sky_projection=projection(d, shift=shift)) for d in detectors], **values
    )


def external_calib(
    detectors: tuple[int, ...] = DETECTORS, *, zero_point: float, **values: Any
) -> VisitSummary:
    """Return constant photometric calibrations."""
    calib = PhotoCalib.from_zero_point(zero_point)
    return summary_of([DetectorSummary(d, photo_calib=calib) for d in detectors], **values)
