"""Defects of a detector: columns that do not tell the light, and pixels that are hot."""

from __future__ import annotations

__all__ = ("Defects", "make_defects")

import dataclasses

import numpy as np

from .randomness import rng
from .scene import Scene

_WIDTHS = (0.8, 0.15, 0.05)
"""Probabilities of bad columns 1, 2 and 3 pixels wide."""

_PARTIAL = 0.5
"""Share of the bad columns that are blocked only from some row on."""

_STUCK = 0.3
"""Share of the bad columns that show a constant level rather than a part of the light."""

_STUCK_RANGE = (0.002, 0.2)
"""Range of the constant levels, in units of the full well."""

_HOT_RANGE = (30.0, 3000.0)
"""Range of the dark currents of hot pixels, electrons per second."""


@dataclasses.dataclass(frozen=True)
class Defects:
    """The defects of a detector, the same in all its exposures.

    Parameters
    ----------
    bad_columns
        Pixels of bad columns, bool (h, w).
    response
        Part of the charge that these pixels show, float32, in the order of ``np.nonzero(bad_columns)``.
    level
        Electrons that they show besides, float32, in the same order.
    hot_pixels
        Hot pixels, bool (h, w).
    dark_current
        Electrons per second of these, float32, in the order of ``np.nonzero(hot_pixels)``.
    """

    bad_columns: np.ndarray
    response: np.ndarray
    level: np.ndarray
    hot_pixels: np.ndarray
    dark_current: np.ndarray

    @property
    def bad(self) -> np.ndarray:
        """All defects, bool (h, w)."""
        bad: np.ndarray = self.bad_columns | self.hot_pixels
        return bad

    def add_dark_current(self, charge: np.ndarray, exposure_time: float, random: np.random.Generator) -> None:
        """Add what hot pixels collect in some seconds to an image in electrons, in place."""
        charge[self.hot_pixels] += random.poisson(self.dark_current * exposure_time)

    def spoil_columns(self, charge: np.ndarray) -> None:
        """Replace the charge in the bad columns of an image in electrons by what they show, in place."""
        charge[self.bad_columns] = charge[self.bad_columns] * self.response + self.level


def make_defects(scene: Scene, detector: int) -> Defects:
    """Return the defects of a detector.

    Parameters
    ----------
    scene
        Scene; ``electronics`` has the mean numbers.
    detector
        Id of the detector.
    """
    random = rng(scene, "defects", detector)
    shape = (scene.camera.height, scene.camera.width)
    response, level = np.ones(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    bad_columns = np.zeros(shape, dtype=bool)
    for _ in range(random.poisson(scene.electronics.bad_columns)):
        where = _column(random, shape)
        bad_columns[where] = True
        response[where], level[where] = _behaviour(random, scene.electronics.full_well)
    hot = _hot_pixels(random, shape, scene.electronics.hot_pixels)
    dark_current = _log_uniform(random, _HOT_RANGE, int(hot.sum()))
    return Defects(
        bad_columns=bad_columns,
        response=response[bad_columns],
        level=level[bad_columns],
        hot_pixels=hot,
        dark_current=dark_current.astype(np.float32),
    )


def _column(random: np.random.Generator, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the pixels of a bad column: the whole height, or from a blocked row to the far end."""
    height, width = shape
    columns = 1 + int(random.choice(len(_WIDTHS), p=_WIDTHS))
    first = int(random.integers(width - columns + 1))
    start = int(random.integers(1, height)) if random.random() < _PARTIAL else 0
    return slice(start, height), slice(first, first + columns)


def _behaviour(random: np.random.Generator, full_well: float) -> tuple[float, float]:
    """Return the response of a bad column and its constant level, electrons."""
    if random.random() < _STUCK:
        return 0.0, full_well * float(_log_uniform(random, _STUCK_RANGE, 1)[0])
    return float(random.uniform(0.0, 0.8)), 0.0


def _hot_pixels(random: np.random.Generator, shape: tuple[int, int], mean: float) -> np.ndarray:
    """Return the hot pixels, bool (h, w)."""
    hot = np.zeros(shape, dtype=bool)
    number = random.poisson(mean)
    hot[random.integers(shape[0], size=number), random.integers(shape[1], size=number)] = True
    return hot


def _log_uniform(random: np.random.Generator, limits: tuple[float, float], number: int) -> np.ndarray:
    """Return numbers whose logarithm is uniform between two limits."""
    low, high = np.log(limits)
    return np.asarray(np.exp(random.uniform(low, high, number)))
