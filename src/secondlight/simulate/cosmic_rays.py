"""Charged particles in the silicon: straight tracks of muons, and crooked ones of slow electrons."""

from __future__ import annotations

__all__ = ("make_cosmic_rays",)

import math

import numpy as np
from numba import njit

from .randomness import rng
from .scene import Scene
from .scene_parts import Visit

_FLUCTUATION = 0.2
"""Scale of the Moyal distribution of the charge per pixel of path, in units of the most probable charge."""

_SPLITS = 8
"""Points per pixel of path at which the charge is let go."""

_SLOW = 100.0
"""Energy at which electrons lose twice as much as fast particles, keV."""

_WORM_ENERGY = (40.0, 1500.0)
"""Range of the energies of worms, keV."""

_FAST_LOSS = 2.9
"""Energy that fast particles lose in a path of the scene's most probable charge per pixel, keV."""

_SCATTERING = 0.5
"""Deflection of an electron of that energy in one pixel of path, radians."""


def make_cosmic_rays(scene: Scene, visit: Visit, detector: int, snap: int) -> np.ndarray:
    """Return the charge that particles leave in an exposure.

    Muons have an intensity that goes with the squared cosine of the angle from the normal; that of the muons
    through a flat detector goes with its third power. The charge of each pixel of path follows Moyal's (1955)
    approximation of Landau's distribution. Worms are electrons set free in the silicon: they lose more and
    scatter more the slower they get. The spread of the charge grows with the square root of the way to the
    surface where it is collected.

    Parameters
    ----------
    scene
        Scene.
    visit
        Visit.
    detector
        Id of the detector.
    snap
        Number of the exposure in the visit.

    Returns
    -------
    charge
        Electrons, float64 (h, w).
    """
    camera, rays = scene.camera, scene.cosmic_rays
    random = rng(scene, "cosmic rays", visit.id, detector, snap)
    charge = np.zeros((camera.height, camera.width))
    area = camera.width * camera.height * (0.1 * camera.pixel_size) ** 2
    hits = random.poisson(rays.rate * area * visit.exposure_time / scene.snaps)
    worms = random.binomial(hits, rays.worm_fraction)
    for i in range(hits):
        draw = _add_worm if i < worms else _add_muon
        draw(charge, random, rays.thickness, rays.charge, rays.diffusion)
    return charge


@njit(cache=True, nogil=True)
def _add_muon(
    image: np.ndarray, random: np.random.Generator, thickness: float, charge: float, diffusion: float
) -> None:
    """Add a straight track through the silicon to an image (h, w) in electrons; lengths in pixels."""
    height, width = image.shape
    x, y = random.uniform(-0.5, width - 0.5), random.uniform(-0.5, height - 0.5)
    azimuth = random.uniform(0.0, 2 * math.pi)
    cosine = max(random.random() ** 0.25, 1e-3)
    sine = math.sqrt(1 - cosine**2)
    dx, dy = sine * math.cos(azimuth), sine * math.sin(azimuth)
    pieces = math.ceil(thickness / cosine)
    length = thickness / cosine / pieces
    for i in range(pieces):
        lost = charge * length * _fluctuation(random)
        for j in range(_SPLITS):
            path = (i + (j + 0.5) / _SPLITS) * length
            sigma = diffusion * math.sqrt(1 - path * cosine / thickness)
            _add_charge(image, x + path * dx, y + path * dy, lost / _SPLITS, sigma)


@njit(cache=True, nogil=True)
def _add_worm(
    image: np.ndarray, random: np.random.Generator, thickness: float, charge: float, diffusion: float
) -> None:
    """Add the crooked track of an electron to an image (h, w) in electrons; lengths in pixels."""
    height, width = image.shape
    x, y = random.uniform(-0.5, width - 0.5), random.uniform(-0.5, height - 0.5)
    depth = random.uniform(0.0, thickness)
    azimuth, along = random.uniform(0.0, 2 * math.pi), random.uniform(-1.0, 1.0)
    sine = math.sqrt(1 - along**2)
    way = np.array([sine * math.cos(azimuth), sine * math.sin(azimuth), along])
    energy = math.exp(random.uniform(math.log(_WORM_ENERGY[0]), math.log(_WORM_ENERGY[1])))
    step = 1 / _SPLITS
    fluctuation, i = 1.0, 0
    while energy > 0 and 0 <= depth <= thickness:
        if i % _SPLITS == 0:
            fluctuation = _fluctuation(random)
        slowness = _SLOW / energy
        lost = min(_FAST_LOSS * step * (1 + slowness**0.75) * fluctuation, energy)
        _add_charge(image, x, y, charge * lost / _FAST_LOSS, diffusion * math.sqrt(1 - depth / thickness))
        energy -= lost
        angle = min(_SCATTERING * slowness * math.sqrt(step), 1.0)
        for k in range(3):
            way[k] += angle * random.standard_normal()
        way /= math.sqrt((way**2).sum())
        x, y, depth = x + step * way[0], y + step * way[1], depth + step * way[2]
        i += 1


@njit(cache=True, nogil=True)
def _fluctuation(random: np.random.Generator) -> float:
    """Return the charge of one pixel of path over the most probable one."""
    # Moyal's distribution is that of minus the logarithm of a squared normal deviate.
    return max(1 - 2 * _FLUCTUATION * math.log(abs(random.standard_normal()) + 1e-12), 0.0)


@njit(cache=True, nogil=True)
def _add_charge(image: np.ndarray, x: float, y: float, charge: float, sigma: float) -> None:
    """Add a Gaussian cloud of charge to the pixels; what falls off the image is lost, no more."""
    height, width = image.shape
    sigma = max(sigma, 1e-6)
    reach = math.ceil(4 * sigma)
    x0, y0 = math.floor(x + 0.5) - reach, math.floor(y + 0.5) - reach
    size = 2 * reach + 1
    weights_x, weights_y = _shares(x - x0, size, sigma), _shares(y - y0, size, sigma)
    for j in range(max(0, -y0), min(size, height - y0)):
        for i in range(max(0, -x0), min(size, width - x0)):
            image[y0 + j, x0 + i] += charge * weights_y[j] * weights_x[i]


@njit(cache=True, nogil=True)
def _shares(position: float, size: int, sigma: float) -> np.ndarray:
    """Return the shares of a Gaussian that fall in pixels 0 ... size - 1; the tails go to the outermost."""
    shares = np.empty(size)
    below = 0.0
    for i in range(size):
        edge = (i + 0.5 - position) / (math.sqrt(2.0) * sigma)
        up_to = 1.0 if i == size - 1 else 0.5 * (1 + math.erf(edge))
        shares[i] = up_to - below
        below = up_to
    return shares
