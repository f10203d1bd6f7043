"""Slow and obvious counterparts of the shapelet kernels."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg


def grid(half: float, n: int, *, endpoint: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates x, y (n, n) from -half to half."""
    t = np.linspace(-half, half, n, endpoint=endpoint)
    x, y = np.meshgrid(t, t)
    return x, y


def matrix_root(ellipse: tuple[float, float, float]) -> np.ndarray:
    """Return the square root of the moment matrix, (2, 2)."""
    xx, yy, xy = ellipse
    return np.asarray(scipy.linalg.sqrtm(np.array([[xx, xy], [xy, yy]])).real)


def hermite(n: int, t: np.ndarray) -> np.ndarray:
    """Return h_n as the recursion defines it."""
    if n == 0:
        return np.full_like(t, math.pi**-0.25)
    if n == 1:
        return math.sqrt(2) * t * hermite(0, t)
    return math.sqrt(2 / n) * t * hermite(n - 1, t) - math.sqrt((n - 1) / n) * hermite(n - 2, t)


def basis_twin(order: int, ellipse: tuple[float, float, float], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the basis functions, (terms, ...)."""
    t = np.linalg.inv(matrix_root(ellipse))
    u, v = t[0, 0] * x + t[0, 1] * y, t[1, 0] * x + t[1, 1] * y
    gauss = np.linalg.det(t) * np.exp(-0.5 * (u * u + v * v))
    pairs = [(nx, n - nx) for n in range(order + 1) for nx in range(n + 1)]
    return np.stack([hermite(nx, u) * hermite(ny, v) * gauss for nx, ny in pairs])


def draw_expansion(
    order: int,
    ellipse: tuple[float, float, float],
    coefficients: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
) -> np.ndarray:
    """Return an expansion about the origin at some points."""
    return np.tensordot(coefficients, basis_twin(order, ellipse, x, y), 1)


def draw_components(values: dict[str, np.ndarray], row: int, shape: tuple[int, int]) -> np.ndarray:
    """Return the sum of expansions whose columns, less the name of the plugin, are given, on a stamp."""
    h, w = shape
    j, i = np.mgrid[:h, :w]
    image = np.zeros(shape)
    k = 0
    while f"{k}_xx" in values:
        ellipse = tuple(float(values[f"{k}_{m}"][row]) for m in ("xx", "yy", "xy"))
        x, y = i - w // 2 - values[f"{k}_x"][row], j - h // 2 - values[f"{k}_y"][row]
        terms = sum(f"{k}_{n}" in values for n in range(15))
        order = {1: 0, 3: 1, 6: 2, 10: 3, 15: 4}[terms]
        c = np.array([values[f"{k}_{n}"][row] for n in range(terms)])
        image += draw_expansion(order, ellipse, c, x, y)
        k += 1
    return image


def gaussian(
    ellipse: tuple[float, float, float], *, x: float = 0.0, y: float = 0.0, half: int = 12
) -> np.ndarray:
    """Return a Gaussian of unit flux."""
    gx, gy = grid(half, 2 * half + 1)
    return draw_expansion(0, ellipse, np.array([0.5 / math.sqrt(math.pi)]), gx - x, gy - y)


def core_and_wings(*, lopsided: bool = True, half: int = 12) -> np.ndarray:
    """Return a PSF with a core, wings of another shape, and, off the centre, a third Gaussian."""
    image = 0.7 * gaussian((3.1, 2.4, 0.4), half=half) + 0.3 * gaussian((9.0, 8.0, -0.5), half=half)
    if lopsided:
        image += 0.1 * gaussian((2.5, 3.5, 0.3), x=1.3, y=-0.8, half=half)
    return image / image.sum()
