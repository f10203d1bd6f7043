"""The true PSF of a simulated detector: atmosphere and optics' spot, varying over the focal plane."""

from __future__ import annotations

__all__ = ("SimulatedPsf", "SimulatedPsfModel", "make_psf")

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pydantic
from lsst.images import Bounds, Box
from lsst.images._concrete_bounds import BoundsSerializationModel
from lsst.images.serialization import ArchiveTree, InputArchive, InvalidParameterError, OutputArchive

from ..psf.batch import BatchPsf
from .profiles import AtmosphereName
from .randomness import rng
from .render import Light, draw_stamps
from .scene import Scene
from .scene_parts import Visit

_DEGREE = 3
_POWERS = np.array([(i, n - i) for n in range(_DEGREE + 1) for i in range(n, -1, -1)])
"""Powers of the field coordinates (u, v) of each term of the polynomials (m, 2)."""

_WEIGHTS = np.array([0.0, 1.0, 0.5, 0.1])[_POWERS.sum(axis=1)]
"""Relative size of the random coefficients of each degree: seeing changes smoothly."""

_TYPICAL_COLOR = 1.0
"""The g - i colour of the light a visit's seeing is stated for, mag."""

_TILT = 0.8
"""Share of the defocus and the astigmatism that changes from visit to visit, as optics bend and shift."""

_STAMP_HALF_WIDTHS = 8
"""Half size of stamps in full widths at half maximum."""

_BATCH = 64
"""Stamps drawn together, which bounds the memory."""

_SAMPLES = 33
"""Points per axis on which the random fields are normalised."""


@dataclasses.dataclass(frozen=True, eq=False)
class SimulatedPsf(BatchPsf):
    """A sheared atmospheric profile convolved with a Gaussian spot and the pixel.

    With field coordinates ``(u, v) = ((x, y) - boresight) / radius`` each row of `coefficients` is a
    polynomial of the third degree in (u, v): the relative change of the seeing, the reduced shear g1 and g2
    of the atmosphere, and a, b, c of the symmetric matrix ``M = [[a + b, c], [c, a - b]]`` (pix) that defocus
    (a) and astigmatism (b, c) give. The spot's covariance is ``M M^T + spot^2``.

    Parameters
    ----------
    profile, beta
        Round profile of the atmosphere, and the exponent of a Moffat profile.
    fwhm
        Mean full width at half maximum of the atmosphere before the shear, pixels.
    color_slope
        Change of the logarithm of that width per magnitude of g - i.
    spot
        Standard deviation of the spot where it is sharp, pixels.
    coefficients
        Of the terms 1, u, v, u^2, uv, v^2, u^3, u^2 v, u v^2, v^3; float64 (6, 10).
    boresight, radius
        Origin (x, y) and unit of the field coordinates, pixels of this detector.
    domain
        Where the model can be evaluated.
    stamp_size
        Side of the drawn stamps, odd, pixels.
    """

    profile: AtmosphereName
    beta: float
    fwhm: float
    color_slope: float
    spot: float
    coefficients: np.ndarray
    boresight: tuple[float, float]
    radius: float
    domain: Bounds
    stamp_size: int

    @property
    def bounds(self) -> Bounds:
        """Where the model can be evaluated."""
        return self.domain

    def parameters(
        self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike | None = None
    ) -> np.ndarray:
        """Return what the PSF is made of at positions.

        Farther out than the farthest corner of the camera, where the polynomials would grow without limit, it
        is that of the circle through that corner, in the same direction.

        Parameters
        ----------
        x, y
            Positions, pixels (n).
        color
            g - i of the objects, mag (n); 1.0 by default.

        Returns
        -------
        parameters
            Full width at half maximum of the atmosphere (pix), its reduced shear g1 and g2, and the
            covariance cxx, cyy, cxy of the spot (pix^2), float64 (n, 6).
        """
        u = (np.atleast_1d(np.asarray(x, dtype=np.float64)) - self.boresight[0]) / self.radius
        v = (np.atleast_1d(np.asarray(y, dtype=np.float64)) - self.boresight[1]) / self.radius
        inwards = 1.0 / np.maximum(np.hypot(u, v), 1.0)
        seeing, g1, g2, a, b, c = self.coefficients @ _terms(u * inwards, v * inwards)
        reddening = 0.0 if color is None else np.asarray(color, dtype=np.float64) - _TYPICAL_COLOR
        width = self.fwhm * (1 + seeing) * np.exp(self.color_slope * reddening)
        xx, yy = (a + b) ** 2 + c**2 + self.spot**2, (a - b) ** 2 + c**2 + self.spot**2
        return np.stack([width, g1, g2, xx, yy, 2 * a * c], axis=-1)

    def draw(self, *, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Draw the PSF of positions (x, y) at offsets (dx, dy) from the middle pixel of stamps (n, h, w)."""
        edge, r = self.stamp_size, self.stamp_size // 2
        light = self._points(self.parameters(x=x, y=y), dx=dx, dy=dy)
        images = np.empty((len(light), edge, edge))
        for start in range(0, len(light), _BATCH):
            part = slice(start, start + _BATCH)
            # Drawn twice as large, so that what wraps around comes from far out.
            images[part] = draw_stamps(light[part], 2 * edge)[:, edge - r :, edge - r :][:, :edge, :edge]
        return np.asarray(images / images.sum(axis=(1, 2), keepdims=True))

    def _points(self, parameters: np.ndarray, *, dx: np.ndarray, dy: np.ndarray) -> Light:
        """Return points of unit flux at (dx, dy), each with its own parameters (n, 6)."""
        n = len(parameters)
        return Light(
            x=np.asarray(dx, dtype=np.float64),
            y=np.asarray(dy, dtype=np.float64),
            flux=np.ones(n),
            psf=parameters,
            bulge_fraction=np.zeros(n),
            bulge_matrix=np.zeros((n, 2, 2)),
            disk_matrix=np.zeros((n, 2, 2)),
            profile=self.profile,
            beta=self.beta,
        )

    def serialize(self, archive: OutputArchive[Any]) -> SimulatedPsfModel:
        """Write to an archive of `lsst.images`."""
        return SimulatedPsfModel(
            profile=self.profile,
            beta=self.beta,
            fwhm=self.fwhm,
            color_slope=self.color_slope,
            spot=self.spot,
            coefficients=self.coefficients.tolist(),
            boresight=self.boresight,
            radius=self.radius,
            domain=self.domain.serialize(),
            stamp_size=self.stamp_size,
        )

    @staticmethod
    def _get_archive_tree_type(pointer_type: type[pydantic.BaseModel]) -> type[SimulatedPsfModel]:
        return SimulatedPsfModel


class SimulatedPsfModel(ArchiveTree):
    """Stored form of a `SimulatedPsf`."""

    SCHEMA_NAME: ClassVar[str] = "secondlight_simulated_psf"
    SCHEMA_VERSION: ClassVar[str] = "1.0.0"
    MIN_READ_VERSION: ClassVar[int] = 1
    SCHEMA_URL_BASE: ClassVar[str] = "https://secondlight.readthedocs.io/schemas"
    PUBLIC_TYPE: ClassVar[type] = SimulatedPsf

    profile: AtmosphereName = pydantic.Field(description="Round profile of the atmosphere.")
    beta: float = pydantic.Field(description="Exponent of a Moffat profile.")
    fwhm: float = pydantic.Field(description="Mean full width at half maximum of the atmosphere, pixels.")
    color_slope: float = pydantic.Field(description="Change of ln(fwhm) per magnitude of g - i.")
    spot: float = pydantic.Field(description="Standard deviation of the sharp spot, pixels.")
    coefficients: list[list[float]] = pydantic.Field(
        description="Polynomials in field coordinates: seeing, g1, g2, defocus, astigmatism (2)."
    )
    boresight: tuple[float, float] = pydantic.Field(description="Origin (x, y) of the field, pixels.")
    radius: float = pydantic.Field(description="Unit of field coordinates, pixels.")
    domain: BoundsSerializationModel = pydantic.Field(description="Where the model can be evaluated.")
    stamp_size: int = pydantic.Field(description="Side of the drawn stamps, pixels.")

    def deserialize(self, archive: InputArchive[Any], **kwargs: Any) -> SimulatedPsf:
        """Read from an archive of `lsst.images`."""
        if kwargs:
            raise InvalidParameterError(f"Unrecognized parameters for SimulatedPsf: {set(kwargs)}.")
        return SimulatedPsf(
            profile=self.profile,
            beta=self.beta,
            fwhm=self.fwhm,
            color_slope=self.color_slope,
            spot=self.spot,
            coefficients=np.array(self.coefficients, dtype=np.float64),
            boresight=self.boresight,
            radius=self.radius,
            domain=self.domain.deserialize(),
            stamp_size=self.stamp_size,
        )


def make_psf(scene: Scene, visit: Visit, detector: int) -> SimulatedPsf:
    """Return the true PSF of one detector in one visit.

    The seeing and the shear of the atmosphere are random smooth functions over the focal plane, others in
    every visit. Defocus and astigmatism grow with the square of the distance from the boresight, alike in all
    visits (field curvature), and change linearly across the field with a tilt that differs between visits.

    Parameters
    ----------
    scene
        The survey.
    visit
        The visit.
    detector
        Id of the detector.
    """
    camera, pattern = scene.camera, scene.psf
    center = camera.center(detector)
    fwhm = visit.seeing / camera.pixel_scale
    size = 2 * math.ceil(_STAMP_HALF_WIDTHS * fwhm) + 1
    return SimulatedPsf(
        profile=pattern.profile,
        beta=pattern.beta,
        fwhm=fwhm,
        color_slope=pattern.color_slope,
        spot=pattern.spot / camera.pixel_scale,
        coefficients=np.concatenate([_atmosphere_fields(scene, visit), _optics_fields(scene, visit)]),
        boresight=(0.5 * (camera.width - 1) - center[0], 0.5 * (camera.height - 1) - center[1]),
        radius=camera.corner_radius,
        domain=Box.factory[0 : camera.height, 0 : camera.width],
        stamp_size=size,
    )


def _terms(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the monomials of field coordinates (m, n)."""
    return np.asarray(u ** _POWERS[:, :1] * v ** _POWERS[:, 1:])


def _atmosphere_fields(scene: Scene, visit: Visit) -> np.ndarray:
    """Return coefficients of the relative seeing and the shear (3, m), of zero mean over the focal plane."""
    pattern, camera = scene.psf, scene.camera
    random = rng(scene, "atmosphere", visit.id).normal(size=(3, len(_POWERS))) * _WEIGHTS
    half_width = abs(camera.center(0)[0]) + 0.5 * camera.width
    half_height = abs(camera.center(0)[1]) + 0.5 * camera.height
    u, v = np.meshgrid(
        np.linspace(-half_width, half_width, _SAMPLES) / camera.corner_radius,
        np.linspace(-half_height, half_height, _SAMPLES) / camera.corner_radius,
    )
    samples = random @ _terms(u.ravel(), v.ravel())
    random[:, 0] -= samples.mean(axis=1)
    scatter = np.array([pattern.seeing_variation, pattern.atmosphere_shear, pattern.atmosphere_shear])
    return np.asarray(random * (scatter / samples.std(axis=1))[:, None])


def _optics_fields(scene: Scene, visit: Visit) -> np.ndarray:
    """Return coefficients of the defocus and the two components of the astigmatism, pixels (3, m)."""
    defocus = scene.psf.defocus / scene.camera.pixel_scale
    astigmatism = scene.psf.astigmatism / scene.camera.pixel_scale
    fields = np.zeros((3, len(_POWERS)))
    fields[0, 3] = fields[0, 5] = (1 - _TILT) * defocus
    fields[1, 3], fields[1, 5] = (1 - _TILT) * astigmatism, -(1 - _TILT) * astigmatism
    fields[2, 4] = 2 * (1 - _TILT) * astigmatism
    angle = rng(scene, "optics", visit.id).uniform(0, 2 * math.pi, size=2)
    fields[0, 1:3] = _TILT * defocus * np.array([math.cos(angle[0]), math.sin(angle[0])])
    tilt = _TILT * astigmatism * np.array([math.cos(angle[1]), math.sin(angle[1])])
    fields[1, 1:3], fields[2, 1:3] = tilt, (-tilt[1], tilt[0])
    return fields
