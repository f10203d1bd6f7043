"""The fit of the PSF to all stars at once beside Piff's own, on the stars of a simulated detector.

Run as ``python -m benchmarks.piff_fit``, or with numbers of stars.  Every fit has a process of its own, one
after the other, with one thread.  Both fits get the same stars, weights and configuration, the default one
but for the order; Piff solves with its C++ solver, its fastest.  Fits for which Piff would need too much
memory are left out.

*Differs*: the largest difference of any pixel of PSFs drawn by Piff at the stars and on a grid of positions
within their convex hull, centred on a pixel and between pixels, relative to the peak.  The memory is that of
the process; before the fit it is 0.35 GB.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import galsim
import numpy as np
import piff
from piff.config import LoggerWrapper
from rich.console import Console
from rich.table import Table
from scipy.spatial import Delaunay

from secondlight.background.fields import render_background
from secondlight.psf._piff_config import PiffPsfDeterminerConfig
from secondlight.psf._piff_model import piff_setup
from secondlight.psf._piff_stars import star_weights
from secondlight.psf._piff_wcs import PiffCoordinates, piff_coordinates
from secondlight.psf._pixel_grid_solver import fit_pixel_grid
from secondlight.psf.candidates import cut_stamps
from secondlight.simulate.detector import simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.scene import load_scene

from .timing import peak_memory, user_seconds

SCENE = "ccd-dense"
STARS = (50, 100, 200, 400)
ORDERS = (2, 4)
_SNR = (50.0, 1000.0)
_CONTAMINATION = 0.02
_CENTROID_ERROR = 0.02
_BORDER = 20.0
_PIFF_MEMORY_LIMIT = 6.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclasses.dataclass(frozen=True)
class Stars:
    """Cut-outs of stars.

    Parameters
    ----------
    image, weight
        Pixels and weights (n, size, size).
    x0, y0
        First pixels (n).
    x, y
        Centroids, with some error (n).
    scale
        Pixel scale, arcsec.
    """

    image: np.ndarray
    weight: np.ndarray
    x0: np.ndarray
    y0: np.ndarray
    x: np.ndarray
    y: np.ndarray
    scale: float

    @staticmethod
    def simulate(n: int) -> Stars:
        """Simulate a detector and cut n of its bright stars out, most of them without neighbours."""
        scene, config = load_scene(SCENE), PiffPsfDeterminerConfig()
        visit = scene.visits[0].id
        simulated = simulate_detector(scene, make_objects(scene), visit=visit, detector=0)
        image, truth = simulated.images[0], simulated.truth
        image.image.array[...] -= render_background(simulated.background, image.bbox)
        x, y = np.asarray(truth["x"]), np.asarray(truth["y"])
        good = (truth["snr"] > _SNR[0]) & (truth["snr"] < _SNR[1]) & truth["is_star"] & ~truth["saturated"]
        good &= np.abs(truth["contamination"]) < _CONTAMINATION
        for position, side in ((x, image.bbox.x), (y, image.bbox.y)):
            good &= (position > side.min + _BORDER) & (position < side.max - _BORDER)
        rng = np.random.default_rng(1)
        rows = rng.permutation(np.flatnonzero(good))[:n]
        x, y = (p[rows] + rng.normal(0.0, _CENTROID_ERROR, len(rows)) for p in (x, y))
        stamps = cut_stamps(image, x=x, y=y, size=config.stampSize)
        weight, _ = star_weights(stamps, zero_weight_planes=config.zeroWeightMaskBits, max_snr=config.maxSNR)
        scale = piff_coordinates(image, "pixel").scale
        return Stars(stamps.image.astype(float), weight, stamps.x0, stamps.y0, x, y, scale)

    def first(self, n: int) -> Stars:
        """Return the first n stars."""
        arrays = (self.image, self.weight, self.x0, self.y0, self.x, self.y)
        return Stars(*(array[:n] for array in arrays), scale=self.scale)

    def to_piff(self) -> list[piff.Star]:
        """Return the stars as Piff wants them."""
        stars = []
        for i in range(len(self.x)):
            corner = {"xmin": int(self.x0[i]), "ymin": int(self.y0[i]), "wcs": galsim.PixelScale(self.scale)}
            data = piff.StarData(
                galsim.Image(self.image[i], **corner),
                galsim.PositionD(self.x[i], self.y[i]),
                weight=galsim.Image(self.weight[i], **corner),
            )
            stars.append(piff.Star(data, None))
        return stars


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted PSF and what it cost.

    Parameters
    ----------
    coefficients
        Of the polynomial (grid points, terms).
    flagged
        Stars that were rejected.
    iterations
        Number of iterations.
    seconds
        User CPU time.
    memory
        Highest resident memory of the process, GB.
    """

    coefficients: np.ndarray
    flagged: np.ndarray
    iterations: int
    seconds: float
    memory: float


def _model(order: int, scale: float) -> piff.PSF:
    config = PiffPsfDeterminerConfig()
    config.piffBasisPolynomialSolver = "cpp"
    coordinates = PiffCoordinates(galsim.PixelScale(scale), ("x", "y"), None, scale)
    return piff.PSF.process(piff_setup(config, order=order, coordinates=coordinates, chromatic=False))


def fit_stars(stars: Stars, order: int) -> Fit:
    """Fit all stars at once."""
    psf, logger = _model(order, stars.scale), LoggerWrapper(None)
    inputs, wcs = stars.to_piff(), {0: galsim.PixelScale(stars.scale)}
    return _measured(psf, lambda: fit_pixel_grid(psf, inputs, wcs, logger=logger))


def fit_with_piff(stars: Stars, order: int) -> Fit:
    """Let Piff fit the stars."""
    os.nice(10)
    psf = _model(order, stars.scale)
    inputs, wcs = stars.to_piff(), {0: galsim.PixelScale(stars.scale)}
    return _measured(psf, lambda: psf.fit(inputs, wcs, None))


def _measured(psf: piff.PSF, fit: Callable[[], None]) -> Fit:
    start = user_seconds()
    _, memory, _ = peak_memory(fit)
    seconds = user_seconds() - start
    flagged = np.array([star.is_flagged for star in psf.stars])
    return Fit(psf.interp.q, flagged, psf.niter, seconds, memory)


def in_own_process(fit: Callable[[Stars, int], Fit], stars: Stars, order: int) -> Fit:
    """Run a fit in a process of its own, so that memory is its alone."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(fit, stars, order).result()


def piff_memory(n: int, order: int) -> float:
    """Return about how much memory Piff needs, GB: four design matrices per star and two normal matrices."""
    config = PiffPsfDeterminerConfig()
    points, pixels = config.modelSize**2, config.stampSize**2
    unknowns = points * (order + 1) * (order + 2) // 2
    return 0.25 + 8e-9 * (4 * n * points * pixels + 2 * unknowns**2)


def largest_difference(ours: Fit, theirs: Fit, stars: Stars, order: int) -> float:
    """Return the largest difference of drawn PSFs in the region of the stars that both fits kept."""
    size = PiffPsfDeterminerConfig().stampSize
    models = []
    for fit in (ours, theirs):
        psf = _model(order, stars.scale)
        psf.wcs, psf.pointing, psf.interp.q = {0: galsim.PixelScale(stars.scale)}, None, fit.coefficients
        models.append(psf)
    used = np.stack([stars.x, stars.y], axis=1)[~(ours.flagged | theirs.flagged)]
    axes = (np.linspace(low, high, 10) for low, high in zip(used.min(axis=0), used.max(axis=0), strict=True))
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    inside = grid[Delaunay(used).find_simplex(grid) >= 0]
    largest = 0.0
    for (x, y), shift in itertools.product(np.concatenate([used, inside]), (0.0, 0.5)):
        mine, other = (
            psf.draw(x, y, center=True, offset=(shift, shift), stamp_size=size).array for psf in models
        )
        largest = max(largest, float(np.abs(mine - other).max() / other.max()))
    return largest


def main(numbers: tuple[int, ...] = STARS) -> None:
    """Fit with both and print a table."""
    os.environ |= _ONE_THREAD
    console = Console()
    stars = Stars.simulate(max(numbers))
    table = Table(title="PSF fit of a 25 x 25 grid: all stars at once, and Piff (C++ solver)")
    headings = ("stars", "order", "CPU, s", "Piff", "GB", "Piff", "rounds", "rejected", "differs")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for order, n in itertools.product(ORDERS, numbers):
        some = stars.first(n)
        ours = in_own_process(fit_stars, some, order)
        theirs = None
        if (memory := piff_memory(n, order)) > _PIFF_MEMORY_LIMIT:
            console.print(f"Piff is left out at {n} stars, order {order}: it needs about {memory:.1f} GB.")
        else:
            theirs = in_own_process(fit_with_piff, some, order)
        table.add_row(str(n), str(order), *_row(ours, theirs, some, order))
    console.print(table)


def _row(ours: Fit, theirs: Fit | None, stars: Stars, order: int) -> list[str]:
    seconds, memory = f"{ours.seconds:.2f}", f"{ours.memory:.2f}"
    iterations, rejected = f"{ours.iterations}", f"{ours.flagged.sum()}"
    if theirs is None:
        return [seconds, "", memory, "", iterations, rejected, ""]
    if theirs.iterations != ours.iterations:
        iterations += f" (Piff: {theirs.iterations})"
    if not np.array_equal(theirs.flagged, ours.flagged):
        rejected += (
            f" (Piff: {theirs.flagged.sum()}, {(ours.flagged & theirs.flagged).sum()} of them the same)"
        )
    difference = f"{largest_difference(ours, theirs, stars, order):.0e}"
    their_costs = f"{theirs.seconds:.1f}", f"{theirs.memory:.2f}"
    return [seconds, their_costs[0], memory, their_costs[1], iterations, rejected, difference]


if __name__ == "__main__":
    main(tuple(int(number) for number in sys.argv[1:]) or STARS)
