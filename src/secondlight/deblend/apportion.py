"""From blends to children: fit point sources, make templates, share the pixels (spec reprocess 15.4)."""

from __future__ import annotations

__all__ = ("Children", "deblend")

from typing import NamedTuple

import numpy as np
from lsst.images.psfs import PointSpreadFunction

from ..catalog._footprint_kernels import normalise
from ..catalog.footprints import Footprints
from ._apportion_kernels import apportion_all, template_spans
from .blend import Blends, Pixels
from .config import SourceDeblendConfig
from .psf_fit import PeakPsfs, PointSources, find_point_sources
from .stray_flux import assign_stray_flux
from .templates import Templates, degenerate_peaks, make_templates, weighted


class Children(NamedTuple):
    """Children of n blends, grouped by blend; positions are parent pixels.

    Attributes
    ----------
    blend
        Blend of each child, int64 (c).
    peaks
        Index of its peak in the footprints of the catalog, int64 (c).
    footprints
        Heavy footprints without peaks (c).
    is_point, x, y, flux
        Whether it is a point source; position and flux of the fitted point source (c).
    ramped, patched, has_stray
        How its pixels were made, bool (c).
    parents
        Pixels that remain of each blend (n): those of its children, or all of them if they are not trimmed.
    cut
        Which blends have a template that may reach farther than its window, bool (n).
    """

    blend: np.ndarray
    peaks: np.ndarray
    footprints: Footprints
    is_point: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    ramped: np.ndarray
    patched: np.ndarray
    has_stray: np.ndarray
    parents: Footprints
    cut: np.ndarray


def deblend(
    pixels: Pixels,
    blends: Blends,
    psfs: PeakPsfs,
    psf: PointSpreadFunction,
    *,
    sigma: float,
    config: SourceDeblendConfig,
) -> Children:
    """Split blends into children.

    Parameters
    ----------
    pixels
        Image; ``pixels.owner`` marks what children are extended over.
    blends, psfs
        Blends and the PSF at their peaks, all of them usable.
    psf
        PSF of the image.
    sigma
        Noise per pixel, counts.
    config
        What is done, and how.
    """
    while True:
        points = find_point_sources(pixels, blends, psfs, psf, config)
        templates = make_templates(pixels, blends, psfs, points, sigma=sigma, config=config)
        if config.weightTemplates:
            templates = weighted(templates, pixels, blends)
        if not config.removeDegenerateTemplates:
            break
        dropped = degenerate_peaks(templates, points, pixels, blends, limit=config.maxTempDotProd)
        if not dropped.any():
            break
        psfs = psfs._replace(images=psfs.images[~dropped], x0=psfs.x0[~dropped], y0=psfs.y0[~dropped])
        blends = blends.without_peaks(dropped)
    return _children(pixels, blends, points, templates, config)


def _children(
    pixels: Pixels, blends: Blends, points: PointSources, templates: Templates, config: SourceDeblendConfig
) -> Children:
    """Share the pixels among the templates."""
    shares = apportion_all(pixels.image, templates.boxes, templates.first, templates.values, blends.offsets)
    footprints = _footprints(templates, shares)
    claimed = footprints
    if (templates.values == 0).any():
        claimed = _footprints(templates._replace(values=np.where(templates.values > 0, 1, -1)))
    footprints, has_stray = assign_stray_flux(footprints, claimed, points.is_point, pixels, blends, config)
    parents = _united(footprints, blends.offsets)
    cut = np.bincount(blends.blend, weights=templates.cut, minlength=len(blends)) > 0
    kept = np.flatnonzero(templates.present)
    return Children(
        blend=blends.blend[kept],
        peaks=blends.peaks[kept],
        footprints=footprints.take(kept).shifted(dx=pixels.x0, dy=pixels.y0),
        is_point=points.is_point[kept],
        x=points.x[kept] + pixels.x0,
        y=points.y[kept] + pixels.y0,
        flux=points.flux[kept],
        ramped=templates.ramped[kept],
        patched=templates.patched[kept],
        has_stray=has_stray[kept],
        parents=parents.shifted(dx=pixels.x0, dy=pixels.y0),
        cut=cut,
    )


def _footprints(templates: Templates, shares: np.ndarray | None = None) -> Footprints:
    """Return the footprints of templates, heavy with their shares."""
    spans = template_spans(templates.boxes, templates.first, templates.values)
    heavy = None
    if shares is not None:
        inside = templates.values >= 0
        counts = np.concatenate([[0], np.cumsum(inside)])
        heavy = counts[templates.first], shares[inside]
    return Footprints.from_spans(*spans, heavy=heavy)


def _united(footprints: Footprints, offsets: np.ndarray) -> Footprints:
    """Return the union of groups of footprints, the rows ``offsets[b] ... offsets[b + 1]`` each."""
    spans = footprints.span_y, footprints.span_x0, footprints.span_x1
    return Footprints.from_spans(*normalise(footprints.span_offsets[offsets], *spans))
