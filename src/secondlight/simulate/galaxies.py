"""Galaxies of a scene: positions, magnitudes, sizes and shapes."""

from __future__ import annotations

__all__ = ("make_galaxies",)

import math

import galsim
import numpy as np

from .colors import galaxy_colors, magnitudes_in
from .counts import PowerLaw, circle_area, clustered_in_circle, uniform_in_circle
from .galaxy_profiles import component_radii, intrinsic_ellipticities, lens
from .randomness import rng
from .scene import Scene, SceneError

_PIVOT = 24.0
"""Magnitude at which `Galaxies.density` is given."""

_SIZE_PIVOT = 22.0
"""Magnitude at which `Galaxies.size` is given."""

_RADIUS_RATIO, _RATIO_SCATTER = 0.6, 0.1
"""Mean of the bulge's half-light radius over the disk's, and its scatter in dex."""

_CONCENTRATION = 1.0
"""Sum of the two parameters of the beta distribution of bulge fractions; below 2 most are near 0 or 1."""


def make_galaxies(scene: Scene) -> dict[str, np.ndarray]:
    """Draw the galaxies of a scene.

    Parameters
    ----------
    scene
        Scene.

    Returns
    -------
    dict [str, numpy.ndarray]
        Columns of `objects.make_objects` that are not the same for all galaxies.

    Raises
    ------
    SceneError
        Raised if the shear is not below 1, or the profiles cannot be made.
    """
    galaxies = scene.galaxies
    law = PowerLaw(
        density=galaxies.density,
        slope=galaxies.slope,
        pivot=_PIVOT,
        bright=galaxies.bright,
        faint=galaxies.faint,
    )
    ra, dec = _positions(scene, law.mean_number(circle_area(scene.field.radius)))
    n = len(ra)
    magnitude = law.magnitudes(n, rng(scene, "galaxy magnitudes"))
    bulge_fraction = _bulge_fractions(n, galaxies.bulge_fraction, rng(scene, "galaxy bulges"))
    distribution = galaxy_colors(magnitude, bulge_fraction, rng(scene, "galaxy colors"))
    columns = {
        "ra": ra,
        "dec": dec,
        "g_i": distribution[:, 1] - distribution[:, 3],
        "bulge_fraction": bulge_fraction,
        **_sizes(scene, magnitude, bulge_fraction),
        **_shapes(scene, n),
    }
    magnitudes = magnitudes_in(
        scene.bands, distribution=distribution, magnitude=magnitude, reference_band=scene.reference_band
    )
    return columns | {f"mag_{band}": values for band, values in magnitudes.items()}


def _positions(scene: Scene, mean_number: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions: some galaxies in groups, the others anywhere; their mean density is the same."""
    galaxies, field = scene.galaxies, scene.field
    random = rng(scene, "galaxy positions")
    single = uniform_in_circle(
        int(random.poisson((1 - galaxies.clustered_fraction) * mean_number)),
        ra=field.ra,
        dec=field.dec,
        radius=field.radius,
        rng=random,
    )
    grouped = clustered_in_circle(
        galaxies.clustered_fraction * mean_number,
        members=galaxies.cluster_members,
        group_radius=galaxies.cluster_radius,
        ra=field.ra,
        dec=field.dec,
        radius=field.radius,
        rng=random,
    )
    return np.concatenate([single[0], grouped[0]]), np.concatenate([single[1], grouped[1]])


def _bulge_fractions(n: int, mean: float, random: np.random.Generator) -> np.ndarray:
    """Draw bulge fractions of a given mean, most of them near 0 and near 1."""
    if mean == 0:
        return np.zeros(n)
    return random.beta(_CONCENTRATION * mean, _CONCENTRATION * (1 - mean), n)


def _sizes(scene: Scene, magnitude: np.ndarray, bulge_fraction: np.ndarray) -> dict[str, np.ndarray]:
    """Draw half-light radii about the relation with the magnitude, and share them out to the components."""
    galaxies = scene.galaxies
    random = rng(scene, "galaxy sizes")
    n = len(magnitude)
    dex = random.normal(scale=galaxies.size_scatter, size=n) - galaxies.size_slope * (magnitude - _SIZE_PIVOT)
    radius = galaxies.size * 10**dex
    # The mean of a log-normal distribution lies above its median.
    spread = _RATIO_SCATTER * math.log(10)
    ratio = _RADIUS_RATIO * np.exp(random.normal(-0.5 * spread**2, spread, size=n))
    try:
        bulge, disk = component_radii(
            radius,
            bulge_fraction=bulge_fraction,
            ratio=ratio,
            index=galaxies.bulge_index,
            truncation=galaxies.truncation,
        )
    except galsim.GalSimError as error:
        raise SceneError(
            f"Scene {scene.name}: an exponential disk and a bulge of galaxies.bulge_index = "
            f"{galaxies.bulge_index} cannot end at galaxies.truncation = {galaxies.truncation} ({error}); "
            "profiles without much light that far out need a smaller truncation."
        ) from error
    return {"half_light_radius": radius, "bulge_radius": bulge, "disk_radius": disk}


def _shapes(scene: Scene, n: int) -> dict[str, np.ndarray]:
    """Draw intrinsic shapes and lens them."""
    shear = complex(*scene.galaxies.shear)
    if not abs(shear) < 1:
        raise SceneError(
            f"Scene {scene.name}: galaxies.shear = {scene.galaxies.shear} must be shorter than 1."
        )
    intrinsic = intrinsic_ellipticities(n, scene.galaxies.ellipticity, rng(scene, "galaxy shapes"))
    lensed = lens(intrinsic, shear)
    return {"e1": lensed.real, "e2": lensed.imag}
