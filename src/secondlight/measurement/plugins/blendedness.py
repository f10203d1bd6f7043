"""base_Blendedness: how much of the light at a source belongs to its neighbours (spec reprocess 17.10)."""

from __future__ import annotations

__all__ = ("BlendednessConfig", "BlendednessPlugin", "absolute_bias", "expected_absolute")

import math

import lsst.pex.config as pex_config
import numpy as np
from numba import njit

from secondlight.catalog.schema import Schema
from secondlight.photometry._aperture_kernels import row_span

from ..pixels import SourcePixels, hide, show
from ..plugin import FLUX_ORDER, MeasurementPlugin, MeasurementPluginConfig, register
from ..sources import MeasurementSources

_MOMENTS = ("xx", "yy", "xy")
_KINDS = ("raw", "abs")
_SIDES = ("child", "parent")
_NO_BIAS = 9.0
"""Standard deviations above zero beyond which the absolute value of a pixel has no bias."""


class BlendednessConfig(MeasurementPluginConfig):
    """Configuration of `BlendednessPlugin`."""

    doOld = pex_config.Field[bool](doc="Whether to compare deblended pixels with the image.", default=True)
    doFlux = pex_config.Field[bool](doc="Whether to measure blendedness by weighted fluxes.", default=True)
    doShape = pex_config.Field[bool](doc="Whether to measure weighted moments.", default=True)
    nSigmaWeightMax = pex_config.Field[float](
        doc="Size of the region in units of the source's shape.", default=3.0, check=lambda n: n > 0
    )


@register("base_Blendedness")
class BlendednessPlugin(MeasurementPlugin):
    """Fluxes and moments of the source alone and of the whole image, under the source's own Gaussian."""

    ConfigClass = BlendednessConfig
    config: BlendednessConfig
    # Needs both slots, so it runs between the shapes and the fluxes.
    order = 0.5 * (1.0 + FLUX_ORDER)

    def declare(self, schema: Schema) -> None:
        """Add ratios, fluxes, moments and flags."""
        if self.config.doOld:
            schema.add(self.column("old"), np.float64, "neighbours' share under the deblended pixels")
        if self.config.doFlux:
            for kind in _KINDS:
                schema.add(self.column(kind), np.float64, f"1 - child over parent flux, {kind} pixels")
                for side in _SIDES:
                    doc = f"weighted flux of the {side}, {kind} pixels"
                    schema.add(self.column(f"{kind}_{side}_instFlux"), np.float64, doc, unit="ct")
        if self.config.doShape:
            for kind in _KINDS:
                for side in _SIDES:
                    for c in _MOMENTS:
                        doc = f"weighted moment {c} of the {side}, {kind} pixels"
                        schema.add(self.column(f"{kind}_{side}_{c}"), np.float64, doc, unit="pix2")
        flags = {
            "flag": "general failure",
            "flag_noCentroid": "no usable position",
            "flag_noShape": "no usable shape",
        }
        self.add_flags(schema, flags)

    def measure(self, sources: MeasurementSources) -> None:
        """Measure at the centroid and shape slots."""
        no_centroid, no_shape = sources.centroid_flag, sources.shape_flag
        x, y = sources.centroids
        usable = np.isfinite(x) & np.isfinite(y) & np.isfinite(sources.shapes[:, 0])
        parent = np.asarray(sources.exposure.image.array, dtype=np.float32)
        results = _blendedness_loop(sources.pixels, parent, x, y, sources.shapes, self.config.nSigmaWeightMax)
        flag = ~usable | no_centroid | no_shape
        if self.config.doOld:
            is_child = (sources.catalog["parent"] != 0) & (np.diff(sources.footprints.heavy_offsets) > 0)
            self.write(sources, old=_old_loop(sources.pixels, parent, is_child))
        for k, kind in enumerate(_KINDS):
            child, whole = results[:, k, 0, 0], results[:, k, 1, 0]
            if self.config.doFlux:
                with np.errstate(invalid="ignore", divide="ignore"):
                    ratio = np.where(whole == 0, np.nan, 1.0 - child / whole)
                flag |= ~(np.isfinite(ratio) & np.isfinite(child) & np.isfinite(whole))
                self.write(
                    sources,
                    **{kind: ratio, f"{kind}_child_instFlux": child, f"{kind}_parent_instFlux": whole},
                )
            if self.config.doShape:
                for s, side in enumerate(_SIDES):
                    columns = {f"{kind}_{side}_{c}": results[:, k, s, 1 + m] for m, c in enumerate(_MOMENTS)}
                    self.write(sources, **columns)
        self.write(sources, flag=flag, flag_noCentroid=no_centroid, flag_noShape=no_shape)


@njit(cache=True, nogil=True)
def expected_absolute(data: float, variance: float) -> float:
    """Return the expected true value of a pixel, given its noisy value and that it is not negative."""
    if variance == 0.0:
        return max(data, 0.0)
    normalisation = 0.5 * math.erfc(-data / math.sqrt(2.0 * variance))
    if not normalisation > 0.0:
        return 0.0
    density = math.sqrt(0.5 * variance / math.pi) * math.exp(-0.5 * data * data / variance)
    return data + density / normalisation


@njit(cache=True, nogil=True)
def absolute_bias(mu: float, variance: float) -> float:
    """Return the mean excess of |data| over a true value mu >= 0, for Gaussian noise."""
    if variance == 0.0:
        return 0.0
    density = math.sqrt(2.0 * variance / math.pi) * math.exp(-0.5 * mu * mu / variance)
    return density - mu * math.erfc(mu / math.sqrt(2.0 * variance))


@njit(cache=True, nogil=True)
def _positive(data: float, variance: float) -> float:
    """Return |data| less its expected excess over the true value."""
    # Far above the noise both corrections are smaller than the last digit.
    if data > 0.0 and data * data > _NO_BIAS * _NO_BIAS * variance:
        return data
    return abs(data) - absolute_bias(expected_absolute(data, variance), variance)


@njit(cache=True, nogil=True)
def _weighted(
    child: np.ndarray,
    parent: np.ndarray,
    variance: np.ndarray,
    x: float,
    y: float,
    shape: np.ndarray,
    n_sigma: float,
    results: np.ndarray,
) -> None:
    """Fill flux, xx, yy, xy by kind (raw, abs) and side (child, parent), (2, 2, 4)."""
    xx, yy, xy = shape
    det = xx * yy - xy * xy
    w_xx, w_yy, w_xy = yy / det, xx / det, -xy / det
    scale = n_sigma * n_sigma
    half = n_sigma * math.sqrt(yy)
    height, width = child.shape
    sum_w = sum_ww = 0.0
    sums = np.zeros((2, 2, 4))
    values = np.empty((2, 2))
    for j in range(max(0, math.ceil(y - half)), min(height - 1, math.floor(y + half)) + 1):
        first, last = row_span(x, y, scale * xx, scale * yy, scale * xy, j)
        dy = j - y
        for i in range(max(0, first), min(width - 1, last) + 1):
            dx = i - x
            w = math.exp(-0.5 * (w_xx * dx * dx + 2.0 * w_xy * dx * dy + w_yy * dy * dy))
            sum_w += w
            sum_ww += w * w
            c, p, v = child[j, i], parent[j, i], variance[j, i]
            values[0, 0], values[0, 1], values[1, 0] = c, p, _positive(c, v)
            # Where nothing was deblended or replaced, the costly part is the same on both sides.
            values[1, 1] = values[1, 0] if p == c else _positive(p, v)
            for kind in range(2):
                for side in range(2):
                    value = w * values[kind, side]
                    sums[kind, side, 0] += value
                    sums[kind, side, 1] += value * dx * dx
                    sums[kind, side, 2] += value * dy * dy
                    sums[kind, side, 3] += value * dx * dy
    for kind in range(2):
        for side in range(2):
            total = sums[kind, side]
            if sum_ww > 0.0:
                flux = total[0] * sum_w / sum_ww
                results[kind, side, 0] = max(flux, 0.0) if kind == 1 else flux
            if total[0] != 0.0:
                results[kind, side, 1:] = 2.0 * total[1:] / total[0]


@njit(cache=True, nogil=True)
def _blendedness_loop(
    pixels: SourcePixels,
    parent: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    shapes: np.ndarray,
    n_sigma: float,
) -> np.ndarray:
    """Return flux, xx, yy, xy by kind (raw, abs) and side (source alone, image ``parent``), (n, 2, 2, 4)."""
    n = len(x)
    results = np.full((n, 2, 2, 4), np.nan)
    for k in range(n):
        i, j = x[k] - pixels.x0, y[k] - pixels.y0
        if not (math.isfinite(i) and math.isfinite(j) and math.isfinite(shapes[k, 0])):
            continue
        show(pixels, k)
        _weighted(pixels.image, parent, pixels.variance, i, j, shapes[k], n_sigma, results[k])
        hide(pixels, k)
    return results


@njit(cache=True, nogil=True)
def _old_loop(pixels: SourcePixels, parent: np.ndarray, is_child: np.ndarray) -> np.ndarray:
    """Return sum c (p - c) / sum c^2 over the own pixels c of children and the image p; 0 for others (n)."""
    p = pixels
    n = len(is_child)
    old = np.zeros(n)
    for k in range(n):
        if not is_child[k]:
            continue
        m = p.offsets[k]
        cross = square = 0.0
        for s in range(p.span_offsets[k], p.span_offsets[k + 1]):
            for i in range(p.span_x0[s] - p.x0, p.span_x1[s] - p.x0 + 1):
                c = p.own[m]
                cross += c * (parent[p.span_y[s] - p.y0, i] - c)
                square += c * c
                m += 1
        old[k] = cross / square if square > 0.0 else np.nan
    return old
