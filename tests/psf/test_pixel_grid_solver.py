"""The fit of pixel grids to all stars at once, against Piff's own."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import galsim
import lsst.images.json
import numpy as np
import numpy.typing as npt
import piff
import pytest
from lsst.images.psfs import PiffWrapper
from lsst.images.serialization import read_archive
from piff.config import LoggerWrapper

from secondlight.psf._pixel_grid_equations import StarDesign, solve_increment
from secondlight.psf._pixel_grid_solver import fit_pixel_grid, is_separable
from secondlight.psf._pixel_grid_stars import StarFits, StarPixels, refit_stars
from secondlight.psf.evaluation import kernel_stamps, stellar_stamps

from .piff_scenes import NOISE, SIZE, X0, Y0, grid, make_candidates, make_scene, make_task

SCALE = 0.2
WCS = {0: galsim.PixelScale(SCALE)}
LOGGER = LoggerWrapper(logging.getLogger("test"))
TOLERANCE = 2e-8
"""Of the peak; what the fits are asked for is 2e-5."""

PHASES = ((0.0, 0.0), (0.3, -0.5), (-0.45, 0.2))


def make_stars(n: int, *, size: int = SIZE, seed: int = 3, flux: float = 2e4) -> list[piff.Star]:
    """Return stars whose width and ellipticity vary over 1000 pixels, with noise."""
    rng = np.random.default_rng(seed)
    stars = []
    for i in range(n):
        x, y = rng.uniform(0.0, 1000.0, 2)
        x0, y0 = round(x) - size // 2, round(y) - size // 2
        star = galsim.Gaussian(sigma=1.5 + 2e-4 * x).shear(g1=5e-5 * y, g2=-0.02)
        image = galsim.Image(size, size, xmin=x0, ymin=y0, dtype=float, scale=1.0)
        brightness = flux * rng.uniform(0.5, 2.0)
        star.withFlux(brightness).drawImage(image, center=galsim.PositionD(x, y), method="no_pixel")
        pixels = galsim.Image(
            image.array + rng.normal(0.0, NOISE, (size, size)), xmin=x0, ymin=y0, wcs=WCS[0]
        )
        weight = galsim.Image(np.full((size, size), NOISE**-2), xmin=x0, ymin=y0, wcs=WCS[0])
        nominal = galsim.PositionD(x + rng.normal(0.0, 0.03), y + rng.normal(0.0, 0.03))
        data = piff.StarData(pixels, nominal, weight=weight, properties={"starId": i})
        stars.append(piff.Star(data, None))
    return stars


def make_psf(order: int = 1, *, sampling: float = 1.0, outliers: bool = True, **settings: Any) -> piff.PSF:
    """Return a model to be fitted; settings go to the model (PixelGrid), the polynomial or the PSF."""
    model = {"type": "PixelGrid", "scale": SCALE * sampling, "size": SIZE, "interp": "Lanczos(5)"}
    interp = {"type": "BasisPolynomial", "order": order, "keys": ["x", "y"], "solver": "cpp"}
    setup: dict[str, Any] = {"type": "Simple", "model": model, "interp": interp, "max_iter": 15}
    if outliers:
        setup["outliers"] = {"type": "Chisq", "nsigma": 4.0, "max_remove": 0.1}
    for name, value in settings.items():
        part = (
            model if name in {"centered", "init"} else next((p for p in (model, interp) if name in p), setup)
        )
        part[name] = value
    return piff.PSF.process(setup)


def fit_both(stars: Sequence[piff.Star], **settings: Any) -> tuple[piff.PSF, piff.PSF]:
    """Fit with our solver and with Piff's."""
    ours, theirs = make_psf(**settings), make_psf(**settings)
    assert is_separable(ours, stars, None)
    fit_pixel_grid(ours, copy.deepcopy(stars), WCS, logger=LOGGER)
    theirs.fit(copy.deepcopy(stars), WCS, None, logger=LOGGER)
    return ours, theirs


def draw(psf: piff.PSF, x: float, y: float, offset: tuple[float, float]) -> np.ndarray:
    return np.array(psf.draw(x, y, center=True, offset=offset, stamp_size=SIZE).array)


def assert_same_fit(ours: piff.PSF, theirs: piff.PSF, *, tolerance: float = TOLERANCE) -> None:
    """Check the drawn PSFs at the stars, the decisions and what is known of each star."""
    np.testing.assert_array_equal(flags(ours), flags(theirs))
    assert (ours.niter, ours.nremoved, ours.dof) == (theirs.niter, theirs.nremoved, theirs.dof)
    assert ours.chisq == pytest.approx(theirs.chisq, rel=1e-8, abs=1e-6)
    assert ours.last_delta_chisq == pytest.approx(theirs.last_delta_chisq, rel=1e-6, abs=1e-5)
    for mine, other in zip(ours.stars, theirs.stars, strict=True):
        assert mine.flux == pytest.approx(other.flux, rel=1e-8)
        assert mine.center == pytest.approx(other.center, abs=1e-8)
        assert mine.fit.chisq == pytest.approx(other.fit.chisq, rel=1e-6, abs=1e-6)
        assert mine.fit.dof == other.fit.dof
        for phase in PHASES:
            expected = draw(theirs, other.x, other.y, phase)
            found = draw(ours, other.x, other.y, phase)
            np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerance * expected.max())


def flags(psf: piff.PSF) -> npt.NDArray[np.bool_]:
    return np.array([star.is_flagged for star in psf.stars])


def disturb(star: piff.Star, light: float) -> None:
    """Put a neighbour on a star."""
    star.image.array[2:5, 10:13] += light


@pytest.mark.parametrize(
    "settings",
    [
        {"order": 0},
        {"order": 1},
        {"order": 2},
        {"order": [2, 1]},
        {"order": 1, "centered": False},
        {"order": 1, "outliers": False},
        {"order": 1, "interp": "galsim.Cubic()"},
        {"order": 1, "interp": "galsim.Quintic()"},
        {"order": 1, "interp": "galsim.Linear()"},
        {"order": 1, "interp": "Lanczos(11)", "size": 13},
        {"order": 1, "size": 10},
        {"order": 0, "sampling": 0.7},
        {"order": 0, "sampling": 1.3, "size": 11},
        {"order": 1, "max_iter": 1},
    ],
    ids=str,
)
def test_same_psf_as_piff(settings: dict[str, Any]) -> None:
    assert_same_fit(*fit_both(make_stars(12), **settings))


@pytest.mark.parametrize("size", [21, 16])
def test_stamps_larger_than_the_grid(size: int) -> None:
    assert_same_fit(*fit_both(make_stars(12, size=size)))


def test_polynomial_in_colour_and_world_coordinates() -> None:
    stars = [star.withProperties(colour=0.1 * i) for i, star in enumerate(make_stars(14))]
    ours, theirs = fit_both(stars, order=[1, 1, 1], keys=["u", "v", "colour"])
    for star in stars:
        found, expected = (psf.drawStar(star.withFlux(1.0)).image.array for psf in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=TOLERANCE * expected.max())
    np.testing.assert_array_equal(flags(ours), flags(theirs))


def test_same_outliers() -> None:
    """Neighbours of several brightnesses, more than one iteration may reject."""
    stars = make_stars(24)
    for i, light in enumerate([3e3, 1e3, 5e2, 2e2, 1e2, 50.0]):
        disturb(stars[3 * i], light)
    ours, theirs = fit_both(stars)
    assert_same_fit(ours, theirs)
    assert ours.niter > 3
    assert flags(ours)[[0, 3, 6]].all()
    assert flags(ours).sum() == ours.nremoved < 12


def test_fit_that_does_not_settle(caplog: pytest.LogCaptureFixture) -> None:
    stars = make_stars(24)
    for star in stars[:8]:
        disturb(star, 2e3)
    assert_same_fit(*fit_both(stars, max_iter=3))
    assert sum("did not converge" in message for message in caplog.messages) == 2


def test_reserved_and_flagged_stars_do_not_take_part() -> None:
    stars = make_stars(16)
    disturb(stars[1], 3e3)
    disturb(stars[2], 3e3)
    stars[1] = stars[1].withProperties(is_reserve=True)
    stars[2] = stars[2].withProperties(is_flagged=True)
    stars[3] = stars[3].withProperties(is_reserve=True)
    ours, theirs = fit_both(stars)
    assert_same_fit(ours, theirs)
    assert [star.is_reserve for star in ours.stars] == [i in (1, 3) for i in range(16)]
    assert flags(ours)[[1, 2]].all()
    disturb(stars[1], 3e4)
    again = make_psf()
    fit_pixel_grid(again, stars, WCS, logger=LOGGER)
    # A reserved star only counts for the first guess.
    np.testing.assert_allclose(again.interp.q, ours.interp.q, atol=1e-9 * ours.interp.q.max())


@pytest.mark.parametrize(
    "where", [np.s_[:, :5], np.s_[3, 2:9], np.s_[::3, ::2]], ids=["side", "row", "spread"]
)
def test_masked_pixels(where: Any) -> None:
    stars = make_stars(14)
    for star in stars[::3]:
        star.weight.array[where] = 0.0
        star.image.array[where] = 1e5
    ours, theirs = fit_both(stars)
    assert_same_fit(ours, theirs)
    for star in stars[::3]:
        star.image.array[where] = -3.0
    again = make_psf()
    fit_pixel_grid(again, stars, WCS, logger=LOGGER)
    np.testing.assert_array_equal(again.interp.q, ours.interp.q)


def test_star_without_good_pixels() -> None:
    stars = make_stars(10)
    others = make_psf()
    fit_pixel_grid(others, copy.deepcopy(stars[1:]), WCS, logger=LOGGER)
    stars[0].weight.array[...] = 0.0
    psf = make_psf()
    fit_pixel_grid(psf, stars, WCS, logger=LOGGER)
    assert flags(psf)[0]
    assert not flags(psf)[1:].any()
    np.testing.assert_allclose(
        draw(psf, 300.0, 300.0, (0.0, 0.0)), draw(others, 300.0, 300.0, (0.0, 0.0)), atol=1e-9
    )


def test_star_on_too_small_a_grid_of_its_own() -> None:
    """A stamp smaller than the grid excludes every star, as in Piff."""
    stars = make_stars(8, size=13)
    with pytest.raises(RuntimeError, match="All stars are flagged"):
        fit_pixel_grid(make_psf(), stars, WCS, logger=LOGGER)


def test_no_star_left() -> None:
    stars = [star.withProperties(is_reserve=True) for star in make_stars(6)]
    with pytest.raises(RuntimeError, match="No stars left to fit"):
        fit_pixel_grid(make_psf(), stars, WCS, logger=LOGGER)


def test_repeatable() -> None:
    first, second = make_psf(2), make_psf(2)
    fit_pixel_grid(first, make_stars(12), WCS, logger=LOGGER)
    fit_pixel_grid(second, make_stars(12), WCS, logger=LOGGER)
    np.testing.assert_array_equal(first.interp.q, second.interp.q)


def test_order_of_stars_does_not_matter() -> None:
    stars = make_stars(12)
    first, second = make_psf(), make_psf()
    fit_pixel_grid(first, stars, WCS, logger=LOGGER)
    fit_pixel_grid(second, stars[::-1], WCS, logger=LOGGER)
    expected = draw(first, 200.0, 700.0, (0.0, 0.0))
    np.testing.assert_allclose(
        draw(second, 200.0, 700.0, (0.0, 0.0)), expected, atol=TOLERANCE * expected.max()
    )


@pytest.mark.parametrize("n", [2, 3, 6])
def test_stars_that_say_too_little(n: int) -> None:
    """Two stars for three terms, one star per term, and several stars at one position."""
    stars = make_stars(6)[:n] if n < 6 else [make_stars(1)[0]] * n
    psf = make_psf(outliers=False)
    fit_pixel_grid(psf, stars, WCS, logger=LOGGER)
    for star in psf.stars:
        residual = star.image.array - psf.drawStar(star).image.array
        assert np.abs(residual).max() < 5.0 * NOISE
        assert np.isfinite(draw(psf, star.x + 100.0, star.y - 100.0, PHASES[1])).all()


def test_grid_points_that_no_star_shows() -> None:
    """They stay at the first guess; what is shown is fitted as by Piff, which finds the same minimum."""
    stars = make_stars(8)
    for star in stars:
        star.weight.array[:, :4] = 0.0
    settings = {"order": 0, "interp": "galsim.Linear()", "centered": False, "solver": "scipy"}
    ours, theirs = fit_both(stars, **settings)
    assert ours.chisq == pytest.approx(theirs.chisq, rel=1e-6)
    np.testing.assert_array_equal(flags(ours), flags(theirs))
    initial, _ = make_psf(**settings).initialize_params(copy.deepcopy(stars), logger=LOGGER)
    np.testing.assert_allclose(
        ours.interp.q.reshape(SIZE, SIZE)[:, :3], initial[0].fit.params.reshape(SIZE, SIZE)[:, :3], rtol=1e-6
    )


def test_fits_that_run_away() -> None:
    rng = np.random.default_rng(1)
    given = {"basis": np.ones((2, 1)), "weight": np.ones((2, 6, 7)), "image": np.ones((2, 6, 7))}
    design = random_design(rng, 2, 6, 4)
    with pytest.raises(RuntimeError, match="run away"):
        solve_increment(design, **given, flux=np.zeros(2), residual=given["image"])
    with pytest.raises(RuntimeError, match="run away"):
        solve_increment(design, **given, flux=np.ones(2), residual=np.full((2, 6, 7), np.nan))


def with_weight(star: piff.Star, value: float) -> piff.Star:
    star.weight.array[0, 0] = value
    return star


def with_pixel(star: piff.Star, value: float) -> piff.Star:
    star.image.array[0, 0] = value
    return star


def test_what_is_left_to_piff() -> None:
    stars = make_stars(3)
    psf = make_psf()
    assert is_separable(psf, stars, None)
    assert not is_separable(psf, [], None)
    assert not is_separable(psf, stars, galsim.CelestialCoord(0 * galsim.degrees, 0 * galsim.degrees))
    assert not is_separable(psf, [*stars, *make_stars(1, size=17)], None)
    assert not is_separable(psf, [*stars, stars[0].withProperties(gain=1.5)], None)
    assert not is_separable(psf, [*stars, stars[0].withProperties(trust_pos=True)], None)
    assert not is_separable(psf, [*stars, with_weight(make_stars(1)[0], -1.0)], None)
    assert not is_separable(psf, [*stars, with_weight(make_stars(1)[0], np.nan)], None)
    assert not is_separable(psf, [*stars, with_pixel(make_stars(1)[0], np.nan)], None)
    turned = piff.Star.makeTarget(x=3.0, y=4.0, wcs=galsim.JacobianWCS(0.2, 0.01, -0.01, 0.2), stamp_size=15)
    assert not is_separable(psf, [turned], None)
    assert not is_separable(make_psf(interp="galsim.Nearest()"), stars, None)
    assert not is_separable(make_psf(init="zero"), stars, None)
    other_model = {"type": "Gaussian"}
    assert not is_separable(make_psf(model=other_model), stars, None)
    other_interp = {"type": "Polynomial", "order": 1}
    assert not is_separable(piff.PSF.process({"model": other_model, "interp": other_interp}), stars, None)


def random_design(rng: np.random.Generator, n: int, size: int, points: int) -> StarDesign:
    return StarDesign(rng.normal(size=(n, size + 1, points)), rng.normal(size=(n, size, points)))


def test_design_and_its_transpose() -> None:
    rng = np.random.default_rng(1)
    design = random_design(rng, 3, 6, 4)
    grids, images = rng.normal(size=(3, 4, 4)), rng.normal(size=(3, 6, 7))
    drawn, projected = design.draw(grids), design.project(images)
    for s in range(3):
        dense = np.kron(design.along_y[s], design.along_x[s])
        np.testing.assert_allclose(drawn[s].ravel(), dense @ grids[s].ravel())
        np.testing.assert_allclose(projected[s].ravel(), dense.T @ images[s].ravel())


def test_block_of_separable_weights() -> None:
    rng = np.random.default_rng(2)
    design = random_design(rng, 3, 6, 4)
    weight = rng.uniform(size=(3, 6, 1)) * rng.uniform(size=(3, 1, 7))
    weight[1] = 0.0
    expected = np.zeros((16, 16))
    for s in range(3):
        dense = np.kron(design.along_y[s], design.along_x[s])
        expected += dense.T @ (weight[s].ravel()[:, None] * dense)
    np.testing.assert_allclose(design.block(weight), expected)


def test_increment_is_the_least_squares_solution() -> None:
    """Against the dense design matrix of all stars."""
    rng = np.random.default_rng(3)
    n, points, n_basis = 30, 4, 3
    design = random_design(rng, n, 6, points)
    basis = np.vander(rng.uniform(0.0, 1000.0, n), n_basis, increasing=True)
    flux = rng.uniform(-1.0, 5.0, n)
    weight = np.where(rng.random((n, 6, 7)) < 0.2, 0.0, rng.uniform(0.5, 2.0, (n, 1, 1)))
    residual = rng.normal(size=(n, 6, 7))
    found = solve_increment(design, basis=basis, flux=flux, weight=weight, image=residual, residual=residual)
    scale = basis.max(axis=0)
    rows, right = [], []
    for s in range(n):
        dense = flux[s] * np.kron(design.along_y[s], design.along_x[s])
        sigma = np.sqrt(weight[s].ravel())
        rows.append(sigma[:, None] * np.kron(dense, basis[s] / scale))
        right.append(sigma * residual[s].ravel())
    expected = np.linalg.lstsq(np.concatenate(rows), np.concatenate(right))[0].reshape(-1, n_basis) / scale
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max(axis=0).min())


@pytest.mark.parametrize("centered", [True, False])
def test_refit_of_stars(centered: bool) -> None:
    """Against Piff's refit of one star after another."""
    stars = make_stars(6)
    psf = make_psf(centered=centered, max_iter=1)
    psf.fit(stars, WCS, None, logger=LOGGER)
    pixels, fits = StarPixels.of(psf.stars, psf), StarFits.of(psf.stars)
    grids = pixels.unit_grids(psf.interp.q)
    expected = [psf.reflux(star) for star in psf.stars]
    failed = refit_stars(pixels, fits, pixels.design(fits.center), grids, centered=centered)
    assert not failed.any()
    np.testing.assert_allclose(fits.flux, [star.flux for star in expected], rtol=1e-10)
    np.testing.assert_allclose(fits.center, [star.center for star in expected], atol=1e-10)
    np.testing.assert_allclose(fits.chisq, [star.fit.chisq for star in expected], rtol=1e-9)
    np.testing.assert_array_equal(fits.dof, [star.fit.dof for star in expected])


def test_determiner_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same stars and the same PSF with and without; Piff's own fit is not called."""
    image, _ = make_scene(16)
    x, y = grid(16)
    ix, iy = np.floor(x[3] + 0.5).astype(int) - X0, np.floor(y[3] + 0.5).astype(int) - Y0
    image.image.array[iy - 4 : iy + 5, ix + 2] += 1500.0
    candidates = make_candidates(image, x, y)
    theirs = make_task(spatialOrder=1, solver="piff").determine_psf(image, candidates)
    monkeypatch.setattr("piff.SimplePSF.fit", lambda *args, **kwargs: pytest.fail("Piff fits"))
    ours = make_task(spatialOrder=1).determine_psf(image, candidates)
    np.testing.assert_array_equal(ours.used, theirs.used)
    assert not ours.used[3]
    expected = stellar_stamps(theirs.psf, x=x, y=y).images
    found = stellar_stamps(ours.psf, x=x, y=y).images
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=TOLERANCE * expected.max())


def test_determiner_with_stars_at_one_position() -> None:
    image, candidates = make_scene(4)
    same = candidates[np.zeros(4, dtype=int)]
    result = make_task(spatialOrder=1).determine_psf(image, same)
    assert result.used.all()
    (expected,) = kernel_stamps(image.psf, x=same.x[0], y=same.y[0])
    (found,) = kernel_stamps(result.psf, x=same.x[0], y=same.y[0])
    assert found.max() == pytest.approx(expected.max(), rel=0.05)


def test_pixels_that_are_not_finite() -> None:
    image, candidates = make_scene(9)
    expected = make_task(spatialOrder=1).determine_psf(image, candidates)
    candidates.stamps.image[2, 12, 14] = np.nan
    candidates.stamps.variance[4, 8, 8] = np.inf
    for solver in ("separable", "piff"):
        result = make_task(spatialOrder=1, solver=solver).determine_psf(image, candidates)
        np.testing.assert_array_equal(result.used, expected.used)
        where = {"x": X0 + 30.0, "y": Y0 + 50.0}
        np.testing.assert_allclose(
            kernel_stamps(result.psf, **where), kernel_stamps(expected.psf, **where), atol=1e-3
        )


def test_result_is_a_piff_psf(tmp_path: Path) -> None:
    """Piff and the image library write and read it, with stars and all."""
    image, candidates = make_scene(9)
    psf = make_task(spatialOrder=1, debugStarData=True).determine_psf(image, candidates).psf
    own = psf.piff_psf
    assert type(own) is piff.SimplePSF
    own.write(str(tmp_path / "psf.piff"))
    again = piff.PSF.read(str(tmp_path / "psf.piff"))
    assert (again.niter, again.nremoved, again.chisq) == (own.niter, own.nremoved, own.chisq)
    np.testing.assert_array_equal([s.flux for s in again.stars], [s.flux for s in own.stars])
    x, y = X0 + 30.0, Y0 + 50.0
    np.testing.assert_array_equal(again.draw(x, y).array, own.draw(x, y).array)
    star = again.stars[0]
    expected = own.drawStar(own.stars[0]).image.array
    # Piff reads stamps in single precision.
    np.testing.assert_allclose(again.drawStar(star).image.array, expected, rtol=1e-6)
    lsst.images.json.write(psf, str(tmp_path / "psf.json"))
    stored = read_archive(str(tmp_path / "psf.json"), PiffWrapper)
    np.testing.assert_array_equal(stored.piff_psf.interp.q, own.interp.q)
