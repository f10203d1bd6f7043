"""Bringing calibrated single-visit images of a survey into a data repository."""

from __future__ import annotations

__all__ = (
    "IMAGE_TYPE",
    "PSF_TYPE",
    "AlreadyIngestedError",
    "IngestReport",
    "default_run",
    "ingest",
    "register_dataset_types",
)

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path

from lsst.daf.butler import Butler, DatasetType

from .base import InputFile, SurveyInstrument
from .files import InputFileError
from .records import detector_region, register_observation

_LOG = logging.getLogger(__name__)

IMAGE_TYPE = "postISRCCD"
PSF_TYPE = "survey_psf"


class AlreadyIngestedError(RuntimeError):
    """An image of the same visit and detector is in the repository already."""


@dataclasses.dataclass
class IngestReport:
    """What an ingest did: files that went in, and files whose visit and detector were there before."""

    ingested: list[InputFile] = dataclasses.field(default_factory=list)
    skipped: list[InputFile] = dataclasses.field(default_factory=list)


def default_run(instrument: SurveyInstrument) -> str:
    """Return the name of the collection images go to unless another is named."""
    return instrument.makeCollectionName("images")


def ingest(
    butler: Butler,
    instrument: SurveyInstrument,
    paths: Iterable[str | Path],
    *,
    run: str | None = None,
    fail_on_existing: bool = False,
    progress: Callable[[InputFile], None] | None = None,
) -> IngestReport:
    """Ingest images: their dimension records, pixels and survey PSFs.

    Each visit goes in whole or not at all.

    Parameters
    ----------
    butler
        Repository, open for writing.
    instrument
        What took the images; registered if it is not yet.
    paths
        Files and folders.
    run
        Collection to write to; by default ``<instrument>/images``.
    fail_on_existing
        Whether an image that is there already is an error instead of being skipped.
    progress
        Called before each file is read.

    Returns
    -------
    IngestReport
        What was done.

    Raises
    ------
    InputFileError
        Raised if a file is absent, broken or not what it should be, or if nothing is found.
    AlreadyIngestedError
        Raised for an image that is there already, if asked for.
    """
    folders = [Path(path) for path in paths]
    files = sorted(instrument.find(folders))
    if not files:
        where = ", ".join(map(str, folders)) or "no paths"
        raise InputFileError(where, f"no images of {instrument.name} were found.")
    run = run or default_run(instrument)
    instrument.register(butler.registry)
    register_dataset_types(butler)
    butler.collections.register(run)
    report = IngestReport()
    for _, group in itertools.groupby(files, key=attrgetter("visit")):
        visit = IngestReport()
        # Cached detector and filter records of a transaction that failed must not outlive it.
        with butler.registry.caching_context(), butler.transaction():
            for file in group:
                _ingest_file(butler, instrument, file, folders, run, fail_on_existing, visit, progress)
        report.ingested += visit.ingested
        report.skipped += visit.skipped
    return report


def _ingest_file(
    butler: Butler,
    instrument: SurveyInstrument,
    file: InputFile,
    folders: list[Path],
    run: str,
    fail_on_existing: bool,
    report: IngestReport,
    progress: Callable[[InputFile], None] | None,
) -> None:
    """Ingest one image inside the transaction of its visit."""
    where = _existing_run(butler, instrument, file)
    if where is not None:
        message = f"{file.path}: {file} is in collection {where} already; it was left as it is."
        if fail_on_existing:
            raise AlreadyIngestedError(message)
        _LOG.warning(message)
        report.skipped.append(file)
        return
    if progress is not None:
        progress(file)
    observation = instrument.read(file, folders)
    image = observation.image
    register_observation(butler, instrument, [image.obs_info], band=image.band, region=detector_region(image))
    data_id = {"instrument": instrument.name, "detector": file.detector}
    butler.put(image, IMAGE_TYPE, data_id | {"exposure": file.visit}, run=run)
    if observation.survey_psf is not None:
        butler.put(observation.survey_psf, PSF_TYPE, data_id | {"visit": file.visit}, run=run)
    report.ingested.append(file)


def register_dataset_types(butler: Butler) -> None:
    """Register what an image and a survey's PSF are stored as."""
    for name, observation, storage in (
        (IMAGE_TYPE, "exposure", "VisitImage"),
        (PSF_TYPE, "visit", "SurveyPsf"),
    ):
        dimensions = ("instrument", observation, "detector")
        butler.registry.registerDatasetType(
            DatasetType(name, dimensions, storage, universe=butler.dimensions)
        )


def _existing_run(butler: Butler, instrument: SurveyInstrument, file: InputFile) -> str | None:
    """Return the collection that holds the image of a file's visit and detector, or `None`."""
    refs = butler.query_datasets(
        IMAGE_TYPE,
        collections="*",
        find_first=False,
        instrument=instrument.name,
        exposure=file.visit,
        detector=file.detector,
        explain=False,
    )
    return refs[0].run if refs else None
