"""PSF models that come with a survey's files: images that vary as a polynomial of position.

SDSS eigen-images and PSFEx models are both sums of images times monomials of the position, so one class holds
either.
"""

from __future__ import annotations

__all__ = ("SurveyPsf", "SurveyPsfModel", "psf_from_eigen_images", "psf_from_psfex")

import dataclasses
from functools import cache, cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pydantic
from astropy.io.fits import FITS_rec
from lsst.images import Bounds
from lsst.images._concrete_bounds import BoundsSerializationModel
from lsst.images.serialization import (
    ArchiveTree,
    ArrayReferenceModel,
    InlineArrayModel,
    InputArchive,
    InvalidParameterError,
    OutputArchive,
)
from scipy.interpolate import BSpline, make_interp_spline

from ._stamp_kernels import resample_loop
from .batch import BatchPsf

type Interpolation = Literal["spline", "lanczos"]

_RC_SCALE = 0.001  # SDSS eigen-image coefficients are polynomials of row/1000 and column/1000
_SDSS_PIXEL_CENTER = 0.5  # SDSS counts rows and columns from the corner of the first pixel
_LANCZOS_ORDER = 3
_SPLINE_DEGREE = 5
_PSFEX_FIRST_PIXEL = 1.0  # PSFEx counts pixels from one, as FITS does


@dataclasses.dataclass(frozen=True, eq=False)
class SurveyPsf(BatchPsf):
    """A PSF that is a sum of images, each times a monomial of the position.

    With ``u = (x - zero[0]) / scale[0]`` and ``v = (y - zero[1]) / scale[1]`` the PSF at (x, y) is
    ``sum_m basis[m] * u**powers[m, 0] * v**powers[m, 1]``, drawn on pixels by interpolation and
    normalised to unit sum.

    Parameters
    ----------
    basis
        Images, float64 (m, h, w), h and w odd, centred on the centre of their middle sample.
    powers
        Powers of (u, v) each image is multiplied with, int64 (m, 2).
    zero, scale
        Origin and scale (x, y) of the polynomial, pixels.
    domain
        Where the model can be evaluated, in parent pixels.
    sampling
        Pixels per sample of the basis images.
    interpolation
        ``"spline"`` is a spline of fifth degree; it moves a star without a centroid bias. ``"lanczos"`` is
        the Lanczos kernel of order 3 that PSFEx models are meant to be drawn with; its centroids err by up to
        0.02 samples.
    stamp_size
        Side of the drawn stamps, odd, pixels.
    """

    basis: np.ndarray
    powers: np.ndarray
    zero: tuple[float, float]
    scale: tuple[float, float]
    domain: Bounds
    sampling: float
    interpolation: Interpolation
    stamp_size: int

    @property
    def bounds(self) -> Bounds:
        """Where the model can be evaluated."""
        return self.domain

    def model_image(self, *, x: float, y: float) -> np.ndarray:
        """Return the samples of the model at (x, y), float64 (h, w), as they are (not normalised)."""
        return np.asarray(np.tensordot(self._monomials(x, y), self.basis, axes=1))

    def draw(self, *, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Draw the PSF of positions (x, y) at offsets (dx, dy) from the middle pixel of stamps (n, h, w)."""
        controls = self._controls
        samples = (self._monomials(x, y) @ controls.reshape(len(controls), -1)).reshape(
            -1, *controls.shape[1:]
        )
        height, width = self.basis.shape[1:]
        stamps = resample_loop(samples, *self._taps(dy, height), *self._taps(dx, width))
        return np.asarray(stamps / stamps.sum(axis=(1, 2), keepdims=True))

    @cached_property
    def _controls(self) -> np.ndarray:
        """The images, or the coefficients of the splines through them (m, h, w)."""
        if self.interpolation == "lanczos":
            return self.basis
        height, width = self.basis.shape[1:]
        # scipy puts the coefficients' own axis first.
        along_y = make_interp_spline(np.arange(height), self.basis, k=_SPLINE_DEGREE, axis=1).c
        along_x = make_interp_spline(np.arange(width), along_y, k=_SPLINE_DEGREE, axis=2).c
        return np.ascontiguousarray(along_x.transpose(2, 1, 0))

    def _monomials(self, x: npt.ArrayLike, y: npt.ArrayLike) -> np.ndarray:
        """Return what each image is multiplied with at positions (n, m)."""
        u = (np.asarray(x, dtype=np.float64) - self.zero[0]) / self.scale[0]
        v = (np.asarray(y, dtype=np.float64) - self.zero[1]) / self.scale[1]
        return np.asarray(np.prod(np.stack([u, v], axis=-1)[..., None, :] ** self.powers, axis=-1))

    def _taps(self, offset: np.ndarray, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Return first samples (n, p) and weights (n, p, taps) of the pixels of one axis.

        There is one row instead of n if all offsets are the same.
        """
        if np.all(offset == offset[:1]):
            offset = offset[:1]
        pixels = np.arange(self.stamp_size) - self.stamp_size // 2
        positions = (pixels - offset[:, None]) / self.sampling + n_samples // 2
        taps = _lanczos_taps if self.interpolation == "lanczos" else _spline_taps
        first, weights = taps(positions.ravel(), n_samples)
        return first.reshape(positions.shape), weights.reshape(*positions.shape, -1)

    def serialize(self, archive: OutputArchive[Any]) -> SurveyPsfModel:
        """Write to an archive of `lsst.images`."""
        return SurveyPsfModel(
            basis=archive.add_array(self.basis, name="basis"),
            powers=self.powers.tolist(),
            zero=self.zero,
            scale=self.scale,
            domain=self.domain.serialize(),
            sampling=self.sampling,
            interpolation=self.interpolation,
            stamp_size=self.stamp_size,
        )

    @staticmethod
    def _get_archive_tree_type(pointer_type: type[pydantic.BaseModel]) -> type[SurveyPsfModel]:
        return SurveyPsfModel


class SurveyPsfModel(ArchiveTree):
    """Stored form of a `SurveyPsf`."""

    SCHEMA_NAME: ClassVar[str] = "secondlight_survey_psf"
    SCHEMA_VERSION: ClassVar[str] = "1.0.0"
    MIN_READ_VERSION: ClassVar[int] = 1
    SCHEMA_URL_BASE: ClassVar[str] = "https://secondlight.readthedocs.io/schemas"
    PUBLIC_TYPE: ClassVar[type] = SurveyPsf

    basis: ArrayReferenceModel | InlineArrayModel = pydantic.Field(description="Basis images (m, h, w).")
    powers: list[tuple[int, int]] = pydantic.Field(description="Powers of x and y per basis image.")
    zero: tuple[float, float] = pydantic.Field(description="Origin (x, y) of the polynomial, pixels.")
    scale: tuple[float, float] = pydantic.Field(description="Scale (x, y) of the polynomial, pixels.")
    domain: BoundsSerializationModel = pydantic.Field(description="Where the model can be evaluated.")
    sampling: float = pydantic.Field(description="Pixels per sample of the basis images.")
    interpolation: Interpolation = pydantic.Field(description="How samples become pixels.")
    stamp_size: int = pydantic.Field(description="Side of the drawn stamps, pixels.")

    def deserialize(self, archive: InputArchive[Any], **kwargs: Any) -> SurveyPsf:
        """Read from an archive of `lsst.images`."""
        if kwargs:
            raise InvalidParameterError(f"Unrecognized parameters for SurveyPsf: {set(kwargs)}.")
        return SurveyPsf(
            basis=np.asarray(archive.get_array(self.basis), dtype=np.float64),
            powers=np.array(self.powers, dtype=np.int64),
            zero=self.zero,
            scale=self.scale,
            domain=self.domain.deserialize(),
            sampling=self.sampling,
            interpolation=self.interpolation,
            stamp_size=self.stamp_size,
        )


def psf_from_eigen_images(table: FITS_rec, domain: Bounds) -> SurveyPsf:
    """Return the PSF of an SDSS field in one band.

    The PSF at (row, col) is ``sum_k (sum_ij c_k[i, j] (row/1000)^i (col/1000)^j) rrows_k`` (Lupton et al.
    2001, ASP Conf. Ser. 238, 269); row and col are 0.5 at the centre of the first pixel.

    Parameters
    ----------
    table
        Extension 1 to 5 (u, g, r, i, z) of a psField file.
    domain
        Pixels of the frame.
    """
    height, width = int(table["RNROW"][0]), int(table["RNCOL"][0])
    n_rows, n_cols = int(table["nrow_b"][0]), int(table["ncol_b"][0])
    # Coefficients beyond nrow_b and ncol_b are not used by the model and hold arbitrary numbers.
    coefficients = np.asarray(table["c"], dtype=np.float64).reshape(len(table), 5, 5)[:, :n_rows, :n_cols]
    images = np.stack([np.asarray(r, dtype=np.float64).reshape(height, width) for r in table["RROWS"]])
    basis = np.einsum("kij,kyx->ijyx", coefficients, images).reshape(-1, height, width)
    row_power, col_power = np.divmod(np.arange(n_rows * n_cols), n_cols)
    return SurveyPsf(
        basis=basis / np.abs(basis[0].sum()),
        powers=np.stack([col_power, row_power], axis=1),
        zero=(-_SDSS_PIXEL_CENTER, -_SDSS_PIXEL_CENTER),
        scale=(1 / _RC_SCALE, 1 / _RC_SCALE),
        domain=domain,
        sampling=1.0,
        interpolation="spline",
        stamp_size=height,
    )


def psf_from_psfex(
    components: np.ndarray,
    *,
    degree: int,
    zero: tuple[float, float],
    scale: tuple[float, float],
    sampling: float,
    domain: Bounds,
    stamp_size: int | None = None,
) -> SurveyPsf:
    """Return a PSFEx model (Bertin 2011, ASP Conf. Ser. 442, 435) with one polynomial in x and y.

    Parameters
    ----------
    components
        PSF_MASK, (m, h, w) with m = (degree + 1)(degree + 2)/2, the power of x running fastest.
    degree
        POLDEG1.
    zero, scale
        POLZERO and POLSCAL of (x, y), counted from one as in the file.
    sampling
        PSF_SAMP, pixels per sample.
    domain
        Pixels of the image.
    stamp_size
        Side of the drawn stamps; by default the largest odd one inside the model.

    Raises
    ------
    ValueError
        Raised if the number of components does not fit the degree.
    """
    powers = np.array([(i, j) for j in range(degree + 1) for i in range(degree + 1 - j)])
    if len(components) != len(powers):
        raise ValueError(
            f"PSFEx model of degree {degree}: expected {len(powers)} components, found {len(components)}."
        )
    if stamp_size is None:
        stamp_size = 2 * int((components.shape[-1] // 2) * sampling) + 1
    return SurveyPsf(
        basis=np.asarray(components, dtype=np.float64),
        powers=powers,
        zero=(zero[0] - _PSFEX_FIRST_PIXEL, zero[1] - _PSFEX_FIRST_PIXEL),
        scale=scale,
        domain=domain,
        sampling=sampling,
        interpolation="lanczos",
        stamp_size=stamp_size,
    )


def _lanczos_taps(positions: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of the samples (p) that interpolation at positions (p) uses, and weights (p, taps).

    The weights of a position sum to one, samples beyond the n given ones included, which are zero: a constant
    stays constant.
    """
    first = np.floor(positions).astype(np.int64) - _LANCZOS_ORDER + 1
    distance = positions[:, None] - first[:, None] - np.arange(2 * _LANCZOS_ORDER)
    weights = np.sinc(distance) * np.sinc(distance / _LANCZOS_ORDER)
    return first, weights / weights.sum(axis=1, keepdims=True)


def _spline_taps(positions: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of the n spline coefficients (p) that positions (p) use, and weights (p, taps).

    The spline is zero beyond its samples.
    """
    inside = (positions >= 0) & (positions <= n - 1)
    basis = BSpline.design_matrix(np.clip(positions, 0, n - 1), _knots(n), _SPLINE_DEGREE)
    weights = basis.data.reshape(-1, _SPLINE_DEGREE + 1) * inside[:, None]
    return basis.indices.reshape(weights.shape)[:, 0].astype(np.int64), weights


@cache
def _knots(n: int) -> np.ndarray:
    """Return the knots of splines through n samples."""
    return np.asarray(make_interp_spline(np.arange(n), np.zeros(n), k=_SPLINE_DEGREE).t)
