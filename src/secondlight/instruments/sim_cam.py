"""The camera of simulated surveys."""

from __future__ import annotations

__all__ = ("SimCam",)

from .base import BY_GROUP, CameraInstrument


class SimCam(CameraInstrument):
    """A camera that never was: its detectors and filters are those of the scene in the repository.

    A visit has one or two exposures (snaps): the visit's own id, and the next one.
    """

    name = "SimCam"
    visit_max = 1 << 31
    detector_max = 1 << 8
    visit_system = BY_GROUP
