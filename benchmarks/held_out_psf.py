"""How well PSF models of several orders predict the sizes of stars they were not fitted to.

Four-fold cross-validation on the stars of every SDSS frame: three quarters are fitted, the rest compared.
"""

from __future__ import annotations

import galsim
import numpy as np
from rich.console import Console
from rich.table import Table

from secondlight.photometry.measure_ap_corr import robust_sigma
from secondlight.psf.candidates import MakePsfCandidatesTask
from secondlight.psf.evaluation import kernel_stamps
from secondlight.psf.piff_determiner import PiffPsfDeterminerTask
from secondlight.tasks.calibrate_image import CalibrateImageTask

from .sdss import first_pass_config, frames, run_first_pass

FOLDS = 4
MODELS = ((0, 25), (1, 25), (2, 25), (2, 17), (3, 17))
"""Spatial order and grid size of the models compared."""


def trace(stamp: np.ndarray) -> float:
    """Return the trace of the adaptive moments of a stamp, NaN if they do not converge."""
    moments = galsim.hsm.FindAdaptiveMom(
        galsim.Image(np.ascontiguousarray(stamp)), guess_sig=1.2, strict=False
    )
    if moments.error_message:
        return float("nan")
    return float(2 * moments.moments_sigma**2 / np.sqrt(1 - moments.observed_shape.e**2))


def residuals(order: int, size: int, prepared: list[tuple]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Return (T_star - T_psf) / T_psf and the signal-to-noise ratio of every star when it was held out."""
    config = PiffPsfDeterminerTask.ConfigClass()
    config.spatialOrder, config.modelSize = order, size
    sizes, ratios = [], []
    for image, stars, candidates in prepared:
        fold = np.random.default_rng(1).permutation(len(candidates)) % FOLDS
        for k in range(FOLDS):
            psf = PiffPsfDeterminerTask(config=config).determine_psf(image, candidates[fold != k]).psf
            rows = candidates.rows[fold == k]
            stamps = kernel_stamps(psf, x=stars["slot_Centroid_x"][rows], y=stars["slot_Centroid_y"][rows])
            t_star = (stars["slot_Shape_xx"] + stars["slot_Shape_yy"])[rows]
            t_psf = np.array([trace(stamp) for stamp in stamps])
            sizes.append(t_star / t_psf - 1)
            ratios.append((stars["slot_PsfFlux_instFlux"] / stars["slot_PsfFlux_instFluxErr"])[rows])
    return np.concatenate(sizes), np.concatenate(ratios)


def main() -> None:
    """Compare the models and print a table."""
    prepared = []
    for _, observation in frames():
        first = CalibrateImageTask(config=first_pass_config())
        result = run_first_pass(first, observation)
        stars = result.stars[result.stars["calib_psf_candidate"]]
        prepared.append(
            (result.exposure, stars, MakePsfCandidatesTask().run(stars, result.exposure).candidates)
        )
    if not prepared:
        return
    table = Table(title="Sizes of held-out stars: (T_star - T_psf) / T_psf, %")
    for heading in ("order", "grid", "stars", "median", "scatter", "scatter at S/N > 150"):
        table.add_column(heading, justify="right")
    for order, size in MODELS:
        size_residual, ratio = residuals(order, size, prepared)
        good = np.isfinite(size_residual)
        bright = good & (ratio > 150)
        table.add_row(
            str(order), str(size), str(int(good.sum())),
            f"{100 * np.median(size_residual[good]):+.2f}",
            f"{100 * robust_sigma(size_residual[good]):.2f}",
            f"{100 * robust_sigma(size_residual[bright]):.2f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
