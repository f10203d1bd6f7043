"""Sky maps in a data repository: dimension records and the stored map."""

from __future__ import annotations

__all__ = ("SKY_MAP_COLLECTION", "SKY_MAP_DATASET_TYPE", "register_sky_map", "tracts_of_visits")

from collections.abc import Iterable
from typing import Any

from lsst.daf.butler import Butler, DatasetType

from .sky_map import RingsSkyMap
from .tract import Tract

SKY_MAP_COLLECTION = "skymaps"
"""RUN collection of all sky maps."""

SKY_MAP_DATASET_TYPE = "skyMap"
"""Dataset type of a sky map, with dimensions (skymap)."""


def register_sky_map(
    sky_map: RingsSkyMap,
    butler: Butler,
    name: str,
    *,
    tracts: Iterable[int] | None = None,
    patches_of: Iterable[int] = (),
) -> None:
    """Insert the skymap, tract and patch records of a map and store the map itself.

    May be called again, to add more tracts and patches: what is there already stays.

    Parameters
    ----------
    sky_map
        The map.
    butler
        A writeable client of the repository.
    name
        Name of the map in the repository.
    tracts
        Tracts to register; all of them by default.  The registry relates every tract to the small pixels
        of the sky it overlaps: all 18938 of a map with 120 rings take 280 MB, the few under some images
        almost nothing (`tracts_of_visits` names those).
    patches_of
        Tracts whose patches are registered too; such a tract need not be in ``tracts``.

    Raises
    ------
    ValueError
        Raised if a different map has that name already.
    IndexError
        Raised if the map has no tract of a number in ``tracts`` or ``patches_of``.
    """
    with_patches = [sky_map[i] for i in sorted(set(patches_of))]
    wanted = range(len(sky_map)) if tracts is None else sorted({*tracts, *(t.id for t in with_patches)})
    known = {r.id for r in butler.query_dimension_records("tract", skymap=name, explain=False)}
    records = [_tract_record(name, sky_map[i]) for i in wanted if i not in known]
    with butler.transaction():
        _insert_sky_map(sky_map, butler, name)
        butler.registry.insertDimensionData("tract", *records)
        for tract in with_patches:
            butler.registry.insertDimensionData("patch", *_patch_records(name, tract), skip_existing=True)
    _store(sky_map, butler, name)


def tracts_of_visits(sky_map: RingsSkyMap, butler: Butler) -> list[int]:
    """Return the tracts that overlap the visits of a repository, ascending; none if there is no visit yet.

    Parameters
    ----------
    sky_map
        The map.
    butler
        Client of the repository.
    """
    visits = butler.query_dimension_records("visit", explain=False)
    return sky_map.find_overlapping(record.region for record in visits if record.region is not None)


def _insert_sky_map(sky_map: RingsSkyMap, butler: Butler, name: str) -> None:
    """Insert the record of the map itself unless it is there."""
    for record in butler.query_dimension_records("skymap", explain=False):
        if record.name == name and record.hash != sky_map.sha1:
            raise ValueError(
                f"The repository has a different sky map named {name!r} already: expected hash "
                f"{sky_map.sha1.hex()}, found {record.hash.hex()}. Choose another name."
            )
        if record.name == name:
            return
    n_x, n_y = sky_map.n_patches
    butler.registry.insertDimensionData(
        "skymap",
        {
            "name": name,
            "hash": sky_map.sha1,
            "tract_max": len(sky_map),
            "patch_nx_max": n_x,
            "patch_ny_max": n_y,
        },
    )


def _tract_record(name: str, tract: Tract) -> dict[str, Any]:
    return {"skymap": name, "id": tract.id, "region": tract.outer_polygon}


def _patch_records(name: str, tract: Tract) -> Iterable[dict[str, Any]]:
    for patch in tract.patches():
        yield {
            "skymap": name,
            "tract": tract.id,
            "id": patch.id,
            "cell_x": patch.x,
            "cell_y": patch.y,
            "region": patch.outer_polygon,
        }


def _store(sky_map: RingsSkyMap, butler: Butler, name: str) -> None:
    """Store the map as a dataset unless it is there."""
    dataset_type = DatasetType(SKY_MAP_DATASET_TYPE, ["skymap"], "RingsSkyMap", universe=butler.dimensions)
    butler.registry.registerDatasetType(dataset_type)
    butler.collections.register(SKY_MAP_COLLECTION)
    if butler.find_dataset(dataset_type, skymap=name, collections=SKY_MAP_COLLECTION) is None:
        butler.put(sky_map, dataset_type, skymap=name, run=SKY_MAP_COLLECTION)
