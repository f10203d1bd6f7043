"""What the chain made of a simulated survey, and the truth, from the repository that holds both."""

from __future__ import annotations

__all__ = ("ImageId", "Survey")

import dataclasses
import math
from functools import cached_property
from typing import Any

import astropy.table
import astropy.units as u
import numpy as np
from lsst.daf.butler import Butler
from lsst.images import Mask, VisitImage

from secondlight.background.fields import render_background
from secondlight.catalog.mask_planes import mask_of
from secondlight.repair.snap_combine import SnapCombineTask
from secondlight.simulate.geometry import true_geometry
from secondlight.simulate.objects import shape_matrices
from secondlight.simulate.psf import SimulatedPsf
from secondlight.simulate.render import Light
from secondlight.simulate.scene import Scene

from .catalogs import Flux, Measured, Truth

PSF_FLUX = "base_PsfFlux"
CALIBRATION_FLUX = "base_NormalizedCompensatedTophatFlux"
CALIBRATION_RADIUS = 12.0
"""The flux that zero points are fitted with, and the aperture it is normalized to, pixels."""

TOTAL_FLUXES = (PSF_FLUX, "base_GaussianFlux", CALIBRATION_FLUX, "ext_photometryKron_KronFlux")
APERTURE_PREFIX = "base_CircularApertureFlux_"

STATISTICS = ("psfSigma", "psfArea", "skyBg", "skyNoise", "zeroPoint", "magLim")
"""Published summary statistics that there is a truth for."""

_UNSOUND = ("edge", "nodata", "interpolatedCenter", "saturatedCenter", "badCenter")
"""Pixel flags of sources that are not `Measured.good`."""

_CLASSIFICATIONS = {"size_extendedness": "base_ClassificationSizeExtendedness_value"}


@dataclasses.dataclass(frozen=True, order=True)
class ImageId:
    """Which image.

    Parameters
    ----------
    visit, detector
        Ids.
    """

    visit: int
    detector: int


@dataclasses.dataclass(frozen=True)
class Survey:
    """A simulated survey in a repository, after the chain.

    Parameters
    ----------
    butler
        The repository, with the collections to look into as its default.
    instrument
        Name of the simulated camera.
    """

    butler: Butler
    instrument: str

    @cached_property
    def scene(self) -> Scene:
        """The description of the survey."""
        scene: Scene = self._get("sim_scene")
        return scene

    @cached_property
    def objects(self) -> astropy.table.Table:
        """All objects of the survey."""
        return self._get("sim_objects")

    def images(self) -> list[ImageId]:
        """Return the images that have a published source table, in order."""
        refs = self.butler.query_datasets("sources_detector", explain=False)
        return sorted(ImageId(int(r.dataId["visit"]), int(r.dataId["detector"])) for r in refs)

    def _get(self, name: str, **data_id: Any) -> Any:
        return self.butler.get(name, instrument=self.instrument, **data_id)

    def _get_for(self, name: str, image: ImageId) -> Any:
        return self._get(name, visit=image.visit, detector=image.detector)

    def _snaps(self, name: str, image: ImageId) -> list[Any]:
        return [
            self._get(name, exposure=image.visit + snap, detector=image.detector)
            for snap in range(self.scene.snaps)
        ]

    def post_isr_image(self, image: ImageId) -> VisitImage:
        """Return the image as it came from the telescope, snaps combined."""
        return SnapCombineTask().run(self._snaps("postISRCCD", image))

    def truth(self, image: ImageId) -> Truth:
        """Return what is really on an image."""
        table = self._get_for("sim_truth", image)
        psf = self._get_for("sim_psf", image)
        masks: list[Mask] = self._snaps("sim_artifacts", image)
        artifacts = masks[0].copy()
        for mask in masks[1:]:
            artifacts.array[...] |= mask.array
        visit = self.scene.visit(image.visit)
        return Truth(
            visit=image.visit,
            detector=image.detector,
            band=visit.band,
            table=table,
            bbox=artifacts.bbox,
            zero_point=self.scene.zero_point(visit),
            noise=self.scene.sky_noise(visit) / self.scene.electronics.gain,
            psf=psf,
            background=render_background(self._get_for("sim_background", image), artifacts.bbox),
            artifacts=artifacts,
            light=self._light(image, table, psf),
            gain=self.scene.electronics.gain,
        )

    def _light(self, image: ImageId, truth: astropy.table.Table, psf: SimulatedPsf) -> Light:
        """Return the light of the objects of a truth table with unit flux."""
        order = np.argsort(self.objects["object_id"])
        rows = order[np.searchsorted(self.objects["object_id"], truth["object_id"], sorter=order)]
        x, y = np.asarray(truth["x"]), np.asarray(truth["y"])
        geometry = true_geometry(self.scene, self.scene.visit(image.visit), image.detector)
        to_pixels = geometry.jacobian(x=x, y=y)
        bulge, disk = (to_pixels @ matrix for matrix in shape_matrices(self.objects[rows]))
        return Light(
            x=x,
            y=y,
            flux=np.ones(len(x)),
            psf=psf.parameters(x=x, y=y, color=np.asarray(truth["g_i"])),
            bulge_fraction=np.asarray(truth["bulge_fraction"]),
            bulge_matrix=bulge,
            disk_matrix=disk,
            bulge_index=self.scene.galaxies.bulge_index,
            truncation=self.scene.galaxies.truncation,
            profile=psf.profile,
            beta=psf.beta,
        )

    def measured(self, image: ImageId) -> Measured:
        """Return what the chain measured on an image."""
        table = self._get_for("sources_detector", image)
        first = self._get("visitSummary", visit=image.visit).find(image.detector)
        final = self._get("finalVisitSummary", visit=image.visit).find(image.detector)
        mask = self._get_for("pvi.mask", image)
        statistics = self._get_for("pvi.summary_stats", image)
        reserved = self._reserved_stars(image)
        names = _flux_names(table)
        sky = _column(table, "sky_source", bool)
        unsound = np.any([_column(table, f"base_PixelFlags_flag_{flag}", bool) for flag in _UNSOUND], axis=0)
        return Measured(
            system="secondlight",
            visit=image.visit,
            detector=image.detector,
            band=self.scene.visit(image.visit).band,
            x=_column(table, "slot_Centroid_x"),
            y=_column(table, "slot_Centroid_y"),
            x_err=_column(table, "slot_Centroid_xErr"),
            y_err=_column(table, "slot_Centroid_yErr"),
            ra=_degrees(table, "coord_ra"),
            dec=_degrees(table, "coord_dec"),
            fluxes={name: _flux(table, name) for name in names},
            flux_flags={name: _column(table, f"{name}_flag", bool) for name in names},
            extendedness=_column(table, "base_ClassificationExtendedness_value"),
            primary=_column(table, "detect_isPrimary", bool) & ~sky,
            good=~unsound & ~_column(table, "slot_Centroid_flag", bool),
            aperture_radii={name: _radius(name) for name in names if name.startswith(APERTURE_PREFIX)},
            sky_fluxes={name: _flux(table[sky], name) for name in names},
            psf=final.psf,
            background=render_background(self._get_for("pvi_background", image), mask.bbox),
            cosmic_rays=mask_of(mask, ["CR"]),
            first_psf=first.psf,
            reserved_x=_column(reserved, "slot_Centroid_x"),
            reserved_y=_column(reserved, "slot_Centroid_y"),
            classifications={
                name: _column(table, column)
                for name, column in _CLASSIFICATIONS.items()
                if column in table.colnames
            },
            corrections={
                name: _column(table, f"{name}_apCorr") for name in names if f"{name}_apCorr" in table.colnames
            },
            psf_flux=PSF_FLUX,
            calibration_flux=CALIBRATION_FLUX if CALIBRATION_FLUX in names else PSF_FLUX,
            calibration_radius=CALIBRATION_RADIUS,
            zero_point=final.photo_calib.zero_point,
            ra_err=_degrees(table, "coord_raErr"),
            dec_err=_degrees(table, "coord_decErr"),
            psf_used=_column(table, "calib_psf_used", bool),
            psf_reserved=_column(table, "calib_psf_reserved", bool),
            statistics={name: float(getattr(statistics, name)) for name in STATISTICS},
        )

    def _reserved_stars(self, image: ImageId) -> astropy.table.Table:
        stars = self._get("finalized_src_table", visit=image.visit)
        return stars[
            _column(stars, "calib_psf_reserved", bool) & (_column(stars, "detector") == image.detector)
        ]


def _column(table: astropy.table.Table, name: str, dtype: type = np.float64) -> np.ndarray:
    """Return a column without unit or mask."""
    column = table[name]
    if np.ma.isMaskedArray(column):
        column = column.filled(True if dtype is bool else math.nan)
    return np.asarray(column, dtype=dtype)


def _degrees(table: astropy.table.Table, name: str) -> np.ndarray:
    return _column(table, name) * float(u.Unit(table[name].unit or u.rad).to(u.deg))


def _flux(table: astropy.table.Table, name: str) -> Flux:
    return _column(table, f"{name}_flux"), _column(table, f"{name}_fluxErr")


def _flux_names(table: astropy.table.Table) -> list[str]:
    """Return the fluxes that something can be expected of: total ones and circular apertures."""
    names = [name.removesuffix("_flux") for name in table.colnames if name.endswith("_flux")]
    return [name for name in names if name in TOTAL_FLUXES or name.startswith(APERTURE_PREFIX)]


def _radius(name: str) -> float:
    return float(name.removeprefix(APERTURE_PREFIX).replace("_", "."))
