"""Detectors with their place in the focal plane, for cameras described by a handful of numbers."""

from __future__ import annotations

__all__ = ("make_detector",)

import math

import lsst.images._transforms._ast as ast
from lsst.images import Box
from lsst.images.cameras import CameraFrameSet, Detector, DetectorAttributes, DetectorType, Orientation


def make_detector(
    *,
    instrument: str,
    detector: int,
    name: str,
    bbox: Box,
    pixel_size: float,
    plate_scale: float,
    center: tuple[float, float] = (0.0, 0.0),
    visit: int | None = None,
    serial: str = "",
    physical_type: str = "CCD",
) -> Detector:
    """Return a detector of an ideal camera: square pixels, no rotation, linear field angles.

    Parameters
    ----------
    instrument
        Name of the instrument.
    detector, name
        Id and name of the detector.
    bbox
        Pixels of the detector.
    pixel_size
        Side of a pixel, mm.
    plate_scale
        Arcseconds on the sky per mm in the focal plane.
    center
        Focal-plane position (x, y) of the detector's centre, mm.
    visit
        Visit the geometry belongs to.
    serial, physical_type
        Labels of the device.
    """
    x_center = 0.5 * (bbox.x.min + bbox.x.max)
    y_center = 0.5 * (bbox.y.min + bbox.y.max)
    focal_plane = ast.Frame(2, "Ident=FOCAL_PLANE, Unit(1)=mm, Unit(2)=mm")
    field_angle = ast.Frame(2, "Ident=FIELD_ANGLE, Unit(1)=rad, Unit(2)=rad")
    pixels = ast.Frame(
        2,
        f"Ident=DETECTOR_{detector}, Unit(1)=pix, Unit(2)=pix, "
        f"Bottom(1)={bbox.x.start}, Top(1)={bbox.x.stop}, Bottom(2)={bbox.y.start}, Top(2)={bbox.y.stop}",
    )
    frames = ast.FrameSet(focal_plane)
    frames.addFrame(1, ast.ZoomMap(2, math.radians(plate_scale / 3600.0)), field_angle)
    to_pixels: ast.Mapping = ast.ShiftMap([-center[0], -center[1]])
    to_pixels = ast.CmpMap(to_pixels, ast.ZoomMap(2, 1.0 / pixel_size), True)
    to_pixels = ast.CmpMap(to_pixels, ast.ShiftMap([x_center, y_center]), True)
    frames.addFrame(1, to_pixels, pixels)
    attributes = DetectorAttributes(
        name=name,
        id=detector,
        type=DetectorType.SCIENCE,
        serial=serial or name,
        bbox=bbox,
        orientation=Orientation(
            focal_plane_x=center[0],
            focal_plane_y=center[1],
            focal_plane_z=0.0,
            pixel_reference_x=x_center,
            pixel_reference_y=y_center,
        ),
        pixel_size=pixel_size,
        physical_type=physical_type,
    )
    return Detector(attributes, [], CameraFrameSet(instrument, frames), visit=visit)
