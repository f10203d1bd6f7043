"""Sky maps in a data repository: dimension records and the stored map."""

from __future__ import annotations

__all__ = ("SKY_MAP_COLLECTION", "SKY_MAP_DATASET_TYPE", "register_sky_map")

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
    sky_map: RingsSkyMap, butler: Butler, name: str, *, patches_of: Iterable[int] = ()
) -> None:
    """Insert the skymap, tract and patch records of a map and store the map itself.

    May be called again, to add the patches of more tracts: what is there already stays.

    Parameters
    ----------
    sky_map
        The map.
    butler
        A writeable client of the repository.
    name
        Name of the map in the repository.
    patches_of
        Tracts whose patches are registered too. A map of the whole sky has about a million patches, few of
        which ever have data; give ``range(len(sky_map))`` for all of a small map.

    Raises
    ------
    ValueError
        Raised if a different map has that name already.
    IndexError
        Raised if the map has no tract of a number in ``patches_of``.
    """
    with_patches = [sky_map[i] for i in sorted(set(patches_of))]
    with butler.transaction():
        if _insert_sky_map(sky_map, butler, name):
            tracts = (_tract_record(name, sky_map[i]) for i in range(len(sky_map)))
            butler.registry.insertDimensionData("tract", *tracts)
        for tract in with_patches:
            records = _patch_records(name, tract)
            butler.registry.insertDimensionData("patch", *records, skip_existing=True)
    _store(sky_map, butler, name)


def _insert_sky_map(sky_map: RingsSkyMap, butler: Butler, name: str) -> bool:
    """Insert the record of the map itself; tell whether it is new."""
    for record in butler.query_dimension_records("skymap", explain=False):
        if record.name == name and record.hash != sky_map.sha1:
            raise ValueError(
                f"The repository has a different sky map named {name!r} already: expected hash "
                f"{sky_map.sha1.hex()}, found {record.hash.hex()}. Choose another name."
            )
        if record.name == name:
            return False
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
    return True


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
