"""One detector of one visit: the objects' light, the sky, the read-out, and the truth about all of it."""

from __future__ import annotations

__all__ = ("SimulatedDetector", "simulate_detector")

import dataclasses
import math

import astropy.units as u
import numpy as np
from astropy.table import Table
from lsst.images import BackgroundMap, Image, Mask, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction

from ..catalog.photo_calib import PhotoCalib
from .geometry import (
    DetectorGeometry,
    make_camera_detector,
    nominal_geometry,
    true_geometry,
    vignetted,
    zero_point_error,
)
from .objects import Observed, observed_at, shape_matrices
from .observation_info import observation_info
from .psf import SimulatedPsf, make_psf
from .read_out import ReadOut, read_out
from .render import Light, add_light, stamp_sizes
from .scene import Scene
from .scene_parts import Visit
from .sky_light import illumination, sky_field, true_background
from .truth import make_truth

_EDGE_BRIGHTNESS = 0.02
"""Surface brightness below which light is left out, in units of the noise of an empty pixel."""

_FARTHEST = 1024.0
"""Objects farther than this from a detector, in pixels, send no light to it; half of the largest stamp."""

_SIGMA_PER_FWHM = 1.0 / (2.0 * math.sqrt(2.0 * math.log(2.0)))


@dataclasses.dataclass(frozen=True, eq=False)
class SimulatedDetector:
    """What a detector recorded in a visit, and the truth.

    Parameters
    ----------
    images
        One image per snap, with the calibrations that the telescope would claim.
    truth
        One row per object whose light is on the detector.
    psf
        The true PSF.
    background
        The true sky of all snaps, counts.
    artifacts
        Per snap, the pixels of every artefact by its kind.
    ratio
        Flat of the background over flat of the stars, if the scene has an illumination pattern.
    """

    images: tuple[VisitImage, ...]
    truth: Table
    psf: SimulatedPsf
    background: BackgroundMap
    artifacts: tuple[Mask, ...]
    ratio: Image | None


def simulate_detector(scene: Scene, objects: Table, *, visit: int, detector: int) -> SimulatedDetector:
    """Simulate one detector of one visit.

    Parameters
    ----------
    scene
        The survey.
    objects
        All its objects, from `secondlight.simulate.objects.make_objects`.
    visit, detector
        Ids of the visit and the detector.

    Raises
    ------
    SceneError
        Raised if the scene has no such visit or detector.
    """
    pointing = scene.visit(visit)
    scene.check_detector(detector)
    psf = make_psf(scene, pointing, detector)
    ratio = illumination(scene, detector)
    rows, observed, light, sizes = _light(scene, objects, pointing, detector, psf)
    total = np.zeros((scene.camera.height, scene.camera.width))
    noise = scene.sky_noise(pointing)
    add_light(total, light, sizes=sizes)
    if ratio is not None:
        total *= ratio.array
    geometry = nominal_geometry(scene, pointing, detector)
    gain = scene.electronics.gain
    sky = sky_field(scene, pointing, detector).render(geometry.bbox, dtype=np.float64).array
    expected = total / scene.snaps + sky * gain
    dark = vignetted(scene, detector)
    reads = [
        read_out(scene, pointing, detector, snap, electrons=expected, vignetted=dark)
        for snap in range(scene.snaps)
    ]
    expected[dark] = 0.0
    truth = make_truth(
        objects[rows],
        observed,
        light,
        expected,
        total=total,
        gain=gain,
        noise=noise,
        full_well=scene.electronics.full_well,
        pixel_scale=scene.camera.pixel_scale,
        meta={
            "scene": scene.name,
            "visit": visit,
            "detector": detector,
            "band": pointing.band,
            "zero_point": scene.zero_point(pointing),
            "sky": scene.sky_electrons(pointing) / gain,
            "noise": noise / gain,
            "gain": gain,
        },
    )
    return SimulatedDetector(
        images=tuple(
            _image(scene, pointing, detector, snap, geometry, read) for snap, read in enumerate(reads)
        ),
        truth=truth,
        psf=psf,
        background=true_background(scene, pointing, detector),
        artifacts=tuple(read.artifacts for read in reads),
        ratio=ratio,
    )


def _light(
    scene: Scene, objects: Table, visit: Visit, detector: int, psf: SimulatedPsf
) -> tuple[np.ndarray, Observed, Light, np.ndarray]:
    """Return the objects that shine on a detector: rows, positions and magnitudes, light, sizes of stamps."""
    geometry = true_geometry(scene, visit, detector)
    observed = observed_at(objects, scene, visit)
    x, y = geometry.sky_to_pixel(ra=observed.ra, dec=observed.dec)
    rows = np.nonzero(_within(scene, x, y, _FARTHEST))[0]
    x, y = x[rows], y[rows]
    bulge, disk = (
        np.einsum("nij,njk->nik", geometry.jacobian(x=x, y=y), matrix)
        for matrix in shape_matrices(objects[rows])
    )
    light = Light(
        x=x,
        y=y,
        flux=10 ** (-0.4 * (observed.mag[rows] - scene.zero_point(visit))) * scene.electronics.gain,
        psf=psf.parameters(x=x, y=y, color=np.asarray(objects["g_i"])[rows]),
        bulge_fraction=np.asarray(objects["bulge_fraction"])[rows],
        bulge_matrix=bulge,
        disk_matrix=disk,
        profile=scene.psf.profile,
        beta=scene.psf.beta,
        bulge_index=scene.galaxies.bulge_index,
        truncation=scene.galaxies.truncation,
    )
    sizes = stamp_sizes(light, surface_brightness=_EDGE_BRIGHTNESS * scene.sky_noise(visit))
    touches = _within(scene, x, y, 0.5 * sizes + 1.0)
    rows = rows[touches]
    return rows, observed[rows], light[touches], sizes[touches]


def _within(scene: Scene, x: np.ndarray, y: np.ndarray, reach: float | np.ndarray) -> np.ndarray:
    """Return which positions are on a detector or no farther than `reach` pixels from it, in x and in y."""
    camera = scene.camera
    return np.asarray((x > -reach) & (x < camera.width + reach) & (y > -reach) & (y < camera.height + reach))


def _image(
    scene: Scene, visit: Visit, detector: int, snap: int, geometry: DetectorGeometry, read: ReadOut
) -> VisitImage:
    """Return a snap as the telescope would hand it over: calibrated as far as it knows."""
    bbox = geometry.bbox
    gain = scene.electronics.gain
    claimed = scene.zero_point(visit) - 2.5 * math.log10(scene.snaps) + zero_point_error(scene, visit)
    fwhm = visit.seeing / scene.camera.pixel_scale
    sigma = fwhm * _SIGMA_PER_FWHM
    return VisitImage(
        Image(read.counts, bbox=bbox, unit=u.adu),
        mask=read.mask,
        variance=Image(read.variance, bbox=bbox, unit=u.adu**2),
        sky_projection=geometry.projection(visit=visit.id, detector=detector),
        obs_info=observation_info(scene, visit, detector, snap),
        photometric_scaling=PhotoCalib.from_zero_point(claimed).to_field(bbox, u.adu),
        psf=GaussianPointSpreadFunction(sigma, bounds=bbox, stamp_size=2 * math.ceil(6 * sigma) + 1),
        detector=make_camera_detector(scene, visit, detector),
        band=visit.band,
        metadata={
            "GAIN": gain,
            "READ_NOISE": scene.electronics.read_noise,
            "SATURATION": scene.electronics.full_well / gain,
            "PSF_SOURCE": "Gaussian guess of the seeing",
            "PSF_FWHM_GUESS": fwhm,
            "ZERO_POINT": claimed,
            "ZERO_POINT_SOURCE": f"scene {scene.name}",
        },
    )
