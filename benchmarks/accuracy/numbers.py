"""Numbers of the benchmark: robust estimates with their standard errors, and what makes one better."""

from __future__ import annotations

__all__ = (
    "MIN_SAMPLE",
    "Bin",
    "Number",
    "Sense",
    "expected_width",
    "fraction",
    "intrinsic_scatter",
    "median",
    "median_of_images",
    "width",
    "with_errors_between_images",
)

import dataclasses
import enum
import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from scipy.optimize import brentq
from scipy.special import erf

from secondlight.photometry.measure_ap_corr import robust_sigma

MIN_SAMPLE = 5
"""Estimates from fewer values are left out."""

_MEDIAN_EFFICIENCY = 1.2533
"""Standard error of the median of a Gaussian over that of its mean: sqrt(pi / 2)."""

_MAD_TO_SIGMA = 1.4826
_RESAMPLES = 100

_MAD_EFFICIENCY = 1.1664
"""Standard error of a Gaussian's sigma from the median absolute deviation, in units of sigma / sqrt(n)."""


class Sense(enum.StrEnum):
    """What makes a number better."""

    SMALLER = "smaller"
    LARGER = "larger"
    TARGET = "target"
    NONE = "none"


@dataclasses.dataclass(frozen=True)
class Bin:
    """The range of a quantity that a number is for.

    Parameters
    ----------
    axis
        The quantity: ``mag``, ``snr``, ``size`` or ``crowding``.
    low, high
        Its range; not finite at an open end.
    """

    axis: str
    low: float
    high: float

    @property
    def label(self) -> str:
        """The range in a form fit for keys: ``mag_18_19``."""
        if not math.isfinite(self.low):
            label = f"{self.axis}_below_{self.high:g}"
        elif not math.isfinite(self.high):
            label = f"{self.axis}_above_{self.low:g}"
        else:
            label = f"{self.axis}_{self.low:g}_{self.high:g}"
        # Dots separate the parts of keys.
        return label.replace(".", "p")

    @property
    def title(self) -> str:
        """The range for people."""
        if not math.isfinite(self.low):
            return f"< {self.high:g}"
        if not math.isfinite(self.high):
            return f"> {self.low:g}"
        return f"{self.low:g} to {self.high:g}"

    def contains(self, values: np.ndarray) -> np.ndarray:
        """Return which values are in the range, its lower end included."""
        return np.asarray((values >= self.low) & (values < self.high))


@dataclasses.dataclass(frozen=True)
class Number:
    """One result.

    Parameters
    ----------
    key
        Stable name with dots, from the general to the special.
    value
        The result.
    n
        How many values it was made from.
    error
        Its standard error; `None` if unknown.
    sense
        What makes it better.
    target
        What it should be, where the sense is `Sense.TARGET`.
    unit
        Unit.
    bin
        The range that it is for; `None` if it is for everything.
    """

    key: str
    value: float
    n: int
    error: float | None
    sense: Sense
    target: float = 0.0
    unit: str = ""
    bin: Bin | None = None

    @property
    def badness(self) -> float:
        """A number that is smaller the better this one is; 0 where no value is better."""
        match self.sense:
            case Sense.SMALLER:
                return self.value
            case Sense.LARGER:
                return -self.value
            case Sense.TARGET:
                return abs(self.value - self.target)
            case Sense.NONE:
                return 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without what is at its default."""
        plain: dict[str, Any] = {
            "key": self.key,
            "value": _rounded(self.value),
            "error": None if self.error is None else _rounded(self.error),
            "n": self.n,
            "sense": str(self.sense),
        }
        if self.sense is Sense.TARGET:
            plain["target"] = self.target
        if self.unit:
            plain["unit"] = self.unit
        if self.bin:
            low, high = (x if math.isfinite(x) else None for x in (self.bin.low, self.bin.high))
            plain["bin"] = {"axis": self.bin.axis, "low": low, "high": high}
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """Return the number that `to_json` was called on."""
        interval = plain.get("bin")
        return cls(
            key=plain["key"],
            value=plain["value"],
            n=plain["n"],
            error=plain["error"],
            sense=Sense(plain["sense"]),
            target=plain.get("target", 0.0),
            unit=plain.get("unit", ""),
            bin=interval
            and Bin(
                interval["axis"],
                -math.inf if interval["low"] is None else interval["low"],
                math.inf if interval["high"] is None else interval["high"],
            ),
        )


def _rounded(value: float) -> float:
    """Return a value with six digits: the rest is noise, and differs between machines."""
    return float(f"{value:.6g}")


def median(
    key: str, values: np.ndarray, *, sense: Sense = Sense.TARGET, target: float = 0.0, unit: str = "",
    bin: Bin | None = None,
) -> list[Number]:  # fmt: skip
    """Return the median of values that are finite, or nothing if they are too few."""
    values = values[np.isfinite(values)]
    if len(values) < MIN_SAMPLE:
        return []
    error = _MEDIAN_EFFICIENCY * robust_sigma(values) / math.sqrt(len(values))
    return [Number(key, float(np.median(values)), len(values), error, sense, target, unit, bin)]


def median_of_images(key: str, values: np.ndarray, *, sense: Sense, unit: str) -> list[Number]:
    """Return the median of values of images; of few, too, but then without an error."""
    values = values[np.isfinite(values)]
    if 0 < len(values) < MIN_SAMPLE:
        return [Number(key, float(np.median(values)), len(values), None, sense, unit=unit)]
    return median(key, values, sense=sense, unit=unit)


def width(
    key: str, values: np.ndarray, *, sense: Sense = Sense.SMALLER, target: float = 0.0, unit: str = "",
    bin: Bin | None = None,
) -> list[Number]:  # fmt: skip
    """Return 1.4826 times the median absolute deviation of values that are finite, if they are enough."""
    values = values[np.isfinite(values)]
    if len(values) < MIN_SAMPLE:
        return []
    sigma = robust_sigma(values)
    return [
        Number(
            key,
            sigma,
            len(values),
            _MAD_EFFICIENCY * sigma / math.sqrt(len(values)),
            sense,
            target,
            unit,
            bin,
        )
    ]


def fraction(
    key: str, which: np.ndarray, *, sense: Sense, target: float = 0.0, bin: Bin | None = None
) -> list[Number]:
    """Return the fraction that is true, if there are enough.

    The error is that of a binomial with one more success and one more failure, so it is never zero.
    """
    n = len(which)
    if n < MIN_SAMPLE:
        return []
    successes = int(np.count_nonzero(which))
    p = (successes + 1) / (n + 2)
    return [Number(key, successes / n, n, math.sqrt(p * (1 - p) / n), sense, target, "", bin)]


def expected_width(sigmas: np.ndarray) -> float:
    """Return the robust width of one Gaussian deviate of each standard deviation; NaN without any."""
    sigmas = sigmas[np.isfinite(sigmas) & (sigmas > 0)]
    if not len(sigmas):
        return math.nan

    def surplus(w: float) -> float:
        return float(np.mean(erf(w / (_MAD_TO_SIGMA * math.sqrt(2) * sigmas)))) - 0.5

    return float(brentq(surplus, 0.5 * sigmas.min(), 2.0 * sigmas.max()))


def intrinsic_scatter(
    key: str, values: np.ndarray, variances: np.ndarray, shares: np.ndarray, *, unit: str = ""
) -> list[Number]:
    """Return the scatter s of values beyond their errors, 0 if they scatter less than these say.

    With it the robust width of ``values / sqrt(variances + shares s^2)`` is 1.

    Parameters
    ----------
    key, unit
        Of the number.
    values
        Deviations from zero (n).
    variances
        Variance of each by its errors (n).
    shares
        How much of the variance ``s^2`` is in each (n).
    """
    good = np.isfinite(values) & np.isfinite(variances) & (variances > 0) & (shares > 0)
    values, variances, shares = values[good], variances[good], shares[good]
    if len(values) < MIN_SAMPLE:
        return []

    def solve(target: float) -> float:
        def surplus(s: float) -> float:
            return robust_sigma(values / np.sqrt(variances + shares * s**2)) - target

        if surplus(0.0) <= 0:
            return 0.0
        return float(brentq(surplus, 0.0, 10.0 * robust_sigma(values / np.sqrt(shares)) / target))

    half = _MAD_EFFICIENCY / math.sqrt(len(values))
    low, middle, high = (solve(target) for target in (1.0 + half, 1.0, max(1.0 - half, 0.1)))
    error = 0.5 * (high - low) if low > 0 else high - middle
    return [Number(key, middle, len(values), error or None, Sense.SMALLER, unit=unit)]


def with_errors_between_images(
    numbers: Callable[[np.ndarray], list[Number]], values: np.ndarray, images: np.ndarray
) -> list[Number]:
    """Return numbers of values, with errors from resampling whole images; without, of fewer than five images.

    For what is smooth over an image: there values at many places are no independent ones.

    Parameters
    ----------
    numbers
        Makes the numbers from values.
    values
        Values (n).
    images
        The image of each (n), any integers.
    """
    result = numbers(values)
    which = [np.flatnonzero(images == image) for image in np.unique(images)]
    if len(which) < MIN_SAMPLE:
        return [dataclasses.replace(number, error=None) for number in result]
    rng = np.random.default_rng(len(which))
    again = [
        [number.value for number in numbers(values[np.concatenate([which[k] for k in chosen])])]
        for chosen in rng.integers(len(which), size=(_RESAMPLES, len(which)))
    ]
    errors = np.std([a for a in again if len(a) == len(result)], axis=0)
    return [
        dataclasses.replace(number, error=float(error)) for number, error in zip(result, errors, strict=True)
    ]
