"""Sky sources: circles of empty sky, measured like any source to show what a measurement of nothing gives."""

from __future__ import annotations

__all__ = ("SkyObjectsConfig", "SkyObjectsTask", "sky_positions")

import math
from typing import Any, cast

import numpy as np
from lsst.images import Mask
from lsst.pex.config import Config, Field, ListField
from lsst.pipe.base import Task
from scipy.ndimage import binary_dilation

from ..catalog.footprints import Footprints, Peaks
from ..catalog.ids import IdGenerator
from ..catalog.mask_planes import mask_of
from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog


class SkyObjectsConfig(Config):
    """Where and how many sky sources are placed."""

    avoidMask = ListField[str](
        doc="Mask planes that a sky source must not touch.",
        default=["DETECTED", "DETECTED_NEGATIVE", "BAD", "NO_DATA"],
    )
    growMask = Field[int](
        doc="Pixels to grow the avoided planes by.", default=0, check=lambda value: value >= 0
    )
    sourceRadius = Field[float](
        doc="Radius of a sky source (pixels).", default=8, check=lambda value: value >= 0
    )
    nSources = Field[int](doc="Number of sky sources wanted.", default=100, check=lambda value: value >= 0)
    nTrialSources = Field[int](
        doc="Number of positions tried; None for nSources * nTrialSourcesMultiplier.",
        default=None,
        optional=True,
        check=lambda value: value >= 0,
    )
    nTrialSourcesMultiplier = Field[int](
        doc="Positions tried per sky source wanted, if nTrialSources is None.",
        default=5,
        check=lambda value: value >= 1,
    )


class SkyObjectsTask(Task):
    """Append sources on empty sky to a catalog (spec reprocess 14).

    Parameters
    ----------
    schema
        Schema that gets the flag ``sky_source``.
    **kwargs
        Passed to `lsst.pipe.base.Task`.
    """

    ConfigClass = SkyObjectsConfig
    _DefaultName = "skyObjects"
    config: SkyObjectsConfig

    def __init__(self, *, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._flag = schema.add_flag("sky_source", "source was placed on empty sky")

    def run(
        self, mask: Mask, seed: int, sources: SourceCatalog, *, id_generator: IdGenerator | None = None
    ) -> SourceCatalog:
        """Return the catalog with sky sources appended.

        Parameters
        ----------
        mask
            Mask of the image after detection.
        seed
            Non-negative seed of the positions, normally the catalog id.
        sources
            Catalog that the rows are appended to; it is not changed.
        id_generator
            Makes the ids, which continue those of ``sources``.

        Returns
        -------
        catalog
            The rows of ``sources`` followed by the sky sources, each with a circular footprint and one peak.

        Raises
        ------
        KeyError
            Raised if the mask lacks a plane of ``avoidMask``.
        """
        x, y = self.find_positions(mask, seed)
        wanted = self.config.nSources
        if len(x) < wanted:
            self.log.warning("Found room for %d of %d sky sources.", len(x), wanted)
        if not len(x):
            return sources
        self.log.info("Added %d sky sources.", len(x))
        sky = SourceCatalog(sources.schema, len(x), footprints=self._footprints(x, y))
        ids = (id_generator or IdGenerator()).row_ids(len(x), start=len(sources) + 1)
        sky["id"] = ids
        sky[self._flag] = True
        if not len(sources):
            sky.metadata = dict(sources.metadata)
            return sky
        return SourceCatalog.concatenate([sources, sky])

    def find_positions(self, mask: Mask, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the centres of the sky sources, integer parent pixels."""
        radius = int(self.config.sourceRadius)
        box = mask.bbox.padded(-(radius + 1)) if min(mask.bbox.shape) > 2 * (radius + 1) else None
        if box is None or not self.config.nSources:
            return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
        trials = cast("int | None", self.config.nTrialSources)
        if trials is None:
            trials = self.config.nSources * self.config.nTrialSourcesMultiplier
        x, y = sky_positions(
            trials, seed=seed, x_limits=(box.x.min, box.x.max), y_limits=(box.y.min, box.y.max)
        )
        chosen = _without_overlap(self._avoid(mask), x - mask.bbox.x.start, y - mask.bbox.y.start, radius)
        chosen = chosen[: self.config.nSources]
        return x[chosen], y[chosen]

    def _avoid(self, mask: Mask) -> np.ndarray:
        """Return the pixels that sky sources must not touch."""
        avoid = mask_of(mask, self.config.avoidMask)
        if self.config.growMask > 0:
            avoid = Footprints.from_mask(avoid).dilated(self.config.growMask).to_mask(avoid.shape)
        return avoid

    def _footprints(self, x: np.ndarray, y: np.ndarray) -> Footprints:
        """Return one circle about each position with a single peak of value 0 at its centre."""
        zero = np.zeros(len(x))
        circles = Footprints.from_circles(x, y, int(self.config.sourceRadius))
        return circles.with_peaks(np.arange(len(x) + 1), Peaks(x, y, zero, zero, np.arange(1, len(x) + 1)))


def sky_positions(
    n: int, *, seed: int, x_limits: tuple[int, int], y_limits: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return n integer pixels of a scrambled Halton sequence, which covers the limits evenly.

    Parameters
    ----------
    n
        Number of positions.
    seed
        Non-negative seed of the scrambling.
    x_limits, y_limits
        First and last pixel.
    """
    rng = np.random.default_rng(seed)
    points = np.stack([_van_der_corput(n, base, rng) for base in (2, 3)], axis=1)
    low = np.array([x_limits[0], y_limits[0]])
    high = np.array([x_limits[1], y_limits[1]])
    pixels = np.floor(low + points * (high - low)).astype(np.int32)
    return pixels[:, 0], pixels[:, 1]


def _van_der_corput(n: int, base: int, rng: np.random.Generator) -> np.ndarray:
    """Return n points of a van der Corput sequence with permuted digits (Owen 2017, arXiv:1706.02808).

    The stream is that of `scipy.stats.qmc.Halton` when its ``seed`` is an integer.  It is written out here
    because a library release that changes the scrambling would move every sky source.
    """
    digits = math.ceil(54 / math.log2(base)) - 1
    permutations = np.repeat(np.arange(base)[None], digits, axis=0)
    for permutation in permutations:
        rng.shuffle(permutation)
    quotient = np.arange(n, dtype=np.int64)
    points = np.zeros(n)
    weight = 1.0 / base
    for permutation in permutations:
        quotient, digit = np.divmod(quotient, base)
        points += permutation[digit] * weight
        weight /= base
    return points


def _disc(radius: int) -> np.ndarray:
    """Return the circle stencil of spec reprocess 9.8 as a boolean image."""
    size = 2 * radius + 1
    centre = np.array([radius])
    return Footprints.from_circles(centre, centre, radius).to_mask((size, size))


def _without_overlap(avoid: np.ndarray, x: np.ndarray, y: np.ndarray, radius: int) -> np.ndarray:
    """Return the positions, in their order, whose circles touch neither avoided pixels nor earlier circles.

    An accepted circle, grown by its own radius, is avoided from then on (spec reprocess 14, step 3).
    """
    disc = _disc(radius)
    grown = binary_dilation(np.pad(disc, radius), structure=disc)
    taken = np.pad(avoid, radius)
    chosen = []
    for i in range(len(x)):
        # Array index i of the image is index i + radius of the padded one.
        inner = taken[y[i] : y[i] + disc.shape[0], x[i] : x[i] + disc.shape[1]]
        if (inner & disc).any():
            continue
        chosen.append(i)
        rows = slice(max(y[i] - radius, 0), y[i] + 3 * radius + 1)
        columns = slice(max(x[i] - radius, 0), x[i] + 3 * radius + 1)
        outer = taken[rows, columns]
        first_row, first_column = rows.start - (y[i] - radius), columns.start - (x[i] - radius)
        outer |= grown[first_row:, first_column:][: outer.shape[0], : outer.shape[1]]
    return np.array(chosen, dtype=np.int64)
