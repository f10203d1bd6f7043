"""Combination of the snaps of one visit into one image."""

from __future__ import annotations

__all__ = ("SnapCombineConfig", "SnapCombineTask")

from collections.abc import Sequence
from typing import Any

import astropy.time
import numpy as np
from astro_metadata_translator import ObservationInfo
from lsst.images import VisitImage
from lsst.images.fields import Field
from lsst.pex.config import Config, ListField
from lsst.pipe.base import Task

from ..catalog.mask_planes import ensure_planes, mask_of, plane_name
from ..catalog.visit_image import replace_components


class SnapCombineConfig(Config):
    """Which pixels of a snap are left out."""

    bad_mask_planes = ListField[str](
        doc="Mask planes whose pixels are not used: the other snap replaces them, scaled to both.",
        default=[],
    )


class SnapCombineTask(Task):
    """Add the two snaps of a visit (spec reprocess 10); one image passes through.

    Pixels good in both snaps are summed.  Where one is bad the other counts twice (its variance four times).
    Where both are bad the pixel is NaN and gets the planes EDGE and NO_DATA.

    Parameters
    ----------
    **kwargs
        Passed to `lsst.pipe.base.Task`.
    """

    ConfigClass = SnapCombineConfig
    _DefaultName = "snapCombine"
    config: SnapCombineConfig

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def run(self, exposures: VisitImage | Sequence[VisitImage]) -> VisitImage:
        """Return one image of the visit.

        Parameters
        ----------
        exposures
            One image, or a list of one or two.

        Returns
        -------
        image
            The image itself if there is only one.  For two, a new image with the calibrations and metadata of
            the first, its PSF too, the summed exposure time and the mean of the two dates; a count of the sum
            is worth as much less flux as the exposure is longer.

        Raises
        ------
        TypeError
            Raised if something else than images is given.
        RuntimeError
            Raised if the list has neither one nor two images.
        ValueError
            Raised if the two images differ in visit, detector, filter, pixel box or unit.
        """
        if isinstance(exposures, VisitImage):
            return exposures
        snaps = list(exposures) if isinstance(exposures, Sequence) else [exposures]
        wrong = [type(snap).__name__ for snap in snaps if not isinstance(snap, VisitImage)]
        if wrong:
            raise TypeError(f"Expected a VisitImage or a list of them; found {', '.join(wrong)}.")
        if len(snaps) == 1:
            return snaps[0]
        if len(snaps) != 2:
            whose = f" for {_name(snaps[0])}" if snaps else ""
            raise RuntimeError(f"Can only combine 1 or 2 snaps of a visit; found {len(snaps)}{whose}.")
        return self.combine(snaps[0], snaps[1])

    def combine(self, first: VisitImage, second: VisitImage) -> VisitImage:
        """Return the sum of two snaps.

        Raises
        ------
        ValueError
            Raised if the two images differ in visit, detector, filter, pixel box or unit.
        """
        _check_alike(first, second)
        snaps = (first, second)
        good = [~mask_of(snap.mask, self.config.bad_mask_planes) for snap in snaps]
        weight = 0.5 * (good[0].astype(np.float32) + good[1])
        empty = weight == 0
        divisor = np.where(empty, np.float32(np.nan), weight)

        image = sum(np.where(g, s.image.array, 0) for s, g in zip(snaps, good, strict=True)) / divisor
        variance = sum(np.where(g, s.variance.array, 0) for s, g in zip(snaps, good, strict=True))
        variance = variance / divisor**2

        mask = ensure_planes(first.mask.copy(), ["EDGE", "NO_DATA", *second.mask.schema.names])
        for name in sorted(mask.schema.names):
            planes = [mask_of(snap.mask, [name], missing_ok=True) for snap in snaps]
            mask.clear(name)
            mask.set(name, (planes[0] & good[0]) | (planes[1] & good[1]))
        for name in ("EDGE", "NO_DATA"):
            mask.set(plane_name(name), empty)

        combined = first.copy()
        combined.image.array[...] = image
        combined.variance.array[...] = variance
        obs_info = combine_obs_info(first.obs_info, second.obs_info)
        return replace_components(
            combined, mask=mask, obs_info=obs_info, photometric_scaling=_scaling_of_sum(first, second)
        )


def _scaling_of_sum(first: VisitImage, second: VisitImage) -> Field | None:
    """Return the calibration (nJy per count) of the sum: both exposures collect the counts of a source."""
    scaling = first.photometric_scaling
    times = (first.obs_info.exposure_time, second.obs_info.exposure_time)
    share = 0.5 if times[0] is None or times[1] is None else float(times[0] / (times[0] + times[1]))
    return None if scaling is None else scaling * share


def _name(snap: VisitImage) -> str:
    """Return what to call a snap in messages."""
    info = snap.obs_info
    visit = "unknown" if info.visit_id is None else info.visit_id
    return f"exposure {info.exposure_id} of visit {visit}, detector {snap.detector.id}"


def _check_alike(first: VisitImage, second: VisitImage) -> None:
    """Raise an error that says what differs if two snaps cannot be added pixel by pixel.

    Their PSFs may differ: that of the sum is fitted or given later.
    """
    ours, theirs = (
        {
            "visit": snap.obs_info.visit_id,
            "detector": snap.detector.id,
            "filter": snap.physical_filter,
            "pixels": snap.bbox,
            "unit": snap.unit,
        }
        for snap in (first, second)
    )
    for what, value in ours.items():
        other = theirs[what]
        if value != other and value is not None and other is not None:
            raise ValueError(
                f"Cannot combine the snaps {_name(first)} and {_name(second)}: "
                f"the {what} of the first is {value}, of the second {other}."
            )


def combine_obs_info(first: ObservationInfo, second: ObservationInfo) -> ObservationInfo:
    """Return the observation metadata of two snaps: times summed, dates averaged, the rest of the first."""
    with first.edit_copy() as combined:
        for name in ("exposure_time", "exposure_time_requested", "dark_time"):
            ours, theirs = getattr(first, name), getattr(second, name)
            if ours is not None and theirs is not None:
                setattr(combined, name, ours + theirs)
        for name in ("datetime_begin", "datetime_end"):
            ours, theirs = getattr(first, name), getattr(second, name)
            if ours is not None and theirs is not None:
                setattr(combined, name, _mean_date(ours, theirs))
    return combined


def _mean_date(first: astropy.time.Time, second: astropy.time.Time) -> astropy.time.Time:
    return first + 0.5 * (second - first)
