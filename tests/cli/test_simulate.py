"""``secondlight simulate`` and ``secondlight demo`` as a user types them, up to where the work begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from lsst.daf.butler import Butler

from secondlight.cli import demo, pipeline
from secondlight.cli.main import cli
from secondlight.cli.simulate import ready_scenes
from secondlight.simulate.scene import load_scene

SMALL = ("--set", "stars.faint=19", "--set", "galaxies.faint=19")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def error_of(*arguments: str | Path) -> str:
    """Run a command that fails, and return what it says after ``Error:``: one line."""
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code != 0
    message = result.output.partition("Error: ")[2].strip()
    assert message
    assert "\n" not in message
    return message


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Pipelines that were started; they do nothing."""
    calls: list[dict[str, object]] = []

    def run_pipeline(repository: str, **settings: object) -> int:
        calls.append({"repository": repository} | settings)
        return 0

    monkeypatch.setattr(pipeline, "run_pipeline", run_pipeline)
    monkeypatch.setattr(demo, "run_pipeline", run_pipeline)
    return calls


def test_list():
    result = run("simulate", "--list")
    assert result.exit_code == 0
    assert "tiny         For tests: two visits of one band" in result.output
    assert len(result.output.splitlines()) == len(ready_scenes())


def test_every_scene_says_what_it_is():
    for name, about in ready_scenes().items():
        assert about.endswith("."), name
        assert load_scene(name).name == name


def test_a_prepared_repository(tmp_path, started):
    root = tmp_path / "repo"
    result = run("simulate", root, "--scene", "tiny", *SMALL, "-j", "3")
    assert result.exit_code == 0, result.output
    assert "Scene tiny: 2 visits, 2 detectors; the repository is ready." in result.output
    (call,) = started
    assert call["repository"] == str(root)
    assert (call["pipeline"], call["inputs"], call["output"]) == ("simulate", "SimCam/scene", "SimCam/images")
    assert call["processes"] == 3
    with Butler.from_config(str(root)) as butler:
        scene = butler.get("sim_scene", instrument="SimCam", collections="SimCam/scene")
    assert scene.stars.faint == 19
    again = run("simulate", root, "--scene", "tiny", *SMALL)
    assert "it was in the repository already" in again.output
    assert "holds a simulated scene" in error_of("demo", root, "--data", tmp_path)
    assert "differs from it in seed" in error_of(
        "simulate", root, "--scene", "tiny", *SMALL, "--set", "seed=3"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--scene", "nowhere"], "There is no scene 'nowhere'; there are ccd, "),
        (["--scene", "nowhere.yaml"], "no scene file nowhere.yaml"),
        (["--scene", "tiny", "--set", "stars.densty=3"], "stars.densty"),
        (["--scene", "tiny", "--set", "seed"], "Expected KEY=VALUE, found 'seed'"),
        (["--scene", "tiny", "--set", "seed=["], "'seed=[' is not YAML"),
        (["--scene", "tiny", "--set", "field.radius=0.01"], "field.radius"),
        ([], "--scene"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, started, arguments, text):
    assert text in error_of("simulate", tmp_path / "repo", *arguments)
    assert not (tmp_path / "repo").exists()
    assert not started


def test_a_scene_file_that_is_not_yaml(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: [1\nseed: 3\n")
    assert "mine.yaml is not YAML" in error_of("simulate", tmp_path / "repo", "--scene", file)


def test_demo_takes_one_kind_of_images(tmp_path, started):
    assert "not both" in error_of("demo", tmp_path / "repo", "--data", tmp_path, "--scene", "tiny")
    assert "no scene 'nowhere'" in error_of("demo", tmp_path / "repo", "--scene", "nowhere")
    missing = tmp_path / "missing"
    assert f"no folder {missing}" in error_of("demo", tmp_path / "repo", "--data", missing)
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize("illumination", [0.0, 0.05])
def test_demo_simulates_and_runs_the_chain(tmp_path, monkeypatch, started, illumination):
    monkeypatch.setattr(demo, "_sum_up", lambda *_: None)
    settings = {"stars.faint": 19, "galaxies.faint": 19, "sky.illumination": illumination}
    file = tmp_path / "mine.yaml"
    file.write_text(load_scene("tiny", settings=settings).model_dump_json())
    result = run("demo", tmp_path / "repo", "--scene", file, "-j", "2")
    assert result.exit_code == 0, result.output
    simulation, chain = started
    assert simulation["pipeline"] == "simulate"
    assert chain["pipeline"] == "sim/secondlight"
    assert chain["inputs"] == "SimCam/images,skymaps,refcats"
    assert "instrument='SimCam'" in str(chain["where"])
    assert ("reprocessVisitImage:do_apply_flat_background_ratio=True" in chain["extra"]) is (illumination > 0)


def test_a_folder_that_only_looks_like_a_repository(tmp_path):
    (tmp_path / "butler.yaml").write_text("datastore: {}\n")
    message = error_of("simulate", tmp_path, "--scene", "tiny", *SMALL)
    assert "database of the repository cannot be used: no such table" in message
