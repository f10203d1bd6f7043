"""What the compiled HSM fits share: codes of their ends, convergence and limits of a step.

The fits follow the ``hsm`` module of GalSim (BSD licence; C. Hirata, R. Mandelbaum, U. Seljak and the GalSim
developers), which implements Hirata & Seljak (2003, MNRAS 343, 459), step for step: start, limits of each
step, pixels inside the weight, convergence and failures are the same, so that the results agree to rounding.
"""

from __future__ import annotations

__all__ = (
    "COLLAPSED",
    "EMPTY",
    "INVALID",
    "MAX_CHANGE",
    "MAX_STEPS",
    "NOT_FINITE",
    "NOT_POSITIVE",
    "OK",
    "OUTSIDE",
    "RESULT_SIZE",
    "RUNAWAY",
    "THRESHOLD",
    "TOO_MANY_STEPS",
    "limited",
)

from numba import njit

OK = 0
EMPTY = 1
"""No pixel has weight, or those that have are all zero."""
NOT_POSITIVE = 2
"""The moments of the weight are not positive definite."""
OUTSIDE = 3
"""The weight does not reach the image."""
RUNAWAY = 4
"""A moment or the shift of the centre became too large."""
COLLAPSED = 5
"""The weight shrank to a point."""
TOO_MANY_STEPS = 6
NOT_FINITE = 7
INVALID = 8
"""The distortion, with a round weight, is not below 1."""

RESULT_SIZE = 8
"""Numbers that `find_moments` fills."""

THRESHOLD = 1e-6
"""Change of the weight, in units of its size, below which a fit has converged."""
MAX_STEPS = 400
MAX_CHANGE = 0.25
"""Most that a moment of the weight changes in a step, in units of the minor one; a centre, of its root."""


@njit(cache=True, nogil=True, error_model="numpy")
def limited(change: float) -> float:
    """Return a change of the weight held inside its limits; NaN stays NaN."""
    if change > MAX_CHANGE:
        return MAX_CHANGE
    if change < -MAX_CHANGE:
        return -MAX_CHANGE
    return change
