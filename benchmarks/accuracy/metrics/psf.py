"""The PSF model against the true PSF: size, ellipticity, and what it does to PSF fluxes.

Adaptive moments of centred stamps, at the stars held out of the fit and at random positions, for the model of
the first pass and the final one. T = Ixx + Iyy, e1 = (Ixx - Iyy) / T, e2 = 2 Ixy / T; model minus truth. The
flux is that of fitting the model to the true PSF, both of unit sum on their stamps: aperture corrections take
a common offset away, so only its scatter is judged. A PSF is smooth over an image: errors of the numbers come
from resampling whole images, and of fewer than five there are none.
"""

from __future__ import annotations

__all__ = ("numbers", "sample")

import numpy as np
from astropy.table import Table, vstack
from lsst.images.psfs import PointSpreadFunction

from secondlight.psf.evaluation import stamp_shapes

from ..catalogs import PsfStamps, Truth, image_number
from ..expected import psf_stamps, true_psf_fluxes
from ..matching import Image
from ..numbers import Number, Sense, median, width, with_errors_between_images

RANDOM_POSITIONS = 100
"""Random positions per image."""

_QUANTITIES = (
    ("size", 1e2, "%"),
    ("e1", 1e3, "1e-3"),
    ("e2", 1e3, "1e-3"),
    ("flux", 1e3, "mmag"),
)


def sample(image: Image) -> Table:
    """Return relative size and ellipticity differences, and flux offsets, at every position."""
    measured, truth = image.measured, image.truth
    rng = np.random.default_rng([measured.visit, measured.detector])
    box = truth.bbox
    random = rng.uniform(
        [box.x.start - 0.5, box.y.start - 0.5], [box.x.stop - 0.5, box.y.stop - 0.5], (RANDOM_POSITIONS, 2)
    )
    places = {"random": random, "reserved": np.column_stack([measured.reserved_x, measured.reserved_y])}
    parts = [Table(names=_COLUMNS, dtype=_TYPES)]
    for model_name, model in (("final", measured.psf), ("first", measured.first_psf)):
        if model is None or truth.psf is None:
            continue
        for place, positions in places.items():
            part = _differences(model, truth, positions)
            for column, name in (("model", model_name), ("place", place)):
                part[column] = np.full(len(part), name, dtype="U8")
            part["image"] = np.full(len(part), image_number(measured))
            parts.append(part[_COLUMNS])
    return vstack(parts)


_COLUMNS = ["model", "place", "image", "size", "e1", "e2", "flux"]
_TYPES = ["U8", "U8", "i8", "f8", "f8", "f8", "f8"]


def _differences(model: PsfStamps | PointSpreadFunction, truth: Truth, positions: np.ndarray) -> Table:
    assert truth.psf is not None
    table = Table()
    if not len(positions):
        return Table({name: np.empty(0) for name, _, _ in _QUANTITIES})
    x, y = positions.T
    fitted, true = psf_stamps(model, x, y), psf_stamps(truth.psf, x, y)
    (t_model, *e_model), (t_true, *e_true) = (_ellipse(stamp_shapes(stamps)) for stamps in (fitted, true))
    table["size"] = t_model / t_true - 1
    for name, ours, theirs in zip(("e1", "e2"), e_model, e_true, strict=True):
        table[name] = ours - theirs
    with np.errstate(invalid="ignore", divide="ignore"):
        table["flux"] = -2.5 * np.log10(true_psf_fluxes(fitted, true))
    return table


def _ellipse(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    xx, yy, xy = moments.T
    return xx + yy, (xx - yy) / (xx + yy), 2 * xy / (xx + yy)


def numbers(table: Table) -> list[Number]:
    """Return medians and scatters for each model and kind of position."""
    result = []
    for model in ("first", "final"):
        for place in ("reserved", "random"):
            rows = (np.asarray(table["model"]) == model) & (np.asarray(table["place"]) == place)
            for name, factor, unit in _QUANTITIES:
                key = f"psf.{model}.{place}.{name}"
                sense = Sense.NONE if name == "flux" else Sense.TARGET
                result += with_errors_between_images(
                    lambda values, key=key, sense=sense, unit=unit: (  # type: ignore[misc]
                        median(f"{key}.bias", values, sense=sense, unit=unit)
                        + width(f"{key}.scatter", values, unit=unit)
                    ),
                    factor * np.asarray(table[name])[rows],
                    np.asarray(table["image"])[rows],
                )
    return result
