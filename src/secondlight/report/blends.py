"""Pictures of blends: the image, each child, and what the children leave over."""

from __future__ import annotations

__all__ = ("draw_blends",)

import numpy as np
from lsst.images import VisitImage
from matplotlib.figure import Figure

from ..catalog.footprints import Footprints
from ..catalog.source_catalog import SourceCatalog
from ..measurement.pixels import put
from .pictures import show_pixels, typical_noise

_CHILDREN = 4
"""Children drawn of a blend, the brightest first."""

_MARGIN = 3
_ROW_HEIGHT = 1.7

type Window = tuple[int, int, int, int]
"""First and last pixel (x0, y0, x1, y1), inclusive."""


def draw_blends(
    image: VisitImage, sources: SourceCatalog, *, parents: np.ndarray | None = None, most: int = 10
) -> Figure:
    """Draw blends: a row each with the image, the brightest children, and the image without any child.

    Parameters
    ----------
    image
        Image that was deblended, in the unit of the children's pixels.
    sources
        Sources with footprints, the children with their pixels.
    parents
        Rows of the blends to draw; by default those with the most children.
    most
        Largest number of rows.

    Returns
    -------
    matplotlib.figure.Figure
        A figure that belongs to no display; save it with ``savefig``.

    Raises
    ------
    ValueError
        Raised if the sources have no footprints, or none of them was split.
    """
    footprints = sources.footprints
    if footprints is None:
        raise ValueError(f"Cannot draw the blends of {len(sources)} sources without footprints.")
    if parents is None:
        parents = np.argsort(-sources["deblend_nChild"], kind="stable")
    parents = np.asarray(parents)[sources["deblend_nChild"][parents] > 0][:most]
    if not len(parents):
        raise ValueError(f"None of {len(sources)} sources was split into children.")
    noise = typical_noise(image)
    figure = Figure(figsize=(_ROW_HEIGHT * (_CHILDREN + 2), _ROW_HEIGHT * len(parents)), layout="constrained")
    for row, panels in zip(parents, figure.subplots(len(parents), _CHILDREN + 2, squeeze=False), strict=True):
        children = np.nonzero(sources["parent"] == sources["id"][row])[0]
        _draw_blend(panels, image, footprints, int(row), children, noise)
        panels[0].set_ylabel(f"{len(children)} children", fontsize="small")
    for axes, title in zip(figure.axes[: _CHILDREN + 2], _titles(), strict=True):
        axes.set_title(title, fontsize="small")
    return figure


def _titles() -> list[str]:
    return ["image", *(f"child {k + 1}" for k in range(_CHILDREN)), "left over"]


def _draw_blend(
    panels: np.ndarray,
    image: VisitImage,
    footprints: Footprints,
    parent: int,
    children: np.ndarray,
    noise: float,
) -> None:
    """Draw one blend into a row of panels."""
    box = image.bbox
    x0, y0, x1, y1 = footprints.take([parent, *children]).bounding_boxes().T
    window = (
        max(int(x0.min()) - _MARGIN, box.x.start),
        max(int(y0.min()) - _MARGIN, box.y.start),
        min(int(x1.max()) + _MARGIN, box.x.stop - 1),
        min(int(y1.max()) + _MARGIN, box.y.stop - 1),
    )
    pixels = image.image.array[
        window[1] - box.y.start : window[3] + 1 - box.y.start,
        window[0] - box.x.start : window[2] + 1 - box.x.start,
    ]
    shares = [render_child(footprints, int(child), window) for child in children]
    brightest = sorted(shares, key=lambda share: -float(share.sum()))[:_CHILDREN]
    rest = pixels - np.sum(shares, axis=0)
    for axes in panels:
        axes.set(xticks=[], yticks=[])
    drawn = [*panels[: 1 + len(brightest)], panels[-1]]
    for axes, shown in zip(drawn, [pixels, *brightest, rest], strict=True):
        show_pixels(axes, shown, noise=noise, x0=window[0], y0=window[1])
    for axes in panels[1 + len(brightest) : -1]:
        axes.set_axis_off()
    peaks = footprints.peaks(parent)
    panels[0].plot(peaks.x, peaks.y, "+", color="#d62728", ms=4)


def render_child(footprints: Footprints, row: int, window: Window) -> np.ndarray:
    """Return the pixels of a child in a window, zero outside its footprint, float32 (h, w)."""
    x0, y0, x1, y1 = window
    share = np.zeros((y1 - y0 + 1, x1 - x0 + 1), dtype=np.float32)
    f = footprints
    put(share, x0, y0, f.span_offsets, f.span_y, f.span_x0, f.span_x1, f.heavy_offsets, f.heavy, row)
    return share
