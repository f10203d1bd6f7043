"""Fits of PSF stamps by any number of shapelet expansions, each on an ellipse of its own."""

from __future__ import annotations

__all__ = ("ELLIPSE_PARAMETERS", "GeneralShapeletSettings", "general_shapelet_loop")

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from .double_fit import (
    FITTED,
    INVALID_MOMENTS,
    INVALID_POINT,
    MAX_ITERATIONS,
    ROUNDING,
    next_trust,
)
from .optimizer import OptimizerSettings, galaxy_moments, predicted_decrease, trust_step
from .shapelets import MAX_ORDER, fill_basis, term_count
from .stamps import Scratch, dot, load_stamp, make_scratch, repeated, solve_least_squares

ELLIPSE_PARAMETERS = 5
"""Parameters of an ellipse: x and y, pixels; conformal shear eta1, eta2; logarithm of the trace radius."""

_STEP = 1e-6
"""Step of the numerical derivatives; the parameters that it is added to are of order 1."""
_WIDEST = 20.0
"""Largest absolute value of a parameter, to keep exponentials finite."""


class GeneralShapeletSettings(NamedTuple):
    """Settings of `general_shapelet_loop`.

    Attributes
    ----------
    orders
        Orders of the expansions (m).
    sigmas
        Widths of the Gaussian priors of the parameters about their start, (m, 5).
    noise
        Noise of a pixel, in units of the flux of the PSF, that sets data against priors.
    optimizer
        How the parameters are searched for.
    """

    orders: np.ndarray
    sigmas: np.ndarray
    noise: float
    optimizer: OptimizerSettings


class _Images(NamedTuple):
    """Basis functions of all expansions (t, n), room for those of one (r, n), and slopes (5 m, n)."""

    basis: np.ndarray
    shifted: np.ndarray
    slopes: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_component(order: int, p: np.ndarray, scratch: Scratch, rows: np.ndarray) -> None:
    """Fill the basis functions of one expansion whose ellipse has the parameters ``p`` (5)."""
    moments, unused = np.empty(3), np.empty((3, 3))
    galaxy_moments(p[2:], np.eye(3), moments, unused)
    fill_basis(order, moments[0], moments[1], moments[2], scratch.dx - p[0], scratch.dy - p[1], rows)


@njit(cache=True, nogil=True, error_model="numpy")
def _objective(
    settings: GeneralShapeletSettings,
    scratch: Scratch,
    images: _Images,
    start: np.ndarray,
    parameters: np.ndarray,
    coefficients: np.ndarray,
) -> float:
    """Return half of chi2 and the prior's share with the best coefficients (t), which are filled.

    Left behind are the basis functions and, in ``scratch.residual``, data less model.
    """
    if not np.abs(parameters).max() < _WIDEST:
        return np.inf
    first = 0
    for i, order in enumerate(settings.orders):
        _fill_component(order, parameters[i], scratch, images.basis[first:])
        first += term_count(order)
    solve_least_squares(images.basis, scratch.image, coefficients)
    scratch.residual[:] = scratch.image
    for k in range(first):
        scratch.residual[:] -= coefficients[k] * images.basis[k]
    prior = (((parameters - start) / settings.sigmas) ** 2).sum()
    return float(0.5 * (dot(scratch.residual, scratch.residual) / settings.noise**2 + prior))


@njit(cache=True, nogil=True, error_model="numpy")
def _derivatives(
    settings: GeneralShapeletSettings,
    scratch: Scratch,
    images: _Images,
    start: np.ndarray,
    parameters: np.ndarray,
    coefficients: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return gradient (5 m) and Gauss-Newton Hessian (5 m, 5 m) where `_objective` was last worked out.

    The coefficients follow the parameters (variable projection).
    """
    basis, slopes = images.basis, images.slopes
    slopes[:] = 0.0
    first = 0
    for i, order in enumerate(settings.orders):
        count = term_count(order)
        for j in range(ELLIPSE_PARAMETERS):
            moved = parameters[i].copy()
            moved[j] += _STEP
            _fill_component(order, moved, scratch, images.shifted)
            row = slopes[i * ELLIPSE_PARAMETERS + j]
            for k in range(count):
                row += (coefficients[first + k] / _STEP) * (images.shifted[k] - basis[first + k])
        first += count
    weight = 1.0 / settings.noise**2
    mixed = slopes @ basis.T
    hessian = weight * (slopes @ slopes.T - mixed @ np.linalg.pinv(basis @ basis.T) @ mixed.T)
    gradient = -weight * (slopes @ scratch.residual)
    precision = 1.0 / (settings.sigmas * settings.sigmas).ravel()
    gradient += precision * (parameters - start).ravel()
    for k in range(len(precision)):
        hessian[k, k] += precision[k]
    return gradient, hessian


@njit(cache=True, nogil=True, error_model="numpy")
def _minimise(
    settings: GeneralShapeletSettings,
    scratch: Scratch,
    images: _Images,
    start: np.ndarray,
    parameters: np.ndarray,
    coefficients: np.ndarray,
) -> int:
    """Search from ``start`` (m, 5); fill parameters (m, 5) and coefficients (t); return the code."""
    optimizer = settings.optimizer
    parameters[:] = start
    trial_coefficients, step = np.empty(len(coefficients)), np.empty(start.size)
    value = _objective(settings, scratch, images, start, parameters, coefficients)
    if not np.isfinite(value):
        return INVALID_MOMENTS
    rounding = ROUNDING * dot(scratch.image, scratch.image) / settings.noise**2
    trust, rejected = optimizer.initial_radius, 0
    gradient, hessian = _derivatives(settings, scratch, images, start, parameters, coefficients)
    for _ in range(optimizer.max_outer):
        while True:
            trust_step(gradient, hessian, trust, optimizer.tolerance, step)
            predicted = predicted_decrease(gradient, hessian, step)
            goal = max(optimizer.gradient_threshold**2 * value, rounding)
            if not predicted > goal or trust <= optimizer.min_radius:
                return FITTED
            trial = parameters + step.reshape(parameters.shape)
            new = _objective(settings, scratch, images, start, trial, trial_coefficients)
            ratio, length = (value - new) / predicted, math.sqrt(dot(step, step))
            if ratio > optimizer.accept and new < value:
                break
            trust = optimizer.shrink * min(trust, length)
            rejected += 1
            if rejected >= optimizer.max_inner:
                return MAX_ITERATIONS
        trust = next_trust(optimizer, trust, ratio, length)
        value, rejected = new, 0
        parameters[:], coefficients[:] = trial, trial_coefficients
        gradient, hessian = _derivatives(settings, scratch, images, start, parameters, coefficients)
    return MAX_ITERATIONS


@njit(cache=True, nogil=True, error_model="numpy")
def general_shapelet_loop(
    stamps: np.ndarray,
    settings: GeneralShapeletSettings,
    starts: np.ndarray,
    centres: np.ndarray,
    ellipses: np.ndarray,
    coefficients: np.ndarray,
    codes: np.ndarray,
) -> None:
    """Fit each of n stamps by m expansions with priors on their ellipses.

    Parameters
    ----------
    stamps
        PSF kernel images (n, h, w); NaN where there is none.
    settings
        What to fit.
    starts
        Parameters of the ellipses, see `ELLIPSE_PARAMETERS`, where the fits start and priors are centred,
        (n, m, 5); NaN if not known.
    centres, ellipses
        Filled with x and y, pixels from the pixel [h // 2, w // 2], (n, m, 2), and moments ``xx, yy, xy``,
        pixel^2 (n, m, 3).
    coefficients
        Filled with the factors of the basis functions, expansion after expansion, (n, t).
    codes
        Filled with a code of `double_fit`; the other columns are left as they are for all but
        `FITTED` and `MAX_ITERATIONS`, (n).
    """
    pixels, m = stamps.shape[1] * stamps.shape[2], len(settings.orders)
    scratch, images = (
        make_scratch(pixels, 0),
        _Images(
            np.empty((coefficients.shape[1], pixels)),
            np.empty((term_count(MAX_ORDER), pixels)),
            np.empty((m * ELLIPSE_PARAMETERS, pixels)),
        ),
    )
    parameters, found = np.empty((m, ELLIPSE_PARAMETERS)), np.empty(coefficients.shape[1])
    stamp_moments, moments, unused = np.empty(6), np.empty(3), np.empty((3, 3))
    for row in range(len(stamps)):
        if repeated(stamps, row) and (starts[row] == starts[row - 1]).all():
            centres[row], ellipses[row] = centres[row - 1], ellipses[row - 1]
            coefficients[row], codes[row] = coefficients[row - 1], codes[row - 1]
            continue
        if np.isnan(stamps[row, 0, 0]):
            codes[row] = INVALID_POINT
            continue
        load_stamp(stamps[row], scratch, stamp_moments)
        codes[row] = INVALID_MOMENTS
        if stamp_moments[0] > 0.0 and np.isfinite(starts[row]).all():
            codes[row] = _minimise(settings, scratch, images, starts[row], parameters, found)
        if codes[row] == INVALID_MOMENTS:
            continue
        coefficients[row] = found
        for i in range(m):
            galaxy_moments(parameters[i, 2:], np.eye(3), moments, unused)
            centres[row, i], ellipses[row, i] = parameters[i, :2], moments
