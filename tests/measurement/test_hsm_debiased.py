from __future__ import annotations

import math

import numpy as np
import pytest
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.measurement.hsm.debiased import normal_deviates
from secondlight.measurement.plugin import FatalMeasurementError
from secondlight.measurement.task import SingleFrameMeasurementTask
from tests.measurement.hsm_scene import DEBIASED, SOURCE, field, measured
from tests.measurement.scene import fixed_slots, make_config, round_footprints
from tests.scenes import make_visit_image


def test_normal_deviates() -> None:
    """Moments and independence of many short runs, one per seed."""
    values = np.empty((2000, 625))
    for seed, row in enumerate(values):
        normal_deviates(np.uint64(seed), row)
    n = values.size
    assert abs(values.mean()) < 4.0 / math.sqrt(n)
    assert abs((values**2).mean() - 1.0) < 4.0 * math.sqrt(2.0 / n)
    assert abs((values**3).mean()) < 4.0 * math.sqrt(15.0 / n)
    assert abs((values**4).mean() - 3.0) < 4.0 * math.sqrt(96.0 / n)
    assert abs((values[:, 1:] * values[:, :-1]).mean()) < 4.0 / math.sqrt(n)
    assert abs((values[1:] * values[:-1]).mean()) < 4.0 / math.sqrt(n)
    assert np.abs(values).max() > 4.5
    again = np.empty(7)
    normal_deviates(np.uint64(1), again)
    np.testing.assert_array_equal(again[:6], values[1, :6])


def test_debiased_without_noise_are_the_psf_moments() -> None:
    x, y = [60.3, 90.0, 120.49], [60.2, 90.5, 100.0]
    catalog = measured(field(noise=1e-6), [DEBIASED], x=x, y=y, settings={DEBIASED: {"addFlux": True}})
    np.testing.assert_allclose(catalog[f"{DEBIASED}_xx"], 4.0, atol=2e-3)
    np.testing.assert_allclose(catalog[f"{DEBIASED}_x"], 0.0, atol=1e-3)
    np.testing.assert_allclose(catalog[f"{DEBIASED}_Flux"], 1e4, rtol=1e-3)
    assert not catalog[f"{DEBIASED}_flag"].any()


def test_debiased_noise_belongs_to_the_source() -> None:
    """The noise depends on the id and the offset, not on order or company; order 2.1."""
    exposure = field(noise=3.0)
    x, y = np.array([60.3, 90.0, 120.4]), np.array([60.2, 90.5, 100.0])
    together = measured(exposure, [DEBIASED], x=x, y=y, flux=3e3, ids=[7, 8, 9])
    backwards = measured(exposure, [DEBIASED], x=x[::-1], y=y[::-1], flux=3e3, ids=[9, 8, 7])
    shifted = measured(
        exposure, [DEBIASED], x=x, y=y, flux=3e3, ids=[4, 5, 6], settings={DEBIASED: {"seedOffset": 3}}
    )
    other = measured(exposure, [DEBIASED], x=x, y=y, flux=3e3, ids=[4, 5, 6])
    for c in ("x", "xx", "xy"):
        np.testing.assert_array_equal(together[f"{DEBIASED}_{c}"], backwards[f"{DEBIASED}_{c}"][::-1])
        np.testing.assert_array_equal(together[f"{DEBIASED}_{c}"], shifted[f"{DEBIASED}_{c}"])
        assert (together[f"{DEBIASED}_{c}"] != other[f"{DEBIASED}_{c}"]).all()


def test_debiased_moments_scatter_and_lean_as_those_of_stars() -> None:
    """Many stars of one flux in noise and their debiased PSFs: the same mean size and the same scatter."""
    n, step = 900, 25
    x = 30.0 + step * np.arange(n // 15) + 0.3
    xs, ys = (c.ravel() for c in np.meshgrid(x, 30.0 + step * np.arange(15) + 0.2))
    width, height = int(xs.max()) + 30, int(ys.max()) + 30
    psf = GaussianPointSpreadFunction(2.0, Box.factory[0:height, 0:width], 25)
    exposure = make_visit_image(
        width=width, height=height, x=xs, y=ys, flux=np.full(n, 1500.0), psf=psf, noise=10.0
    )
    catalog = measured(
        exposure, [SOURCE, DEBIASED], x=xs, y=ys, flux=1500.0, footprints=round_footprints(xs, ys, 12)
    )
    traces = [catalog[f"{p}_xx"] + catalog[f"{p}_yy"] for p in (SOURCE, DEBIASED)]
    good = np.isfinite(traces[0]) & np.isfinite(traces[1])
    assert good.mean() > 0.95
    star, debiased = (np.sort(t[good]) for t in traces)
    error = np.hypot(star.std(), debiased.std()) / math.sqrt(good.sum())
    assert abs(np.median(star) - np.median(debiased)) < 4.0 * error
    spread = [np.subtract(*np.percentile(t, [84, 16])) for t in (star, debiased)]
    assert spread[0] == pytest.approx(spread[1], rel=0.15)


def test_debiased_flags() -> None:
    """Edge, bad pixels, fluxes that are no star's; noise from metadata needs no variance."""
    exposure = field(noise=1.0)
    exposure.metadata["BGMEAN"] = 9.0
    exposure.mask.set("BAD", np.pad(np.ones((41, 41), bool), ((100, 19), (100, 39))))
    x, y = [60.0, 5.0, 120.0, 80.0, 90.0, 100.0], [60.0, 60.0, 120.0, 60.0, 60.0, 60.0]
    flux = [1e4, 1e4, 1e4, -1e4, np.nan, 0.0]
    footprints = round_footprints(x, y, 8)
    arguments = {"x": x, "y": y, "flux": flux, "footprints": footprints}
    catalog = measured(exposure, [DEBIASED], **arguments)
    assert catalog[f"{DEBIASED}_flag_edge"].tolist() == [False, True, False, False, False, False]
    assert catalog[f"{DEBIASED}_flag_no_pixels"].tolist() == [False, False, True, False, False, False]
    assert catalog[f"{DEBIASED}_flag_galsim"].tolist() == [False, False, False, True, True, True]
    assert catalog[f"{DEBIASED}_flag"].tolist() == [False, True, True, True, True, True]
    settings = {DEBIASED: {"noiseSource": "meta"}}
    catalog = measured(exposure, [DEBIASED], **arguments, settings=settings)
    assert catalog[f"{DEBIASED}_flag_edge"].tolist() == [False, True, False, False, False, False]
    assert catalog[f"{DEBIASED}_flag"].tolist() == [False, False, True, True, True, True]
    assert catalog[f"{DEBIASED}_xx"][1] == pytest.approx(4.0, rel=0.1)
    settings[DEBIASED]["badMaskPlanes"] = []
    catalog = measured(exposure, [DEBIASED], **arguments, settings=settings)
    assert catalog[f"{DEBIASED}_xx"][2] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("level", [None, "dark", -4.0])
def test_debiased_without_a_level_of_noise(level: object) -> None:
    exposure = field()
    if level is not None:
        exposure.metadata["BGMEAN"] = level
    with pytest.raises(FatalMeasurementError, match=r"BGMEAN of visit 100, detector 4"):
        measured(exposure, [DEBIASED], x=[60.0], y=[60.0], settings={DEBIASED: {"noiseSource": "meta"}})


def test_debiased_needs_a_psf_flux() -> None:
    with pytest.raises(ValueError, match="slot_PsfFlux"):
        SingleFrameMeasurementTask(fixed_slots(), config=make_config(DEBIASED))
