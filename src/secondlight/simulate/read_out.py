"""From the light that falls on a detector to the counts that come out of it."""

from __future__ import annotations

__all__ = ("ARTIFACT_PLANES", "ReadOut", "read_out")

import dataclasses
import math

import numpy as np
from lsst.images import Mask, MaskPlane, MaskSchema
from numba import njit

from ..catalog.mask_planes import make_mask_schema, plane_name
from .cosmic_rays import make_cosmic_rays
from .defects import make_defects
from .electronics import bleed, count_photons, interpolate_defects
from .randomness import rng
from .scene import Scene
from .scene_parts import Visit

ARTIFACT_PLANES = (
    MaskPlane("COSMIC_RAY", "Cosmic rays left more charge than the noise of an empty pixel."),
    MaskPlane("SATURATED", "Pixel was full by the charge it collected itself."),
    MaskPlane("BLEED_TRAIL", "Pixel was full only by charge that ran into it along the column."),
    MaskPlane("BAD_COLUMN", "Pixel of a column that does not show its charge."),
    MaskPlane("HOT_PIXEL", "Pixel with a large dark current."),
    MaskPlane("NO_DATA", "Pixel got no light."),
)
"""Planes of the mask that tells the true artefacts."""


@dataclasses.dataclass(frozen=True)
class ReadOut:
    """What comes out of a detector, as after the removal of the instrument's signature.

    Parameters
    ----------
    counts
        Pixels, float32 (h, w), adu.
    variance
        Their variance as estimated from the counts, float32 (h, w), adu^2.
    mask
        What the processing is told: SAT, BAD, INTRP and NO_DATA.
    artifacts
        The truth, with planes `ARTIFACT_PLANES`.
    """

    counts: np.ndarray
    variance: np.ndarray
    mask: Mask
    artifacts: Mask


def read_out(
    scene: Scene, visit: Visit, detector: int, snap: int, *, electrons: np.ndarray, vignetted: np.ndarray
) -> ReadOut:
    """Expose and read a detector.

    In the order of nature: the light is counted, particles and dark current add charge, what is above full
    well bleeds along the columns, bad columns spoil it, and the amplifier adds its noise. Counts are not
    rounded to whole numbers.

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
    electrons
        Expected electrons of this snap with the sky, float64 (h, w); not changed.
    vignetted
        Pixels that get neither light nor any other charge, bool (h, w).

    Raises
    ------
    ValueError
        Raised if an image does not have the shape of the detector, or expected electrons are negative.
    """
    where = f"visit {visit.id}, detector {detector}"
    for name, image in (("electrons", electrons), ("vignetted", vignetted)):
        _check_shape(name, image, scene, where)
    ids = (visit.id, detector, snap)
    seconds = visit.exposure_time / scene.snaps
    try:
        charge = count_photons(electrons, rng(scene, "photons", *ids))
    except ValueError as error:
        raise ValueError(f"The light on {where} cannot be counted: {error}") from error
    defects = make_defects(scene, detector)
    hit = _add_cosmic_rays(charge, scene, visit, detector, snap)
    defects.add_dark_current(charge, seconds, rng(scene, "dark current", *ids))
    charge[vignetted] = 0.0
    own = charge >= scene.electronics.full_well
    _, full = bleed(charge, scene.electronics.full_well)
    defects.spoil_columns(charge)
    charge[vignetted] = 0.0
    full &= ~vignetted
    counts, variance = _amplify(scene, charge, rng(scene, "read noise", *ids))
    told = {"SAT": full, "BAD": defects.bad, "NO_DATA": vignetted}
    if scene.electronics.interpolate_defects:
        interpolate_defects(counts, variance, defects.bad)
        told["INTRP"] = defects.bad
    truth = {
        "COSMIC_RAY": hit & ~vignetted,
        "SATURATED": own,
        "BLEED_TRAIL": full & ~own,
        "BAD_COLUMN": defects.bad_columns,
        "HOT_PIXEL": defects.hot_pixels,
        "NO_DATA": vignetted,
    }
    return ReadOut(
        counts=counts,
        variance=variance,
        mask=_mask(make_mask_schema(), told),
        artifacts=_mask(MaskSchema(ARTIFACT_PLANES), truth),
    )


def _check_shape(name: str, image: np.ndarray, scene: Scene, where: str) -> None:
    """Raise an error if an image does not have the shape of the detectors."""
    expected = (scene.camera.height, scene.camera.width)
    if image.shape != expected:
        raise ValueError(f"The image {name!r} of {where} has shape {image.shape}, not {expected}.")


def _add_cosmic_rays(charge: np.ndarray, scene: Scene, visit: Visit, detector: int, snap: int) -> np.ndarray:
    """Add cosmic rays to an image in electrons; return where they exceed an empty pixel's noise."""
    cosmic_rays = make_cosmic_rays(scene, visit, detector, snap)
    charge += cosmic_rays
    hit: np.ndarray = cosmic_rays > scene.sky_noise(visit) / math.sqrt(scene.snaps)
    return hit


def _amplify(scene: Scene, charge: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and variance, float32 (h, w), of charge in electrons."""
    noise = random.standard_normal(charge.shape, dtype=np.float32)
    variance = np.empty_like(noise)
    _add_read_noise(charge, scene.electronics.gain, scene.electronics.read_noise, noise, variance)
    return noise, variance


@njit(cache=True, nogil=True)
def _add_read_noise(
    charge: np.ndarray, gain: float, read_noise: float, counts: np.ndarray, variance: np.ndarray
) -> None:
    """Turn normal deviates in ``counts`` into counts, and fill the variance; arrays (h, w)."""
    for y in range(charge.shape[0]):
        for x in range(charge.shape[1]):
            counts[y, x] = (charge[y, x] + read_noise * counts[y, x]) / gain
            variance[y, x] = max(counts[y, x], 0.0) / gain + (read_noise / gain) ** 2


def _mask(schema: MaskSchema, planes: dict[str, np.ndarray]) -> Mask:
    """Return a mask with the given planes set, by short or public name."""
    mask = Mask(schema=schema, shape=next(iter(planes.values())).shape)
    for name, where in planes.items():
        mask.set(plane_name(name), where)
    return mask
