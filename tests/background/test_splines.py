from __future__ import annotations

import numpy as np
import pytest
from lsst.images import Box
from scipy.interpolate import Akima1DInterpolator, CubicSpline

from secondlight.background.splines import fit_spline, reduced_style

BBOX = Box.factory[40:140, 10:190]


def _cells(nx: int, ny: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = 10 + (np.arange(nx) + 0.5) * 180 / nx - 0.5
    y = 40 + (np.arange(ny) + 0.5) * 100 / ny - 0.5
    return x, y, 1000 + np.random.default_rng(nx).normal(size=(ny, nx))


def _natural(node: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    spline = CubicSpline(node, values, bc_type="natural")
    inside = np.clip(at, node[0], node[-1])
    beyond = (at - inside).reshape(-1, *[1] * (values.ndim - 1))
    return spline(inside) + spline(inside, 1) * beyond


def _linear(node: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    inside = np.array([np.interp(at, node, column) for column in values.T]).T
    low, high = at < node[0], at > node[-1]
    start = (values[1] - values[0]) / (node[1] - node[0])
    stop = (values[-1] - values[-2]) / (node[-1] - node[-2])
    inside[low] = values[0] + start * (at[low] - node[0])[:, None]
    inside[high] = values[-1] + stop * (at[high] - node[-1])[:, None]
    return inside


def _nearest(node: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    return values[np.argmin(np.abs(at[:, None] - node - 1e-9), axis=1)]


@pytest.mark.parametrize(
    ("style", "twin", "shape"),
    [
        ("NATURAL_SPLINE", _natural, (4, 3)),
        ("NATURAL_SPLINE", _natural, (7, 6)),
        ("AKIMA_SPLINE", _natural, (4, 3)),
        ("LINEAR", _linear, (6, 5)),
        ("AKIMA_SPLINE", _linear, (2, 2)),
        ("CONSTANT", _nearest, (7, 5)),
    ],
)
def test_styles_equal_direct_evaluation(style: str, twin: object, shape: tuple[int, int]) -> None:
    assert callable(twin)
    x, y, values = _cells(*shape)
    field = fit_spline(BBOX, values, y=y, x=x, style=style)
    columns = twin(y, values, BBOX.y.arange.astype(float))
    expected = twin(x, columns.T, BBOX.x.arange.astype(float)).T
    difference = np.abs(field.render(BBOX, dtype=np.float64).array - expected)
    # Where a curve happens to be straight over a segment, rounding decides between two slopes.
    assert np.mean(difference < 1e-5) > 0.99
    assert difference.max() < 1e-3


def test_akima_is_plain_between_the_centres() -> None:
    x, y, values = _cells(7, 6)
    field = fit_spline(BBOX, values, y=y, x=x, style="AKIMA_SPLINE")
    columns = Akima1DInterpolator(y, values)(np.arange(50, 130.0))
    expected = Akima1DInterpolator(x, columns.T)(np.arange(30, 170.0)).T
    part = Box.factory[50:130, 30:170]
    np.testing.assert_allclose(field.render(part, dtype=np.float64).array, expected, rtol=1e-12)


@pytest.mark.parametrize("style", ["AKIMA_SPLINE", "NATURAL_SPLINE", "LINEAR", "CONSTANT"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (2, 3), (6, 1), (8, 8)])
def test_constant_cells_give_a_constant(style: str, shape: tuple[int, int]) -> None:
    x, y, _ = _cells(*shape)
    values = np.full((shape[1], shape[0]), 42.0)
    if shape == (8, 8):
        values[2:4, 3] = np.nan
        values[:, 6] = np.nan
    field = fit_spline(BBOX, values, y=y, x=x, style=style)
    np.testing.assert_allclose(field.render(BBOX, dtype=np.float64).array, 42.0, rtol=1e-9)


@pytest.mark.parametrize("style", ["AKIMA_SPLINE", "NATURAL_SPLINE", "LINEAR"])
def test_missing_cells_do_not_bend_a_plane(style: str) -> None:
    x, y, _ = _cells(7, 6)
    plane = 3 * x + 2 * y[:, None]
    plane[0, 2] = plane[3, 3] = np.nan
    plane[:, 5] = np.nan
    field = fit_spline(BBOX, plane, y=y, x=x, style=style)
    expected = 3 * BBOX.x.arange + 2 * BBOX.y.arange[:, None]
    np.testing.assert_allclose(field.render(BBOX, dtype=np.float64).array, expected, rtol=1e-6)


def test_reduction_rules() -> None:
    reduced = [reduced_style("AKIMA_SPLINE", n) for n in range(1, 7)]
    assert reduced == ["CONSTANT", "LINEAR", *["NATURAL_SPLINE"] * 2, *["AKIMA_SPLINE"] * 2]
    assert reduced_style("LINEAR", 9) == "LINEAR"
