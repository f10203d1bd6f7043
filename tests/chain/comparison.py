"""Whether the outputs of two runs are the same to the last bit, but for what names the run itself.

What names it are the ids of datasets and quanta, the list of inputs that the middleware writes beside them
(it is sorted by id), and the dates when the parts of a FITS file were written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import astropy.io.fits
import pyarrow.parquet as pq
from lsst.daf.butler import Butler, DatasetRef

_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def differences(repository: Path, reference: Path, run: str, reference_run: str | None = None) -> list[str]:
    """Return in words how the outputs of a run in a repository differ from those of a run in another.

    Of what describes the processes of a run it is enough that it can be read.
    """
    with Butler.from_config(str(repository)) as ours, Butler.from_config(str(reference)) as theirs:
        found = {_key(ref): ref for ref in outputs(ours, run)}
        expected = {_key(ref): ref for ref in outputs(theirs, reference_run or run)}
        said = [f"{key} is missing" for key in sorted(expected.keys() - found.keys())]
        said += [f"{key} is unexpected" for key in sorted(found.keys() - expected.keys())]
        for key in sorted(found.keys() & expected.keys()):
            if not ours.stored(found[key]):
                said.append(f"{key} has no file")
            elif describes_processes(found[key]):
                ours.get(found[key])
            elif not same_content(path_of(ours, found[key]), path_of(theirs, expected[key])):
                said.append(f"{key} differs")
        return said


def outputs(butler: Butler, run: str) -> Iterator[DatasetRef]:
    """Yield what the registry knows of a run, whether there is a file or not."""
    for dataset_type in butler.registry.queryDatasetTypes():
        yield from butler.query_datasets(dataset_type, collections=run, explain=False, limit=None)


def path_of(butler: Butler, ref: DatasetRef) -> Path:
    return Path(butler.getURI(ref).ospath)


def describes_processes(ref: DatasetRef) -> bool:
    """Return whether a dataset is a log, or tells the times of a task or the packages that were imported."""
    return ref.datasetType.name.endswith(("_log", "_metadata", "packages"))


def same_content(file: Path, other: Path) -> bool:
    """Return whether two files have the same data and metadata."""
    parts = {".fits": _parts_of_fits, ".parq": _parts_of_parquet}.get(file.suffix, _whole)
    return list(parts(file)) == list(parts(other))


def _whole(file: Path) -> Iterator[Any]:
    yield _ID.sub("", file.read_bytes().decode("latin-1"))


def _parts_of_fits(file: Path) -> Iterator[Any]:
    content = file.read_bytes()
    with astropy.io.fits.open(file, disable_image_compression=True, memmap=False) as hdus:
        for hdu in hdus:
            # The values of cards, for long ones are cut into several.
            cards = [card for card in hdu.header.cards if card.keyword != "DATE"]
            cards = [card for card in cards if not card.keyword.startswith("LSST BUTLER")]
            yield [(card.keyword, _ID.sub("", str(card.value))) for card in cards]
            info = hdu.fileinfo()
            data = content[info["datLoc"] : info["datLoc"] + info["datSpan"]]
            yield list(_documents(data)) if hdu.name == "JSON" else data


def _documents(data: bytes) -> Iterator[Any]:
    """Yield the JSON documents in a table of them, and the bytes around them."""
    decoder, text, end = json.JSONDecoder(), _ID.sub("", data.decode("latin-1")), 0
    while (start := text.find('{"', end)) >= 0:
        yield text[end:start]
        tree, end = decoder.raw_decode(text, start)
        yield _without_run(tree)
    yield text[end:]


def _parts_of_parquet(file: Path) -> Iterator[Any]:
    content = file.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    yield content[:-footer]
    schema = pq.read_schema(file)
    yield [(field.name, field.type, field.metadata) for field in schema]
    for key, value in sorted((schema.metadata or {}).items()):
        text = _ID.sub("", value.decode())
        try:
            yield key, _without_run(json.loads(text))
        except ValueError:
            yield key, [line for line in text.splitlines() if "BUTLER" not in line]


def _without_run(tree: Any) -> Any:
    """Return JSON without what the middleware says about the run."""
    if isinstance(tree, dict):
        kept = {key: value for key, value in tree.items() if "butler" not in key.lower()}
        return {key: _without_run(value) for key, value in kept.items()}
    return [_without_run(value) for value in tree] if isinstance(tree, list) else tree


def _key(ref: DatasetRef) -> str:
    return f"{ref.datasetType.name} of {', '.join(map(str, ref.dataId.required_values))}"
