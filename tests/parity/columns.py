"""Comparing two source tables column by column, each kind of column with its own tolerance."""

from __future__ import annotations

__all__ = (
    "error_column",
    "flag_column",
    "is_model_column",
    "tolerance",
    "within",
)

import re
from collections.abc import Collection, Mapping

import numpy as np

_RELATIVE = 1e-3
_OF_THE_ERROR = 0.02
# Of fits that are not repeatable in the reference, and of what is measured on images that a fit made.
_MODEL = re.compile(r"(apcorr_)?(modelfit|ext_gaap|ext_convolved)_.*")
_MODEL_RELATIVE = 0.01
_MODEL_OF_THE_ERROR = 0.1
_POSITION = 1e-3  # pixels
_PIXEL = np.deg2rad(0.2 / 3600)
_MAG = 2.5 / np.log(10)


def error_column(name: str, columns: Collection[str]) -> str | None:
    """Return the error column that belongs to a value column, if there is one."""
    return f"{name}Err" if f"{name}Err" in columns else None


def flag_column(name: str, columns: Collection[str]) -> str | None:
    """Return the general flag of what a column belongs to: the longest prefix that has one."""
    parts = name.split("_")
    for n in range(len(parts) - 1, 0, -1):
        flag = "_".join(parts[:n]) + "_flag"
        if flag in columns and flag != name:
            return flag
    return None


def is_model_column(name: str) -> bool:
    """Return whether a column is of shapelets, composite models, GAaP or convolved fluxes."""
    return _MODEL.fullmatch(name) is not None


def _model_floor(name: str, reference: Mapping[str, np.ndarray]) -> np.ndarray | float:
    """Return the tolerance of parameters of a model: what changes its image by 1 % in size or amplitude."""

    def size(prefix: str) -> np.ndarray:
        return sum(np.asarray(reference[f"{prefix}_{c}"], dtype=float) for c in ("xx", "yy"))  # type: ignore[return-value]

    if name.endswith(("_x", "_y")):
        return _POSITION
    if match := re.fullmatch(r"(modelfit_CModel(?:_initial|_exp|_dev)?)_ellipse_(xx|yy|xy)", name):
        return 0.5 * _MODEL_RELATIVE * (size(f"{match[1]}_ellipse") + size("slot_PsfShape"))
    if match := re.fullmatch(r"(modelfit_CModel_\w+)_nonlinear_([012])", name):
        model = size(f"{match[1]}_ellipse")
        blurred = _MODEL_RELATIVE * (model + size("slot_PsfShape")) / model
        return 0.5 * blurred if match[2] == "2" else blurred  # ln of the radius, ellipticity
    if re.search(r"_fixed_[01]$", name):
        return 0.2 * _POSITION  # arcsec
    if match := re.fullmatch(r"(modelfit_\w+ShapeletPsfApprox_[01])_\d+", name):
        return _RELATIVE * np.abs(np.asarray(reference[f"{match[1]}_0"], dtype=float))
    if match := re.fullmatch(r"(.*)_(xx|yy|xy)", name):
        return 0.5 * _MODEL_RELATIVE * size(match[1])
    return 0.0


def _floor(name: str, reference: Mapping[str, np.ndarray]) -> np.ndarray | float:
    """Return the tolerance of a column where a relative one makes no sense."""
    if name.endswith(("_x", "_y")):
        return _POSITION
    if name in ("coord_ra", "coord_dec"):
        return _POSITION * _PIXEL
    if "CDMatrix" in name:
        return 1e-5 * _PIXEL
    if name.endswith("_mag"):
        return _RELATIVE * _MAG
    if match := re.fullmatch(r"(.*)_(xx|yy|xy)", name):
        size = sum(np.abs(np.asarray(reference[f"{match[1]}_{c}"], dtype=float)) for c in ("xx", "yy"))
        return 0.5 * _RELATIVE * size
    if name.endswith(("_e1", "_e2", "_resolution", "Extendedness_value", "_raw", "_abs", "_old")):
        return 1e-3
    if re.search(r"HigherOrderMoments\w+_\d\d$", name):
        return 1e-3
    return 0.0


def tolerance(name: str, reference: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return how far each row of a column of numbers may be off; NaN where the reference is."""
    part, of_the_error, floor = _RELATIVE, _OF_THE_ERROR, _floor
    if is_model_column(name):
        part, of_the_error, floor = _MODEL_RELATIVE, _MODEL_OF_THE_ERROR, _model_floor
    expected = _expected(name, reference)
    with np.errstate(invalid="ignore"):
        relative = 0.0 if name.endswith(("_x", "_y", "_mag")) else part * np.abs(expected)
        result = np.fmax(relative, floor(name, reference))
        if (error := error_column(name, reference.keys())) is not None and not name.endswith(("_x", "_y")):
            result = np.fmax(result, of_the_error * np.asarray(reference[error], dtype=float))
        if name.endswith("_magErr"):  # it changes with the flux, which may differ by 0.02 of its error
            result = result + _OF_THE_ERROR / _MAG * expected**2
        return np.asarray(result + 1e-12)


def _expected(name: str, reference: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a column of the reference; errors of magnitudes are negative there where the flux is."""
    expected = np.asarray(reference[name])
    return np.where(expected > 0, expected, np.nan) if name.endswith("_magErr") else expected


def within(name: str, ours: np.ndarray, reference: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which rows of a column agree.

    Flags, integers and text have to be equal; positions agree to 1e-3 pixels, everything else to 1e-3, and
    values that have an error also where they differ by less than 0.02 of it. Columns of models have to agree
    to 1 % or 0.1 of the error.
    """
    expected = _expected(name, reference)
    if expected.dtype.kind in "biuUS":
        return np.asarray(ours == expected)
    with np.errstate(invalid="ignore"):
        close = np.abs(ours - expected) <= tolerance(name, reference)
    return np.asarray(close | (np.isnan(ours) & np.isnan(expected)))
