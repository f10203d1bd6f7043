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
import pydantic
from astropy.io.fits import FITS_rec
from lsst.images import Bounds, Box, Image
from lsst.images._concrete_bounds import BoundsSerializationModel
from lsst.images.psfs import PointSpreadFunction
from lsst.images.serialization import (
    ArchiveTree,
    ArrayReferenceModel,
    InlineArrayModel,
    InputArchive,
    InvalidParameterError,
    OutputArchive,
)
from lsst.images.utils import round_half_up
from scipy.interpolate import BSpline, make_interp_spline

type Interpolation = Literal["spline", "lanczos"]

_RC_SCALE = 0.001  # SDSS eigen-image coefficients are polynomials of row/1000 and column/1000
_SDSS_PIXEL_CENTER = 0.5  # SDSS counts rows and columns from the corner of the first pixel
_LANCZOS_ORDER = 3
_SPLINE_DEGREE = 5
_PSFEX_FIRST_PIXEL = 1.0  # PSFEx counts pixels from one, as FITS does


@dataclasses.dataclass(frozen=True, eq=False)
class SurveyPsf(PointSpreadFunction):
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

    @cached_property
    def kernel_bbox(self) -> Box:
        """Box of all kernel images."""
        r = self.stamp_size // 2
        return Box.factory[-r : r + 1, -r : r + 1]

    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        """Return the PSF at (x, y), centred on the middle pixel; parameters in parent pixels."""
        return Image(self._draw(x, y, 0.0, 0.0), bbox=self.kernel_bbox)

    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        """Return the PSF at (x, y) as a star there would appear; parameters in parent pixels."""
        return Image(
            self._draw(x, y, x - round_half_up(x), y - round_half_up(y)),
            bbox=self.compute_stellar_bbox(x=x, y=y),
        )

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
        """Return the box of the stellar image at (x, y)."""
        r = self.stamp_size // 2
        i, j = round_half_up(x), round_half_up(y)
        return Box.factory[j - r : j + r + 1, i - r : i + r + 1]

    def model_image(self, *, x: float, y: float) -> np.ndarray:
        """Return the samples of the model at (x, y), float64 (h, w), as they are (not normalised)."""
        u = (x - self.zero[0]) / self.scale[0]
        v = (y - self.zero[1]) / self.scale[1]
        weights = u ** self.powers[:, 0].astype(np.float64) * v ** self.powers[:, 1].astype(np.float64)
        return np.asarray(np.tensordot(weights, self.basis, axes=1))

    def _draw(self, x: float, y: float, dx: float, dy: float) -> np.ndarray:
        """Return the model at (x, y) with its centre (dx, dy) pixels from that of the middle pixel."""
        samples = self.model_image(x=x, y=y)
        height, width = samples.shape
        pixels = np.arange(self.stamp_size) - self.stamp_size // 2
        weights = _lanczos_weights if self.interpolation == "lanczos" else _spline_weights
        rows = weights((pixels - dy) / self.sampling + height // 2, height)
        columns = weights((pixels - dx) / self.sampling + width // 2, width)
        stamp = rows @ samples @ columns.T
        return np.asarray(stamp / stamp.sum())

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


def _lanczos_weights(positions: np.ndarray, n: int) -> np.ndarray:
    """Return weights (len(positions), n) that interpolate n samples at positions; zero beyond the samples.

    The weights of a position sum to one before samples outside are dropped, so a constant stays constant.
    """
    first = np.floor(positions).astype(np.int64) - _LANCZOS_ORDER + 1
    index = first[:, None] + np.arange(2 * _LANCZOS_ORDER)
    distance = positions[:, None] - index
    weights = np.sinc(distance) * np.sinc(distance / _LANCZOS_ORDER)
    weights /= weights.sum(axis=1, keepdims=True)
    padded = np.zeros((len(positions), n))
    row, column = np.nonzero((index >= 0) & (index < n))
    padded[row, index[row, column]] = weights[row, column]
    return padded


def _spline_weights(positions: np.ndarray, n: int) -> np.ndarray:
    """Return weights (len(positions), n) of spline interpolation; zero beyond the samples."""
    return np.asarray(np.nan_to_num(_unit_splines(n)(positions, extrapolate=False)))


@cache
def _unit_splines(n: int) -> BSpline:
    """Return the splines through n samples, one of them 1 and the others 0."""
    return make_interp_spline(np.arange(n), np.eye(n), k=_SPLINE_DEGREE)
