"""Backgrounds know their unit, and how their parts add up."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from lsst.images import BackgroundMap, Box
from lsst.images.fields import ChebyshevField

from secondlight.background.fields import (
    combine_backgrounds,
    make_background,
    render_background,
    render_fields,
    sky_level,
    subtracted_field,
    with_unit,
)

BOX = Box.factory[4:64, 5:85]


def field(level: float, unit: u.UnitBase | None = None) -> ChebyshevField:
    return ChebyshevField(BOX, level * np.array([[1.0, 0.1], [0.02, 0.0]]), unit=unit)


def test_fields_are_rounded_and_their_sum_is_not() -> None:
    parts = [make_background(field(level)) for level in (1000.0, 0.37)]
    both = combine_backgrounds(*parts)
    rounded = [render_background(part, BOX) for part in parts]
    total = render_fields(both, BOX)
    assert total.dtype == np.float64
    np.testing.assert_array_equal(total, rounded[0].astype(np.float64) + rounded[1])
    assert (total != render_background(both, BOX)).any()
    np.testing.assert_array_equal(render_fields(parts[0], BOX), rounded[0])


def test_unit_of_the_result() -> None:
    background = make_background(field(3.0, u.uJy))
    np.testing.assert_allclose(
        render_fields(background, BOX, unit=u.nJy), 1000 * render_background(background, BOX).astype(float)
    )
    plain = make_background(field(3.0))
    np.testing.assert_array_equal(render_fields(plain, BOX, unit=u.adu), render_fields(plain, BOX))
    with pytest.raises(u.UnitConversionError):
        render_fields(background, BOX, unit=u.adu)


def test_a_background_without_unit_gets_one() -> None:
    plain = BackgroundMap()
    plain.add("subtracted", field(3.0), "sky", is_subtracted=True)
    known = with_unit(plain, u.adu)
    assert subtracted_field(known).unit == u.adu
    assert known.subtracted is not None
    assert known.subtracted.description == "sky"
    assert subtracted_field(plain).unit is None
    np.testing.assert_array_equal(render_background(known, BOX), render_background(plain, BOX))
    assert with_unit(known, u.nJy) is known
    total = subtracted_field(combine_backgrounds(known, plain))
    assert total.unit == u.adu


def test_an_only_field_is_marked_as_subtracted() -> None:
    only = BackgroundMap()
    only.add("polynomial", field(3.0, u.adu))
    assert only.subtracted is None
    marked = with_unit(only, u.adu).subtracted
    assert marked is not None
    assert marked.field.unit == u.adu


def test_sky_level_in_a_unit() -> None:
    both = combine_backgrounds(make_background(field(3.0, u.uJy)), make_background(field(20.0, u.uJy)))
    assert sky_level(both, unit=u.nJy) == pytest.approx(1000 * sky_level(both))
    assert sky_level(make_background(field(3.0)), unit=u.nJy) == sky_level(make_background(field(3.0)))


def test_backgrounds_in_different_units() -> None:
    mixed = combine_backgrounds(make_background(field(3.0, u.uJy)), make_background(field(500.0, u.nJy)))
    np.testing.assert_allclose(
        render_fields(mixed, BOX, unit=u.nJy), field(3500.0).render(BOX).array, rtol=1e-6
    )
