from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks.accuracy.compare import changes, print_changes
from benchmarks.accuracy.metrics import all_numbers, all_samples
from benchmarks.accuracy.numbers import Bin, Number, Sense, fraction, median, width
from benchmarks.accuracy.plots import draw_plots
from benchmarks.accuracy.report import write_report
from benchmarks.accuracy.results import read_results, write_results
from benchmarks.accuracy.run import SystemNumbers
from rich.console import Console

from .scenes import gaussian_psf, make_image


def test_errors_of_estimates_are_their_scatter() -> None:
    rng = np.random.default_rng(1)
    samples = 3.0 + 2.0 * rng.standard_normal((400, 200))
    for estimate, expected in ((median, 3.0), (width, 2.0)):
        numbers = [estimate("key", values)[0] for values in samples]
        values = np.array([number.value for number in numbers])
        assert np.mean(values) == pytest.approx(expected, abs=0.05)
        assert np.mean([number.error for number in numbers]) == pytest.approx(np.std(values), rel=0.15)


def test_too_few_values_give_nothing() -> None:
    few = np.array([1.0, 2.0, 3.0, np.nan, np.nan, np.nan])
    assert median("key", few) == []
    assert width("key", few) == []
    assert fraction("key", np.ones(4, dtype=bool), sense=Sense.LARGER) == []


def test_an_error_of_a_fraction_is_never_zero() -> None:
    (number,) = fraction("key", np.ones(50, dtype=bool), sense=Sense.LARGER)
    assert number.value == 1.0
    assert 0 < (number.error or 0) < 0.05


def number(value: float, sense: Sense, error: float | None = 0.1, target: float = 0.0) -> Number:
    return Number("key", value, 10, error, sense, target)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (number(1.0, Sense.SMALLER), number(0.5, Sense.SMALLER), "better"),
        (number(0.5, Sense.LARGER), number(0.9, Sense.LARGER), "better"),
        (number(-0.5, Sense.TARGET), number(0.2, Sense.TARGET), "better"),
        (number(0.7, Sense.TARGET, target=1.0), number(1.6, Sense.TARGET, target=1.0), "worse"),
        (number(1.0, Sense.SMALLER), number(1.1, Sense.SMALLER), "same"),
        (number(-0.5, Sense.TARGET), number(0.5, Sense.TARGET), "same"),
        (number(1.0, Sense.NONE), number(9.0, Sense.NONE), "same"),
        (number(1.0, Sense.SMALLER, None), number(1.0, Sense.SMALLER, None), "same"),
        (number(1.0, Sense.SMALLER, None), number(1.01, Sense.SMALLER, None), "same"),
        (number(1.0, Sense.SMALLER, None), number(1.05, Sense.SMALLER, None), "worse"),
    ],
)
def test_better_and_worse(old: Number, new: Number, verdict: str) -> None:
    better, worse = changes({"key": old}, {"key": new})
    assert (len(better), len(worse)) == {"better": (1, 0), "worse": (0, 1), "same": (0, 0)}[verdict]


def test_numbers_survive_the_file(tmp_path: Path) -> None:
    numbers = [
        Number("a", 1.25, 7, 0.5, Sense.TARGET, 1.0, "mmag", Bin("size", 2.0, math.inf)),
        Number("b", -3.0, 7, None, Sense.SMALLER),
    ]
    path = tmp_path / "summary.json"
    write_results(path, {"us": SystemNumbers(3, {"psf": numbers})}, scene="tiny", command="run")
    results = read_results(path)
    assert results.scene == "tiny"
    assert list(results.numbers.values()) == [dataclasses.replace(n, key=f"us.{n.key}") for n in numbers]


@pytest.mark.parametrize("text", ["nothing", "[]", '{"format": 99}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        read_results(path)


def test_everything_is_written(tmp_path: Path) -> None:
    image = make_image(psf=gaussian_psf(), background=np.full((2000, 2000), 100.0))
    one = SystemNumbers(1, all_numbers([all_samples(image)]), cpu_seconds=1.5)
    systems = {"us": one, "them": one}
    for k in range(2):
        write_results(tmp_path / f"{k}.json", systems, scene="tiny", command="run")
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    write_report(tmp_path / "tables.md", systems, scene="tiny")
    text = (tmp_path / "tables.md").read_text()
    assert "| flux.psf.bias.stars.isolated.all |" in text
    assert "by magnitude" in text
    assert "| PSF flux of isolated stars, scatter (mmag) |" in text
    assert "nan" not in text
    plots = draw_plots(tmp_path, systems)
    assert {"completeness.png", "centroids.png", "flux_psf.png"} <= {path.name for path in plots}
    assert all(path.stat().st_size > 2000 for path in plots)


def test_the_comparison_is_printed() -> None:
    out = io.StringIO()
    old = {"key": number(1.0, Sense.SMALLER), "gone": number(1.0, Sense.SMALLER)}
    print_changes(old, {"key": number(0.1, Sense.SMALLER)}, console=Console(file=out, width=120))
    assert "Better: 1" in out.getvalue()
    assert "1 numbers are gone: gone" in out.getvalue()
