"""Inputs of the finalize-characterization tasks, small and deterministic."""

from __future__ import annotations

import dataclasses
from typing import Any

import astropy.table
import numpy as np
import pytest
from lsst.images import VisitImage
from lsst.images.fields import ChebyshevField

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.mask_planes import plane_name
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.tasks.finalize_characterization import (
    FinalizeCharacterizationDetectorConfig,
    FinalizeCharacterizationDetectorTask,
)
from secondlight.tasks.finalize_characterization_visit import (
    FinalizeCharacterizationConfig,
    FinalizeCharacterizationTask,
)

from ..scenes import make_visit_image

VISIT = 4321
BAND = "r"
N = 16
FLUX = 2e4
CALIB_RATIO = 1.05
TRACTS = (100, 101)
X0, Y0 = 200, 100


@dataclasses.dataclass
class Inputs:
    """One detector: image and first-pass sources."""

    exposure: VisitImage
    src: SourceCatalog


def make_inputs(detector: int = 4) -> Inputs:
    """Return 16 stars on a grid, with ids 1000 * detector + 1, 2, ..."""
    rng = np.random.default_rng(detector)
    cells = np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1).reshape(-1, 2)
    x, y = (cells * 40 + 24 + rng.uniform(-0.5, 0.5, cells.shape)).T + np.array([[X0], [Y0]])
    exposure = make_visit_image(
        width=168, height=168, x0=X0, y0=Y0, x=x, y=y, flux=np.full(N, FLUX), sigma=1.5, visit=VISIT,
        detector=detector, seed=detector,
    )  # fmt: skip
    circles = Footprints.from_circles(np.floor(x + 0.5), np.floor(y + 0.5), 8)
    one = np.ones(N)
    peaks = Peaks(np.floor(x + 0.5), np.floor(y + 0.5), one * FLUX, one * 100, np.arange(N))
    footprints = circles.with_peaks(np.arange(N + 1), peaks)
    exposure.mask.set(plane_name("DETECTED"), footprints.to_mask(exposure.bbox.shape, x0=X0, y0=Y0))
    exposure.aperture_corrections["old_flux_instFlux"] = ChebyshevField(exposure.bbox, np.array([[1.5]]))
    exposure.aperture_corrections["base_PsfFlux_instFlux"] = ChebyshevField(exposure.bbox, np.array([[9.0]]))
    return Inputs(exposure, make_source_catalog(detector, exposure, x, y, footprints))


def make_source_catalog(
    detector: int, exposure: VisitImage, x: np.ndarray, y: np.ndarray, footprints: Footprints
) -> SourceCatalog:
    schema = minimal_source_schema()
    for axis in ("x", "y", "xErr", "yErr"):
        schema.add(f"base_SdssCentroid_{axis}", float, axis, unit="pix")
    schema.add_flag("base_SdssCentroid_flag", "failure")
    for name in ("base_GaussianFlux", "base_CircularApertureFlux_12_0", "calib"):
        schema.add(f"{name}_instFlux", float, "flux", unit="ct")
        schema.add(f"{name}_instFluxErr", float, "error", unit="ct")
        schema.add_flag(f"{name}_flag", "failure")
    for name in (
        "edge", "nodata", "interpolatedCenter", "saturatedCenter", "crCenter", "bad", "interpolated",
        "saturated",
    ):  # fmt: skip
        schema.add_flag(f"base_PixelFlags_flag_{name}", name)
    schema.add("visit", np.int64, "visit")
    schema.add("unrelated", float, "not published")
    schema.aliases = {
        "slot_Centroid": "base_SdssCentroid",
        "slot_ApFlux": "base_CircularApertureFlux_12_0",
        "slot_CalibFlux": "calib",
    }
    catalog = SourceCatalog(schema, N, footprints=footprints)
    catalog["id"] = 1000 * detector + 1 + np.arange(N)
    sky = exposure.sky_projection.pixel_to_sky(x=x, y=y)
    catalog["coord_ra"], catalog["coord_dec"] = sky.ra.rad, sky.dec.rad
    catalog["slot_Centroid_x"], catalog["slot_Centroid_y"] = x, y
    catalog["slot_Centroid_xErr"] = catalog["slot_Centroid_yErr"] = 0.01
    for name, flux in (
        ("base_GaussianFlux", FLUX),
        ("slot_ApFlux", FLUX),
        ("slot_CalibFlux", FLUX * CALIB_RATIO),
    ):
        catalog[f"{name}_instFlux"] = flux
        catalog[f"{name}_instFluxErr"] = flux / 300
    return catalog


def make_isolated(
    detectors: tuple[int, ...] = (4,),
) -> tuple[dict[int, astropy.table.Table], dict[int, astropy.table.Table]]:
    """Return stars and sources by tract.

    Each detector's stars alternate between the tracts; every tract starts with a star not seen in the band.
    Each star has a source in another visit before the one in ours.
    """
    stars: dict[int, astropy.table.Table] = {}
    sources: dict[int, astropy.table.Table] = {}
    for k, tract in enumerate(TRACTS):
        ids = np.concatenate([1000 * d + 1 + np.arange(k, N, 2) for d in detectors])
        n = len(ids) + 1
        stars[tract] = astropy.table.Table(
            {
                "isolated_star_id": np.arange(n) + 1000 * tract,
                "nsource_r": np.where(np.arange(n) == 0, 0, 2).astype(np.int32),
                "source_cat_index_r": np.arange(n, dtype=np.int32) * 2 - 1,
            }
        )
        index = np.arange(1, n, dtype=np.int32)
        sources[tract] = astropy.table.Table(
            {
                "sourceId": np.concatenate([[5], np.stack([ids + 10**6, ids], axis=1).ravel()]),
                "obj_index": np.concatenate([[0], np.repeat(index, 2)]).astype(np.int32),
                "visit": np.concatenate([[VISIT], np.tile([VISIT - 1, VISIT], n - 1)]),
                "detector": np.concatenate([[detectors[0]], np.repeat(ids // 1000, 2)]).astype(np.int32),
                "extra": np.zeros(2 * n - 1),
            }
        )
    return stars, sources


def configure(config: Any, **settings: Any) -> Any:
    piff = config.psf_determiner["piff"]
    piff.update(stampSize=15, modelSize=15, spatialOrder=0, interpolant="Lanczos(5)")
    config.make_psf_candidates.kernelSize = 17
    config.update(**settings)
    config.validate()
    return config


def detector_task(**settings: Any) -> FinalizeCharacterizationDetectorTask:
    return FinalizeCharacterizationDetectorTask(
        config=configure(FinalizeCharacterizationDetectorConfig(), **settings)
    )


def visit_task(**settings: Any) -> FinalizeCharacterizationTask:
    return FinalizeCharacterizationTask(config=configure(FinalizeCharacterizationConfig(), **settings))


def run_detector(
    inputs: Inputs, detector: int = 4, *, task: Any = None, detectors: tuple[int, ...] = (4,), **kwargs: Any
) -> Any:
    stars, sources = make_isolated(detectors)
    arguments: dict[str, Any] = {
        "visit": VISIT, "band": BAND, "detector": detector, "isolated_star_cat_dict": stars,
        "isolated_star_source_dict": sources, "src": inputs.src, "exposure": inputs.exposure,
    }  # fmt: skip
    return (task or detector_task()).run(**(arguments | kwargs))


def run_visit(inputs: dict[int, Inputs], *, task: Any = None, **kwargs: Any) -> Any:
    stars, sources = make_isolated(tuple(inputs))
    arguments: dict[str, Any] = {
        "visit": VISIT, "band": BAND, "isolated_star_cat_dict": stars, "isolated_star_source_dict": sources,
        "src_dict": {d: each.src for d, each in inputs.items()},
        "calexp_dict": {d: each.exposure for d, each in inputs.items()},
    }  # fmt: skip
    return (task or visit_task()).run(**(arguments | kwargs))


def assert_tables_equal(a: astropy.table.Table, b: astropy.table.Table) -> None:
    assert a.colnames == b.colnames
    for name in a.colnames:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def break_method(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(owner, name, fail)
