"""What a system measured on one simulated image, and what was really there.

Pixel positions count from 0 at the centre of the first pixel; fluxes are in nJy above the atmosphere.
"""

from __future__ import annotations

__all__ = ("Measured", "PsfStamps", "Truth", "image_number")

import dataclasses
import math
from collections.abc import Callable, Mapping

import astropy.table
import numpy as np
import numpy.typing as npt
from lsst.images import Box, Mask
from lsst.images.psfs import PointSpreadFunction

from secondlight.simulate.render import Light

type Flux = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
type Flags = npt.NDArray[np.bool_]
type PsfStamps = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``psf(x, y)`` returns centred stamps (n, h, w) of odd sides with unit sum, NaN where there is no PSF."""


_DETECTORS = 1000
"""More than a camera has."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one system measured on one detector of one visit.  Sources are rows (n).

    Parameters
    ----------
    system
        Who measured: ``secondlight``, ``sep``, ...
    visit, detector, band
        Which image.
    x, y
        Positions (n), pixels.
    x_err, y_err
        Their standard deviations (n), pixels; NaN where there is none.
    ra, dec
        Positions on the sky (n), ICRS, degrees; NaN where there are none.
    fluxes
        Flux and its standard deviation, nJy, each (n), by the name of the column.
    flux_flags
        Where a flux is not to be used (n), by the same names; names may be missing.
    extendedness
        0 for stars to 1 for galaxies (n); NaN where there is none.
    primary
        Sources that count (n): no parents of blends that were split, no sky sources.
    good
        Sources whose pixels are sound at the centre: neither saturated, interpolated nor at the edge (n).
    aperture_radii
        Radii of the fluxes that are circular apertures without correction, pixels.  All other fluxes are
        meant to be total.
    sky_fluxes
        As `fluxes`, measured where there is no source (m).
    psf
        Model of the PSF.
    background
        What was taken from the image (h, w), counts.
    cosmic_rays
        Pixels called a cosmic ray (h, w).
    first_psf
        The model before the final one, if there are two.
    reserved_x, reserved_y
        Positions of stars held out of the fit of the PSF (k), pixels.
    classifications
        Other columns that tell stars from galaxies, as `extendedness`.
    corrections
        Factors by which fluxes were multiplied to be total (n), by the name of the column.
    psf_flux
        Name of the flux that is fitted with the model of the PSF.
    calibration_flux, calibration_radius
        Name of the flux that the zero point was fitted with, and the radius in pixels of the aperture that it
        stands for; `None` if fluxes were converted with the true zero point.
    zero_point
        AB magnitude of one count by which fluxes were converted; `None` for the true one.
    ra_err, dec_err
        Standard deviations of `ra` times cos(dec), and of `dec` (n), degrees.
    psf_used, psf_reserved
        Stars that the PSF was fitted to, and such that were held out of that fit (n).
    statistics
        Published summary statistics of the image, by name.
    cpu_seconds
        User CPU time the measurement took; NaN if it was not taken.
    """

    system: str
    visit: int
    detector: int
    band: str
    x: np.ndarray
    y: np.ndarray
    x_err: np.ndarray
    y_err: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    fluxes: Mapping[str, Flux]
    flux_flags: Mapping[str, Flags]
    extendedness: np.ndarray
    primary: Flags
    good: Flags
    aperture_radii: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sky_fluxes: Mapping[str, Flux] = dataclasses.field(default_factory=dict)
    psf: PsfStamps | PointSpreadFunction | None = None
    background: np.ndarray | None = None
    cosmic_rays: Flags | None = None
    first_psf: PsfStamps | PointSpreadFunction | None = None
    reserved_x: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    reserved_y: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    classifications: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    corrections: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    psf_flux: str | None = None
    calibration_flux: str | None = None
    calibration_radius: float | None = None
    zero_point: float | None = None
    ra_err: np.ndarray | None = None
    dec_err: np.ndarray | None = None
    psf_used: Flags | None = None
    psf_reserved: Flags | None = None
    statistics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    cpu_seconds: float = math.nan

    def __len__(self) -> int:
        return len(self.x)

    def usable(self, flux: str) -> Flags:
        """Return where a flux is finite and not flagged (n)."""
        value, error = self.fluxes[flux]
        usable = np.isfinite(value) & (error > 0)
        if flux in self.flux_flags:
            usable &= ~self.flux_flags[flux]
        return usable


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is really on one detector of one visit.

    Parameters
    ----------
    visit, detector, band
        Which image.
    table
        The objects, as in the dataset ``sim_truth``: `x`, `y`, `flux` (nJy), `is_star`, `snr`,
        `contamination`, `saturated`, ...
    bbox
        Box of the image.
    zero_point
        True AB magnitude of one count.
    noise
        Standard deviation of an empty pixel, counts.
    psf
        The true PSF, pixel included.
    background
        The true background (h, w), counts.
    artifacts
        The true artefacts, with planes COSMIC_RAY, SATURATED, BAD_COLUMN, ...
    light
        The objects' own light with unit flux, one for each row of `table`.
    gain
        Electrons per count.
    """

    visit: int
    detector: int
    band: str
    table: astropy.table.Table
    bbox: Box
    zero_point: float
    noise: float
    psf: PsfStamps | PointSpreadFunction | None = None
    background: np.ndarray | None = None
    artifacts: Mask | None = None
    light: Light | None = None
    gain: float = math.inf

    def __getitem__(self, column: str) -> np.ndarray:
        """Return a column of the table as an array without unit."""
        return np.asarray(self.table[column])

    def __len__(self) -> int:
        return len(self.table)


def image_number(image: Measured | Truth) -> int:
    """Return a number that is different for every image."""
    return image.visit * _DETECTORS + image.detector
