"""The reference catalog of a scene: its stars as another survey would have measured them."""

from __future__ import annotations

__all__ = ("make_reference_catalog",)

import astropy.units as u
import numpy as np
from astropy.table import Table

from .counts import displace
from .randomness import rng
from .scene import Scene, SceneError


def make_reference_catalog(scene: Scene, objects: Table) -> Table:
    """Return the reference catalog in the form it is stored in a repository.

    Parameters
    ----------
    scene
        Scene.
    objects
        All its objects, from `objects.make_objects`.

    Returns
    -------
    astropy.table.Table
        Stars in the magnitude range of ``scene.reference``, where they are at the first visit, with errors in
        positions and magnitudes; columns as from
        `instruments.reference_catalog.read_reference_catalog`.

    Raises
    ------
    SceneError
        Raised if there is no star in the magnitude range.
    """
    reference = scene.reference
    true_magnitude = np.asarray(objects[f"mag_{scene.reference_band}"])
    chosen = np.asarray(objects["is_star"]) & (reference.bright <= true_magnitude)
    chosen &= true_magnitude <= reference.faint
    stars = objects[chosen]
    if len(stars) == 0:
        raise SceneError(
            f"Scene {scene.name} has no reference star: none of its {np.sum(objects['is_star'])} stars is "
            f"between {scene.reference_band} = {reference.bright} and {reference.faint} (reference.bright, "
            "reference.faint)."
        )
    random = rng(scene, "reference positions")
    east, north = random.normal(scale=reference.position_error / 1000, size=(2, len(stars)))
    ra, dec = displace(ra=np.asarray(stars["ra"]), dec=np.asarray(stars["dec"]), east=east, north=north)
    catalog = Table(meta={"source": f"scene {scene.name}"})
    catalog["ra"], catalog["dec"] = ra * u.deg, dec * u.deg
    for name in ("ra", "dec"):
        catalog[name].info.description = "ICRS coordinate"
    random = rng(scene, "reference magnitudes")
    for band in sorted(scene.bands):
        errors = random.normal(scale=reference.magnitude_error, size=len(stars))
        catalog[f"mag_{band}"] = (np.asarray(stars[f"mag_{band}"]) + errors) * u.mag
        catalog[f"mag_err_{band}"] = np.full(len(stars), reference.magnitude_error) * u.mag
    catalog["is_star"] = np.ones(len(stars), bool)
    return catalog
