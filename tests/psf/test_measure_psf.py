"""The PSF of one image from its own stars: selection, reserved stars, flags, and images without stars."""

from __future__ import annotations

import numpy as np
import pytest
from lsst.images import VisitImage
from lsst.images.psfs import PiffWrapper
from lsst.pipe.base import AlgorithmError

from secondlight.catalog.schema import Schema, minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.psf.evaluation import determinant_radius, psf_shapes
from secondlight.psf.measure_psf import MeasurePsfTask
from secondlight.psf.piff_determiner import PiffTooFewGoodStarsError

from .piff_scenes import NOISE, SIGMA, SIZE, grid, make_scene

N = 25
FLAGS = ("calib_psf_candidate", "calib_psf_reserved", "calib_psf_used")


def make_task(*, fraction: float = 0.2, mode: str = "shuffle") -> tuple[MeasurePsfTask, Schema]:
    config = MeasurePsfTask.ConfigClass()
    config.reserve.reserve_fraction = fraction
    config.reserve.reserve_mode = mode
    config.makePsfCandidates.kernelSize = 21
    piff = config.psfDeterminer["piff"]
    piff.stampSize = piff.modelSize = SIZE
    piff.spatialOrder = 0
    piff.interpolant = "Lanczos(5)"
    schema = minimal_source_schema()
    for name in ("slot_Centroid_x", "slot_Centroid_y", "slot_Shape_xx", "slot_Shape_yy"):
        schema.add(name, np.float64, "")
    for name in ("base_PsfFlux_instFlux", "base_PsfFlux_instFluxErr"):
        schema.add(name, np.float64, "")
    for name in config.starSelector["objectSize"].badFlags:
        schema.add_flag(name, "")
    return MeasurePsfTask(schema=schema, config=config), schema


def make_sources(schema: Schema, n: int = N) -> tuple[VisitImage, SourceCatalog]:
    """An image of n stars, and their rows in random places between galaxies and faint sources."""
    image, _ = make_scene(n)
    x, y = grid(n)
    sources = SourceCatalog(schema, 2 * n)
    sources["id"] = np.arange(1, 2 * n + 1)
    rows = star_rows(n)
    for name, position, start in (("x", x, image.bbox.x.start), ("y", y, image.bbox.y.start)):
        sources[f"slot_Centroid_{name}"] = start + 20.0
        sources[f"slot_Centroid_{name}"][rows] = position
    others = np.setdiff1d(np.arange(2 * n), rows)
    for k in ("xx", "yy"):
        sources[f"slot_Shape_{k}"] = SIGMA**2
        sources[f"slot_Shape_{k}"][others[::2]] = 3 * SIGMA**2  # galaxies
    sources["base_PsfFlux_instFlux"] = 3e4
    sources["base_PsfFlux_instFlux"][others[1::2]] = 300.0  # faint
    sources["base_PsfFlux_instFluxErr"] = NOISE * np.sqrt(4 * np.pi) * SIGMA
    return image, sources


def star_rows(n: int) -> np.ndarray:
    return np.sort(np.random.default_rng(8).permutation(2 * n)[:n])


def test_psf_is_fitted_to_the_stars_that_are_not_held_out() -> None:
    task, schema = make_task()
    image, sources = make_sources(schema)
    result = task.run(image, sources, extra="1_2")
    assert isinstance(result.psf, PiffWrapper)
    assert image.psf is result.psf
    candidate, reserved, used = (sources[name] for name in FLAGS)
    np.testing.assert_array_equal(np.nonzero(candidate)[0], star_rows(N))
    assert reserved.sum() == int(0.2 * N)
    assert not (reserved & ~candidate).any()
    assert not (used & reserved).any()
    assert used.sum() >= 0.9 * (N - reserved.sum())
    assert task.metadata["numGoodStars"] == used.sum()
    x, y = (np.array([position.mean()]) for position in grid(N))
    assert determinant_radius(psf_shapes(result.psf, x=x, y=y))[0] == pytest.approx(SIGMA, rel=0.01)


def test_held_out_stars_have_no_part_in_the_fit() -> None:
    task, schema = make_task()
    image, sources = make_sources(schema)
    task.run(image, sources, extra="1_2")
    reserved = sources["calib_psf_reserved"].copy()
    before = image.psf.compute_kernel_image(x=550.0, y=350.0).array.copy()
    for x, y in zip(sources["slot_Centroid_x"][reserved], sources["slot_Centroid_y"][reserved], strict=True):
        i, j = int(y + 0.5) - image.bbox.y.start, int(x + 0.5) - image.bbox.x.start
        image.image.array[i - 3 : i + 4, j - 3 : j + 4] *= 1.5
    task.run(image, sources, extra="1_2")
    np.testing.assert_array_equal(sources["calib_psf_reserved"], reserved)
    np.testing.assert_array_equal(image.psf.compute_kernel_image(x=550.0, y=350.0).array, before)


@pytest.mark.parametrize("mode", ["shuffle", "hash"])
def test_held_out_sample_belongs_to_the_image(mode: str) -> None:
    samples = []
    for extra in ("1_2", "1_2", "1_3"):
        task, schema = make_task(mode=mode)
        image, sources = make_sources(schema)
        task.run(image, sources, extra=extra)
        samples.append(sources["calib_psf_reserved"])
    np.testing.assert_array_equal(samples[0], samples[1])
    assert (samples[0] != samples[2]).any()


def test_nothing_held_out() -> None:
    task, schema = make_task(fraction=0.0)
    image, sources = make_sources(schema)
    task.run(image, sources)
    assert not sources["calib_psf_reserved"].any()


def test_flags_of_an_earlier_run_are_cleared() -> None:
    task, schema = make_task()
    image, sources = make_sources(schema)
    for name in FLAGS:
        sources[name] = True
    task.run(image, sources)
    np.testing.assert_array_equal(np.nonzero(sources["calib_psf_candidate"])[0], star_rows(N))
    assert sources["calib_psf_reserved"].sum() == int(0.2 * N)
    assert not (sources["calib_psf_used"] & ~sources["calib_psf_candidate"]).any()


def test_stars_at_the_border_are_no_candidates() -> None:
    task, schema = make_task()
    image, sources = make_sources(schema)
    row = star_rows(N)[3]
    sources["slot_Centroid_x"][row] = image.bbox.x.start + 5.0
    task.run(image, sources)
    assert not any(sources[name][row] for name in FLAGS)


@pytest.mark.parametrize("case", ["empty", "none selected", "all held out", "all NaN"])
def test_too_few_stars_are_an_algorithm_error_and_leave_the_psf(case: str) -> None:
    task, schema = make_task(fraction=1.0 if case == "all held out" else 0.2)
    image, sources = make_sources(schema)
    before = image.psf
    match case:
        case "empty":
            sources = sources[np.zeros(len(sources), dtype=bool)]
        case "none selected":
            sources["slot_Centroid_flag"] = True
        case "all NaN":
            image.image.array[...] = np.nan
    with pytest.raises(PiffTooFewGoodStarsError, match="visit 100 detector 4"):
        task.run(image, sources)
    assert issubclass(PiffTooFewGoodStarsError, AlgorithmError)
    assert image.psf is before
    assert not sources["calib_psf_used"].any()
