"""Drawing stars and galaxies through a varying PSF, fast and without noise.

The Fourier transform of an object is known in closed form or as a radial table: bulge and disk times
atmosphere times the optics' spot times the pixel. It is sampled on the frequencies of a stamp, with the
aliases that come from sampling by pixels, and transformed back. What lies outside the stamp wraps around, so
that no flux is lost; `stamp_sizes` keeps it small.
"""

from __future__ import annotations

__all__ = ("Light", "add_light", "draw_stamps", "stamp_origin", "stamp_sizes")

import dataclasses
from collections.abc import Iterator
from typing import Self

import numpy as np
import numpy.typing as npt
import scipy.fft

from ._render_kernels import add_stamps, fill_spectra
from .profiles import Atmosphere, AtmosphereName, Sersic, atmosphere_table, sersic_table

_OUTSIDE = 1.2e-3
"""Fraction of the flux outside the largest circle in a stamp; the corners hold a sixth of it and more."""

_SIZES = np.array([m << s for s in range(3, 9) for m in (4, 5, 6, 7)] + [2048])
"""Sides of stamps: even, with small prime factors."""

_BATCH = 1 << 18
"""Pixels of the stamps drawn together, which bounds the memory to a few MB."""

_DISK_INDEX = 1.0
_REACH = 3.0
"""Standard deviations of the spot, and half-light radii of a galaxy, that count at least."""


@dataclasses.dataclass(frozen=True, eq=False)
class Light:
    """Stars and galaxies as one detector sees them.

    Parameters
    ----------
    x, y
        Positions, pixels (n).
    flux
        Total electrons (n).
    psf
        Atmosphere and spot at each object as from `SimulatedPsf.parameters`: full width at half maximum
        (pix), reduced shear g1, g2, and covariance cxx, cyy, cxy of the Gaussian spot (pix^2), (n, 6).
    bulge_fraction
        Share of the bulge in the flux (n).
    bulge_matrix, disk_matrix
        Linear maps from a round profile of unit half-light radius to pixels (n, 2, 2); zeros for stars.
    profile, beta
        Round profile of the atmosphere, and the exponent of a Moffat profile.
    bulge_index
        Sersic index of the bulges; disks have 1.
    truncation
        Where bulges and disks end, in their half-light radii.

    Raises
    ------
    ValueError
        Raised if a column has another shape than the others or is not finite.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    psf: np.ndarray
    bulge_fraction: np.ndarray
    bulge_matrix: np.ndarray
    disk_matrix: np.ndarray
    profile: AtmosphereName = "moffat"
    beta: float = 3.2
    bulge_index: float = 4.0
    truncation: float = 5.0

    def __post_init__(self) -> None:
        n = len(self.x)
        for name in _COLUMNS:
            value = getattr(self, name)
            if np.shape(value) != (n, *_COLUMNS[name]):
                raise ValueError(f"Light.{name}: expected {(n, *_COLUMNS[name])}, found {np.shape(value)}.")
            if not np.all(np.isfinite(value)):
                raise ValueError(f"Light.{name}: expected finite numbers.")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: np.ndarray | slice) -> Self:
        """Return some of the objects, by indices, mask or slice."""
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})

    @property
    def atmosphere(self) -> Atmosphere:
        """Round profile of the atmosphere."""
        return Atmosphere(self.profile, self.beta)


_COLUMNS: dict[str, tuple[int, ...]] = {
    "x": (), "y": (), "flux": (), "psf": (6,), "bulge_fraction": (),
    "bulge_matrix": (2, 2), "disk_matrix": (2, 2),
}  # fmt: skip


def add_light(image: np.ndarray, light: Light, *, sizes: npt.ArrayLike) -> None:
    """Add objects to an image in place.

    Parameters
    ----------
    image
        Electrons, float64 (h, w), first pixel at (0, 0); objects may be partly or fully outside.
    light
        The objects.
    sizes
        Sides of the stamps they are drawn on, from `stamp_sizes` (n).
    """
    sizes = np.broadcast_to(np.asarray(sizes, dtype=np.int64), len(light))
    height, width = image.shape
    x0, y0 = stamp_origin(light, sizes)
    visible = (x0 < width) & (y0 < height) & (x0 + sizes > 0) & (y0 + sizes > 0)
    for size in np.unique(sizes[visible]).tolist():
        for part in _batches(np.flatnonzero(visible & (sizes == size)), size):
            add_stamps(image, draw_stamps(light[part], size), x0[part], y0[part])


def draw_stamps(light: Light, size: int) -> np.ndarray:
    """Return images of objects, float64 (n, size, size), centred on their nearest pixels.

    The first pixels are those of `stamp_origin`; sums are the fluxes to rounding.
    """
    x0, y0 = stamp_origin(light, size)
    bulge = sersic_table(light.bulge_index, light.truncation)
    disk = sersic_table(_DISK_INDEX, light.truncation)
    atmosphere = atmosphere_table(*light.atmosphere)
    spectra = np.zeros((len(light), size, size // 2 + 1), dtype=np.complex128)
    fill_spectra(
        spectra,
        size,
        light.x - x0 - size // 2,
        light.y - y0 - size // 2,
        np.asarray(light.flux, dtype=np.float64),
        _second_moments(_atmosphere_matrices(light.psf)),
        np.ascontiguousarray(light.psf[:, 3:]),
        np.asarray(light.bulge_fraction, dtype=np.float64),
        _second_moments(light.bulge_matrix),
        _second_moments(light.disk_matrix),
        atmosphere.values,
        bulge.values,
        disk.values,
        atmosphere.step,
    )
    return np.asarray(scipy.fft.irfft2(spectra, s=(size, size), workers=1, overwrite_x=True))


def stamp_origin(light: Light, size: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the first pixels (x0, y0) of stamps of given sides, int64 (n) each."""
    half = np.asarray(size, dtype=np.int64) // 2
    return _nearest(light.x) - half, _nearest(light.y) - half


def stamp_sizes(light: Light, *, surface_brightness: float) -> np.ndarray:
    """Return sides of stamps that hold the objects, int64 (n).

    Outside is less than a thousandth of the flux, and the surface brightness at the edge is below a limit
    (up to sides of 2048 pixels).

    Parameters
    ----------
    light
        The objects.
    surface_brightness
        Electrons per pixel that do not matter.
    """
    flux = np.maximum(np.abs(light.flux), np.finfo(np.float64).tiny)
    level = surface_brightness / flux
    radius = np.hypot(_seeing_radius(light, level), _galaxy_radius(light, level))
    radius = np.hypot(radius, _REACH * _major_axis(light.psf[:, 3:]))
    # Half a pixel: objects are not on the centre of their pixel.
    index = np.searchsorted(_SIZES, 2 * (radius + 0.5))
    return np.asarray(_SIZES[np.minimum(index, len(_SIZES) - 1)])


def _seeing_radius(light: Light, level: np.ndarray) -> np.ndarray:
    """Return how far the atmosphere spreads a point, pixels (n)."""
    width, shear = light.psf[:, 0], np.hypot(light.psf[:, 1], light.psf[:, 2])
    stretch = np.sqrt((1 + shear) / (1 - shear))
    wing = light.atmosphere.radius_of_brightness(level * width**2)
    return np.asarray(width * stretch * np.maximum(wing, light.atmosphere.radius_of_fraction(_OUTSIDE)))


def _galaxy_radius(light: Light, level: np.ndarray) -> np.ndarray:
    """Return the radius of galaxies outside the atmosphere, pixels (n)."""
    radius = np.zeros(len(light))
    for index, matrix, share in (
        (light.bulge_index, light.bulge_matrix, light.bulge_fraction),
        (_DISK_INDEX, light.disk_matrix, 1 - light.bulge_fraction),
    ):
        present = (share > 0) & np.any(matrix != 0, axis=(1, 2))
        profile = Sersic(index, light.truncation)
        part = matrix[present]
        area = np.abs(np.linalg.det(part))
        reach = np.maximum(
            profile.radius_of_brightness(level[present] * area / share[present]),
            profile.radius_of_fraction(np.minimum(_OUTSIDE / share[present], 1.0)),
        )
        reach = np.maximum(reach, _REACH) * _major_axis(_second_moments(part))
        radius[present] = np.maximum(radius[present], reach)
    return radius


def _batches(index: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield pieces of an index whose stamps fit into memory."""
    n = max(1, _BATCH // size**2)
    for start in range(0, len(index), n):
        yield index[start : start + n]


def _nearest(position: np.ndarray) -> np.ndarray:
    return np.asarray(np.floor(np.asarray(position) + 0.5), dtype=np.int64)


def _atmosphere_matrices(psf: np.ndarray) -> np.ndarray:
    """Return the maps from a round profile of unit width to pixels (n, 2, 2)."""
    width, g1, g2 = psf[:, 0], psf[:, 1], psf[:, 2]
    shear = np.stack([1 + g1, g2, g2, 1 - g1], axis=-1) / np.sqrt(1 - g1**2 - g2**2)[:, None]
    return np.asarray((width[:, None] * shear).reshape(-1, 2, 2))


def _second_moments(matrix: np.ndarray) -> np.ndarray:
    """Return ``[xx, yy, xy]`` of M M^T (n, 3)."""
    square = np.asarray(matrix, dtype=np.float64) @ np.swapaxes(matrix, 1, 2)
    return np.stack([square[:, 0, 0], square[:, 1, 1], square[:, 0, 1]], axis=-1)


def _major_axis(moments: np.ndarray) -> np.ndarray:
    """Return the square root of the larger eigenvalue of ``[xx, yy, xy]`` (n)."""
    xx, yy, xy = moments.T
    return np.asarray(np.sqrt(0.5 * (xx + yy) + np.hypot(0.5 * (xx - yy), xy)))
