"""What the noise of a measured Kron radius adds to the variance of the flux within some of these radii.

Noise d changes the radius ``R = sum r I / sum I`` over a window by ``sum (r - R) d / sum I``, and so the
flux of the aperture by ``dF/dR`` times that. Both come from the same pixels, so their noise is
correlated.
"""

from __future__ import annotations

__all__ = ("radius_variance",)

import math

import numpy as np
from numba import njit

from secondlight.photometry._aperture_kernels import row_span

_GROWTH = 0.16
"""d ln F / d ln R at 2.5 Kron radii: 0.16 for a Moffat star of exponent 3.2, 0.14 to 0.17 for exponential
galaxies in its seeing, 0.07 for a Gaussian.  Measured on the pixels it would be lost in their noise."""


@njit(cache=True, nogil=True)
def radius_variance(
    image: np.ndarray,
    variance: np.ndarray,
    x: float,
    y: float,
    shape: tuple[float, float, float],
    flux: float,
    radius: float,
    window: float,
    aperture: float,
) -> float:
    """Return the variance to add to that of a Kron flux, counts^2.

    Parameters
    ----------
    image, variance
        Pixels (h, w); the window lies inside.
    x, y
        Centre, array indices.
    shape
        Moments ``xx, yy, xy`` that give the form of the ellipses.
    flux, radius
        Kron flux and radius.
    window, aperture
        Determinant radii of the ellipses of the radius and of the flux, pixels.
    """
    xx, yy, xy = shape
    square_size = math.sqrt(xx * yy - xy * xy)
    w_xx, w_yy, w_xy = yy / square_size, xx / square_size, -xy / square_size
    scale = window * window / square_size
    total = square = common = 0.0
    y_half = math.sqrt(scale * yy)
    for j in range(math.ceil(y - y_half), math.floor(y + y_half) + 1):
        dy = j - y
        i0, i1 = row_span(x, y, scale * xx, scale * yy, scale * xy, j)
        for i in range(i0, i1 + 1):
            dx = i - x
            r = math.sqrt(max(w_xx * dx * dx + 2.0 * w_xy * dx * dy + w_yy * dy * dy, 0.0))
            noise = (r - radius) * variance[j, i]
            total += image[j, i]
            square += (r - radius) * noise
            if r <= aperture:
                common += noise
    if not (total > 0.0 and radius > 0.0):
        return 0.0
    growth = _GROWTH * flux / (radius * total)
    return 2.0 * growth * common + growth * growth * square
