"""Stars to fit a PSF to."""

from __future__ import annotations

import numpy as np
from lsst.images import VisitImage
from lsst.images.psfs import PiffWrapper

from secondlight.psf._piff_config import PiffPsfDeterminerConfig
from secondlight.psf.candidates import PsfCandidates, cut_stamps
from secondlight.psf.evaluation import stellar_stamps
from secondlight.psf.piff_determiner import PiffPsfDeterminerTask

from ..scenes import make_visit_image

X0, Y0 = 500, 300
SIGMA = 1.5
SIZE = 15
NOISE = 10.0


def grid(n: int, *, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return n positions, far enough from each other for clean stamps."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n)))
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)[:n]
    x, y = (cells * 40 + 20 + rng.uniform(-0.5, 0.5, cells.shape)).T
    return X0 + x, Y0 + y


def make_candidates(image: VisitImage, x: np.ndarray, y: np.ndarray, *, size: int = 21) -> PsfCandidates:
    n = len(x)
    return PsfCandidates(
        rows=np.arange(n),
        id=np.arange(100, 100 + n),
        x=x,
        y=y,
        color_value=np.full(n, np.nan, dtype=np.float32),
        color_type=np.full(n, "", dtype="U10"),
        stamps=cut_stamps(image, x=x, y=y, size=size),
    )


def make_scene(
    n: int, *, flux: float | np.ndarray = 3e4, **kwargs: object
) -> tuple[VisitImage, PsfCandidates]:
    x, y = grid(n)
    side = 40 * int(np.ceil(np.sqrt(n)))
    settings: dict[str, object] = {"sigma": SIGMA, "noise": NOISE, "seed": 2}
    image = make_visit_image(
        width=side, height=side, x0=X0, y0=Y0, x=x, y=y, flux=np.broadcast_to(flux, n), **(settings | kwargs)
    )  # type: ignore[arg-type]
    return image, make_candidates(image, x, y)


def make_task(**settings: object) -> PiffPsfDeterminerTask:
    config = PiffPsfDeterminerConfig()
    config.update(
        **({"stampSize": SIZE, "modelSize": SIZE, "spatialOrder": 0, "interpolant": "Lanczos(5)"} | settings)
    )
    config.validate()
    return PiffPsfDeterminerTask(config=config)


def residual_chi(image: VisitImage, psf: PiffWrapper, candidates: PsfCandidates) -> np.ndarray:
    """Return the pixels of the stars less their fitted model, in units of the noise."""
    model = stellar_stamps(psf, x=candidates.x, y=candidates.y)
    data = cut_stamps(image, x=candidates.x, y=candidates.y, size=model.images.shape[-1]).image
    flux = (data * model.images).sum(axis=(1, 2)) / (model.images**2).sum(axis=(1, 2))
    return np.asarray((data - flux[:, None, None] * model.images) / NOISE)
