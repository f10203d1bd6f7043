"""Pictures of a published image and what was measured on it."""

from __future__ import annotations

__all__ = ("draw_visit", "show_pixels", "typical_noise")

import astropy.table
import numpy as np
from lsst.images import VisitImage
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

_STAR, _GALAXY, _PSF_STAR, _RESERVED = "#ffb000", "#4dc3ff", "#d62728", "#2ca02c"


def draw_visit(image: VisitImage, sources: astropy.table.Table, *, title: str = "") -> Figure:
    """Draw a published image with its sources, and the size of the sources against their magnitude.

    Parameters
    ----------
    image
        Published image, nJy.
    sources
        Its source table.
    title
        Heading; by default the visit, detector and band.

    Returns
    -------
    matplotlib.figure.Figure
        A figure that belongs to no display; save it with ``savefig``.
    """
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
    primary = sources[np.asarray(sources["detect_isPrimary"])]
    _draw_image(left, image)
    _draw_ellipses(left, primary)
    _draw_sizes(right, primary)
    info = image.obs_info
    figure.suptitle(
        title or f"{info.instrument} visit {info.visit_id}, detector {image.detector.id}, band {image.band}"
    )
    return figure


def _draw_image(axes: Axes, image: VisitImage) -> None:
    """Show the pixels of an image."""
    show_pixels(
        axes, image.image.array, noise=typical_noise(image), x0=image.bbox.x.start, y0=image.bbox.y.start
    )
    axes.set(xlabel="x (pixel)", ylabel="y (pixel)")


def typical_noise(image: VisitImage) -> float:
    """Return the median standard deviation of the pixels; 1 if none is known."""
    variance = image.variance.array
    known = variance[np.isfinite(variance) & (variance > 0)]
    return float(np.sqrt(np.median(known))) if len(known) else 1.0


def show_pixels(axes: Axes, pixels: np.ndarray, *, noise: float, x0: int, y0: int) -> None:
    """Show pixels with a scale linear near the noise and logarithmic above.

    Parameters
    ----------
    axes
        Where to draw.
    pixels
        Pixels (h, w).
    noise
        Their noise, in the same unit.
    x0, y0
        Position of the first pixel.
    """
    height, width = pixels.shape
    axes.imshow(
        np.arcsinh(pixels / (2 * noise)),
        origin="lower", cmap="gray", vmin=-1.5, vmax=5.0, interpolation="nearest",
        extent=(x0 - 0.5, x0 + width - 0.5, y0 - 0.5, y0 + height - 0.5),
    )  # fmt: skip


def _draw_ellipses(axes: Axes, sources: astropy.table.Table) -> None:
    """Outline each source by the ellipse of its second moments at three sigma."""
    xx, yy, xy = (np.asarray(sources[f"slot_Shape_{k}"], dtype=float) for k in ("xx", "yy", "xy"))
    x, y = np.asarray(sources["slot_Centroid_x"]), np.asarray(sources["slot_Centroid_y"])
    split = np.hypot(xx - yy, 2 * xy)
    with np.errstate(invalid="ignore"):
        major, minor = np.sqrt((xx + yy + split) / 2), np.sqrt(np.maximum(xx + yy - split, 0) / 2)
    angle = np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))
    extended = np.asarray(sources["base_ClassificationExtendedness_value"], dtype=float)
    for colour, kind in ((_STAR, extended == 0), (_GALAXY, extended == 1)):
        rows = kind & np.isfinite(major + minor + x + y)
        axes.add_collection(
            EllipseCollection(
                6 * major[rows], 6 * minor[rows], angle[rows],
                units="xy", offsets=np.column_stack([x[rows], y[rows]]),
                offset_transform=axes.transData, facecolors="none", edgecolors=colour, linewidths=0.8,
            )
        )  # fmt: skip
    axes.plot([], [], "o", mfc="none", mec=_STAR, label="point-like")
    axes.plot([], [], "o", mfc="none", mec=_GALAXY, label="extended")
    axes.legend(loc="upper right", fontsize="small")


def _draw_sizes(axes: Axes, sources: astropy.table.Table) -> None:
    """Plot the trace radius of every source against its PSF magnitude, and mark the stars of the PSF fit."""
    magnitude = np.asarray(sources["slot_PsfFlux_mag"], dtype=float)
    with np.errstate(invalid="ignore"):
        trace = np.asarray(sources["slot_Shape_xx"], float) + np.asarray(sources["slot_Shape_yy"], float)
        radius = np.sqrt(trace / 2)
    axes.plot(magnitude, radius, ".", ms=3, color="0.6", label="sources")
    for flag, colour, label in (
        ("calib_psf_used", _PSF_STAR, "used in the PSF fit"),
        ("calib_psf_reserved", _RESERVED, "held out of it"),
    ):
        rows = np.asarray(sources[flag])
        axes.plot(magnitude[rows], radius[rows], "o", ms=4, color=colour, label=label)
    finite = np.isfinite(radius) & np.isfinite(magnitude)
    if finite.any():
        axes.set_ylim(0.0, 3.0 * float(np.median(radius[finite])))
        bright, faint = np.percentile(magnitude[finite], (0.2, 99.8))
        axes.set_xlim(bright - 0.1, faint + 0.1)
    axes.set(xlabel="PSF magnitude (AB)", ylabel="trace radius (pixel)")
    axes.legend(loc="upper left", fontsize="small")
