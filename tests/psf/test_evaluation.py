from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import galsim
import numpy as np
import piff
import pytest
from lsst.images import XY, Box, Image
from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper, PointSpreadFunction
from lsst.images.serialization import read_archive

from secondlight.psf import evaluation
from secondlight.psf._piff_stars import FittedStar
from secondlight.psf.pixel_grid import PixelGridModel

BOX = Box.factory[300:1300, 500:1500]


def make_piff(
    *,
    keys: tuple[str, ...] = ("x", "y"),
    order: int = 1,
    scale: float = 0.2,
    sampling: float = 1.0,
    interpolant: str = "lanczos11",
) -> piff.PSF:
    """Return an elliptical PixelGrid PSF that grows with x and y, and with colour if that is a key."""
    model = piff.PixelGrid(scale * sampling, 25, interp=galsim.Interpolant.from_name(interpolant))
    interp = piff.BasisPolynomial(order=order, keys=keys)
    psf = piff.SimplePSF(model, interp)
    psf.set_num(None)
    v, u = np.mgrid[-12:13, -12:13] * 1.0
    base = np.exp(-0.5 * (u**2 / 4 + v**2 / 3.5 + 0.1 * u * v))
    terms = int(interp._mask.sum())
    interp.q = np.zeros((625, terms))
    interp.q[:, 0] = (base / base.sum()).ravel()
    for k in range(1, terms):
        pattern = (base * (u**2 + k * v**2 - 8)).ravel()
        powers = np.argwhere(interp._mask)[k]
        # All terms alike where coordinates are as large as they get, and a tenth of the PSF for a colour.
        sizes = [{"u": 200.0, "v": 200.0, "x": 1000.0, "y": 1000.0, "colorValue": 1.0}[key] for key in keys]
        interp.q[:, k] = pattern * 3e-4 / np.prod(np.array(sizes) ** powers)
    psf.wcs = {0: galsim.PixelScale(scale)}
    psf.pointing = None
    psf.stars = []
    return psf


def drawn(
    psf: piff.PSF, x: float, y: float, size: int, *, centre: tuple[float, float], **color: float
) -> np.ndarray:
    """Draw with Piff on an explicitly centred stamp."""
    image = galsim.Image(size, size, dtype=float)
    image.setCenter(int(np.floor(x + 0.5)), int(np.floor(y + 0.5)))
    psf.draw(x, y, image=image, center=centre, **color)
    return image.array / image.array.sum()


@pytest.mark.parametrize("keys", [("x", "y"), ("u", "v")])
@pytest.mark.parametrize("size", [25, 31, 19])
def test_fast_path_agrees_with_piff(keys: tuple[str, ...], size: int) -> None:
    impl = make_piff(keys=keys)
    psf = PiffWrapper(impl, BOX, size)
    assert PixelGridModel.from_piff(impl) is not None
    x = np.array([512.0, 700.31, 900.5, 1499.49])
    y = np.array([301.5, 800.77, 1000.0, 1299.99])
    stars = evaluation.stellar_stamps(psf, x=x, y=y)
    kernels = evaluation.kernel_stamps(psf, x=x, y=y)
    half = size // 2
    np.testing.assert_array_equal(stars.x0, [512 - half, 700 - half, 901 - half, 1499 - half])
    np.testing.assert_array_equal(stars.y0, [302 - half, 801 - half, 1000 - half, 1300 - half])
    for k in range(4):
        expected = drawn(impl, x[k], y[k], size, centre=(x[k], y[k]))
        assert abs(stars.images[k] - expected).max() < 1e-5 * expected.max()
        middle = (float(np.floor(x[k] + 0.5)), float(np.floor(y[k] + 0.5)))
        expected = drawn(impl, x[k], y[k], size, centre=middle)
        assert abs(kernels[k] - expected).max() < 1e-5 * expected.max()
    np.testing.assert_allclose(stars.images.sum(axis=(1, 2)), 1)


@pytest.mark.parametrize("interpolant", ["lanczos5", "quintic", "cubic", "linear"])
@pytest.mark.parametrize("order", [0, 2, 3])
def test_any_interpolant_and_order(interpolant: str, order: int) -> None:
    impl = make_piff(order=order, interpolant=interpolant)
    psf = PiffWrapper(impl, BOX, 25)
    assert PixelGridModel.from_piff(impl) is not None
    x, y = np.array([700.31, 901.0]), np.array([800.77, 1000.1])
    stars = evaluation.stellar_stamps(psf, x=x, y=y)
    for k in range(2):
        expected = drawn(impl, x[k], y[k], 25, centre=(x[k], y[k]))
        np.testing.assert_allclose(stars.images[k], expected, atol=1e-7 * expected.max())


@pytest.mark.parametrize("sampling", [0.8, 1.3])
def test_grid_of_another_scale_than_the_pixels(sampling: float) -> None:
    impl = make_piff(sampling=sampling)
    psf = PiffWrapper(impl, BOX, 21)
    assert PixelGridModel.from_piff(impl) is not None
    x, y = np.array([700.31, 900.5]), np.array([800.77, 1000.0])
    stars, kernels = evaluation.stellar_stamps(psf, x=x, y=y), evaluation.kernel_stamps(psf, x=x, y=y)
    for k in range(2):
        expected = drawn(impl, x[k], y[k], 21, centre=(x[k], y[k]))
        np.testing.assert_allclose(stars.images[k], expected, atol=1e-7 * expected.max())
        middle = (float(np.floor(x[k] + 0.5)), float(np.floor(y[k] + 0.5)))
        expected = drawn(impl, x[k], y[k], 21, centre=middle)
        np.testing.assert_allclose(kernels[k], expected, atol=1e-7 * expected.max())


def test_outside_the_detector() -> None:
    """The polynomial goes on beyond the bounds, as Piff's does; what is not of this world is NaN."""
    impl = make_piff()
    psf = PiffWrapper(impl, BOX, 25)
    x, y = (
        np.array([-700.31, 3000.0, 1e300, np.inf, np.nan, 600.0]),
        np.array([50.2, 2500.5, 0, 0, 0, np.nan]),
    )
    stars = evaluation.stellar_stamps(psf, x=x, y=y)
    np.testing.assert_array_equal(
        np.isnan(stars.images).all(axis=(1, 2)), [False, False, True, True, True, True]
    )
    assert np.isfinite(stars.images[:2]).all()
    for k in range(2):
        expected = drawn(impl, x[k], y[k], 25, centre=(x[k], y[k]))
        np.testing.assert_allclose(stars.images[k], expected, atol=1e-9 * expected.max())


def test_batches_do_not_matter() -> None:
    """A stamp does not depend on the others, nor on where batches end."""
    psf = PiffWrapper(make_piff(order=2), BOX, 25)
    rng = np.random.default_rng(8)
    n = 2 * evaluation._BATCH + 3
    x, y = rng.uniform(500, 1500, n), rng.uniform(300, 1300, n)
    x[::50] = np.nan
    together = evaluation.stellar_stamps(psf, x=x, y=y)
    for k in (0, 1, evaluation._BATCH - 1, evaluation._BATCH, n - 1):
        alone = evaluation.stellar_stamps(psf, x=x[k], y=y[k])
        np.testing.assert_allclose(together.images[k], alone.images[0], rtol=1e-12, atol=1e-16)
        assert (together.x0[k], together.y0[k]) == (alone.x0[0], alone.y0[0])
    np.testing.assert_allclose(
        evaluation.psf_shapes(psf, x=x, y=y)[-2:], evaluation.psf_shapes(psf, x=x[-2:], y=y[-2:]), rtol=1e-9
    )


def test_single_precision() -> None:
    psf = PiffWrapper(make_piff(), BOX, 25)
    where: Any = {"x": [700.31, np.nan, 900.5], "y": [800.77, 500.0, 1000.0]}
    for stamps in (evaluation.kernel_stamps, lambda *a, **k: evaluation.stellar_stamps(*a, **k).images):
        single, double = stamps(psf, **where, dtype=np.float32), stamps(psf, **where)
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, atol=1e-7 * np.nanmax(double))


def test_shifted_neighbour_at_half_pixels() -> None:
    """A star at k + 0.5 is the star at k - 0.5, one pixel on (spec finalize T8)."""
    psf = PiffWrapper(make_piff(order=0), BOX, 25)
    stars = evaluation.stellar_stamps(psf, x=[899.5, 900.5], y=[800.0, 800.5])
    np.testing.assert_array_equal(stars.x0, [900 - 12, 901 - 12])
    np.testing.assert_array_equal(stars.y0, [800 - 12, 801 - 12])
    columns = stars.images.sum(axis=1)
    np.testing.assert_allclose(columns[0], columns[1], atol=3e-5)
    assert evaluation.kernel_stamps(psf, x=0, y=0).sum() == pytest.approx(1)
    assert (psf.kernel_bbox.x.min, psf.kernel_bbox.x.max) == (-12, 12)


@pytest.mark.parametrize("fast", [True, False])
def test_colors(fast: bool) -> None:
    """Each object gets the PSF of its colour, or of the stars' mean colour where it has none."""
    impl = make_piff(keys=("x", "y", "colorValue"))
    if not fast:
        impl.wcs = {0: galsim.ShearWCS(0.2, galsim.Shear(g1=0.05))}
    assert (PixelGridModel.from_piff(impl) is not None) == fast
    impl.stars = [FittedStar(XY(x=600.0, y=500.0), False, False, c) for c in (0.5, np.nan, 1.5)]
    psf = PiffWrapper(impl, BOX, 25)
    assert evaluation.takes_color(psf)
    x, y, color = [600.2, 600.2, 600.2], [700.0, 700.0, 700.0], [0.0, 2.0, np.nan]
    stars = evaluation.stellar_stamps(psf, x=x, y=y, color=color)
    kernels = evaluation.kernel_stamps(psf, x=x, y=y, color=color)
    for k, used in enumerate((0.0, 2.0, 1.0)):
        expected = drawn(impl, 600.2, 700.0, 25, centre=(600.2, 700.0), colorValue=used)
        np.testing.assert_allclose(stars.images[k], expected, atol=1e-9)
        expected = drawn(impl, 600.2, 700.0, 25, centre=(600.0, 700.0), colorValue=used)
        np.testing.assert_allclose(kernels[k], expected, atol=1e-9)
    assert abs(kernels[0] - kernels[1]).max() > 1e-3 * kernels.max()
    np.testing.assert_array_equal(evaluation.kernel_stamps(psf, x=x, y=y)[0], kernels[2])
    shapes = evaluation.psf_shapes(psf, x=x, y=y, color=color)
    assert shapes[2, 0] == pytest.approx(shapes[:2, 0].mean(), rel=0.01)
    impl.stars = []
    assert np.isnan(evaluation.kernel_stamps(psf, x=x, y=y)).all()


def test_colors_do_not_matter_to_other_models() -> None:
    psf = GaussianPointSpreadFunction(2.0, BOX, 25)
    assert not evaluation.takes_color(psf)
    assert not evaluation.takes_color(PiffWrapper(make_piff(), BOX, 25))
    np.testing.assert_array_equal(
        evaluation.kernel_stamps(psf, x=1, y=2, color=5.0), evaluation.kernel_stamps(psf, x=1, y=2)
    )


def test_other_piff_models_are_drawn_by_piff() -> None:
    impl = make_piff()
    impl.wcs = {0: galsim.ShearWCS(0.2, galsim.Shear(g1=0.05))}
    assert PixelGridModel.from_piff(impl) is None
    psf = PiffWrapper(impl, BOX, 25)
    stars = evaluation.stellar_stamps(psf, x=[900.5, 700.2], y=[800.5, 700.0])
    np.testing.assert_array_equal(stars.x0, [901 - 12, 700 - 12])
    for k, (x, y) in enumerate([(900.5, 800.5), (700.2, 700.0)]):
        expected = drawn(impl, x, y, 25, centre=(x, y))
        np.testing.assert_allclose(stars.images[k], expected, atol=1e-12)


@pytest.mark.parametrize("shear", [False, True])
def test_no_jump_at_half_pixels(shear: bool) -> None:
    impl = make_piff()
    if shear:
        impl.wcs = {0: galsim.ShearWCS(0.2, galsim.Shear(g1=0.05))}
    psf = PiffWrapper(impl, BOX, 25)
    x = np.array([899.5 - 1e-7, 899.5, 899.5 + 1e-7])
    stars = evaluation.stellar_stamps(psf, x=x, y=800.0)
    centroids = (stars.images.sum(axis=1) * np.arange(25)).sum(axis=1) + stars.x0
    assert centroids == pytest.approx(899.5, abs=0.02)


def test_gaussian_agrees_with_the_model() -> None:
    psf = GaussianPointSpreadFunction(1.8, BOX, 31)
    x, y = np.array([600.5, 733.21]), np.array([400.0, 811.9])
    stars = evaluation.stellar_stamps(psf, x=x, y=y)
    for k in range(2):
        image = psf.compute_stellar_image(x=x[k], y=y[k])
        np.testing.assert_allclose(stars.images[k], image.array, atol=1e-15)
        assert (stars.x0[k], stars.y0[k]) == (image.bbox.x.start, image.bbox.y.start)
    np.testing.assert_allclose(
        evaluation.kernel_stamps(psf, x=x, y=y)[1], psf.compute_kernel_image(x=0, y=0).array, atol=1e-15
    )
    shapes = evaluation.psf_shapes(psf, x=[600, np.nan], y=[500, 500])
    assert shapes[0] == pytest.approx([3.24, 3.24, 0], abs=1e-3)
    assert np.isnan(shapes[1]).all()


class Moody(PointSpreadFunction):
    """A PSF that fails right of x = 1000."""

    # ruff: noqa: D102
    """A PSF that fails right of x = 1000."""

    calls = 0

    @property
    def bounds(self) -> Box:
        return BOX

    @property
    def kernel_bbox(self) -> Box:
        return Box.factory[-5:6, -5:6]

    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        type(self).calls += 1
        if x > 1000:
            raise RuntimeError("no light here")
        j, i = np.mgrid[-5:6, -5:6]
        return Image(np.exp(-(i**2 + j**2) / 4.0), bbox=self.kernel_bbox)

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
        return self.kernel_bbox

    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        return self.compute_kernel_image(x=x, y=y)


def test_failures_and_repeats(caplog: pytest.LogCaptureFixture) -> None:
    Moody.calls = 0
    with caplog.at_level(logging.DEBUG, logger="secondlight"):
        stamps = evaluation.kernel_stamps(Moody(), x=[600, 1200, np.nan, 600], y=[500, 500, 500, 500])
    assert Moody.calls == 2
    assert np.isfinite(stamps[[0, 3]]).all()
    assert np.isnan(stamps[[1, 2]]).all()
    assert "no light here" in caplog.text
    assert np.isnan(evaluation.psf_shapes(Moody(), x=[1200.0], y=[500.0])).all()


def test_piff_draws_repeated_positions_once(monkeypatch: pytest.MonkeyPatch) -> None:
    impl = make_piff()
    impl.wcs = {0: galsim.ShearWCS(0.2, galsim.Shear(g1=0.05))}
    calls, draw = [], impl.draw
    monkeypatch.setattr(impl, "draw", lambda *args, **named: calls.append(args) or draw(*args, **named))
    stamps = evaluation.kernel_stamps(PiffWrapper(impl, BOX, 25), x=[900, 700, 900], y=[800, 800, 800])
    assert len(calls) == 2
    np.testing.assert_array_equal(stamps[0], stamps[2])


def test_no_positions() -> None:
    for psf in (Moody(), PiffWrapper(make_piff(), BOX, 25), GaussianPointSpreadFunction(2.0, BOX, 25)):
        assert evaluation.kernel_stamps(psf, x=[], y=[]).shape[0] == 0
        assert len(evaluation.stellar_stamps(psf, x=[], y=[]).x0) == 0
        assert evaluation.psf_shapes(psf, x=[], y=[]).shape == (0, 3)


def test_average_position() -> None:
    impl = make_piff()
    psf = PiffWrapper(impl, BOX, 25)
    assert evaluation.average_position(psf) == (999.5, 799.5)
    impl.stars = [
        piff.Star.makeTarget(x=x, y=y, wcs=galsim.PixelScale(0.2)) for x, y in [(600, 500), (800, 900)]
    ]
    assert evaluation.average_position(psf) == (700, 700)


def test_radii() -> None:
    q: Any = [[4.0, 9.0, 0.0], [4.0, 4.0, 5.0]]
    np.testing.assert_allclose(evaluation.determinant_radius(q), [6**0.5, np.nan])
    np.testing.assert_allclose(evaluation.trace_radius(q), [6.5**0.5, 2.0])


@pytest.mark.realdata
def test_reference_stamps(data_dir: Path) -> None:
    pack = np.load(data_dir / "parity" / "B" / "psf_stamps.npz")
    psf = PiffWrapper(piff.read(str(data_dir / "parity" / "B" / "psf.piff")), BOX, 25)
    stars = evaluation.stellar_stamps(psf, x=pack["x"], y=pack["y"])
    peak = pack["image"].max()
    assert abs(stars.images - pack["image"]).max() < 1e-5 * peak
    np.testing.assert_array_equal(np.column_stack([stars.x0, stars.y0]), pack["image_xy0"])
    assert (
        abs(evaluation.kernel_stamps(psf, x=pack["x"], y=pack["y"]) - pack["kernel_image"]).max()
        < 1e-5 * peak
    )
    expected = np.column_stack([pack["shape_xx"], pack["shape_yy"], pack["shape_xy"]])
    np.testing.assert_allclose(
        evaluation.psf_shapes(psf, x=pack["x"], y=pack["y"]), expected, rtol=1e-5, atol=1e-5
    )


def real_psf(data_dir: Path, name: str) -> PiffWrapper:
    if name == "rubin":
        psf = read_archive(str(data_dir / "rubin" / "visit_image-1.0.0-dp2.json")).psf
        assert isinstance(psf, PiffWrapper)
        return psf
    return PiffWrapper(piff.read(str(data_dir / "parity" / "B" / name)), BOX, 25)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["rubin", "psf.piff", "finalize_outputs/psf_final.piff"])
def test_real_models(data_dir: Path, name: str) -> None:
    """As Piff itself draws them, everywhere on the detector and at every phase."""
    psf = real_psf(data_dir, name)
    assert PixelGridModel.from_piff(psf.piff_psf) is not None
    rng = np.random.default_rng(6)
    box, size = psf.bounds.bbox, psf.kernel_bbox.x.size
    x, y = rng.uniform(box.x.min, box.x.max, 40), rng.uniform(box.y.min, box.y.max, 40)
    x[:3], y[2:5] = np.floor(x[:3]) + 0.5, np.floor(y[2:5])
    stars, kernels = evaluation.stellar_stamps(psf, x=x, y=y), evaluation.kernel_stamps(psf, x=x, y=y)
    for k in range(40):
        expected = drawn(psf.piff_psf, x[k], y[k], size, centre=(x[k], y[k]))
        assert abs(stars.images[k] - expected).max() < 1e-7 * expected.max()
        middle = (float(np.floor(x[k] + 0.5)), float(np.floor(y[k] + 0.5)))
        expected = drawn(psf.piff_psf, x[k], y[k], size, centre=middle)
        assert abs(kernels[k] - expected).max() < 1e-7 * expected.max()
