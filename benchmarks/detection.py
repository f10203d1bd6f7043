"""User CPU seconds, memory and accuracy of repair, detection and sky sources on large simulated detectors.

Run as ``python -m benchmarks.detection``, or with the names of scenes.  Source Extractor and sep detect, with
the settings of the accuracy benchmark, on the same image in the same run: the one without its true background
and with cosmic rays repaired.  The steps run twice; the first time compiles the kernels, the second counts.

Sources are matched to objects as in the accuracy benchmark.  A source without object is told apart by the
light of the true objects under it, in standard deviations of the detection filter: *displaced* (3 and more;
an object more than 2 pixels away, or two that were found as one), *faint* (1 to 3) or *noise*.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from lsst.images import VisitImage
from rich.console import Console
from rich.table import Table
from scipy.spatial import KDTree

from secondlight.background.fields import render_background
from secondlight.catalog.footprints import Footprints
from secondlight.catalog.schema import minimal_source_schema
from secondlight.detection.sky_objects import SkyObjectsTask
from secondlight.detection.smoothing import gaussian_kernel, kernel_size, smooth
from secondlight.detection.task import SourceDetectionConfig, SourceDetectionTask
from secondlight.psf.evaluation import determinant_radius, psf_shapes
from secondlight.repair.task import RepairTask
from secondlight.simulate.detector import simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.scene import load_scene

from .accuracy.catalogs import Measured, Truth
from .accuracy.matching import Image
from .accuracy.peers import PeerUnavailable, sep_peer, source_extractor
from .accuracy.peers._common import Exposure
from .accuracy.peers._programs import Programs, write_lines
from .timing import peak_memory, user_seconds

SCENES = ("ccd", "ccd-dense", "ccd-crowded")
_FWHM_PER_SIGMA = 2.3548
_SNR_EDGES = (5.0, 6.0, 8.0, 10.0, 15.0, 30.0, 1e9)
_BORDER = 10.0
_NEAR_SIGMAS = 4.0
_BRIGHT_SNR, _ISOLATED = 200.0, 0.01


@dataclasses.dataclass(frozen=True)
class Scene:
    """A detector to be searched, without background, and what is on it.

    Parameters
    ----------
    image
        The image; its cosmic rays are repaired in place.
    truth
        The objects.
    sigma
        Width of the true PSF, pixels.
    """

    image: VisitImage
    truth: Truth
    sigma: float

    @classmethod
    def simulate(cls, name: str) -> Scene:
        """Simulate the first detector of the first visit of a scene."""
        scene = load_scene(name)
        visit = scene.visits[0]
        simulated = simulate_detector(scene, make_objects(scene), visit=visit.id, detector=0)
        image, meta = simulated.images[0], simulated.truth.meta
        image.image.array[...] -= render_background(simulated.background, image.bbox)
        x, y = (np.array([0.5 * side.size]) for side in (image.bbox.x, image.bbox.y))
        sigma = float(determinant_radius(psf_shapes(simulated.psf, x=x, y=y))[0])
        zero_point, noise = float(meta["zero_point"]), float(meta["noise"])
        truth = Truth(visit.id, 0, visit.band, simulated.truth, image.bbox, zero_point, noise)
        return cls(image, truth, sigma)


@dataclasses.dataclass
class Steps:
    """Results and costs of secondlight's steps on one image."""

    image: VisitImage
    footprints: Footprints
    seconds: dict[str, float]


def run_steps(image: VisitImage, sigma: float) -> Steps:
    """Repair the image in place, detect with a PSF of this width and place sky sources."""
    schema = minimal_source_schema()
    config = SourceDetectionConfig()
    config.reEstimateBackground = config.doTempLocalBackground = False
    repair, sky = RepairTask(), SkyObjectsTask(schema=schema)
    detection = SourceDetectionTask(schema=schema, config=config)
    seconds: dict[str, float] = {}

    def timed[T](name: str, step: Callable[[], T]) -> T:
        start = user_seconds()
        result = step()
        seconds[name] = user_seconds() - start
        return result

    timed("repair", lambda: repair.run(image))
    found = timed("detection", lambda: detection.run(image, sigma=sigma))
    timed("sky sources", lambda: sky.run(image.mask, 1, found.sources))
    return Steps(image, found.positive, seconds)


def run_sep(exposure: Exposure) -> tuple[np.ndarray, np.ndarray, float]:
    """Return positions by sep, windowed, and the seconds of its detection."""
    sep = sep_peer._import_sep()
    start = user_seconds()
    sources, _ = sep_peer._detect(sep, exposure.counts, np.sqrt(exposure.sky_variance), exposure)
    seconds = user_seconds() - start
    return *sep_peer._centers(sep, exposure.counts, sources, exposure), seconds


def run_source_extractor(exposure: Exposure) -> tuple[np.ndarray, np.ndarray, float]:
    """Return positions by Source Extractor, windowed, and the seconds of its detection alone."""
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs.find(Path(folder), exposure.name)
        source_extractor._write_inputs(exposure, programs)
        settings = source_extractor._extractor_settings(exposure, programs) | {
            "BACK_TYPE": "MANUAL",
            "BACK_VALUE": 0.0,
            "CATALOG_NAME": "found.fits",
            "CATALOG_TYPE": "FITS_1.0",
        }
        for columns in (["X_IMAGE", "Y_IMAGE"], ["XWIN_IMAGE", "YWIN_IMAGE"]):
            write_lines(programs.folder / source_extractor._COLUMNS, columns)
            programs.extract(source_extractor._IMAGE, settings)
            if columns[0] == "X_IMAGE":
                seconds = programs.cpu_seconds
        table = fits.getdata(programs.folder / "found.fits", 1)
        x, y = (np.asarray(table[name], dtype=np.float64) - 1.0 for name in ("XWIN_IMAGE", "YWIN_IMAGE"))
        return x, y, seconds


class Judge:
    """What the detections of one image are worth.

    Parameters
    ----------
    scene
        The image's truth.
    repaired
        The image that was searched.
    """

    def __init__(self, scene: Scene, repaired: VisitImage) -> None:
        self.truth, self.sigma = scene.truth, scene.sigma
        kernel = gaussian_kernel(scene.sigma, kernel_size(scene.sigma, 7.0))
        self._smoothed = smooth(repaired.image.array, repaired.variance.array, kernel)
        x, y = self.truth["x"], self.truth["y"]
        self._tree = KDTree(np.column_stack([x, y]))
        height, width = self.truth.bbox.shape
        inside = (x > _BORDER) & (x < width - _BORDER) & (y > _BORDER) & (y < height - _BORDER)
        self._usable = inside & ~self.truth["saturated"].astype(bool)

    def _at(self, plane: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        shape, margin = plane.shape, self._smoothed.margin
        j, i = (np.floor(v + 0.5).astype(np.int64) - margin for v in (y, x))
        return np.asarray(plane[np.clip(j, 0, shape[0] - 1), np.clip(i, 0, shape[1] - 1)])

    def noise(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the standard deviation of the smoothed image, counts."""
        return np.asarray(np.sqrt(self._at(self._smoothed.variance, x, y)))

    def significance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the smoothed image over its noise."""
        return np.asarray(self._at(self._smoothed.image, x, y) / self.noise(x, y))

    def true_light(self, x: np.ndarray, y: np.ndarray, *, without: int = -1) -> np.ndarray:
        """Return what objects, taken as points, add to the smoothed image, in its standard deviations."""
        counts, variance = self.truth["counts"], 4.0 * self.sigma**2
        near = self._tree.query_ball_point(np.column_stack([x, y]), _NEAR_SIGMAS * self.sigma)
        light = np.zeros(len(x))
        for k, rows in enumerate(near):
            objects = np.array([row for row in rows if row != without], dtype=np.int64)
            r2 = (self.truth["x"][objects] - x[k]) ** 2 + (self.truth["y"][objects] - y[k]) ** 2
            light[k] = np.sum(counts[objects] * np.exp(-r2 / variance)) / (np.pi * variance)
        return np.asarray(light / self.noise(x, y))

    def row(self, name: str, x: np.ndarray, y: np.ndarray) -> list[str]:
        """Return the number of sources, completeness and purity in bins, and the kinds of false ones."""
        image = Image(measured_positions(name, x, y, self.truth), self.truth)
        found, false = image.source_of_object >= 0, image.object_of_source < 0
        stars = self._usable & self.truth["is_star"] & (self.truth["contamination"] < _ISOLATED)
        at_ten = stars & (self.truth["snr"] >= 10)
        light = self.true_light(x[false], y[false])
        kinds = [np.sum(light >= 3), np.sum((light >= 1) & (light < 3)), np.sum(light < 1)]
        return [
            name,
            str(len(x)),
            f"{100 * found[at_ten].mean():.1f}",
            _percentages(found[self._usable], self.truth["snr"][self._usable]),
            f"{100 * (1 - false.mean()):.1f}",
            _percentages(~false, self.significance(x, y)),
            " / ".join(str(k) for k in kinds),
        ]

    def peaks_of_bright_stars(self, footprints: Footprints) -> str:
        """Say how many peaks isolated bright stars have, and what the others than the star are."""
        x, y = self.truth["x"], self.truth["y"]
        bright = self._usable & self.truth["is_star"] & (self.truth["snr"] > _BRIGHT_SNR)
        stars = np.flatnonzero(bright & (self.truth["contamination"] < _ISOLATED))
        labels = footprints.to_labels(self.truth.bbox.shape)
        rows = self._at_label(labels, x[stars], y[stars])
        counts = np.diff(footprints.peak_offsets)[rows]
        extra, real = 0, 0
        for star, row in zip(stars, rows, strict=True):
            peaks = footprints.peaks(row)
            other = np.hypot(peaks.x - x[star], peaks.y - y[star]) > 2
            light = self.true_light(peaks.x[other], peaks.y[other], without=int(star))
            extra, real = extra + len(light), real + int(np.sum(light >= 3))
        return (
            f"{len(stars)} isolated stars of S/N > {_BRIGHT_SNR:.0f}: {np.sum(counts == 1)} have one peak; "
            f"of {extra} further peaks {real} are on other objects of at least 3 sigma"
        )

    @staticmethod
    def _at_label(labels: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return labels[np.floor(y + 0.5).astype(np.int64), np.floor(x + 0.5).astype(np.int64)]


def measured_positions(name: str, x: np.ndarray, y: np.ndarray, truth: Truth) -> Measured:
    """Return a catalogue of nothing but positions."""
    none, yes = np.full(len(x), np.nan), np.ones(len(x), dtype=bool)
    return Measured(
        name, truth.visit, truth.detector, truth.band, x, y, none, none, none, none, {}, {}, none, yes, yes
    )


def _percentages(values: np.ndarray, snr: np.ndarray) -> str:
    parts = (values[(snr >= low) & (snr < high)] for low, high in itertools.pairwise(_SNR_EDGES))
    return " ".join(f"{100 * part.mean():.1f}" if len(part) else "-" for part in parts)


def benchmark(name: str, console: Console) -> None:
    """Run everything on one scene and print what it cost and what it found."""
    scene = Scene.simulate(name)
    run_steps(scene.image.copy(), scene.sigma)
    before, peak, steps = peak_memory(lambda: run_steps(scene.image, scene.sigma))
    exposure = Exposure.of(steps.image, seeing_pixels=_FWHM_PER_SIGMA * scene.sigma)
    judge = Judge(scene, steps.image)
    peaks = steps.footprints.all_peaks
    x, y = peaks.x.astype(np.float64), peaks.y.astype(np.float64)
    edges = " ".join(f"{edge:.0f}" for edge in _SNR_EDGES[:-1])
    table = Table(
        "system", "sources", "isolated stars, S/N > 10", f"complete (%) from S/N {edges}", "pure (%)",
        f"pure (%) from {edges} sigma", "displaced / faint / noise", title=name,
    )  # fmt: skip
    table.add_row(*judge.row("secondlight", x, y))
    seconds = {**steps.seconds, "secondlight": sum(steps.seconds.values())}
    brightest = np.argsort(-peaks.significance)
    for peer, run in (("source-extractor", run_source_extractor), ("sep", run_sep)):
        try:
            peer_x, peer_y, seconds[peer] = run(exposure)
        except PeerUnavailable as error:
            console.print(str(error))
            continue
        table.add_row(*judge.row(peer, peer_x, peer_y))
        same = brightest[: len(peer_x)]
        table.add_row(*judge.row(f"secondlight, as many as {peer}", x[same], y[same]))
    console.print(table)
    console.print(", ".join(f"{step} {value:.2f} s" for step, value in seconds.items()))
    console.print(
        f"Memory: {before:.2f} GB before (imports, image, truth), at most {peak:.2f} GB during the steps"
    )
    console.print(judge.peaks_of_bright_stars(steps.footprints))


def main(names: tuple[str, ...] = SCENES) -> None:
    """Run the scenes."""
    console = Console(width=200)
    for name in names:
        benchmark(name, console)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or SCENES)
