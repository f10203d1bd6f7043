"""The true PSF: what it is made of, how it varies, how it is drawn and stored."""

from __future__ import annotations

import dataclasses

import galsim
import numpy as np
import pytest
from lsst.images.serialization import read_archive, write_archive

from secondlight.simulate.psf import SimulatedPsf, make_psf
from secondlight.simulate.scene import Scene, load_scene


def scene_psf(name: str, *, visit: int = 0, detector: int = 0, **settings: float) -> SimulatedPsf:
    scene = load_scene(name, settings={key.replace("__", "."): value for key, value in settings.items()})
    return make_psf(scene, scene.visits[visit], detector)


def grid(scene: Scene, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n x n positions over a detector, from edge to edge."""
    x, y = np.meshgrid(np.linspace(0, scene.camera.width - 1, n), np.linspace(0, scene.camera.height - 1, n))
    return x.ravel(), y.ravel()


def adaptive_moments(stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return size T = xx + yy and distortion (n, 2) of stamps."""
    sizes, shapes = [], []
    for stamp in stamps:
        found = galsim.hsm.FindAdaptiveMom(galsim.Image(np.ascontiguousarray(stamp)))
        shape = found.observed_shape
        # sigma is det(M)**(1/4), so the trace follows from the distortion.
        sizes.append(2 * found.moments_sigma**2 / np.sqrt(1 - shape.e**2))
        shapes.append((shape.e1, shape.e2))
    return np.array(sizes), np.array(shapes)


@pytest.mark.parametrize(("name", "limit"), [("demo", 0.003), ("ccd", 0.008)])
def test_varies_as_real_ones_do(name, limit):
    """A constant PSF is wrong by several per cent; a polynomial of the second degree is nearly right."""
    scene = load_scene(name)
    psf = make_psf(scene, scene.visits[0], 0)
    x, y = grid(scene, 7)
    stamps = psf.draw(x=x, y=y, dx=np.zeros(len(x)), dy=np.zeros(len(x)))
    u, v = 2 * x / x.max() - 1, 2 * y / y.max() - 1
    design = np.column_stack([np.ones(len(x)), u, v, u**2, u * v, v**2])
    fit = design @ np.linalg.lstsq(design, stamps.reshape(len(x), -1), rcond=None)[0]
    size, shape = adaptive_moments(stamps)
    fit_size, fit_shape = adaptive_moments(fit.reshape(stamps.shape))
    assert 0.015 < size.std() / size.mean() < 0.08
    assert 0.005 < shape.std(axis=0).max() < 0.06
    assert (fit_size / size - 1).std() < limit
    assert (fit_shape - shape).std() < limit


def test_is_one_function_over_all_detectors():
    """The same place of the focal plane, seen from two detectors, has the same PSF."""
    scene = load_scene("demo")
    (x0, y0), (x3, y3) = scene.camera.center(0), scene.camera.center(3)
    first, last = make_psf(scene, scene.visits[0], 0), make_psf(scene, scene.visits[0], 3)
    x, y = grid(scene, 3)
    np.testing.assert_allclose(
        first.parameters(x=x, y=y), last.parameters(x=x + x0 - x3, y=y + y0 - y3), rtol=1e-12, atol=1e-14
    )


def test_scatter_of_the_fields_is_that_of_the_scene():
    scene = load_scene("survey", settings={"psf.seeing_variation": 0.05, "psf.atmosphere_shear": 0.02})
    rows = [
        make_psf(scene, visit, detector).parameters(x=x, y=y)
        for visit in scene.visits[:1]
        for detector in scene.camera.detectors
        for x, y in [grid(scene, 9)]
    ]
    found = np.concatenate(rows)
    fwhm = scene.visits[0].seeing / scene.camera.pixel_scale
    assert found[:, 0].mean() == pytest.approx(fwhm, rel=0.01)
    assert found[:, 0].std() / fwhm == pytest.approx(0.05, rel=0.1)
    assert found[:, 1].std() == pytest.approx(0.02, rel=0.1)
    assert found[:, 2].std() == pytest.approx(0.02, rel=0.1)


def test_stays_sane_far_outside_the_camera():
    """Stars far off a small camera shine on it too, and the polynomials would grow without limit there."""
    settings = {"camera__width": 64, "camera__height": 64, "camera__columns": 1}
    psf = scene_psf("tiny", **settings)
    angle = np.linspace(0, 2 * np.pi, 50)
    x, y = (psf.boresight[i] + psf.radius * f(angle) for i, f in enumerate((np.cos, np.sin)))
    far_x, far_y = (center + 25 * (p - center) for center, p in zip(psf.boresight, (x, y), strict=True))
    np.testing.assert_allclose(psf.parameters(x=far_x, y=far_y), psf.parameters(x=x, y=y), rtol=1e-9)


def test_visits_and_seeds_differ_and_repeat():
    one = scene_psf("tiny")
    np.testing.assert_array_equal(one.coefficients, scene_psf("tiny").coefficients)
    assert not np.allclose(one.coefficients, scene_psf("tiny", visit=1).coefficients)
    assert not np.allclose(one.coefficients, scene_psf("tiny", seed=99).coefficients)


def test_spot_follows_defocus_and_astigmatism():
    """Without any, the spot is round and sharp; with them its covariance stays positive."""
    sharp = scene_psf("ccd", psf__defocus=0.0, psf__astigmatism=0.0)
    pixels = 0.1 / 0.2
    spot = sharp.parameters(x=[0.0, 900.0], y=[3.0, 4000.0])[:, 3:]
    np.testing.assert_allclose(spot, [[pixels**2, pixels**2, 0.0]] * 2, atol=1e-12)
    xx, yy, xy = scene_psf("ccd").parameters(x=[0.0, 4095.0], y=[0.0, 4095.0])[:, 3:].T
    assert np.all(xx * yy - xy**2 >= pixels**4)
    assert np.all(xx + yy > 2 * pixels**2)


def test_blue_stars_are_wider_where_colour_matters():
    psf = scene_psf("tiny", psf__color_slope=-0.03)
    at = {"x": np.zeros(3), "y": np.zeros(3)}
    blue, typical, red = psf.parameters(**at, color=[0.0, 1.0, 3.0])
    assert blue[0] / typical[0] == pytest.approx(np.exp(0.03))
    assert red[0] / typical[0] == pytest.approx(np.exp(-0.06))
    np.testing.assert_array_equal(psf.parameters(**at)[0], typical)
    np.testing.assert_array_equal(blue[1:], red[1:])


@pytest.mark.parametrize(("x", "y"), [(100.3, 200.4), (99.5, 200.5), (500.0, 7.51)])
def test_stellar_image_is_that_of_galsim(x, y):
    psf = scene_psf("tiny")
    fwhm, g1, g2, cxx, cyy, cxy = psf.parameters(x=x, y=y)[0]
    accurate = galsim.GSParams(folding_threshold=1e-5, maxk_threshold=1e-6, kvalue_accuracy=1e-8)
    chol = np.linalg.cholesky([[cxx, cxy], [cxy, cyy]])
    spot = galsim.Transform(galsim.Gaussian(sigma=1.0), jac=chol.tolist()) / np.linalg.det(chol)
    atmosphere = galsim.Moffat(psf.beta, fwhm=fwhm).shear(g1=g1, g2=g2)
    ours = psf.compute_stellar_image(x=x, y=y)
    box = ours.bbox
    assert box == psf.compute_stellar_bbox(x=x, y=y)
    theirs = galsim.Image(galsim.BoundsI(box.x.min, box.x.max, box.y.min, box.y.max), scale=1.0, dtype=float)
    galsim.Convolve(atmosphere, spot, gsparams=accurate).drawImage(theirs, center=galsim.PositionD(x, y))
    theirs.array[:] /= theirs.array.sum()
    assert ours.array.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(ours.array, theirs.array, atol=2e-5 * ours.array.max())


def test_kernel_image_is_centred():
    psf = scene_psf("demo")
    kernel = psf.compute_kernel_image(x=17.4, y=900.9)
    assert kernel.bbox == psf.kernel_bbox
    assert kernel.array.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(kernel.array, kernel.array[::-1, ::-1], atol=1e-12)
    assert kernel.array.argmax() == kernel.array.size // 2
    assert psf.stamp_size >= 16 * psf.fwhm


@pytest.mark.parametrize("extension", ["fits", "json"])
def test_storage(tmp_path, extension):
    psf = scene_psf("tiny", detector=1, psf__color_slope=-0.02)
    path = str(tmp_path / f"psf.{extension}")
    write_archive(psf, path)
    back = read_archive(path)
    assert isinstance(back, SimulatedPsf)
    for name in (field.name for field in dataclasses.fields(psf)):
        np.testing.assert_array_equal(getattr(back, name), getattr(psf, name))
    ours, theirs = psf.compute_stellar_image(x=30.2, y=99.9), back.compute_stellar_image(x=30.2, y=99.9)
    np.testing.assert_array_equal(ours.array, theirs.array)
