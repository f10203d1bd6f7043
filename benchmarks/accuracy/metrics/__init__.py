"""One file per subject; each turns images into samples, and the samples of all images into numbers."""

from __future__ import annotations

__all__ = ("SUBJECTS", "all_numbers", "all_samples")

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from astropy.table import Table, vstack

from ..matching import Image
from ..numbers import Number
from . import (
    aperture_corrections,
    background,
    centroids,
    classification,
    colors,
    completeness,
    cosmic_rays,
    depth,
    fluxes,
    psf,
    purity,
    repeatability,
    sky_objects,
    summary_statistics,
    zero_points,
)


class Subject(NamedTuple):
    """One thing that is looked at.

    Attributes
    ----------
    sample
        Takes an image, returns a table with plain columns.
    numbers
        Takes the stacked tables of all images, returns the results.
    """

    sample: Callable[[Image], Table]
    numbers: Callable[[Table], list[Number]]


SUBJECTS: dict[str, Subject] = {
    module.__name__.rpartition(".")[2]: Subject(module.sample, module.numbers)
    for module in (
        completeness,
        depth,
        purity,
        centroids,
        zero_points,
        fluxes,
        psf,
        aperture_corrections,
        background,
        classification,
        repeatability,
        colors,
        summary_statistics,
        cosmic_rays,
        sky_objects,
    )
}
"""All subjects, in the order in which they are reported."""


def all_samples(image: Image) -> dict[str, Table]:
    """Return the sample of every subject of one image; small against the image."""
    return {name: subject.sample(image) for name, subject in SUBJECTS.items()}


def all_numbers(samples: Iterable[Mapping[str, Table]]) -> dict[str, list[Number]]:
    """Return the numbers of every subject from the samples of all images."""
    samples = list(samples)
    result = {}
    for name, subject in SUBJECTS.items():
        tables = [sample[name] for sample in samples if len(sample[name])]
        if tables:
            result[name] = subject.numbers(vstack(tables, metadata_conflicts="silent"))
    return result
