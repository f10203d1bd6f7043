"""Fits of PSF stamps by two shapelet expansions with one ellipse in two sizes (spec finalize 8.10)."""

from __future__ import annotations

__all__ = (
    "FITTED",
    "INVALID_MOMENTS",
    "INVALID_POINT",
    "MAX_ITERATIONS",
    "ROUNDING",
    "DoubleShapeletSettings",
    "double_shapelet_loop",
    "next_trust",
    "profile_objective",
)

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from .optimizer import OptimizerSettings, predicted_decrease, trust_step
from .shapelets import MAX_ORDER, fill_basis, term_count
from .stamps import (
    Scratch,
    dot,
    load_stamp,
    make_scratch,
    repeated,
    shift_origin,
    solve_least_squares,
)

FITTED, INVALID_POINT, INVALID_MOMENTS, MAX_ITERATIONS = range(4)

_ROWS = (MAX_ORDER + 1) * (MAX_ORDER + 2)
ROUNDING = 1e-14
"""Part of the sum of squares of a stamp below which a change of the objective is rounding."""
_AT_WALL = 1e-12
"""Distance to a limit of the radii below which there is no room."""


class DoubleShapeletSettings(NamedTuple):
    """Settings of `double_shapelet_loop`; radii are in pixels."""

    inner_order: int
    outer_order: int
    radius_ratio: float
    peak_ratio: float
    min_radius: float
    min_radius_diff: float
    max_radius_fraction: float
    optimizer: OptimizerSettings


@njit(cache=True, nogil=True, error_model="numpy")
def _start(moments: np.ndarray, settings: DoubleShapeletSettings, area: int, radii: np.ndarray) -> bool:
    """Fill the radii at which two Gaussians have the moments of the stamp; return whether that is usable.

    Radii are relative to the ellipse of the moments.  ``moments`` (6) are as `load_stamp` gives them, and
    ``area`` is the number of pixels.  The shares of the flux follow from the ratio of the peaks.
    """
    flux, xx, yy, xy = moments[0], moments[3], moments[4], moments[5]
    det = xx * yy - xy * xy
    if not (flux > 0.0 and xx > 0.0 and yy > 0.0 and det > 0.0 and np.isfinite(flux + xx + yy)):
        return False
    ratio = settings.radius_ratio
    outer_flux = settings.peak_ratio * ratio * ratio
    radii[0] = math.sqrt((1.0 + outer_flux) / (1.0 + outer_flux * ratio * ratio))
    radii[1] = radii[0] * ratio
    least, most, difference = _limits(moments, settings, area)
    return bool(radii[0] >= least and radii[1] <= most and radii[1] - radii[0] >= difference)


@njit(cache=True, nogil=True, error_model="numpy")
def _limits(moments: np.ndarray, settings: DoubleShapeletSettings, area: int) -> tuple[float, float, float]:
    """Return the least inner and the largest outer radius and the least difference, relative as `_start`."""
    xx, yy, xy = moments[3], moments[4], moments[5]
    t = math.hypot(xx - yy, 2.0 * xy)
    major = math.sqrt(0.5 * (xx + yy + t))
    size = math.sqrt(math.sqrt(xx * yy - xy * xy))
    minor = size * size / major
    return (
        settings.min_radius / minor,
        settings.max_radius_fraction * math.sqrt(area) / major,
        settings.min_radius_diff / size,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_profile(scratch: Scratch, norm: float, radius: float, rows: np.ndarray) -> None:
    """Fill a Gaussian of some relative radius and, but for powers of it, two derivatives in it, (3, n)."""
    scale = 1.0 / (radius * radius)
    peak = norm * scale
    for k in range(len(scratch.square)):
        rows[0, k] = peak * math.exp(-0.5 * scale * scratch.square[k])
    for k in range(len(scratch.square)):
        u = scale * scratch.square[k]
        rows[1, k] = rows[0, k] * (u - 2.0)
        rows[2, k] = rows[0, k] * ((u - 7.0) * u + 6.0)


@njit(cache=True, nogil=True, error_model="numpy")
def profile_objective(
    scratch: Scratch,
    norm: float,
    radii: np.ndarray,
    amplitudes: np.ndarray,
    gradient: np.ndarray,
    hessian: np.ndarray,
) -> float:
    """Return half the sum of squared residuals of two Gaussians with the best amplitudes for their radii.

    Parameters
    ----------
    scratch
        ``image`` and ``square``; six of the ``rows`` are overwritten.
    norm
        Peak of a Gaussian of radius and amplitude 1.
    radii
        Inner and outer radius relative to the ellipse (2).
    amplitudes
        Filled with the factors of the zeroth basis functions (2).
    gradient, hessian
        Filled with the derivatives in the radii (2), (2, 2), the amplitudes following.
    """
    rows, image = scratch.rows, scratch.image
    a, b, image_a, image_b = np.empty((2, 2)), np.empty((2, 2)), np.empty(2), np.empty(2)
    for i in range(2):
        _fill_profile(scratch, norm, radii[i], rows[3 * i : 3 * i + 3])
        image_a[i], image_b[i] = dot(rows[3 * i], image), dot(rows[3 * i + 1], image)
    ab = np.empty((2, 2))
    for i in range(2):
        for j in range(2):
            ab[i, j] = dot(rows[3 * i], rows[3 * j + 1])
            if j >= i:
                a[i, j] = a[j, i] = dot(rows[3 * i], rows[3 * j])
                b[i, j] = b[j, i] = dot(rows[3 * i + 1], rows[3 * j + 1])
    det = a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0]
    if not det > 0.0:
        return np.inf
    c = amplitudes
    c[0] = (a[1, 1] * image_a[0] - a[0, 1] * image_a[1]) / det
    c[1] = (a[0, 0] * image_a[1] - a[0, 1] * image_a[0]) / det
    mixed = np.empty((2, 2))
    for i in range(2):
        along = c[0] * ab[0, i] + c[1] * ab[1, i] - image_b[i]
        third = rows[3 * i + 2]
        bend = c[0] * dot(rows[0], third) + c[1] * dot(rows[3], third) - dot(third, image)
        gradient[i] = c[i] * along / radii[i]
        hessian[i, i] = c[i] * (c[i] * b[i, i] + bend) / (radii[i] * radii[i])
        mixed[0, i] = c[i] * ab[0, i] / radii[i]
        mixed[1, i] = c[i] * ab[1, i] / radii[i]
        mixed[i, i] += along / radii[i]
    hessian[0, 1] = c[0] * c[1] * b[0, 1] / (radii[0] * radii[1])
    for i in range(2):
        for j in range(i, 2):
            # The amplitudes follow the radii (Schur complement).
            hessian[i, j] -= (
                a[1, 1] * mixed[0, i] * mixed[0, j]
                - a[0, 1] * (mixed[0, i] * mixed[1, j] + mixed[1, i] * mixed[0, j])
                + a[0, 0] * mixed[1, i] * mixed[1, j]
            ) / det
    hessian[1, 0] = hessian[0, 1]
    return float(0.5 * (dot(image, image) - c[0] * image_a[0] - c[1] * image_a[1]))


@njit(cache=True, nogil=True, error_model="numpy")
def _room(radii: np.ndarray, step: np.ndarray, limits: tuple[float, float, float]) -> tuple[float, int]:
    """Return the part of a step that keeps within the limits, and which of them, 0 to 2, ends it; else -1."""
    part, wall = 1.0, -1
    rooms = (radii[0] - limits[0], limits[1] - radii[1], radii[1] - radii[0] - limits[2])
    rates = (-step[0], step[1], step[0] - step[1])
    for k in range(3):
        room = max(rooms[k], 0.0)
        if rates[k] * part > room:
            part, wall = room / rates[k], k
    return part, wall


@njit(cache=True, nogil=True, error_model="numpy")
def _step_along(
    wall: int, gradient: np.ndarray, hessian: np.ndarray, radius: float, step: np.ndarray
) -> None:
    """Fill the best step along a limit of the radii, no longer than a radius."""
    tangent = np.array([0.0, 1.0])
    if wall == 1:
        tangent[0], tangent[1] = 1.0, 0.0
    elif wall == 2:
        tangent[0] = tangent[1] = math.sqrt(0.5)
    slope = curvature = 0.0
    for i in range(2):
        slope += gradient[i] * tangent[i]
        for j in range(2):
            curvature += tangent[i] * hessian[i, j] * tangent[j]
    length = radius
    if curvature > 0.0:
        length = min(radius, abs(slope) / curvature)
    for i in range(2):
        step[i] = -math.copysign(length, slope) * tangent[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _next_step(
    radii: np.ndarray,
    gradient: np.ndarray,
    hessian: np.ndarray,
    limits: tuple[float, float, float],
    trust: float,
    tolerance: float,
    step: np.ndarray,
) -> float:
    """Fill the best step within the limits; return which part of it there is room for.

    From a limit that the step would cross it goes along that limit.
    """
    trust_step(gradient, hessian, trust, tolerance, step)
    part, wall = _room(radii, step, limits)
    if wall >= 0 and part * math.hypot(step[0], step[1]) <= _AT_WALL:
        _step_along(wall, gradient, hessian, trust, step)
        part, other = _room(radii, step, limits)
        if other >= 0 and part * math.hypot(step[0], step[1]) <= _AT_WALL:
            step[:] = 0.0
            part = 1.0
    return part


@njit(cache=True, nogil=True, error_model="numpy")
def next_trust(settings: OptimizerSettings, trust: float, ratio: float, length: float) -> float:
    """Return the radius of the trust region after a step of some length was taken.

    ``ratio`` is that of the actual to the predicted decrease.
    """
    if ratio < settings.shrink_ratio:
        return trust * settings.shrink
    if ratio > settings.grow_ratio and length > settings.grow_step * trust:
        return trust * settings.grow
    return trust


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_profile(
    scratch: Scratch,
    norm: float,
    limits: tuple[float, float, float],
    settings: OptimizerSettings,
    radii: np.ndarray,
    amplitudes: np.ndarray,
) -> int:
    """Fit radii (2), which are overwritten, and amplitudes (2) of two Gaussians; return `FITTED` or why not.

    Only the radii are searched for: the best amplitudes for them are known.  The fit ends where the next
    step would lower the objective by less than the square of ``gradient_threshold`` of it.
    """
    gradient, hessian, step = np.empty(2), np.empty((2, 2)), np.empty(2)
    new_gradient, new_hessian, new_amplitudes = np.empty(2), np.empty((2, 2)), np.empty(2)
    value = profile_objective(scratch, norm, radii, amplitudes, gradient, hessian)
    if not np.isfinite(value):
        return INVALID_MOMENTS
    rounding = ROUNDING * dot(scratch.image, scratch.image)
    trust, rejected = settings.initial_radius, 0
    for _ in range(settings.max_outer):
        while True:
            part = _next_step(radii, gradient, hessian, limits, trust, settings.tolerance, step)
            goal = max(settings.gradient_threshold**2 * value, rounding)
            if not predicted_decrease(gradient, hessian, step) > goal or trust <= settings.min_radius:
                return FITTED
            step *= part
            trial = radii + step
            new = profile_objective(scratch, norm, trial, new_amplitudes, new_gradient, new_hessian)
            ratio = (value - new) / predicted_decrease(gradient, hessian, step)
            length = math.hypot(step[0], step[1])
            if ratio > settings.accept and new < value:
                break
            trust = settings.shrink * min(trust, length)
            rejected += 1
            if rejected >= settings.max_inner:
                return MAX_ITERATIONS
        trust = next_trust(settings, trust, ratio, length)
        value, rejected = new, 0
        radii[:], amplitudes[:] = trial, new_amplitudes
        gradient[:], hessian[:] = new_gradient, new_hessian
    return MAX_ITERATIONS


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_shapelets(
    scratch: Scratch, settings: DoubleShapeletSettings, ellipses: np.ndarray, coefficients: np.ndarray
) -> None:
    """Fit the higher terms on two ellipses (2, 3), whose zeroth terms are in ``coefficients`` (2, m)."""
    orders = (settings.inner_order, settings.outer_order)
    split = term_count(orders[0]) - 1
    end = split + term_count(orders[1])
    rows, residual = scratch.rows, scratch.residual
    residual[:] = scratch.image
    # The outer zeroth image is in the way of the last inner one, and not needed by then.
    for i, first in ((1, split), (0, 0)):
        e = ellipses[i]
        fill_basis(orders[i], e[0], e[1], e[2], scratch.dx, scratch.dy, rows[first:])
        residual -= coefficients[i, 0] * rows[first]
    solution = np.empty(end - 1)
    solve_least_squares(rows[1:end], residual, solution)
    coefficients[0, 1 : split + 1] = solution[:split]
    coefficients[1, 1 : end - split] = solution[split:]


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_stamp(
    stamp: np.ndarray,
    settings: DoubleShapeletSettings,
    scratch: Scratch,
    centre: np.ndarray,
    ellipses: np.ndarray,
    coefficients: np.ndarray,
) -> int:
    """Fit one stamp (h, w); the last three are filled, see `double_shapelet_loop`."""
    if np.isnan(stamp[0, 0]):
        return INVALID_POINT
    moments, radii, amplitudes = np.empty(6), np.empty(2), np.empty(2)
    load_stamp(stamp, scratch, moments)
    if not _start(moments, settings, stamp.size, radii):
        return INVALID_MOMENTS
    shift_origin(scratch, moments[1], moments[2])
    xx, yy, xy = moments[3], moments[4], moments[5]
    det = xx * yy - xy * xy
    for k in range(stamp.size):
        dx, dy = scratch.dx[k], scratch.dy[k]
        scratch.square[k] = (yy * dx * dx - 2.0 * xy * dx * dy + xx * dy * dy) / det
    norm = 1.0 / math.sqrt(math.pi * det)
    limits = _limits(moments, settings, stamp.size)
    status = _fit_profile(scratch, norm, limits, settings.optimizer, radii, amplitudes)
    if status == INVALID_MOMENTS:
        return status
    centre[:] = moments[1:3]
    for i in range(2):
        ellipses[i] = radii[i] * radii[i] * moments[3:]
        coefficients[i, 0] = amplitudes[i]
    _fit_shapelets(scratch, settings, ellipses, coefficients)
    return status


@njit(cache=True, nogil=True, error_model="numpy")
def double_shapelet_loop(
    stamps: np.ndarray,
    settings: DoubleShapeletSettings,
    centres: np.ndarray,
    ellipses: np.ndarray,
    coefficients: np.ndarray,
    codes: np.ndarray,
) -> None:
    """Fit each of n stamps afresh by an inner and an outer expansion about the same centre.

    Parameters
    ----------
    stamps
        PSF kernel images (n, h, w); NaN where there is none.
    settings
        What to fit.
    centres
        Filled with x and y of the centroids, pixels from the pixel [h // 2, w // 2], (n, 2).
    ellipses
        Filled with the moments ``xx, yy, xy`` of the ellipses, pixel^2 (n, 2, 3).
    coefficients
        Filled with the factors of the basis functions, (n, 2, m).
    codes
        Filled with `FITTED`, `INVALID_POINT`, `INVALID_MOMENTS` (for both the other columns are left as they
        are) or `MAX_ITERATIONS`, (n).
    """
    scratch = make_scratch(stamps.shape[1] * stamps.shape[2], _ROWS)
    for row in range(len(stamps)):
        if repeated(stamps, row):
            centres[row], ellipses[row] = centres[row - 1], ellipses[row - 1]
            coefficients[row], codes[row] = coefficients[row - 1], codes[row - 1]
        else:
            codes[row] = _fit_stamp(
                stamps[row], settings, scratch, centres[row], ellipses[row], coefficients[row]
            )
