"""Algebra of shapelet expansions that the kernels are held against: moments, convolution with a Gaussian.

With ``a = -d/du`` and ``b = -d/dv`` every expansion is a polynomial P(a, b) of the same order, applied to
``det(T) exp(-(u^2 + v^2) / 2)``.  In this form, ``P[i, j]`` being the factor of ``a^i b^j``, moments can be
read off, and convolution with a Gaussian changes only the ellipse.
"""

from __future__ import annotations

import math

import numpy as np

from secondlight.measurement.modelfit.shapelets import MAX_ORDER, inverse, square_root

_SIZE = MAX_ORDER + 1


def _hermite_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return factors of (-d/dt)^m for h_n, factors of h_n for (-d/dt)^m, and binomials, each (5, 5).

    From the generating functions of both kinds of Hermite polynomials: ``exp(2 t z - z^2)`` is ``exp(z^2)``
    times that of the derivatives of ``exp(-t^2 / 2)`` at ``2 z``.
    """
    to_derivatives, to_hermite, binomial = (np.zeros((_SIZE, _SIZE)) for _ in range(3))
    f = [math.factorial(n) for n in range(_SIZE)]
    for n in range(_SIZE):
        for k in range(n // 2 + 1):
            m = n - 2 * k
            norm = math.sqrt(2.0**n * f[n] * math.sqrt(math.pi))
            to_derivatives[n, m] = f[n] * 2.0**m / (f[k] * f[m] * norm)
            norm = math.sqrt(2.0**m * f[m] * math.sqrt(math.pi))
            to_hermite[n, m] = f[n] * 2.0**-n * (-1.0) ** k * norm / (f[k] * f[m])
        binomial[n, : n + 1] = [math.comb(n, k) for k in range(n + 1)]
    return to_derivatives, to_hermite, binomial


_TO_DERIVATIVES, _TO_HERMITE, _BINOMIAL = _hermite_tables()


def _to_polynomial(order: int, coefficients: np.ndarray, polynomial: np.ndarray) -> None:
    """Fill the factors of ``a^i b^j``, (5, 5), of an expansion."""
    polynomial[:] = 0.0
    k = 0
    for n in range(order + 1):
        for nx in range(n + 1):
            for i in range(nx + 1):
                for j in range(n - nx + 1):
                    polynomial[i, j] += coefficients[k] * _TO_DERIVATIVES[nx, i] * _TO_DERIVATIVES[n - nx, j]
            k += 1


def _to_coefficients(order: int, polynomial: np.ndarray, coefficients: np.ndarray) -> None:
    """Fill the factors of the basis functions from those of ``a^i b^j``."""
    k = 0
    for n in range(order + 1):
        for nx in range(n + 1):
            total = 0.0
            for i in range(nx, order + 1):
                for j in range(n - nx, order + 1 - i):
                    total += polynomial[i, j] * _TO_HERMITE[i, nx] * _TO_HERMITE[j, n - nx]
            coefficients[k] = total
            k += 1


def component_moments(
    order: int, xx: float, yy: float, xy: float, coefficients: np.ndarray, result: np.ndarray
) -> None:
    """Work out flux and moments of an expansion, all of the plane.

    Parameters
    ----------
    order
        Order, at most `MAX_ORDER`.
    xx, yy, xy
        Moments of the ellipse, pixel^2, positive definite.
    coefficients
        Factors of the basis functions.
    result
        Filled with the flux, and with the flux-weighted sums (not means) of x, y, x^2, y^2 and x y about the
        centre of the ellipse, (6).
    """
    p = np.empty((_SIZE, _SIZE))
    _to_polynomial(order, coefficients, p)
    r_xx, r_yy, r_xy = square_root(xx, yy, xy)
    uu, vv, uv = p[0, 0] + 2.0 * p[2, 0], p[0, 0] + 2.0 * p[0, 2], p[1, 1]
    result[0] = p[0, 0]
    result[1] = r_xx * p[1, 0] + r_xy * p[0, 1]
    result[2] = r_xy * p[1, 0] + r_yy * p[0, 1]
    result[3] = r_xx * r_xx * uu + 2.0 * r_xx * r_xy * uv + r_xy * r_xy * vv
    result[4] = r_xy * r_xy * uu + 2.0 * r_xy * r_yy * uv + r_yy * r_yy * vv
    result[5] = r_xx * r_xy * uu + (r_xx * r_yy + r_xy * r_xy) * uv + r_xy * r_yy * vv
    for k in range(6):
        result[k] *= 2.0 * math.pi


def convolve_with_gaussian(
    order: int, ellipse: np.ndarray, coefficients: np.ndarray, gaussian: np.ndarray, result: np.ndarray
) -> None:
    """Convolve an expansion with an elliptical Gaussian of unit flux, exactly.

    The result is an expansion of the same order on the ellipse with moments ``ellipse + gaussian``.

    Parameters
    ----------
    order
        Order, at most `MAX_ORDER`.
    ellipse
        Moments ``xx, yy, xy`` of the ellipse, pixel^2 (3), positive definite.
    coefficients
        Factors of the basis functions.
    gaussian
        Moments of the Gaussian, pixel^2 (3); zeros for none.
    result
        Filled with the factors of the basis functions on the new ellipse; may be ``coefficients``.
    """
    r_xx, r_yy, r_xy = square_root(ellipse[0], ellipse[1], ellipse[2])
    wide = square_root(ellipse[0] + gaussian[0], ellipse[1] + gaussian[1], ellipse[2] + gaussian[2])
    t_xx, t_yy, t_xy = inverse(wide[0], wide[1], wide[2])
    # (a, b) = m (a', b'): derivatives in the old frame by those in the new one.
    m00, m01 = r_xx * t_xx + r_xy * t_xy, r_xx * t_xy + r_xy * t_yy
    m10, m11 = r_xy * t_xx + r_yy * t_xy, r_xy * t_xy + r_yy * t_yy
    old, new = np.empty((_SIZE, _SIZE)), np.zeros((_SIZE, _SIZE))
    _to_polynomial(order, coefficients, old)
    for i in range(order + 1):
        for j in range(order + 1 - i):
            for k in range(i + 1):
                first = old[i, j] * _BINOMIAL[i, k] * m00**k * m01 ** (i - k)
                for q in range(j + 1):
                    factor = _BINOMIAL[j, q] * m10**q * m11 ** (j - q)
                    new[k + q, i + j - k - q] += first * factor
    _to_coefficients(order, new, result)
