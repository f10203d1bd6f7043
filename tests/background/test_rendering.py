"""Fields over whole images equal what the fields themselves say."""

from __future__ import annotations

import numpy as np
import pytest
from lsst.images import Box
from lsst.images.fields import ChebyshevField, Field, SplineField, SumField

from secondlight.background.fields import make_background, render_background
from secondlight.background.splines import fit_spline

BBOX = Box.factory[-30:670, 15:215]


def _spline(nx: int, ny: int, *, holes: bool = False) -> SplineField:
    values = 500 + 20 * np.random.default_rng(nx).normal(size=(ny, nx))
    if holes:
        values[:, 1] = np.nan
        values[2, 3] = values[1:, 4] = np.nan
    x, y = 15 + (np.arange(nx) + 0.5) * 200 / nx - 0.5, -30 + (np.arange(ny) + 0.5) * 700 / ny - 0.5
    return SplineField(BBOX, values, y=y, x=x)


def _chebyshev(ny: int, nx: int) -> ChebyshevField:
    return ChebyshevField(BBOX, np.random.default_rng(ny).normal(size=(ny, nx)) * 100)


@pytest.mark.parametrize(
    "field",
    [
        _spline(8, 7),
        _spline(8, 7, holes=True),
        _spline(1, 1),
        _spline(1, 6),
        _spline(2, 1),
        _spline(3, 4),
        fit_spline(
            BBOX, np.arange(6.0).reshape(2, 3), y=np.array([100.0, 400.0]), x=np.array([30.0, 90, 150]),
            style="CONSTANT",
        ),
        _chebyshev(1, 1),
        _chebyshev(4, 7),
        SumField([_spline(8, 7), _chebyshev(3, 3)]),
        _chebyshev(2, 3) * 2.0,
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", [BBOX, Box.factory[400:660, 100:110]])
def test_pixels_equal_the_field(field: Field, part: Box) -> None:
    expected = field.render(part, dtype=np.float64).array
    rendered = render_background(make_background(field), part)
    np.testing.assert_allclose(rendered, expected, rtol=2e-7, atol=1e-4)  # single precision of each operand


def test_a_field_of_nothing_is_refused() -> None:
    empty = SplineField(BBOX, np.full((3, 3), np.nan), y=np.arange(3.0), x=np.arange(3.0))
    with pytest.raises(ValueError, match="single finite value"):
        render_background(make_background(empty), BBOX)
