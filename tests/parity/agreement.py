"""How every published column of the packs agrees with the reference, and which differences are meant."""

from __future__ import annotations

__all__ = ("Agreement", "corrected_rows", "exemption", "group_of", "measure_agreement", "target_of")

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

from .columns import error_column, flag_column, is_model_column, within
from .replay import Replayed

# Columns of the reference's tables that repeat others, although its list of aliases does not tell.
_REPEATS = {
    "slot_ShapeRound": "ext_shapeHSM_HsmSourceMomentsRound",
    "slot_PsfShapeDebiased": "ext_shapeHSM_HsmPsfMomentsDebiased",
}

_KRON = "ext_photometryKron_KronFlux"

EXEMPT = {
    # Reasons are told in docs/differences; the patterns match whole column names, aliases resolved.
    r"base_SdssCentroid_[xy]Err": "source variance in excess of the sky",
    r"coord_(raErr|decErr|ra_dec_Cov)": "from the centroid errors",
    r"base_GaussianFlux_(instFluxErr|fluxErr|magErr)": "variance under the whole weight, noise of the shape",
    r"base_CircularApertureFlux_3_0_(instFlux|flux|mag)(Err)?": "shift of small coefficient images",
    r"base_(Normalized)?CompensatedTophatFlux(_12)?_(instFlux|flux|mag)(Err)?": "no response to a constant",
    r"base_CompensatedTophatFlux_12_mask_bits": "bits of this project's masks",
    r"base_LocalWcs_CDMatrix_(1_2|2_1)": "small rotations are not lost",
    r"base_SdssShape_psf_(xx|yy|xy)": "PSF at the centroid slot",
    r"base_FPPosition_[xy]": "the packs do not have the reference's camera",
    r"ext_shapeHSM_Hsm\w+_flag_(galsim|parent_source)": "specific flags are set",
    r"apcorr_slot_CalibFlux_used": "never set in the reference",
    r"ext_shapeHSM_HsmPsfMomentsDebiased_(x|y|xx|yy|xy)": "noise of another random generator",
    r"ext_photometryKron_KronFlux_(instFluxErr|fluxErr|magErr)": "the error of the radius",
    r"base_SdssShape_((xx|yy|xy|instFlux|flux|mag)Err|instFlux_(xx|yy|xy)_Cov)": "noise of every pixel",
    rf"{_KRON}_(instFlux|flux|mag)Err": "noise of the radius",
    r"ext_convolved_ConvolvedFlux_[1-3]_\w+_instFluxErr": "noise of a convolved image is correlated",
    r"ext_convolved_ConvolvedFlux_3_3_3_instFlux": "shift of small coefficient images",
    r"ext_gaap_GaapFlux_\w+_instFluxErr": "variance of every pixel, correlated by the kernel",
    r"modelfit_CModel_(initial|exp|dev)_time": "off by default, as runs would not repeat",
    r"modelfit_CModel_(initial|exp|dev)_nIter": "the fits take fewer steps",
    r"modelfit_CModel_(initial|exp|dev)_flag_trSmall": "the fits end where the gradient vanishes",
    r"modelfit_CModel_((exp|dev)_)?objective": "the fits end lower",
    r"modelfit_CModel_fracDev": "the two profiles of a star are the same",
    r"modelfit_CModel_flags_smallShape": "set whenever moments had to be raised",
    r".*_apCorr(Err)?": "NaN throughout in the reference, filled here",
    r"calib_psf_(candidate|used|reserved)": "stars are matched within 0.2 arcsec, not 11",
}


def _kron_stopped(reference: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return where the reference leaves the aperture at the window that the radius is measured in."""
    radius, window = (np.asarray(reference[f"{_KRON}_{name}"]) for name in ("radius", "radius_for_radius"))
    return np.isclose(radius, window, rtol=1e-4) | np.asarray(reference[f"{_KRON}_flag_edge"])


# Rows where a listed correction acts: they are left out of the comparison of these columns.
CORRECTED_ROWS: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = {
    rf"{_KRON}_(radius|(instFlux|flux|mag)(Err)?|flag|flag_edge|flag_used_psf_radius)": _kron_stopped,
    rf"{_KRON}_flag_small_radius": lambda t: _kron_stopped(t) | np.asarray(t[f"{_KRON}_flag_bad_radius"]),
    r"ext_shapeHSM_HsmShapeRegauss_flag": lambda t: np.asarray(t["ext_shapeHSM_HsmShapeRegauss_sigma"]) < 0,
}


def corrected_rows(column: str, reference: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the rows of a column (aliases resolved) that a listed correction acts on, bool (n)."""
    rows = next((rows for pattern, rows in CORRECTED_ROWS.items() if re.fullmatch(pattern, column)), None)
    return np.zeros(len(np.asarray(reference[column])), dtype=bool) if rows is None else rows(reference)


def exemption(column: str) -> str | None:
    """Return why a column (aliases resolved) may differ, or `None` if it may not."""
    return next((reason for pattern, reason in EXEMPT.items() if re.fullmatch(pattern, column)), None)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How one column of one pack compares.

    Parameters
    ----------
    column
        Published name.
    target
        Column that it repeats; the same name if it is no alias.
    rows, fraction
        Number of unblended sources that are not flagged and where no correction acts, and the fraction of
        them within tolerance; 0 if we do not have the column.
    blended_rows, blended
        The same of the blended ones.
    shift
        Mean difference of the blended ones in units of the error; NaN without an error column.
    ratio
        Median of ours over the reference's, of unblended sources that are not flagged; NaN for flags.
    left_out
        Number of sources where a listed correction acts; they do not count.
    missing, given
        Whether we lack the column, or copy it from the reference.
    """

    column: str
    target: str
    rows: int
    fraction: float
    blended_rows: int
    blended: float
    shift: float
    ratio: float
    left_out: int
    missing: bool
    given: bool

    @property
    def exempt(self) -> str | None:
        """Why the column may differ."""
        return exemption(self.target)

    @property
    def good(self) -> bool:
        """Whether 99 % of the unblended sources agree, and the blended ones do or have no mean difference.

        Of columns of models it is 95 %, by their own tolerance.
        """
        alone = self.rows == 0 or self.fraction >= (0.95 if is_model_column(self.target) else 0.99)
        return alone and (self.blended_rows == 0 or self.blended >= 0.99 or abs(self.shift) < 0.05)


def group_of(target: str) -> str:
    """Return the plugin or step that a column comes from."""
    if target.startswith("apcorr_") or re.search(r"_(flag_)?apCorr(Err)?$", target):
        return "aperture corrections"
    if re.search(r"_(flux|mag)(Err)?$", target) and not target.startswith(
        ("calib_", "modelfit_", "ext_gaap_")
    ):
        return "calibrated fluxes and magnitudes"
    patterns = (r"(?:ext_[A-Za-z]+|modelfit)_[A-Za-z0-9]+", r"base_[A-Za-z]+", r"calib_psf", r"[a-z]+(?=_)")
    match = next((m for p in patterns if (m := re.match(p, target))), None)
    group = match[0] if match else target
    return {"coord": "base_SkyCoord", "base_LocalPhotoCalibErr": "base_LocalPhotoCalib"}.get(group, group)


def measure_agreement(replayed: Replayed) -> list[Agreement]:
    """Compare every column of the reference."""
    ours, reference = dict(replayed.ours.items()), dict(replayed.reference.items())
    targets = replayed.aliases
    return [
        _compare(name, targets.get(name, target_of(name)), replayed, ours, reference) for name in reference
    ]


def target_of(name: str) -> str:
    """Return the column that an alias unknown to the reference's list repeats."""
    slot = "_".join(name.split("_")[:2])
    return _REPEATS.get(slot, slot) + name[len(slot) :]


def _compare(name: str, target: str, replayed: Replayed, ours: dict, reference: dict) -> Agreement:
    expected = np.asarray(reference[name])
    corrected = corrected_rows(target if target in reference else name, reference)
    usable = ~corrected
    flag = flag_column(target, reference.keys())
    if flag is not None and expected.dtype.kind == "f":
        usable &= ~np.asarray(reference[flag])
    alone, blended = usable & ~replayed.blended, usable & replayed.blended
    missing = name not in ours
    agree = np.zeros(len(expected), dtype=bool)
    shift = np.nan
    if not missing:
        agree = within(target if target in reference else name, np.asarray(ours[name]), reference)
        if (error := error_column(name, reference.keys())) is not None and blended.any():
            with np.errstate(invalid="ignore", divide="ignore"):
                difference = (np.asarray(ours[name]) - expected) / np.asarray(reference[error])
            known = difference[blended & np.isfinite(difference)]
            shift = float(known.mean()) if len(known) else np.nan
    return Agreement(
        column=name,
        target=target,
        rows=int(alone.sum()),
        fraction=float(agree[alone].mean()) if alone.any() else np.nan,
        blended_rows=int(blended.sum()),
        blended=float(agree[blended].mean()) if blended.any() else np.nan,
        shift=shift,
        ratio=np.nan if missing else _median_ratio(np.asarray(ours[name]), expected, alone),
        left_out=int(corrected.sum()),
        missing=missing,
        given=target in replayed.given,
    )


def _median_ratio(ours: np.ndarray, reference: np.ndarray, rows: np.ndarray) -> float:
    """Return the median of ours over the reference's in some rows; NaN for flags, integers and text."""
    if reference.dtype.kind != "f":
        return np.nan
    rows = rows & np.isfinite(ours) & np.isfinite(reference) & (reference != 0)
    return float(np.median(ours[rows] / reference[rows])) if rows.any() else np.nan
