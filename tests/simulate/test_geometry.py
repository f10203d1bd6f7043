"""Geometry of the simulated camera: against other libraries, there and back, stored and reread."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import astropy.units as u
import lsst.images.fits
import lsst.images.json
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from lsst.images import Image, Mask, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction
from lsst.images.serialization import read_archive

from secondlight.catalog.mask_planes import make_mask_schema
from secondlight.psf.sky_moments import pixel_to_sky_jacobian
from secondlight.simulate.errors import astrometric_error, zero_point_error
from secondlight.simulate.geometry import (
    DetectorGeometry,
    make_camera_detector,
    nominal_geometry,
    true_geometry,
    vignetted,
)
from secondlight.simulate.observation_info import observation_info
from secondlight.simulate.scene import SceneError, load_scene

MARGIN = 200

geometries = st.builds(
    DetectorGeometry,
    width=st.just(2048),
    height=st.just(1000),
    boresight_x=st.floats(-6000, 6000),
    boresight_y=st.floats(-6000, 6000),
    ra=st.floats(0, 359.999),
    dec=st.floats(-90, 90),
    rotation=st.floats(-400, 400),
    pixel_scale=st.floats(0.1, 0.5),
    distortion=st.floats(-0.05, 0.05),
    corner_radius=st.just(11400.0),
)


def grid(
    geometry: DetectorGeometry, *, margin: float = MARGIN, points: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-margin, geometry.width - 1 + margin, points)
    y = np.linspace(-margin, geometry.height - 1 + margin, points)
    xs, ys = np.meshgrid(x, y)
    return xs.ravel(), ys.ravel()


def scene_geometry(**settings: object) -> DetectorGeometry:
    """Return a detector far from the boresight of a distorted camera."""
    scene = load_scene("survey", settings={"camera.distortion": 0.05, **settings})
    return true_geometry(scene, scene.visits[0], 2)


@pytest.mark.parametrize(
    ("rotation", "to_the_right", "up"),
    [(0.0, "west", "north"), (90.0, "north", "east"), (180.0, "east", "south"), (270.0, "south", "west")],
)
def test_east_is_to_the_left_of_north_and_the_rotation_turns_up_to_the_east(rotation, to_the_right, up):
    """Parity is that of the sky; +y points from north through east by the rotation."""
    geometry = dataclasses.replace(scene_geometry(), rotation=rotation)
    x0, y0 = geometry.boresight_x, geometry.boresight_y
    ra, dec = geometry.pixel_to_sky(x=np.array([x0, x0 + 10, x0]), y=np.array([y0, y0, y0 + 10]))
    sky = SkyCoord(ra, dec, unit="deg")
    angles = {"north": 0, "east": 90, "south": 180, "west": 270}
    for step, direction in ((sky[1], to_the_right), (sky[2], up)):
        off = sky[0].position_angle(step).deg - angles[direction]
        assert (off + 180) % 360 - 180 == pytest.approx(0, abs=0.1)
        assert sky[0].separation(step).arcsec == pytest.approx(2.0, rel=1e-6)


@given(geometry=geometries)
def test_pixels_look_where_great_circles_lead(geometry):
    """The boresight, a direction and a distance on the sphere give the same positions."""
    x, y = grid(geometry, points=5)
    dx, dy = x - geometry.boresight_x, y - geometry.boresight_y
    radius = np.hypot(dx, dy)
    radius *= 1 + geometry.distortion * (radius / geometry.corner_radius) ** 2
    distance = np.arctan(radius * geometry.pixel_scale * math.radians(1 / 3600)) * u.rad
    # Unrotated, +x (west) is 90 degrees before +y (north) as position angles count, eastwards.
    angle = (np.arctan2(-dx, dy) + math.radians(geometry.rotation)) * u.rad
    expected = SkyCoord(geometry.ra, geometry.dec, unit="deg").directional_offset_by(angle, distance)
    ra, dec = geometry.pixel_to_sky(x=x, y=y)
    assert np.all((ra >= 0) & (ra < 360))
    assert SkyCoord(ra, dec, unit="deg").separation(expected).arcsec.max() < 1e-6


@given(geometry=geometries)
def test_there_and_back_is_exact(geometry):
    x, y = grid(geometry)
    ra, dec = geometry.pixel_to_sky(x=x, y=y)
    back_x, back_y = geometry.sky_to_pixel(ra=ra, dec=dec)
    np.testing.assert_allclose(back_x, x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(back_y, y, rtol=0, atol=1e-6)


@given(geometry=geometries)
def test_jacobian_is_the_slope_of_the_mapping(geometry):
    """Compared with small steps along great circles to the east and to the north."""
    x, y = grid(geometry, points=4)
    ra, dec = geometry.pixel_to_sky(x=x, y=y)
    here = SkyCoord(ra, dec, unit="deg")
    columns = []
    for angle in (90 * u.deg, 0 * u.deg):
        ahead, behind = (here.directional_offset_by(angle + turn, 1 * u.arcsec) for turn in (0, 180) * u.deg)
        x1, y1 = geometry.sky_to_pixel(ra=ahead.ra.deg, dec=ahead.dec.deg)
        x0, y0 = geometry.sky_to_pixel(ra=behind.ra.deg, dec=behind.dec.deg)
        columns.append(np.stack([x1 - x0, y1 - y0], axis=-1) / 2)
    np.testing.assert_allclose(geometry.jacobian(x=x, y=y), np.stack(columns, axis=-1), atol=1e-5)


def test_jacobian_is_the_inverse_of_what_the_measurements_use():
    geometry = scene_geometry()
    x, y = grid(geometry)
    to_sky = pixel_to_sky_jacobian(geometry.projection(visit=1, detector=2), x=x, y=y)
    product = geometry.jacobian(x=x, y=y) @ to_sky
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(2), product.shape), atol=1e-6)


@pytest.mark.parametrize("distortion", [0.0, 0.002, 0.05, -0.05])
@pytest.mark.parametrize("dec", [-89.99, -29.3, 0.0, 75.0])
def test_the_images_projection_agrees_both_ways(distortion, dec):
    """To 1e-4 pixels over the detector and a margin, in every description of the same mapping."""
    geometry = dataclasses.replace(scene_geometry(), distortion=distortion, dec=dec)
    x, y = grid(geometry)
    ra, dec_ = geometry.pixel_to_sky(x=x, y=y)
    sky = SkyCoord(ra, dec_, unit="deg")
    projection = geometry.projection(visit=1, detector=2)
    assert projection.pixel_to_sky(x=x, y=y).separation(sky).arcsec.max() < 1e-6
    pixels = projection.sky_to_pixel(sky)
    np.testing.assert_allclose([pixels.x, pixels.y], [x, y], rtol=0, atol=1e-4)
    np.testing.assert_allclose(geometry.wcs.all_world2pix(ra, dec_, 0), [x, y], rtol=0, atol=1e-4)
    as_fits = projection.as_fits_wcs(geometry.bbox)
    np.testing.assert_allclose(as_fits.all_world2pix(ra, dec_, 0), [x, y], rtol=0, atol=1e-4)


def tiny_image() -> tuple[DetectorGeometry, VisitImage]:
    scene = load_scene("tiny", settings={"camera.distortion": 0.05})
    visit = scene.visits[0]
    geometry = true_geometry(scene, visit, 1)
    box = geometry.bbox
    image = VisitImage(
        Image(0, bbox=box, dtype=np.float32, unit=u.adu),
        mask=Mask(schema=make_mask_schema(), bbox=box),
        variance=Image(1, bbox=box, dtype=np.float32, unit=u.adu**2),
        sky_projection=geometry.projection(visit=visit.id, detector=1),
        obs_info=observation_info(scene, visit, 1),
        psf=GaussianPointSpreadFunction(2.0, bounds=box, stamp_size=25),
        detector=make_camera_detector(scene, visit, 1),
        band=visit.band,
    )
    return geometry, image


@pytest.mark.parametrize("kind", ["json", "fits"])
def test_the_projection_of_an_image_survives_storage(tmp_path: Path, kind: str):
    geometry, image = tiny_image()
    path = tmp_path / f"image.{kind}"
    (lsst.images.json if kind == "json" else lsst.images.fits).write(image, path)
    reread = read_archive(path, VisitImage)
    x, y = grid(geometry)
    ra, dec = geometry.pixel_to_sky(x=x, y=y)
    pixels = reread.sky_projection.sky_to_pixel(SkyCoord(ra, dec, unit="deg"))
    np.testing.assert_allclose([pixels.x, pixels.y], [x, y], rtol=0, atol=1e-4)
    assert reread.obs_info == image.obs_info
    if kind == "fits":
        with fits.open(path) as hdus:
            wcs = WCS(hdus["IMAGE"].header)
        np.testing.assert_allclose(wcs.all_world2pix(ra, dec, 0), [x, y], rtol=0, atol=1e-4)


def test_positions_that_no_pixel_sees_are_nan_and_never_on_the_detector():
    geometry = dataclasses.replace(scene_geometry(), distortion=-0.05)
    opposite = geometry.sky_to_pixel(ra=np.array(geometry.ra + 180), dec=np.array(-geometry.dec))
    assert np.isnan(opposite).all()
    distances = np.linspace(0, 5, 400) * u.deg
    sky = SkyCoord(geometry.ra, geometry.dec, unit="deg").directional_offset_by(40 * u.deg, distances)
    x, y = geometry.sky_to_pixel(ra=sky.ra.deg, dec=sky.dec.deg)
    radius = np.hypot(x - geometry.boresight_x, y - geometry.boresight_y)
    lost = np.isnan(radius)
    assert lost.any()
    assert not lost[: np.argmax(lost)].any()
    assert lost[np.argmax(lost) :].all()
    assert np.all(np.diff(radius[~lost]) > 0)


def test_scalars_and_grids_keep_their_shapes():
    geometry = scene_geometry()
    assert np.shape(geometry.pixel_to_sky(x=3.0, y=4.0)[0]) == ()
    x, y = np.meshgrid(np.arange(3.0), np.arange(4.0))
    ra, dec = geometry.pixel_to_sky(x=x, y=y)
    assert ra.shape == geometry.sky_to_pixel(ra=ra, dec=dec)[1].shape == (4, 3)
    assert geometry.jacobian(x=x, y=y).shape == (4, 3, 2, 2)


def test_neighbouring_detectors_continue_each_other():
    """A column beyond the gap is the first column of the next detector; so are rows."""
    scene = load_scene("survey")
    step, visit = scene.camera.width + scene.camera.gap, scene.visits[3]
    first, right, above = (true_geometry(scene, visit, detector) for detector in (0, 1, 3))
    here = first.pixel_to_sky(x=np.array([step, 10.0]), y=np.array([7.0, step]))
    there = [
        np.concatenate(pair)
        for pair in zip(
            right.pixel_to_sky(x=np.zeros(1), y=np.full(1, 7.0)),
            above.pixel_to_sky(x=np.full(1, 10.0), y=np.zeros(1)),
            strict=True,
        )
    ]
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-11)


def test_field_positions_reach_one_at_the_farthest_corner():
    scene = load_scene("demo")
    corner = true_geometry(scene, scene.visits[0], 0).field(x=np.array([-0.5]), y=np.array([-0.5]))
    assert np.hypot(*corner)[0] == pytest.approx(1.0)
    assert corner[0] < 0
    assert corner[1] < 0
    middle = true_geometry(load_scene("ccd"), load_scene("ccd").visits[0], 0).field(x=2047.5, y=2047.5)
    assert middle == (0.0, 0.0)


def test_region_goes_to_the_outer_edges_of_the_pixels():
    geometry = dataclasses.replace(scene_geometry(), distortion=0.002)
    x = np.array([0.0, geometry.width - 1, 500.0, -2.0, geometry.width + 1.0])
    y = np.array([0.0, geometry.height - 1, 500.0, 500.0, 500.0])
    ra, dec = np.radians(geometry.pixel_to_sky(x=x, y=y))
    assert geometry.region.contains(ra, dec).tolist() == [True, True, True, False, False]


def test_what_an_image_claims_is_off_by_the_visits_error():
    scene = load_scene("survey", settings={"errors.pointing": 5.0, "errors.rotation": 200.0})
    visit = scene.visits[1]
    error = astrometric_error(scene, visit)
    for detector in (0, 4, 8):
        true, nominal = (make(scene, visit, detector) for make in (true_geometry, nominal_geometry))
        boresight = SkyCoord(true.ra, true.dec, unit="deg")
        claimed = SkyCoord(nominal.ra, nominal.dec, unit="deg")
        east, north = (offset.arcsec for offset in boresight.spherical_offsets_to(claimed))
        assert (east, north) == pytest.approx((error.east, error.north), abs=1e-6)
        # Between the two boresights north itself turns, by the convergence of the meridians.
        turn = error.rotation + error.east * np.tan(np.radians(visit.dec))
        assert (nominal.rotation - true.rotation) * 3600 == pytest.approx(turn, abs=1e-2)
        assert nominal.pixel_scale == pytest.approx(true.pixel_scale * (1 + error.scale))
        assert (nominal.boresight_x, nominal.distortion) == (true.boresight_x, true.distortion)


@pytest.mark.parametrize(("ra", "dec"), [(0.0, -90.0), (123.0, 90.0), (10.0, 89.9999), (0.0, 5.0)])
def test_errors_do_not_depend_on_the_place_on_the_sky(ra, dec):
    """North is another direction a little beside a pole, but an image is off by no more than elsewhere."""
    scene, polar = load_scene("tiny"), load_scene("tiny", settings={"visits": [_visit_at(ra, dec)]})
    offsets = []
    for visit in (scene.visits[0], polar.visits[0]):
        true, nominal = true_geometry(scene, visit, 0), nominal_geometry(scene, visit, 0)
        x, y = grid(true)
        claimed = nominal.sky_to_pixel(**dict(zip(("ra", "dec"), true.pixel_to_sky(x=x, y=y), strict=True)))
        offsets.append(np.array(claimed) - (x, y))
    assert 0.01 < np.abs(offsets[0]).max() < 1
    np.testing.assert_allclose(offsets[1], offsets[0], atol=1e-5)


def _visit_at(ra: float, dec: float) -> dict[str, object]:
    """Return the first visit of the scene `tiny`, looking elsewhere."""
    return dict(load_scene("tiny").visits[0]) | {"ra": ra, "dec": dec}


def test_without_errors_images_claim_the_truth():
    none = dict.fromkeys(("errors.pointing", "errors.rotation", "errors.scale", "errors.zero_point"), 0.0)
    scene = load_scene("tiny", settings=none)
    visit = scene.visits[0]
    nominal, true = nominal_geometry(scene, visit, 1), true_geometry(scene, visit, 1)
    x, y = grid(true)
    np.testing.assert_allclose(
        nominal.pixel_to_sky(x=x, y=y), true.pixel_to_sky(x=x, y=y), atol=1e-12, rtol=0
    )
    assert zero_point_error(scene, visit) == 0.0


def test_errors_have_the_scatter_they_are_said_to_have():
    scene = load_scene("survey")
    visits = [scene.visits[0].model_copy(update={"id": 5 + 2 * number}) for number in range(400)]
    errors = np.array([dataclasses.astuple(astrometric_error(scene, visit)) for visit in visits])
    expected = np.array([scene.errors.pointing] * 2 + [scene.errors.rotation, scene.errors.scale])
    np.testing.assert_allclose(errors.std(axis=0) / expected, 1.0, atol=0.15)
    np.testing.assert_allclose(np.corrcoef(errors.T) - np.eye(4), 0.0, atol=0.2)
    zero_points = [zero_point_error(scene, visit) for visit in visits]
    assert np.std(zero_points) == pytest.approx(scene.errors.zero_point, rel=0.15)
    assert zero_points[3] == zero_point_error(scene, visits[3])


def test_vignetted_pixels_are_those_far_from_the_boresight():
    scene = load_scene("survey")
    dark = {detector: vignetted(scene, detector) for detector in (0, 5)}
    for detector in (0, 5):
        x, y = np.meshgrid(np.arange(scene.camera.width), np.arange(scene.camera.height))
        u_, v = true_geometry(scene, scene.visits[0], detector).field(x=x, y=y)
        np.testing.assert_array_equal(dark[detector], np.hypot(u_, v) > scene.camera.vignetting_radius)
        assert dark[detector].any() == (detector == 0)
    assert not any(vignetted(load_scene("demo"), detector).any() for detector in range(4))


def test_the_detectors_place_in_the_focal_plane_is_the_cameras():
    scene = load_scene("demo")
    detector = make_camera_detector(scene, scene.visits[0], 3)
    assert detector.bbox == true_geometry(scene, scene.visits[0], 3).bbox
    orientation = detector.orientation
    center = np.array(scene.camera.center(3)) * scene.camera.pixel_size
    np.testing.assert_allclose([orientation.focal_plane_x, orientation.focal_plane_y], center)
    assert np.all(center > 0)


def test_a_detector_that_the_camera_does_not_have():
    scene = load_scene("tiny")
    with pytest.raises(SceneError, match="no detector 2"):
        true_geometry(scene, scene.visits[0], 2)
