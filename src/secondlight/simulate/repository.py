"""A data repository that is ready for a scene to be simulated in it."""

from __future__ import annotations

__all__ = (
    "IMAGES_RUN",
    "OBJECTS_TYPE",
    "SCENE_RUN",
    "SCENE_TYPE",
    "SKY_MAP",
    "PreparedRepository",
    "missing_images",
    "prepare_repository",
    "stored_scene",
)

import dataclasses
from pathlib import Path

from astropy.table import Table
from lsst.daf.butler import Butler, DatasetRef, DatasetType

from ..instruments.ingest import IMAGE_TYPE, register_dataset_types
from ..instruments.records import register_observation
from ..instruments.reference_catalog import (
    REFERENCE_RUN,
    REFERENCE_TYPE,
    register_reference_catalog,
    store_reference_catalog,
)
from ..instruments.repository import open_or_make_repository
from ..instruments.sim_cam import SimCam
from ..sky.registration import register_sky_map
from ..sky.sky_map import RingsSkyMap, RingsSkyMapConfig
from .geometry import DetectorGeometry, check_footprint, nominal_geometry, tracts_of
from .objects import make_objects
from .observation_info import observation_info
from .reference_stars import make_reference_catalog
from .scene import Scene, SceneError
from .scene_parts import Visit

SCENE_TYPE = "sim_scene"
"""Dataset type of the scene, with dimensions (instrument)."""

OBJECTS_TYPE = "sim_objects"
"""Dataset type of the table of all objects of the scene, with dimensions (instrument)."""

SCENE_RUN = SimCam().makeCollectionName("scene")
"""RUN collection of the scene and its objects."""

IMAGES_RUN = SimCam().makeCollectionName("images")
"""RUN collection that the images and their truth go to."""

SKY_MAP = "secondlight_rings"
"""Name of the sky map."""

_STORAGE = {SCENE_TYPE: "SimScene", OBJECTS_TYPE: "ArrowAstropy"}


@dataclasses.dataclass(frozen=True)
class PreparedRepository:
    """What a repository is ready for.

    Parameters
    ----------
    is_new
        Whether the scene was not there before.
    visits, detectors
        Number of visits, and of detectors of the camera.
    """

    is_new: bool
    visits: int
    detectors: int


def prepare_repository(repository: Butler | str | Path, scene: Scene) -> PreparedRepository:
    """Put into a repository all that the simulation of a scene and the pipelines after it need.

    These are the dimension records of the camera, its visits and detectors, the sky map, the reference
    catalog, the scene, and its objects. A repository that holds the same scene stays as it is.

    Parameters
    ----------
    repository
        A repository open for writing, or its folder; made if it does not exist.
    scene
        The survey.

    Raises
    ------
    SceneError
        Raised, before anything is written, if a detector sees what is not simulated, or if the repository
        holds another scene, sky map or reference catalog.
    """
    check_footprint(scene)
    if isinstance(repository, Butler):
        is_new = _prepare(repository, scene)
    else:
        with open_or_make_repository(repository) as butler:
            is_new = _prepare(butler, scene)
    return PreparedRepository(is_new, visits=len(scene.visits), detectors=len(scene.camera.detectors))


def stored_scene(butler: Butler) -> Scene | None:
    """Return the scene that a repository holds, or `None`."""
    ref = _find(butler, SCENE_TYPE, SCENE_RUN, instrument=SimCam.name)
    return None if ref is None else butler.get(ref)


def missing_images(butler: Butler) -> int:
    """Return how many images of its scene a prepared repository does not have yet."""
    scene = stored_scene(butler)
    if scene is None:
        raise SceneError("The repository holds no scene.")
    wanted = len(scene.visits) * len(scene.camera.detectors) * scene.snaps
    return wanted - len(butler.query_datasets(IMAGE_TYPE, collections=IMAGES_RUN, explain=False))


def _prepare(butler: Butler, scene: Scene) -> bool:
    """Write what belongs to a scene and return `True`, unless it is there."""
    sky_map = RingsSkyMap(RingsSkyMapConfig(numRings=scene.field.num_rings))
    known = stored_scene(butler)
    if known is not None:
        _check_same(known, scene)
        return False
    _check_free(butler, sky_map)
    objects = make_objects(scene)
    reference = make_reference_catalog(scene, objects)
    geometries = {
        (visit, detector): nominal_geometry(scene, visit, detector)
        for visit in scene.visits
        for detector in scene.camera.detectors
    }
    tracts = scene.field.tracts or {tract for g in geometries.values() for tract in tracts_of(sky_map, g)}
    register_sky_map(sky_map, butler, SKY_MAP, tracts=tracts)
    _register(butler)
    # Cached records of a transaction that failed must not outlive it.
    with butler.registry.caching_context(), butler.transaction():
        _write_records(butler, scene, geometries)
        _write_datasets(butler, scene, objects)
        store_reference_catalog(butler, reference)
    return True


def _check_same(known: Scene, scene: Scene) -> None:
    """Raise `SceneError` unless two scenes are the same."""
    changed = [name for name in Scene.model_fields if getattr(known, name) != getattr(scene, name)]
    if changed:
        raise SceneError(
            f"The repository holds scene {known.name} already, and a repository holds one scene; scene "
            f"{scene.name} differs from it in {', '.join(changed)}. Simulate it in another repository."
        )


def _check_free(butler: Butler, sky_map: RingsSkyMap) -> None:
    """Raise `SceneError` if a repository holds something that a scene would clash with."""
    for record in butler.query_dimension_records("skymap", explain=False):
        if record.name == SKY_MAP and record.hash != sky_map.sha1:
            raise SceneError(
                f"The repository has a sky map {SKY_MAP} that is not the one the scene asks for "
                "(field.num_rings). Simulate in another repository, or change field.num_rings."
            )
    if _find(butler, REFERENCE_TYPE, REFERENCE_RUN) is not None:
        raise SceneError(
            f"The repository has the reference catalog of another survey in {REFERENCE_RUN}. Simulate in "
            "another repository."
        )


def _find(butler: Butler, name: str, run: str, **data_id: str) -> DatasetRef | None:
    """Return the reference to a dataset, or `None` if it or its type or collection is not there."""
    try:
        return butler.find_dataset(name, data_id, collections=run)
    except LookupError:
        return None


def _register(butler: Butler) -> None:
    """Register the camera, dataset types and collections, none of which a transaction can undo."""
    SimCam().register(butler.registry)
    register_dataset_types(butler)
    register_reference_catalog(butler)
    for name, storage in _STORAGE.items():
        dataset_type = DatasetType(name, ("instrument",), storage, universe=butler.dimensions)
        butler.registry.registerDatasetType(dataset_type)
    for run in (SCENE_RUN, IMAGES_RUN):
        butler.collections.register(run)


def _write_records(
    butler: Butler, scene: Scene, geometries: dict[tuple[Visit, int], DetectorGeometry]
) -> None:
    """Insert the dimension records of all visits and detectors."""
    camera = SimCam()
    for (visit, detector), geometry in geometries.items():
        exposures = [observation_info(scene, visit, detector, snap) for snap in range(scene.snaps)]
        register_observation(butler, camera, exposures, band=visit.band, region=geometry.region)


def _write_datasets(butler: Butler, scene: Scene, objects: Table) -> None:
    """Store the scene and its objects."""
    butler.put(objects, OBJECTS_TYPE, instrument=SimCam.name, run=SCENE_RUN)
    butler.put(scene, SCENE_TYPE, instrument=SimCam.name, run=SCENE_RUN)
