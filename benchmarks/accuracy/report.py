"""The numbers as tables to read."""

from __future__ import annotations

__all__ = ("kind_of_flux", "tables", "write_report")

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import metrics
from .numbers import Number, Sense
from .run import SystemNumbers

_AXES = {
    "mag": "by magnitude",
    "snr": "by signal-to-noise ratio",
    "size": "by half-light radius over that of the PSF",
    "crowding": "by crowding (contamination by neighbours)",
}

_OVERVIEW = {
    "stars found, S/N > 10": "completeness.stars.snr_above_10",
    "galaxies found, S/N > 10": "completeness.galaxies.snr_above_10",
    "isolated stars found, S/N > 10, 12 pixels from the edge": "completeness.stars.inside.isolated",
    "blended objects found, S/N > 10": "completeness.all.crowding_blended",
    "half of the stars found at limiting magnitude plus": "depth.half_found",
    "sources that are real": "purity.all",
    "not at the edge": "purity.inside.all",
    "not at the edge, measured S/N 10 to 20": "purity.inside.snr_10_20",
    "not at the edge, measured S/N 7 to 8": "purity.inside.snr_7_8",
    "not at the edge, measured S/N 5 to 6": "purity.inside.snr_5_6",
    "sources on nothing": "purity.false_elsewhere",
    "position of isolated stars, scatter": "centroid.x.scatter.stars.isolated.all",
    "position of isolated stars, pull width": "centroid.x.pull_width.stars.isolated.all",
    "PSF flux of isolated stars, offset": "flux.psf.bias.stars.isolated.all",
    "PSF flux of isolated stars, scatter": "flux.psf.scatter.stars.isolated.all",
    "PSF flux of isolated stars, pull width": "flux.psf.pull_width.stars.isolated.all",
    "PSF flux of blended stars, offset": "flux.psf.bias.stars.blended.all",
    "PSF flux of blended stars, scatter": "flux.psf.scatter.stars.blended.all",
    "6 pixel aperture of isolated stars, offset": "flux.aperture_6.bias.stars.isolated.all",
    "6 pixel aperture of isolated galaxies, offset": "flux.aperture_6.bias.galaxies.isolated.all",
    "6 pixel aperture of isolated galaxies, pull width": "flux.aperture_6.pull_width.galaxies.isolated.all",
    "size of the PSF, median error": "psf.final.random.size.bias",
    "size of the PSF, scatter": "psf.final.random.size.scatter",
    "ellipticity e1 of the PSF, scatter": "psf.final.random.e1.scatter",
    "ellipticity e2 of the PSF, scatter": "psf.final.random.e2.scatter",
    "background, median error": "background.bias_sigma",
    "background, scatter": "background.scatter_sigma",
    "stars called stars, S/N > 20": "classification.extendedness.stars_found.snr_above_20",
    "galaxies called galaxies, S/N > 20": "classification.extendedness.galaxies_found.snr_above_20",
    **{
        f"{what} of isolated stars between visits, {band}, S/N > 100": f"repeatability.{band}.{key}"
        for band in "gri"
        for what, key in (
            ("scatter", "mag"),
            ("scatter expected from errors", "mag_expected"),
            ("scatter beyond errors", "mag_excess"),
        )
    },
    "scatter of g - r of stars beyond errors": "colors.g_r.excess",
    "scatter of r - i of stars beyond errors": "colors.r_i.excess",
    "cosmic rays of 4 pixels or more found": "cosmic_rays.large_hits_found",
    "bright stars harmed by false cosmic rays": "cosmic_rays.stars_harmed",
    "zero points, scatter": "zero_point.scatter",
    "zero points, largest error": "zero_point.largest",
}
"""What the first table shows; names of fluxes as of `kind_of_flux`."""


def kind_of_flux(column: str) -> str:
    """Return a name that the same kind of flux has for all systems."""
    if column == "base_PsfFlux":
        return "psf"
    aperture = re.fullmatch(r"base_CircularApertureFlux_(\d+)_(\d+)", column)
    return f"aperture_{'_'.join(aperture.groups()).removesuffix('_0')}" if aperture else column


def write_report(path: Path, systems: Mapping[str, SystemNumbers], *, scene: str) -> None:
    """Write all tables as Markdown."""
    path.write_text("\n".join(tables(systems, scene=scene)) + "\n")


def tables(systems: Mapping[str, SystemNumbers], *, scene: str) -> Iterator[str]:
    """Yield the lines of the report."""
    yield f"# Accuracy on scene {scene}"
    yield ""
    counts = ", ".join(f"{system} on {one.images} images" for system, one in systems.items())
    yield f"Measured by {counts}. After ± are standard errors; numbers of objects are in brackets."
    yield from _overview(systems)
    for subject in metrics.SUBJECTS:
        parts = {name: one.subjects[subject] for name, one in systems.items() if one.subjects.get(subject)}
        if not parts:
            continue
        yield from ("", f"## {subject.replace('_', ' ').capitalize()}", "")
        yield inspect.cleandoc(metrics.__dict__[subject].__doc__ or "")
        for system, numbers in parts.items():
            if len(systems) > 1:
                yield from ("", f"### {system}")
            yield from _overall([number for number in numbers if number.bin is None])
            for axis, title in _AXES.items():
                binned = [number for number in numbers if number.bin and number.bin.axis == axis]
                if binned:
                    yield from ("", f"{subject.replace('_', ' ').capitalize()} {title}:", "")
                    yield from _binned(binned)


def _overview(systems: Mapping[str, SystemNumbers]) -> Iterator[str]:
    """Yield a table of the most telling numbers with a column per system."""
    columns = {
        system: {_common_key(number): number for values in one.subjects.values() for number in values}
        for system, one in systems.items()
    }
    rows = []
    for title, key in _OVERVIEW.items():
        found = [numbers.get(key) for numbers in columns.values()]
        if known := [number for number in found if number is not None]:
            unit = f" ({known[0].unit})" if known[0].unit else ""
            cells = ["" if number is None else _value(number) for number in found]
            rows.append([title + unit, *cells, _ideal(known[0])])
    if rows:
        yield from _markdown(["", *columns, "should be"], rows)


def _common_key(number: Number) -> str:
    """Return the key of a number with the common name of its flux."""
    first, *rest = number.key.split(".")
    return ".".join([first, kind_of_flux(rest[0]), *rest[1:]]) if first == "flux" else number.key


def _overall(numbers: Sequence[Number]) -> Iterator[str]:
    if not numbers:
        return
    yield from _markdown(
        ["number", "value", "should be"],
        [[number.key, f"{_value(number)} ({number.n})", _ideal(number)] for number in numbers],
    )


def _ideal(number: Number) -> str:
    match number.sense:
        case Sense.TARGET:
            return f"{number.target:g}"
        case Sense.NONE:
            return ""
        case _:
            return str(number.sense)


def _binned(numbers: Sequence[Number]) -> Iterator[str]:
    """Yield a table with a row per series and a column per bin."""
    bins = sorted({number.bin for number in numbers if number.bin}, key=lambda interval: interval.low)
    rows: dict[str, dict[object, Number]] = {}
    for number in numbers:
        assert number.bin is not None
        rows.setdefault(series(number), {})[number.bin] = number
    cells = [
        [name, *(_value(row[interval]) if interval in row else "" for interval in bins)]
        for name, row in rows.items()
    ]
    yield from _markdown(["", *(interval.title for interval in bins)], cells)


def series(number: Number) -> str:
    """Return the key of a number without its bin, and with its unit."""
    key = number.key.rpartition(".")[0]
    return f"{key} ({number.unit})" if number.unit else key


def _value(number: Number) -> str:
    """Return a value with as many digits as its error has two significant ones of."""
    if number.error is None:
        return f"{number.value:.3g}"
    if number.error == 0:
        return f"{number.value:.4g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(number.error)))
    return f"{number.value:.{digits}f} ± {number.error:.{digits}f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield "| " + " | ".join(header) + " |"
    yield "| " + " | ".join(["---", *["---:"] * (len(header) - 1)]) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
