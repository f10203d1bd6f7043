from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import astropy.units as u
import pytest

from secondlight.photometry.electronics import electronics_of


def make_image(*amplifiers: tuple[str, float, float] | str, unit: u.UnitBase = u.adu, **metadata: Any) -> Any:
    """Stand in for an image: amplifiers are names with nominal read noise and gain, or names alone."""
    listed = []
    for amplifier in amplifiers:
        if isinstance(amplifier, str):
            listed.append(SimpleNamespace(name=amplifier, nominal_calibrations=None))
        else:
            name, read_noise, gain = amplifier
            nominal = SimpleNamespace(read_noise=read_noise, gain=gain)
            listed.append(SimpleNamespace(name=name, nominal_calibrations=nominal))
    return SimpleNamespace(detector=SimpleNamespace(amplifiers=listed), metadata=metadata, unit=unit)


def test_nominal_values_of_amplifiers() -> None:
    image = make_image(("C00", 8.0, 1.0), ("C01", 10.0, 2.0), "C02", GAIN=7.0)
    assert electronics_of(image) == (9.0, 1.5)


def test_metadata_of_amplifiers_come_first() -> None:
    image = make_image(("C00", 8.0, 1.0), ("C01", 10.0, 2.0))
    image.metadata |= {"LSST ISR GAIN C00": 4.0, "LSST ISR READNOISE C01": 12, "LSST ISR GAIN C01": math.nan}
    assert electronics_of(image) == (10.0, 3.0)


def test_electrons_have_unit_gain() -> None:
    image = make_image(("C00", 8.0, 1.7))
    image.metadata["LSST ISR UNITS"] = "electron"
    assert electronics_of(image) == (8.0, 1.0)
    assert electronics_of(make_image(unit=u.electron)).gain == 1.0


def test_numbers_of_a_whole_image() -> None:
    assert electronics_of(make_image(GAIN=4.0, READ_NOISE=6.0)) == (6.0, 4.0)
    assert electronics_of(make_image(GAIN=4.0, DARK_VARIANCE=2.25)) == (6.0, 4.0)
    assert electronics_of(make_image(GAIN=4.0, DARK_VARIANCE=-1.0)) == (0.0, 4.0)


@pytest.mark.parametrize("image", [make_image(), make_image("C00"), make_image(GAIN="about 2")])
def test_unknown(image: Any) -> None:
    assert all(math.isnan(value) for value in electronics_of(image))
