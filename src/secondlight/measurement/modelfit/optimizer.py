"""Trust-region fit of a galaxy model to the pixels of one source (spec finalize 9.7).

The objective is half the sum of the squared weighted residuals less the logarithm of the prior.  Its Hessian
is that of Gauss and Newton and of the prior, with a symmetric rank-one (SR1) estimate of the rest.
"""

from __future__ import annotations

__all__ = (
    "CONVERGED",
    "MAX_INNER",
    "MAX_ITERATIONS",
    "NUMERIC",
    "SMALL_RADIUS",
    "Fit",
    "OptimizerSettings",
    "galaxy_moments",
    "minimise",
    "objective",
    "predicted_decrease",
    "trust_step",
)

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from .mixtures import PixelRegion, draw_mixture
from .priors import PriorSettings, heed_prior, log_prior

CONVERGED, SMALL_RADIUS, MAX_ITERATIONS, MAX_INNER, NUMERIC = 0, 1, 2, 3, 4

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_MAX_LOG_RADIUS = 50.0
_ROUNDING = 1e-12
"""Smallest relative decrease of the objective that can be told from rounding."""


class OptimizerSettings(NamedTuple):
    """Settings of `minimise`, named in spec finalize 9.7."""

    gradient_threshold: float
    min_radius: float
    min_decrease: float
    initial_radius: float
    accept: float
    grow_ratio: float
    grow_step: float
    grow: float
    shrink_ratio: float
    shrink: float
    tolerance: float
    max_inner: int
    max_outer: int
    use_sr1: bool
    skip_sr1: float


class Fit(NamedTuple):
    """What a model is fitted to.

    Attributes
    ----------
    region
        Pixels, with offsets from the fitted centre, weights, and room for drawings.
    psf
        Components of the PSF, see `draw_mixture`.
    amplitudes, variances
        Mixture of Gaussians of the profile.
    to_pixels
        Moments ``xx, yy, xy`` in pixel^2 from those in arcsec^2, (3, 3).
    flux_unit
        Flux of amplitude 1, counts.
    prior
        Prior of the parameters.
    """

    region: PixelRegion
    psf: np.ndarray
    amplitudes: np.ndarray
    variances: np.ndarray
    to_pixels: np.ndarray
    flux_unit: float
    prior: PriorSettings


@njit(cache=True, nogil=True, error_model="numpy")
def galaxy_moments(
    parameters: np.ndarray, to_pixels: np.ndarray, moments: np.ndarray, slopes: np.ndarray
) -> None:
    """Work out the moments of the half-light ellipse, pixel^2.

    Parameters
    ----------
    parameters
        Conformal shear eta1 and eta2, logarithm of the trace radius in arcsec, amplitude.
    to_pixels
        See `Fit`.
    moments
        Filled with ``xx, yy, xy`` (3).
    slopes
        Filled with their derivatives with respect to the first three parameters, (3, 3).
    """
    e1, e2 = parameters[0], parameters[1]
    eta = math.hypot(e1, e2)
    if eta > 1e-4:
        t = math.tanh(eta)
        f = t / eta
        bend = (1.0 - t * t - f) / (eta * eta)
    else:
        f, bend = 1.0 - eta * eta / 3.0, -2.0 / 3.0
    square = math.exp(2.0 * parameters[2])
    d1, d2 = f * e1, f * e2
    d11, d12, d22 = f + bend * e1 * e1, bend * e1 * e2, f + bend * e2 * e2
    for i in range(3):
        plus, minus, cross = to_pixels[i, 0], to_pixels[i, 1], to_pixels[i, 2]
        moments[i] = square * (plus * (1.0 + d1) + minus * (1.0 - d1) + cross * d2)
        slopes[i, 0] = square * ((plus - minus) * d11 + cross * d12)
        slopes[i, 1] = square * ((plus - minus) * d12 + cross * d22)
        slopes[i, 2] = 2.0 * moments[i]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _residual_sums(
    region: PixelRegion, slot: int, slopes_slot: int, flux: float, jtr: np.ndarray, jtj: np.ndarray
) -> float:
    """Return the sum of squared weighted residuals of a drawing, for a model of some flux.

    ``jtr`` (4) is filled with the sums of residuals times the four images of another drawing, ``jtj`` (4, 4)
    with those of the products of these images; everything is weighted.
    """
    n = region.counts[1]
    data, weight, model = region.data[:n], region.weight[:n], region.models[slot, 0, :n]
    p, q, r, s = (
        region.models[slopes_slot, 0, :n],
        region.models[slopes_slot, 1, :n],
        region.models[slopes_slot, 2, :n],
        region.models[slopes_slot, 3, :n],
    )
    chi2 = pe = qe = re = se = 0.0
    pp = pq = pr = ps = qq = qr = qs = rr = rs = ss = 0.0
    for k in range(n):
        w = weight[k]
        e, a, b, c, d = (flux * model[k] - data[k]) * w, p[k] * w, q[k] * w, r[k] * w, s[k] * w
        chi2 += e * e
        pe += a * e
        qe += b * e
        re += c * e
        se += d * e
        pp += a * a
        pq += a * b
        pr += a * c
        ps += a * d
        qq += b * b
        qr += b * c
        qs += b * d
        rr += c * c
        rs += c * d
        ss += d * d
    jtr[0], jtr[1], jtr[2], jtr[3] = pe, qe, re, se
    jtj[0, 0], jtj[1, 1], jtj[2, 2], jtj[3, 3] = pp, qq, rr, ss
    jtj[0, 1] = jtj[1, 0] = pq
    jtj[0, 2] = jtj[2, 0] = pr
    jtj[0, 3] = jtj[3, 0] = ps
    jtj[1, 2] = jtj[2, 1] = qr
    jtj[1, 3] = jtj[3, 1] = qs
    jtj[2, 3] = jtj[3, 2] = rs
    return chi2


@njit(cache=True, nogil=True)
def _chain(slopes: np.ndarray, amplitude: float, unit: float, chain: np.ndarray) -> None:
    """Fill the derivatives of the four images' coefficients with respect to the parameters, (4, 4)."""
    chain[:] = 0.0
    chain[0, 3] = unit
    for i in range(3):
        for j in range(3):
            chain[1 + i, j] = unit * amplitude * slopes[i, j]


@njit(cache=True, nogil=True)
def _transpose_times(chain: np.ndarray, vector: np.ndarray, result: np.ndarray) -> None:
    for i in range(4):
        total = 0.0
        for j in range(4):
            total += chain[j, i] * vector[j]
        result[i] = total


@njit(cache=True, nogil=True, error_model="numpy")
def objective(
    fit: Fit,
    slot: int,
    parameters: np.ndarray,
    gradient: np.ndarray,
    hessian: np.ndarray,
    jtr: np.ndarray,
    chain: np.ndarray,
) -> float:
    """Return the objective at some parameters, infinite where the prior is 0.

    Parameters
    ----------
    fit
        What is fitted to what.
    slot
        Drawing to overwrite.
    parameters
        eta1, eta2, ln radius, amplitude (4).
    gradient, hessian
        Filled with the gradient (4) and the Hessian without second derivatives of the model (4, 4).
    jtr
        Filled with the part of the gradient that comes from the residuals (4).
    chain
        Filled with the matrix from the drawing to the Jacobian (4, 4).
    """
    prior_gradient, prior_hessian = np.empty(4), np.empty((4, 4))
    prior = log_prior(fit.prior, parameters, prior_gradient, prior_hessian)
    if not np.isfinite(prior) or abs(parameters[2]) > _MAX_LOG_RADIUS:
        return np.inf
    moments, slopes = np.empty(3), np.empty((3, 3))
    galaxy_moments(parameters, fit.to_pixels, moments, slopes)
    draw_mixture(fit.region, slot, fit.psf, fit.amplitudes, fit.variances, moments[0], moments[1], moments[2])
    sums, products = np.empty(4), np.empty((4, 4))
    chi2 = _residual_sums(fit.region, slot, slot, parameters[3] * fit.flux_unit, sums, products)
    _chain(slopes, parameters[3], fit.flux_unit, chain)
    _transpose_times(chain, sums, jtr)
    half = np.empty(4)
    for i in range(4):
        gradient[i] = jtr[i] - prior_gradient[i]
        _transpose_times(chain, products[i], half)
        for j in range(4):
            products[i, j] = half[j]
    for j in range(4):
        _transpose_times(chain, np.ascontiguousarray(products[:, j]), half)
        for i in range(4):
            hessian[i, j] = half[i] - prior_hessian[i, j]
    return 0.5 * chi2 - prior


@njit(cache=True, nogil=True, error_model="numpy")
def _eigen(matrix: np.ndarray, vectors: np.ndarray) -> None:
    """Turn a symmetric matrix into its eigenvalues on the diagonal by Jacobi rotations; fill the vectors."""
    n = len(matrix)
    vectors[:] = np.eye(n)
    for _ in range(30):
        off = scale = 0.0
        for i in range(n):
            scale += abs(matrix[i, i])
            for j in range(i):
                off += abs(matrix[i, j])
        if not off > 1e-15 * scale:
            return
        for i in range(1, n):
            for j in range(i):
                if matrix[i, j] != 0.0:
                    _rotate(matrix, vectors, i, j)


@njit(cache=True, nogil=True, error_model="numpy")
def _rotate(matrix: np.ndarray, vectors: np.ndarray, i: int, j: int) -> None:
    """Make the element (i, j) zero."""
    theta = (matrix[j, j] - matrix[i, i]) / (2.0 * matrix[i, j])
    t = 1.0 / (abs(theta) + math.hypot(theta, 1.0))
    if theta < 0.0:
        t = -t
    c = 1.0 / math.sqrt(1.0 + t * t)
    s = t * c
    for k in range(len(matrix)):
        a, b = matrix[k, i], matrix[k, j]
        matrix[k, i], matrix[k, j] = c * a - s * b, s * a + c * b
    for k in range(len(matrix)):
        a, b = matrix[i, k], matrix[j, k]
        matrix[i, k], matrix[j, k] = c * a - s * b, s * a + c * b
    for k in range(len(matrix)):
        a, b = vectors[k, i], vectors[k, j]
        vectors[k, i], vectors[k, j] = c * a - s * b, s * a + c * b


@njit(cache=True, nogil=True, error_model="numpy")
def trust_step(
    gradient: np.ndarray, hessian: np.ndarray, radius: float, tolerance: float, step: np.ndarray
) -> None:
    """Fill the step that minimises ``g.s + s.H.s / 2`` within a radius.

    Newton's method for the multiplier on ``1 / radius - 1 / |s|``, in the frame of the eigenvectors; where
    the gradient has no part along the lowest one (the "hard case"), a move along it reaches the radius.
    """
    n = len(gradient)
    work, vectors = hessian.copy(), np.empty((n, n))
    _eigen(work, vectors)
    values, slopes = np.empty(n), np.empty(n)
    lowest = 0
    for k in range(n):
        values[k] = work[k, k]
        slopes[k] = 0.0
        for i in range(n):
            slopes[k] += vectors[i, k] * gradient[i]
        if values[k] < values[lowest]:
            lowest = k
    scale = max(np.abs(values).max(), 1e-300)
    shift = max(0.0, -values[lowest] + 1e-12 * scale) if values[lowest] <= 1e-14 * scale else 0.0
    moves = np.empty(n)
    for _ in range(50):
        square = curvature = 0.0
        for k in range(n):
            moves[k] = -slopes[k] / (values[k] + shift)
            square += moves[k] * moves[k]
            curvature += moves[k] * moves[k] / (values[k] + shift)
        length = math.sqrt(square)
        if length <= radius * (1.0 + tolerance) or not curvature > 0.0:
            break
        shift += (length - radius) / radius * square / curvature
    length = math.sqrt((moves * moves).sum())
    if shift > 0.0 and values[lowest] < 0.0 and length < radius * (1.0 - tolerance):
        rest = length * length - moves[lowest] ** 2
        reach = math.sqrt(max(radius * radius - rest, 0.0))
        moves[lowest] = -reach if moves[lowest] < 0.0 else reach
    step[:] = 0.0
    for k in range(n):
        for i in range(n):
            step[i] += vectors[i, k] * moves[k]


@njit(cache=True, nogil=True, error_model="numpy")
def predicted_decrease(gradient: np.ndarray, hessian: np.ndarray, step: np.ndarray) -> float:
    """Return the decrease of the objective that its quadratic approximation promises."""
    total = 0.0
    for i in range(len(step)):
        total -= gradient[i] * step[i]
        for j in range(len(step)):
            total -= 0.5 * hessian[i, j] * step[i] * step[j]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _update_sr1(sr1: np.ndarray, change: np.ndarray, step: np.ndarray, skip: float) -> None:
    """Make the estimate of the second derivatives give the observed change of the gradient along a step."""
    v = change - sr1 @ step
    product = (v * step).sum()
    if abs(product) > skip * math.sqrt((v * v).sum() * (step * step).sum()):
        for i in range(len(v)):
            for j in range(len(v)):
                sr1[i, j] += v[i] * v[j] / product


@njit(cache=True, nogil=True)
def _new_radius(
    settings: OptimizerSettings, radius: float, length: float, ratio: float, accepted: bool
) -> float:
    """Return the next radius of the trust region, by length and actual over predicted decrease of a step."""
    if not accepted:
        return settings.shrink * min(radius, length)
    if ratio < settings.shrink_ratio:
        return settings.shrink * radius
    if ratio > settings.grow_ratio and length > settings.grow_step * radius:
        return settings.grow * radius
    return radius


@njit(cache=True, nogil=True, error_model="numpy")
def minimise(fit: Fit, settings: OptimizerSettings, parameters: np.ndarray) -> tuple[int, float, int, int]:
    """Minimise the objective from some parameters, which are overwritten with the best.

    Returns
    -------
    status
        `CONVERGED` or `SMALL_RADIUS` (trust region below its threshold); or, failed, `MAX_ITERATIONS` (outer
        ones), `MAX_INNER` or `NUMERIC` (the objective is not finite).
    value
        Objective at the end.
    points
        Number of points tried, the first included.
    slot
        Drawing that holds the model at the end.
    """
    gradient, hessian, jtr, chain = np.empty(4), np.empty((4, 4)), np.empty(4), np.empty((4, 4))
    new_gradient, new_hessian, new_jtr = np.empty(4), np.empty((4, 4)), np.empty(4)
    new_chain, sr1, step = np.empty((4, 4)), np.zeros((4, 4)), np.empty(4)
    sums, unused, old_jtr = np.empty(4), np.empty((4, 4)), np.empty(4)
    slot, points, radius = 0, 1, settings.initial_radius
    value = objective(fit, slot, parameters, gradient, hessian, jtr, chain)
    if not np.isfinite(value):
        return NUMERIC, value, points, slot
    for _ in range(settings.max_outer):
        if np.abs(gradient).max() <= settings.gradient_threshold:
            return CONVERGED, value, points, slot
        total = hessian + sr1
        accepted = False
        for _ in range(settings.max_inner):
            trust_step(gradient, total, radius, settings.tolerance, step)
            heed_prior(fit.prior, parameters, step)
            length = math.sqrt((step * step).sum())
            predicted = predicted_decrease(gradient, total, step)
            if not np.isfinite(length):
                return NUMERIC, value, points, slot
            if predicted <= max(settings.min_decrease, _ROUNDING * abs(value)):
                return CONVERGED, value, points, slot
            trial = parameters + step
            points += 1
            new = objective(fit, 1 - slot, trial, new_gradient, new_hessian, new_jtr, new_chain)
            if np.isnan(new):
                return NUMERIC, value, points, slot
            ratio = (value - new) / predicted
            accepted = ratio > settings.accept and new < value
            radius = _new_radius(settings, radius, length, ratio, accepted)
            if accepted or radius <= settings.min_radius:
                break
        if accepted:
            if settings.use_sr1:
                flux = trial[3] * fit.flux_unit
                _residual_sums(fit.region, 1 - slot, slot, flux, sums, unused)
                _transpose_times(chain, sums, old_jtr)
                _update_sr1(sr1, new_jtr - old_jtr, step, settings.skip_sr1)
            slot, value = 1 - slot, new
            parameters[:], gradient[:], hessian[:], chain[:] = trial, new_gradient, new_hessian, new_chain
        if radius <= settings.min_radius:
            return SMALL_RADIUS, value, points, slot
        if not accepted:
            return MAX_INNER, value, points, slot
    return MAX_ITERATIONS, value, points, slot
