"""Colours, standard magnitudes and moments on the sky of the finalize-characterization tasks."""

from __future__ import annotations

from typing import Any

import astropy.table
import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import AltAz, SkyCoord
from astropy.utils import iers

from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.psf.evaluation import takes_color
from secondlight.psf.sky_moments import (
    alt_az_moments,
    parallactic_angle,
    pixel_to_sky_jacobian,
    sky_moments,
)
from secondlight.tasks.finalize_characterization import (
    FinalizeCharacterizationDetectorConfig,
    FinalizeCharacterizationDetectorTask,
)
from secondlight.tasks.finalize_characterization_visit import (
    FinalizeCharacterizationConfig,
)

from ..scenes import PIXEL_SCALE, make_sky_projection, make_visit_image
from .finalize_scenes import N, configure, detector_task, make_inputs, run_detector


def make_fgcm(src: SourceCatalog) -> dict[int, astropy.table.Table]:
    """Return standard stars: exact for all but the last source, and one 0.5 arcsec from the first."""
    ra, dec = np.degrees(src["coord_ra"][:-1]), np.degrees(src["coord_dec"][:-1])
    n = len(ra)
    near = astropy.table.Table(
        {"ra": ra, "dec": dec, "mag_g": 20.0 + np.arange(n), "mag_i": np.full(n, 19.0)}
    )
    off = astropy.table.Table(
        {"ra": [ra[0], np.nan], "dec": [dec[0] + 0.5 / 3600, 0.0], "mag_g": [99.0, 1.0], "mag_i": [0.0, 1.0]}
    )
    off["mag_r"] = 15.0
    return {1: near, 2: off}


def color_config(config: Any, **settings: Any) -> Any:
    config.psf_determiner["piff"].useColor = True
    config.psf_determiner["piff"].color = {"r": "g-i"}
    return configure(config, **settings)


def test_colors_come_from_the_nearest_standard_star() -> None:
    inputs = make_inputs()
    task = FinalizeCharacterizationDetectorTask(config=color_config(FinalizeCharacterizationDetectorConfig()))
    result = run_detector(inputs, task=task, fgcm_standard_star_dict=make_fgcm(inputs.src))
    table = result.output_table
    np.testing.assert_array_equal(table["psf_color_value"], np.float32([*np.arange(1, N), np.nan]))
    assert list(table["psf_color_type"]) == ["g-i"] * (N - 1) + [""]
    assert result.psf_ap_corr_cat.find(4).psf is not None


def test_standard_magnitudes() -> None:
    inputs = make_inputs()
    task = detector_task(do_add_fgcm_photometry=True, fgcmPhotometryBands=["g", "r"])
    table = run_detector(inputs, task=task, fgcm_standard_star_dict=make_fgcm(inputs.src)).output_table
    np.testing.assert_array_equal(table["fgcm_mag_g"], np.float32([*(20.0 + np.arange(N - 1)), np.nan]))
    assert np.isnan(table["fgcm_mag_r"]).all()
    assert table["fgcm_mag_g"].dtype == np.float32
    assert "fgcm_mag_i" not in table.colnames


def test_color_of_the_band_must_be_configured() -> None:
    inputs = make_inputs()
    task = FinalizeCharacterizationDetectorTask(config=color_config(FinalizeCharacterizationDetectorConfig()))
    with pytest.raises(ValueError, match="for band 'z'"):
        run_detector(inputs, task=task, band="z", fgcm_standard_star_dict=make_fgcm(inputs.src))
    with pytest.raises(ValueError, match="no FGCM standard stars"):
        run_detector(inputs, task=task)


def test_standard_stars_are_an_input_only_if_needed() -> None:
    plain = FinalizeCharacterizationConfig()
    assert "fgcm_standard_star" not in plain.connections.ConnectionsClass(config=plain).inputs
    colored = color_config(FinalizeCharacterizationConfig())
    assert "fgcm_standard_star" in colored.connections.ConnectionsClass(config=colored).inputs


def test_sky_moments_columns() -> None:
    inputs = make_inputs()
    table = run_detector(inputs, task=detector_task(do_add_sky_moments=True)).output_table
    for owner, slot in (("shape", "slot_Shape"), ("psfShape", "slot_PsfShape")):
        # North is up and east is left: x moments are moments along right ascension, xy changes sign.
        for axis, pixel, sign in (("Iuu", "xx", 1), ("Ivv", "yy", 1), ("Iuv", "xy", -1)):
            expected = sign * PIXEL_SCALE**2 * table[f"{slot}_{pixel}"]
            np.testing.assert_allclose(table[f"{owner}_{axis}"], expected, rtol=1e-4, atol=1e-5)
        trace = table[f"{owner}_Iuu"] + table[f"{owner}_Ivv"]
        np.testing.assert_allclose(table[f"{owner}_Ialtalt"] + table[f"{owner}_Iazaz"], trace, rtol=1e-5)
        assert table[f"{owner}_Iuu"].dtype == np.float32


def test_altitude_azimuth_moments_need_place_and_time(caplog: pytest.LogCaptureFixture) -> None:
    inputs = make_inputs()
    info = inputs.exposure.obs_info.model_copy(update={"location": None})
    inputs.exposure = replace_components(inputs.exposure, obs_info=info)
    table = run_detector(inputs, task=detector_task(do_add_sky_moments=True)).output_table
    assert np.isnan(table["shape_Ialtalt"]).all()
    assert np.isfinite(table["shape_Iuu"]).all()
    assert "no altitude-azimuth moments" in caplog.text


def test_jacobian_is_local() -> None:
    """East and north at the position itself, also far from the reference point and at high declination."""
    image = make_visit_image(width=40, height=40)
    projection = make_sky_projection(image.bbox, dec=80.0)
    x, y = np.array([-20000.0, 19.5, np.nan]), np.array([3000.0, 19.5, 1.0])
    jacobian = pixel_to_sky_jacobian(projection, x=x, y=y)
    here = projection.pixel_to_sky(x=x[:2], y=y[:2])
    there = projection.pixel_to_sky(x=x[:2] + 0.5, y=y[:2])
    east, north = here.spherical_offsets_to(there)
    np.testing.assert_allclose(jacobian[:2, 0, 0], 2 * east.arcsec, rtol=1e-3)
    np.testing.assert_allclose(jacobian[:2, 1, 0], 2 * north.arcsec, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(jacobian[1], np.diag([-PIXEL_SCALE, PIXEL_SCALE]), atol=1e-5)
    assert np.isnan(jacobian[2]).all()


def test_moments_turn_with_the_axes() -> None:
    moments = np.array([[4.0, 2.0, 0.5]])
    quarter = np.array([[[0.0, -0.2], [0.2, 0.0]]])
    np.testing.assert_allclose(sky_moments(quarter, moments), 0.04 * np.array([[2.0, 4.0, -0.5]]))
    invalid = np.array([[4.0, 2.0, 3.0], [-1.0, -2.0, 0.0], [np.nan, 1.0, 0.0]])
    assert np.isnan(sky_moments(np.repeat(quarter, 3, axis=0), invalid)).all()


def test_altitude_points_to_the_zenith() -> None:
    moments = np.array([[4.0, 2.0, 0.5]])
    # Zenith to the north: altitude is the declination direction, azimuth grows to the west.
    np.testing.assert_allclose(alt_az_moments(moments, 0.0), [[2.0, 4.0, -0.5]])
    # Zenith to the east: altitude is east, azimuth grows to the north.
    np.testing.assert_allclose(alt_az_moments(moments, np.pi / 2), [[4.0, 2.0, 0.5]], atol=1e-12)
    angle = 0.7
    result = alt_az_moments(moments, angle)[0]
    assert result[0] + result[1] == pytest.approx(6.0)
    assert result[0] * result[1] - result[2] ** 2 == pytest.approx(4.0 * 2.0 - 0.25)


def test_parallactic_angle() -> None:
    """The direction of the zenith, computed the long way round."""
    image = make_visit_image(width=40, height=40)
    info = image.obs_info
    time = info.datetime_begin + 0.5 * (info.datetime_end - info.datetime_begin)
    target = image.sky_projection.pixel_to_sky(x=19.5, y=19.5)
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("iers_degraded_accuracy", "ignore"):
        frame = AltAz(obstime=time, location=info.location)
        zenith = SkyCoord(alt=90 * u.deg, az=0 * u.deg, frame=frame).icrs
    expected = target.position_angle(zenith).wrap_at(180 * u.deg).rad
    # The simple formula neglects the motion of the pole since 2000, some 0.15 degrees, and aberration.
    assert parallactic_angle(image) == pytest.approx(expected, abs=0.01)


def test_stars_are_measured_with_the_psf_of_their_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs()
    task = FinalizeCharacterizationDetectorTask(config=color_config(FinalizeCharacterizationDetectorConfig()))
    seen = []
    run = SingleFrameMeasurementTask.run

    def spy(self: Any, sources: Any, exposure: Any, **kwargs: Any) -> Any:
        seen.append((exposure.psf, np.array(sources["psf_color_value"])))
        return run(self, sources, exposure, **kwargs)

    monkeypatch.setattr(SingleFrameMeasurementTask, "run", spy)
    result = run_detector(inputs, task=task, fgcm_standard_star_dict=make_fgcm(inputs.src))
    ((psf, colors),) = seen
    assert takes_color(psf)
    assert np.isfinite(colors).sum() == N - 1
    (record,) = result.psf_ap_corr_cat
    assert not takes_color(record.psf)
    flux = np.asarray(result.output_table["base_PsfFlux_instFlux"])
    assert np.isfinite(flux).all()
