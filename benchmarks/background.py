"""Bias of the background and of faint stars on simulated detectors, and what an estimate costs, beside sep.

Run as ``python -m benchmarks.background``, or with names of scenes.  The truth is the sky of a scene: the
light of objects too faint to be found is not part of it.  Stars are isolated ones, measured at their true
positions with the true PSF, found or not, so that only the background and what lies in the aperture matter;
the row `true sky` shows what the latter does.  Offsets are medians, positive where stars come out too faint.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import numpy as np
from lsst.images import VisitImage
from rich.console import Console
from rich.table import Table as Printed

from secondlight.background.fields import make_background, render_background
from secondlight.background.object_masked import ObjectMaskedBackgroundTask
from secondlight.background.task import SubtractBackgroundTask
from secondlight.catalog.mask_planes import mask_of
from secondlight.photometry.apertures import aperture_fluxes
from secondlight.photometry.measure_ap_corr import robust_sigma
from secondlight.psf.evaluation import stellar_stamps
from secondlight.simulate.detector import SimulatedDetector, simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.scene import load_scene

from .timing import user_seconds

SCENES = ("demo", "ccd", "ccd-dense")
_APERTURE = 12.0
_REPEATS = 3

type Estimate = Callable[[VisitImage], np.ndarray]


def _plain(image: VisitImage) -> np.ndarray:
    config = SubtractBackgroundTask.ConfigClass()
    config.update(useApprox=False, isNanSafe=True)
    return render_background(make_background(SubtractBackgroundTask(config=config).fit(image)), image.bbox)


def _masked(image: VisitImage, *, faint: bool) -> np.ndarray:
    config = ObjectMaskedBackgroundTask.ConfigClass()
    config.update(doFaintLight=faint)
    return render_background(
        make_background(ObjectMaskedBackgroundTask(config=config).fit(image)), image.bbox
    )


def _sep(image: VisitImage) -> np.ndarray:
    import sep

    bad = mask_of(image.mask, ["BAD", "EDGE", "NO_DATA"], missing_ok=True)
    return np.asarray(sep.Background(image.image.array, mask=bad, bw=128, bh=128).back())


METHODS: dict[str, Estimate] = {
    "plain cells": _plain,
    "between objects": functools.partial(_masked, faint=False),
    "without faint light": functools.partial(_masked, faint=True),
    "sep": _sep,
}


def _isolated_stars(simulated: SimulatedDetector) -> dict[str, np.ndarray]:
    truth = simulated.truth
    height, width = simulated.images[0].image.array.shape
    x, y = np.asarray(truth["x"]), np.asarray(truth["y"])
    inside = (x > 20) & (x < width - 21) & (y > 20) & (y < height - 21)
    isolated = np.abs(np.asarray(truth["contamination"])) < 0.01
    keep = inside & isolated & np.asarray(truth["is_star"]) & (np.asarray(truth["mag"]) < 24)
    return {name: np.asarray(truth[name])[keep] for name in ("x", "y", "mag", "counts")}


def _psf_fluxes(pixels: np.ndarray, simulated: SimulatedDetector, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return fluxes of the true PSF fitted at true positions, all pixels alike, with no sky."""
    stamps = stellar_stamps(simulated.psf, x=x, y=y)
    size_y, size_x = stamps.images.shape[1:]
    flux = np.full(len(x), np.nan)
    for k, model in enumerate(stamps.images):
        x0, y0 = int(stamps.x0[k]), int(stamps.y0[k])
        if min(x0, y0) < 0:
            continue
        data = pixels[y0 : y0 + size_y, x0 : x0 + size_x]
        if data.shape == model.shape:
            flux[k] = np.sum(data * model) / np.sum(model**2)
    return flux


def _offsets(pixels: np.ndarray, simulated: SimulatedDetector, stars: dict[str, np.ndarray]) -> list[str]:
    """Return median offsets of aperture and PSF fluxes at magnitudes 22-23 and 23-24, mmag, with errors."""
    variance = simulated.images[0].variance.array
    aperture = aperture_fluxes(pixels, variance, x=stars["x"], y=stars["y"], radius=_APERTURE).flux
    results = []
    for flux in (aperture, _psf_fluxes(pixels, simulated, stars["x"], stars["y"])):
        ratio = flux / stars["counts"]
        bright = (stars["mag"] > 18) & (stars["mag"] < 20.5)
        ratio = ratio / np.nanmedian(ratio[bright])
        for low in (22, 23):
            part = ratio[(stars["mag"] >= low) & (stars["mag"] < low + 1) & np.isfinite(ratio)]
            error = 1.25 * robust_sigma(part) / np.sqrt(len(part))
            results.append(f"{-1086 * (np.median(part) - 1):+.0f} +- {1086 * error:.0f}")
    return results


def _seconds(estimate: Estimate, image: VisitImage) -> float:
    """Return the least user CPU time of a few calls."""
    times = []
    for _ in range(_REPEATS):
        start = user_seconds()
        estimate(image)
        times.append(user_seconds() - start)
    return min(times)


def main(names: tuple[str, ...] = SCENES) -> None:
    """Print a table for each scene."""
    console = Console()
    for name in names:
        scene = load_scene(name)
        simulated = simulate_detector(scene, make_objects(scene), visit=scene.visits[0].id, detector=0)
        image = simulated.images[0]
        noise = simulated.truth.meta["noise"]
        sky = render_background(simulated.background, image.bbox)
        stars = _isolated_stars(simulated)
        undetected = simulated.truth["counts"][~(np.asarray(simulated.truth["snr"]) >= 5)]
        mean = float(np.sum(undetected)) / image.image.array.size / noise
        table = Printed(
            "background", "bias (sky sigma)", "scatter", "aperture 22-23", "23-24", "PSF 22-23", "23-24",
            "CPU (s)", "over sep",
            title=f"{name}: objects below 5 sigma have a mean light of {mean:.4f} sky sigma",
        )  # fmt: skip
        table.add_row("true sky", "0", "0", *_offsets(image.image.array - sky, simulated, stars), "", "")
        seconds = {method: _seconds(estimate, image) for method, estimate in METHODS.items()}
        for method, estimate in METHODS.items():
            background = estimate(image)
            error = (background - sky)[4::8, 4::8] / noise
            table.add_row(
                method, f"{np.median(error):+.4f}", f"{robust_sigma(error.ravel()):.4f}",
                *_offsets(image.image.array - background, simulated, stars),
                f"{seconds[method]:.2f}", f"{seconds[method] / seconds['sep']:.1f}",
            )  # fmt: skip
        console.print(table)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or SCENES)
