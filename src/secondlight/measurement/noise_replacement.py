"""Replacing sources by noise, so that each can be measured without its neighbours (spec reprocess 16.3)."""

from __future__ import annotations

__all__ = ("NoiseLevelError", "NoiseReplacement", "NoiseReplacerConfig", "unreplaced_pixels")

import dataclasses
from typing import Any

import lsst.pex.config as pex_config
import numpy as np
from lsst.images import VisitImage
from lsst.pipe.base import AlgorithmError

from secondlight.background.statistics import clipped_statistics
from secondlight.catalog._footprint_kernels import gather
from secondlight.catalog.footprints import Footprints
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import image_box

from .pixels import SourcePixels, put_all, take_own, take_rows


class NoiseLevelError(AlgorithmError):
    """The level of the noise of an image cannot be found.

    Parameters
    ----------
    where
        Visit and detector.
    source
        Configured ``noiseSource``.
    reason
        What is wrong.
    """

    def __init__(self, where: str, *, source: str, reason: str) -> None:
        super().__init__(f"The noise of {where} cannot be found ({source}): {reason}.")
        self._metadata = {"noise_source": source, "reason": reason}

    @property
    def metadata(self) -> dict[str, Any]:
        """Where the noise was to come from, and what is wrong."""
        return dict(self._metadata)


class NoiseReplacerConfig(pex_config.Config):
    """Where the replacement noise comes from."""

    noiseSource = pex_config.ChoiceField[str](
        doc="What sets the level of the noise.",
        allowed={
            "measure": "Clipped mean and standard deviation of all pixels of the image.",
            "variance": "The variance of each pixel.",
            "variance_median": "The median of the variance plane.",
            "meta": "The variance in the image's metadata key BGMEAN.",
        },
        default="measure",
        optional=False,
    )
    noiseOffset = pex_config.Field[float](doc="Added to the mean of the noise.", default=0.0)
    noiseSeedMultiplier = pex_config.Field[int](
        doc="What the seed of the caller is multiplied by; it changes the noise of all images.", default=1
    )


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class NoiseReplacement:
    """An image with all its sources replaced by noise, and the sources' own pixels.

    Parameters
    ----------
    image
        Replaced image, float32 (h, w).
    footprints
        Pixels of each source, inside the image.
    offsets, own
        Values of the sources over their spans; a source without own values has none.
    row_of_id
        Row of each source id; a child without own pixels has the row of its nearest ancestor with some.
    """

    image: np.ndarray
    footprints: Footprints
    offsets: np.ndarray
    own: np.ndarray
    row_of_id: dict[int, int]

    @staticmethod
    def from_sources(
        exposure: VisitImage,
        sources: SourceCatalog,
        *,
        config: NoiseReplacerConfig,
        seed: int,
        noise: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> NoiseReplacement:
        """Replace all sources of a catalog.

        Parameters
        ----------
        exposure
            Image to start from; it is not changed.
        sources
            Catalog with ids, parents and footprints of every source of the image.
        config
            Kind of noise.
        seed
            Seed of the random numbers.
        noise
            Given noise ``(offsets, values)`` in row order instead of random numbers; rows without any keep
            what lies under them.

        Raises
        ------
        ValueError
            Raised if the catalog has no footprints, or the image lacks the metadata that the noise is to come
            from.
        NoiseLevelError
            Raised if the image gives no level of noise, such as one without a finite pixel.
        """
        if sources.footprints is None:
            raise ValueError("Sources without footprints cannot be replaced by noise.")
        x0, y0, x1, y1 = image_box(exposure)
        footprints = sources.footprints.clipped(x0=x0, y0=y0, x1=x1, y1=y1)
        ids, parents = sources["id"], sources["parent"]
        is_heavy = np.diff(footprints.heavy_offsets) > 0
        active = is_heavy | (parents == 0)
        offsets = _offsets(np.where(active, footprints.areas(), 0))
        own = np.empty(offsets[-1], dtype=np.float32)
        f = footprints
        take_own(
            exposure.image.array, x0, y0, f.span_offsets, f.span_y, f.span_x0, f.span_x1,
            f.heavy_offsets, f.heavy, is_heavy & (parents != 0), offsets, own,
        )  # fmt: skip
        if noise is None:
            noise = offsets, _draw(exposure, footprints if active.all() else f.take(active), config, seed)
        image = np.array(exposure.image.array, dtype=np.float32)
        put_all(image, x0, y0, f.span_offsets, f.span_y, f.span_x0, f.span_x1, noise[0], noise[1])
        return NoiseReplacement(image, footprints, offsets, own, _active_rows(ids, parents, active))

    def pixels(self, exposure: VisitImage, ids: np.ndarray) -> SourcePixels:
        """Return the image, as a working image, with the own pixels of some sources.

        The image is not copied: what shows a source in it must hide it again.

        Raises
        ------
        ValueError
            Raised if a source was not replaced by noise.
        """
        try:
            rows = np.array([self.row_of_id[int(i)] for i in ids], dtype=np.int64)
        except KeyError as error:
            raise ValueError(f"Source {error.args[0]} is not among the sources replaced by noise.") from None
        if np.array_equal(rows, np.arange(len(self.footprints))):
            return _source_pixels(exposure, self.image, self.footprints, self.offsets, self.own)
        offsets = _offsets(np.diff(self.offsets)[rows])
        own = np.empty(offsets[-1], dtype=np.float32)
        take_rows(self.offsets, self.own, rows, offsets, own)
        return _source_pixels(exposure, self.image, self.footprints.take(rows), offsets, own)


def _source_pixels(
    exposure: VisitImage, image: np.ndarray, footprints: Footprints, offsets: np.ndarray, own: np.ndarray
) -> SourcePixels:
    x0, y0 = exposure.bbox.x.start, exposure.bbox.y.start
    f = footprints
    spans = np.repeat(np.diff(offsets) > 0, np.diff(f.span_offsets))
    replaced = gather(image, x0, y0, f.span_y[spans], f.span_x0[spans], f.span_x1[spans])
    return SourcePixels(
        image=image,
        variance=np.asarray(exposure.variance.array, dtype=np.float32),
        x0=x0,
        y0=y0,
        span_offsets=f.span_offsets,
        span_y=f.span_y,
        span_x0=f.span_x0,
        span_x1=f.span_x1,
        offsets=offsets,
        own=own,
        replaced=replaced,
    )


def unreplaced_pixels(exposure: VisitImage, n: int) -> SourcePixels:
    """Return the pixels of n sources that all see the image as it is."""
    image = np.array(exposure.image.array, dtype=np.float32)
    none = np.zeros(n + 1, dtype=np.int64)
    return _source_pixels(exposure, image, Footprints.empty(n), none, np.zeros(0, dtype=np.float32))


def _active_rows(ids: np.ndarray, parents: np.ndarray, active: np.ndarray) -> dict[int, int]:
    row_of_id = {int(i): row for row, i in enumerate(ids)}
    result = {}
    for i, row in row_of_id.items():
        ancestor = row
        while not active[ancestor] and int(parents[ancestor]) in row_of_id:
            ancestor = row_of_id[int(parents[ancestor])]
        result[i] = ancestor
    return result


def _draw(exposure: VisitImage, footprints: Footprints, config: NoiseReplacerConfig, seed: int) -> np.ndarray:
    """Return noise for the pixels of all footprints, row after row, float32."""
    rng = np.random.default_rng([abs(seed * config.noiseSeedMultiplier), int(seed < 0)])
    mean, stdev = _noise_level(exposure, footprints, config)
    noise = rng.standard_normal(int(footprints.areas().sum()), dtype=np.float32)
    noise *= stdev
    noise += mean + config.noiseOffset
    return noise


def _noise_level(
    exposure: VisitImage, footprints: Footprints, config: NoiseReplacerConfig
) -> tuple[float, float | np.ndarray]:
    """Return mean and standard deviation of the noise, one for all or one per pixel."""
    variance = exposure.variance.array
    where = f"visit {exposure.obs_info.visit_id}, detector {exposure.obs_info.detector_num}"
    match config.noiseSource:
        case "measure":
            statistics = clipped_statistics(exposure.image.array)
            mean, stdev = statistics.mean, statistics.stdev
        case "variance_median":
            known = variance[np.isfinite(variance) & (variance >= 0)]
            mean, stdev = 0.0, float(np.sqrt(np.median(known))) if len(known) else np.nan
        case "meta":
            if "BGMEAN" not in exposure.metadata:
                raise ValueError(f"Noise from metadata needs the key BGMEAN in the image of {where}.")
            level = float(str(exposure.metadata["BGMEAN"]))
            if not level >= 0:
                raise NoiseLevelError(where, source="meta", reason=f"BGMEAN is {level:g}")
            mean, stdev = 0.0, level**0.5
        case _:
            x0, y0 = exposure.bbox.x.start, exposure.bbox.y.start
            f = footprints
            values = gather(variance, x0, y0, f.span_y, f.span_x0, f.span_x1)
            return 0.0, np.sqrt(np.where(np.isfinite(values) & (values > 0), values, 0.0))
    if not (np.isfinite(mean) and np.isfinite(stdev)):
        raise NoiseLevelError(where, source=config.noiseSource, reason="no finite pixels")
    return mean, stdev
