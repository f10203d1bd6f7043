"""Made-up truth and measurements whose errors are known exactly."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from astropy.table import Table
from benchmarks.accuracy.catalogs import Measured, Truth
from benchmarks.accuracy.matching import Image
from lsst.images import Box, Mask
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.mask_planes import make_mask_schema
from secondlight.catalog.photo_calib import AB_FLUX_NJY

SIDE = 2000
SIGMA = 2.0
BBOX = Box.factory[0:SIDE, 0:SIDE]


def gaussian_psf(sigma: float = SIGMA) -> GaussianPointSpreadFunction:
    return GaussianPointSpreadFunction(sigma, bounds=BBOX, stamp_size=41)


def make_truth(n_side: int = 40, *, contamination: float = 0.0, visit: int = 1, seed: int = 3) -> Truth:
    """Objects on a grid with random offsets, half of them stars, from S/N 8 to 2000."""
    rng = np.random.default_rng(seed)
    grid = (np.arange(n_side) + 0.5) * SIDE / n_side
    x, y = (g.ravel() + rng.uniform(-0.5, 0.5, n_side**2) for g in np.meshgrid(grid, grid))
    n = len(x)
    snr = 10 ** rng.uniform(np.log10(8), np.log10(2000), n)
    mag = 24.0 - 2.5 * np.log10(snr / 10)
    star = np.arange(n) % 2 == 0
    table = Table(
        {
            "object_id": np.arange(n) + 100,
            "is_star": star,
            "x": x,
            "y": y,
            "ra": 10 + x / 18000,
            "dec": y / 18000,
            "mag": mag,
            "flux": AB_FLUX_NJY * 10 ** (-0.4 * mag),
            "half_light_radius": np.where(star, 0.0, 2.0),
            "snr": snr,
            "contamination": np.full(n, contamination),
            "saturated": np.zeros(n, dtype=bool),
        }
    )
    artifacts = Mask(bbox=BBOX, schema=make_mask_schema(["CR", "NO_DATA"]))
    background = np.full((SIDE, SIDE), 100.0, dtype=np.float32)
    return Truth(
        visit, 0, "r", table, BBOX, zero_point=27.0, noise=10.0,
        psf=gaussian_psf(), background=background, artifacts=artifacts,
    )  # fmt: skip


def make_measured(
    truth: Truth,
    *,
    offset: float = 0.0,
    error_scale: float = 1.0,
    flux_factor: float = 1.0,
    zero_point_factor: float = 1.0,
    band: str = "r",
    seed: int = 5,
    **changes: Any,
) -> Measured:
    """A perfect measurement but for what is asked for; errors are quoted too small by `error_scale`."""
    rng = np.random.default_rng(seed)
    n = len(truth)
    snr = truth["snr"]
    position_error = SIGMA / snr

    def noisy(values: np.ndarray, error: np.ndarray) -> np.ndarray:
        return values + error_scale * error * rng.standard_normal(n)

    flux_error = zero_point_factor * truth["flux"] / snr
    psf = noisy(zero_point_factor * flux_factor * truth["flux"], flux_error)
    calibration = noisy(zero_point_factor * truth["flux"], flux_error)
    measured = Measured(
        system="synthetic",
        visit=truth.visit,
        detector=0,
        band=band,
        x=noisy(truth["x"], position_error) + offset,
        y=noisy(truth["y"], position_error),
        x_err=position_error,
        y_err=position_error,
        ra=truth["ra"].copy(),
        dec=truth["dec"].copy(),
        fluxes={"psf": (psf, flux_error), "calibration": (calibration, flux_error)},
        flux_flags={},
        extendedness=np.where(truth["is_star"], 0.0, 1.0),
        primary=np.ones(n, dtype=bool),
        good=np.ones(n, dtype=bool),
        psf_flux="psf",
        calibration_flux="calibration",
        calibration_radius=12.0,
    )
    return dataclasses.replace(measured, **changes)


def make_image(**options: Any) -> Image:
    truth = make_truth()
    return Image(make_measured(truth, **options), truth)
