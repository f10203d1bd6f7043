"""The composite galaxy model of one source after the other (spec finalize 8.11)."""

from __future__ import annotations

__all__ = (
    "DEV",
    "EXP",
    "INITIAL",
    "Inputs",
    "Results",
    "StageSettings",
    "cmodel_loop",
    "parameters_of",
)

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from ..pixels import SourcePixels, hide, show
from .mixtures import PixelRegion, fill_offsets
from .optimizer import (
    MAX_INNER,
    MAX_ITERATIONS,
    NUMERIC,
    SMALL_RADIUS,
    Fit,
    OptimizerSettings,
    galaxy_moments,
    minimise,
)
from .priors import PriorSettings, log_prior
from .regions import (
    RegionSettings,
    final_ellipse,
    initial_ellipse,
    is_ellipse,
    select_pixels,
    set_weights,
)

INITIAL, EXP, DEV = 0, 1, 2

FAILED, NO_SHAPE, SMALL_SHAPE, NO_PSF, NO_FLUX = 256, 512, 1024, 2048, 4096
STAGE_FAILED, STAGE_SMALL_RADIUS, STAGE_MAX_ITERATIONS, STAGE_NUMERIC, STAGE_NO_FLUX = 1, 2, 4, 8, 16


class StageSettings(NamedTuple):
    """One stage: profile, size of its half-light radius by moments, weights, prior and optimiser."""

    amplitudes: np.ndarray
    variances: np.ndarray
    moments_radius: float
    pixel_weights: bool
    multiplier: float
    prior: PriorSettings
    optimizer: OptimizerSettings


class Inputs(NamedTuple):
    """What is known of n sources.

    Attributes
    ----------
    x, y
        Centres, parent pixels (n).
    moments, no_shape
        Moments of the shape slot (n, 3), and whether it is not usable (n).
    psf, psf_moments, psf_offset, no_psf
        Components (n, m, `PSF_TERMS`), moments (n, 3) and centre (n, 2) of the PSF, and whether it is not
        usable (n).
    kron_radius, footprint_area
        Pixels and pixels^2 (n); NaN if unknown.
    flux
        Guess, counts (n); not positive if unknown.
    to_sky
        From pixel offsets to arcsec west and north, (n, 2, 2).
    """

    x: np.ndarray
    y: np.ndarray
    moments: np.ndarray
    no_shape: np.ndarray
    psf: np.ndarray
    psf_moments: np.ndarray
    psf_offset: np.ndarray
    no_psf: np.ndarray
    kron_radius: np.ndarray
    footprint_area: np.ndarray
    flux: np.ndarray
    to_sky: np.ndarray


class Results(NamedTuple):
    """What is measured of n sources; NaN and 0 where it was not.

    Attributes
    ----------
    flux, error, inner
        Flux, its error, and the flux within the region (n, 3): of the three stages.
    ellipse, parameters
        Half-light moments, pixel^2 (n, 3, 3), and eta1, eta2, ln radius (n, 3, 3).
    objective, points, work
        Objective at the best fit, number of points tried, and pixels times Gaussians drawn (n, 3).
    stage_bits
        Flags (n, 3).
    composite
        Flux, error, inner flux, fraction of the dev model, objective (n, 5).
    regions
        Initial and final ellipse (n, 2, 3).
    bits
        Flags (n).
    """

    flux: np.ndarray
    error: np.ndarray
    inner: np.ndarray
    ellipse: np.ndarray
    parameters: np.ndarray
    objective: np.ndarray
    points: np.ndarray
    work: np.ndarray
    stage_bits: np.ndarray
    composite: np.ndarray
    regions: np.ndarray
    bits: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def parameters_of(moments: np.ndarray, to_sky: np.ndarray, parameters: np.ndarray) -> None:
    """Fill conformal shear and log trace radius (arcsec) of an ellipse with moments in pixel^2."""
    sky = np.empty(3)
    _transform(to_sky, moments, sky)
    trace = sky[0] + sky[1]
    d1, d2 = (sky[0] - sky[1]) / trace, 2.0 * sky[2] / trace
    d = math.hypot(d1, d2)
    stretch = math.atanh(min(d, 1.0 - 1e-12)) / d if d > 1e-8 else 1.0
    parameters[0], parameters[1] = stretch * d1, stretch * d2
    parameters[2] = 0.5 * math.log(0.5 * trace)


@njit(cache=True, nogil=True)
def _moment_matrix(m: np.ndarray) -> np.ndarray:
    """Return the matrix that moments ``xx, yy, xy`` are to be multiplied with if positions are with ``m``."""
    a, b, c, d = m[0, 0], m[0, 1], m[1, 0], m[1, 1]
    return np.array([[a * a, b * b, 2.0 * a * b], [c * c, d * d, 2.0 * c * d], [a * c, b * d, a * d + b * c]])


@njit(cache=True, nogil=True)
def _transform(matrix: np.ndarray, moments: np.ndarray, result: np.ndarray) -> None:
    factors = _moment_matrix(matrix)
    for i in range(3):
        result[i] = factors[i, 0] * moments[0] + factors[i, 1] * moments[1] + factors[i, 2] * moments[2]


@njit(cache=True, nogil=True, error_model="numpy")
def _inverse(m: np.ndarray) -> np.ndarray:
    det = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    return np.array([[m[1, 1] / det, -m[0, 1] / det], [-m[1, 0] / det, m[0, 0] / det]])


@njit(cache=True, nogil=True)
def _deconvolved(moments: np.ndarray, psf: np.ndarray, least: float, result: np.ndarray) -> bool:
    """Fill moments less those of the PSF, at least some value; return whether that had to be enforced."""
    result[:] = moments - psf
    small = not (result[0] >= least and result[1] >= least)
    result[0], result[1] = max(result[0], least), max(result[1], least)
    if result[2] * result[2] >= result[0] * result[1]:
        result[2] = 0.0
        small = True
    if not is_ellipse(result):
        result[0], result[1], result[2] = least, least, 0.0
        small = True
    return small


@njit(cache=True, nogil=True, error_model="numpy")
def _fluxes(region: PixelRegion, model: np.ndarray, total: float) -> tuple[float, float, float]:
    """Return error of a total flux, flux within the region, and best amplitude of a model of unit flux.

    The fit has equal weights; what it tells of the pixels within the region is scaled to the total.
    """
    m1 = m2 = md = mmv = 0.0
    for k in range(region.counts[1]):
        m = model[k] * region.good[k]
        m1 += m
        m2 += m * m
        md += m * region.data[k]
        mmv += m * m * region.variance[k]
    amplitude = md / m2
    inner = m1 * amplitude
    return math.sqrt(mmv) * m1 / m2 * abs(total / inner), inner, amplitude


@njit(cache=True, nogil=True, error_model="numpy")
def _run_stage(
    stage: StageSettings,
    region: PixelRegion,
    psf: np.ndarray,
    to_pixels: np.ndarray,
    flux_unit: float,
    parameters: np.ndarray,
    results: Results,
    row: int,
    k: int,
) -> tuple[bool, int]:
    """Fit one profile from some parameters, overwritten; return success and the drawing that holds it."""
    fit = Fit(region, psf, stage.amplitudes, stage.variances, to_pixels, flux_unit, stage.prior)
    set_weights(region, stage.pixel_weights, stage.multiplier)
    status, value, points, slot = minimise(fit, stage.optimizer, parameters)
    results.objective[row, k], results.points[row, k] = value, points
    results.work[row, k] = float(points * region.counts[1] * len(stage.amplitudes))
    bits = STAGE_SMALL_RADIUS if status == SMALL_RADIUS else 0
    if status == NUMERIC:
        results.stage_bits[row, k] = STAGE_FAILED | STAGE_NUMERIC
        return False, slot
    if status in (MAX_ITERATIONS, MAX_INNER):
        bits |= STAGE_FAILED | STAGE_MAX_ITERATIONS
    model = region.models[slot, 0]
    flux = parameters[3] * fit.flux_unit
    error, inner, amplitude = _fluxes(region, model, flux)
    if stage.pixel_weights:
        error *= abs(amplitude / flux)
        flux = amplitude
    if inner == 0.0:
        bits |= STAGE_FAILED | STAGE_NO_FLUX
    elif not (np.isfinite(flux) and np.isfinite(error)):
        bits |= STAGE_FAILED | STAGE_NUMERIC
    results.flux[row, k], results.error[row, k], results.inner[row, k] = flux, error, inner
    galaxy_moments(parameters, fit.to_pixels, results.ellipse[row, k], np.empty((3, 3)))
    results.parameters[row, k] = parameters[:3]
    results.stage_bits[row, k] = bits
    return bits & STAGE_FAILED == 0, slot


@njit(cache=True, nogil=True, error_model="numpy")
def _mixture_amplitudes(region: PixelRegion, exp: np.ndarray, dev: np.ndarray) -> tuple[float, float]:
    """Return the amplitudes, none negative, with which two models fit the pixels best with equal weights."""
    ee = ed = dd = e = d = 0.0
    for k in range(region.counts[1]):
        p, q = exp[k] * region.good[k], dev[k] * region.good[k]
        ee += p * p
        ed += p * q
        dd += q * q
        e += p * region.data[k]
        d += q * region.data[k]
    det = ee * dd - ed * ed
    if det > 1e-12 * ee * dd:
        a, b = (dd * e - ed * d) / det, (ee * d - ed * e) / det
        if a >= 0.0 and b >= 0.0:
            return a, b
    a, b = max(e / ee, 0.0), max(d / dd, 0.0)
    if a * e >= b * d:
        return a, 0.0
    return 0.0, b


@njit(cache=True, nogil=True, error_model="numpy")
def _combine(region: PixelRegion, exp: np.ndarray, dev: np.ndarray, composite: np.ndarray) -> None:
    """Fill flux, error, inner flux, fraction and objective of the best sum of two models of unit flux."""
    a, b = _mixture_amplitudes(region, exp, dev)
    flux = a + b
    composite[0] = flux
    if not flux > 0.0:
        composite[2] = 0.0
        return
    chi2 = 0.0
    for k in range(region.counts[1]):
        model = a * exp[k] + b * dev[k]
        chi2 += region.good[k] * (model - region.data[k]) ** 2
        exp[k] = model / flux
    error, inner, _ = _fluxes(region, exp, flux)
    composite[1], composite[2], composite[3], composite[4] = error, inner, b / flux, 0.5 * chi2


@njit(cache=True, nogil=True, error_model="numpy")
def _guess_flux(region: PixelRegion, flux: float) -> float:
    """Return a guess of the flux, or if it is not positive, the sum of the pixels or its noise."""
    if flux > 0.0:
        return flux
    total = variance = 0.0
    for k in range(region.counts[1]):
        total += region.data[k]
        variance += region.variance[k]
    return max(total, math.sqrt(variance))


@njit(cache=True, nogil=True, error_model="numpy")
def _start_parameters(
    stage: StageSettings,
    moments: np.ndarray,
    psf_moments: np.ndarray,
    min_radius: float,
    to_sky: np.ndarray,
    start: np.ndarray,
) -> bool:
    """Fill the parameters to start from; return whether the source is hardly larger than the PSF."""
    guess = np.empty(3)
    small = _deconvolved(moments, psf_moments, min_radius**2, guess)
    start[3] = 1.0
    parameters_of(guess / stage.moments_radius**2, to_sky, start)
    if not np.isfinite(log_prior(stage.prior, start, np.empty(4), np.empty((4, 4)))):
        start[0], start[1], start[2] = 0.0, 0.0, math.log(min_radius)
    return small


@njit(cache=True, nogil=True, error_model="numpy")
def _measure(
    pixels: SourcePixels,
    bad: np.ndarray,
    settings: RegionSettings,
    min_radius: float,
    psf_factor: float,
    stages: tuple[StageSettings, StageSettings, StageSettings],
    inputs: Inputs,
    region: PixelRegion,
    results: Results,
    row: int,
) -> int:
    """Measure one source, whose pixels are shown; return its flags."""
    psf_moments, bits = inputs.psf_moments[row], FAILED
    moments = inputs.moments[row].copy()
    if inputs.no_shape[row]:
        moments[:] = psf_moments * psf_factor**2
        bits |= NO_SHAPE
    initial, final = results.regions[row, 0], results.regions[row, 1]
    bits |= initial_ellipse(
        settings, moments, psf_moments, inputs.kron_radius[row], inputs.footprint_area[row], initial
    )
    x, y = inputs.x[row], inputs.y[row]
    problem = select_pixels(pixels, bad, settings, x, y, initial, region)
    if problem:
        return bits | problem
    to_sky = inputs.to_sky[row]
    to_pixels = _moment_matrix(_inverse(to_sky))
    flux_unit = _guess_flux(region, inputs.flux[row])
    centre_x, centre_y = x - inputs.psf_offset[row, 0], y - inputs.psf_offset[row, 1]
    start = np.empty(4)
    if _start_parameters(stages[0], moments, psf_moments, min_radius, to_sky, start):
        bits |= SMALL_SHAPE
    fill_offsets(region, centre_x, centre_y)
    ok, _ = _run_stage(stages[0], region, inputs.psf[row], to_pixels, flux_unit, start, results, row, INITIAL)
    if not ok:
        return bits
    bits |= final_ellipse(settings, results.ellipse[row, INITIAL], psf_moments, initial, final)
    problem = select_pixels(pixels, bad, settings, x, y, final, region)
    if problem:
        return bits | problem
    fill_offsets(region, centre_x, centre_y)
    ok, slot = True, 0
    for k in range(EXP, DEV + 1):
        fitted, slot = _run_stage(
            stages[k], region, inputs.psf[row], to_pixels, flux_unit, start.copy(), results, row, k
        )
        ok = ok and fitted
        if k == EXP:
            region.kept[: region.counts[1]] = region.models[slot, 0, : region.counts[1]]
    if not ok:
        return bits
    _combine(region, region.kept, region.models[slot, 0], results.composite[row])
    if results.composite[row, 2] == 0.0:
        return bits | NO_FLUX
    return bits & ~FAILED if np.isfinite(results.composite[row]).all() else bits


@njit(cache=True, nogil=True, error_model="numpy")
def cmodel_loop(
    pixels: SourcePixels,
    bad: np.ndarray,
    settings: RegionSettings,
    min_radius: float,
    psf_factor: float,
    stages: tuple[StageSettings, StageSettings, StageSettings],
    inputs: Inputs,
    region: PixelRegion,
    results: Results,
) -> None:
    """Fit the galaxy models to every source.

    Parameters
    ----------
    pixels
        Working image and own pixels of the sources.
    bad
        Pixels not to fit to, bool (h, w).
    settings
        How regions are chosen.
    min_radius
        Least radius to start from, pixels (and arcsec, where the prior allows no other start).
    psf_factor
        Radius to start from where there is no shape, in units of that of the PSF.
    stages
        Initial, exponential and de Vaucouleurs fits.
    inputs
        What is known of the sources.
    region
        Room for pixels and models.
    results
        Filled.
    """
    for row in range(len(inputs.x)):
        if inputs.no_psf[row]:
            results.bits[row] = FAILED | NO_PSF
            continue
        x, y = inputs.x[row], inputs.y[row]
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(inputs.to_sky[row]).all()):
            results.bits[row] = FAILED
            continue
        show(pixels, row)
        results.bits[row] = _measure(
            pixels, bad, settings, min_radius, psf_factor, stages, inputs, region, results, row
        )
        hide(pixels, row)
