"""Slow, obvious versions of the compiled kernels of the deblender."""

from __future__ import annotations

import math

import numpy as np

OUTSIDE = -1.0


def symmetric_template(image, owner, row, cx, cy, ex, ey, patch):
    height, width = image.shape
    template = np.full((2 * ey + 1, 2 * ex + 1), OUTSIDE, dtype=np.float32)
    patched = False

    def inside(x, y):
        return 0 <= x < width and 0 <= y < height

    def pixel(x, y):
        return max(0.0, image[y, x]) if np.isfinite(image[y, x]) else 0.0

    for (j, i), _ in np.ndenumerate(template):
        x, y = cx + i - ex, cy + j - ey
        u, v = 2 * cx - x, 2 * cy - y
        if not inside(x, y) or owner[y, x] != row:
            continue
        if inside(u, v):
            if owner[v, u] == row:
                template[j, i] = min(pixel(x, y), pixel(u, v))
        elif patch:
            template[j, i] = pixel(x, y)
            patched = True
    return template, patched


def template_edge(template, open_x, open_y):
    padded = np.pad(template >= 0, 1)
    padded[:, [0, -1]] = open_x
    padded[[0, -1]] = open_y
    core = padded[1:-1, 1:-1]
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge = core & ~surrounded
    if open_x:
        edge[:, [0, -1]] = False
    if open_y:
        edge[[0, -1]] = False
    return np.nonzero(edge)


def ramped_template(image, owner, row, cx, cy, template, psf, radius, ex, ey):
    """Edges, ramp and rebuilt template in one."""
    height, width = image.shape
    ys, xs = template_edge(template, False, False)
    h = psf.shape[0] // 2
    ramp = np.zeros((2 * ey + 1, 2 * ex + 1), dtype=np.float32)
    grown = np.zeros(ramp.shape, dtype=bool)
    values = np.zeros(ramp.shape, dtype=np.float32)
    free = np.zeros(ramp.shape, dtype=bool)
    members = np.argwhere(owner == row)
    for (j, i), _ in np.ndenumerate(ramp):
        dx, dy = i - ex, j - ey
        for y, x in zip(ys - template.shape[0] // 2, xs - template.shape[1] // 2, strict=True):
            u, v = dx - x, dy - y
            if max(abs(u), abs(v)) <= min(radius, h):
                t = template[y + template.shape[0] // 2, x + template.shape[1] // 2]
                ramp[j, i] = max(ramp[j, i], t / psf.max() * psf[h + v, h + u])
        x, y = cx + dx, cy + dy
        distance2 = (members[:, 0] - y) ** 2 + (members[:, 1] - x) ** 2
        # A stencil row spans int(sqrt(r^2 - dy^2)), which is the same as r^2 on whole pixels.
        grown[j, i] = (distance2 <= radius**2).any()
        values[j, i] = ramp[j, i]
        if 0 <= x < width and 0 <= y < height and owner[y, x] in (row, -1, -2 - row):
            free[j, i] = True
            if grown[j, i] and np.isfinite(image[y, x]) and image[y, x] != 0:
                values[j, i] = image[y, x]
    both = grown & grown[::-1, ::-1] & free
    return np.where(both, np.maximum(0, np.minimum(values, values[::-1, ::-1])), OUTSIDE).astype(np.float32)


def median_smooth(template):
    result = template.copy()
    ys, xs = np.nonzero(template >= 0)
    if not len(ys):
        return result
    filled = np.maximum(template, 0)
    for j in range(ys.min() + 2, ys.max() - 1):
        for i in range(xs.min() + 2, xs.max() - 1):
            if template[j, i] >= 0:
                result[j, i] = np.median(filled[j - 2 : j + 3, i - 2 : i + 3])
    return result


def _round(value):
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def monotonic(template):
    """All rings, without the early stop."""
    result = template.copy()
    height, width = result.shape
    cy, cx = height // 2, width // 2
    for start in range(0, max(cx, cy) + 1, 5):
        source = np.maximum(result, 0)
        for (j, i), _ in np.ndenumerate(template):
            dx, dy = i - cx, j - cy
            ring = max(abs(dx), abs(dy))
            if not start <= ring < start + 5 or ring == 0:
                continue
            for k in range(1, 6):
                if abs(dx) >= abs(dy):
                    slope, sign = dy / abs(dx), int(math.copysign(1, dx))
                    shadow = [(j + t, i + sign * k) for t in _wedge(k, slope)]
                else:
                    slope, sign = dx / abs(dy), int(math.copysign(1, dy))
                    shadow = [(j + sign * k, i + t) for t in _wedge(k, slope)]
                for v, u in shadow:
                    if 0 <= v < height and 0 <= u < width:
                        result[v, u] = min(result[v, u], source[j, i])
    return result


def _wedge(k, slope):
    return range(_round(k * (slope - 0.3)), _round(k * (slope + 0.3)) + 1)


def cut_to_nonzero(template):
    result = template.copy()
    for line in result:
        member = np.concatenate([[False], line >= 0, [False]])
        for start, stop in zip(
            np.flatnonzero(member[1:] & ~member[:-1]), np.flatnonzero(member[:-1] & ~member[1:]), strict=True
        ):
            (bright,) = np.nonzero(line[start:stop] > 0)
            keep = slice(start + bright[0], start + bright[-1] + 1) if len(bright) else slice(0, 0)
            kept = line[keep].copy()
            line[start:stop] = OUTSIDE
            line[keep] = kept
    return result


def fit_point_source(image, variance, valid, cx, cy, fwhm, own, neighbours):
    """``own`` and ``neighbours`` are PSF images on the grid of ``image``."""
    r0, r1 = math.ceil(fwhm), math.ceil(1.5 * fwhm)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    r = np.hypot(x - cx, y - cy)
    ramp = np.where(r <= r0, 1.0, np.maximum(0, 1 - (r - r0) / (r1 - r0)))
    valid = valid & (r <= r1) & (variance > 0) & np.isfinite(image)
    derivatives = [0.5 * (np.roll(own, -1, axis) - np.roll(own, 1, axis)) for axis in (1, 0)]
    columns = [own, np.ones_like(own), x - cx, y - cy, *neighbours, *derivatives]
    weight = np.sqrt(ramp[valid] / variance[valid])
    design = np.array([c[valid] * weight for c in columns]).T
    data = image[valid] * weight
    results = []
    for n in (len(columns) - 2, len(columns)):
        solution = np.linalg.lstsq(design[:, :n], data, rcond=None)[0]
        chi2 = np.sum((data - design[:, :n] @ solution) ** 2)
        results.append((chi2 / (ramp[valid].sum() - n), solution))
    (chi2, solution), (chi2_free, free) = results
    return chi2, solution[0], chi2_free, -free[-2] / free[0], -free[-1] / free[0]


def apportion(image, templates):
    """Shares of full-size templates, without care for rounding."""
    positive = np.maximum(np.array(templates, dtype=float), 0)
    total = positive.sum(axis=0)
    return np.where(total > 0, image * positive / np.where(total > 0, total, 1), 0)


def share_stray_pixel(x, y, value, peaks, footprints, rule, smallest):
    """Shares of one pixel; ``footprints`` are lists of (x, y)."""
    if rule == "nearest-footprint":
        distance = [min(abs(x - u) + abs(y - v) for u, v in f) for f in footprints]
        weights = np.zeros(len(peaks))
        weights[int(np.argmin(distance))] = 1
        return value * weights
    if rule == "r-to-peak":
        r2 = np.array([(x - u) ** 2 + (y - v) ** 2 for u, v in peaks])
    else:
        r2 = np.array([min((x - u) ** 2 + (y - v) ** 2 for u, v in f) for f in footprints])
    weights = 1 / (1 + r2)
    weights[weights < smallest * weights.sum()] = 0
    return value * weights / weights.sum()
