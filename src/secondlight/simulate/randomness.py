"""Random numbers that follow from a scene's seed alone, whatever is simulated before or beside."""

from __future__ import annotations

__all__ = ("rng",)

import zlib

import numpy as np

from .scene import Scene


def rng(scene: Scene, purpose: str, *ids: int) -> np.random.Generator:
    """Return the random numbers of one purpose.

    Parameters
    ----------
    scene
        Scene, whose seed is used.
    purpose
        What the numbers are for; different names give independent numbers.
    *ids
        What they belong to (visit, detector, snap...), not negative.
    """
    return np.random.default_rng([scene.seed, zlib.crc32(purpose.encode()), *ids])
