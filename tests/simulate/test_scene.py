"""Scenes are checked before any work starts, and what is wrong is said in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secondlight.simulate.scene import Scene, SceneError, load_scene

SCENES = ("tiny", "demo", "ccd", "ccd-dense", "ccd-crowded", "survey")


@pytest.mark.parametrize("name", SCENES)
def test_scene_of_the_package(name: str) -> None:
    scene = load_scene(name)
    assert scene.name == name
    assert Scene.model_validate_json(scene.model_dump_json()) == scene


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stars.density": 0}, "stars.density is 0: without stars there is no PSF"),
        ({"electronics.full_well": 500}, "Visit 1001: the sky is 1.* but pixels saturate at 500"),
        ({"galaxies.density": -3}, r"galaxies.density: .* greater than or equal to 0 \(it is -3\)"),
        ({"stars.density": -1}, r"stars.density: .* greater than or equal to 0 \(it is -1\)"),
        ({"stars.bright": 27}, "stars.bright = 27.0 must be below stars.faint = 26.5"),
        ({"reference_band": "z"}, "Band 'z' is not described; there are r"),
        ({"visits": []}, "visits: .* at least 1 item"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"camera.width": "wide"}, r"camera.width: .* \(it is 'wide'\)"),
        ({"seed.of": 3}, "seed.of cannot be set: seed is a value"),
        ({"snaps": 3}, "snaps: Input should be 1 or 2"),
        ({"field.dec": float("nan")}, "field.dec"),
        ({"stars.bright": float("nan")}, "stars.bright: Input should be a finite number"),
        ({"psf.color_slope": float("inf")}, "psf.color_slope: "),
        ({"psf.atmosphere_shear": 0.6}, r"psf.atmosphere_shear: .* less than or equal to 0.1 \(it is 0.6\)"),
        ({"field.tracts": []}, "field.tracts: .* at least 1 item"),
        ({"bands": {"g": {"zero_point": 28, "sky": 22}}}, "Band 'r' is not described; there are g"),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SceneError, match=message):
        load_scene("tiny", settings=settings)


def test_what_is_wrong_in_a_visit_is_all_that_is_said() -> None:
    visit = dict(load_scene("tiny").visits[0]) | {"airmass": 0.9}
    with pytest.raises(SceneError) as caught:
        load_scene("tiny", settings={"visits": [visit]})
    expected = "visits.0.airmass: Input should be greater than or equal to 1 (it is 0.9)"
    assert str(caught.value) == f"scene tiny: {expected}"


def test_visits_need_room_for_their_snaps() -> None:
    visits = [dict(load_scene("tiny").visits[0]) | {"id": visit} for visit in (5, 6)]
    assert len(load_scene("tiny", settings={"visits": visits}).visits) == 2
    with pytest.raises(SceneError, match="Visits 5 and 6: ids must differ"):
        load_scene("tiny", settings={"visits": visits, "snaps": 2})


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="There is no scene 'huge'; there are ccd, ccd-crowded"):
        load_scene("huge")
    with pytest.raises(SceneError, match="There is no scene file"):
        load_scene(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(SceneError, match=r"broken.yaml is not YAML"):
        load_scene(broken)
    broken.write_bytes(b"name: \xff")
    with pytest.raises(SceneError, match=r"broken.yaml is not YAML"):
        load_scene(broken)
    broken.write_text("- 1")
    with pytest.raises(SceneError, match="must be a mapping"):
        load_scene(broken)
    with pytest.raises(SceneError, match="has no visit 7"):
        load_scene("tiny").visit(7)
    with pytest.raises(SceneError, match="has no detector 2; its camera has 2"):
        load_scene("tiny").check_detector(2)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nfield: {ra: 10, dec: 5, radius: 0.1}\ncamera: {width: 300, height: 200}\n"
        "bands: {r: {zero_point: 28, sky: 21}}\n"
        "visits:\n  - {id: 3, band: r, ra: 10, dec: 5, seeing: 1, mjd: 60000}\n"
    )
    scene = load_scene(path, settings={"electronics.gain": 2.0})
    assert scene.electronics.gain == 2.0
    assert list(scene.camera.detectors) == [0]


def test_numbers_of_a_visit() -> None:
    scene = load_scene(
        "tiny",
        settings={
            "bands": {"r": {"zero_point": 28.0, "sky": 21.0, "extinction": 0.1}},
            "electronics.gain": 2.0,
            "camera.pixel_scale": 0.5,
        },
    )
    visit = scene.visits[0].model_copy(
        update={"airmass": 1.0, "clouds": 0.05, "sky_excess": 0.0, "exposure_time": 10.0}
    )
    # A source of magnitude 28 + 2.5 - 0.15 gives one electron in ten seconds, so half a count.
    assert scene.zero_point(visit) == pytest.approx(28.0 + 2.5 - 0.15 - 0.752575, abs=1e-5)
    assert scene.sky_electrons(visit) == pytest.approx(10 ** (0.4 * 7.0) * 0.25 * 10)
    assert scene.sky_noise(visit) == pytest.approx((scene.sky_electrons(visit) + 49) ** 0.5)


def test_detectors_fill_the_camera() -> None:
    camera = load_scene("demo").camera
    centers = [camera.center(detector) for detector in camera.detectors]
    assert centers == [(-532.0, -532.0), (532.0, -532.0), (-532.0, 532.0), (532.0, 532.0)]
    assert camera.corner_radius == pytest.approx(1044 * 2**0.5)
