"""Stars of a scene: positions, magnitudes, colours, motion and variability."""

from __future__ import annotations

__all__ = ("make_stars",)

import numpy as np

from .colors import magnitudes_in, star_colors
from .counts import PowerLaw, circle_area, uniform_in_circle
from .randomness import rng
from .scene import Scene, SceneError

_PIVOT = 22.0
"""Magnitude at which `Stars.density` is given."""


def make_stars(scene: Scene) -> dict[str, np.ndarray]:
    """Draw the stars of a scene.

    Parameters
    ----------
    scene
        Scene.

    Returns
    -------
    dict [str, numpy.ndarray]
        Columns of `objects.make_objects` that are not the same for all stars.

    Raises
    ------
    SceneError
        Raised if there is no star.
    """
    stars, field = scene.stars, scene.field
    law = PowerLaw(
        density=stars.density, slope=stars.slope, pivot=_PIVOT, bright=stars.bright, faint=stars.faint
    )
    mean_number = law.mean_number(circle_area(field.radius))
    random = rng(scene, "star positions")
    n = int(random.poisson(mean_number))
    if n == 0:
        raise SceneError(
            f"Scene {scene.name} has no star: {mean_number:.3g} are expected in its circle of {field.radius} "
            f"degrees with stars.density = {stars.density} and stars.faint = {stars.faint}; without stars "
            "there is no PSF to be measured."
        )
    ra, dec = uniform_in_circle(n, ra=field.ra, dec=field.dec, radius=field.radius, rng=random)
    magnitude = law.magnitudes(n, rng(scene, "star magnitudes"))
    distribution = star_colors(magnitude, rng(scene, "star colors"))
    motion = rng(scene, "star motions").normal(scale=stars.proper_motion, size=(2, n))
    variable = rng(scene, "variable stars").random(n) < stars.variable_fraction
    columns = {
        "ra": ra,
        "dec": dec,
        "g_i": distribution[:, 1] - distribution[:, 3],
        "pm_ra": motion[0],
        "pm_dec": motion[1],
        "amplitude": np.where(variable, stars.amplitude, 0.0),
    }
    magnitudes = magnitudes_in(
        scene.bands, distribution=distribution, magnitude=magnitude, reference_band=scene.reference_band
    )
    return columns | {f"mag_{band}": values for band, values in magnitudes.items()}
