"""What the simulated camera, its detectors and its filters are called."""

from __future__ import annotations

__all__ = ("INSTRUMENT", "detector_name", "filter_name")

INSTRUMENT = "SimCam"
"""Name of the simulated camera."""


def detector_name(detector: int) -> str:
    """Return the name of a detector."""
    return f"detector{detector}"


def filter_name(band: str) -> str:
    """Return the name of the physical filter of a band."""
    return f"sim_{band}"
