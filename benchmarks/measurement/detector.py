"""A simulated detector ready for the final pass: image, PSF by Piff, true background and calibration."""

from __future__ import annotations

__all__ = ("Detector",)

import dataclasses
from typing import Any

import astropy.table
import numpy as np
from lsst.images import BackgroundMap, VisitImage
from lsst.images.psfs import PiffWrapper

from secondlight.background.fields import render_background
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components
from secondlight.psf.candidates import MakePsfCandidatesTask
from secondlight.psf.piff_determiner import PiffPsfDeterminerTask
from secondlight.simulate.detector import simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.scene import load_scene

_STARS = 80
_STAR_SNR = 100.0


@dataclasses.dataclass(frozen=True)
class Detector:
    """Inputs of the final pass.

    Parameters
    ----------
    image
        Image with its background, counts; it has the fitted PSF.
    background
        The true background.
    photo_calib
        The true photometric calibration.
    truth
        What is on the detector.
    """

    image: VisitImage
    background: BackgroundMap
    photo_calib: PhotoCalib
    truth: astropy.table.Table

    @classmethod
    def simulate(cls, name: str) -> Detector:
        """Simulate the first detector of the first visit of a scene and fit a PSF of second order to it."""
        scene = load_scene(name)
        visit = scene.visits[0].id
        simulated = simulate_detector(scene, make_objects(scene), visit=visit, detector=0)
        (image,) = simulated.images
        zero_point = float(simulated.truth.meta["zero_point"])
        calib = PhotoCalib.from_zero_point(zero_point)
        image = replace_components(image, psf=_fit_psf(image, simulated.background, simulated.truth))
        return cls(image, simulated.background, calib, simulated.truth)

    def inputs(self) -> dict[str, Any]:
        """Return the arguments of `ReprocessVisitImageTask.run`, with an image of their own."""
        columns = ("calib_psf_candidate", "calib_psf_used", "calib_psf_reserved")
        return {
            "exposures": [self.image.copy()],
            "psf": self.image.psf,
            "background": self.background,
            "ap_corr": {},
            "photo_calib": self.photo_calib,
            "wcs": self.image.sky_projection,
            "calib_sources": astropy.table.Table(
                {"detector": np.zeros(0, dtype=np.int32), "coord_ra": np.zeros(0), "coord_dec": np.zeros(0)}
                | {name: np.zeros(0, dtype=bool) for name in columns}
            ),
        }


def _fit_psf(image: VisitImage, background: BackgroundMap, truth: astropy.table.Table) -> PiffWrapper:
    """Fit the default model to the brightest clean stars, at their true positions."""
    image = image.copy()
    image.image.array[...] -= render_background(background, image.bbox)
    clean = truth["is_star"] & ~truth["saturated"] & (truth["snr"] > _STAR_SNR)
    clean &= np.abs(truth["contamination"]) < 1e-3
    stars = truth[clean]
    stars = stars[np.argsort(stars["snr"])[::-1][:_STARS]]
    schema = minimal_source_schema()
    for axis in "xy":
        schema.add(f"true_{axis}", np.float64, "true position", unit="pix")
    schema.set_alias("slot_Centroid", "true")
    catalog = SourceCatalog(schema, len(stars))
    catalog["id"] = np.arange(1, len(stars) + 1)
    catalog["true_x"], catalog["true_y"] = stars["x"], stars["y"]
    candidates = MakePsfCandidatesTask().run(catalog, image).candidates
    return PiffPsfDeterminerTask().determine_psf(image, candidates).psf
