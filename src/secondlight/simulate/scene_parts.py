"""The parts of a scene: sky, camera, objects, PSF, artefacts, errors and visits."""

from __future__ import annotations

__all__ = (
    "Band",
    "Camera",
    "CosmicRays",
    "Electronics",
    "Errors",
    "Galaxies",
    "Part",
    "PsfPattern",
    "ReferenceStars",
    "SkyField",
    "SkyPattern",
    "Stars",
    "Visit",
)

import math
from typing import Annotated, Literal

import pydantic

type Positive = Annotated[float, pydantic.Field(gt=0)]
type NotNegative = Annotated[float, pydantic.Field(ge=0)]
type Fraction = Annotated[float, pydantic.Field(ge=0, lt=1)]
type Slope = Annotated[float, pydantic.Field(gt=0, le=1)]
type Count = Annotated[int, pydantic.Field(ge=0)]


class Part(pydantic.BaseModel):
    """A part of a scene: immutable, and every field is known."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SkyField(Part):
    """The piece of sky that has objects in it: a circle.

    Parameters
    ----------
    ra, dec
        Centre, ICRS, degrees.
    radius
        Radius, degrees; every detector of every visit must lie inside.
    num_rings
        Rings of the sky map the visits are associated on.
    tracts
        The tracts of the sky map that are registered; all that the visits overlap by default.
    """

    ra: Annotated[float, pydantic.Field(ge=0, lt=360)]
    dec: Annotated[float, pydantic.Field(ge=-90, le=90)]
    radius: Annotated[float, pydantic.Field(gt=0, le=5)]
    num_rings: Annotated[int, pydantic.Field(gt=0)] = 120
    tracts: Annotated[tuple[int, ...], pydantic.Field(min_length=1)] | None = None


class Camera(Part):
    """A grid of equal detectors with gaps between them.

    Parameters
    ----------
    columns, rows
        Number of detectors along x and y; ids count from 0, row by row from the lower left.
    width, height
        Pixels of a detector along x and y.
    gap
        Space between neighbouring detectors, pixels.
    pixel_size
        Side of a pixel, mm.
    pixel_scale
        Arcseconds per pixel at the boresight.
    distortion
        Radial distortion: the pixel at a distance ``r`` from the boresight sees the field angle of an ideal
        camera at ``r (1 + distortion (r / edge)^2)``, with ``edge`` the farthest corner of the camera.
    vignetting_radius
        Pixels farther than this from the boresight, in units of the farthest corner, get no light (NO_DATA);
        above 1 there are none.
    """

    columns: Annotated[int, pydantic.Field(ge=1, le=16)] = 1
    rows: Annotated[int, pydantic.Field(ge=1, le=16)] = 1
    width: Annotated[int, pydantic.Field(ge=64)]
    height: Annotated[int, pydantic.Field(ge=64)]
    gap: Count = 50
    pixel_size: Positive = 0.01
    pixel_scale: Positive = 0.2
    distortion: Annotated[float, pydantic.Field(ge=-0.05, le=0.05)] = 2e-3
    vignetting_radius: Positive = 2.0

    @property
    def detectors(self) -> range:
        """Ids of the detectors."""
        return range(self.columns * self.rows)

    def center(self, detector: int) -> tuple[float, float]:
        """Return the focal-plane position (x, y) of a detector's centre, pixels from the boresight."""
        row, column = divmod(detector, self.columns)
        return (
            (column - 0.5 * (self.columns - 1)) * (self.width + self.gap),
            (row - 0.5 * (self.rows - 1)) * (self.height + self.gap),
        )

    @property
    def corner_radius(self) -> float:
        """Distance of the farthest corner of the camera from the boresight, pixels."""
        return math.hypot(
            0.5 * (self.columns * (self.width + self.gap) - self.gap),
            0.5 * (self.rows * (self.height + self.gap) - self.gap),
        )


class Electronics(Part):
    """What the detectors do to the light.

    Parameters
    ----------
    gain
        Electrons per count.
    read_noise
        Electrons per pixel and read-out.
    full_well
        Electrons a pixel holds; what is more runs along the column.
    bad_columns, hot_pixels
        Mean number per detector; they are marked BAD, as a calibration would.
    interpolate_defects
        Whether the defects are interpolated over (INTRP), as after the removal of the instrument's signature.
    """

    gain: Positive = 1.5
    read_noise: NotNegative = 7.0
    full_well: Positive = 1.0e5
    bad_columns: NotNegative = 2.0
    hot_pixels: NotNegative = 30.0
    interpolate_defects: bool = True


class Band(Part):
    """Site and filter.

    Parameters
    ----------
    zero_point
        AB magnitude of one electron per second above the atmosphere.
    sky
        Brightness of the dark sky at zenith, AB magnitudes per square arcsecond.
    extinction
        Magnitudes per airmass.
    """

    zero_point: Annotated[float, pydantic.Field(gt=15, lt=40)]
    sky: Annotated[float, pydantic.Field(gt=10, lt=30)]
    extinction: NotNegative = 0.1


class Stars(Part):
    """Counts of stars, and what they do in time.

    The number per square arcminute brighter than magnitude m of the reference band is
    ``density * 10**(slope * (m - 22))``, from `bright` to `faint`.

    Parameters
    ----------
    density
        Stars per square arcminute brighter than 22.
    slope
        Slope of the logarithmic counts.
    bright, faint
        Range of magnitudes.
    proper_motion
        Standard deviation of the motion in each coordinate, mas per year.
    variable_fraction, amplitude
        Fraction of the stars that vary, and the standard deviation of their magnitudes.
    """

    density: NotNegative = 1.8
    slope: Slope = 0.16
    bright: float = 14.0
    faint: float = 26.5
    proper_motion: NotNegative = 0.0
    variable_fraction: Fraction = 0.0
    amplitude: NotNegative = 0.0


class Galaxies(Part):
    """Counts, sizes, shapes and clustering of galaxies.

    The number per square arcminute brighter than magnitude m of the reference band is
    ``density * 10**(slope * (m - 24))``, from `bright` to `faint`. A galaxy is a
    bulge and an exponential disk of the same ellipticity; half-light radii are log-normal about
    ``size * 10**(-size_slope * (m - 22))`` arcsec.

    Parameters
    ----------
    density
        Galaxies per square arcminute brighter than 24.
    slope
        Slope of the logarithmic counts.
    bright, faint
        Range of magnitudes.
    size, size_slope, size_scatter
        Half-light radius at magnitude 22, arcsec; its change per magnitude and its scatter, dex.
    ellipticity
        Standard deviation of each component of the intrinsic reduced shear; magnitudes stay below 0.7.
    shear
        Shear (g1, g2) of all galaxies; positive g1 stretches along right ascension (east-west).
    bulge_fraction
        Mean share of the bulge in the light.
    bulge_index
        Sersic index of the bulge.
    truncation
        Where profiles end, in half-light radii of each component.
    clustered_fraction, cluster_members, cluster_radius
        Fraction of the galaxies that are in groups, the mean number in a group, and the standard deviation
        of their distances in each coordinate, arcsec.
    """

    density: NotNegative = 15.0
    slope: Slope = 0.33
    bright: float = 16.0
    faint: float = 26.5
    size: Annotated[float, pydantic.Field(gt=0, le=10)] = 0.5
    size_slope: NotNegative = 0.08
    size_scatter: Annotated[float, pydantic.Field(ge=0, le=0.5)] = 0.16
    ellipticity: NotNegative = 0.25
    shear: tuple[float, float] = (0.02, -0.01)
    bulge_fraction: Fraction = 0.25
    bulge_index: Annotated[float, pydantic.Field(ge=0.5, le=5)] = 4.0
    truncation: Annotated[float, pydantic.Field(ge=2, le=100)] = 5.0
    clustered_fraction: Fraction = 0.35
    cluster_members: Annotated[float, pydantic.Field(ge=1)] = 5.0
    cluster_radius: Annotated[float, pydantic.Field(gt=0, le=600)] = 5.0


class PsfPattern(Part):
    """How the PSF varies over the focal plane, besides the seeing of each visit.

    The PSF is an atmospheric profile convolved with a Gaussian spot of the optics, whose covariance follows
    from the defocus and astigmatism at each field position.

    Parameters
    ----------
    profile, beta
        Profile of the atmosphere, and the exponent of a Moffat profile.
    seeing_variation
        Relative standard deviation of the seeing over the focal plane, smooth.
    atmosphere_shear
        Standard deviation of the shear of the atmosphere over the focal plane, smooth.
    spot
        Standard deviation of the optics' spot where it is sharp, arcsec.
    defocus, astigmatism
        Width added by the defocus and by the astigmatism at the farthest corner of the camera, arcsec.
    color_slope
        Change of the logarithm of the seeing per magnitude of g - i colour; 0 for no colour dependence.
    """

    profile: Literal["moffat", "kolmogorov"] = "moffat"
    beta: Annotated[float, pydantic.Field(ge=2, le=10)] = 3.2
    seeing_variation: Annotated[float, pydantic.Field(ge=0, le=0.1)] = 0.02
    atmosphere_shear: Annotated[float, pydantic.Field(ge=0, le=0.1)] = 0.01
    spot: NotNegative = 0.1
    defocus: NotNegative = 0.15
    astigmatism: NotNegative = 0.10
    color_slope: Annotated[float, pydantic.Field(ge=-0.5, le=0.5)] = 0.0


class SkyPattern(Part):
    """How the sky varies over the camera, and the response the flat field was made with.

    Parameters
    ----------
    gradient
        Relative change of the sky from the boresight to the farthest corner, in a direction of its own.
    bowl
        Relative change of the sky that grows with the square of the distance from the boresight.
    illumination
        Relative amplitude of the flat for the background over that for stars (illumination correction); 0 for
        none.
    """

    gradient: Annotated[float, pydantic.Field(ge=0, lt=0.5)] = 0.02
    bowl: Annotated[float, pydantic.Field(gt=-0.5, lt=0.5)] = 0.01
    illumination: Annotated[float, pydantic.Field(ge=0, lt=0.5)] = 0.0


class CosmicRays(Part):
    """Charged particles in the silicon.

    Parameters
    ----------
    rate
        Hits per square centimetre and second.
    thickness
        Thickness of the silicon, pixels.
    charge
        Most probable charge per pixel of path, electrons.
    worm_fraction
        Fraction that are electrons scattered along a crooked path.
    diffusion
        Standard deviation of the charge's spread, pixels.
    """

    rate: NotNegative = 0.04
    thickness: Positive = 10.0
    charge: Positive = 800.0
    worm_fraction: Fraction = 0.2
    diffusion: NotNegative = 0.3


class Errors(Part):
    """Errors of the calibrations that come with the images, to be found by the pipeline.

    Parameters
    ----------
    pointing
        Standard deviation of the WCS's offset in each coordinate, arcsec.
    rotation
        Standard deviation of its rotation, arcsec.
    scale
        Standard deviation of its relative scale.
    zero_point
        Standard deviation of the zero point, mag.
    """

    pointing: NotNegative = 0.03
    rotation: NotNegative = 2.0
    scale: NotNegative = 1e-5
    zero_point: NotNegative = 0.02


class ReferenceStars(Part):
    """The reference catalog: stars of the scene, with errors.

    Parameters
    ----------
    bright, faint
        Range of magnitudes in the reference band.
    magnitude_error
        Standard deviation of the magnitudes.
    position_error
        Standard deviation of each coordinate, mas.
    """

    bright: float = 16.0
    faint: float = 21.5
    magnitude_error: NotNegative = 0.005
    position_error: NotNegative = 2.0


class Visit(Part):
    """One pointing of the camera.

    Parameters
    ----------
    id
        Visit id; its exposures are ``id`` and, for the second snap, ``id + 1``.
    band
        Band, one of the scene's.
    ra, dec
        Boresight, ICRS, degrees.
    rotation
        Angle from north to the camera's +y direction, degrees, positive through east.
    seeing
        Full width at half maximum of the atmosphere, arcsec.
    mjd
        Begin of the exposure, TAI.
    exposure_time
        Seconds, of all snaps together.
    airmass
        Airmass.
    clouds
        Grey extinction, mag.
    sky_excess
        Magnitudes by which the sky is brighter than the dark sky of the band.
    """

    id: Annotated[int, pydantic.Field(gt=0, lt=2**31 - 1)]
    band: str
    ra: Annotated[float, pydantic.Field(ge=0, lt=360)]
    dec: Annotated[float, pydantic.Field(ge=-90, le=90)]
    rotation: float = 0.0
    seeing: Annotated[float, pydantic.Field(gt=0.1, lt=10)]
    mjd: Annotated[float, pydantic.Field(gt=40000, lt=100000)]
    exposure_time: Positive = 30.0
    airmass: Annotated[float, pydantic.Field(ge=1, lt=10)] = 1.2
    clouds: NotNegative = 0.0
    sky_excess: float = 0.0
