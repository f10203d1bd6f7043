"""Prior probabilities of ellipticity and size of a galaxy (spec finalize 8.11).

Ellipticity is conformal shear (eta1, eta2), size the natural logarithm of the trace radius in arcsec.
"""

from __future__ import annotations

__all__ = (
    "EMPIRICAL",
    "LINEAR",
    "NONE",
    "PriorSettings",
    "empirical_prior",
    "heed_prior",
    "linear_prior",
    "log_prior",
    "no_prior",
)

import math
from typing import NamedTuple

import numpy as np
from numba import njit

NONE, EMPIRICAL, LINEAR = 0, 1, 2


class PriorSettings(NamedTuple):
    """A prior; which of the numbers count depends on the kind.

    Attributes
    ----------
    kind
        `NONE`, `EMPIRICAL` or `LINEAR`.
    constant
        Logarithm of the normalisation.
    outer, inner
        Logarithms of radius where the probability is 0 below, and where its lower edge ends.
    upper_inner, upper_outer
        The same at the upper edge (linear).
    ratio
        Density at ``inner`` over that at ``upper_inner`` (linear).
    mu, nu, sigma
        Student's distribution that the density follows above ``mu`` (empirical).
    core, scale
        Core and scale of the exponential of the ellipticity (empirical).
    shear_inner, shear_outer
        Edge of the ellipticity (linear).
    """

    kind: int
    constant: float
    outer: float
    inner: float
    upper_inner: float
    upper_outer: float
    ratio: float
    mu: float
    nu: float
    sigma: float
    core: float
    scale: float
    shear_inner: float
    shear_outer: float


def no_prior() -> PriorSettings:
    """Return a prior that is 1 everywhere, for negative fluxes too."""
    return PriorSettings(NONE, *([0.0] * 13))


def empirical_prior(
    *, outer: float, inner: float, mu: float, nu: float, sigma: float, core: float, scale: float
) -> PriorSettings:
    """Return the normalised prior that is flat in ln radius up to a point and falls off beyond."""
    student = 0.5 * sigma * math.sqrt(nu * math.pi)
    student *= math.exp(math.lgamma(0.5 * nu) - math.lgamma(0.5 * (nu + 1.0)))
    radius = 0.5 * (inner - outer) + (mu - inner) + student
    constant = core / scale - math.log((scale + core) * scale * 2.0 * math.pi * radius)
    return PriorSettings(
        EMPIRICAL, constant, outer, inner, 0.0, 0.0, 1.0, mu, nu, sigma, core, scale, 0.0, 0.0
    )


def linear_prior(
    *,
    outer: float,
    inner: float,
    upper_inner: float,
    upper_outer: float,
    ratio: float,
    shear_inner: float,
    shear_outer: float,
) -> PriorSettings:
    """Return the normalised prior that is linear in the logarithm of the radius and flat in ellipticity."""
    radius = 0.5 * ratio * (inner - outer) + 0.5 * (1.0 + ratio) * (upper_inner - inner)
    radius += 0.5 * (upper_outer - upper_inner)
    # Integral of 2 pi e (1 - ramp) over the edge of width d from e: pi e d + 0.3 pi d^2.
    d = shear_outer - shear_inner
    shear = math.pi * shear_inner**2 + math.pi * shear_inner * d + 0.3 * math.pi * d**2
    constant = -math.log(radius * shear)
    return PriorSettings(
        LINEAR,
        constant,
        outer,
        inner,
        upper_inner,
        upper_outer,
        ratio,
        0.0,
        1.0,
        1.0,
        0.0,
        1.0,
        shear_inner,
        shear_outer,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _log_ramp(t: float) -> tuple[float, float, float]:
    """Return the logarithm of t^2 (3 - 2 t) with its two derivatives, for 0 < t < 1."""
    p, d, dd = t * t * (3.0 - 2.0 * t), 6.0 * t * (1.0 - t), 6.0 - 12.0 * t
    slope = d / p
    return math.log(p), slope, dd / p - slope * slope


@njit(cache=True, nogil=True, error_model="numpy")
def _log_radius(prior: PriorSettings, x: float) -> tuple[float, float, float]:
    """Return the logarithm of the density at a log radius, not normalised, with its two derivatives."""
    upper = prior.upper_outer if prior.kind == LINEAR else np.inf
    if not prior.outer < x < upper:
        return -np.inf, 0.0, 0.0
    start = math.log(prior.ratio)
    if x < prior.inner:
        width = prior.inner - prior.outer
        value, slope, curvature = _log_ramp((x - prior.outer) / width)
        return start + value, slope / width, curvature / (width * width)
    if prior.kind == EMPIRICAL:
        if x < prior.mu:
            return 0.0, 0.0, 0.0
        z, power = (x - prior.mu) / prior.sigma, prior.nu + 1.0
        q = prior.nu + z * z
        value = -0.5 * power * math.log(1.0 + z * z / prior.nu)
        curvature = -power * (prior.nu - z * z) / (q * q * prior.sigma * prior.sigma)
        return value, -power * z / (q * prior.sigma), curvature
    if x > prior.upper_inner:
        width = prior.upper_outer - prior.upper_inner
        value, slope, curvature = _log_ramp((prior.upper_outer - x) / width)
        return value, -slope / width, curvature / (width * width)
    rise = (1.0 - prior.ratio) / (prior.upper_inner - prior.inner)
    p = prior.ratio + rise * (x - prior.inner)
    return math.log(p), rise / p, -((rise / p) ** 2)


@njit(cache=True, nogil=True, error_model="numpy")
def _log_shear(prior: PriorSettings, eta: float) -> tuple[float, float, float]:
    """Return the logarithm of the density at an ellipticity >= 0, its slope over that, and curvature."""
    if prior.kind == EMPIRICAL:
        s = math.hypot(eta, prior.core)
        s = max(s, 1e-150)
        slope = -1.0 / (s * prior.scale)
        return -s / prior.scale, slope, slope * (prior.core / s) ** 2
    if eta <= prior.shear_inner:
        return 0.0, 0.0, 0.0
    if eta >= prior.shear_outer:
        return -np.inf, 0.0, 0.0
    width = prior.shear_outer - prior.shear_inner
    value, slope, curvature = _log_ramp((prior.shear_outer - eta) / width)
    return value, -slope / (width * eta), curvature / (width * width)


@njit(cache=True, nogil=True, error_model="numpy")
def log_prior(
    prior: PriorSettings, parameters: np.ndarray, gradient: np.ndarray, hessian: np.ndarray
) -> float:
    """Return the logarithm of the prior, -inf where it is 0, and fill its derivatives.

    Parameters
    ----------
    prior
        The prior.
    parameters
        eta1, eta2, ln radius, amplitude (4).
    gradient, hessian
        Filled with the first and second derivatives of the logarithm, (4) and (4, 4).
    """
    gradient[:] = 0.0
    hessian[:] = 0.0
    if prior.kind == NONE:
        return 0.0
    if not parameters[3] >= 0.0:
        return -np.inf
    radius, slope, curvature = _log_radius(prior, parameters[2])
    e1, e2 = parameters[0], parameters[1]
    eta = math.hypot(e1, e2)
    shear, reduced, bend = _log_shear(prior, eta)
    gradient[0], gradient[1], gradient[2] = reduced * e1, reduced * e2, slope
    hessian[2, 2] = curvature
    # d2/de_i de_j f(|e|) = f'/|e| (delta_ij - n_i n_j) + f'' n_i n_j
    n1, n2 = (e1 / eta, e2 / eta) if eta > 0.0 else (1.0, 0.0)
    if eta == 0.0:
        bend = reduced
    hessian[0, 0] = reduced + (bend - reduced) * n1 * n1
    hessian[1, 1] = reduced + (bend - reduced) * n2 * n2
    hessian[0, 1] = hessian[1, 0] = (bend - reduced) * n1 * n2
    return prior.constant + radius + shear


@njit(cache=True, nogil=True, error_model="numpy")
def heed_prior(prior: PriorSettings, parameters: np.ndarray, step: np.ndarray) -> None:
    """Shorten a step that leads over a kink of the prior, which no quadratic model can foresee.

    An ellipticity that would come out on the other side of 0, where the density peaks, becomes 0; a radius
    that would fall into the lower edge stays above it.
    """
    if prior.kind == NONE:
        return
    if parameters[2] >= prior.inner:
        step[2] = max(step[2], prior.inner - parameters[2])
    e1, e2 = parameters[0], parameters[1]
    ahead = e1 * (e1 + step[0]) + e2 * (e2 + step[1])
    if prior.kind == EMPIRICAL and ahead < 0.0 and math.hypot(e1, e2) > prior.core:
        step[0], step[1] = -e1, -e2
