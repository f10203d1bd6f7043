"""Attaching calibrations to a visit image without copying its pixels."""

from __future__ import annotations

__all__ = ("image_box", "replace_components")

from typing import Any

from lsst.images import VisitImage


def replace_components(image: VisitImage, **components: Any) -> VisitImage:
    """Return a visit image that shares the pixels of another and has some components replaced.

    Parameters
    ----------
    image
        The image to start from.
    **components
        Keyword arguments of `lsst.images.VisitImage` (``psf``, ``sky_projection``, ``photometric_scaling``,
        ``aperture_corrections``, ``backgrounds``, ``summary_stats``, ``metadata``, ``mask``, ...).
    """
    # Read the private attribute: the public property raises for a PSF that could not be read from its file.
    arguments: dict[str, Any] = {
        "mask": image.mask,
        "variance": image.variance,
        "sky_projection": image.sky_projection,
        "bounds": image.bounds,
        "obs_info": image.obs_info,
        "summary_stats": image.summary_stats,
        "photometric_scaling": image.photometric_scaling,
        "psf": image._psf,
        "detector": image.detector,
        "aperture_corrections": image.aperture_corrections,
        "backgrounds": image.backgrounds,
        "band": image.band,
        "metadata": dict(image.metadata),
    }
    pixels = components.pop("image", image.image)
    return VisitImage(pixels, **(arguments | components))


def image_box(image: Any) -> tuple[int, int, int, int]:
    """Return the inclusive pixel box ``(x0, y0, x1, y1)`` of anything with an `lsst.images.Box`."""
    box = image.bbox
    return box.x.min, box.y.min, box.x.max, box.y.max
