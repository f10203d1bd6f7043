"""Attaching calibrations to a visit image without copying its pixels."""

from __future__ import annotations

__all__ = ("image_box", "replace_components", "visit_of")

from typing import Any

from lsst.images import VisitImage


def replace_components(visit_image: VisitImage, /, **components: Any) -> VisitImage:
    """Return a visit image that shares the pixels of another and has some components replaced.

    Parameters
    ----------
    visit_image
        The image to start from.
    **components
        Arguments of `lsst.images.VisitImage` (``image``, ``mask``, ``psf``, ``sky_projection``,
        ``photometric_scaling``, ``aperture_corrections``, ``backgrounds``, ``summary_stats``, ...).
    """
    # Read the private attribute: the public property raises for a PSF that could not be read from its file.
    arguments: dict[str, Any] = {
        "mask": visit_image.mask,
        "variance": visit_image.variance,
        "sky_projection": visit_image.sky_projection,
        "bounds": visit_image.bounds,
        "obs_info": visit_image.obs_info,
        "summary_stats": visit_image.summary_stats,
        "photometric_scaling": visit_image.photometric_scaling,
        "psf": visit_image._psf,
        "detector": visit_image.detector,
        "aperture_corrections": visit_image.aperture_corrections,
        "backgrounds": visit_image.backgrounds,
        "band": visit_image.band,
        "metadata": dict(visit_image.metadata),
    }
    pixels = components.pop("image", visit_image.image)
    return VisitImage(pixels, **(arguments | components))


def image_box(image: Any) -> tuple[int, int, int, int]:
    """Return the inclusive pixel box ``(x0, y0, x1, y1)`` of anything with an `lsst.images.Box`."""
    box = image.bbox
    return box.x.min, box.y.min, box.x.max, box.y.max


def visit_of(image: VisitImage) -> int:
    """Return the visit id of an image; the exposure id if it has none.

    Raises
    ------
    ValueError
        Raised if it has neither.
    """
    info = image.obs_info
    visit = info.visit_id if info.visit_id is not None else info.exposure_id
    if visit is None:
        raise ValueError("The observation info of the image has neither a visit nor an exposure id.")
    return int(visit)
