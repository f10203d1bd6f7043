"""Numbers and pictures of a run, from small made-up tables."""

from __future__ import annotations

import io
from pathlib import Path

import astropy.table
import numpy as np
import pytest
from rich.console import Console

from secondlight.report.pictures import draw_visit
from secondlight.report.summary import (
    Repeatability,
    VisitNumbers,
    _band_repeatability,
    _size_residuals,
    _star_magnitudes,
    print_summary,
)

from ..scenes import make_visit_image


def test_repeatability_of_two_visits_is_the_scatter_of_one() -> None:
    """Differences from a mean of two are too small by sqrt(2); the number accounts for it."""
    rng = np.random.default_rng(5)
    truth = rng.uniform(16, 20, 4000)
    magnitudes = truth + rng.normal(0, 0.01, (2, 4000))
    assert _band_repeatability("r", magnitudes).scatter == pytest.approx(0.01, rel=0.05)


def test_stars_seen_once_do_not_count() -> None:
    magnitudes = np.array([[20.0, 19.0, np.nan], [20.02, np.nan, np.nan]])
    result = _band_repeatability("g", magnitudes)
    assert result.stars == 1
    none = _band_repeatability("g", magnitudes[:, 1:])
    assert none.stars == 0
    assert np.isnan(none.scatter)


def make_table() -> astropy.table.Table:
    n = 6
    table = astropy.table.Table()
    table["slot_Centroid_x"], table["slot_Centroid_y"] = np.linspace(20, 180, n), np.linspace(20, 160, n)
    table["slot_Shape_xx"], table["slot_Shape_yy"] = np.full(n, 4.4), np.full(n, 4.4)
    table["slot_Shape_xy"] = np.zeros(n)
    table["slot_PsfShape_xx"], table["slot_PsfShape_yy"] = np.full(n, 4.0), np.full(n, 4.0)
    for name in ("slot_Shape_flag", "slot_PsfShape_flag", "calib_psf_used", "calib_psf_reserved"):
        table[name] = np.zeros(n, bool)
    table["slot_Shape_flag"][0] = True
    table["calib_psf_used"][1] = True
    table["slot_Shape_xx"][5] = np.nan
    table["detect_isPrimary"] = True
    table["base_ClassificationExtendedness_value"] = [0.0, 1.0, 0.0, np.nan, 0.0, 1.0]
    table["slot_PsfFlux_mag"] = np.linspace(18, 22, n)
    return table


def test_size_residuals_skip_flagged_moments() -> None:
    residuals = _size_residuals(make_table()[:5])
    np.testing.assert_allclose(residuals, np.full(4, 0.1))


def test_picture_shows_every_measured_source(tmp_path: Path) -> None:
    figure = draw_visit(make_visit_image(x=[50], y=[60], flux=[1e4]), make_table())
    left, right = figure.axes
    assert sum(len(c.get_offsets()) for c in left.collections) == 4  # NaN class and NaN shape are not drawn
    assert len(right.lines[1].get_xdata()) == 1
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize("n", [0, 1])
def test_picture_of_next_to_nothing(n: int) -> None:
    """No source, one source, and a variance plane that is zero or not a number, still make a picture."""
    image = make_visit_image()
    image.variance.array[...] = 0.0 if n else np.nan
    figure = draw_visit(image, make_table()[2 : 2 + n])
    figure.canvas.draw()
    low, high = figure.axes[1].get_xlim()
    assert low < high


def test_no_stars_have_no_median() -> None:
    """Held-out stars may all be flagged."""
    table = make_table()
    table["slot_Shape_flag"] = True
    assert len(_size_residuals(table)) == 0


def test_summary_is_printed_for_images_without_held_out_stars() -> None:
    numbers = VisitNumbers(100, 4, "r", 0, 27.0, 2.0, 0, 0, np.nan, np.nan, np.nan, np.nan)
    console = Console(width=160, record=True, file=io.StringIO())
    print_summary([numbers], [Repeatability("r", 0, np.nan)], console=console)
    assert "nan" in console.export_text()


def test_only_good_primary_measurements_of_a_star_count() -> None:
    table = astropy.table.Table()
    n = 5
    table["coord_ra"], table["coord_dec"] = np.radians(np.full(n, 150.0)), np.radians(np.arange(n) * 0.01)
    table["base_PsfFlux_flux"] = np.array([3631.0e9, 3631.0e9, 3631.0e9, np.nan, -5.0])
    table["base_PsfFlux_fluxErr"] = 1.0
    table["base_PsfFlux_flag"] = np.arange(n) == 1
    table["base_PixelFlags_flag_saturated"] = False
    table["base_PixelFlags_flag_interpolatedCenter"] = False
    table["detect_isPrimary"] = np.arange(n) != 2
    ra, dec = np.degrees(table["coord_ra"]), np.degrees(table["coord_dec"])
    magnitudes = _star_magnitudes(table, np.asarray(ra), np.asarray(dec), 100.0, 0.5)
    assert magnitudes[0] == pytest.approx(0.0, abs=1e-3)
    assert np.isnan(magnitudes[1:]).all()
