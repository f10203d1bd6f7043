"""Cut-outs of the stars that a PSF is fitted to, with everything else masked (spec finalize 4)."""

from __future__ import annotations

__all__ = (
    "MakePsfCandidatesConfig",
    "MakePsfCandidatesTask",
    "PsfCandidates",
    "PsfStamps",
    "blend_footprints",
    "cut_stamps",
)

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from lsst.images import MaskSchema, VisitImage
from lsst.pex.config import Config, RangeField
from lsst.pipe.base import Struct, Task
from scipy import ndimage

from ..catalog.footprints import Footprints
from ..catalog.mask_planes import ensure_planes, plane_name
from ..catalog.source_catalog import SourceCatalog

_NEIGHBOUR_GROWTH = 3
_EIGHT_CONNECTED = np.zeros((3, 3, 3), dtype=np.bool_)
_EIGHT_CONNECTED[1] = True


def _disc(radius: int) -> npt.NDArray[np.bool_]:
    """Return a disc that lies in the plane of one stamp: rows dy span |dx| <= int(sqrt(r**2 - dy**2))."""
    offset = np.arange(-radius, radius + 1)
    half = np.sqrt(radius**2 - offset**2).astype(int)
    return np.asarray(np.abs(offset) <= half[:, None])[None]


@dataclasses.dataclass(frozen=True, eq=False)
class PsfStamps:
    """Square cut-outs of an image about n stars.

    Parameters
    ----------
    x0, y0
        Parent pixel of the first element of each stamp, int64 (n).
    image, variance
        Pixels in the units of the image, float32 (n, size, size).
    mask
        Mask bytes, uint8 (n, size, size, bytes): the planes of the image, except that pixels of blends and
        neighbours have INTRP set and DETECTED cleared.
    mask_schema
        What the bits of the mask mean.
    """

    x0: np.ndarray
    y0: np.ndarray
    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    mask_schema: MaskSchema

    def __len__(self) -> int:
        return len(self.x0)

    def __getitem__(self, rows: Any) -> PsfStamps:
        return PsfStamps(
            self.x0[rows],
            self.y0[rows],
            self.image[rows],
            self.variance[rows],
            self.mask[rows],
            self.mask_schema,
        )

    def masked(self, planes: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Return the pixels (n, size, size) with any of the named planes; unknown planes are ignored."""
        names = {plane_name(name) for name in planes} & set(self.mask_schema.names)
        return np.asarray(np.any(self.mask & self.mask_schema.bitmask(*sorted(names)), axis=-1))


@dataclasses.dataclass(frozen=True, eq=False)
class PsfCandidates:
    """Stars that a PSF may be fitted to.

    Parameters
    ----------
    rows
        Row of each star in the catalog they were made from, int64 (n).
    id
        Source id, int64 (n).
    x, y
        Centroids in parent pixels, float64 (n).
    color_value
        Colour in mag, NaN if unknown, float32 (n).
    color_type
        What the colour is made of, such as ``g-i``; '' if unknown, str (n).
    stamps
        Cut-outs.
    footprints
        Footprints of the stars, if they have any.
    """

    rows: np.ndarray
    id: np.ndarray
    x: np.ndarray
    y: np.ndarray
    color_value: np.ndarray
    color_type: np.ndarray
    stamps: PsfStamps
    footprints: Footprints | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(
        self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]] | slice
    ) -> PsfCandidates:
        return PsfCandidates(
            self.rows[rows],
            self.id[rows],
            self.x[rows],
            self.y[rows],
            self.color_value[rows],
            self.color_type[rows],
            self.stamps[rows],
            self.footprints.take(rows) if self.footprints is not None else None,
        )

    @property
    def size(self) -> int:
        """Side of the stamps, pixels."""
        return int(self.stamps.image.shape[-1])

    def with_size(self, exposure: VisitImage, size: int) -> PsfCandidates:
        """Return the same stars cut out of an image again with another stamp size.

        Raises
        ------
        ValueError
            Raised if a stamp would leave the image.
        """
        if size == self.size:
            return self
        stamps = cut_stamps(exposure, x=self.x, y=self.y, size=size, footprints=self.footprints)
        return dataclasses.replace(self, stamps=stamps)


def _first_pixels(position: np.ndarray, size: int) -> np.ndarray:
    return np.floor(position + 0.5).astype(np.int64) - size // 2


def _fits(exposure: VisitImage, x: np.ndarray, y: np.ndarray, size: int) -> npt.NDArray[np.bool_]:
    """Return which positions have a whole stamp inside an image."""
    inside = np.isfinite(x) & np.isfinite(y)
    for position, interval in ((x, exposure.bbox.x), (y, exposure.bbox.y)):
        first = _first_pixels(np.where(np.isfinite(position), position, 0.0), size)
        inside &= (first >= interval.start) & (first + size <= interval.stop)
    return inside


def cut_stamps(
    exposure: VisitImage, *, x: np.ndarray, y: np.ndarray, size: int, footprints: Footprints | None = None
) -> PsfStamps:
    """Cut stars out of an image and mask what belongs to others.

    Parameters
    ----------
    exposure
        Image with DETECTED set on all sources.
    x, y
        Positions in parent pixels (n); the stamps are centred on the nearest pixel.
    size
        Side of the stamps, pixels.
    footprints
        Footprints of the stars (n rows); a row with several peaks is a blend that was not split, and its
        pixels nearer to another peak are masked.

    Raises
    ------
    ValueError
        Raised if a stamp would leave the image.
    """
    if not _fits(exposure, x, y, size).all():
        raise ValueError(f"A stamp of {size} pixels leaves the image {exposure.bbox}.")
    x0, y0 = _first_pixels(x, size), _first_pixels(y, size)
    where = (y0 - exposure.bbox.y.start, x0 - exposure.bbox.x.start)
    mask_image = ensure_planes(exposure.mask, ["DETECTED", "INTRP"])

    def windows(array: np.ndarray) -> np.ndarray:
        if not len(x):
            return np.empty((0, *array.shape[2:], size, size), dtype=array.dtype)
        return np.array(np.lib.stride_tricks.sliding_window_view(array, (size, size), axis=(0, 1))[where])

    stamps = PsfStamps(
        x0,
        y0,
        windows(exposure.image.array),
        windows(exposure.variance.array),
        np.ascontiguousarray(np.moveaxis(windows(mask_image.array), 1, -1)),
        mask_image.schema,
    )
    detected = mask_image.schema.bitmask(plane_name("DETECTED"))
    interpolated = mask_image.schema.bitmask(plane_name("INTRP"))

    def exclude(pixels: np.ndarray) -> None:
        stamps.mask[pixels] = (stamps.mask[pixels] & ~detected) | interpolated

    if footprints is not None:
        exclude(_nearer_to_other_peaks(footprints, x, y, stamps))
    exclude(_neighbours(np.any(stamps.mask & detected, axis=-1)))
    return stamps


def _nearer_to_other_peaks(
    footprints: Footprints, x: np.ndarray, y: np.ndarray, stamps: PsfStamps
) -> npt.NDArray[np.bool_]:
    """Return the footprint pixels (n, size, size) strictly nearer to another peak than to the star's."""
    result = np.zeros(stamps.image.shape, dtype=np.bool_)
    size = stamps.image.shape[-1]
    for i in map(int, np.flatnonzero(np.diff(footprints.peak_offsets) > 1)):
        peaks = footprints.peaks(i)
        px, py = peaks.x.astype(np.int64) - stamps.x0[i], peaks.y.astype(np.int64) - stamps.y0[i]
        central = np.argmin((peaks.x - x[i]) ** 2 + (peaks.y - y[i]) ** 2)
        pixel = np.arange(size)
        distance = (pixel[None, :, None] - py[:, None, None]) ** 2 + (pixel - px[:, None, None]) ** 2
        own = footprints.take([i]).to_mask((size, size), x0=int(stamps.x0[i]), y0=int(stamps.y0[i]))
        result[i] = own & (distance.min(axis=0) < distance[central])
    return result


def _neighbours(detected: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels of detections other than the central one, grown by a small disc, (n, size, size)."""
    labels, count = ndimage.label(detected, structure=_EIGHT_CONNECTED)
    if count == 0:
        return detected
    middle = detected.shape[-1] // 2
    _, first = np.unique(labels, return_index=True)
    stamp_of_label = first // labels[0].size
    stamp_of_label = stamp_of_label[-count:]  # the background label, where there is one, comes first
    crowded = np.bincount(stamp_of_label, minlength=len(detected)) > 1
    others = detected & (labels != labels[:, middle, middle][:, None, None]) & crowded[:, None, None]
    return np.asarray(ndimage.binary_dilation(others, structure=_disc(_NEIGHBOUR_GROWTH)))


def blend_footprints(sources: SourceCatalog, rows: np.ndarray) -> Footprints | None:
    """Return the footprints of sources; of a child that of its parent, with the peaks of all children.

    Parameters
    ----------
    sources
        Sources of an image, parents and children.
    rows
        Which of them.
    """
    if sources.footprints is None:
        return None
    parent = np.asarray(sources["parent"])[rows]
    ids = np.asarray(sources["id"])
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids, parent, sorter=order), len(ids) - 1)
    known = (parent != 0) & (ids[order[place]] == parent)
    return sources.footprints.take(np.where(known, order[place], rows))


class MakePsfCandidatesConfig(Config):
    """Size of the cut-outs."""

    kernelSize = RangeField(dtype=int, doc="Side of the stamps without border, pixels.", default=27, min=1)
    borderWidth = RangeField(dtype=int, doc="Border on every side of the stamps, pixels.", default=0, min=0)


class MakePsfCandidatesTask(Task):
    """Cut the stars of a catalog out of an image."""

    ConfigClass: ClassVar[type[Config]] = MakePsfCandidatesConfig
    _DefaultName: ClassVar[str] = "make_psf_candidates"
    config: MakePsfCandidatesConfig

    def run(
        self, catalog: SourceCatalog, exposure: VisitImage, *, psf_candidate_field: str | None = None
    ) -> Struct:
        """Make candidates of the stars whose stamps lie inside the image and hold finite values.

        Parameters
        ----------
        catalog
            Stars with the centroid slot set.  If it has the column ``psf_max_value``, the largest pixel of
            each accepted stamp is stored there.
        exposure
            Background-subtracted image with DETECTED set on all sources.
        psf_candidate_field
            Flag to set on the accepted stars.

        Returns
        -------
        lsst.pipe.base.Struct
            ``candidates``: `PsfCandidates` of the accepted stars; ``accepted``: one boolean per catalog row.
        """
        size = self.config.kernelSize + 2 * self.config.borderWidth
        x = np.array(catalog["slot_Centroid_x"], dtype=np.float64)
        y = np.array(catalog["slot_Centroid_y"], dtype=np.float64)
        accepted = _fits(exposure, x, y, size)
        if not accepted.all():
            self.log.warning(
                "%d of %d stars are too near the edge for a stamp of %d pixels.",
                np.count_nonzero(~accepted), len(catalog), size,
            )  # fmt: skip
        rows = np.flatnonzero(accepted)
        part = catalog.footprints.take(rows) if catalog.footprints is not None else None
        stamps = cut_stamps(exposure, x=x[rows], y=y[rows], size=size, footprints=part)
        highest = np.fmax.reduce(stamps.image, axis=(1, 2))
        candidates = PsfCandidates(
            rows,
            np.array(catalog["id"][rows]),
            x[rows],
            y[rows],
            _optional(catalog, "psf_color_value", np.float32(np.nan))[rows],
            _optional(catalog, "psf_color_type", "")[rows],
            stamps,
            part,
        )[np.isfinite(highest)]
        accepted[rows] = np.isfinite(highest)
        if "psf_max_value" in catalog:
            catalog["psf_max_value"][candidates.rows] = highest[np.isfinite(highest)]
        if psf_candidate_field is not None:
            catalog[psf_candidate_field][candidates.rows] = True
        return Struct(candidates=candidates, accepted=accepted)


def _optional(catalog: SourceCatalog, name: str, default: Any) -> np.ndarray:
    """Return a column, or the default in every row if the catalog has no such column."""
    return np.array(catalog[name]) if name in catalog else np.full(len(catalog), default)
