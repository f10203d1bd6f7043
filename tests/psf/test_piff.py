"""The Piff determiner."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import lsst.images.fits
import lsst.images.json
import numpy as np
import pytest
from lsst.images.psfs import PiffWrapper
from lsst.images.serialization import read_archive
from lsst.pipe.base import AlgorithmError, TaskMetadata

from secondlight.psf._piff_model import stars_needed
from secondlight.psf._piff_solver import normal_equations
from secondlight.psf.candidates import PsfCandidates
from secondlight.psf.evaluation import average_position, kernel_stamps, stellar_stamps
from secondlight.psf.piff_determiner import PiffTooFewGoodStarsError

from .piff_scenes import SIZE, X0, Y0, grid, make_candidates, make_scene, make_task, residual_chi


def test_fit_describes_the_stars() -> None:
    image, candidates = make_scene(12)
    metadata = TaskMetadata()
    result = make_task(spatialOrder=1).determine_psf(image, candidates, metadata)
    assert isinstance(result.psf, PiffWrapper)
    assert result.chromatic_psf is None
    assert np.abs(residual_chi(image, result.psf, candidates)).max() < 6.4
    assert metadata["numAvailStars"] == 12
    assert metadata["numGoodStars"] == np.count_nonzero(result.used) <= 12
    assert metadata["spatialFitChi2"] > 0
    mean = candidates.x[result.used].mean(), candidates.y[result.used].mean()
    assert (metadata["avgX"], metadata["avgY"]) == pytest.approx(mean)
    assert average_position(result.psf) == pytest.approx(mean)
    (stamp,) = kernel_stamps(result.psf, x=X0 + 30.0, y=Y0 + 30.0)
    assert stamp.shape == (SIZE, SIZE)
    assert stamp.sum() == pytest.approx(1.0)
    box = result.psf.kernel_bbox
    assert (box.x.min, box.x.max, box.y.min, box.y.max) == (-7, 7, -7, 7)
    truth = kernel_stamps(image.psf, x=X0, y=Y0)[0]
    middle = truth.shape[0] // 2
    part = truth[middle - 7 : middle + 8, middle - 7 : middle + 8]
    np.testing.assert_allclose(stamp, part / part.sum(), atol=2e-3)


def test_no_jump_at_half_pixels() -> None:
    image, candidates = make_scene(4)
    psf = make_task().determine_psf(image, candidates).psf
    at_half = stellar_stamps(psf, x=X0 + 30.5, y=Y0 + 40.0)
    near = stellar_stamps(psf, x=X0 + 30.5 + 1e-9, y=Y0 + 40.0)
    assert at_half.x0[0] == near.x0[0] == X0 + 31 - 7
    np.testing.assert_allclose(at_half.images, near.images, atol=1e-7)


def test_outlier_is_not_used() -> None:
    image, _ = make_scene(16)
    x, y = grid(16)
    ix, iy = np.floor(x[3] + 0.5).astype(int) - X0, np.floor(y[3] + 0.5).astype(int) - Y0
    image.image.array[iy - 4 : iy + 5, ix + 2] += 1500.0
    candidates = make_candidates(image, x, y)
    result = make_task().determine_psf(image, candidates)
    assert not result.used[3]
    assert np.count_nonzero(result.used) >= 13
    assert sum(star.is_flagged for star in result.psf.piff_psf.stars) == np.count_nonzero(~result.used)


def test_stars_are_remembered_by_position_only() -> None:
    image, candidates = make_scene(4)
    plain = make_task().determine_psf(image, candidates).psf.piff_psf.stars
    assert not hasattr(plain[0], "data")
    np.testing.assert_array_equal([star.image_pos.x for star in plain], candidates.x)
    debug = make_task(debugStarData=True).determine_psf(image, candidates).psf.piff_psf.stars
    assert debug[0].data.image.array.shape == (SIZE, SIZE)


def test_repeatable() -> None:
    image, candidates = make_scene(6)
    first, second = (make_task().determine_psf(image, candidates).psf.piff_psf.interp.q for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("solver", ["scipy", "cpp", "qr"])
def test_solvers_agree(solver: str) -> None:
    image, candidates = make_scene(6)
    reference = make_task().determine_psf(image, candidates).psf
    other = make_task(solver="piff", piffBasisPolynomialSolver=solver).determine_psf(image, candidates).psf
    np.testing.assert_allclose(
        kernel_stamps(other, x=X0 + 9.0, y=Y0 + 9.0),
        kernel_stamps(reference, x=X0 + 9.0, y=Y0 + 9.0),
        atol=1e-7,
    )


def test_normal_equations() -> None:
    """Against sums over stars, parameters and basis functions one by one."""
    rng = np.random.default_rng(4)
    n_stars, n_param, n_basis = 35, 4, 3
    stars = [
        SimpleNamespace(fit=SimpleNamespace(alpha=a @ a.T, beta=rng.normal(size=n_param)))
        for a in rng.normal(size=(n_stars, n_param, n_param))
    ]
    basis = rng.normal(size=(n_stars, n_basis))
    matrix, right = normal_equations(basis, stars, n_param)
    for a in range(n_basis):
        for i in range(n_param):
            expected = sum(basis[s, a] * stars[s].fit.beta[i] for s in range(n_stars))
            assert right[a * n_param + i] == pytest.approx(expected)
            for b in range(a, n_basis):
                for j in range(n_param):
                    total = sum(basis[s, a] * basis[s, b] * stars[s].fit.alpha[i, j] for s in range(n_stars))
                    assert matrix[a * n_param + i, b * n_param + j] == pytest.approx(total)


def test_faster_equations_give_the_same_psf(monkeypatch: pytest.MonkeyPatch) -> None:
    image, candidates = make_scene(12)
    ours = make_task(spatialOrder=1, solver="piff").determine_psf(image, candidates).psf
    monkeypatch.setattr(
        "secondlight.psf.piff_determiner.batched_solver", lambda psf: contextlib.nullcontext()
    )
    theirs = make_task(spatialOrder=1, solver="piff").determine_psf(image, candidates).psf
    where = {"x": np.array([X0 + 5.0, X0 + 99.0]), "y": np.array([Y0 + 5.0, Y0 + 50.0])}
    np.testing.assert_allclose(kernel_stamps(ours, **where), kernel_stamps(theirs, **where), atol=1e-9)
    assert "_solve_direct_python" not in vars(ours.piff_psf.interp)


def test_singular_equations_are_left_to_piff() -> None:
    """Identical positions leave the slopes of the polynomial undetermined."""
    image, candidates = make_scene(4)
    same = candidates[np.zeros(4, dtype=int)]
    result = make_task(spatialOrder=1, solver="piff").determine_psf(image, same)
    (stamp,) = kernel_stamps(result.psf, x=same.x[0], y=same.y[0])
    assert np.isfinite(stamp).all()


def test_missing_solver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="jax"):
        make_task(piffBasisPolynomialSolver="jax")


@pytest.mark.parametrize("kind", ["json", "fits"])
def test_storage_round_trip(kind: str, tmp_path: Path) -> None:
    image, candidates = make_scene(9)
    psf = make_task(spatialOrder=1).determine_psf(image, candidates).psf
    path = str(tmp_path / f"psf.{kind}")
    writer = lsst.images.json if kind == "json" else lsst.images.fits
    writer.write(psf, path)
    again = read_archive(path, PiffWrapper)
    for x, y in [(0.0, 0.0), (10.0, 100.0), (-200.0, 30.0)]:
        expected = psf.compute_kernel_image(x=x, y=y)
        found = again.compute_kernel_image(x=x, y=y)
        assert found.bbox == expected.bbox
        np.testing.assert_array_equal(found.array, expected.array)
    assert average_position(again) == average_position(psf)


def test_downsampling_is_repeatable() -> None:
    image, candidates = make_scene(16)
    metadata: dict[str, object] = {}
    result = make_task(maxCandidates=6).determine_psf(image, candidates, metadata)
    assert metadata["numAvailStars"] == 6
    chosen = np.sort(np.random.RandomState(98765).choice(16, size=6, replace=False))
    np.testing.assert_array_equal([s.image_pos.x for s in result.psf.piff_psf.stars], candidates.x[chosen])
    assert set(np.flatnonzero(result.used)) <= set(chosen)


def test_number_of_stars_needed() -> None:
    def needed(order: object, **more: object) -> int:
        return stars_needed({"interp": {"type": "BasisPolynomial", "order": order, **more}})

    assert needed([2, 2]) == 6
    assert needed([2, 2, 1]) == 7
    assert needed([0, 0]) == 1
    assert needed(2) == 6
    assert needed(2, keys=["u", "v", "colorValue"]) == 8
    assert stars_needed({"interp": {"type": "Mean"}}) == 1


def test_too_few_stars() -> None:
    image, candidates = make_scene(5)
    with pytest.raises(PiffTooFewGoodStarsError, match=r"visit 100 detector 4.*6 needed, 5 usable") as info:
        make_task(spatialOrder=2).determine_psf(image, candidates)
    assert isinstance(info.value, AlgorithmError)
    assert info.value.metadata == {"numAvailStars": 5, "numGoodStars": 5, "minNumStars": 6}
    with pytest.raises(AlgorithmError):
        make_task(spatialOrder=42).determine_psf(image, candidates)
    assert make_task(spatialOrder=1).determine_psf(image, candidates).used.all()


def test_no_stars_at_all() -> None:
    image, candidates = make_scene(4)
    none = candidates[np.zeros(4, dtype=bool)]
    with pytest.raises(PiffTooFewGoodStarsError):
        make_task(zerothOrderInterpNotEnoughStars=True).determine_psf(image, none)


def test_constant_psf_for_too_few_stars() -> None:
    image, candidates = make_scene(5)
    result = make_task(spatialOrder=2, zerothOrderInterpNotEnoughStars=True).determine_psf(image, candidates)
    assert list(result.psf.piff_psf.interp.kwargs["order"]) == [0, 0]
    assert result.psf.piff_psf.max_iter == 1
    assert result.used.sum() == 5


def test_constant_psf_after_rejection() -> None:
    """When the fit rejects stars until too few are left, a constant PSF is fitted to all of them."""
    image, _ = make_scene(6)
    # Variances far too small, and a limit so strict that the second and last iteration rejects 4 of 6 stars.
    image.variance.array[...] /= 100.0
    candidates = make_candidates(image, *grid(6))
    settings = {
        "spatialOrder": 1, "outlierMaxRemove": 0.6, "outlierNSigma": 0.1, "piffMaxIter": 2, "maxSNR": 1e9,
    }  # fmt: skip
    with pytest.raises(PiffTooFewGoodStarsError, match="kept by the fit"):
        make_task(**settings).determine_psf(image, candidates)
    result = make_task(**settings, zerothOrderInterpNotEnoughStars=True).determine_psf(image, candidates)
    assert list(result.psf.piff_psf.interp.kwargs["order"]) == [0, 0]
    assert len(result.psf.piff_psf.stars) == 6
    assert result.used.any()


def with_colors(candidates: PsfCandidates, values: object, kinds: object) -> PsfCandidates:
    candidates.color_value[:] = values
    candidates.color_type[:] = kinds
    return candidates


def test_order_of_the_band() -> None:
    image, candidates = make_scene(4)
    task = make_task(spatialOrder=5, spatialOrderPerBand={"r": 1})
    assert list(task.determine_psf(image, candidates).psf.piff_psf.interp.kwargs["order"]) == [1, 1]


def test_color_dependence() -> None:
    """The stored PSF is the chromatic one at the mean colour of the stars."""
    image, candidates = make_scene(9)
    candidates = with_colors(candidates, [0.1, 0.5, 0.9, 1.2, 0.3, 0.7, 1.0, 0.4, np.nan], ["g-i"] * 8 + [""])
    result = make_task(useColor=True, color={"r": "g-i"}).determine_psf(image, candidates)
    chromatic = result.chromatic_psf.piff_psf
    assert list(chromatic.interp_property_names) == ["x", "y", "colorValue"]
    assert list(result.psf.piff_psf.interp_property_names) == ["x", "y"]
    mean = float(np.mean(np.float32([0.1, 0.5, 0.9, 1.2, 0.3, 0.7, 1.0, 0.4]), dtype=np.float64))
    expected = chromatic.draw(X0 + 30.0, Y0 + 50.0, colorValue=mean, center=True, stamp_size=SIZE).array
    found = result.psf.compute_kernel_image(x=X0 + 30.0, y=Y0 + 50.0).array
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-9)
    other = chromatic.draw(X0 + 30.0, Y0 + 50.0, colorValue=1.2, center=True, stamp_size=SIZE).array
    assert np.abs(other / other.sum() - found).max() > 1e-6
    # The chromatic model itself, for stars of any colour and of none.
    where = {"x": [X0 + 30.0] * 2, "y": [Y0 + 50.0] * 2}
    red, unknown = kernel_stamps(result.chromatic_psf, **where, color=[1.2, np.nan])
    np.testing.assert_allclose(red, other / other.sum(), atol=1e-9)
    np.testing.assert_allclose(unknown, found, atol=1e-9)


def test_stars_without_colors_give_a_plain_psf() -> None:
    image, candidates = make_scene(4)
    result = make_task(useColor=True, color={"r": "g-i"}).determine_psf(image, candidates)
    assert result.chromatic_psf is None
    assert result.used.all()


def test_mixed_colors() -> None:
    image, candidates = make_scene(4)
    candidates = with_colors(candidates, 0.5, ["g-i", "g-i", "r-z", "g-i"])
    with pytest.raises(ValueError, match="g-i, r-z"):
        make_task(useColor=True).determine_psf(image, candidates)
