"""A repository in which everything is done that comes before the two tasks."""

from __future__ import annotations

__all__ = ("FINALIZE", "INPUTS", "REPROCESS", "TASKS", "VISIT_RUN", "prepare")

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from lsst.daf.butler import Butler, DatasetType
from rich.console import Console

from secondlight.catalog.visit_summary import VisitSummary
from secondlight.cli.pipeline import run_pipeline
from secondlight.cli.simulate import prepare as prepare_scene
from secondlight.cli.simulate import simulate_images
from secondlight.instruments.sim_cam import SimCam
from secondlight.simulate.repository import IMAGES_RUN, SCENE_RUN, SKY_MAP
from secondlight.simulate.scene import load_scene
from secondlight.sky.matching import match_nearest

FINALIZE = "finalizeCharacterizationDetector"
REPROCESS = "reprocessVisitImage"
TASKS = (FINALIZE, REPROCESS)

ISOLATED_RUN, VISIT_RUN = "bill/isolated", "bill/visit"
_FIRST, _FINAL = "bill/first", "bill/final"
_OTHERS = f"{IMAGES_RUN},{SCENE_RUN},skymaps,refcats"

INPUTS = {
    FINALIZE: f"{ISOLATED_RUN},{_FIRST},{_OTHERS}",
    REPROCESS: f"{VISIT_RUN},{_FINAL},{_FIRST},{_OTHERS}",
}
"""Comma-separated input collections by task."""

_PIPELINE = "sim/secondlight"
_MIDDLE = f"{FINALIZE},consolidateFinalizeCharacterizationDetector,updateVisitSummary"
_ISOLATED = 1e-2
_MATCH_ARCSEC = 0.2


def prepare(root: Path, scene: str, *, detectors: int, console: Console) -> None:
    """Simulate a scene and run all up to the final visit summary, unless the repository has that.

    Parameters
    ----------
    root
        Folder of the repository.
    scene
        Name of the scene, of one visit and one detector.
    detectors
        Number of detectors of the camera that the visit is made out to be taken with: the visit summary and
        the table of stars hold copies of what the one detector has.
    console
        Where to print.

    Raises
    ------
    RuntimeError
        Raised if a step fails.
    """
    prepare_scene(root, load_scene(scene), say=console.print)
    if simulate_images(root, processes=1, log_level="WARNING"):
        raise RuntimeError(f"Scene {scene} could not be simulated.")
    with Butler.from_config(str(root), writeable=True) as butler:
        if VISIT_RUN in butler.collections.query("*"):
            console.print(f"Using the inputs that are in {root}.")
            return
        _run(root, "first_pass", _OTHERS, _FIRST)
        butler.registry.refresh()
        _put_isolated_stars(butler)
        _run(root, _MIDDLE, INPUTS[FINALIZE], _FINAL)
        butler.registry.refresh()
        _put_large_visit(butler, detectors)


def _run(root: Path, subset: str, inputs: str, output: str) -> None:
    code = run_pipeline(
        str(root),
        pipeline=f"{_PIPELINE}#{subset}",
        inputs=inputs,
        output=output,
        where=f"instrument='{SimCam.name}' AND skymap='{SKY_MAP}'",
        log_level="WARNING",
    )
    if code:
        raise RuntimeError(f"The pipeline {_PIPELINE}#{subset} ended with code {code}.")


def _put(
    butler: Butler, run: str, name: str, value: Any, dimensions: tuple[str, ...], **data_id: Any
) -> None:
    storage = "VisitSummary" if isinstance(value, VisitSummary) else "ArrowAstropy"
    butler.registry.registerDatasetType(DatasetType(name, dimensions, storage, universe=butler.dimensions))
    butler.put(value, name, run=run, instrument=SimCam.name, **data_id)


def _put_isolated_stars(butler: Butler) -> None:
    """Store stars that are isolated in truth, which stand for those that several visits would have found."""
    ((visit, detector, band),) = _detectors(butler)
    truth = butler.get(
        "sim_truth", collections=IMAGES_RUN, instrument=SimCam.name, visit=visit, detector=detector
    )
    sources = butler.get("src", collections=_FIRST, instrument=SimCam.name, visit=visit, detector=detector)
    alone = truth["is_star"] & ~truth["saturated"] & (np.abs(truth["contamination"]) < _ISOLATED)
    whole = np.flatnonzero(sources["detect_isPrimary"])
    ra, dec = (np.degrees(sources[f"coord_{axis}"][whole]) for axis in ("ra", "dec"))
    nearest = match_nearest(
        np.asarray(truth["ra"][alone]), np.asarray(truth["dec"][alone]), ra, dec, _MATCH_ARCSEC
    )
    ids = np.unique(sources["id"][whole[nearest[nearest >= 0]]])
    rows = np.arange(len(ids), dtype=np.int32)
    stars = Table({"isolated_star_id": ids, f"nsource_{band}": np.ones_like(rows)})
    stars[f"source_cat_index_{band}"] = rows
    seen = Table({"sourceId": ids, "obj_index": rows})
    seen["visit"], seen["detector"] = np.int64(visit), np.int16(detector)
    tract = min(
        data_id["tract"]
        for data_id in butler.query_data_ids(
            ["tract"], instrument=SimCam.name, visit=visit, skymap=SKY_MAP, explain=False
        )
    )
    where = {"tract": tract, "skymap": SKY_MAP}
    dimensions = ("instrument", "skymap", "tract")
    butler.collections.register(ISOLATED_RUN)
    _put(butler, ISOLATED_RUN, "isolated_star_presource_associations", stars, dimensions, **where)
    _put(butler, ISOLATED_RUN, "isolated_star_presources", seen, dimensions, **where)


def _put_large_visit(butler: Butler, detectors: int) -> None:
    """Store what is read for a whole visit as if it had been taken with many detectors."""
    ((visit, _, _),) = _detectors(butler)
    data_id = {"instrument": SimCam.name, "visit": visit}
    summary = butler.get("finalVisitSummary", data_id, collections=_FINAL)
    stars = butler.get("finalized_src_table", data_id, collections=_FINAL)
    (record,) = summary
    large = VisitSummary(
        visit,
        [dataclasses.replace(record, detector=number) for number in range(detectors)],
        instrument=summary.instrument,
        band=summary.band,
        physical_filter=summary.physical_filter,
        comment=summary.comment,
    )
    tables = []
    for number in range(detectors):
        tables.append(stars.copy())
        tables[-1]["detector"] = number
    butler.collections.register(VISIT_RUN)
    _put(butler, VISIT_RUN, "finalVisitSummary", large, ("instrument", "visit"), visit=visit)
    _put(butler, VISIT_RUN, "finalized_src_table", vstack(tables), ("instrument", "visit"), visit=visit)


def _detectors(butler: Butler) -> list[tuple[int, int, str]]:
    """Return visit, detector and band of every image."""
    refs = butler.query_datasets("src", collections=_FIRST, explain=False)
    return [(ref.dataId["visit"], ref.dataId["detector"], ref.dataId["band"]) for ref in refs]
